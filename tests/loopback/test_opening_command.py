"""``open --import`` as it is typed, over a real SFTP server and a real HTTP Alma."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from alma_hook import __main__ as command_line
from alma_hook.ledger import Ledger
from simulator.campus import Campus
from simulator.sftp import SftpServer
from tests.bridge import SETTINGS
from tests.loopback.conftest import Connect, sftp_fields
from tests.unit.test_opening import OPENING

pytestmark = pytest.mark.filterwarnings(
    "ignore:Using Connection.get_connection_from_secrets:DeprecationWarning"
)

Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(
    alma: object,
    sftp: SftpServer,
    connect: Connect,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Said:
    """``said("--accept", ...)``: exit status and text of an opening as of the campus's today."""
    connect("sfs_sftp", **sftp_fields(sftp))
    connect("alma_ledger", conn_type="sqlite", host=str(tmp_path / "ledger.db"))
    monkeypatch.setattr(command_line, "PLACEHOLDER", "another")
    file = tmp_path / "campus.toml"
    file.write_text(SETTINGS.format(report_path="/shared/Library/Open Fees", layout="default") + OPENING)
    Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", "01CAMPUS_INST").migrate()

    def run(*arguments: str) -> tuple[int, str]:
        status = command_line.main(["open", *arguments, "--settings", str(file)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out + printed.err

    return run


def today(campus: Campus) -> str:
    """The day in the campus's zone, which is not always that of UTC."""
    return campus.clock.now().astimezone(ZoneInfo("America/Los_Angeles")).date().isoformat()


def test_an_opening_is_rehearsed_then_accepted_once(said: Said, campus: Campus, tmp_path: Path) -> None:
    campus.analytics.path = "/shared/Library/Open Fees"
    one, other = (campus.alma.add_fee(campus.students[n], 1000) for n in (0, 1))
    campus.charged_before(one, 1000)
    campus.charged_before(other, 700)
    campus.alma.add_fee(campus.students[2], 250)
    campus.refresh_analytics()
    items = tmp_path / "items.csv"
    items.write_bytes(campus.peoplesoft.applied_output())
    typed = ("--import", str(items), "--as-of", today(campus))
    for _ in range(2):
        status, text = said(*typed)
        assert (status, "Nothing was opened." in text) == (0, True), text
        assert "matched: 1 items, 10.00" in text
        assert f"fee {other.id}: Alma's balance is another; PeopleSoft: line 3 7.00; would send 3.00" in text
        assert "would send: 1 charges, 2.50; 0 credits, 0.00; beyond the brake 0 lines" in text
        assert not any(student.primary_id in text for student in campus.students)
    assert list(campus.path("/sfs/archive").iterdir()) == []
    status, text = said(*typed, "--accept", "--reason", "looked at with the bursar")
    assert (status, "is open with 2 items of PeopleSoft's" in text) == (0, True), text
    assert {file.name for file in campus.path("/sfs/archive").iterdir()} == {
        "ledger_01CAMPUS_INST.mark",
        "opening_01CAMPUS_INST.json",
        "opening_01CAMPUS_INST.json.manifest.csv",
        "opening_01CAMPUS_INST.json.state",
    }
    assert '"opened_as_of": "20' in campus.path("/sfs/archive/ledger_01CAMPUS_INST.mark").read_text()
    for again in ((*typed, "--accept", "--reason", "again"), typed, ("--begin-clean",)):
        status, text = said(*again)
        assert (status, "opening is done once" in text) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "Say either --begin-clean, or --import"),
        (("--begin-clean", "--import", "x.csv"), "Say either --begin-clean, or --import"),
        (("--import", "x.csv"), "--import needs --as-of"),
        (("--import", "x.csv", "--as-of", "2026-11-01", "--accept"), "--accept a --reason"),
        (("--import", "x.csv", "--as-of", "2199-11-01"), "is not over yet"),
        (("--import", "x.csv", "--as-of", "2026-11-01"), "x.csv can't be read"),
    ],
)
def test_what_is_typed_wrongly_opens_nothing(said: Said, arguments: tuple[str, ...], expected: str) -> None:
    status, text = said(*arguments)
    assert (status, expected in text) == (1, True), text
