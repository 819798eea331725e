"""Payments that PeopleSoft takes back, on the simulated campus; its books are the witness."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from alma_hook.errors import Fatal, Retriable
from alma_hook.ledger import exceptions, institutions, payments, story
from alma_hook.ledger.exceptions import OVERPAID
from alma_hook.ledger.reversals import BACK, TAKEN_BACK, excess
from alma_hook.payment_intake import TakeInCounts
from alma_hook.payments import PostCounts
from alma_hook.repair import repair
from simulator.alma import NOT_AT_DESK
from simulator.alma_records import Fee
from simulator.peoplesoft_records import Payment
from tests.bridge import Bridge
from tests.unit.test_confirmations import with_items

WAITS = "payment taken back, new fees wait"


def cumulative(text: str) -> str:
    return text.replace("[sis_to_alma]\n", "[sis_to_alma]\ncumulative = true\n")


@pytest.fixture
def small(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0, settings=cumulative)


@pytest.fixture
def both(tmp_path: Path, ledger_url: str) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0, settings=cumulative, url=ledger_url)


def equalise(bridge: Bridge) -> None:
    bridge.far.clock.advance(seconds=60)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    assert all(result.loaded for result in bridge.far.load_inbound())


def charged(bridge: Bridge, *cents: int, student: int = 0) -> list[Fee]:
    fees = [bridge.far.alma.add_fee(bridge.far.students[student], value) for value in cents]
    equalise(bridge)
    return fees


def pay(bridge: Bridge, fee: Fee, cents: int | None = None) -> Payment:
    (payment,) = bridge.far.peoplesoft.pay(f"ALMA{fee.id}", cents)
    return payment


def night(bridge: Bridge, bounced: str = "omit") -> tuple[TakeInCounts, PostCounts]:
    """PeopleSoft writes its output, all payments, and the DAG runs; what it came to."""
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output(bounced=bounced)
    return bridge.sis_to_alma()


def applied(*fees: Fee) -> list[list[int]]:
    return [
        [t.amount_cents for t in fee.transactions if t.kind == "PAYMENT" and t.received_by == NOT_AT_DESK]
        for fee in fees
    ]


def kinds(bridge: Bridge) -> list[str]:
    return sorted(bridge.exceptions().values())


def listed(bridge: Bridge, kind: str = TAKEN_BACK) -> list[tuple[str, int, str]]:
    """Exception id, cents and fee of what is listed of a kind."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = [row for row in exceptions.open_items(tx) if row["kind"] == kind]
    ledger.close()
    return [(row["exception_id"], int(row["amount"]), row["fee_id"]) for row in rows]


def resolve(bridge: Bridge, exception_id: str, replaced_by: Fee | str | None = None) -> None:
    fee_id = replaced_by.id if isinstance(replaced_by, Fee) else replaced_by
    ledger = bridge.ledger("by hand")
    try:
        with ledger.write() as tx:
            payments.resolve(tx, exception_id, "the bursar", "spoke with the library", fee_id)
    finally:
        ledger.close()


def states(bridge: Bridge) -> list[str]:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows("SELECT state FROM reversal WHERE institution = :i ORDER BY reversal_id")
    ledger.close()
    return [row["state"] for row in rows]


def life(bridge: Bridge, fee: Fee) -> str:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        found = "\n".join(text for _, text in story.of_fee(tx, fee.id))
    ledger.close()
    return found


def equal(bridge: Bridge) -> None:
    """Both sides have the same, by their own books and by ours, and nothing is listed."""
    assert bridge.books().unequal == {}
    balances = bridge.balances()
    assert (balances["unexplained"], balances["explained"], balances["on_its_way"]) == (0, 0, 0)
    assert balances["alma"] == balances["peoplesoft"] == bridge.books().alma_cents
    assert bridge.exceptions() == {}


# -- before it was posted ------------------------------------------------------------------------------


def test_taken_back_while_its_outcome_was_unclear_it_is_not_tried_again(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    both.far.faults.add_http("drop_before", method="POST", times=None)
    both.far.clock.advance(hours=24)
    both.far.write_query_output()
    both.sis_to_alma()
    assert kinds(both) == ["outcome of the posting unclear"]
    # Alma can't be asked before it stands as taken back.
    both.far.peoplesoft.bounce(payment.payment_id)
    for minutes in (1, 1):
        both.far.clock.advance(seconds=60 * minutes)
        both.far.write_query_output(bounced="omit")
        both.sis_to_alma()
    assert states(both) == ["standing"]
    both.far.faults.clear()
    calls = sum(call.method == "POST" for call in both.far.api.calls)
    night(both)

    assert sum(call.method == "POST" for call in both.far.api.calls) == calls
    assert applied(fee) == [[]]
    equal(both)


def test_taken_back_before_it_was_posted_is_never_posted(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    both.far.alma.dispute(fee.id)
    night(both)
    assert kinds(both) == ["fee is INDISPUTE in Alma"]
    both.far.peoplesoft.bounce(payment.payment_id)
    night(both)
    assert states(both) == ["seen_once"]
    night(both)
    assert states(both) == ["standing"]
    both.far.alma.restore(fee.id)
    night(both)

    assert applied(fee) == [[]]
    equalise(both)
    equal(both)


def test_the_part_that_was_not_posted_is_taken_back_first(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee, 1500)
    night(both)
    assert listed(both, "paid more than Alma's balance")[0][1] == 500
    both.far.peoplesoft.bounce(payment.payment_id, 500)
    night(both)
    night(both)
    equal(both)

    both.far.peoplesoft.bounce(payment.payment_id, 300)
    night(both)
    night(both)
    assert [(cents, fee_id) for _, cents, fee_id in listed(both)] == [(300, fee.id)]
    assert both.balances()["explained"] == -300
    assert both.books().fees[fee.id].difference_cents == -300


def test_of_a_listed_rest_that_is_taken_back_in_part_the_other_part_stays_listed(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee, 1500)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id, 200)
    night(both)
    night(both)

    assert [cents for _, cents, _ in listed(both, OVERPAID)] == [300]
    resolve(both, listed(both, OVERPAID)[0][0])
    night(both)
    assert both.exceptions() == {}


def test_in_flight_waits_until_its_outcome_is_known(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    both.far.faults.add_http("drop_after", method="POST")
    both.far.write_query_output()
    both.sis_to_alma()
    assert kinds(both) == ["outcome of the posting unclear"]
    both.far.peoplesoft.bounce(payment.payment_id)
    both.far.clock.advance(seconds=60)
    both.far.write_query_output()
    both.sis_to_alma()
    both.far.clock.advance(seconds=60)
    both.far.write_query_output()
    both.sis_to_alma()
    assert (states(both), kinds(both)) == (["standing"], ["outcome of the posting unclear"])

    night(both)

    assert applied(fee) == [[1000]]
    assert kinds(both) == [TAKEN_BACK]


def test_in_flight_that_was_not_applied_is_not_tried_again(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    both.far.faults.add_http("drop_before", method="POST")
    both.far.write_query_output()
    both.sis_to_alma()
    both.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        both.far.clock.advance(seconds=60)
        both.far.write_query_output()
        both.sis_to_alma()

    night(both)
    night(both)

    assert applied(fee) == [[]]
    equal(both)


# -- after it was posted -------------------------------------------------------------------------------


def test_taken_back_after_it_was_posted_is_listed_and_explains_the_difference(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id)
    night(both)
    assert both.exceptions() == {}
    night(both)

    ((_, cents, fee_id),) = listed(both)
    assert (cents, fee_id) == (1000, fee.id)
    balances = both.balances()
    assert (balances["explained"], balances["unexplained"]) == (-1000, 0)
    assert both.unexplained() == {}
    assert balances["peoplesoft"] == both.books().peoplesoft_cents
    equalise(both)
    night(both)
    assert applied(fee) == [[1000]]
    assert both.books().fees[fee.id].charged_cents == 1000
    assert "taken back by system" in life(both, fee)


def test_gone_one_night_and_back_the_next_is_nothing(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    pay(both, fee, 400)
    night(both)
    both.far.clock.advance(hours=24)
    empty = both.far.path("/sfs/outbound/EMPTY.csv")
    empty.write_text("Emplid,Payment ID,Date Paid,Reference Number,Paid Amount\n")
    now = both.far.clock.now().timestamp()
    os.utime(empty, (now, now))
    both.sis_to_alma()
    assert states(both) == ["seen_once"]
    night(both)

    assert (states(both), applied(fee)) == (["withdrawn"], [[400]])
    equal(both)


def test_a_standing_one_whose_payment_is_back_is_closed_by_the_system(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id)
    night(both)
    night(both)
    assert kinds(both) == [TAKEN_BACK]
    item = both.far.peoplesoft.item_by_reference(f"ALMA{fee.id}")
    payment.amount_cents, payment.bounced_cents = 1000, 0
    both.far.peoplesoft._apply(payment, [item])
    night(both)

    assert states(both) == ["withdrawn"]
    equal(both)
    # And the very same once more is listed once more.
    both.far.peoplesoft.bounce(payment.payment_id)
    night(both)
    night(both)
    assert kinds(both) == [TAKEN_BACK]


def test_another_payment_of_the_student_stands_in(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    first = pay(both, fee)
    night(both)
    both.far.peoplesoft.bounce(first.payment_id)
    night(both)
    second = pay(both, fee)
    night(both)
    assert applied(fee) == [[1000]]
    equal(both)
    night(both)
    equal(both)

    both.far.peoplesoft.bounce(second.payment_id)
    night(both)
    night(both)
    assert [(cents, fee_id) for _, cents, fee_id in listed(both)] == [(1000, fee.id)]
    assert both.unexplained() == {}
    assert both.balances()["explained"] == -1000


def test_a_payment_on_an_open_fee_that_stands_in_leaves_the_books_equal(small: Bridge) -> None:
    (fee,) = charged(small, 2000)
    first = pay(small, fee, 1000)
    night(small)
    small.far.peoplesoft.bounce(first.payment_id)
    night(small)
    small.far.alma.dispute(fee.id)
    pay(small, fee, 1000)
    night(small)
    small.far.alma.restore(fee.id)
    night(small)
    equalise(small)

    assert applied(fee) == [[1000]]
    equal(small)


def test_an_overpaid_part_that_is_back_is_to_be_given_back_again(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee, 1500)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id, 500)
    night(both)
    night(both)
    assert both.exceptions() == {}
    payment.amount_cents, payment.bounced_cents = 1500, 0
    night(both)

    assert [cents for _, cents, _ in listed(both, "paid more than Alma's balance")] == [500]
    assert kinds(both) == ["paid more than Alma's balance"]
    assert applied(fee) == [[1000]]


def test_a_payment_that_is_back_frees_the_one_that_stood_in(both: Bridge) -> None:
    (fee,) = charged(both, 2000)
    first = pay(both, fee, 1000)
    night(both)
    both.far.peoplesoft.bounce(first.payment_id)
    night(both)
    pay(both, fee, 1000)
    night(both)
    assert applied(fee) == [[1000]]
    equal(both)
    first.amount_cents, first.bounced_cents = 1000, 0
    both.far.peoplesoft._apply(first, [both.far.peoplesoft.item_by_reference(f"ALMA{fee.id}")])
    night(both)

    assert applied(fee) == [[1000, 1000]]
    assert fee.status == "CLOSED"
    equal(both)


def test_a_payment_that_is_back_after_it_was_settled_is_listed(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id, 700)
    night(both)
    night(both)
    ((exception_id, _, _),) = listed(both)
    both.far.peoplesoft.pay(f"ALMA{fee.id}", 700)  # what the office enters to make the item good
    resolve(both, exception_id)
    night(both)
    payment.amount_cents, payment.bounced_cents = 1000, 0
    night(both)

    back = listed(both, "payment is back after it was settled as taken back")
    assert [(cents, fee_id) for _, cents, fee_id in back] == [(700, fee.id)]
    assert TAKEN_BACK not in kinds(both)
    assert applied(fee) == [[1000]]


def test_a_repair_reads_old_files_again_and_they_say_nothing_of_later_payments(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    for _ in range(2):
        night(small)
    pay(small, fee)
    night(small)
    Path(small.url.removeprefix("sqlite:///")).unlink()
    for _ in range(2):
        with closing(small.ledger()) as ledger:
            ledger.migrate()
            with ledger.lease("out", "repair") as out, ledger.lease("back", "repair") as back:
                repair(ledger, out, back, small.campus, small.folder, small.folder, small.api)
        assert states(small) == []
        small.sis_to_alma()
    night(small)
    assert applied(fee) == [[1000]]
    equal(small)


# -- the file ------------------------------------------------------------------------------------------


def test_more_than_the_limit_make_the_file_a_bad_one(tmp_path: Path, ledger_url: str) -> None:
    bridge = Bridge(
        tmp_path, students=4, fees=0, url=ledger_url,
        settings=lambda text: cumulative(text).replace("cumulative", "reversal_limit = 2\ncumulative"),
    )  # fmt: skip
    fees = charged(bridge, 100, 200, 300, 400)
    made = [pay(bridge, fee) for fee in fees]
    night(bridge)
    for payment in made[:3]:
        bridge.far.peoplesoft.bounce(payment.payment_id)
    bridge.far.peoplesoft.pay(f"ALMA{fees[0].id}", 100)
    night(bridge)

    assert kinds(bridge) == ["payment file refused"]
    assert states(bridge) == []
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        (row,) = exceptions.open_items(tx)
    ledger.close()
    assert "lacks 3 payments" in row["detail"]
    assert "6.00 in all" in row["detail"]
    # The next ones are as bad; after the setting is changed for good, they are taken.
    night(bridge)
    assert states(bridge) == []
    settings = bridge.campus.sis_to_alma.model_copy(update={"reversal_limit": 3})
    bridge.campus = bridge.campus.model_copy(update={"sis_to_alma": settings})
    night(bridge)
    assert states(bridge) == ["standing"] * 3


def test_in_an_output_of_some_days_an_absent_payment_says_nothing(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0)
    (fee,) = charged(bridge, 1000)
    pay(bridge, fee, 400)
    night(bridge)
    for cents in (100, 200):
        bridge.far.clock.advance(hours=24)
        pay(bridge, fee, cents)
        bridge.far.write_query_output(cumulative=False)
        bridge.sis_to_alma()

    assert states(bridge) == []
    equal(bridge)


def test_in_an_output_of_some_days_a_lower_amount_is_listed_at_once(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee, 400)
    night(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id, 100)
    night(bridge)
    assert (states(bridge), kinds(bridge)) == (["seen_once"], ["payment with another amount"])
    night(bridge)

    assert (states(bridge), kinds(bridge)) == (["standing"], [TAKEN_BACK])
    assert bridge.balances()["explained"] == -100


def test_lower_and_lower_again(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id, 300)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id, 700)
    night(both)
    assert [cents for _, cents, _ in listed(both)] == [300]
    assert states(both) == ["standing", "seen_once"]
    night(both)

    assert sorted(cents for _, cents, _ in listed(both)) == [300, 700]
    assert both.balances()["explained"] == -1000


def test_the_same_file_again_is_no_second_one_and_an_older_one_says_nothing(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    both.far.clock.advance(hours=24)
    older = both.far.path(both.far.write_query_output())
    content, times = older.read_bytes(), older.stat()
    both.sis_to_alma()
    both.far.peoplesoft.bounce(payment.payment_id)
    both.far.clock.advance(hours=24)
    newer = both.far.path(both.far.write_query_output())
    kept, then = newer.read_bytes(), newer.stat()
    both.sis_to_alma()
    for _ in range(3):
        newer.write_bytes(kept)
        os.utime(newer, (then.st_mtime, then.st_mtime))
        both.sis_to_alma()
    assert states(both) == ["seen_once"]
    older.write_bytes(content)
    os.utime(older, (times.st_mtime, times.st_mtime))
    both.sis_to_alma()
    assert states(both) == ["seen_once"]
    night(both)
    older.write_bytes(content)
    os.utime(older, (times.st_mtime, times.st_mtime))
    both.sis_to_alma()

    assert states(both) == ["standing"]
    assert kinds(both) == [TAKEN_BACK]


def test_a_line_that_can_not_be_read_is_no_absence(small: Bridge) -> None:
    one, two = charged(small, 1000, 700)
    payment = pay(small, one)
    pay(small, two)
    night(small)
    for _ in range(2):
        small.far.clock.advance(hours=24)
        path = small.far.path(small.far.write_query_output())
        text = path.read_text()
        path.write_text(text.replace("10.00", "10,00 USD".replace(",", ".")))
        small.sis_to_alma()

    assert payment.payment_id in text
    assert (states(small), kinds(small)) == ([], ["payment line refused"])


@pytest.mark.parametrize("shape", ["zero", "omit"])
def test_a_nought_is_as_good_as_absent(shape: str, small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    payment = pay(small, fee)
    night(small)
    small.far.peoplesoft.bounce(payment.payment_id)
    night(small, shape)
    night(small, shape)

    assert states(small) == ["standing"]
    assert TAKEN_BACK in kinds(small)


def test_a_negative_line_stays_refused_and_listed(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    payment = pay(small, fee)
    night(small)
    small.far.peoplesoft.bounce(payment.payment_id)
    night(small, "negative")
    night(small, "negative")

    assert (states(small), kinds(small)) == ([], ["payment line refused"])


# -- while it is open, and how it is settled -------------------------------------------------------------


def bounced(bridge: Bridge, cents: int = 1000) -> tuple[Fee, str]:
    """A fee paid in PeopleSoft, posted, and taken back; and what is listed of it."""
    (fee,) = charged(bridge, cents)
    payment = pay(bridge, fee)
    night(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    night(bridge)
    night(bridge)
    ((exception_id, _, _),) = listed(bridge)
    return fee, exception_id


def test_new_fees_of_that_student_wait_and_credits_and_raises_go_on(both: Bridge) -> None:
    other, raised = charged(both, 500, 600)
    _, exception_id = bounced(both)
    new = both.far.alma.add_fee(both.far.students[0], 800)
    elsewhere = both.far.alma.add_fee(both.far.students[1], 900)
    both.far.alma.waive_at_desk(other.id, 200)
    both.far.alma.raise_fee(raised.id, 50)
    equalise(both)

    books = both.books().fees
    assert both.exceptions()[f"fee {new.id}"] == WAITS
    assert (books[new.id].charged_cents, books[elsewhere.id].charged_cents) == (0, 900)
    assert (books[other.id].credited_cents, books[raised.id].charged_cents) == (200, 650)
    resolve(both, exception_id)
    equalise(both)
    assert both.books().fees[new.id].charged_cents == 800
    assert both.exceptions() == {}


def test_settled_by_a_person_it_is_not_listed_again(both: Bridge) -> None:
    fee, exception_id = bounced(both)
    both.far.peoplesoft.pay(f"ALMA{fee.id}", 1000)  # what the office enters to make the item good
    resolve(both, exception_id)
    night(both)
    assert TAKEN_BACK not in kinds(both)
    assert states(both) == ["settled"]
    assert both.balances()["unexplained"] == 0


def test_back_for_one_file_after_it_was_settled_is_not_listed_any_more_when_it_is_gone_again(
    both: Bridge,
) -> None:
    fee = charged(both, 1000)[0]
    payment = pay(both, fee)
    night(both)
    both.far.clock.advance(hours=24)
    older = both.far.path(both.far.write_query_output())
    content = older.read_bytes()
    both.sis_to_alma()
    both.far.peoplesoft.bounce(payment.payment_id)
    night(both)
    night(both)
    resolve(both, listed(both)[0][0])
    night(both)
    assert both.exceptions() == {}
    both.far.clock.advance(hours=24)
    both.folder.put(f"/sfs/outbound/{older.name}", content)  # an old file, sent again with a new time
    both.sis_to_alma()
    assert [cents for _, cents, _ in listed(both, BACK)] == [1000]
    night(both)

    assert both.exceptions() == {}
    assert states(both) == ["settled"]


def test_what_was_paid_too_much_is_listed_again_when_all_is_back_after_it_was_settled(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee, 1500)
    night(both)
    both.far.peoplesoft.bounce(payment.payment_id)
    night(both)
    night(both)
    assert [cents for _, cents, _ in listed(both)] == [1000]
    assert listed(both, OVERPAID) == []
    resolve(both, listed(both)[0][0])
    night(both)
    assert both.exceptions() == {}
    payment.amount_cents, payment.bounced_cents = 1500, 0
    for _ in range(2):
        night(both)

        assert [cents for _, cents, _ in listed(both, BACK)] == [1000]
        assert [cents for _, cents, _ in listed(both, OVERPAID)] == [500]


def test_what_was_settled_is_not_listed_once_more_when_an_older_file_was_sent_again(both: Bridge) -> None:
    """What was never posted is taken back first; it is not taken back in place of what a person has settled."""
    (fee,) = charged(both, 400)
    payment = pay(both, fee, 616)
    both.far.clock.advance(hours=24)
    older = both.far.path(both.far.write_query_output())
    content = older.read_bytes()
    both.sis_to_alma()
    both.far.peoplesoft.bounce(payment.payment_id, 477)
    night(both)
    night(both)
    assert [cents for _, cents, _ in listed(both)] == [261]
    resolve(both, listed(both)[0][0])
    # What is taken back anew after the first time is withdrawn by the second one.
    for _ in range(3):
        both.far.clock.advance(hours=24)
        both.folder.put(f"/sfs/outbound/{older.name}", content)
        both.sis_to_alma()
        assert [cents for _, cents, _ in listed(both, BACK)] == [261]
        night(both)
        night(both)

        assert both.exceptions() == {}
        assert both.balances()["unexplained"] == 0


def test_a_fee_made_anew_takes_the_old_ones_place(both: Bridge) -> None:
    old, exception_id = bounced(both)
    new = both.far.alma.add_fee(both.far.students[0], 1000)
    equalise(both)
    assert both.exceptions()[f"fee {new.id}"] == WAITS
    resolve(both, exception_id, new)
    equalise(both)

    books = both.books()
    assert (books.fees[old.id].charged_cents, books.fees[new.id].charged_cents) == (1000, 0)
    assert books.alma_cents == books.peoplesoft_cents == 1000
    balances = both.balances()
    assert (balances["alma"], balances["peoplesoft"], balances["unexplained"]) == (1000, 1000, 0)
    assert both.exceptions() == {}

    pay(both, old, 400)
    night(both)
    assert applied(old, new) == [[1000], [400]]
    both.far.alma.waive_at_desk(new.id, 100)
    equalise(both)
    assert both.books().fees[old.id].credited_cents == 100
    both.far.alma.raise_fee(new.id, 50)
    equalise(both)
    assert both.books().fees[old.id].charged_cents == 1050
    pay(both, old)
    night(both)
    night(both)

    assert applied(old, new) == [[1000], [400, 550]]
    assert new.status == "CLOSED"
    books = both.books()
    assert books.alma_cents == books.peoplesoft_cents == 0
    equalise(both)
    assert both.exceptions() == {}
    assert both.balances()["unexplained"] == 0
    assert f"fee {old.id}" in life(both, new)
    assert new.id in life(both, old)


def test_of_the_fee_made_anew_a_payment_is_taken_back_too(both: Bridge) -> None:
    old, exception_id = bounced(both)
    new = both.far.alma.add_fee(both.far.students[0], 1000)
    equalise(both)
    resolve(both, exception_id, new)
    again = pay(both, old)
    night(both)
    assert applied(old, new) == [[1000], [1000]]
    both.far.peoplesoft.bounce(again.payment_id)
    night(both)
    night(both)
    ((second_id, cents, fee_id),) = listed(both)
    assert (cents, fee_id) == (1000, new.id)
    assert both.balances()["explained"] == -1000
    newest = both.far.alma.add_fee(both.far.students[0], 1000)
    equalise(both)
    resolve(both, second_id, newest)
    pay(both, old)
    night(both)
    equalise(both)

    assert applied(old, new, newest) == [[1000], [1000], [1000]]
    assert both.books().fees[old.id].charged_cents == 1000
    assert both.exceptions() == {}
    assert both.balances()["unexplained"] == 0


def test_what_can_not_stand_for_it_is_refused_with_the_reason(both: Bridge) -> None:
    (before,) = charged(both, 300)
    old, exception_id = bounced(both)
    elsewhere = both.far.alma.add_fee(both.far.students[1], 1000)
    larger = both.far.alma.add_fee(both.far.students[0], 1001)
    equalise(both)
    credit = both.far.alma.give_credit(both.far.students[0], 1000)
    equalise(both)
    unseen = both.far.alma.add_fee(both.far.students[0], 1000)

    refused: list[tuple[Fee, str]] = [
        (before, "charged for it already"),
        (elsewhere, "another account"),
        (larger, "more than the 10.00 taken back"),
        (unseen, "no run has seen it"),
        (credit, "it is a CREDIT fee"),
        (old, "an id of its own"),
    ]
    for fee, why in refused:
        with pytest.raises(Fatal, match=why):
            resolve(both, exception_id, fee)
    assert [cents for _, cents, _ in listed(both)] == [1000]
    waiting = next(iter(listed(both, WAITS)))
    with pytest.raises(Fatal, match="made anew"):
        resolve(both, waiting[0], unseen)
    equalise(both)
    resolve(both, exception_id, unseen)
    equalise(both)
    assert both.books().fees[unseen.id].charged_cents == 0


def test_one_fee_stands_for_one_payment_taken_back(both: Bridge) -> None:
    """For two it would be owed once in Alma and twice in PeopleSoft."""
    fees = charged(both, 1000, 1000)
    made = [pay(both, fee) for fee in fees]
    night(both)
    for payment in made:
        both.far.peoplesoft.bounce(payment.payment_id)
    night(both)
    night(both)
    new = both.far.alma.add_fee(both.far.students[0], 1000)
    equalise(both)
    (first, second) = [exception_id for exception_id, _, _ in listed(both)]
    resolve(both, first, new)

    with pytest.raises(Fatal, match="stands for another taken-back payment already"):
        resolve(both, second, new)
    assert [exception_id for exception_id, _, _ in listed(both)] == [second]
    assert both.books().fees[new.id].charged_cents == 0


def test_a_smaller_fee_made_anew_lowers_the_old_item(small: Bridge) -> None:
    old, exception_id = bounced(small)
    new = small.far.alma.add_fee(small.far.students[0], 800)
    equalise(small)
    resolve(small, exception_id, new)
    equalise(small)

    assert small.books().fees[old.id].credited_cents == 200
    assert small.books().alma_cents == small.books().peoplesoft_cents == 800
    assert small.exceptions() == {}


def test_a_restored_ledger_charges_nothing_for_a_fee_made_anew(small: Bridge) -> None:
    """Without its note in the archive, what a person has said of it has to be said again."""
    old, exception_id = bounced(small)
    new = small.far.alma.add_fee(small.far.students[0], 1000)
    equalise(small)
    resolve(small, exception_id, new)
    pay(small, old)
    night(small)
    assert applied(old, new) == [[1000], [1000]]

    (small.folder.root.parent / "ledger.db").unlink()
    for rest in small.folder.root.parent.glob("ledger.db-*"):
        rest.unlink()
    (note,) = small.folder.path("/sfs/archive").glob("payment_*.note")
    note.unlink()
    ledger = small.ledger("repair")
    ledger.migrate()
    with ledger.write() as tx:
        institutions.open_clean(tx, "the bursar")
    with ledger.lease("out", "repair") as out, ledger.lease("back", "repair") as back:
        repair(ledger, out, back, small.campus, small.folder, small.folder, small.api)
    ledger.close()
    small.far.clock.advance(seconds=60)
    small.far.refresh_analytics()
    small.alma_to_sis("all_users")
    assert small.far.load_inbound() == []
    assert kinds(small) == sorted(["paid by us and never charged", TAKEN_BACK])
    small.sis_to_alma()
    small.alma_to_sis("all_users")
    assert small.far.load_inbound() == []
    ((exception_id, cents, fee_id),) = listed(small)
    assert (cents, fee_id) == (1000, old.id)
    resolve(small, exception_id, new)
    small.alma_to_sis("all_users")
    night(small)
    small.alma_to_sis("all_users")

    assert small.far.load_inbound() == []
    assert applied(old, new) == [[1000], [1000]]
    assert small.books().fees[new.id].charged_cents == 0
    assert small.exceptions() == {}
    assert small.balances()["unexplained"] == 0


# -- what PeopleSoft shows of the items ---------------------------------------------------------------------


def test_lines_about_a_fee_made_anew_are_seen_on_the_old_ones_item(tmp_path: Path, ledger_url: str) -> None:
    bridge = Bridge(
        tmp_path, students=4, fees=0, url=ledger_url, settings=lambda text: with_items(cumulative(text))
    )
    old, exception_id = bounced(bridge)
    new = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    equalise(bridge)
    resolve(bridge, exception_id, new)
    bridge.far.alma.waive_at_desk(new.id, 300)
    bridge.far.write_query_output(kind="applied")
    bridge.sis_to_alma()
    equalise(bridge)
    bridge.far.clock.advance(seconds=60)
    bridge.far.write_query_output(kind="applied")
    night(bridge)

    assert bridge.books().fees[old.id].credited_cents == 300
    assert bridge.exceptions() == {}
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM line WHERE institution = :i AND confirmed_at IS NULL") == 0
    ledger.close()


# -- crashes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["rename", "renamed", "read", "list"])
def test_a_crash_between_the_steps(action: str, small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    payment = pay(small, fee)
    night(small)
    small.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        small.far.clock.advance(hours=24)
        small.far.write_query_output()
        small.folder.before = crash_once(action)
        with pytest.raises(Retriable):
            small.sis_to_alma()
        small.folder.before = lambda _action, _path: None
        small.far.clock.advance(seconds=16 * 60)
        small.sis_to_alma()

    assert states(small) == ["standing"]
    assert [cents for _, cents, _ in listed(small)] == [1000]
    assert applied(fee) == [[1000]]


def crash_once(action: str) -> Callable[[str, str], None]:
    done: list[str] = []

    def before(what: str, path: str) -> None:
        if what == action and "outbound" in path and not done:
            done.append(path)
            raise Retriable("The connection broke off.")

    return before


# -- the amounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paid", "posted", "amounts", "expected"),
    [
        (1000, 0, [1000], [0]),
        (1000, 1000, [1000], [1000]),
        (1000, 600, [400], [0]),
        (1000, 600, [500], [100]),
        (1000, 600, [300, 300, 400], [0, 200, 400]),
    ],
)
def test_what_was_never_posted_is_consumed_first(
    paid: int, posted: int, amounts: list[int], expected: list[int]
) -> None:
    rows = [{"amount": cents, "covered": 0, "settled": 0} for cents in amounts]
    assert excess(paid, posted, rows) == expected


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"amount": 261, "covered": 0, "settled": 261}, [0, 0]),
        ({"amount": 261, "covered": 261, "settled": 0}, [0, 0]),
        ({"amount": 300, "covered": 100, "settled": 161}, [0, 39]),
        ({"amount": 477, "covered": 0, "settled": 100}, [161, 216]),
    ],
)
def test_what_is_dealt_with_consumes_nothing_that_was_never_posted(
    first: dict[str, int], expected: list[int]
) -> None:
    assert excess(616, 400, [first, {"amount": 216, "covered": 0, "settled": 0}]) == expected


# -- back and gone again --------------------------------------------------------------------------------------


def again(bridge: Bridge, payment: Payment) -> None:
    """The cheque is presented again, and is good."""
    payment.amount_cents += payment.bounced_cents
    payment.bounced_cents = 0
    bridge.far.peoplesoft._apply(payment, list(bridge.far.peoplesoft.items.values()))


@pytest.mark.parametrize("anew", [True, False])
def test_a_payment_that_stood_in_and_bounced_too_is_posted_when_it_is_back(both: Bridge, anew: bool) -> None:
    (fee,) = charged(both, 1000)
    first = pay(both, fee)
    night(both)
    both.far.peoplesoft.bounce(first.payment_id)
    night(both)
    second = pay(both, fee)
    night(both)
    both.far.peoplesoft.bounce(second.payment_id)
    night(both)
    night(both)
    ((exception_id, cents, _),) = listed(both)
    assert cents == 1000
    new = both.far.alma.add_fee(both.far.students[0], 1000) if anew else None
    equalise(both)
    resolve(both, exception_id, new)
    equalise(both)
    again(both, second)
    for _ in range(2):
        night(both)
        equalise(both)

    if new is not None:
        assert applied(fee, new) == [[1000], [1000]]
        assert both.exceptions() == {}
        assert both.books().alma_cents == both.books().peoplesoft_cents == 0
    else:
        # What was taken back was made good another way, so the money is too much; it is not forgotten.
        assert kinds(both) == ["fee already settled in Alma"]
    assert both.balances()["unexplained"] == 0


def test_a_cheque_that_bounces_again_after_both_steps_were_settled_is_listed_again(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    payment = pay(both, fee)
    night(both)
    for _ in range(3):
        both.far.peoplesoft.bounce(payment.payment_id)
        night(both)
        night(both)
        ((exception_id, cents, _),) = listed(both)
        assert cents == 1000
        resolve(both, exception_id)
        again(both, payment)
        night(both)
        ((exception_id, cents, _),) = listed(both, BACK)
        assert cents == 1000
        resolve(both, exception_id)
        night(both)
        assert both.exceptions() == {}
    equalise(both)
    equal(both)


def test_of_a_cheque_made_good_in_part_by_a_payment_and_in_part_by_hand_all_is_undone(both: Bridge) -> None:
    (fee,) = charged(both, 2000)
    cheque = pay(both, fee, 1000)
    night(both)
    both.far.peoplesoft.bounce(cheque.payment_id)
    night(both)
    pay(both, fee, 400)
    night(both)
    ((exception_id, cents, _),) = listed(both)
    assert (cents, applied(fee)) == (600, [[1000]])
    resolve(both, exception_id)
    again(both, cheque)
    night(both)
    assert applied(fee) == [[1000, 400]]
    ((exception_id, cents, _),) = listed(both, BACK)
    assert cents == 600
    resolve(both, exception_id)
    night(both)
    equalise(both)
    equal(both)

    both.far.peoplesoft.bounce(cheque.payment_id)
    night(both)
    night(both)
    assert [cents for _, cents, _ in listed(both)] == [1000]
    assert applied(fee) == [[1000, 400]]


def test_of_two_settled_steps_only_what_is_back_is_undone(both: Bridge) -> None:
    (fee,) = charged(both, 1000)
    cheque = pay(both, fee)
    night(both)
    for cents in (400, 600):
        both.far.peoplesoft.bounce(cheque.payment_id, cents)
        night(both)
        night(both)
        resolve(both, listed(both)[0][0])
    cheque.amount_cents, cheque.bounced_cents = 600, 400
    both.far.peoplesoft._apply(cheque, list(both.far.peoplesoft.items.values()))
    night(both)
    ((exception_id, cents, _),) = listed(both, BACK)
    assert cents == 600
    resolve(both, exception_id)
    night(both)

    assert (states(both), both.exceptions()) == (["settled", "withdrawn"], {})
    assert life(both, fee).count("of it was undone") == 1


def leave(bridge: Bridge, name: str, *rows: tuple[str, ...], at: float | None = None) -> None:
    """Leave a file by hand, written now or at a time."""
    head = "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount,Item Type"
    text = "".join(",".join(row) + "\r\n" for row in [tuple(head.split(",")), *rows])
    bridge.folder.put(f"/sfs/outbound/{name}", text.encode())
    if at is not None:
        os.utime(bridge.folder.path(f"/sfs/outbound/{name}"), (at, at))


@pytest.mark.parametrize(("hours", "state"), [(1, "seen_once"), (24, "standing")])
def test_the_very_same_file_sent_twice_is_no_second_one(small: Bridge, hours: int, state: str) -> None:
    (fee,) = charged(small, 1000)
    small.far.alma.dispute(fee.id)
    pay(small, fee)
    night(small)
    for _ in range(2):
        small.far.clock.advance(hours=hours)
        leave(small, "PAID.csv")
        small.sis_to_alma()
    assert states(small) == [state]


def test_one_name_with_other_content_is_a_second_file(small: Bridge) -> None:
    fee, other = charged(small, 1000, 500)
    small.far.alma.dispute(fee.id)
    pay(small, fee)
    night(small)
    small.far.clock.advance(hours=1)
    leave(small, "PAID.csv")
    small.sis_to_alma()
    small.far.clock.advance(hours=1)
    student = small.far.students[0].primary_id
    leave(small, "PAID.csv", (student, "77", "11/24/2026", f"ALMA{other.id}", "1.00", "x"))
    small.sis_to_alma()
    assert states(small) == ["standing"]


def test_an_older_file_that_comes_late_takes_nothing_off_the_list(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0)
    (fee,) = charged(bridge, 2000)
    student = bridge.far.students[0].primary_id

    def row(amount: str) -> tuple[str, ...]:
        return (student, "77", "11/24/2026", f"ALMA{fee.id}", amount, "x")

    bridge.far.clock.advance(hours=24)
    leave(bridge, "ONE.csv", row("10.00"))
    bridge.sis_to_alma()
    older = bridge.seconds() + 3600
    bridge.far.clock.advance(hours=24)
    leave(bridge, "THREE.csv", row("15.00"))
    bridge.sis_to_alma()
    assert kinds(bridge) == ["payment with another amount"]
    leave(bridge, "TWO.csv", row("10.00"), at=older)
    bridge.sis_to_alma()
    assert kinds(bridge) == ["payment with another amount"]


def test_one_cent_too_much_is_listed(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    pay(small, fee, 1001)
    night(small)

    assert applied(fee) == [[1000]]
    assert [cents for _, cents, _ in listed(small, OVERPAID)] == [1]


def test_a_payment_of_unclear_outcome_that_was_taken_back_is_listed_with_its_amount(small: Bridge) -> None:
    """What may lie in Alma is all of it, whatever PeopleSoft has left of it."""
    (fee,) = charged(small, 1000)
    payment = pay(small, fee)
    small.far.faults.add_http("drop_after", method="POST")
    small.far.write_query_output()
    small.sis_to_alma()
    small.far.peoplesoft.bounce(payment.payment_id)
    for minutes in (1, 2):
        small.far.clock.advance(seconds=60 * minutes)
        small.far.write_query_output(bounced="omit")
        small.sis_to_alma()

    assert [cents for _, cents, _ in listed(small, "outcome of the posting unclear")] == [1000]
