"""Files of windows and the lines of their own that take payments back: in whatever order they come."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from simulator.alma_records import Fee
from simulator.peoplesoft_records import Payment
from simulator.query_output import REVERSAL_ITEM_TYPE
from tests.bridge import Bridge
from tests.unit.test_guard import copied, lose, put_back, repaired
from tests.unit.test_reversals import charged, cumulative, equalise, kinds, listed, pay, resolve
from tests.unit.test_waivers import amounts, corrected, file_of, line_of, posted, reversing

BACK = "payment taken back in PeopleSoft"
ANOTHER = "payment with another amount"
NO_REVERSAL = "taken back no more, by its kind"
HEADING = "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount,Item Type\r\n"


def windows(tmp_path: Path, students: int = 1, url: str | None = None) -> Bridge:
    return Bridge(tmp_path, students=students, fees=0, settings=reversing, url=url)


def late_file(bridge: Bridge, *rows: str, hours: int) -> None:
    """A file arrives that was written some hours ago, before the newest one taken in."""
    name = "/sfs/outbound/LIBRARY_late.csv"
    bridge.folder.put(name, (HEADING + "".join(rows)).encode())
    at = bridge.seconds() - 3600 * hours
    os.utime(bridge.folder.path(name), (at, at))
    bridge.far.clock.advance(seconds=60)
    bridge.sis_to_alma()


def bounced(bridge: Bridge, *, was_posted: bool) -> tuple[Fee, str]:
    """A payment that two files have shown as taken back: posted before, or waiting; its fee and its own line."""
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    if not was_posted:
        bridge.far.alma.dispute(fee.id)
    file_of(bridge, paid)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        file_of(bridge, back)
    return fee, paid


@pytest.mark.parametrize("with_payment", [False, True])
def test_a_line_in_a_file_that_comes_late_is_not_lost(tmp_path: Path, with_payment: bool) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid)
    assert posted(fee) == [1000]
    bridge.far.peoplesoft.bounce(payment.payment_id)
    bridge.far.clock.advance(hours=24)
    file_of(bridge)  # the window of a later day comes first
    late_file(bridge, *([paid] if with_payment else []), back, hours=12)
    for _ in range(2):
        file_of(bridge)
        equalise(bridge)
    assert bridge.books().fees[fee.id].difference_cents == -1000
    # PeopleSoft asks for 10.00, and Alma does not.
    assert amounts(bridge) == [(ANOTHER, -1000)]


@pytest.mark.parametrize("was_posted", [True, False])
def test_an_older_window_run_again_brings_no_payment_back(tmp_path: Path, was_posted: bool) -> None:
    bridge = windows(tmp_path)
    fee, paid = bounced(bridge, was_posted=was_posted)
    assert (BACK in kinds(bridge)) is was_posted
    # For the sake of another file that was refused the query is run again for the first days.
    file_of(bridge, paid)
    if not was_posted:
        bridge.far.alma.restore(fee.id)
    for _ in range(2):
        file_of(bridge)
    assert posted(fee) == ([1000] if was_posted else [])
    assert (BACK in kinds(bridge)) is was_posted


def test_an_older_window_run_again_posts_no_payment_that_stood_in(tmp_path: Path) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 2000)
    first = pay(bridge, fee, 1000)
    paid, back = line_of(first, "10.00"), line_of(first, "10.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid)
    bridge.far.peoplesoft.bounce(first.payment_id)
    for _ in range(2):
        file_of(bridge, back)
    second = pay(bridge, fee, 1000)
    file_of(bridge, line_of(second, "10.00"))
    assert (posted(fee), kinds(bridge)) == ([1000], [])
    assert bridge.books().fees[fee.id].difference_cents == 0
    file_of(bridge, paid)
    for _ in range(2):
        file_of(bridge)
        equalise(bridge)
    assert (posted(fee), kinds(bridge)) == ([1000], [])
    assert bridge.books().fees[fee.id].difference_cents == 0


def test_a_payment_that_was_taken_back_before_it_was_heard_of_stays_so_when_its_day_is_told_again(
    tmp_path: Path,
) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    file_of(bridge, paid, back)
    assert posted(fee) == []
    file_of(bridge, paid)  # the query is run again for the first day alone
    assert posted(fee) == []


def test_a_line_heard_of_before_its_payment_is_off_it(tmp_path: Path) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    paid, back = line_of(payment, "10.00"), line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    bridge.far.clock.advance(hours=24)
    file_of(bridge, back)  # the payment's file comes late
    late_file(bridge, paid, hours=12)
    for _ in range(2):
        file_of(bridge)
    assert posted(fee) == []


def test_a_line_whose_day_is_read_otherwise_later_is_still_one_line(tmp_path: Path) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    bridge.far.alma.dispute(fee.id)
    file_of(bridge, line_of(payment, "10.00"))
    bridge.far.peoplesoft.bounce(payment.payment_id, 400)
    back = line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    for _ in range(2):
        file_of(bridge, back)
    text = bridge.file.read_text().replace("[sis_to_alma]\n", '[sis_to_alma]\ndate_format = "%d/%m/%Y"\n')
    corrected(bridge, bridge.file.read_text(), text)
    assert bridge.campus.sis_to_alma.date_format == "%d/%m/%Y"
    for _ in range(2):
        file_of(bridge, back)
    bridge.far.alma.restore(fee.id)
    for _ in range(2):
        file_of(bridge)
        equalise(bridge)
    assert posted(fee) == [600]


def test_a_repair_forgets_no_line_that_takes_back_what_is_in_alma(tmp_path: Path) -> None:
    bridge = windows(tmp_path, 2)
    corrected(bridge, f'{REVERSAL_ITEM_TYPE} = "reversal"', f'{REVERSAL_ITEM_TYPE} = "list"')
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid, back)
    assert posted(fee) == [1000]
    corrected(bridge, f'{REVERSAL_ITEM_TYPE} = "list"', f'{REVERSAL_ITEM_TYPE} = "reversal"')
    bridge.far.peoplesoft.bounce(payment.payment_id, 400)
    for _ in range(2):
        file_of(bridge, paid, back)
    assert (BACK, 400) in amounts(bridge)
    with_loss = copied(bridge)
    # As it is without a loss: the payment's day falls out of the window.
    file_of(bridge, back)
    assert (BACK, 400) in amounts(bridge)
    put_back(bridge, with_loss)
    lose(bridge, opened=False)
    repaired(bridge)
    assert (BACK, 400) in amounts(bridge)
    for _ in range(2):
        file_of(bridge, back)
    assert (BACK, 400) in amounts(bridge)


def test_a_repair_forgets_no_line_where_the_first_file_was_written_over(tmp_path: Path) -> None:
    """No settings change: PeopleSoft writes over the file after it was taken in and before it is archived."""
    bridge = windows(tmp_path, 2)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    name = "/sfs/outbound/LIBRARY.csv"
    bridge.far.clock.advance(hours=24)
    bridge.folder.put(name, (HEADING + paid).encode())
    with bridge.working("back") as (ledger, lease):
        for task, work in bridge.tasks_back():
            if task == "archive":
                bridge.far.clock.advance(seconds=60)
                bridge.folder.put(name, (HEADING + paid + back).encode())
            work(ledger, lease)
    assert posted(fee) == [1000]
    bridge.far.peoplesoft.bounce(payment.payment_id, 400)
    bridge.sis_to_alma()
    file_of(bridge, paid, back)
    assert (BACK, 400) in amounts(bridge)
    lose(bridge, opened=False)
    repaired(bridge)
    assert (BACK, 400) in amounts(bridge)
    for _ in range(2):
        file_of(bridge, back)
    assert (BACK, 400) in amounts(bridge)


def test_a_line_that_is_seen_once_more_after_a_persons_word_holds_no_fee_for_ever(tmp_path: Path) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    back = line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, line_of(payment, "10.00"))
    file_of(bridge, back)
    ((exception_id, _, _),) = listed(bridge, ANOTHER)
    resolve(bridge, exception_id)
    file_of(bridge, back)  # the windows overlap by a day
    for _ in range(3):
        file_of(bridge)
    bridge.far.alma.add_fee(bridge.far.students[0], 777)
    for _ in range(2):
        equalise(bridge)
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [1000, 777]
    assert kinds(bridge) == []


def test_a_waiting_payment_is_not_posted_after_a_person_has_seen_that_it_was_taken_back(
    tmp_path: Path,
) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    bridge.far.alma.dispute(fee.id)
    file_of(bridge, line_of(payment, "10.00"))
    bridge.far.peoplesoft.bounce(payment.payment_id)
    file_of(bridge, line_of(payment, "10.00", REVERSAL_ITEM_TYPE))
    ((exception_id, _, _),) = listed(bridge, ANOTHER)
    resolve(bridge, exception_id)
    bridge.far.alma.restore(fee.id)
    for _ in range(2):
        file_of(bridge)
        equalise(bridge)
    assert (posted(fee), kinds(bridge)) == ([], [])
    assert bridge.balances()["unexplained"] == 0


def test_a_repair_posts_nothing_that_only_a_late_file_told_of(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=1, fees=0, settings=lambda text: reversing(cumulative(text)))
    fee, other = charged(bridge, 1000, 700)
    payment, second = pay(bridge, fee), pay(bridge, other)
    paid, kept = line_of(payment, "10.00"), line_of(second, "7.00")
    bridge.far.peoplesoft.bounce(payment.payment_id)
    bridge.far.clock.advance(hours=24)
    file_of(bridge, kept)
    late_file(bridge, paid, kept, hours=12)
    assert (posted(fee), posted(other)) == ([], [700])
    bridge.sis_to_alma()
    assert posted(fee) == []
    lose(bridge, opened=False)
    repaired(bridge)
    bridge.sis_to_alma()
    assert posted(fee) == []


def test_what_took_a_payment_back_and_was_undone_in_the_same_file_loses_no_payment(tmp_path: Path) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "-10.00", REVERSAL_ITEM_TYPE)
    undone = line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    for _ in range(3):
        file_of(bridge, paid, back, undone)
    assert (posted(fee), kinds(bridge)) == ([], ["payment line refused"] * 3)


@pytest.mark.parametrize("again", [False, True])
def test_what_was_taken_for_a_line_that_takes_back_is_posted_once_its_kind_is_a_payments(
    tmp_path: Path, ledger_url: str, again: bool
) -> None:
    bridge = windows(tmp_path, url=ledger_url)
    (fee,) = charged(bridge, 1000)
    right, wrong = '300000000001 = "payment"', '300000000001 = "reversal"'
    corrected(bridge, right, wrong)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid)
    assert posted(fee) == []
    corrected(bridge, wrong, right)
    # Word for word the same line, but for its kind, takes it back.
    for _ in range(2):
        file_of(bridge, paid, *([back] if again else []))
    assert posted(fee) == ([] if again else [1000])


def check_it_stays_taken_back(bridge: Bridge, fee: Fee, *, was_posted: bool) -> None:
    if not was_posted:
        bridge.far.alma.restore(fee.id)
    for _ in range(2):
        file_of(bridge)
        equalise(bridge)
    assert posted(fee) == ([1000] if was_posted else [])
    assert (BACK in kinds(bridge)) is was_posted


@pytest.mark.parametrize("was_posted", [True, False])
def test_a_line_of_a_kind_that_is_not_named_any_more_still_takes_back(
    tmp_path: Path, was_posted: bool
) -> None:
    bridge = windows(tmp_path)
    fee, paid = bounced(bridge, was_posted=was_posted)
    corrected(bridge, f'{REVERSAL_ITEM_TYPE} = "reversal"', '300000000099 = "reversal"')
    file_of(bridge, paid)
    check_it_stays_taken_back(bridge, fee, was_posted=was_posted)


@pytest.mark.parametrize("named_yet", ["other kinds", "no kinds at all"])
@pytest.mark.parametrize("was_posted", [True, False])
def test_a_line_still_takes_back_once_no_kind_is_called_a_reversal(
    tmp_path: Path, was_posted: bool, named_yet: str
) -> None:
    """The query leaves those lines out from now on, so their kind is struck from the settings, or the column with it."""
    bridge = windows(tmp_path)
    fee, paid = bounced(bridge, was_posted=was_posted)
    text = bridge.file.read_text()
    gone = (
        f'{REVERSAL_ITEM_TYPE} = "reversal"\n'
        if named_yet == "other kinds"
        else text[text.index("kind = ") :]
    )
    corrected(bridge, gone, "")
    file_of(bridge, paid)
    check_it_stays_taken_back(bridge, fee, was_posted=was_posted)


@pytest.mark.parametrize("was_posted", [True, False])
def test_a_line_stays_of_its_kind_when_another_is_called_a_reversal_by_mistake(
    tmp_path: Path, was_posted: bool
) -> None:
    bridge = windows(tmp_path)
    fee, paid = bounced(bridge, was_posted=was_posted)
    right, wrong = '300000000001 = "payment"', '300000000001 = "reversal"'
    corrected(bridge, right, wrong)
    file_of(bridge, paid)
    corrected(bridge, wrong, right)
    file_of(bridge, paid)
    check_it_stays_taken_back(bridge, fee, was_posted=was_posted)


@pytest.mark.parametrize("now", ["list", "ignore", "payment"])
@pytest.mark.parametrize("cents", [1000, 400])
@pytest.mark.parametrize("waits", [True, False])
def test_what_was_taken_back_by_a_kind_that_is_called_something_else_now_is_listed(
    tmp_path: Path, ledger_url: str, waits: bool, cents: int, now: str
) -> None:
    """No later window need tell of the payment again."""
    bridge = windows(tmp_path, url=ledger_url)
    other = "300000000098"
    named = f'{REVERSAL_ITEM_TYPE} = "reversal"\n'
    corrected(bridge, named, f'{named}{other} = "reversal"\n')
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, line = line_of(payment, "10.00"), line_of(payment, f"{cents / 100:.2f}", other)
    if waits:
        bridge.far.alma.dispute(fee.id)
        file_of(bridge, paid)
        for _ in range(2):
            file_of(bridge, line)
        bridge.far.alma.restore(fee.id)
    else:
        file_of(bridge, paid, line)  # taken in lower, or not at all
    corrected(bridge, f'{other} = "reversal"', f'{other} = "{now}"')
    for _ in range(2):
        file_of(bridge)
        equalise(bridge)
    assert (NO_REVERSAL, cents) in amounts(bridge)
    assert posted(fee) == ([] if cents == 1000 else [600])
    assert bridge.balances()["unexplained"] == 0
    file_of(bridge, paid)  # the query is run again for its day
    if cents == 1000:
        file_of(bridge)
        assert (kinds(bridge), posted(fee)) == ([], [1000])
        return
    # What is in Alma in part stays so; the rest is a person's affair.
    for exception_id, _, _ in [*listed(bridge, NO_REVERSAL), *listed(bridge, ANOTHER)]:
        resolve(bridge, exception_id)
    for _ in range(2):
        file_of(bridge)
    assert NO_REVERSAL not in kinds(bridge)


def test_a_payment_whose_kind_was_called_a_reversal_for_two_days_is_listed(tmp_path: Path) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    paid = line_of(pay(bridge, fee), "10.00")
    bridge.far.alma.dispute(fee.id)
    file_of(bridge, paid)
    right, wrong = '300000000001 = "payment"', '300000000001 = "reversal"'
    corrected(bridge, right, wrong)
    for _ in range(2):
        file_of(bridge, paid)
    corrected(bridge, wrong, right)
    bridge.far.alma.restore(fee.id)
    file_of(bridge)
    assert (amounts(bridge), posted(fee)) == ([(NO_REVERSAL, 1000)], [])
    file_of(bridge, paid)
    assert (amounts(bridge), posted(fee)) == ([], [1000])


@pytest.mark.parametrize("now", ["list", "ignore"])
def test_what_is_no_payment_any_more_stands_in_for_none(tmp_path: Path, ledger_url: str, now: str) -> None:
    bridge = windows(tmp_path, url=ledger_url)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    file_of(bridge, line_of(payment, "10.00"))
    bridge.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        file_of(bridge, line_of(payment, "10.00", REVERSAL_ITEM_TYPE))
    assert kinds(bridge) == [BACK]
    file_of(bridge, line_of(payment, "10.00", "300000000002").replace(payment.payment_id, "000000077777"))
    assert kinds(bridge) == []
    right = '300000000002 = "payment"'
    corrected(bridge, right, f'300000000002 = "{now}"')
    for _ in range(2):
        file_of(bridge)
    assert (BACK, 1000) in amounts(bridge)
    # And it is one after all.
    corrected(bridge, f'300000000002 = "{now}"', right)
    for _ in range(2):
        file_of(bridge)
    assert (kinds(bridge), posted(fee)) == ([], [1000])


def test_a_line_that_takes_back_nought_keeps_no_payment_out(tmp_path: Path) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    for _ in range(2):
        file_of(bridge, line_of(payment, "10.00"), line_of(payment, "0.00", REVERSAL_ITEM_TYPE))
    assert posted(fee) == [1000]


@pytest.mark.parametrize("was_posted", [True, False])
def test_a_file_without_the_line_is_no_second_witness_of_it(tmp_path: Path, was_posted: bool) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    if not was_posted:
        bridge.far.alma.dispute(fee.id)
    file_of(bridge, paid)
    bridge.far.peoplesoft.bounce(payment.payment_id, 400)
    for rows in ([back], [paid], [paid]):
        file_of(bridge, *rows)
        assert (ANOTHER, -400) in amounts(bridge)
        assert BACK not in kinds(bridge)
    if not was_posted:
        bridge.far.alma.restore(fee.id)
    file_of(bridge)
    assert posted(fee) == ([1000] if was_posted else [])
    file_of(bridge, paid, back)
    assert posted(fee) == ([1000] if was_posted else [600])
    assert amounts(bridge) == ([(BACK, 400)] if was_posted else [])


def grown(bridge: Bridge) -> tuple[Fee, str, str]:
    """A payment of 10.00 of which 4.00 were taken back is told as 12.00; its fee, its own line of before, and the other."""
    (fee,) = charged(bridge, 2000)
    payment = pay(bridge, fee, 1000)
    paid, back = line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid)
    bridge.far.peoplesoft.bounce(payment.payment_id, 400)
    for _ in range(2):
        file_of(bridge, back)
    assert amounts(bridge) == [(BACK, 400)]
    file_of(bridge, line_of(payment, "12.00"))
    return fee, paid, back


def test_a_payment_that_has_grown_is_listed_though_the_line_that_took_it_back_is_not_beside_it(
    tmp_path: Path,
) -> None:
    bridge = windows(tmp_path)
    fee, paid, _ = grown(bridge)
    assert amounts(bridge) == [(BACK, 400), (ANOTHER, 200)]
    # The rise was taken off the item again.
    file_of(bridge, paid)
    assert amounts(bridge) == [(BACK, 400)]
    assert posted(fee) == [1000]


@pytest.mark.parametrize("with_line", [False, True])
def test_that_a_payment_has_grown_stays_listed_when_an_older_window_is_run_again(
    tmp_path: Path, with_line: bool
) -> None:
    bridge = windows(tmp_path)
    _, paid, back = grown(bridge)
    assert amounts(bridge) == [(BACK, 400), (ANOTHER, 200)]
    late_file(bridge, paid, *([back] if with_line else []), hours=12)
    assert amounts(bridge) == [(BACK, 400), (ANOTHER, 200)]


def test_what_one_file_shows_lower_is_listed_without_what_stands_as_taken_back_by_then(
    tmp_path: Path,
) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    first, second = (line_of(payment, cents, REVERSAL_ITEM_TYPE) for cents in ("4.00", "3.00"))
    file_of(bridge, line_of(payment, "10.00"))
    for _ in range(2):
        file_of(bridge, first)
    file_of(bridge, second)
    assert sorted(amounts(bridge)) == [(BACK, 400), (ANOTHER, -300), (NOT_TOGETHER, 300)]
    # A person deals with each; together they come to what was taken back.
    for kind in (BACK, ANOTHER, NOT_TOGETHER):
        ((exception_id, _, _),) = listed(bridge, kind)
        resolve(bridge, exception_id)
    for _ in range(2):
        file_of(bridge, second)
    assert amounts(bridge) == []


def test_a_line_that_comes_late_once_more_is_taken_back_no_second_time(
    tmp_path: Path, ledger_url: str
) -> None:
    bridge = windows(tmp_path, url=ledger_url)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid)
    bridge.far.peoplesoft.bounce(payment.payment_id, 400)
    for _ in range(2):
        file_of(bridge, back)
    late_file(bridge, paid, back, hours=36)
    assert amounts(bridge) == [(BACK, 400)]
    file_of(bridge, back)
    assert amounts(bridge) == [(BACK, 400)]


def test_a_line_that_comes_late_is_the_second_witness_of_an_older_file(tmp_path: Path) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    back = line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, line_of(payment, "10.00"))
    bridge.far.peoplesoft.bounce(payment.payment_id)
    file_of(bridge, back)
    file_of(bridge)
    late_file(bridge, back, hours=12)
    assert amounts(bridge) == [(BACK, 1000)]


def test_a_line_whose_day_is_written_otherwise_later_is_still_one_line(tmp_path: Path) -> None:
    """The user who runs the query has other regional settings now, and the settings say so."""
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    file_of(bridge, line_of(payment, "10.00"))
    bridge.far.peoplesoft.bounce(payment.payment_id, 400)
    back = line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    for _ in range(2):
        file_of(bridge, back)
    corrected(bridge, "[sis_to_alma]\n", '[sis_to_alma]\ndate_format = "%Y-%m-%d"\n')
    for _ in range(2):
        file_of(bridge, back.replace("12/01/2026", "2026-12-01"))
    assert amounts(bridge) == [(BACK, 400)]
    # And read otherwise once more.
    corrected(bridge, "%Y-%m-%d", "%Y-%d-%m")
    for _ in range(2):
        file_of(bridge, back.replace("12/01/2026", "2026-12-01"))
    assert amounts(bridge) == [(BACK, 400)]


def test_of_a_payment_of_unclear_outcome_a_persons_word_settles_nothing_that_is_in_alma(
    tmp_path: Path,
) -> None:
    bridge = windows(tmp_path)
    first, fee = charged(bridge, 700, 1000)
    paid = pay(bridge, first)
    file_of(bridge, line_of(paid, "7.00"))
    payment = pay(bridge, fee)
    bridge.far.faults.add_http("drop_after", method="POST", path="/fees")
    file_of(bridge, line_of(payment, "10.00"))
    bridge.far.faults.clear()
    bridge.far.peoplesoft.bounce(payment.payment_id)
    bridge.far.clock.advance(hours=24)
    name = "/sfs/outbound/LIBRARY_back.csv"
    bridge.folder.put(name, (HEADING + line_of(payment, "10.00", REVERSAL_ITEM_TYPE)).encode())
    with bridge.working("back") as (ledger, lease):
        for _, work in bridge.tasks_back()[:2]:
            work(ledger, lease)
    ((exception_id, _, _),) = listed(bridge, ANOTHER)
    resolve(bridge, exception_id)
    file_of(bridge)
    assert posted(fee) == [1000]
    assert amounts(bridge) == [(BACK, 1000)]


NOT_TOGETHER = "taken back by two lines that no file has together"
SUM = ("[sis_to_alma]\n", '[sis_to_alma]\nreversal_lines = "sum"\n')


def told_by_one_line(bridge: Bridge, payment: Payment, *backs: str) -> None:
    """The query's window has the payment, and in one line what was taken back of it up to then."""
    for back in backs:
        file_of(bridge, line_of(payment, "10.00"), line_of(payment, back, REVERSAL_ITEM_TYPE))


@pytest.mark.parametrize("waits", [True, False])
def test_a_line_that_grows_is_listed_until_the_settings_say_that_it_sums_up(
    tmp_path: Path, waits: bool
) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    if waits:
        bridge.far.alma.dispute(fee.id)
    file_of(bridge, line_of(payment, "10.00"))
    assert posted(fee) == ([] if waits else [1000])
    told_by_one_line(bridge, payment, "3.00", "3.00", "7.00", "7.00")
    # Nobody can tell whether 7.00 or 10.00 was taken back.
    assert (NOT_TOGETHER, 300) in amounts(bridge)
    corrected(bridge, *SUM)
    told_by_one_line(bridge, payment, "7.00")
    assert NOT_TOGETHER not in kinds(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id, 700)
    if waits:
        bridge.far.alma.restore(fee.id)
        told_by_one_line(bridge, payment, "7.00")
        equalise(bridge)
        assert (posted(fee), amounts(bridge)) == ([300], [])
        assert bridge.books().fees[fee.id].difference_cents == 0
    else:
        assert sum(cents for _, cents, _ in listed(bridge)) == 700


def test_two_lines_that_are_both_true_are_settled_by_a_person_or_by_a_file_that_has_both(
    tmp_path: Path,
) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    first, second = (line_of(payment, cents, REVERSAL_ITEM_TYPE) for cents in ("3.00", "2.00"))
    file_of(bridge, line_of(payment, "10.00"))
    for row in (first, first, second, second):
        file_of(bridge, row)
    ((_, *told),) = listed(bridge, NOT_TOGETHER)
    assert told == [200, fee.id]
    file_of(bridge, first, second)
    assert listed(bridge, NOT_TOGETHER) == []
    third = line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, third)
    ((exception_id, cents, _),) = listed(bridge, NOT_TOGETHER)
    assert cents == 400
    resolve(bridge, exception_id)
    file_of(bridge, third)
    file_of(bridge, first)
    assert listed(bridge, NOT_TOGETHER) == []
    assert sum(cents for _, cents, _ in listed(bridge)) == 900


@pytest.mark.parametrize("backs", [("3.00", "7.00"), ("7.00", "3.00"), ("7.00", "7.00")])
def test_of_lines_that_sum_up_the_largest_counts_in_whatever_order_they_come(
    tmp_path: Path, backs: tuple[str, ...]
) -> None:
    bridge = Bridge(tmp_path, students=1, fees=0, settings=lambda text: reversing(text).replace(*SUM))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    file_of(bridge, line_of(payment, "10.00"))
    for back in backs:
        told_by_one_line(bridge, payment, back, back)
    assert sum(cents for _, cents, _ in listed(bridge)) == 700
    # Both can't have all of it.
    file_of(bridge, *(line_of(payment, back, REVERSAL_ITEM_TYPE) for back in ("3.00", "8.00")))
    assert kinds(bridge).count("payment line refused") == 2
    assert sum(cents for _, cents, _ in listed(bridge)) == 700


@pytest.mark.parametrize("before", ["sum", "cumulative"])
@pytest.mark.parametrize("waits", [True, False])
def test_known_lines_of_which_more_counts_by_other_settings_are_listed(
    tmp_path: Path, waits: bool, before: str
) -> None:
    """The lines were taken in when the largest counted, or those of the newest file alone."""
    now = SUM if before == "sum" else ("[sis_to_alma]\n", "[sis_to_alma]\ncumulative = true\n")
    bridge = Bridge(tmp_path, students=1, fees=0, settings=lambda text: reversing(text).replace(*now))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    if waits:
        bridge.far.alma.dispute(fee.id)
    file_of(bridge, line_of(payment, "10.00"))
    told_by_one_line(bridge, payment, "3.00", "3.00", "7.00", "7.00")
    bridge.far.peoplesoft.bounce(payment.payment_id, 700)
    corrected(bridge, now[1], now[0])
    told_by_one_line(bridge, payment, "7.00", "7.00")
    assert (NOT_TOGETHER, 300) in amounts(bridge)
    corrected(bridge, *SUM)
    if waits:
        bridge.far.alma.restore(fee.id)
    told_by_one_line(bridge, payment, "7.00")
    equalise(bridge)
    assert NOT_TOGETHER not in kinds(bridge)
    assert posted(fee) == ([300] if waits else [1000])


@pytest.mark.parametrize("now", ['date_format = "%d/%m/%Y"', "cumulative = true"])
def test_what_no_file_had_together_is_off_the_list_by_other_settings_too(tmp_path: Path, now: str) -> None:
    bridge = windows(tmp_path)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid = line_of(payment, "10.00")
    first, second = (line_of(payment, cents, REVERSAL_ITEM_TYPE) for cents in ("3.00", "2.00"))
    for row in (paid, first, second):
        file_of(bridge, row)
    assert NOT_TOGETHER in kinds(bridge)
    corrected(bridge, "[sis_to_alma]\n", f"[sis_to_alma]\n{now}\n")
    file_of(bridge, paid, first, second)
    assert NOT_TOGETHER not in kinds(bridge)
