"""What PeopleSoft says is applied to each item, on the simulated campus; its books and Alma's are the witnesses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alma_hook import guard
from alma_hook.errors import Fatal, Retriable, SendingStopped
from alma_hook.ledger import exceptions, institutions
from alma_hook.ledger.applied import Part, share
from alma_hook.ledger.reversals import TAKEN_BACK
from alma_hook.repair import RepairCounts, repair
from simulator.alma import NOT_AT_DESK
from simulator.alma_records import Fee
from simulator.peoplesoft_records import Item, Payment
from tests.bridge import Bridge
from tests.unit.test_reversals import (
    applied,
    charged,
    crash_once,
    cumulative,
    equal,
    equalise,
    kinds,
    listed,
    pay,
    resolve,
    states,
)

UNCLEAR = "outcome of the posting unclear"
SETTLED = "fee already settled in Alma"
COLUMNS = """[sis_to_alma.columns]
emplid = "Emplid"
reference = "Reference Nbr"
applied = "Applied Amt"
item = "Item Nbr"
"""
ITEMS = """
[sis_to_alma.items]
pattern = "LIBRARY_APPLIED_*.csv"
complete = true
columns = { emplid = "Emplid", reference = "Reference Nbr", amount = "Item Amt", balance = "Item Balance" }
"""


def by_level(text: str) -> str:
    """The settings, with amounts applied in place of payments."""
    head = text.partition("[sis_to_alma.columns]")[0]
    return head.replace("[sis_to_alma]\n", '[sis_to_alma]\nshape = "applied"\ncumulative = true\n') + COLUMNS


def one_list(text: str) -> str:
    """The same, from the list of items."""
    return by_level(text).replace("cumulative", 'pattern = "LIBRARY_APPLIED_*.csv"\ncumulative') + ITEMS


def with_limit(text: str) -> str:
    return by_level(text).replace("cumulative", "reversal_limit = 1\ncumulative")


@pytest.fixture
def small(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0, settings=by_level)


@pytest.fixture
def both(tmp_path: Path, ledger_url: str) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0, settings=by_level, url=ledger_url)


def night(bridge: Bridge) -> Path:
    """PeopleSoft writes its list and the DAG runs; returns where the list lay."""
    bridge.far.clock.advance(hours=24)
    path = bridge.far.path(bridge.far.write_query_output(kind="applied"))
    bridge.sis_to_alma()
    return path


def item(bridge: Bridge, fee: Fee) -> Item:
    return bridge.far.peoplesoft.item_by_reference(f"ALMA{fee.id}")


def apply(bridge: Bridge, fee: Fee, cents: int) -> None:
    """Let so much be applied to a fee's item, whatever was before."""
    item(bridge, fee).applied_cents = cents


def raised(bridge: Bridge, fee: Fee, cents: int) -> None:
    """The library makes a fee higher, one that was paid too."""
    fee.status = "ACTIVE"
    bridge.far.alma.raise_fee(fee.id, cents)


def left(bridge: Bridge) -> dict[str, int]:
    """Cents listed, by kind."""
    found: dict[str, int] = {}
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        for row in exceptions.open_items(tx):
            found[row["kind"]] = found.get(row["kind"], 0) + int(row["amount"])
    ledger.close()
    return found


def in_alma(fee: Fee) -> int:
    return sum(applied(fee)[0])


# -- what is paid ----------------------------------------------------------------------------------------


def test_paid_in_parts_and_then_all(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    for cents, total in ((300, 300), (1, 301), (699, 1000)):
        pay(both, fee, cents)
        night(both)
        assert in_alma(fee) == total
    night(both)

    assert applied(fee) == [[300, 1, 699]]
    assert fee.status == "CLOSED"
    equal(both)


def test_two_payments_between_two_files_are_one(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    pay(both, fee, 300)
    pay(both, fee, 200)
    night(both)

    assert applied(fee) == [[500]]
    equal(both)


def test_nothing_is_paid_where_nothing_is_applied(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    night(small)

    assert applied(fee) == [[]]
    equal(small)


def test_what_is_above_almas_balance_is_listed_until_the_credit_lowers_the_item(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    pay(both, fee)
    both.far.alma.pay_at_desk(fee.id, 400)
    night(both)
    assert (in_alma(fee), left(both)) == (600, {SETTLED: 400})
    equalise(both)
    # The credit has lowered the item; the money lies on the account.
    assert item(both, fee).applied_cents == 600
    night(both)
    night(both)

    assert (in_alma(fee), states(both)) == (600, ["standing"])
    equal(both)


def test_what_is_above_is_posted_by_itself_when_the_fee_is_raised(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    pay(both, fee)
    both.far.alma.waive_at_desk(fee.id, 400)
    night(both)
    night(both)
    assert (applied(fee), left(both)) == ([[600]], {SETTLED: 400})
    raised(both, fee, 150)
    night(both)
    assert (applied(fee), left(both)) == ([[600, 150]], {SETTLED: 250})
    raised(both, fee, 250)
    night(both)

    assert applied(fee) == [[600, 150, 250]]
    equalise(both)
    night(both)
    equal(both)


def test_a_disputed_fee_is_paid_when_it_is_restored_and_only_by_what_is_applied_then(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    both.far.alma.dispute(fee.id)
    night(both)
    assert left(both) == {"fee is INDISPUTE in Alma": 1000}
    both.far.peoplesoft.bounce(payment.payment_id, 300)
    both.far.alma.restore(fee.id)
    # One file alone shows it, and yet no more is posted than it shows.
    night(both)
    assert in_alma(fee) == 700
    night(both)

    assert (applied(fee), states(both)) == ([[700]], ["standing"])
    equal(both)


def test_what_rises_again_after_a_part_was_posted_is_posted_too(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    apply(both, fee, 1000)
    both.far.alma.dispute(fee.id)
    night(both)
    apply(both, fee, 600)
    night(both)
    night(both)
    both.far.alma.restore(fee.id)
    night(both)
    assert (applied(fee), states(both)) == ([[600]], ["standing"])
    apply(both, fee, 1000)
    night(both)

    assert (applied(fee), states(both)) == ([[600, 400]], ["withdrawn"])
    equal(both)


def test_a_credit_settles_nothing_that_is_still_applied(both: Bridge) -> None:
    """PeopleSoft has lowered the item, and applied the money again when it was raised, between two lists."""
    (fee,) = charged(both, 1000)
    pay(both, fee)
    both.far.alma.waive_at_desk(fee.id, 400)
    night(both)
    equalise(both)
    assert left(both) == {SETTLED: 400}
    raised(both, fee, 400)
    equalise(both)
    both.far.peoplesoft.reapply(item(both, fee).emplid)
    assert item(both, fee).applied_cents == 1000
    night(both)

    assert applied(fee) == [[600, 400]]
    equal(both)


def test_a_reference_that_was_never_charged_is_listed(small: Bridge) -> None:
    charged(small, 1000)
    item_ = next(iter(small.far.peoplesoft.items.values()))
    item_.reference, item_.applied_cents = "ALMA13800000000000001", 500
    night(small)

    assert left(small) == {"no such fee was charged": 500}


# -- what falls ------------------------------------------------------------------------------------------


def test_lower_in_two_files_is_listed_and_higher_again_it_is_not(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    apply(both, fee, 1000)
    night(both)
    apply(both, fee, 400)
    night(both)
    assert (states(both), both.exceptions()) == (["seen_once"], {})
    night(both)
    assert left(both) == {TAKEN_BACK: 600}
    assert both.balances()["explained"] == -600
    apply(both, fee, 700)
    night(both)
    assert left(both) == {TAKEN_BACK: 300}
    apply(both, fee, 1000)
    night(both)

    assert (applied(fee), states(both)) == ([[1000]], ["withdrawn"])
    equal(both)


def test_several_falls_and_rises(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    for cents, posted, short in (
        (300, 300, 0), (800, 800, 0), (500, 800, 0), (450, 800, 300), (450, 800, 350), (900, 900, 0),
        (0, 900, 0), (0, 900, 900), (100, 900, 800), (900, 900, 0), (1000, 1000, 0), (999, 1000, 0),
        (1000, 1000, 0),
    ):  # fmt: skip
        apply(both, fee, cents)
        night(both)
        assert (in_alma(fee), left(both).get(TAKEN_BACK, 0)) == (posted, short)

    equal(both)


def test_what_is_not_in_alma_falls_first_and_is_no_debt(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    pay(both, fee)
    both.far.alma.waive_at_desk(fee.id, 400)
    night(both)
    apply(both, fee, 500)
    night(both)
    night(both)

    assert (in_alma(fee), left(both)) == (600, {TAKEN_BACK: 100})


def test_a_settled_fall_is_paid_again_by_the_next_rise(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    apply(both, fee, 400)
    night(both)
    apply(both, fee, 100)
    night(both)
    night(both)
    ((exception_id, cents, _),) = listed(both)
    assert cents == 300
    resolve(both, exception_id)
    night(both)
    assert (in_alma(fee), left(both)) == (400, {})
    apply(both, fee, 600)
    night(both)

    # T - (Pa - R): 6.00 - (4.00 - 3.00)
    assert (applied(fee), left(both)) == ([[400, 500]], {})


def test_a_fee_made_anew_is_paid_by_the_old_ones_item(both: Bridge) -> None:
    (old,) = charged(both, 1000)
    payment = pay(both, old)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id)
    night(both)
    night(both)
    ((exception_id, _, _),) = listed(both)
    new = both.far.alma.add_fee(both.far.students[0], 1000)
    equalise(both)
    resolve(both, exception_id, new)
    equalise(both)
    pay(both, old, 400)
    night(both)
    again = pay(both, old)
    night(both)
    assert applied(old, new) == [[1000], [400, 600]]
    both.far.peoplesoft.bounce(again.payment_id)
    night(both)
    night(both)
    assert [(cents, fee_id) for _, cents, fee_id in listed(both)] == [(600, new.id)]
    pay(both, old)
    night(both)

    assert applied(old, new) == [[1000], [400, 600]]
    assert both.exceptions() == {}
    equalise(both)
    assert both.balances()["unexplained"] == 0


def test_a_fee_charged_to_two_emplids_is_paid_on_both_items(tmp_path: Path, ledger_url: str) -> None:
    def by_identifier(text: str) -> str:
        return by_level(text) + '[emplid]\nsource = "identifier:UNIV_ID"\n'

    bridge = Bridge(tmp_path, students=4, fees=0, settings=by_identifier, url=ledger_url)
    student = bridge.far.students[0].primary_id
    bridge.far.alma.set_identifier(student, "UNIV_ID", "900000001")
    assert bridge.far.peoplesoft.emplids is not None
    bridge.far.peoplesoft.emplids |= {"900000001", "900000002"}
    (fee,) = charged(bridge, 1000)
    pay(bridge, fee)
    night(bridge)
    bridge.far.alma.set_identifier(student, "UNIV_ID", "900000002")
    raised(bridge, fee, 465)
    equalise(bridge)
    first, second = bridge.far.peoplesoft.items.values()
    assert (first.emplid, second.emplid) == ("900000001", "900000002")
    bridge.far.peoplesoft.pay(second.item_nbr, 300)
    night(bridge)
    assert applied(fee) == [[1000, 300]]
    # PeopleSoft puts what was paid under the old number under the new one.
    first.applied_cents, second.applied_cents = 835, 465
    night(bridge)
    night(bridge)
    assert bridge.exceptions() == {}
    first.applied_cents = 1000
    night(bridge)

    assert applied(fee) == [[1000, 300, 165]]
    assert bridge.exceptions() == {}


def test_money_moved_between_a_students_items_is_not_posted_twice(both: Bridge) -> None:
    one, two = charged(both, 1000, 1000)
    pay(both, one)
    night(both)
    both.far.peoplesoft.reapply(item(both, one).emplid)
    assert (item(both, one).applied_cents, item(both, two).applied_cents) == (0, 1000)
    night(both)
    assert applied(one, two) == [[1000], []]
    apply(both, one, 1000)
    apply(both, two, 0)
    night(both)
    assert applied(one, two) == [[1000], []]
    equal(both)

    # Where it stays so, the second file settles it: the one is listed, the other is paid.
    apply(both, one, 0)
    apply(both, two, 1000)
    night(both)
    night(both)
    assert applied(one, two) == [[1000], [1000]]
    assert [(cents, fee_id) for _, cents, fee_id in listed(both)] == [(1000, one.id)]


def test_more_falls_than_the_limit_make_the_file_a_bad_one(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=with_limit)
    fees = charged(bridge, 1000, 1000, 1000)
    for fee in fees:
        apply(bridge, fee, 500)
    night(bridge)
    for fee in fees[:2]:
        apply(bridge, fee, 0)
    apply(bridge, fees[2], 800)
    night(bridge)

    assert kinds(bridge) == ["payment file refused"]
    assert applied(*fees) == [[500]] * 3


def test_credits_that_lower_many_items_make_no_file_a_bad_one(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=with_limit)
    fees = charged(bridge, 1000, 1000, 1000)
    for fee in fees:
        pay(bridge, fee)
        bridge.far.alma.pay_at_desk(fee.id, 1000)
    night(bridge)
    assert left(bridge) == {SETTLED: 3000}
    equalise(bridge)
    night(bridge)
    night(bridge)

    equal(bridge)


# -- the files -------------------------------------------------------------------------------------------


def leave(bridge: Bridge, name: str, content: bytes, at: float) -> None:
    path = bridge.far.path(f"/sfs/outbound/{name}")
    path.write_bytes(content)
    os.utime(path, (at, at))


def test_twice_and_out_of_order_the_newest_file_counts(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    files = []
    for cents in (900, 200, 500):
        apply(both, fee, cents)
        both.far.clock.advance(hours=24)
        path = both.far.path(both.far.write_query_output(kind="applied"))
        files.append((path.name, path.read_bytes(), path.stat().st_mtime))
        path.unlink()
    high, low, newest = files
    for file in (newest, high, newest, low, low, high, newest):
        leave(both, *file)
        both.sis_to_alma()
        assert in_alma(fee) == 500

    assert states(both) == []
    equal(both)


def test_several_files_in_one_run_come_to_the_newest(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    for cents in (900, 200, 500, 300):
        apply(small, fee, cents)
        small.far.clock.advance(hours=24)
        small.far.write_query_output(kind="applied")
    small.sis_to_alma()

    assert applied(fee) == [[300]]
    night(small)
    equal(small)


@pytest.mark.parametrize("cut", ["in a line", "at a line's end"])
def test_a_file_cut_short_takes_nothing_back(cut: str, both: Bridge) -> None:
    one, two = charged(both, 1000, 700)
    pay(both, one, 400)
    pay(both, two, 300)
    night(both)
    both.far.clock.advance(hours=24)
    path = both.far.path(both.far.write_query_output(kind="applied"))
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    path.write_bytes(content[:-9] if cut == "in a line" else b"".join(lines[:-1]))
    os.utime(path, (both.seconds(), both.seconds()))
    both.sis_to_alma()
    assert TAKEN_BACK not in kinds(both)
    path.unlink(missing_ok=True)
    night(both)

    assert applied(one, two) == [[400], [300]]
    equal(both)


def test_a_line_that_can_not_be_read_says_nothing_of_its_fee(small: Bridge) -> None:
    one, two = charged(small, 1000, 700)
    pay(small, one, 400)
    night(small)
    pay(small, two, 300)
    for _ in range(2):
        small.far.clock.advance(hours=24)
        path = small.far.path(small.far.write_query_output(kind="applied"))
        path.write_text(path.read_text().replace(",4.00,", ",-4.00,"))
        os.utime(path, (small.seconds(), small.seconds()))
        small.sis_to_alma()
    assert (states(small), kinds(small)) == ([], ["payment line refused"])
    assert applied(one, two) == [[400], [300]]
    night(small)

    equal(small)


def test_items_that_are_gone_from_the_list_count_as_not_paid(both: Bridge) -> None:
    (fee, _) = charged(both, 1000, 500)
    pay(both, fee, 400)
    night(both)
    gone = both.far.peoplesoft.items.pop(item(both, fee).item_nbr)
    night(both)
    assert states(both) == ["seen_once"]
    night(both)
    assert left(both) == {TAKEN_BACK: 400}
    both.far.peoplesoft.items[gone.item_nbr] = gone
    night(both)

    equal(both)


def test_payments_in_place_of_applied_amounts_are_refused(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    pay(small, fee, 400)
    night(small)
    other = Bridge(small.file.parent / "other", students=4, fees=0, settings=cumulative)
    small.campus = other.campus
    small.far.write_query_output()
    with pytest.raises(SendingStopped, match=r"sis_to_alma\.shape"):
        small.sis_to_alma()
    assert applied(fee) == [[400]]


# -- postings that fail ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
def test_an_unclear_outcome_is_found_out(fault: str, both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    night(both)
    pay(both, fee, 400)
    both.far.faults.add_http(fault, method="POST")
    night(both)
    assert kinds(both) == ["outcome of the posting unclear"]
    pay(both, fee, 100)
    both.far.clock.advance(seconds=60)
    both.far.write_query_output(kind="applied")
    both.sis_to_alma()
    night(both)
    night(both)

    assert in_alma(fee) == 500
    equal(both)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
def test_an_unclear_outcome_of_what_falls_meanwhile(fault: str, both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    apply(both, fee, 100)
    night(both)
    apply(both, fee, 500)
    both.far.faults.add_http(fault, method="POST")
    night(both)
    apply(both, fee, 200)
    for _ in range(4):
        night(both)

    if fault == "drop_after":
        assert (in_alma(fee), left(both)) == (500, {TAKEN_BACK: 300})
    else:
        assert (in_alma(fee), left(both)) == (200, {})


@pytest.mark.parametrize("action", ["rename", "renamed", "read", "list"])
def test_a_crash_between_the_steps(action: str, small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    for cents in (300, 700):
        apply(small, fee, cents)
        small.far.clock.advance(hours=24)
        small.far.write_query_output(kind="applied")
        small.folder.before = crash_once(action)
        with pytest.raises(Retriable):
            small.sis_to_alma()
        small.folder.before = lambda _action, _path: None
        small.far.clock.advance(seconds=16 * 60)
        small.sis_to_alma()
    small.sis_to_alma()

    assert applied(fee) == [[300, 400]]
    equal(small)


# -- the wrong ledger --------------------------------------------------------------------------------------


def lose_ledger(bridge: Bridge) -> RepairCounts:
    """A new ledger in the old one's place, brought back from the archive and from Alma."""
    path = bridge.folder.root.parent / "ledger.db"
    for file in (path, *path.parent.glob("ledger.db-*")):
        file.unlink(missing_ok=True)
    ledger = bridge.ledger("repair")
    ledger.migrate()
    with ledger.write() as tx:
        institutions.open_clean(tx, "the bursar")
    with ledger.lease("out", "repair") as out, ledger.lease("back", "repair") as back:
        counts = repair(ledger, out, back, bridge.campus, bridge.folder, bridge.folder, bridge.api)
    ledger.close()
    return counts


def test_a_restored_ledger_posts_what_is_above_what_alma_has(small: Bridge) -> None:
    one, two, three = charged(small, 1000, 1000, 1000)
    for cents in (200, 500):
        apply(small, one, cents)
        apply(small, two, cents)
        night(small)
    small.far.alma.dispute(three.id)
    apply(small, three, 300)
    apply(small, two, 100)
    night(small)
    # The newest list tells all; older ones would only show falls that are none.
    assert lose_ledger(small).files == 1
    small.sis_to_alma()
    assert applied(one, two, three) == [[200, 300], [200, 300], []]
    small.far.alma.restore(three.id)
    apply(small, one, 700)
    night(small)

    assert applied(one, two, three) == [[200, 300, 200], [200, 300], [300]]
    assert left(small) == {TAKEN_BACK: 400}
    night(small)
    apply(small, two, 600)
    night(small)
    assert applied(two) == [[200, 300, 100]]
    small.alma_to_sis("all_users")
    assert small.far.load_inbound() == []
    equal(small)


def test_of_a_fee_made_anew_a_restored_ledger_takes_nothing_back(small: Bridge) -> None:
    """Its payments are on the old one's item in PeopleSoft."""
    (old,) = charged(small, 1000)
    payment = pay(small, old)
    night(small)
    small.far.peoplesoft.bounce(payment.payment_id)
    night(small)
    night(small)
    new = small.far.alma.add_fee(small.far.students[0], 1000)
    equalise(small)
    resolve(small, listed(small)[0][0], new)
    pay(small, old)
    night(small)
    assert applied(old, new) == [[1000], [1000]]
    lose_ledger(small)
    for _ in range(3):
        night(small)
        equalise(small)

    assert applied(old, new) == [[1000], [1000]]
    assert small.exceptions() == {}
    assert small.balances()["unexplained"] == 0


def test_after_a_repair_an_item_that_is_gone_from_the_list_counts_as_not_paid(small: Bridge) -> None:
    (fee, _) = charged(small, 1000, 500)
    pay(small, fee, 400)
    night(small)
    lose_ledger(small)
    del small.far.peoplesoft.items[item(small, fee).item_nbr]
    night(small)
    night(small)

    assert left(small) == {TAKEN_BACK: 400}


def test_what_was_paid_on_an_item_that_nobody_can_tell_any_more_is_not_taken_back(small: Bridge) -> None:
    """The note that told which item it was is lost, too, and no item bears the id of the fee made anew."""
    (old,) = charged(small, 1000)
    payment = pay(small, old)
    night(small)
    small.far.peoplesoft.bounce(payment.payment_id)
    night(small)
    night(small)
    new = small.far.alma.add_fee(small.far.students[0], 1000)
    equalise(small)
    resolve(small, listed(small)[0][0], new)
    pay(small, old)
    night(small)
    assert applied(old, new) == [[1000], [1000]]
    (note,) = small.folder.path("/sfs/archive").glob("payment_*.note")
    note.unlink()
    lose_ledger(small)
    for _ in range(3):
        night(small)
        small.alma_to_sis("all_users")

    assert small.far.load_inbound() == []
    assert applied(old, new) == [[1000], [1000]]
    assert small.exceptions() == {f"fee {new.id}": "paid by us and never charged"}
    assert small.books().alma_cents == small.books().peoplesoft_cents == 0


def test_an_older_copy_of_the_ledger_finds_in_alma_what_it_forgot(
    small: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the marks stop it before it reaches Alma.
    monkeypatch.setattr(guard, "check", lambda *_: None)
    (fee,) = charged(small, 1000)
    apply(small, fee, 300)
    night(small)
    path = small.folder.root.parent / "ledger.db"
    copy = path.read_bytes()
    apply(small, fee, 800)
    night(small)
    for rest in path.parent.glob("ledger.db-*"):
        rest.unlink()
    path.write_bytes(copy)
    night(small)

    assert applied(fee) == [[300, 500]]
    equal(small)


def test_a_payment_of_ours_that_the_ledger_lacks_lets_nothing_be_posted_on_its_fee(small: Bridge) -> None:
    one, two = charged(small, 1000, 1000)
    apply(small, one, 300)
    night(small)
    ledger = small.ledger("a hand")
    with ledger.write() as tx:
        tx.run("UPDATE payment SET external_id = 'x', posted = 0, state = 'settled' WHERE institution = :i")
    ledger.close()
    apply(small, one, 500)
    apply(small, two, 200)
    night(small)

    assert applied(one, two) == [[300], [200]]
    assert left(small) == {"payments in Alma differ from those posted": 200}


# -- one file for both -------------------------------------------------------------------------------------


def test_one_list_confirms_charges_and_tells_what_is_paid(tmp_path: Path, ledger_url: str) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=one_list, url=ledger_url)
    (fee,) = charged(bridge, 1000)
    pay(bridge, fee, 400)
    night(bridge)
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM line WHERE institution = :i AND confirmed_at IS NULL") == 0
    ledger.close()
    assert applied(fee) == [[400]]
    equal(bridge)

    apply(bridge, fee, 100)
    path = night(bridge)
    assert states(bridge) == ["seen_once"]
    assert not path.exists()
    night(bridge)
    assert left(bridge) == {TAKEN_BACK: 300}
    bridge.far.alma.waive_at_desk(fee.id, 100)
    equalise(bridge)
    apply(bridge, fee, 400)
    night(bridge)
    equal(bridge)


# -- the amounts -------------------------------------------------------------------------------------------

parts = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()).map(lambda t: Part(t[0], min(t[0], t[1]), t[2])),
    max_size=5,
)  # fmt: skip


@given(st.integers(0, 40), parts)
def test_shares_come_to_the_total_and_what_is_in_alma_comes_first(total: int, given_: list[Part]) -> None:
    found = share(total, given_)

    assert sum(found) == min(total, sum(part.cents for part in given_))
    assert all(0 <= cents <= part.cents for cents, part in zip(found, given_, strict=True))
    sure = [(cents, part) for cents, part in zip(found, given_, strict=True) if part.sure]
    short = sum(max(0, part.there - cents) for cents, part in sure)
    # A fall only where what is applied is less than what is in Alma.
    assert short == max(0, sum(part.there for _, part in sure) - total)


def tried(bridge: Bridge) -> list[int]:
    """What was last tried of payments whose outcome is unclear."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows(
            "SELECT trying FROM payment WHERE institution = :i AND state IN ('posting', 'unknown')"
        )
    ledger.close()
    return [int(row["trying"]) for row in rows]


STEPS = st.one_of(
    st.tuples(st.just("applied"), st.integers(0, 12)),
    st.tuples(st.just("raised"), st.integers(1, 4)),
    st.tuples(st.just("at the desk"), st.integers(1, 6)),
    st.tuples(st.just("disputed"), st.just(0)),
    st.tuples(st.just("lost before"), st.just(0)),
    st.tuples(st.just("lost after"), st.just(0)),
    st.tuples(st.just("two files"), st.integers(0, 12)),
    st.tuples(st.just("settled"), st.just(0)),
    st.tuples(st.just("night"), st.just(0)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(steps=[("lost before", 0), ("applied", 1), ("at the desk", 1)])
@example(steps=[("lost before", 0), ("at the desk", 2), ("at the desk", 6), ("applied", 3)])
@given(steps=st.lists(STEPS, min_size=3, max_size=12))
def test_after_any_history_alma_and_the_list_come_to_the_newest_file(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bridge = Bridge(tmp_path_factory.mktemp("life"), students=2, fees=0, settings=by_level)
    (fee,) = charged(bridge, 1000)
    total = settled = most = 0
    for what, number in [*steps, *[("calm", 0)] * 4]:
        alma = bridge.far.alma
        if what == "calm":
            # Each fault that was left would let one more posting fail.
            bridge.far.faults.clear()
        if what in ("applied", "two files"):
            total = number * 100
            apply(bridge, fee, total)
        elif what == "raised" and fee.status in ("ACTIVE", "CLOSED"):
            raised(bridge, fee, number * 100)
        elif what == "at the desk" and fee.status == "ACTIVE" and fee.balance_cents:
            alma.pay_at_desk(fee.id, min(number * 100, fee.balance_cents))
        elif what == "disputed" and fee.status in ("ACTIVE", "INDISPUTE") and fee.balance_cents:
            (alma.restore if fee.status == "INDISPUTE" else alma.dispute)(fee.id)
        elif what.startswith("lost"):
            bridge.far.faults.add_http(what.replace("lost ", "drop_"), method="POST")
        elif what == "settled":
            for exception_id, cents, _ in listed(bridge):
                resolve(bridge, exception_id)
                settled += cents
        if what == "two files":
            bridge.far.clock.advance(hours=1)
            bridge.far.write_query_output(kind="applied")
        night(bridge)
        most = max(most, total + settled)
        # Never more than any file showed, and what a person wrote off.
        assert in_alma(fee) <= most
    said = left(bridge)
    taken_back = said.pop(TAKEN_BACK, 0)
    # Alma's part less what is taken back, and what waits, is the newest file's amount.
    assert in_alma(fee) - settled - taken_back + sum(said.values()) == total
    # Only what nothing could be done about is left.
    assert taken_back == max(0, in_alma(fee) - settled - total)
    at_desk = [t.amount_cents for t in fee.transactions if t.received_by != NOT_AT_DESK]
    if not in_alma(fee) and set(tried(bridge)) & set(at_desk):
        # The first payment of all: what the desk took may be it, without our key.
        del said[UNCLEAR]
    if fee.status == "ACTIVE" and fee.balance_cents:
        assert not said


def test_two_students_with_one_references_number_do_not_meet(small: Bridge) -> None:
    one, two = charged(small, 1000, student=0) + charged(small, 1000, student=1)
    apply(small, one, 100)
    apply(small, two, 200)
    night(small)

    assert applied(one, two) == [[100], [200]]
    equal(small)


def test_by_another_emplid_it_is_listed(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    apply(small, fee, 100)
    item(small, fee).emplid = small.far.students[1].primary_id
    night(small)

    assert left(small) == {"payment by another EMPLID than was charged": 100}


def test_settled_by_a_person_it_is_posted_no_more(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    pay(small, fee)
    small.far.alma.pay_at_desk(fee.id, 1000)
    night(small)
    ((exception_id, cents, _),) = listed(small, SETTLED)
    assert cents == 1000
    resolve(small, exception_id)
    raised(small, fee, 500)
    night(small)

    assert (applied(fee), left(small)) == ([[]], {})
    with pytest.raises(Fatal):
        resolve(small, exception_id)


def test_no_payment_is_made_of_a_payment(small: Bridge) -> None:
    """What the student pays too much stays on the account in PeopleSoft, and is no part of any item."""
    (fee,) = charged(small, 1000)
    paid: Payment = pay(small, fee, 1500)
    night(small)

    assert (paid.unapplied_cents, applied(fee)) == (500, [[1000]])
    equal(small)
