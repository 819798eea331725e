"""`python -m alma_hook check-campus` over real HTTP and real SFTP: all that is wrong in one go."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from alma_hook import __main__ as command_line
from alma_hook import campus_check
from alma_hook.ledger import Ledger
from simulator.alma_api import FULL_KEY
from simulator.alma_http import AlmaServer
from simulator.campus import Campus
from simulator.sftp import SftpServer
from tests.bridge import SETTINGS
from tests.loopback.conftest import Connect, sftp_fields


@pytest.fixture
def settings(
    alma: AlmaServer,
    sftp: SftpServer,
    campus: Campus,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A campus's settings, and every connection that they name."""
    monkeypatch.setattr(campus_check, "_SECONDS", 0)
    connect("alma_default", conn_type="alma", host=alma.url, password=FULL_KEY.value)
    connect("sfs_sftp", **sftp_fields(sftp))
    connect("alma_ledger", conn_type="sqlite", host=str(tmp_path / "ledger.db"))
    with_ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", "01CAMPUS_INST", run_id="setup")
    with_ledger.migrate()
    with_ledger.close()
    file = tmp_path / "campus.toml"
    text = SETTINGS.format(report_path=campus.analytics.path, layout="default")
    file.write_text(text.replace("live = true", "live = false"))
    campus.refresh_analytics()
    return file


def said(settings: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    ledger = f"sqlite:///{settings.parent / 'ledger.db'}"
    with suppress(SystemExit):
        command_line.main(["check-campus", "--settings", str(settings), "--ledger", ledger])
        return 0, capsys.readouterr().out
    return 1, capsys.readouterr().out


def test_a_campus_that_is_right(settings: Path, campus: Campus, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = said(settings, capsys)
    assert (status, "WRONG" in text) == (0, False), text
    for part in (
        "Alma answers for 01CAMPUS_INST", "host key SHA256:", "takes a file and lets it alone", "lets a file be renamed",
        "nothing in it matches *.csv", "right for dry runs", "No dry run yet",
    ):  # fmt: skip
        assert part in text
    assert text.endswith(" to put right\n")
    left = [path.name for path in campus.root.rglob("*") if path.is_file()]
    assert left == []


def test_all_that_is_wrong_is_said_at_once(
    settings: Path, campus: Campus, connect: Connect, sftp: SftpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    connect("archive_sftp", **{**sftp_fields(sftp), "password": "another"})
    settings.write_text(
        settings.read_text()
        .replace("live = false", "live = true")
        .replace(
            "[item_types]",
            '[connections]\narchive = "archive_sftp"\n[item_types]\nOVERDUEFIN = "300000000001"',
        )
        .replace(campus.analytics.path, "/shared/Nowhere")
        .replace('"/sfs/outbound"', '"/sfs/elsewhere"')
    )
    status, text = said(settings, capsys)
    wrong = [line for line in text.splitlines() if line.startswith("WRONG")]
    assert status == 1
    for part in (
        "OVERDUEFIN", "Is alma_to_sis.report_path where the report lies", "/sfs/elsewhere",
        "connection archive_sftp refused login", "not open yet",
    ):  # fmt: skip
        assert any(part in line for line in wrong), (part, text)
    assert f"{len(wrong)} of " in text
