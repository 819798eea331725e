"""``python -m alma_hook`` as a person meets it: what it prints, and what it refuses."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Before the first import of Airflow, which else writes its configuration into the home folder.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

from alma_hook import __main__ as command_line
from alma_hook.resources import include

Said = Callable[..., tuple[int, str]]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "campus.toml"
    path.write_text(include("campus.toml").read_text().replace("01CAMPUS_INST", "01OURS_INST"))
    return path


@pytest.fixture
def said(settings: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """``said("migrate", "--ledger", ...)``: the exit status, and all that was printed."""

    def run(*arguments: str) -> tuple[int, str]:
        # What is given last holds.
        status = command_line.main([arguments[0], "--settings", str(settings), *arguments[1:]])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out + printed.err

    return run


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def test_a_ledger_is_made_and_opened_once(said: Said, ledger: str) -> None:
    assert said("migrate", "--ledger", ledger)[0] == 0
    assert said("open", "--begin-clean", "--ledger", ledger) == (0, "The ledger of 01OURS_INST is open.\n")
    status, text = said("open", "--begin-clean", "--ledger", ledger)
    assert status == 1
    assert f"by {getpass.getuser()}; opening is done once" in text


def test_the_template_s_institution_is_not_opened(said: Said, settings: Path, ledger: str) -> None:
    settings.write_text(include("campus.toml").read_text())
    said("migrate", "--ledger", ledger)
    status, text = said("open", "--begin-clean", "--ledger", ledger)
    assert status == 1
    assert "campus.toml, institution: 01CAMPUS_INST is only the template's; put your own code" in text


def test_the_template_holds_the_placeholder() -> None:
    assert f'institution = "{command_line.PLACEHOLDER}"' in include("campus.toml").read_text()


def test_the_settings_that_were_given_are_named(said: Said, settings: Path, ledger: str) -> None:
    other = settings.with_name("other.toml")
    other.write_text(include("campus.toml").read_text())
    said("migrate", "--ledger", ledger)
    status, text = said("open", "--begin-clean", "--ledger", ledger, "--settings", str(other))
    assert (status, "other.toml, institution: " in text) == (1, True)


@pytest.mark.parametrize("place", ["campus.toml", "campus.toml/below"])
def test_init_where_nothing_can_be_written_says_so(
    settings: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    assert command_line.main(["init", str(settings.parent / place)]) == 1
    said = capsys.readouterr().err
    assert "was not written: Not a directory. Name a folder" in said


def test_a_packet_for_a_folder_that_is_not_there_says_so(said: Said, tmp_path: Path) -> None:
    output = tmp_path / "nowhere" / "packet.html"
    status, text = said("packet", "--output", str(output))
    assert (status, text) == (1, f"Fatal: {output} was not written: No such file or directory.\n")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("batches", "--state", "sent"), "(choose from "),
        (("batches", "--newest", "x"), "--newest: 'x' is no whole number above 0"),
        (("batches", "--newest", "0"), "--newest: '0' is no whole number above 0"),
        (("shadow-report", "--since", "2026-06-31"), "--since: '2026-06-31' is no day such as 2026-11-22"),
        (("assign", "one", "138"), "payment: 'one' is no whole number above 0"),
    ],
)
def test_a_slip_in_the_command_is_told_in_plain_words(
    said: Said, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit):
        said(*command)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("open", "--begin-clean"),
        ("exceptions",),
        ("explain", "138412345678"),
        ("resolve", "1", "--reason", "paid by cheque"),
        ("mark-delivered", "000001"),
        ("batches",),
        ("mark-not-delivered", "000001"),
    ],
)
def test_a_slip_in_the_ledgers_address_makes_no_file(
    said: Said, tmp_path: Path, command: tuple[str, ...]
) -> None:
    mistyped = tmp_path / "legder.db"
    status, text = said(*command, "--ledger", f"sqlite:///{mistyped}")
    assert status == 1
    assert f"There is no ledger at sqlite:///{mistyped}." in text
    assert not mistyped.exists()


def test_an_address_that_is_none_is_told_without_it(said: Said) -> None:
    status, text = said("migrate", "--ledger", "login:swordfish@db/ledger")
    assert status == 1
    assert text.startswith("SettingsError: The ledger's address can't be used.")
    assert "swordfish" not in text


def test_a_missing_driver_is_told(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    status, text = said("migrate", "--ledger", "postgresql://ledger@127.0.0.1/ledger")
    assert status == 1
    assert "pip install 'psycopg[binary]'" in text


def test_a_missing_connection_is_told(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_ALMA_LEDGER", raising=False)
    status, text = said("migrate")
    assert status == 1
    assert "An Airflow connection is missing.\n  connection, alma_ledger: create it" in text


def test_a_connection_of_the_environment_is_taken(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tmp_path / "ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_ALMA_LEDGER", f'{{"conn_type": "sqlite", "host": "{host}"}}')
    assert said("migrate")[0] == 0
    assert host.exists()
