"""Payments from PeopleSoft to Alma on the simulated campus: whatever breaks, each is applied once and none is lost.

The witness is Alma's own record of the transactions on a fee.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from alma_hook import payment_intake, payments
from alma_hook.alma import AlmaApi, Request
from alma_hook.alma_answers import Reply
from alma_hook.errors import Fatal, LeaseTaken, OutcomeUnknown, QuotaSpent, Refused, Retriable, SendingStopped
from alma_hook.ledger import Lease, Ledger, exceptions, story
from alma_hook.ledger import payments as entries
from alma_hook.payment_intake import TakeInCounts
from alma_hook.payments import PostCounts
from simulator import wire
from simulator.alma import NOT_AT_DESK
from simulator.alma_records import Fee
from tests.bridge import Bridge

QUIET = 11 * 60  # seconds; the settings' quiet period is ten minutes
HEAD = "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount,Item Type"


@pytest.fixture
def small(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0)


@pytest.fixture
def small_on_both(tmp_path: Path, ledger_url: str) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0, url=ledger_url)


def charged(bridge: Bridge, *cents: int, student: int | None = None) -> list[Fee]:
    """Fees in Alma that PeopleSoft has on its items: a student each, or all on one."""
    fees = [
        bridge.far.alma.add_fee(bridge.far.students[student if student is not None else place], value)
        for place, value in enumerate(cents)
    ]
    equalise(bridge)
    return fees


def equalise(bridge: Bridge) -> None:
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    assert all(result.loaded for result in bridge.far.load_inbound())


def student_pays(bridge: Bridge, fee: Fee, cents: int | None = None) -> None:
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", cents)


def post(bridge: Bridge) -> tuple[TakeInCounts, PostCounts]:
    """PeopleSoft writes its cumulative output, and the DAG runs."""
    bridge.far.write_query_output()
    return bridge.sis_to_alma()


def leave(bridge: Bridge, *rows: tuple[str, str, str, str], name: str = "BY_HAND.csv") -> None:
    """Leave a file of (EMPLID, payment id, reference, amount) in PeopleSoft's output folder, newer than those before."""
    text = "".join(f"{e},{p},11/22/2026,{r},{a},300000000001\r\n" for e, p, r, a in rows)
    bridge.far.clock.advance(seconds=1)
    bridge.folder.put(f"/sfs/outbound/{name}", f"{HEAD}\r\n{text}".encode())


def applied(fee: Fee) -> list[int]:
    """What was paid on a fee by the API, by Alma's own record."""
    return [t.amount_cents for t in fee.transactions if t.kind == "PAYMENT" and t.received_by == NOT_AT_DESK]


def marks(*fees: Fee) -> list[str | None]:
    return [
        t.external_transaction_id for fee in fees for t in fee.transactions if t.received_by == NOT_AT_DESK
    ]


def states(bridge: Bridge) -> list[str]:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        found = [
            row["state"]
            for row in tx.rows("SELECT state FROM payment WHERE institution = :i ORDER BY payment_no")
        ]
    ledger.close()
    return found


def kinds(bridge: Bridge) -> list[str]:
    return sorted(bridge.exceptions().values())


def listed_cents(bridge: Bridge) -> list[tuple[str, int]]:
    """Kind and cents of what is listed."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        found = [(row["kind"], int(row["amount"])) for row in exceptions.open_items(tx)]
    ledger.close()
    return sorted(found)


def run_through(bridge: Bridge) -> None:
    """Run until nothing is left to do: now, and again when the quiet period and any lease are over."""
    for _ in range(3):
        with suppress(Retriable, SendingStopped):
            bridge.sis_to_alma()
        bridge.far.clock.advance(seconds=16 * 60)


def assert_posted_once(bridge: Bridge, paid: dict[str, list[int]]) -> None:
    """Alma holds exactly these payments of ours by fee id, and both sides are equal."""
    fees = bridge.far.alma.fees
    assert {fee_id: sorted(applied(fees[fee_id])) for fee_id in paid} == {
        f: sorted(v) for f, v in paid.items()
    }
    keys = marks(*fees.values())
    assert len(set(keys)) == len(keys) == sum(map(len, paid.values()))
    assert set(states(bridge)) == {"posted"}
    assert bridge.exceptions() == {}
    assert bridge.books().unequal == {}


# -- payments that fit --------------------------------------------------------------------------------


def test_part_and_full_payments(small_on_both: Bridge) -> None:
    bridge = small_on_both
    part, full, untouched = charged(bridge, 1000, 2050, 300)
    student_pays(bridge, part, 400)
    student_pays(bridge, full)

    taken, posted = post(bridge)

    assert (taken.lines, taken.new, posted.posted, posted.cents) == (2, 2, 2, 2450)
    assert (part.balance_cents, full.balance_cents, untouched.balance_cents) == (600, 0, 300)
    assert (part.status, full.status) == ("ACTIVE", "CLOSED")
    assert_posted_once(bridge, {part.id: [400], full.id: [2050], untouched.id: []})
    life = told(bridge, full)
    assert "of it paid by us 20.50" in life
    assert "not posted" not in life


@pytest.mark.parametrize("fault", [None, "drop_before"])
def test_a_single_cent(fault: str | None, small: Bridge) -> None:
    """All that is left of a fee, at once or at the second try."""
    (fee,) = charged(small, 1)
    student_pays(small, fee)
    if fault:
        small.far.faults.add_http(fault, method="POST")  # type: ignore[arg-type]
        post(small)
        assert states(small) == ["unknown"]
        small.far.clock.advance(seconds=QUIET)
    post(small)
    assert_posted_once(small, {fee.id: [1]})


def test_a_single_cent_in_dispute_is_not_taken_for_settled(small: Bridge) -> None:
    (fee,) = charged(small, 1)
    student_pays(small, fee)
    small.far.alma.dispute(fee.id)
    post(small)
    assert kinds(small) == ["fee is INDISPUTE in Alma"]


def test_many_payments_on_one_fee_of_one_account(small: Bridge) -> None:
    first, second = charged(small, 1000, 500, student=0)
    for cents in (100, 100, 250):
        student_pays(small, first, cents)
    student_pays(small, second)

    post(small)

    assert_posted_once(small, {first.id: [100, 100, 250], second.id: [500]})


def test_the_same_file_and_a_cumulative_one_post_nothing_again(small_on_both: Bridge) -> None:
    bridge = small_on_both
    (fee,) = charged(bridge, 1000)
    student_pays(bridge, fee, 300)
    name = bridge.far.write_query_output()
    content = bridge.folder.read(name)
    bridge.sis_to_alma()

    bridge.folder.path(name).write_bytes(content)
    taken, posted = bridge.sis_to_alma()
    assert (taken.known, taken.new, posted.tried) == (1, 0, 0)
    assert list(bridge.folder.path("/sfs/outbound").glob("*.csv")) == []

    bridge.folder.path("/sfs/outbound/ANOTHER_NAME.csv").write_bytes(content)
    taken, posted = bridge.sis_to_alma()
    assert (taken.files, taken.known, taken.new, posted.tried) == (1, 1, 0, 0)

    student_pays(bridge, fee, 200)
    taken, posted = post(bridge)
    assert (taken.known, taken.new, posted.cents) == (1, 1, 200)
    assert_posted_once(bridge, {fee.id: [300, 200]})


def test_a_posting_is_not_charged_back(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    post(small)

    small.far.refresh_analytics()
    counts = small.alma_to_sis()

    assert (counts.charges, counts.credits) == (0, 0)
    assert small.balances()["unexplained"] == 0


# -- payments that do not fit -------------------------------------------------------------------------


@pytest.mark.parametrize("more", [250, 1])
def test_more_than_the_fee(small: Bridge, more: int) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 1000 + more)

    _, posted = post(small)

    assert (posted.cents, applied(fee), fee.status) == (1000, [1000], "CLOSED")
    assert listed_cents(small) == [("paid more than Alma's balance", more)]
    assert post(small)[1].tried == 0
    assert listed_cents(small) == [("paid more than Alma's balance", more)]


def test_more_than_what_the_desk_has_left(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    small.far.alma.pay_at_desk(fee.id, 700)
    student_pays(small, fee)

    post(small)
    assert applied(fee) == [300]
    assert kinds(small) == ["paid more than Alma's balance"]

    equalise(small)  # the 7.00 paid twice come back as a credit in PeopleSoft
    post(small)
    assert applied(fee) == [300]
    assert small.exceptions() == {}
    assert small.far.books().unapplied_cents == 700
    assert small.books().unequal == {}


@pytest.mark.parametrize(("paid_then", "left"), [(386, [("paid more than Alma's balance", 109)]), (495, [])])
def test_what_a_credit_explained_is_listed_again_when_the_fee_asks_for_more(
    small_on_both: Bridge, paid_then: int, left: list[tuple[str, int]]
) -> None:
    bridge, alma = small_on_both, small_on_both.far.alma
    (fee,) = charged(bridge, 1050)
    student_pays(bridge, fee)
    bridge.far.faults.add_http("fail_before", method="GET", status=503, times=4)
    post(bridge)  # it waits: the account can't be read
    alma.waive_at_desk(fee.id, 109)
    bridge.far.clock.advance(seconds=QUIET)
    equalise(bridge)
    bridge.far.faults.add_http("apply_late", method="POST", seconds=60)
    bridge.sis_to_alma()
    alma.raise_fee(fee.id, 495)  # before Alma applies the payment, which would have closed it
    bridge.far.clock.advance(seconds=QUIET)
    bridge.sis_to_alma()
    assert (applied(fee), bridge.exceptions()) == ([941], {})

    equalise(bridge)

    # 1.09 of the payment lie on the student's account: they pay a part of the raise there, or were given back.
    assert (fee.balance_cents, listed_cents(bridge)) == (495, [("paid more than Alma's balance", 109)])
    assert bridge.balances()["unexplained"] == 0
    bridge.far.clock.advance(seconds=1)
    student_pays(bridge, fee, paid_then)
    post(bridge)
    assert (sum(applied(fee)), listed_cents(bridge)) == (941 + paid_then, left)
    assert bridge.balances()["unexplained"] == 0


def test_paid_in_both_places_is_credited_and_settled(small_on_both: Bridge) -> None:
    bridge = small_on_both
    (fee,) = charged(bridge, 1000)
    student_pays(bridge, fee)
    bridge.far.alma.pay_at_desk(fee.id)

    post(bridge)
    assert applied(fee) == []
    assert kinds(bridge) == ["fee already settled in Alma"]

    equalise(bridge)
    assert bridge.exceptions() == {}
    assert states(bridge) == ["credited"]
    assert bridge.far.books().unapplied_cents == 1000
    assert post(bridge)[1].tried == 0
    assert bridge.books().unequal == {}


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_fee_that_is_gone_from_alma(in_flight: bool, small: Bridge) -> None:
    """Not seen is not settled: what may be in Alma stays unclear, and nothing is given up."""
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    if in_flight:
        small.far.faults.add_http("drop_before", method="POST")
        post(small)
        small.far.clock.advance(seconds=QUIET)
    small.far.alma.fees_of = lambda _user, _status=None: []

    _, posted = post(small)

    assert (posted.tried, posted.posted) == (0, 0)
    assert (states(small), kinds(small)) == (["unknown" if in_flight else "new"], ["fee not found in Alma"])
    del small.far.alma.fees_of
    post(small)
    assert_posted_once(small, {fee.id: [400]})


def test_a_fee_that_is_gone_keeps_no_other_of_its_account_waiting(small: Bridge) -> None:
    gone, there = charged(small, 1000, 600, student=0)
    student_pays(small, gone)
    student_pays(small, there)
    fees_of = small.far.alma.fees_of
    small.far.alma.fees_of = lambda *which: [fee for fee in fees_of(*which) if fee is not gone]

    _, posted = post(small)

    assert (posted.posted, applied(there), kinds(small)) == (1, [600], ["fee not found in Alma"])


def test_an_account_whose_reading_alma_refuses_is_listed_and_the_others_are_posted(small: Bridge) -> None:
    fees = charged(small, 1000, 600)
    for fee in fees:
        student_pays(small, fee)
    small.far.write_query_output()

    def send(request: Request) -> Reply:
        if fees[0].user.primary_id in request.path:
            raise Refused("Alma refused the call with HTTP 400.", code="401861")
        return small.send(request)

    with small.working("back") as (ledger, lease):
        payment_intake.find_files(small.folder, ledger, lease, small.campus)
        payment_intake.take_in(ledger, lease, small.campus, small.marks)
        payments.post(
            ledger, lease, small.campus, AlmaApi(send, pause=lambda _: None), small.folder, small.marks
        )
    assert kinds(small) == ["reading refused by Alma"]
    assert "401861" in told(small, fees[0])
    assert [applied(fee) for fee in fees] == [[], [600]]
    post(small)
    assert_posted_once(small, {fees[0].id: [1000], fees[1].id: [600]})


def test_a_disputed_fee_is_paid_once_the_dispute_is_over(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee)
    small.far.alma.dispute(fee.id)

    post(small)
    assert (applied(fee), kinds(small)) == ([], ["fee is INDISPUTE in Alma"])

    small.far.alma.restore(fee.id)
    post(small)
    assert_posted_once(small, {fee.id: [1000]})


@pytest.mark.parametrize("close", [False, True])
def test_a_fee_that_the_bursar_export_took(close: bool, small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee)
    small.far.alma.export(fee.id, close=close)

    post(small)

    assert applied(fee) == []
    assert kinds(small) == ["fee already settled in Alma" if close else "fee is EXPORTED in Alma"]


def test_an_active_fee_of_which_nothing_is_left_is_paid_nothing(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee)
    small.far.alma.pay_at_desk(fee.id)
    fee.status = "ACTIVE"  # not closed yet

    _, posted = post(small)

    assert (posted.tried, applied(fee), kinds(small)) == (0, [], ["fee already settled in Alma"])


def test_a_purged_user(small: Bridge) -> None:
    gone, stays = charged(small, 1000, 500)
    student_pays(small, gone)
    student_pays(small, stays)
    small.far.alma.purge_user(gone.user.primary_id)

    post(small)

    assert (applied(gone), applied(stays)) == ([], [500])
    assert kinds(small) == ["user not found in Alma"]
    assert sorted(states(small)) == ["new", "posted"]


def test_each_payment_of_a_purged_user_stays_listed_for_its_own_reason(small: Bridge) -> None:
    """Else one and the same thing would be settled and listed anew by each run."""
    own, others = charged(small, 1000, 500, student=0)
    student_pays(small, own)
    leave(small, (small.far.students[1].primary_id, "17", f"ALMA{others.id}", "5.00"))
    small.far.alma.purge_user(own.user.primary_id)
    post(small)
    listed = small.exceptions()
    assert sorted(listed.values()) == ["payment by another EMPLID than was charged", "user not found in Alma"]

    small.sis_to_alma()

    ledger = small.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM exception_item WHERE institution = :i") == 2
    ledger.close()
    assert small.exceptions() == listed


def test_another_emplid_than_was_charged(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    other = small.far.students[1].primary_id
    leave(small, (other, "17", f"ALMA{fee.id}", "10.00"))

    small.sis_to_alma()

    assert (applied(fee), kinds(small)) == ([], ["payment by another EMPLID than was charged"])
    assert small.listed_fees() == {fee.id}


def test_a_fee_that_was_never_charged(small: Bridge) -> None:
    student = small.far.students[0]
    unmapped = small.far.alma.add_fee(student, 700, type="LOCKERKEY")
    equalise(small)
    leave(
        small,
        (student.primary_id, "17", f"ALMA{unmapped.id}", "7.00"),
        (student.primary_id, "18", "ALMA999999999999999999", "7.00"),
    )

    small.sis_to_alma()

    assert applied(unmapped) == []
    assert [kind for kind in kinds(small) if "charged" in kind] == ["no such fee was charged"] * 2


def test_a_payment_on_a_fee_that_was_never_charged_holds_its_charge_and_no_dry_runs(small: Bridge) -> None:
    """What dry runs take in was paid on charges of the process that is there today."""
    student = small.far.students[0]
    fee = small.far.alma.add_fee(student, 1000)
    leave(small, (student.primary_id, "17", f"ALMA{fee.id}", "10.00"))
    small.sis_to_alma()

    assert small.alma_to_sis("all_users", live=False).charges == 1
    assert small.alma_to_sis("all_users").charges == 0
    assert kinds(small) == ["no such fee was charged", "paid in PeopleSoft and never charged"]


def test_a_known_payment_with_another_amount_is_listed(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    emplid = fee.user.primary_id
    leave(small, (emplid, "17", f"ALMA{fee.id}", "4.00"))
    small.sis_to_alma()
    leave(small, (emplid, "17", f"ALMA{fee.id}", "5.00"), name="LATER.csv")

    taken, posted = small.sis_to_alma()

    assert (taken.new, posted.tried, applied(fee)) == (0, 0, [400])
    assert kinds(small) == ["payment with another amount"]
    assert small.listed_fees() == {fee.id}


def test_a_known_payment_with_its_own_amount_again_is_off_the_list_and_no_other(small: Bridge) -> None:
    first, second = charged(small, 1000, 800)
    rows = [(fee.user.primary_id, str(n), f"ALMA{fee.id}") for n, fee in enumerate((first, second), 17)]
    leave(small, *((*row, "4.00") for row in rows))
    small.sis_to_alma()
    leave(small, *((*row, "5.00") for row in rows), name="LATER.csv")
    small.sis_to_alma()
    assert kinds(small) == ["payment with another amount"] * 2
    leave(small, (*rows[0], "4.00"), name="LAST.csv")

    small.sis_to_alma()

    assert (kinds(small), small.listed_fees()) == (["payment with another amount"], {second.id})
    assert [applied(fee) for fee in (first, second)] == [[400], [400]]


def test_a_file_replaced_just_before_it_is_archived_stays_for_the_next_run(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 300)
    name = small.far.write_query_output()

    def replaced(action: str, path: str) -> None:
        if (action, path) == ("size", name):
            small.folder.before = lambda _action, _path: None
            leave(small, (fee.user.primary_id, "7411", f"ALMA{fee.id}", "2.00"), name=name.rpartition("/")[2])

    small.folder.before = replaced
    small.sis_to_alma()
    assert small.folder.path(name).exists()
    assert applied(fee) == [300]

    small.sis_to_alma()

    assert applied(fee) == [300, 200]
    assert list(small.folder.path("/sfs/outbound").glob("*.csv")) == []


def test_of_three_files_under_one_name_at_the_moment_of_archiving_none_is_lost(small: Bridge) -> None:
    """A second one takes the first one's place just before it is moved, and a third one comes just after."""
    fees = charged(small, 1000, 800)
    student_pays(small, fees[0], 300)
    name = small.far.write_query_output()

    def come(action: str, path: str) -> None:
        row = (fees[0].user.primary_id, "7411", f"ALMA{fees[0].id}", "2.00")
        if (action, path) == ("rename", name):
            leave(small, row, name=name.rpartition("/")[2])
        if (action, path) == ("renamed", name) or (action == "renamed" and "archive" in path):
            small.folder.before = lambda _action, _path: None
            other = (fees[1].user.primary_id, "7412", f"ALMA{fees[1].id}", "5.00")
            leave(small, row, other, name=name.rpartition("/")[2])

    small.folder.before = come
    small.sis_to_alma()
    small.folder.before = lambda _action, _path: None
    for _ in range(2):
        small.sis_to_alma()

    assert [applied(fee) for fee in fees] == [[300, 200], [500]]
    assert set(states(small)) == {"posted"}
    assert list(small.folder.path("/sfs/outbound").glob("*.csv")) == []


def test_one_payment_with_two_amounts_in_one_file(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    emplid = fee.user.primary_id
    leave(small, (emplid, "17", f"ALMA{fee.id}", "4.00"), (emplid, "17", f"ALMA{fee.id}", "5.00"))

    taken, _ = small.sis_to_alma()

    assert (taken.lines, taken.new, taken.known, taken.refused) == (2, 1, 1, 0)
    assert (applied(fee), kinds(small)) == ([400], ["payment id twice in one file"])


def test_refused_lines_are_listed_once_and_the_others_posted(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    emplid = fee.user.primary_id
    rows = [
        (emplid, "17", f"ALMA{fee.id}", "4.00"),
        (emplid, "18", f"ALMA{fee.id}", "-1.00"),
        (emplid, "19", "PARKING", "5.00"),
    ]
    leave(small, *rows)
    taken, _ = small.sis_to_alma()
    assert (taken.lines, taken.new, taken.known, taken.refused) == (3, 1, 0, 2)

    leave(small, (emplid, "20", f"ALMA{fee.id}", "1.00"), *rows, name="LATER.csv")
    taken, _ = small.sis_to_alma()
    assert (taken.lines, taken.new, taken.known, taken.refused) == (4, 1, 1, 2)
    assert kinds(small) == ["payment line refused"] * 2
    assert applied(fee) == [400, 100]


def test_a_file_cut_short_holds_only_itself_up(small: Bridge) -> None:
    first, second = charged(small, 1000, 500)
    leave(small, (first.user.primary_id, "17", f"ALMA{first.id}", "10.00"))
    leave(small, (second.user.primary_id, "18", f"ALMA{second.id}", "5.00"), name="CUT.csv")
    cut = small.folder.path("/sfs/outbound/CUT.csv")
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-3])

    taken, _ = small.sis_to_alma()
    assert (taken.files, taken.files_refused, taken.new) == (1, 1, 1)
    assert (applied(first), applied(second)) == ([1000], [])
    assert (kinds(small), cut.exists()) == (["payment file refused"], True)

    cut.write_bytes(whole)
    small.sis_to_alma()
    assert (applied(second), cut.exists()) == ([500], False)


# -- whatever breaks ----------------------------------------------------------------------------------


def resolve(bridge: Bridge, exception_id: str | None = None) -> None:
    """What a person says of the one thing that is listed."""
    ledger = bridge.ledger("by hand")
    try:
        with ledger.write() as tx:
            if exception_id is None:
                (row,) = exceptions.open_items(tx)
                exception_id = str(row["exception_id"])
            entries.resolve(tx, exception_id, "the bursar", "paid out in cash")
    finally:
        ledger.close()


def test_a_payment_that_a_person_has_settled_is_not_posted_any_more(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    small.far.alma.dispute(fee.id)
    post(small)

    resolve(small)
    small.far.alma.restore(fee.id)
    _, posted = post(small)

    assert (posted.tried, applied(fee), states(small), kinds(small)) == (0, [], ["settled"], [])


def test_a_payment_of_unclear_outcome_is_not_settled_by_a_persons_word(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    small.far.faults.add_http("drop_after", method="POST")
    post(small)

    with pytest.raises(Fatal, match="not known yet"):
        resolve(small)
    assert (states(small), kinds(small)) == (["unknown"], ["outcome of the posting unclear"])
    run_through(small)
    assert_posted_once(small, {fee.id: [400]})


def test_only_what_is_listed_and_a_persons_to_say_is_settled(small: Bridge) -> None:
    small.far.alma.add_fee(small.far.students[0], 700, type="LOCKERKEY")
    equalise(small)
    listed = small.exceptions()
    assert list(listed.values()) == ["fee type without item type"]

    with pytest.raises(Fatal, match="goes by itself"):
        resolve(small)
    with pytest.raises(Fatal, match="no open exception 123456789abc"):
        resolve(small, "123456789abc")
    assert small.exceptions() == listed


def three_payments(bridge: Bridge) -> dict[str, list[int]]:
    """Two accounts, three fees, four payments in PeopleSoft's output folder."""
    one, two = charged(bridge, 1000, 500, student=0)
    (three,) = charged(bridge, 800, student=1)
    for fee, cents in ((one, 300), (one, 700), (two, 500), (three, 350)):
        student_pays(bridge, fee, cents)
    bridge.far.write_query_output()
    return {one.id: [300, 700], two.id: [500], three.id: [350]}


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("drop_before", {}),
    ("drop_after", {}),
    ("fail_before", {}),
    ("fail_after", {}),
    ("fail_before", {"status": 503, "form": "html"}),
    ("fail_after", {"status": 502, "form": "empty"}),
    ("broken_body", {"body": "html"}),
    ("broken_body", {"body": "truncated"}),
    ("refuse", {"status": 429, "code": "PER_SECOND_THRESHOLD", "form": "gateway_json"}),
    ("refuse", {"status": 400, "code": "401666"}),
    ("refuse", {"status": 400, "code": "402119", "form": "xml"}),
    ("out_of_quota", {}),
    ("delay_before", {"seconds": 0.01}),
    ("delay_after", {"seconds": 0.01}),
]


@pytest.mark.parametrize(
    ("kind", "options"), FAULTS, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("skip", [0, 1, 3])
def test_a_fault_at_a_posting(kind: str, options: dict[str, Any], skip: int, small: Bridge) -> None:
    paid = three_payments(small)
    rule = small.far.faults.add_http(kind, method="POST", skip=skip, **options)  # type: ignore[arg-type]

    run_through(small)

    assert rule.fired == 1
    assert_posted_once(small, paid)


@pytest.mark.parametrize(
    ("kind", "options"), FAULTS, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_a_fault_at_a_reading(kind: str, options: dict[str, Any], skip: int, small: Bridge) -> None:
    paid = three_payments(small)
    rule = small.far.faults.add_http(kind, method="GET", path="/fees", skip=skip, **options)  # type: ignore[arg-type]

    run_through(small)

    assert rule.fired == 1
    assert_posted_once(small, paid)


def test_a_list_that_lacks_a_fee_is_no_evidence(small: Bridge) -> None:
    paid = three_payments(small)
    small.far.faults.add_http("partial_list", method="GET", path="/fees", times=4)

    run_through(small)

    assert_posted_once(small, paid)


@pytest.mark.parametrize("seed", range(6))
def test_many_faults_at_once(seed: int, tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, seed=seed)
    paid = three_payments(bridge)
    for kind, options in FAULTS:
        bridge.far.faults.add_http(kind, probability=0.15, times=3, path="/fees", **options)  # type: ignore[arg-type]

    for _ in range(4):
        run_through(bridge)
    bridge.far.faults.clear()
    run_through(bridge)

    assert_posted_once(bridge, paid)


@pytest.mark.parametrize("kind", ["drop_after", "fail_after", "drop_before"])
def test_an_unclear_posting_is_left_alone_for_the_quiet_period(kind: str, small_on_both: Bridge) -> None:
    bridge = small_on_both
    (fee,) = charged(bridge, 1000)
    student_pays(bridge, fee, 400)
    bridge.far.faults.add_http(kind, method="POST")  # type: ignore[arg-type]
    there = [] if kind == "drop_before" else [400]

    _, posted = post(bridge)
    assert (posted.posted, applied(fee), states(bridge)) == (0, there, ["unknown"])
    assert kinds(bridge) == ["outcome of the posting unclear"]

    bridge.far.clock.advance(seconds=60)
    _, posted = post(bridge)
    assert (posted.tried, applied(fee), states(bridge)) == (0, there, ["unknown"])

    bridge.far.clock.advance(seconds=QUIET)
    _, posted = post(bridge)
    assert posted.found_posted == len(there)
    assert_posted_once(bridge, {fee.id: [400]})


@pytest.mark.parametrize(("seconds", "tried"), [(599, False), (600, True)])
def test_the_quiet_period_ends_when_its_minutes_are_over(seconds: int, tried: bool, small: Bridge) -> None:
    small.far.clock.set(small.far.clock.now())  # it stands still
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    small.far.faults.add_http("drop_before", method="POST")
    post(small)
    small.far.clock.advance(seconds=seconds)
    _, posted = small.sis_to_alma()

    assert (posted.tried, posted.waiting, posted.listed) == ((1, 0, 0) if tried else (0, 1, 1))
    assert applied(fee) == ([400] if tried else [])


def posting_fails_with(bridge: Bridge, error: BaseException) -> None:
    """A run in which each posting ends so before Alma hears of it."""

    def send(request: Request) -> Reply:
        if request.method == "POST":
            raise error
        return bridge.send(request)

    bridge.far.write_query_output()
    with bridge.working("back") as (ledger, lease):
        payment_intake.find_files(bridge.folder, ledger, lease, bridge.campus)
        payment_intake.take_in(ledger, lease, bridge.campus, bridge.marks)
        with suppress(type(error)):
            payments.post(
                ledger, lease, bridge.campus, AlmaApi(send, pause=lambda _: None), bridge.folder, bridge.marks
            )


def test_a_payment_whose_worker_died_is_left_alone_for_the_quiet_period(small: Bridge) -> None:
    """Its call may be on its way still, so a look at Alma proves nothing yet."""
    fees = charged(small, 1000, 600)
    student_pays(small, fees[0], 400)
    posting_fails_with(small, KeyboardInterrupt())
    assert states(small) == ["posting"]
    student_pays(small, fees[1])

    small.far.clock.advance(seconds=60)
    _, posted = post(small)
    assert (states(small), applied(fees[0]), posted.waiting) == (["posting", "posted"], [], 1)

    small.far.clock.advance(seconds=QUIET)
    post(small)
    assert_posted_once(small, {fees[0].id: [400], fees[1].id: [600]})


def test_a_call_that_was_never_made_is_made_by_the_next_run_at_once(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    posting_fails_with(small, Retriable("The call waited too long for its turn and was not sent."))
    assert states(small) == ["new"]
    _, posted = post(small)
    assert posted.posted == 1
    assert_posted_once(small, {fee.id: [400]})
    (payment,) = [t for t in fee.transactions if t.kind == "PAYMENT"]
    assert payment.comment == small.campus.sis_to_alma.comment


def test_all_payments_of_unclear_outcome_are_counted(small: Bridge) -> None:
    fees = charged(small, 1000, 600)
    for fee in fees:
        student_pays(small, fee)
    small.far.faults.add_http("drop_before", method="POST", times=None)
    post(small)
    small.far.faults.clear()
    small.far.clock.advance(seconds=60)
    _, posted = post(small)
    assert (states(small), posted.waiting) == (["unknown", "unknown"], 2)


def told(bridge: Bridge, fee: Fee) -> str:
    """What is listed of a fee, and its life."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = [row["detail"] for row in exceptions.open_items(tx) if row["fee_id"] == fee.id]
        life = [text for _, text in story.of_fee(tx, fee.id)]
    ledger.close()
    return "\n".join(rows + life)


@pytest.mark.parametrize("kind", ["refuse", "fail_after"])
def test_what_alma_said_is_told_to_people(kind: str, small: Bridge) -> None:
    """With its code and trackingId Ex Libris' support can find the call."""
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    small.far.faults.add_http(kind, method="POST", status=400 if kind == "refuse" else 500, code="402119")  # type: ignore[arg-type]
    _, posted = post(small)

    listed, *life = told(small, fee).splitlines()
    assert (posted.tried, posted.posted, posted.listed, len(kinds(small))) == (1, 0, 1, 1)
    assert listed.startswith("4.00 of 4.00 not in Alma; file ")
    assert "402119" in listed
    (event,) = [text for text in life if ", code 402119" in text]
    assert re.search(r"(not posted|unknown) by system in run \d+, code 402119, trackingId E", event)


def test_accounts_that_can_not_be_read_wait_and_are_listed_with_the_reason(small: Bridge) -> None:
    fees = charged(small, 1000, 500, 200)
    for fee in fees[:2]:
        student_pays(small, fee)
    small.far.faults.add_http(
        "fail_before", method="GET", path="/fees", status=503, code="GATEWAY", times=None
    )
    _, posted = post(small)

    assert kinds(small) == ["account could not be read"] * 2
    assert (posted.tried, posted.waiting, posted.listed) == (0, 2, 2)
    assert all("; " in told(small, fee).splitlines()[0].partition("line 2")[2] for fee in fees[:1])


def desk(small: Bridge, fee: Fee) -> None:
    """The desk took another sum."""
    small.far.alma.pay_at_desk(fee.id, 300)


def waiver(small: Bridge, fee: Fee) -> None:
    """The same sum was waived."""
    small.far.alma.waive_at_desk(fee.id, 400)


@pytest.mark.parametrize("elsewhere", [desk, waiver])
def test_a_first_payment_is_tried_again_when_nothing_on_the_fee_may_be_it(
    elsewhere: Callable[[Bridge, Fee], None], small: Bridge
) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    small.far.faults.add_http("drop_before", method="POST")
    post(small)
    elsewhere(small, fee)
    small.far.clock.advance(seconds=QUIET)
    small.sis_to_alma()

    assert (applied(fee), states(small), kinds(small)) == ([400], ["posted"], [])


def test_a_first_payment_that_shows_with_its_key_is_not_taken_for_the_second(small: Bridge) -> None:
    """Both of the same sum on the same fee, both of unclear outcome; one had arrived."""
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    student_pays(small, fee, 400)
    small.far.faults.add_http("drop_after", method="POST")
    small.far.faults.add_http("drop_before", method="POST")
    post(small)
    assert (applied(fee), states(small)) == ([400], ["unknown", "unknown"])
    small.far.clock.advance(seconds=QUIET)
    small.sis_to_alma()

    assert_posted_once(small, {fee.id: [400, 400]})


class Impatient(Bridge):
    """Waits a moment for a locked ledger, where the real one waits half a minute."""

    def ledger(self, run_id: str | None = None) -> Ledger:
        ledger = super().ledger(run_id)
        event.listen(ledger.engine, "connect", lambda opened, _: opened.execute("PRAGMA busy_timeout = 50"))
        return ledger


def test_a_ledger_locked_for_longer_than_a_task_waits(tmp_path: Path) -> None:
    """Another process takes the SQLite file while Alma applies a payment, and holds on to it."""
    bridge = Impatient(tmp_path, students=3, fees=0)
    fees = charged(bridge, 1000, 500, 200)
    for fee in fees:
        student_pays(bridge, fee)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)

    def lock(request: wire.Request) -> None:
        if request.method == "POST" and not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")

    bridge.far.api.before_call = lock
    with pytest.raises(Retriable, match="busy"):
        post(bridge)
    bridge.far.api.before_call = None
    other.close()
    assert sum(len(applied(fee)) for fee in fees) == 1
    assert sorted(states(bridge)) == ["new", "new", "posting"]

    run_through(bridge)
    assert_posted_once(bridge, {fee.id: [fee.original_cents] for fee in fees})


def test_an_unclear_posting_on_a_fee_that_is_gone_stays_unclear(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    small.far.faults.add_http("drop_before", method="POST")
    post(small)
    small.far.alma.purge_user(fee.user.primary_id)
    small.far.clock.advance(seconds=QUIET)

    post(small)

    assert (states(small), kinds(small)) == (["unknown"], ["user not found in Alma"])


def test_a_desk_payment_between_reading_and_posting(small: Bridge) -> None:
    """The answer's balance fell by more than was paid: read back before anything is believed."""
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)

    def at_the_desk(request: wire.Request) -> None:
        if request.method == "POST":
            small.far.api.before_call = None
            small.far.alma.pay_at_desk(fee.id, 100)

    small.far.api.before_call = at_the_desk
    post(small)
    assert "; Alma's answer does not show the payment." in told(small, fee)
    small.far.clock.advance(seconds=QUIET)
    post(small)

    assert (applied(fee), states(small), small.exceptions()) == ([400], ["posted"], {})


def test_a_fee_closed_between_reading_and_posting(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee)

    def at_the_desk(request: wire.Request) -> None:
        if request.method == "POST":
            small.far.api.before_call = None
            small.far.alma.pay_at_desk(fee.id)

    small.far.api.before_call = at_the_desk
    post(small)
    assert (applied(fee), states(small), kinds(small)) == ([], ["new"], ["refused by Alma"])
    post(small)
    assert kinds(small) == ["fee already settled in Alma"]


def test_three_accounts_in_a_row_end_the_task_and_no_three_apart(tmp_path: Path) -> None:
    """A reading that fails now and then is an account's trouble, not Alma's."""
    small = Bridge(tmp_path, students=5, fees=0)
    fees = [small.far.alma.add_fee(student, 100) for student in small.far.students for _ in range(1)]
    fees += [small.far.alma.add_fee(small.far.students[0], 200)]
    equalise(small)
    for fee in fees:
        student_pays(small, fee)
    small.far.write_query_output()
    accounts: list[str] = []

    def send(request: Request) -> Reply:
        account = request.path.split("/")[2]
        if account not in accounts:
            accounts.append(account)
        # Of five accounts each but the third fails.
        if accounts.index(account) != 2:
            raise Retriable("The connection broke off.")
        return small.send(request)

    seen: list[tuple[int, int]] = []
    with small.working("back") as (ledger, lease):
        payment_intake.find_files(small.folder, ledger, lease, small.campus)
        payment_intake.take_in(ledger, lease, small.campus, small.marks)
        posted = payments.post(
            ledger, lease, small.campus, AlmaApi(send, pause=lambda _: None), small.folder, small.marks,
            progress=lambda done, of: seen.append((done, of)),
        )  # fmt: skip

    assert len(accounts) == 5
    assert seen[-1] == (6, 6)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert posted.posted + posted.waiting == 6
    assert kinds(small) == ["account could not be read"] * posted.waiting
    run_through(small)
    assert_posted_once(small, {fee.id: [fee.original_cents] for fee in fees})


def test_accounts_whose_lists_contradict_themselves_are_listed_and_end_no_task(tmp_path: Path) -> None:
    small = Bridge(tmp_path, students=5, fees=0)
    fees = [small.far.alma.add_fee(student, 100) for student in small.far.students]
    equalise(small)
    for fee in fees:
        student_pays(small, fee)
    last = fees[-1].user.primary_id
    small.far.faults.add_http("partial_list", method="GET", path=f".*/users/(?!{last}).*", times=None)

    post(small)

    assert [applied(fee) for fee in fees] == [[], [], [], [], [100]]
    assert kinds(small) == ["account could not be read"] * 4
    small.far.faults.clear()
    run_through(small)
    assert_posted_once(small, {fee.id: [100] for fee in fees})


def test_an_alma_that_is_down_ends_the_task_at_the_third_account(tmp_path: Path) -> None:
    small = Bridge(tmp_path, students=5, fees=0)
    fees = [small.far.alma.add_fee(student, 100) for student in small.far.students]
    equalise(small)
    for fee in fees:
        student_pays(small, fee)
    small.far.write_query_output()
    accounts: set[str] = set()

    def send(request: Request) -> Reply:
        accounts.add(request.path.split("/")[2])
        raise Retriable("The connection broke off.")

    with small.working("back") as (ledger, lease):
        payment_intake.find_files(small.folder, ledger, lease, small.campus)
        payment_intake.take_in(ledger, lease, small.campus, small.marks)
        with pytest.raises(Retriable):
            payments.post(
                ledger, lease, small.campus, AlmaApi(send, pause=lambda _: None), small.folder, small.marks
            )

    assert len(accounts) == 3
    assert kinds(small) == ["account could not be read"] * 3
    run_through(small)
    assert_posted_once(small, {fee.id: [100] for fee in fees})


def test_a_posting_counts_each_payment_once(small: Bridge) -> None:
    unclear, full, over, settled, disputed = charged(small, 400, 1000, 500, 700, student=0) + charged(
        small, 300, student=1
    )
    student_pays(small, unclear)
    small.far.faults.add_http("drop_after", method="POST")
    assert post(small)[1] == PostCounts(tried=1, posted=0, cents=0, found_posted=0, waiting=0, listed=1)
    student_pays(small, full)
    student_pays(small, over, 650)
    student_pays(small, settled)
    student_pays(small, disputed)
    small.far.alma.pay_at_desk(settled.id)
    small.far.alma.dispute(disputed.id)
    assert post(small)[1] == PostCounts(tried=2, posted=2, cents=1500, found_posted=0, waiting=1, listed=4)
    small.far.clock.advance(seconds=QUIET)

    assert post(small)[1] == PostCounts(tried=0, posted=1, cents=0, found_posted=1, waiting=0, listed=2)
    assert [applied(fee) for fee in (unclear, full, over, settled, disputed)] == [
        [400],
        [1000],
        [500],
        [],
        [],
    ]


def test_alma_down_ends_the_task_and_loses_nothing(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=6, fees=0)
    fees = charged(bridge, 100, 200, 300, 400, 500)
    for fee in fees:
        student_pays(bridge, fee)
    bridge.far.faults.add_http("fail_before", status=503, times=None)

    with pytest.raises(Retriable):
        post(bridge)
    assert set(states(bridge)) == {"new"}

    bridge.far.faults.clear()
    bridge.sis_to_alma()
    assert_posted_once(bridge, {fee.id: [fee.original_cents] for fee in fees})


# -- the first payment of an institution --------------------------------------------------------------


@contextmanager
def shortened_ids(bridge: Bridge) -> Iterator[None]:
    """Alma gives our marks back cut short."""

    def send(request: Request) -> Reply:
        reply = Bridge.send(bridge, request)
        return Reply(reply.status, reply.headers, re.sub(rb"(SFS[0-9A-Z]{9})[0-9A-Z]{4}", rb"\1", reply.body))

    bridge.api = AlmaApi(send, pause=lambda _: None)
    yield
    bridge.api = AlmaApi(bridge.send, pause=lambda _: None)


def test_posting_stops_after_the_first_payment_that_does_not_come_back(small_on_both: Bridge) -> None:
    bridge = small_on_both
    fees = charged(bridge, 1000, 500, 200)
    for fee in fees:
        student_pays(bridge, fee)

    with shortened_ids(bridge), pytest.raises(SendingStopped, match="external_transaction_id"):
        post(bridge)

    assert sum(len(applied(fee)) for fee in fees) == 1


def test_posting_stays_stopped_when_it_is_run_again(small: Bridge) -> None:
    fees = charged(small, 1000, 500, 200)
    for fee in fees:
        student_pays(small, fee)

    with shortened_ids(small):
        for _ in range(3):
            with pytest.raises(SendingStopped):
                post(small)
            small.far.clock.advance(seconds=QUIET)
    assert sum(len(applied(fee)) for fee in fees) == 1

    post(small)
    assert_posted_once(small, {fee.id: [fee.original_cents] for fee in fees})


def test_no_second_payment_before_the_first_is_read_back(small: Bridge) -> None:
    """Alma takes the first payment and then answers no reading: the next account is not tried on trust."""
    fees = charged(small, 1000, 500, 200)
    for fee in fees:
        student_pays(small, fee)

    def down(request: wire.Request) -> None:
        if request.method == "POST":
            small.far.api.before_call = None
            small.far.faults.add_http("fail_before", method="GET", status=503, times=4)

    small.far.api.before_call = down
    with shortened_ids(small), pytest.raises((Retriable, SendingStopped)):
        post(small)
    assert sum(len(applied(fee)) for fee in fees) == 1


@pytest.mark.parametrize("short", [False, True])
def test_when_the_first_payments_account_is_gone_the_next_one_is_the_first(
    small: Bridge, short: bool
) -> None:
    """Else nothing would ever be posted again: what is gone can't be read back."""
    fees = charged(small, 1000, 500, 200)
    student_pays(small, fees[0])
    small.far.api.before_call = lambda request: (
        small.far.faults.add_http("fail_before", method="GET", status=503, times=4)
        if request.method == "POST"
        else None
    )
    post(small)
    small.far.api.before_call = None
    assert applied(fees[0]) == [1000]
    small.far.alma.purge_user(fees[0].user.primary_id)
    for fee in fees[1:]:
        student_pays(small, fee)

    if short:
        with shortened_ids(small), pytest.raises(SendingStopped):
            post(small)
    else:
        post(small)

    assert [applied(fee) for fee in fees[1:]] == [[500], [] if short else [200]]


def applied_twice(bridge: Bridge, before_the_look: Callable[[], object] = lambda: None) -> None:
    """Alma applies the first call only when the quiet period is over and the second one comes."""
    bridge.far.faults.add_http("apply_late", method="POST", seconds=QUIET + 5)
    post(bridge)
    bridge.far.clock.advance(seconds=QUIET)
    api = bridge.far.api

    def too_late(request: Any) -> None:
        if request.method == "POST":
            api.before_call = None
            bridge.far.clock.advance(seconds=10)
            api.apply_due()

    api.before_call = too_late
    post(bridge)
    bridge.far.clock.advance(seconds=QUIET)
    before_the_look()
    post(bridge)


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_payment_that_alma_has_twice_is_listed_though_it_pays_just_what_was_raised(
    small_on_both: Bridge, seen_before: bool
) -> None:
    """The fee is closed then, and by the ledger nothing of it is owed."""
    bridge = small_on_both
    (fee,) = charged(bridge, 400)
    bridge.far.alma.raise_fee(fee.id, 400)
    student_pays(bridge, fee)
    applied_twice(bridge, (lambda: bridge.alma_to_sis("all_users")) if seen_before else lambda: None)
    assert applied(fee) == [400, 400]
    assert fee.status == "CLOSED"
    for _ in range(2):
        bridge.alma_to_sis("all_users")

    assert bridge.exceptions() == {f"fee {fee.id}": "payments in Alma differ from those posted"}


def test_a_first_payment_that_alma_has_twice_shows_that_keys_come_back(small: Bridge) -> None:
    """Alma applied the first call long after the quiet period. Nobody can undo that, so it must not stop the rest."""
    fees = charged(small, 1000, 500)
    student_pays(small, fees[0], 400)
    applied_twice(small)
    student_pays(small, fees[1])
    post(small)

    assert (applied(fees[0]), applied(fees[1])) == ([400, 400], [500])
    equalise(small)
    assert small.exceptions() == {f"fee {fees[0].id}": "payments in Alma differ from those posted"}


def test_a_first_payment_of_unclear_outcome_is_not_made_again_on_trust(small: Bridge) -> None:
    """Alma applied it, answered with an error, and gives no marks back: its absence proves nothing."""
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    small.far.faults.add_http("fail_after", method="POST")

    with shortened_ids(small):
        for waiting in (0, 1, 1):
            _, posted = post(small)
            assert (posted.waiting, posted.listed) == (waiting, 1)
            small.far.clock.advance(seconds=QUIET)
    assert (applied(fee), states(small), kinds(small)) == (
        [400],
        ["unknown"],
        ["outcome of the posting unclear"],
    )

    post(small)
    assert_posted_once(small, {fee.id: [400]})


# -- a worker that dies -------------------------------------------------------------------------------


class Death(BaseException):
    """The process is gone: nothing of ours may catch it."""


class Mortal:
    """Counts the moments around each commit and call, and dies at one of them for good."""

    def __init__(self, at: int | None, *, releases: bool) -> None:
        self.at = at
        self.releases = releases  # an exception unwinds and gives the lease back, a kill does not
        self.moments = 0
        self.dead = False

    def moment(self) -> None:
        if self.dead and not self.releases:
            raise Death
        self.moments += 1
        if self.at is not None and self.moments == self.at:
            self.dead = True
            raise Death


@contextmanager
def living(bridge: Bridge, mortal: Mortal, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write = Ledger.write

    @contextmanager
    def mortal_write(ledger: Ledger, lease: Lease | None = None) -> Iterator[Any]:
        mortal.moment()
        with write(ledger, lease) as tx:
            yield tx
            mortal.moment()
        mortal.moment()

    def mortal_send(request: Request) -> Reply:
        mortal.moment()
        reply = Bridge.send(bridge, request)
        mortal.moment()
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", mortal_write)
        bridge.api = AlmaApi(mortal_send, pause=lambda _: None)
        try:
            yield
        finally:
            bridge.api = AlmaApi(bridge.send, pause=lambda _: None)


def two_payments(bridge: Bridge) -> dict[str, list[int]]:
    one, two = charged(bridge, 1000, 500)
    student_pays(bridge, one, 300)
    student_pays(bridge, two)
    bridge.far.write_query_output()
    return {one.id: [300], two.id: [500]}


@pytest.mark.parametrize("part", range(4))
def test_death_at_any_moment_loses_and_doubles_nothing(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Bridge(tmp_path / "counting", students=2, fees=0)
    two_payments(counting)
    whole = Mortal(None, releases=True)
    with living(counting, whole, monkeypatch):
        counting.sis_to_alma()

    assert whole.moments > 30
    for at in range(1 + part, whole.moments + 1, 4):
        bridge = Bridge(tmp_path / f"{at}", students=2, fees=0)
        paid = two_payments(bridge)
        # Every other moment unwinds and gives the lease back; the rest are kills.
        with living(bridge, Mortal(at, releases=at % 8 < 4), monkeypatch), pytest.raises(Death):
            bridge.sis_to_alma()
        run_through(bridge)
        assert_posted_once(bridge, paid)


# -- two at once --------------------------------------------------------------------------------------


def test_a_second_run_while_one_posts_does_nothing(small_on_both: Bridge) -> None:
    bridge = small_on_both
    paid = two_payments(bridge)
    refused = []

    def second_run(request: wire.Request) -> None:
        if request.method == "POST":
            bridge.far.api.before_call = None
            with pytest.raises(LeaseTaken):
                Bridge.sis_to_alma(bridge)
            refused.append(request.path)

    bridge.far.api.before_call = second_run
    bridge.sis_to_alma()

    assert len(refused) == 1
    assert_posted_once(bridge, paid)


def test_a_worker_that_stood_still_sends_nothing_late(small_on_both: Bridge) -> None:
    """It stands still between its mark and the call; meanwhile another takes over and posts."""
    bridge = small_on_both
    paid = two_payments(bridge)
    stood = 0.0
    stopped = []

    def send(request: Request) -> Reply:
        nonlocal stood
        if request.method == "POST" and not stood:
            bridge.far.clock.advance(seconds=16 * 60)
            stood = 16 * 60.0
            bridge.sis_to_alma()
        if request.send_before is not None and stood > request.send_before:
            stopped.append(request.path)
            raise Retriable("The call waited too long for its turn and was not sent.")
        return bridge.send(request)

    with bridge.working("back") as (ledger, lease):
        payment_intake.find_files(bridge.folder, ledger, lease, bridge.campus)
        payment_intake.take_in(ledger, lease, bridge.campus, bridge.marks)
        with pytest.raises(LeaseTaken):
            payments.post(
                ledger, lease, bridge.campus, AlmaApi(send, pause=lambda _: None), bridge.folder, bridge.marks,
                monotonic=lambda: stood,
            )  # fmt: skip

    assert len(stopped) == 1
    assert_posted_once(bridge, paid)


def test_a_call_that_does_not_wait_is_in_time(small: Bridge) -> None:
    paid = two_payments(small)

    def send(request: Request) -> Reply:
        if request.send_before is not None and request.send_before <= 0.0:
            raise Retriable("The call waited too long for its turn and was not sent.")
        return small.send(request)

    with small.working("back") as (ledger, lease):
        payment_intake.find_files(small.folder, ledger, lease, small.campus)
        payment_intake.take_in(ledger, lease, small.campus, small.marks)
        payments.post(
            ledger, lease, small.campus, AlmaApi(send, pause=lambda _: None), small.folder, small.marks, monotonic=lambda: 0.0,
        )  # fmt: skip
    assert_posted_once(small, paid)


def test_a_worker_that_was_overtaken_changes_nothing_afterwards(small: Bridge) -> None:
    """Its call was answered, but its lease is another's by now: what that one found stands."""
    paid = two_payments(small)
    overtaken: list[PostCounts] = []

    def send(request: Request) -> Reply:
        reply = small.send(request)
        if request.method == "POST" and not overtaken:
            small.far.clock.advance(seconds=16 * 60)
            overtaken.append(small.sis_to_alma()[1])
        return reply

    with small.working("back") as (ledger, lease):
        payment_intake.find_files(small.folder, ledger, lease, small.campus)
        payment_intake.take_in(ledger, lease, small.campus, small.marks)
        with pytest.raises(LeaseTaken):
            payments.post(
                ledger, lease, small.campus, AlmaApi(send, pause=lambda _: None), small.folder, small.marks
            )

    assert overtaken[0].found_posted == 1
    assert_posted_once(small, paid)


def at_the_desk_in_part(bridge: Bridge, fee: Fee) -> None:
    bridge.far.alma.pay_at_desk(fee.id, 300)


def at_the_desk(bridge: Bridge, fee: Fee) -> None:
    bridge.far.alma.pay_at_desk(fee.id)


def purged(bridge: Bridge, fee: Fee) -> None:
    bridge.far.alma.purge_user(fee.user.primary_id)


def refusing(bridge: Bridge, _fee: Fee) -> None:
    bridge.far.faults.add_http("refuse", method="POST", status=400, code="401666")


def breaking_off(bridge: Bridge, _fee: Fee) -> None:
    bridge.far.faults.add_http("drop_after", method="POST")


def slowed_down(bridge: Bridge, _fee: Fee) -> None:
    bridge.far.faults.add_http("out_of_quota", method="POST", times=None)


def down(bridge: Bridge, _fee: Fee) -> None:
    bridge.far.faults.add_http("fail_before", method="GET", path="/fees", status=503, times=None)


def tables(bridge: Bridge) -> list[list[dict[str, Any]]]:
    """All that the ledger says of payments, of what is listed, and of what was done."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        found = [
            [dict(row) for row in tx.rows(f"SELECT * FROM {table} WHERE institution = :i ORDER BY 1, 2")]
            for table in ("payment", "exception_item", "event", "reading")
        ]
    ledger.close()
    return found


@pytest.mark.parametrize(
    "prepare",
    [at_the_desk_in_part, at_the_desk, purged, refusing, breaking_off, slowed_down, down],
    ids=lambda prepare: prepare.__name__,
)
def test_a_worker_overtaken_at_any_moment_writes_nothing_more(
    tmp_path: Path, prepare: Callable[[Bridge, Fee], None]
) -> None:
    """Whatever its next step was: to list, to mark, to record an outcome, to read the first one back."""
    for at in itertools.count(1):
        bridge = Bridge(tmp_path / str(at), students=4, fees=0)
        (fee,) = charged(bridge, 1000)
        student_pays(bridge, fee)
        prepare(bridge, fee)
        bridge.far.write_query_output()
        calls: list[str] = []
        then: list[list[list[dict[str, Any]]]] = []

        def send(
            request: Request,
            bridge: Bridge = bridge,
            calls: list[str] = calls,
            then: list[Any] = then,
            at: int = at,
        ) -> Reply:
            try:
                return bridge.send(request)
            finally:
                calls.append(request.method)
                if len(calls) == at:
                    bridge.far.clock.advance(seconds=16 * 60)
                    with bridge.working("back"):
                        then.append(tables(bridge))

        with bridge.working("back") as (ledger, lease):
            payment_intake.find_files(bridge.folder, ledger, lease, bridge.campus)
            payment_intake.take_in(ledger, lease, bridge.campus, bridge.marks)
            with suppress(LeaseTaken, Retriable, QuotaSpent):
                payments.post(
                    ledger,
                    lease,
                    bridge.campus,
                    AlmaApi(send, pause=lambda _: None),
                    bridge.folder,
                    bridge.marks,
                )
                assert not then
        if not then:
            break
        assert tables(bridge) == then[0]
    assert at > 1


def test_a_payment_is_marked_by_one_of_two_transactions(small: Bridge) -> None:
    (fee,) = charged(small, 1000)
    student_pays(small, fee, 400)
    small.far.write_query_output()
    with small.working("back") as (ledger, lease):
        payment_intake.find_files(small.folder, ledger, lease, small.campus)
        payment_intake.take_in(ledger, lease, small.campus, small.marks)
        with ledger.read() as tx:
            (row,) = entries.to_post(tx)
        with ledger.write(lease) as tx:
            entries.mark_posting(tx, row, 400)
        with pytest.raises(LeaseTaken), ledger.write(lease) as tx:
            entries.mark_posting(tx, row, 400)


def test_an_unknown_outcome_is_not_an_error_of_the_run(small: Bridge) -> None:
    """The other payments go on, and the outcome stands in the ledger for the next run."""
    paid = two_payments(small)
    calls: list[Callable[[Request], Reply]] = []

    def send(request: Request) -> Reply:
        if request.method == "POST" and not calls:
            calls.append(small.send)
            raise OutcomeUnknown("The connection broke off.")
        return small.send(request)

    small.api = AlmaApi(send, pause=lambda _: None)
    _, posted = small.sis_to_alma()
    assert (posted.posted, sorted(states(small))) == (1, ["posted", "unknown"])

    run_through(small)
    assert_posted_once(small, paid)


# -- files that can't be read, or take another's place ---------------------------------------------------


def windowed(text: str) -> str:
    """Each file has its own days and the same name."""
    return text.replace("[sis_to_alma]\n", "[sis_to_alma]\ncumulative = false\n")


BROKEN = b"Emplid,Payment ID\r\n1\r\n"


def test_a_refused_file_that_is_overwritten_stays_on_the_list_until_a_person_has_looked(
    tmp_path: Path,
) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=windowed)
    first, second = charged(bridge, 5000, 3000)
    student_pays(bridge, first)
    bridge.folder.put("/sfs/outbound/PAID.csv", BROKEN)
    bridge.sis_to_alma()
    assert kinds(bridge) == ["payment file refused"]
    leave(bridge, (second.user.primary_id, "18", f"ALMA{second.id}", "30.00"), name="PAID.csv")

    bridge.sis_to_alma()
    assert applied(second) == [3000]
    assert kinds(bridge) == ["refused payment file is gone"]
    bridge.sis_to_alma()
    assert kinds(bridge) == ["refused payment file is gone"]

    ledger = bridge.ledger("a person")
    with ledger.write() as tx:
        (item,) = exceptions.open_items(tx)
        entries.resolve(tx, item["exception_id"], "the bursar", "the query was run for that day again")
    ledger.close()
    bridge.sis_to_alma()
    assert kinds(bridge) == []


def test_a_refused_file_whose_payments_the_next_one_has_too_is_off_the_list(tmp_path: Path) -> None:
    bridge = Bridge(
        tmp_path,
        students=4,
        fees=0,
        settings=lambda text: windowed(text).replace("cumulative = false", "cumulative = true"),
    )
    charged(bridge, 5000)
    bridge.folder.put("/sfs/outbound/PAID.csv", BROKEN)
    bridge.sis_to_alma()
    assert kinds(bridge) == ["payment file refused"]
    bridge.folder.path("/sfs/outbound/PAID.csv").unlink()

    bridge.sis_to_alma()

    assert kinds(bridge) == []


def test_a_refused_file_that_was_not_whole_yet_is_off_the_list_when_it_is(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=windowed)
    fee, other = charged(bridge, 5000, 7000)
    rows = [
        (each.user.primary_id, str(n), f"ALMA{each.id}", "5.00") for n in (16, 17) for each in (fee, other)
    ]
    leave(bridge, *rows, name="PAID.csv")
    content = bridge.folder.read("/sfs/outbound/PAID.csv")
    bridge.folder.put("/sfs/outbound/PAID.csv", content[:-2])
    bridge.sis_to_alma()
    bridge.folder.path("/sfs/outbound/PAID.csv").unlink()
    bridge.sis_to_alma()
    assert kinds(bridge) == ["refused payment file is gone"]

    bridge.folder.put("/sfs/outbound/PAID.csv", content[:-2])
    bridge.sis_to_alma()
    assert kinds(bridge) == ["payment file refused"]
    # It was being written.
    bridge.folder.put("/sfs/outbound/PAID.csv", content)
    bridge.sis_to_alma()

    assert applied(fee) == [500, 500]
    assert kinds(bridge) == []


@pytest.mark.parametrize("length", [0, 20, len(HEAD) + 3])
def test_of_a_refused_file_without_a_whole_row_nobody_can_tell_that_the_next_one_is_its_end(
    tmp_path: Path, length: int
) -> None:
    """Every file of that query begins so."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=windowed)
    (fee,) = charged(bridge, 5000)
    leave(bridge, (fee.user.primary_id, "17", f"ALMA{fee.id}", "50.00"), name="PAID.csv")
    content = bridge.folder.read("/sfs/outbound/PAID.csv")
    bridge.folder.put("/sfs/outbound/PAID.csv", content[:length])
    bridge.sis_to_alma()
    assert kinds(bridge) == ["payment file refused"]
    bridge.folder.put("/sfs/outbound/PAID.csv", content)

    bridge.sis_to_alma()

    assert applied(fee) == [5000]
    assert kinds(bridge) == ["refused payment file is gone"]


@pytest.mark.parametrize("dies", [False, True])
def test_a_file_half_written_in_the_place_of_the_one_that_is_archived_goes_back_and_is_read_whole(
    small: Bridge, dies: bool
) -> None:
    first, second = charged(small, 5000, 3000)
    leave(small, (first.user.primary_id, "17", f"ALMA{first.id}", "50.00"), name="PAID.csv")

    def replaced(action: str, path: str) -> None:
        if action == "rename" and path.endswith("/PAID.csv"):
            small.folder.before = stopped if dies else lambda _action, _path: None
            small.folder.put("/sfs/outbound/PAID.csv", f"{HEAD}\r\n".encode())

    def stopped(action: str, _path: str) -> None:
        if action == "size":
            small.folder.before = lambda _action, _path: None
            raise Retriable("the connection broke off")

    small.folder.before = replaced
    with suppress(Retriable):
        small.sis_to_alma()
    if dies:
        assert not small.folder.path("/sfs/outbound/PAID.csv").exists()
        small.far.clock.advance(seconds=16 * 60)
        small.sis_to_alma()
    assert small.folder.path("/sfs/outbound/PAID.csv").exists()
    # The writer goes on.
    leave(small, (second.user.primary_id, "18", f"ALMA{second.id}", "30.00"), name="PAID.csv")
    small.sis_to_alma()

    assert [applied(fee) for fee in (first, second)] == [[5000], [3000]]
    assert kinds(small) == []


def test_a_newer_file_names_the_right_student(small: Bridge) -> None:
    (fee,) = charged(small, 5000)
    emplid = fee.user.primary_id
    leave(small, (emplid[1:], "17", f"ALMA{fee.id}", "50.00"))
    small.sis_to_alma()
    assert (applied(fee), kinds(small)) == ([], ["payment by another EMPLID than was charged"])

    leave(small, (emplid, "17", f"ALMA{fee.id}", "50.00"), name="LATER.csv")
    small.sis_to_alma()

    assert (applied(fee), kinds(small)) == ([5000], [])


def test_a_posted_payment_keeps_its_student(small: Bridge) -> None:
    (fee,) = charged(small, 5000)
    emplid = fee.user.primary_id
    leave(small, (emplid, "17", f"ALMA{fee.id}", "20.00"))
    small.sis_to_alma()
    leave(small, (emplid[1:], "17", f"ALMA{fee.id}", "20.00"), name="LATER.csv")
    small.sis_to_alma()

    ledger = small.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT emplid FROM payment WHERE institution = :i") == emplid
    ledger.close()
    assert applied(fee) == [2000]


@pytest.mark.parametrize(
    "written",
    ["4,711", "4 711", "4711-", "4711.", "4711.0", "4.711E3", "+4711", "(4711)", "\u0664711", "4711\u00a0"],
)
def test_an_id_written_in_another_way_is_no_second_payment(small: Bridge, written: str) -> None:
    (fee,) = charged(small, 10000)
    emplid = fee.user.primary_id
    leave(small, (emplid, "4711", f"ALMA{fee.id}", "30.00"))
    small.sis_to_alma()

    leave(small, (emplid, f'"{written}"', f"ALMA{fee.id}", "30.00"), name="LATER.csv")
    small.sis_to_alma()

    assert applied(fee) == [3000]
    stripped = written.strip() == "4711"
    assert kinds(small) == ([] if stripped else ["payment line refused"])


def test_a_nul_in_a_file_stops_that_file_and_no_payment(small_on_both: Bridge) -> None:
    (fee,) = charged(small_on_both, 5000)
    emplid = fee.user.primary_id
    leave(small_on_both, (emplid, "17\x00", f"ALMA{fee.id}", "50.00"), name="SPOILT.csv")
    leave(small_on_both, (emplid, "18", f"ALMA{fee.id}", "20.00"))

    small_on_both.sis_to_alma()

    assert (applied(fee), kinds(small_on_both)) == ([2000], ["payment file refused"])
    small_on_both.folder.path("/sfs/outbound/SPOILT.csv").unlink()
    small_on_both.sis_to_alma()
    assert applied(fee) == [2000]
