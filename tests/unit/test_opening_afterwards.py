"""What happens to PeopleSoft's items of before the opening after it: payments of before, people's words, repairs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from alma_hook.ledger import institutions
from alma_hook.ledger import opening as opened
from simulator.alma_records import Fee
from simulator.query_output import REVERSAL_ITEM_TYPE
from tests.unit.test_applied import by_level, one_list
from tests.unit.test_guard import copied, lose, put_back, repaired
from tests.unit.test_older_copies import person
from tests.unit.test_opening import (
    Killed,
    Unopened,
    a_campus,
    a_fee,
    dry_night,
    made_void,
    unopened,
)
from tests.unit.test_reversals import applied, cumulative, kinds, listed
from tests.unit.test_waivers import file_of, line_of, reversing

WAITS = "payment taken back, new fees wait"


def part_paid(bridge: Unopened, paid: int = 2000) -> Fee:
    """A fee of 50.00 of which so much was paid before, and the books are opened with its item, a day later."""
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000, paid=paid)
    if paid:
        bridge.far.alma.pay_at_desk(fee.id, paid)
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    return fee


# -- less applied than at the opening ----------------------------------------------------------------------


# -- payments of before ------------------------------------------------------------------------------------


# -- an opening without its note ---------------------------------------------------------------------------


def killed_before(bridge: Unopened, wanted: str, ends: str) -> None:
    """The opening dies there."""

    def before(action: str, path: str) -> None:
        if action == wanted and path.endswith(ends):
            raise Killed

    bridge.folder.before = before  # type: ignore[assignment]
    with suppress(Killed):
        bridge.accept()
    bridge.folder.before = lambda _action, _path: None


@pytest.mark.parametrize("note", ["cut short", "not there"])
def test_an_opening_with_two_items_of_a_fee_can_be_repaired_without_its_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str
) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    fee = a_fee(bridge, 1000)
    bridge.far.charged_before(fee, 600)
    bridge.far.charged_before(fee, 400, term="2262")
    bridge.far.clock.advance(hours=24)
    if note == "not there":
        killed_before(bridge, "write", ".state")
        assert len(bridge.table("line")) == 2
    else:
        bridge.accept()
        (state,) = bridge.far.path("/sfs/archive").glob("opening_*.state")
        state.write_bytes(b"")
    lose(bridge, opened=False)
    repaired(bridge)
    bridge.run("all_users")
    assert bridge.loads() == []
    bridge.far.clock.advance(hours=24)
    assert person(bridge, monkeypatch, "mark-delivered", "000000") == 0
    bridge.run("all_users")
    assert bridge.loads() == []
    assert [row["state"] for row in bridge.table("line")] == ["sent", "sent"]


@pytest.mark.parametrize("shape", ["applied", "payments"])
def test_an_opening_that_never_was_swallows_no_payment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """It died, the office settled the items, the campus began clean; the ledger is lost, and a person says: never delivered."""
    bridge = unopened(tmp_path, shape=by_level if shape == "applied" else cumulative)
    sfs = bridge.far.peoplesoft
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000, paid=2000)
    bridge.far.alma.pay_at_desk(fee.id, 2000)
    bridge.far.charged_before(a_fee(bridge, 700, 1), 700, reference="LIB-9")
    bridge.far.clock.advance(hours=24)
    killed_before(bridge, "written", ".manifest.csv")
    sfs.items.clear()
    sfs.payments.clear()
    sfs._item_of.clear()
    with closing(bridge.ledger("setup")) as ledger, ledger.write() as tx:
        institutions.open_clean(tx, "the bursar")
    bridge.run()
    assert bridge.loads() == [("charges", 3700)]
    lose(bridge, opened=False)
    bridge.far.clock.advance(hours=24)
    repaired(bridge)
    assert bridge.exceptions().get("batch 000000") == "batch unconfirmed"
    bridge.far.clock.advance(hours=24)
    assert person(bridge, monkeypatch, "mark-not-delivered", "000000") == 0
    for _ in range(2):
        bridge.run("all_users")
    bridge.resolve(opened.HELD_SINCE_OPENING)
    sfs.pay(f"ALMA{fee.id}", 3000)
    for _ in range(3):
        bridge.night(shape)
        bridge.run("all_users")
    assert (applied(fee), kinds(bridge)) == ([[3000]], [])
    assert bridge.loads() == [("charges", 3700)]
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        assert opened.references(tx) == {}


# -- items that stand for no fee ---------------------------------------------------------------------------


