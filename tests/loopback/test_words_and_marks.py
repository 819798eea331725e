"""What a person tells a ledger is told the newest one: the marks in a real SFTP server's archive and in Airflow's variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alma_hook import __main__ as command_line
from alma_hook.ledger import Ledger, institutions
from simulator.campus import Campus
from simulator.sftp import SftpServer
from tests.bridge import SETTINGS
from tests.loopback.conftest import Connect, sftp_fields

# Airflow says so where its task SDK is imported too, as in this process.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using Connection.get_connection_from_secrets:DeprecationWarning"
)

MARK = json.dumps({"mark": "0123456789abcdef", "at": "2026-11-23T08:00:00.000Z"})
OURS = [
    ("void", "000001", "--reason", "x"),
    ("assign", "1", "1381234567890123"),
    ("resolve", "0123456789ab", "--reason", "x"),
    ("mark-delivered", "000001"),
    ("mark-not-delivered", "000001"),
    ("refuse", "000001", "--reason", "x"),
    ("release", "000001", "--digest", "0123456789ab", "--reason", "x"),
]


@pytest.fixture
def settings(sftp: SftpServer, connect: Connect, tmp_path: Path) -> Path:
    connect("sfs_sftp", **sftp_fields(sftp))
    connect("alma_ledger", conn_type="sqlite", host=str(tmp_path / "ledger.db"))
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", "01CAMPUS_INST", run_id="setup")
    ledger.migrate()
    with ledger.write() as tx:
        institutions.open_clean(tx, "the bursar")
    ledger.close()
    file = tmp_path / "campus.toml"
    file.write_text(SETTINGS.format(report_path="/shared/Fees", layout="default"))
    return file


@pytest.mark.parametrize("command", OURS, ids=lambda command: command[0])
@pytest.mark.parametrize("place", ["nowhere", "archive", "variable"])
def test_a_ledger_whose_marks_are_a_newer_one_s_is_told_nothing(
    settings: Path,
    campus: Campus,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    command: tuple[str, ...],
) -> None:
    if place == "archive":
        campus.path("/sfs/archive/ledger_01CAMPUS_INST.mark").write_text(MARK)
    if place == "variable":
        monkeypatch.setenv("AIRFLOW_VAR_ALMA_HOOK_MARK_01CAMPUS_INST", MARK)
    assert command_line.main([*command, "--settings", str(settings)]) == 1
    # With the right ledger each is refused, too: there is nothing of the kind.
    said = capsys.readouterr().err
    assert ("holds a mark that this ledger never put" in said) == (place != "nowhere")
    assert {
        "archive": "/sfs/archive/ledger_01CAMPUS_INST.mark",
        "variable": "alma_hook_mark_01CAMPUS_INST",
    }.get(place, "") in said
