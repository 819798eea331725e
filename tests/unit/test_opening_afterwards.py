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


def less_applied(folder: Path, url: str | None = None, *, shape: Callable[[str], str] = by_level) -> Unopened:
    """A cheque of before is returned."""
    bridge = unopened(folder, url, shape=shape)
    part_paid(bridge)
    bridge.night("applied")
    bridge.far.peoplesoft.bounce(next(iter(bridge.far.peoplesoft.payments)))
    for _ in range(2):
        bridge.night("applied")
    assert [cents for _, cents, _ in listed(bridge, opened.LESS_APPLIED)] == [2000]
    return bridge


def written_off(bridge: Unopened, cents: int) -> None:
    """The office lowers the item."""
    (item,) = bridge.far.peoplesoft.items.values()
    bridge.far.peoplesoft._change(item, -cents)
    bridge.night("applied")
    bridge.resolve(opened.LESS_APPLIED)
    for _ in range(2):
        bridge.night("applied")
        bridge.run("all_users")


def then_paid(bridge: Unopened) -> None:
    """What is left is paid, and reaches Alma whole."""
    (fee,) = bridge.far.alma.fees.values()
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 3000)
    for _ in range(3):
        bridge.night("applied")
        bridge.run("all_users")
    assert (applied(fee), kinds(bridge)) == ([[3000]], [])
    assert bridge.books().unequal == {}


@pytest.mark.parametrize("shape", [by_level, one_list])
def test_what_is_paid_after_a_person_has_settled_what_was_less_applied_is_posted(
    tmp_path: Path, ledger_url: str, shape: Callable[[str], str]
) -> None:
    bridge = less_applied(tmp_path, ledger_url, shape=shape)
    written_off(bridge, 2000)
    assert kinds(bridge) == []
    then_paid(bridge)


@pytest.mark.parametrize("older_copy", [False, True])
def test_a_repair_knows_what_a_person_has_settled_of_what_was_less_applied(
    tmp_path: Path, older_copy: bool
) -> None:
    bridge = less_applied(tmp_path)
    copy = copied(bridge)
    written_off(bridge, 2000)
    if older_copy:
        put_back(bridge, copy)
    else:
        lose(bridge, opened=False)
    repaired(bridge)
    repaired(bridge)
    bridge.night("applied")
    assert kinds(bridge) == []
    then_paid(bridge)


def test_what_is_less_applied_once_more_is_listed_again(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=by_level)
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000)
    for _ in range(2):
        bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 1000)
    bridge.far.alma.pay_at_desk(fee.id, 2000)
    bridge.accept()
    for payment in list(bridge.far.peoplesoft.payments):
        bridge.far.peoplesoft.bounce(payment)
        bridge.night("applied")
        assert [cents for _, cents, _ in listed(bridge, opened.LESS_APPLIED)] == [1000]
        bridge.resolve(opened.LESS_APPLIED)
    assert kinds(bridge) == []


def test_what_was_less_applied_on_two_items_of_a_fee_is_settled_for_both(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=by_level)
    far, sfs = bridge.far, bridge.far.peoplesoft
    fee = a_fee(bridge, 5000)
    far.charged_before(fee, 3000, paid=1000)
    far.charged_before(fee, 2000, paid=1000, term="2262")
    far.alma.pay_at_desk(fee.id, 2000)
    bridge.accept()
    bridge.resolve(opened.HELD_SINCE_OPENING)
    for payment in list(sfs.payments):
        sfs.bounce(payment)
    bridge.night("applied")
    for item in sfs.items.values():
        sfs._change(item, -1000)
    assert [cents for _, cents, _ in listed(bridge, opened.LESS_APPLIED)] == [2000]
    bridge.resolve(opened.LESS_APPLIED)
    for number in list(sfs.items):
        sfs.pay(number)
    for _ in range(2):
        bridge.night("applied")
        bridge.run("all_users")
    assert (sum(sum(each) for each in applied(fee)), kinds(bridge)) == (3000, [])
    assert bridge.books().unequal == {}


@pytest.mark.parametrize("settled", [False, True])
def test_a_fee_made_anew_for_what_is_less_applied_waits(tmp_path: Path, settled: bool) -> None:
    bridge = less_applied(tmp_path)
    sent = bridge.loads()
    a_fee(bridge, 2000)
    bridge.run("all_users")
    # PeopleSoft asks for that much already, on the old item.
    assert (bridge.loads(), kinds(bridge)) == (sent, sorted([opened.LESS_APPLIED, WAITS]))
    if settled:
        written_off(bridge, 2000)
        assert (bridge.loads(), kinds(bridge)) == ([*sent, ("charges", 2000)], [])


def test_a_fee_made_anew_for_a_payment_of_before_that_was_never_told_of_waits(tmp_path: Path) -> None:
    """The query of payments begins on the day of the opening, as the docs allow."""
    bridge = unopened(tmp_path, shape=reversing)
    part_paid(bridge)
    (payment,) = bridge.far.peoplesoft.payments.values()
    bridge.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        file_of(bridge, line_of(payment, "20.00", REVERSAL_ITEM_TYPE))
    sent = bridge.loads()
    a_fee(bridge, 2000)
    bridge.run("all_users")
    assert bridge.loads() == sent
    assert WAITS in kinds(bridge)


# -- payments of before ------------------------------------------------------------------------------------


def test_a_bounce_after_the_opening_is_not_hidden_by_what_was_paid_on_an_item_made_void(
    tmp_path: Path,
) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    far, sfs = bridge.far, bridge.far.peoplesoft
    fee = a_fee(bridge, 5000)
    far.charged_before(fee, 5000, paid=2000)
    (first,) = sfs.payments.values()
    far.alma.pay_at_desk(fee.id, 2000)
    # Charged twice, and the student has paid on both.
    sfs.charge(fee.user.primary_id, "300000000001", "2261", f"ALMA{fee.id}", 5000)
    sfs.pay(list(sfs.items)[-1], 2000)
    far.clock.advance(hours=24)
    # On the day of the opening, before the query.
    sfs.pay(f"ALMA{fee.id}", 300)
    far.alma.pay_at_desk(fee.id, 300)
    bridge.accept()
    bridge.run()
    bridge.resolve(opened.HELD_SINCE_OPENING)
    bridge.night()
    (line_no,) = [row["line_no"] for row in bridge.table("line") if row["amount"] == 3000]
    made_void(bridge, line_no, "charged twice")
    sfs.bounce(first.payment_id)
    for _ in range(2):
        bridge.night()
    assert [cents for _, cents, _ in listed(bridge)] == [2000]
    bridge.resolve(opened.BEFORE_OR_AFTER)
    for _ in range(2):
        bridge.night()
    assert [cents for _, cents, _ in listed(bridge)] == [2000]


@pytest.mark.parametrize("after_opening", [True, False])
@pytest.mark.parametrize("shape", [reversing, lambda text: reversing(cumulative(text))])
@pytest.mark.parametrize("day", ["11/15/2026", "12/01/2026"])
def test_a_payment_that_bounces_before_a_person_has_said_of_when_it_is_stays_a_question(
    tmp_path: Path, day: str, shape: Callable[[str], str], after_opening: bool
) -> None:
    bridge = unopened(tmp_path, shape=shape)
    sfs = bridge.far.peoplesoft
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000)
    sfs.pay(f"ALMA{fee.id}", 500)  # on a day of which no file tells
    (payment,) = sfs.pay(f"ALMA{fee.id}", 1500)
    bridge.far.alma.pay_at_desk(fee.id, 2000)
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    paid = line_of(payment, "15.00").replace("12/01/2026", day)
    file_of(bridge, paid)
    sfs.bounce(payment.payment_id)
    back = line_of(payment, "15.00", REVERSAL_ITEM_TYPE).replace("12/01/2026", "12/04/2026")
    for _ in range(3):
        file_of(bridge, paid, back)
        bridge.run()
    assert [cents for _, cents, _ in listed(bridge, opened.BEFORE_OR_AFTER)] == [1500]
    bridge.resolve(opened.BEFORE_OR_AFTER, after_opening=after_opening)
    for _ in range(2):
        file_of(bridge, paid, back)
        bridge.run()
    # In Alma it is paid, and PeopleSoft asks for it again.
    assert [cents for _, cents, _ in listed(bridge)] == ([] if after_opening else [1500])
    assert listed(bridge, opened.BEFORE_OR_AFTER) == []
    assert applied(fee) == [[]]


@pytest.mark.parametrize("cents", [2000, 500])
@pytest.mark.parametrize("shape", [reversing, lambda text: reversing(cumulative(text))])
@pytest.mark.parametrize("bounced_on", ["11/20/2026", "12/03/2026"])
def test_a_payment_of_before_that_the_first_file_tells_of_with_its_bounce_is_listed(
    tmp_path: Path, bounced_on: str, shape: Callable[[str], str], cents: int
) -> None:
    bridge = unopened(tmp_path, shape=shape)
    fee = part_paid(bridge)
    (payment,) = bridge.far.peoplesoft.payments.values()
    paid = line_of(payment, "20.00").replace("12/01/2026", "11/15/2026")
    bridge.far.peoplesoft.bounce(payment.payment_id, cents)
    back = line_of(payment, f"{cents / 100:.2f}", REVERSAL_ITEM_TYPE).replace("12/01/2026", bounced_on)
    for _ in range(3):
        file_of(bridge, paid, back)
        bridge.run()
    since = bounced_on.startswith("12")
    assert [(each, fee_id) for _, each, fee_id in listed(bridge, "payment line refused")] == (
        [(cents, fee.id)] if since else []
    )
    a_fee(bridge, cents)
    bridge.run()
    assert (WAITS in kinds(bridge)) is since
    assert applied(fee) == [[]]


def dated_back(bridge: Unopened, fee: Fee, cents: int) -> str:
    """A payment that was entered after the opening, with the date of a day before it."""
    (payment,) = bridge.far.peoplesoft.pay(f"ALMA{fee.id}", cents)
    return line_of(payment, f"{cents / 100:.2f}").replace("12/01/2026", "11/30/2026")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_payment_posted_to_the_item_after_the_opening_with_an_earlier_date_is_not_lost(
    tmp_path: Path, at_once: bool
) -> None:
    """The query of payments begins on the day of the opening, as the docs allow; what was paid before is not in it."""
    bridge = unopened(tmp_path, shape=reversing)
    fee = part_paid(bridge)
    if not at_once:
        file_of(bridge)
    # In a later file it may come to as much as was paid before.
    file_of(bridge, dated_back(bridge, fee, 1500 if at_once else 2000))
    assert (kinds(bridge), applied(fee)) == ([opened.BEFORE_OR_AFTER], [[]])
    bridge.resolve(opened.BEFORE_OR_AFTER, after_opening=True)
    file_of(bridge)
    assert applied(fee) == [[1500 if at_once else 2000]]
    assert bridge.books().unequal == {}


def test_what_was_paid_before_is_told_from_a_payment_that_is_dated_back_in_the_same_file(
    tmp_path: Path,
) -> None:
    bridge = unopened(tmp_path, shape=reversing)
    fee = part_paid(bridge)
    (first,) = bridge.far.peoplesoft.payments.values()
    before = line_of(first, "20.00").replace("12/01/2026", "11/15/2026")
    file_of(bridge, before, dated_back(bridge, fee, 1500))
    assert [cents for _, cents, _ in listed(bridge, opened.BEFORE_OR_AFTER)] == [1500]


def test_of_an_item_that_was_paid_up_every_payment_of_before_is_told(tmp_path: Path) -> None:
    """A credit has paid the rest of it, or a payment of a day that the file does not hold."""
    bridge = unopened(tmp_path, shape=reversing)
    fee = part_paid(bridge, 5000)
    (payment,) = bridge.far.peoplesoft.payments.values()
    file_of(bridge, line_of(payment, "20.00").replace("12/01/2026", "11/15/2026"))
    assert [row["state"] for row in bridge.table("payment")] == ["earlier"]
    assert (kinds(bridge), applied(fee)) == ([], [[]])


def test_an_older_copy_learns_how_much_of_a_payment_of_before_is_in_alma(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    sfs = bridge.far.peoplesoft
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000)
    (bounced,) = sfs.pay(f"ALMA{fee.id}", 2000)
    dry_night(bridge)
    sfs.bounce(bounced.payment_id)
    sfs.pay(f"ALMA{fee.id}", 2000)
    bridge.far.alma.pay_at_desk(fee.id, 2000)
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    bridge.far.clock.advance(hours=24)
    for _ in range(2):
        bridge.night()
        bridge.run()
    copy = copied(bridge)
    bridge.resolve(opened.BEFORE_OR_AFTER)
    bridge.night()

    def told() -> list[tuple[str, int, int]]:
        return sorted((p["state"], int(p["amount"]), int(p["posted"])) for p in bridge.table("payment"))

    before, was_listed = told(), kinds(bridge)
    put_back(bridge, copy)
    repaired(bridge)
    bridge.night()
    assert (told(), kinds(bridge)) == (before, was_listed)


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


def any_student(text: str) -> str:
    return text + '\n[emplid]\npattern = "[0-9]{9}"\n'


@pytest.mark.parametrize("lost", [False, True])
def test_an_item_whose_student_alma_learns_of_after_the_opening_holds_that_students_fees(
    tmp_path: Path, lost: bool
) -> None:
    bridge = unopened(tmp_path, shape=any_student)
    fee = a_fee(bridge, 1000)
    old, new = "U" + fee.user.primary_id, fee.user.primary_id
    # Alma has the student under another id yet.
    bridge.far.alma.rekey_user(new, old)
    bridge.far.peoplesoft.charge(new, "300000000001", "2261", "LIB-5", 1000)
    bridge.accept()
    bridge.run("all_users")
    assert bridge.loads() == []
    bridge.far.alma.rekey_user(old, new)
    for _ in range(3):
        bridge.run("all_users")
    assert bridge.loads() == []
    assert kinds(bridge) == sorted([opened.ITEM_WITHOUT_FEE, opened.NEW_FEES_WAIT])
    if lost:
        lose(bridge, opened=False)
        repaired(bridge)
        bridge.run("all_users")
        assert bridge.loads() == []
    bridge.resolve(opened.ITEM_WITHOUT_FEE)
    bridge.run("all_users")
    assert (bridge.loads(), kinds(bridge)) == ([("charges", 1000)], [])


def test_a_repair_knows_which_items_without_a_fee_were_settled(tmp_path: Path) -> None:
    bridge = unopened(tmp_path)
    fees = a_campus(bridge)
    bridge.accept()
    bridge.resolve(opened.ITEM_WITHOUT_FEE)
    bridge.run()
    lose(bridge, opened=False)
    repaired(bridge)
    assert opened.ITEM_WITHOUT_FEE not in kinds(bridge)
    later = a_fee(bridge, 300, bridge.far.students.index(fees["unsure"].user))
    bridge.run()
    assert bridge.books().fees[later.id].charged_cents == 300


def test_a_fee_that_a_person_has_released_waits_for_no_item_of_its_student(tmp_path: Path) -> None:
    bridge = unopened(tmp_path)
    fees = a_campus(bridge)
    bridge.accept()
    later = a_fee(bridge, 300, bridge.far.students.index(fees["unsure"].user))
    bridge.resolve(opened.HELD_SINCE_OPENING)
    bridge.run()
    books = bridge.books().fees
    assert (books[fees["unsure"].id].charged_cents, books[later.id].charged_cents) == (400, 0)
    assert bridge.exceptions()[f"fee {later.id}"] == opened.NEW_FEES_WAIT
