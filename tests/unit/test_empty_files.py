"""Files without lines, for a loader that waits for one. The witnesses are the files' bytes and PeopleSoft's loads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from alma_hook.campus import load
from alma_hook.errors import SettingsError
from alma_hook.ledger import alerts, batches
from alma_hook.repair import repair
from tests.bridge import SETTINGS, Bridge


def empties(text: str) -> str:
    return text.replace("[sfs]", '[sfs]\nnothing_to_send = "empty_file"')


@pytest.fixture
def campus_(tmp_path: Path, ledger_url: str) -> Bridge:
    made = Bridge(tmp_path, url=ledger_url, students=4, fees=0, settings=empties)
    made.far.peoplesoft.takes_empty_files = True
    return made


def night(bridge: Bridge, run: Callable[[], object] | None = None) -> dict[str, int]:
    """A run, and what PeopleSoft loads after it: lines by name."""
    bridge.far.clock.advance(hours=12)
    bridge.far.refresh_analytics()
    (run or bridge.alma_to_sis)()
    results = bridge.far.load_inbound()
    assert [result.error for result in results] == [None] * len(results)
    return {result.file_name: result.posted for result in results}


def test_a_run_with_nothing_to_send_delivers_a_file_of_each_kind(campus_: Bridge) -> None:
    assert night(campus_) == {"alma_charges_000001.dat": 0, "alma_credits_000002.dat": 0}
    content = (campus_.far.path(campus_.far.folders.loaded) / "alma_charges_000001.dat").read_text()
    (header,) = content.splitlines()
    assert header.startswith("H")
    with closing(campus_.ledger("look")) as ledger, ledger.read() as tx:
        # It does not hide from people that no fee was sent.
        assert alerts.last_delivery(tx) is None

    fee = campus_.far.alma.add_fee(campus_.far.students[0], 1250)
    assert night(campus_) == {"alma_charges_000003.dat": 1, "alma_credits_000004.dat": 0}
    campus_.far.alma.waive_at_desk(fee.id, 250)
    assert night(campus_) == {"alma_charges_000005.dat": 0, "alma_credits_000006.dat": 1}
    assert campus_.books().unequal == {}


def test_the_newest_batches_are_found_by_their_state(campus_: Bridge) -> None:
    night(campus_)
    night(campus_, lambda: campus_.alma_to_sis(live=False))
    with closing(campus_.ledger("look")) as ledger, ledger.read() as tx:
        assert [row["batch_id"] for row in batches.newest(tx, 30)] == ["000001", "000002"]
        assert [row["batch_id"] for row in batches.newest(tx, 1)] == ["000002"]
        assert batches.newest(tx, 30, "cancelled") == []


def test_a_run_that_is_repeated_sends_no_second_one(campus_: Bridge) -> None:
    with campus_.working("out") as (ledger, lease):
        for _ in range(2):
            for _name, work in campus_.tasks_out("analytics_report"):
                work(ledger, lease)
    assert sorted(each.file_name for each in campus_.far.load_inbound()) == [
        "alma_charges_000001.dat",
        "alma_credits_000002.dat",
    ]


def test_a_rehearsal_and_a_campus_that_did_not_ask_send_none(campus_: Bridge, tmp_path: Path) -> None:
    assert night(campus_, lambda: campus_.alma_to_sis(live=False)) == {}
    assert night(Bridge(tmp_path / "other", students=4, fees=0)) == {}


def test_a_lost_ledger_is_rebuilt_over_them(campus_: Bridge, tmp_path: Path) -> None:
    campus_.far.alma.add_fee(campus_.far.students[0], 1250)
    night(campus_)
    campus_.url = f"sqlite:///{tmp_path / 'new.db'}"
    with closing(campus_.ledger("repair")) as ledger:
        ledger.migrate()
        with ledger.lease("out", "repair") as out, ledger.lease("back", "repair") as back:
            repair(ledger, out, back, campus_.campus, campus_.folder, campus_.folder, campus_.api)
    assert night(campus_) == {"alma_charges_000003.dat": 0, "alma_credits_000004.dat": 0}
    assert campus_.books().unequal == {}


@pytest.mark.parametrize("layout", ["asu_oasis", "uta_csv"])
def test_a_layout_that_would_leave_nothing_in_it_is_refused(layout: str, tmp_path: Path) -> None:
    file = tmp_path / "campus.toml"
    file.write_text(empties(SETTINGS.format(report_path="/shared/Fees", layout=layout)))
    with pytest.raises(SettingsError, match="neither header nor trailer"):
        load(file)
