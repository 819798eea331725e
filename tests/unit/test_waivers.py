"""What PeopleSoft waives or writes off is waived in Alma, once. The simulated campus is the witness."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest

from alma_hook import campus, payments
from alma_hook.alma import AlmaApi, Request
from alma_hook.alma_answers import Reply
from alma_hook.errors import AlmaHookError, LeaseTaken, Retriable, SendingStopped, SettingsError
from alma_hook.ledger import Row, exceptions
from simulator.alma_records import Fee
from simulator.peoplesoft_records import Payment
from simulator.query_output import REVERSAL_ITEM_TYPE
from tests.bridge import SETTINGS, Bridge
from tests.unit.test_applied import raised
from tests.unit.test_at_the_limit import post as post_at_once
from tests.unit.test_guard import copied, lose, put_back, repaired
from tests.unit.test_older_copies import copy_after, person
from tests.unit.test_reversals import charged, cumulative, equalise, kinds, listed, night, pay, resolve

WAIVER = "900000000007"
CHARGES = ("300000000001", "300000000002", "300000000003")
PAID = "".join(f'{code} = "payment"\n' for code in CHARGES)
WAYS = ("comment", "ledger")


def waiving(way: str):  # type: ignore[no-untyped-def]
    """Settings by which the item type of a credit says what it is."""

    def settings(text: str) -> str:
        text = cumulative(text).replace("[sis_to_alma]\n", f'[sis_to_alma]\nwaivers_shown_by = "{way}"\n')
        return (
            f'{text.rstrip()}\nkind = "Item Type"\n[sis_to_alma.kinds]\n{PAID}{WAIVER} = "waive:GOODWILL"\n'
        )

    return settings


def made(tmp_path: Path, way: str, url: str | None = None) -> Bridge:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=waiving(way), url=url)
    bridge.far.alma.behaviour.waive_comment_returned = way == "comment"
    return bridge


@pytest.fixture(params=WAYS)
def bridge(request: pytest.FixtureRequest, tmp_path: Path) -> Bridge:
    return made(tmp_path, request.param)


@pytest.fixture(params=WAYS)
def both(request: pytest.FixtureRequest, tmp_path: Path, ledger_url: str) -> Bridge:
    return made(tmp_path, request.param, ledger_url)


def waive(bridge: Bridge, fee: Fee, cents: int | None = None) -> str:
    """PeopleSoft's office waives an item, or a part of it."""
    (payment,) = bridge.far.peoplesoft.pay(f"ALMA{fee.id}", cents, item_type=WAIVER)
    return payment.payment_id


def in_alma(fee: Fee) -> list[tuple[str, int, str | None]]:
    return [(t.kind, t.amount_cents, t.reason) for t in fee.transactions]


def number(bridge: Bridge, kind: str) -> str:
    (subject,) = [subject for subject, found in bridge.exceptions().items() if found == kind]
    return subject.split()[1]


def rows_of(bridge: Bridge, table: str) -> list[Row]:
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        return tx.rows(f"SELECT * FROM {table} WHERE institution = :i")


def even(bridge: Bridge) -> None:
    """Two more rounds change nothing, and both sides agree."""
    told = len(bridge.far.peoplesoft.postings)
    before = [in_alma(fee) for fee in bridge.far.alma.fees.values()]
    for _ in range(2):
        equalise(bridge)
        night(bridge)
    assert len(bridge.far.peoplesoft.postings) == told
    assert [in_alma(fee) for fee in bridge.far.alma.fees.values()] == before
    assert bridge.unexplained() == {}
    assert bridge.balances()["unexplained"] == 0


def test_what_peoplesoft_waives_is_waived_in_alma_and_credited_by_nobody(both: Bridge) -> None:
    first, second = charged(both, 1000, 700)
    waive(both, first)
    waive(both, second, 300)
    night(both)

    assert in_alma(first) == [("WAIVE", 1000, "GOODWILL")]
    assert in_alma(second) == [("WAIVE", 300, "GOODWILL")]
    even(both)
    assert both.books().unequal == {}
    assert kinds(both) == []


def test_a_waiver_and_a_payment_of_one_fee(bridge: Bridge) -> None:
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    pay(bridge, fee, 600)
    night(bridge)

    assert sorted(in_alma(fee)) == [("PAYMENT", 600, None), ("WAIVE", 400, "GOODWILL")]
    even(bridge)


def test_whatever_else_happens_on_the_fee_is_told_as_ever(bridge: Bridge) -> None:
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    night(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 100)
    equalise(bridge)
    bridge.far.alma.raise_fee(fee.id, 250)
    equalise(bridge)

    assert sorted(posting.cents for posting in bridge.far.peoplesoft.postings) == [-100, 250, 1000]
    assert bridge.books().unequal == {}
    even(bridge)


def test_more_waived_than_is_open_is_listed(bridge: Bridge) -> None:
    (fee,) = charged(bridge, 1000)
    bridge.far.alma.pay_at_desk(fee.id, 800)
    waive(bridge, fee, 1000)
    night(bridge)

    assert in_alma(fee) == [("PAYMENT", 800, None), ("WAIVE", 200, "GOODWILL")]
    assert kinds(bridge) == ["paid more than Alma's balance"]
    # The desk's payment becomes a credit, beside which that rest would pay the student's next fee.
    equalise(bridge)
    night(bridge)
    assert kinds(bridge) == ["paid more than Alma's balance"]
    assert bridge.balances()["unexplained"] == 0


def test_the_same_file_again_waives_nothing_again(bridge: Bridge) -> None:
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    for _ in range(3):
        night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "broken_body", "fail_after", "fail_before"])
def test_an_unclear_answer_is_looked_for_or_left_to_a_person(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    first, fee = charged(bridge, 100, 1000)
    waive(bridge, first)
    night(bridge)
    waive(bridge, fee, 400)
    bridge.far.faults.add_http(fault, method="POST", path="/fees")
    night(bridge)
    bridge.far.faults.clear()
    there = in_alma(fee)
    night(bridge)
    _, posted = night(bridge)
    if bridge.campus.sis_to_alma.waivers_shown_by == "ledger":
        assert (in_alma(fee), posted.waiting) == (there, 1)
        assert kinds(bridge) == ["waiver of unclear outcome"]
        word = "mark-waived" if there else "mark-not-waived"
        assert person(bridge, monkeypatch, word, number(bridge, "waiver of unclear outcome")) == 0
        night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    assert kinds(bridge) == []
    even(bridge)


def test_a_person_says_nothing_of_what_is_clear_or_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bridge = made(tmp_path, "ledger")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    bridge.far.faults.add_http("drop_after", method="POST", path="/fees")
    night(bridge)
    assert person(bridge, monkeypatch, "mark-not-waived", "1") == 1
    assert "may still be on its way" in capsys.readouterr().err
    bridge.far.clock.advance(seconds=3600)
    assert person(bridge, monkeypatch, "mark-waived", "1") == 0
    assert person(bridge, monkeypatch, "mark-waived", "1") == 1
    assert "is no waiver of unclear outcome" in capsys.readouterr().err
    assert person(bridge, monkeypatch, "mark-waived", "17") == 1
    even(bridge)


def test_a_waiver_that_a_person_took_for_made_is_listed_and_charges_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = made(tmp_path, "ledger")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    bridge.far.faults.add_http("drop_before", method="POST", path="/fees")
    night(bridge)
    bridge.far.faults.clear()
    bridge.far.clock.advance(seconds=3600)
    assert person(bridge, monkeypatch, "mark-waived", "1") == 0
    for _ in range(2):
        equalise(bridge)
        night(bridge)
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [1000]
    assert kinds(bridge) == ["payments in Alma differ from those posted"]


def test_a_comment_that_comes_back_after_all_counts_once(tmp_path: Path) -> None:
    bridge = made(tmp_path, "ledger")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    night(bridge)
    bridge.far.alma.behaviour.waive_comment_returned = True
    even(bridge)
    assert (in_alma(fee), kinds(bridge)) == ([("WAIVE", 400, "GOODWILL")], [])


def test_a_comment_that_does_not_come_back_any_more_is_listed(tmp_path: Path) -> None:
    bridge = made(tmp_path, "comment")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    night(bridge)
    bridge.far.alma.behaviour.waive_comment_returned = False
    bridge.alma_to_sis("all_users")
    assert kinds(bridge) == ["payments in Alma differ from those posted"]
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [1000]


def test_a_comment_that_does_not_come_back_stops_the_second_waiver(tmp_path: Path) -> None:
    bridge = made(tmp_path, "comment")
    bridge.far.alma.behaviour.waive_comment_returned = False
    first, second = charged(bridge, 1000, 700)
    waive(bridge, first)
    waive(bridge, second)
    with pytest.raises(SendingStopped, match="does not come back with the fee"):
        night(bridge)
    assert sorted(len(in_alma(fee)) for fee in (first, second)) == [0, 1]

    # The campus says so, and all goes on.
    text = bridge.file.read_text().replace('waivers_shown_by = "comment"', 'waivers_shown_by = "ledger"')
    bridge.file.write_text(text)
    bridge.campus = campus.load(bridge.file)
    night(bridge)
    assert [in_alma(fee) for fee in (first, second)] == [
        [("WAIVE", 1000, "GOODWILL")],
        [("WAIVE", 700, "GOODWILL")],
    ]
    even(bridge)


def test_the_first_waiver_ever_is_read_back_before_there_is_a_second(tmp_path: Path) -> None:
    """Though payments were read back long ago, and however many accounts are posted at once."""
    bridge = made(tmp_path, "comment")
    bridge.far.alma.behaviour.waive_comment_returned = False
    first, *others = charged(bridge, 100, 200, 300, 400)
    pay(bridge, first)
    night(bridge)
    for fee in others:
        waive(bridge, fee)
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output()
    two = Barrier(2)

    def send(request: Request) -> Reply:
        if request.method == "POST":
            with suppress(BrokenBarrierError):
                two.wait(0.5)
        return bridge.send(request)

    with pytest.raises(SendingStopped, match="does not come back with the fee"):
        post_at_once(bridge, AlmaApi(send, pause=lambda _: None))
    assert sum(len(in_alma(fee)) for fee in others) == 1


def test_once_a_waiver_was_read_back_the_next_one_costs_a_reading_and_a_call(tmp_path: Path) -> None:
    bridge = made(tmp_path, "comment")
    first, second = charged(bridge, 100, 1000)
    waive(bridge, first)
    night(bridge)
    waive(bridge, second, 400)
    before = bridge.far.api.call_count()
    night(bridge)
    assert [call.method for call in list(bridge.far.api.calls)[before:]] == ["GET", "POST"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("older", [False, True])
def test_a_waiver_is_not_made_again_after_a_repair(tmp_path: Path, way: str, older: bool) -> None:
    bridge = made(tmp_path, way)
    fee, other = charged(bridge, 1000, 700)
    copy = copied(bridge)
    waive(bridge, fee, 400)
    pay(bridge, other, 100)
    night(bridge)
    if older:
        put_back(bridge, copy)
    else:
        lose(bridge, opened=False)
    bridge.far.clock.advance(seconds=3600)
    with suppress(SendingStopped):
        night(bridge)
    repaired(bridge)
    night(bridge)
    # Of what Alma does not show the last that is known is that it was on its way.
    doubt = ["waiver of unclear outcome"] if way == "ledger" else []
    assert kinds(bridge) == doubt
    night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    assert in_alma(other) == [("PAYMENT", 100, None)]


def test_a_copy_from_before_a_waiver_leaves_its_outcome_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = made(tmp_path, "ledger")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    copy = copy_after(bridge, night, "take in")
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    put_back(bridge, copy)
    bridge.far.clock.advance(seconds=3600)
    repaired(bridge)
    night(bridge)
    assert kinds(bridge) == ["waiver of unclear outcome"]
    assert person(bridge, monkeypatch, "mark-waived", number(bridge, "waiver of unclear outcome")) == 0
    night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    even(bridge)


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_each_step_it_is_waived_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    class Died(BaseException):
        pass

    for step in range(1, 60):
        bridge = made(tmp_path / str(step), way)
        (fee,) = charged(bridge, 1000)
        waive(bridge, fee, 400)
        bridge.far.clock.advance(hours=24)
        bridge.far.write_query_output()
        left = [step]

        def dies(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Died

        plain = bridge.api._send
        bridge.api._send = lambda request, plain=plain, dies=dies: (dies(), plain(request), dies())[1]
        bridge.folder.before = lambda _action, _path, dies=dies: dies()
        finished = False
        with suppress(Died):
            bridge.sis_to_alma()
            finished = True
        bridge.api._send, bridge.folder.before = plain, lambda _action, _path: None
        bridge.far.clock.advance(seconds=3600)
        for _ in range(2):
            night(bridge)
        if "waiver of unclear outcome" in kinds(bridge):
            word = "mark-waived" if in_alma(fee) else "mark-not-waived"
            assert person(bridge, monkeypatch, word, number(bridge, "waiver of unclear outcome")) == 0
            night(bridge)
        assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")], step
        equalise(bridge)
        assert bridge.books().unequal == {}, step
        if finished:
            break
    else:
        raise AssertionError("never finished")


def test_a_line_of_a_kind_that_is_not_mapped_is_taken_in_once_it_is(bridge: Bridge) -> None:
    mapped = bridge.file.read_text()
    bridge.file.write_text(mapped.replace(f'{WAIVER} = "waive:GOODWILL"\n', '999 = "waive:GOODWILL"\n'))
    bridge.campus = campus.load(bridge.file)
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    night(bridge)
    assert (in_alma(fee), kinds(bridge)) == ([], ["payment line refused"])

    bridge.file.write_text(mapped)
    bridge.campus = campus.load(bridge.file)
    night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    even(bridge)


def test_a_reason_that_alma_does_not_know_is_listed_and_waives_nothing(tmp_path: Path) -> None:
    bridge = made(tmp_path, "comment")
    bridge.file.write_text(bridge.file.read_text().replace("waive:GOODWILL", "waive:NONSENSE"))
    bridge.campus = campus.load(bridge.file)
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    with suppress(AlmaHookError):
        night(bridge)
    assert (in_alma(fee), kinds(bridge)) == ([], ["refused by Alma"])


KINDS = f'kind = "Item Type"\n[sis_to_alma.kinds]\n{PAID}7 = "waive:OTHER"\n'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + KINDS, "sis_to_alma.waivers_shown_by: is needed"),
        (lambda text: text + KINDS.replace("waive:OTHER", "waive:"), "sis_to_alma.kinds"),
        (
            lambda text: (
                (text + KINDS)
                .replace('payment_id = "Payment ID"\n', "")
                .replace(
                    "[sis_to_alma]\n", '[sis_to_alma]\nwaivers_shown_by = "comment"\ncomplete_days = true\n'
                )
            ),
            "can't be told from a payment of that amount and day",
        ),
        (
            lambda text: text.replace("[sis_to_alma]\n", '[sis_to_alma]\nwaivers_shown_by = "comment"\n'),
            "is of no use",
        ),
        (
            lambda text: (
                (text + KINDS)
                .replace(
                    "[sis_to_alma]\n",
                    '[sis_to_alma]\nwaivers_shown_by = "ledger"\nwithout_reference = "hold"\n',
                )
                .replace('reference = "Reference Number"\n', "")
            ),
            "which fee is waived has to be told",
        ),
        (
            lambda text: text.replace("[sis_to_alma]\n", '[sis_to_alma]\nreversal_lines = "sum"\n'),
            "is of no use while kinds has no reversal",
        ),
        (
            lambda text: reversing(cumulative(text)).replace(
                "[sis_to_alma]\n", '[sis_to_alma]\nreversal_lines = "sum"\n'
            ),
            "is of no use with cumulative = true",
        ),
    ],
)
def test_settings_that_can_not_be_meant(tmp_path: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "campus.toml"
    file.write_text(change(SETTINGS.format(report_path="/shared/x", layout="default")))
    with pytest.raises(SettingsError) as caught:
        campus.load(file)
    assert said in str(caught.value)


# -- lines that take a payment back --------------------------------------------------------------------------------------


def reversing(text: str) -> str:
    told = f'kind = "Item Type"\n[sis_to_alma.kinds]\n{PAID}{REVERSAL_ITEM_TYPE} = "reversal"\n'
    return f"{text.rstrip()}\n{told}"


def night_of_reversals(bridge: Bridge, **how: object) -> None:
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output(bounced="reversal", **how)  # type: ignore[arg-type]
    bridge.sis_to_alma()


def posted(fee: Fee) -> list[int]:
    return [t.amount_cents for t in fee.transactions if t.kind == "PAYMENT"]


@pytest.mark.parametrize("part", [1000, 400])
def test_a_line_takes_a_payment_back_and_a_second_file_says_so(tmp_path: Path, part: int) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=lambda text: reversing(cumulative(text)))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    night_of_reversals(bridge)
    assert posted(fee) == [1000]
    bridge.far.peoplesoft.bounce(payment.payment_id, part)
    night_of_reversals(bridge)
    assert kinds(bridge) == []
    night_of_reversals(bridge)
    assert [(kind, cents) for kind, cents in amounts(bridge)] == [("payment taken back in PeopleSoft", part)]
    assert bridge.balances()["unexplained"] == 0


def test_a_payment_that_was_taken_back_before_it_was_heard_of_is_not_posted(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=lambda text: reversing(cumulative(text)))
    first, second = charged(bridge, 1000, 700)
    gone, part = pay(bridge, first), pay(bridge, second)
    bridge.far.peoplesoft.bounce(gone.payment_id)
    bridge.far.peoplesoft.bounce(part.payment_id, 300)
    for _ in range(3):
        night_of_reversals(bridge)
    assert (posted(first), posted(second), kinds(bridge)) == ([], [400], [])


def test_a_file_of_new_lines_only_tells_of_an_older_payment(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=reversing)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    night_of_reversals(bridge, cumulative=False)
    assert posted(fee) == [1000]
    row = (
        f"{payment.emplid},{payment.payment_id},11/30/2026,{payment.reference},10.00,{REVERSAL_ITEM_TYPE}\r\n"
    )
    strange = row.replace(payment.payment_id, "000000099999")
    bridge.far.clock.advance(hours=24)
    heading = "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount,Item Type\r\n"
    bridge.folder.put("/sfs/outbound/LIBRARY_1.csv", (heading + row + strange).encode())
    bridge.sis_to_alma()
    assert posted(fee) == [1000]
    assert sorted(amounts(bridge)) == [("payment line refused", 1000), ("payment with another amount", -1000)]


def amounts(bridge: Bridge) -> list[tuple[str, int]]:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        found = [(row["kind"], int(row["amount"])) for row in exceptions.open_items(tx)]
    ledger.close()
    return found


def file_of(bridge: Bridge, *rows: str) -> None:
    """PeopleSoft leaves a file of these lines, and the DAG runs."""
    bridge.far.clock.advance(hours=24)
    heading = "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount,Item Type\r\n"
    name = f"/sfs/outbound/LIBRARY_{bridge.far.clock.now():%Y%m%d%H%M%S}.csv"
    bridge.folder.put(name, (heading + "".join(rows)).encode())
    bridge.sis_to_alma()


def line_of(payment: Payment, paid: str, item_type: str = "300000000001") -> str:
    return f"{payment.emplid},{payment.payment_id},12/01/2026,{payment.reference},{paid},{item_type}\r\n"


@pytest.mark.parametrize("payable", [True, False])
def test_what_was_taken_in_lower_is_lowered_no_more_by_the_line_alone(tmp_path: Path, payable: bool) -> None:
    """Files of several days: the payment's day falls out of them before that of the line which takes it back."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=reversing)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    bridge.far.peoplesoft.bounce(payment.payment_id, 400)
    paid, back = line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    if not payable:
        bridge.far.alma.dispute(fee.id)
    file_of(bridge, paid, back)
    for _ in range(2):
        file_of(bridge, back)
    if not payable:
        bridge.far.alma.restore(fee.id)
    file_of(bridge)
    equalise(bridge)
    assert posted(fee) == [600]
    assert amounts(bridge) == []
    assert bridge.books().unequal == {}


@pytest.mark.parametrize("second", ["3.00", "4.00"])
def test_each_line_that_takes_back_counts_once(tmp_path: Path, ledger_url: str, second: str) -> None:
    """Files of several days: the same lines stand in some of them, alone or together."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=reversing, url=ledger_url)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    file_of(bridge, line_of(payment, "10.00"))
    assert posted(fee) == [1000]
    lines = [line_of(payment, "4.00", REVERSAL_ITEM_TYPE), line_of(payment, second, REVERSAL_ITEM_TYPE)]
    file_of(bridge, lines[0])
    assert amounts(bridge) == [("payment with another amount", -400)]
    for told in (lines, lines, lines[:1]):
        file_of(bridge, *told)
    back = 400 + int(second.replace(".", ""))
    assert {kind for kind, _ in amounts(bridge)} == {"payment taken back in PeopleSoft"}
    assert sum(cents for _, cents in amounts(bridge)) == back
    assert bridge.balances()["unexplained"] == 0
    # And as a whole, in a file that has the payment too.
    file_of(bridge, line_of(payment, "10.00"), *lines)
    assert sum(cents for _, cents in amounts(bridge)) == back


def test_lines_of_days_that_no_later_file_holds_add_up(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=1, fees=0, settings=reversing)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    file_of(bridge, line_of(payment, "10.00"))
    for cents in ("4.00", "3.00"):
        file_of(bridge, line_of(payment, cents, REVERSAL_ITEM_TYPE))
    assert sorted(amounts(bridge)) == [
        ("payment taken back in PeopleSoft", 400),
        ("payment with another amount", -300),
        # Or is it one line, which told of 4.00 and tells of 3.00?
        ("taken back by two lines that no file has together", 300),
    ]

    # The library makes the fee anew: it waits, or the student would be charged twice.
    anew = bridge.far.alma.add_fee(bridge.far.students[0], 400)
    equalise(bridge)
    assert len(bridge.far.peoplesoft.postings) == 1
    ((exception_id, _, _),) = listed(bridge)
    resolve(bridge, exception_id, anew)
    ((exception_id, _, _),) = listed(bridge, "payment with another amount")
    resolve(bridge, exception_id)
    bridge.far.alma.add_fee(bridge.far.students[0], 777)
    equalise(bridge)
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [1000, 777]


@pytest.mark.parametrize("was_posted", [True, False])
def test_a_file_of_all_that_lacks_a_payment_says_enough_whatever_its_line_says(
    tmp_path: Path, was_posted: bool
) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=lambda text: reversing(cumulative(text)))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    if not was_posted:
        bridge.far.alma.dispute(fee.id)
    file_of(bridge, line_of(payment, "10.00"))
    bridge.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        file_of(bridge, line_of(payment, "10.00", REVERSAL_ITEM_TYPE))
    if not was_posted:
        bridge.far.alma.restore(fee.id)
    file_of(bridge, line_of(payment, "10.00", REVERSAL_ITEM_TYPE))
    assert posted(fee) == ([1000] if was_posted else [])
    assert amounts(bridge) == ([("payment taken back in PeopleSoft", 1000)] if was_posted else [])


def test_a_line_alone_changes_nobodys_emplid(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=reversing)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    bridge.far.alma.dispute(fee.id)
    file_of(bridge, line_of(payment, "10.00"))
    for _ in range(2):
        file_of(bridge, line_of(payment, "1.00", REVERSAL_ITEM_TYPE).replace(payment.emplid, "999999999"))
    bridge.far.alma.restore(fee.id)
    file_of(bridge)
    assert posted(fee) == [900]


@pytest.mark.parametrize("clear", [True, False])
def test_the_rest_of_a_waiver_is_listed_whoever_saw_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clear: bool
) -> None:
    bridge = made(tmp_path, "ledger")
    (fee,) = charged(bridge, 1000)
    bridge.far.alma.pay_at_desk(fee.id, 800)
    waive(bridge, fee, 1000)
    if not clear:
        bridge.far.faults.add_http("drop_after", method="POST", path="/fees")
    night(bridge)
    bridge.far.faults.clear()
    if not clear:
        bridge.far.clock.advance(seconds=3600)
        assert person(bridge, monkeypatch, "mark-waived", "1") == 0
    for _ in range(2):
        assert amounts(bridge) == [("paid more than Alma's balance", 800)]
        equalise(bridge)
        night(bridge)
    raised(bridge, fee, 800)
    for _ in range(3):
        equalise(bridge)
        night(bridge)
    assert bridge.balances()["unexplained"] == 0


@pytest.mark.parametrize("broken", ["4711,{item}", "{id},900000000010"])
def test_a_line_that_can_not_be_read_and_may_take_back_gives_nothing_back(
    tmp_path: Path, broken: str
) -> None:
    """A payment stands as taken back by its line; in the next file that line is broken, or of another kind."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=lambda text: reversing(cumulative(text)))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    bridge.far.alma.dispute(fee.id)
    night_of_reversals(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        night_of_reversals(bridge)
    bridge.far.alma.restore(fee.id)
    payment_id, item_type = broken.format(id=payment.payment_id, item=REVERSAL_ITEM_TYPE).split(",")
    paid = "1o.00" if payment_id == "4711" else "10.00"
    back = f"{payment.emplid},{payment_id if payment_id != '4711' else payment.payment_id},12/01/2026,{payment.reference},"
    for _ in range(2):
        file_of(bridge, line_of(payment, "10.00"), f"{back}{paid},{item_type}\r\n")
    assert posted(fee) == []
    assert bridge.books().fees[fee.id].peoplesoft_cents == 1000
    assert set(kinds(bridge)) == {"payment line refused"}


def test_a_payment_is_not_posted_while_another_line_of_its_id_can_not_be_read(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=lambda text: reversing(cumulative(text)))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    file_of(bridge, line_of(payment, "10.00"), line_of(payment, "4.oo", REVERSAL_ITEM_TYPE))
    assert (posted(fee), kinds(bridge)) == ([], ["payment line refused"] * 2)
    file_of(bridge, line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE))
    assert posted(fee) == [600]


def corrected(bridge: Bridge, old: str, new: str) -> None:
    """The campus changes its settings."""
    bridge.file.write_text(bridge.file.read_text().replace(old, new))
    bridge.campus = campus.load(bridge.file)


def test_a_reason_that_alma_refused_is_corrected_for_what_waits(tmp_path: Path) -> None:
    bridge = made(tmp_path, "comment")
    corrected(bridge, "waive:GOODWILL", "waive:NONSENSE")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    with suppress(AlmaHookError):
        night(bridge)
    assert (in_alma(fee), kinds(bridge)) == ([], ["refused by Alma"])
    corrected(bridge, "waive:NONSENSE", "waive:GOODWILL")
    night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    even(bridge)


def test_what_was_taken_for_a_payment_is_waived_once_the_settings_say_so(tmp_path: Path) -> None:
    bridge = made(tmp_path, "comment")
    right = f'{WAIVER} = "waive:GOODWILL"'
    wrong = f'{WAIVER} = "payment"\n77 = "waive:GOODWILL"'
    corrected(bridge, right, wrong)
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    bridge.far.alma.dispute(fee.id)
    night(bridge)
    corrected(bridge, wrong, right)
    bridge.far.alma.restore(fee.id)
    night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]


@pytest.mark.parametrize("shown", [True, False])
def test_a_waiver_in_doubt_stays_so_when_the_settings_tell_of_no_waivers_any_more(
    tmp_path: Path, shown: bool
) -> None:
    bridge = made(tmp_path, "comment")
    first, fee = charged(bridge, 100, 1000)
    waive(bridge, first)
    night(bridge)
    bridge.far.alma.behaviour.waive_comment_returned = shown
    corrected(bridge, 'waivers_shown_by = "comment"', 'waivers_shown_by = "ledger"')
    waive(bridge, fee, 400)
    bridge.far.faults.add_http("drop_after", method="POST", path="/fees")
    night(bridge)
    bridge.far.faults.clear()
    text = bridge.file.read_text().replace(f'{WAIVER} = "waive:GOODWILL"\n', "")
    corrected(bridge, bridge.file.read_text(), text.replace('waivers_shown_by = "ledger"\n', ""))
    for _ in range(2):
        night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]


@pytest.mark.parametrize("way", WAYS)
def test_while_a_waiver_of_a_fee_made_anew_is_in_doubt_nothing_is_sent_of_that_fee(
    tmp_path: Path, way: str
) -> None:
    bridge = made(tmp_path, way)
    first, old = charged(bridge, 100, 1000)
    waive(bridge, first)
    payment = pay(bridge, old)
    night(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        night(bridge)
    ((exception_id, _, _),) = listed(bridge)
    new = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    equalise(bridge)
    resolve(bridge, exception_id, new)
    waive(bridge, old, 400)
    bridge.far.faults.add_http("drop_after", method="POST", path="/fees")
    night(bridge)
    bridge.far.faults.clear()
    assert in_alma(new) == [("WAIVE", 400, "GOODWILL")]
    equalise(bridge)
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [100, 1000]
    assert kinds(bridge) == ["outcome of the posting unclear"]


def test_what_both_have_waived_stays_listed_until_a_person_has_seen_to_it(bridge: Bridge) -> None:
    """Beside the credit PeopleSoft's waiver would lie on the student's account, and pay the next fee."""
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee)
    bridge.far.alma.waive_at_desk(fee.id)
    night(bridge)
    for _ in range(2):
        equalise(bridge)
        night(bridge)
    assert amounts(bridge) == [("fee already settled in Alma", 1000)]
    assert bridge.balances()["unexplained"] == 0


@pytest.mark.parametrize("item_type", [REVERSAL_ITEM_TYPE, "900000000010"])
@pytest.mark.parametrize("was_posted", [True, False])
def test_a_refused_line_with_a_minus_gives_nothing_back_either(
    tmp_path: Path, item_type: str, was_posted: bool
) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=lambda text: reversing(cumulative(text)))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    if not was_posted:
        bridge.far.alma.dispute(fee.id)
    paid, back = line_of(payment, "10.00"), line_of(payment, "-10.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        file_of(bridge, paid, back)
    if not was_posted:
        bridge.far.alma.restore(fee.id)
    bad = line_of(payment, "-10.00", item_type).replace("12/01/2026", "12-01-26")
    for _ in range(2):
        file_of(bridge, paid, bad)
    assert posted(fee) == ([1000] if was_posted else [])
    assert ("payment taken back in PeopleSoft" in kinds(bridge)) is was_posted


def test_a_new_payment_is_not_posted_beside_a_refused_line_with_a_minus(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=lambda text: reversing(cumulative(text)))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    bad = line_of(payment, "-10.00", REVERSAL_ITEM_TYPE).replace("12/01/2026", "12-01-26")
    file_of(bridge, line_of(payment, "10.00"), bad)
    assert posted(fee) == []


def test_a_line_that_stays_alone_is_a_second_witness(tmp_path: Path) -> None:
    """Files of some days: the payment's day falls out of them, and the line that takes it back stays alone."""
    bridge = Bridge(tmp_path, students=1, fees=0, settings=reversing)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    file_of(bridge, paid, back)
    for _ in range(2):
        file_of(bridge, back)
    bridge.far.alma.add_fee(bridge.far.students[0], 777)
    equalise(bridge)
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [1000]
    ((exception_id, cents, _),) = listed(bridge)
    assert cents == 1000
    resolve(bridge, exception_id)
    equalise(bridge)
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [1000, 777]
    file_of(bridge, back)
    assert kinds(bridge) == []


def test_a_line_that_one_file_alone_has_holds_no_new_fee_once_a_person_has_seen_to_it(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=1, fees=0, settings=reversing)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    file_of(bridge, line_of(payment, "10.00"))
    file_of(bridge, line_of(payment, "10.00", REVERSAL_ITEM_TYPE))
    for _ in range(2):
        file_of(bridge)
    bridge.far.alma.add_fee(bridge.far.students[0], 777)
    equalise(bridge)
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [1000]
    ((exception_id, _, _),) = listed(bridge, "payment with another amount")
    resolve(bridge, exception_id)
    equalise(bridge)
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [1000, 777]


def test_a_line_whose_payment_could_not_be_read_is_netted_once_it_can(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=reversing)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    paid, back = line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, paid.replace("10.00", "1o.00"), back)
    assert kinds(bridge) == ["payment line refused"] * 2
    file_of(bridge, paid, back)
    file_of(bridge, back)
    assert (posted(fee), set(kinds(bridge))) == ([600], {"payment line refused"})


@pytest.mark.parametrize("item_type", [REVERSAL_ITEM_TYPE, "900000000010"])
def test_a_file_with_a_line_that_may_take_back_any_payment_is_refused(tmp_path: Path, item_type: str) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=lambda text: reversing(cumulative(text)))
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    nobodys = line_of(payment, "10.00", item_type).replace(payment.payment_id, "")
    file_of(bridge, line_of(payment, "10.00"), nobodys)
    assert (posted(fee), kinds(bridge)) == ([], ["payment file refused"])
    file_of(bridge, line_of(payment, "10.00"), line_of(payment, "4.00", REVERSAL_ITEM_TYPE))
    assert posted(fee) == [600]


def test_a_waiver_that_waited_too_long_for_its_turn_is_not_sent(bridge: Bridge) -> None:
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output()
    stood = 0.0

    def send(request: Request) -> Reply:
        nonlocal stood
        if request.method == "POST":
            stood = 60.0
        if request.send_before is not None and stood > request.send_before:
            raise Retriable("The call waited too long for its turn and was not sent.")
        return bridge.send(request)

    with bridge.working("back") as (ledger, lease):
        for _, work in bridge.tasks_back()[:2]:
            work(ledger, lease)
        payments.post(
            ledger, lease, bridge.campus, AlmaApi(send, pause=lambda _: None), bridge.folder, bridge.marks,
            monotonic=lambda: stood,
        )  # fmt: skip
    assert in_alma(fee) == []
    night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    even(bridge)


def test_what_was_paid_and_taken_back_before_it_was_heard_of_is_never_told_again(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=reversing)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    back = line_of(payment, "10.00", REVERSAL_ITEM_TYPE)
    file_of(bridge, line_of(payment, "10.00"), back)
    for _ in range(2):
        file_of(bridge, back)
    assert (posted(fee), kinds(bridge)) == ([], [])


# -- kinds of lines that the settings had wrong ----------------------------------------------------------------------

RIGHT = f'{WAIVER} = "waive:GOODWILL"'
PAYS = f'{WAIVER} = "payment"\n77 = "waive:GOODWILL"'


def told_once(tmp_path: Path, way: str = "comment") -> Bridge:
    """Each file has what no file before had."""
    bridge = made(tmp_path, way)
    corrected(bridge, "cumulative = true\n", "")
    assert not bridge.campus.sis_to_alma.cumulative
    return bridge


def in_doubt(bridge: Bridge, *, waived: bool) -> Fee:
    """A waiver, or a payment, of 4.00 that Alma did not answer for and does not have."""
    first, second, fee = charged(bridge, 100, 200, 1000)
    paid, other = pay(bridge, first), waive(bridge, second)
    told = [line_of(paid, "1.00"), line_of(bridge.far.peoplesoft.payments[other], "2.00", WAIVER)]
    corrected(bridge, PAYS, RIGHT)
    file_of(bridge, *told)
    assert (in_alma(first), in_alma(second)) == ([("PAYMENT", 100, None)], [("WAIVE", 200, "GOODWILL")])
    waive(bridge, fee, 400)
    if not waived:
        corrected(bridge, RIGHT, PAYS)
    bridge.far.faults.add_http("drop_before", method="POST", path="/fees")
    file_of(bridge, line_of(list(bridge.far.peoplesoft.payments.values())[-1], "4.00", WAIVER))
    bridge.far.faults.clear()
    assert (in_alma(fee), kinds(bridge)) == ([], ["outcome of the posting unclear"])
    return fee


def waiting(tmp_path: Path) -> tuple[Bridge, Fee]:
    """A waiver of 4.00 that was taken for a payment, and waits while its fee is in dispute; then the settings are right."""
    bridge = made(tmp_path, "comment")
    corrected(bridge, RIGHT, PAYS)
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    bridge.far.alma.dispute(fee.id)
    night(bridge)
    bridge.far.alma.restore(fee.id)
    return bridge, fee


@pytest.mark.parametrize("now", ["waive:GOODWILL", "ignore"])
def test_what_waits_is_what_the_settings_say_by_then_without_another_file(tmp_path: Path, now: str) -> None:
    bridge, fee = waiting(tmp_path)
    corrected(bridge, PAYS, f'{WAIVER} = "{now}"\n77 = "waive:GOODWILL"')
    bridge.sis_to_alma()
    assert in_alma(fee) == ([] if now == "ignore" else [("WAIVE", 400, "GOODWILL")])
    assert kinds(bridge) == []


def test_a_worker_overtaken_before_it_posts_lets_what_waits_be_what_it_was(tmp_path: Path) -> None:
    bridge, _ = waiting(tmp_path)
    corrected(bridge, PAYS, RIGHT)
    with bridge.working("back") as (ledger, lease):
        bridge.far.clock.advance(seconds=16 * 60)
        with bridge.working("back"):
            before = [rows_of(bridge, table) for table in ("payment", "event")]
        with pytest.raises(LeaseTaken):
            payments.post(ledger, lease, bridge.campus, bridge.api, bridge.folder, bridge.marks)
    assert [rows_of(bridge, table) for table in ("payment", "event")] == before


@pytest.mark.parametrize("told_again", [True, False])
@pytest.mark.parametrize("waived", [True, False])
def test_what_is_in_doubt_is_tried_again_as_what_the_settings_say_by_then(
    tmp_path: Path, waived: bool, told_again: bool
) -> None:
    bridge = told_once(tmp_path)
    fee = in_doubt(bridge, waived=waived)
    corrected(bridge, *((RIGHT, PAYS) if waived else (PAYS, RIGHT)))
    rows = [line_of(list(bridge.far.peoplesoft.payments.values())[-1], "4.00", WAIVER)] if told_again else []
    for _ in range(3):
        file_of(bridge, *rows)
    assert in_alma(fee) == [("PAYMENT", 400, None) if waived else ("WAIVE", 400, "GOODWILL")]
    assert kinds(bridge) == []
    assert bridge.balances()["unexplained"] == 0


@pytest.mark.parametrize("waived", [True, False])
def test_what_is_in_doubt_and_of_the_same_kind_is_tried_again_at_once(tmp_path: Path, waived: bool) -> None:
    bridge = told_once(tmp_path)
    fee = in_doubt(bridge, waived=waived)
    file_of(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL") if waived else ("PAYMENT", 400, None)]


@pytest.mark.parametrize("arrived", [True, False])
def test_a_waiver_in_doubt_that_was_taken_for_a_payment_is_not_paid_once_the_settings_say_so(
    tmp_path: Path, arrived: bool
) -> None:
    bridge = made(tmp_path, "comment")
    corrected(bridge, RIGHT, PAYS)
    first, fee = charged(bridge, 100, 1000)
    pay(bridge, first)
    night(bridge)
    waive(bridge, fee, 400)
    bridge.far.faults.add_http("drop_after" if arrived else "drop_before", method="POST", path="/fees")
    night(bridge)
    bridge.far.faults.clear()
    corrected(bridge, PAYS, RIGHT)
    for _ in range(2):
        night(bridge)
    # What is in Alma stays what it is there.
    assert in_alma(fee) == [("PAYMENT", 400, None) if arrived else ("WAIVE", 400, "GOODWILL")]
    even(bridge)
    assert kinds(bridge) == []


def test_a_waiver_that_a_person_does_not_find_in_alma_is_made_as_the_settings_say_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = made(tmp_path, "ledger")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    bridge.far.faults.add_http("drop_before", method="POST", path="/fees")
    night(bridge)
    bridge.far.faults.clear()
    corrected(bridge, RIGHT, PAYS)
    night(bridge)
    assert (in_alma(fee), kinds(bridge)) == ([], ["waiver of unclear outcome"])
    assert person(bridge, monkeypatch, "mark-not-waived", "1") == 0
    night(bridge)
    assert in_alma(fee) == [("PAYMENT", 400, None)]
    even(bridge)


LISTED = "no payment any more, by its kind"
NO_PAYMENTS = {"list": [LISTED], "ignore": [], "reversal": [LISTED]}


def refused_for_now(bridge: Bridge) -> tuple[Fee, str]:
    """A payment that waits, as its fee is in dispute; and the line that has told of it."""
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    bridge.far.alma.dispute(fee.id)
    (payment,) = bridge.far.peoplesoft.payments.values()
    line = line_of(payment, "4.00", WAIVER)
    file_of(bridge, line)
    assert kinds(bridge) == ["fee is INDISPUTE in Alma"]
    return fee, line


@pytest.mark.parametrize("before", [RIGHT, PAYS])
@pytest.mark.parametrize("told_again", [True, False])
@pytest.mark.parametrize("now", NO_PAYMENTS)
def test_what_waits_is_not_posted_once_the_settings_say_that_it_is_no_payment(
    tmp_path: Path, now: str, told_again: bool, before: str
) -> None:
    bridge = told_once(tmp_path)
    corrected(bridge, RIGHT, before)
    fee, line = refused_for_now(bridge)
    corrected(bridge, before, f'{WAIVER} = "{now}"\n77 = "waive:GOODWILL"')
    bridge.far.alma.restore(fee.id)
    for _ in range(3):
        file_of(bridge, *([line] if told_again else []))
    assert in_alma(fee) == []
    assert {kind for kind in kinds(bridge) if kind != "payment line refused"} <= {
        *NO_PAYMENTS[now],
        "payment with another amount",
    }
    assert (LISTED in kinds(bridge)) is (now != "ignore")
    # It counts as if it had never been told of: Alma and PeopleSoft ask for the same.
    assert [
        (row["alma"], row["peoplesoft"], row["on_its_way"]) for row in rows_of(bridge, "fee_balance")
    ] == [(1000, 1000, 0)]

    # And it is a payment after all.
    corrected(bridge, f'{WAIVER} = "{now}"\n77 = "waive:GOODWILL"', before)
    for _ in range(3):
        file_of(bridge, line)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL") if before == RIGHT else ("PAYMENT", 400, None)]
    assert LISTED not in kinds(bridge)


@pytest.mark.parametrize("now", ["list", "ignore"])
def test_where_every_file_lists_all_it_is_not_posted_either(
    tmp_path: Path, ledger_url: str, now: str
) -> None:
    bridge = made(tmp_path, "comment", ledger_url)
    fee, line = refused_for_now(bridge)
    other = f'{WAIVER} = "{now}"\n77 = "waive:GOODWILL"'
    corrected(bridge, RIGHT, other)
    bridge.far.alma.restore(fee.id)
    for _ in range(3):
        file_of(bridge, line)
    assert in_alma(fee) == []
    assert set(kinds(bridge)) == ({LISTED, "payment line refused"} if now == "list" else set())
    corrected(bridge, other, RIGHT)
    for _ in range(2):
        file_of(bridge, line)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]


def test_what_is_in_doubt_is_not_tried_again_once_the_settings_ignore_it(tmp_path: Path) -> None:
    bridge = told_once(tmp_path)
    fee = in_doubt(bridge, waived=True)
    corrected(bridge, RIGHT, f'{WAIVER} = "ignore"\n77 = "waive:GOODWILL"')
    for _ in range(3):
        file_of(bridge)
    assert (in_alma(fee), kinds(bridge)) == ([], [])


def test_what_a_person_has_said_of_what_is_no_payment_any_more_holds(tmp_path: Path) -> None:
    bridge = told_once(tmp_path)
    fee, _ = refused_for_now(bridge)
    corrected(bridge, RIGHT, f'{WAIVER} = "list"\n77 = "waive:GOODWILL"')
    bridge.far.alma.restore(fee.id)
    file_of(bridge)
    ((exception_id, cents, _),) = listed(bridge, LISTED)
    assert cents == 400
    resolve(bridge, exception_id)
    for _ in range(2):
        file_of(bridge)
    assert (in_alma(fee), kinds(bridge)) == ([], [])


def test_what_a_person_has_settled_is_not_made_once_its_kind_is_a_payments_again(
    tmp_path: Path, ledger_url: str
) -> None:
    bridge = made(tmp_path, "comment", ledger_url)
    corrected(bridge, "cumulative = true\n", "")
    fee, line = refused_for_now(bridge)
    now = f'{WAIVER} = "list"\n77 = "waive:GOODWILL"'
    corrected(bridge, RIGHT, now)
    bridge.far.alma.restore(fee.id)
    file_of(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 400)  # by hand, as it is not made by itself
    ((exception_id, _, _),) = listed(bridge, LISTED)
    resolve(bridge, exception_id)
    corrected(bridge, now, RIGHT)
    for _ in range(2):
        file_of(bridge, line)
    assert [cents for _, cents, _ in in_alma(fee)] == [400]


# -- waivers and a ledger that is lost, or a fee that is gone --------------------------------------------------------


def test_a_waiver_found_by_a_repair_is_no_proof_that_payments_come_back(tmp_path: Path) -> None:
    bridge = made(tmp_path, "comment")
    fee, other = charged(bridge, 1000, 700)
    waive(bridge, fee, 400)
    night(bridge)
    for paid in (False, True):
        if paid:
            pay(bridge, other)
            night(bridge)
        lose(bridge, opened=False)
        repaired(bridge)
        (row,) = rows_of(bridge, "institution")
        assert (row["canary_at"] is not None, row["waiver_seen_at"] is not None) == (paid, True)


@pytest.mark.parametrize("lost", [False, True])
def test_after_a_repair_the_first_payment_of_all_is_still_read_back(tmp_path: Path, lost: bool) -> None:
    bridge = made(tmp_path, "comment")
    first, second, third = charged(bridge, 1000, 700, 500)
    waive(bridge, first, 400)
    for _ in range(2):
        night(bridge)
    bridge.far.alma.behaviour.external_id_length = 5  # Alma keeps no key of ours in payments
    if lost:
        lose(bridge, opened=False)
        repaired(bridge)
    pay(bridge, second)
    pay(bridge, third)
    with suppress(SendingStopped):
        night(bridge)
    assert len(posted(second)) + len(posted(third)) == 1


def test_what_the_archive_alone_tells_of_is_no_proof_that_keys_come_back(tmp_path: Path) -> None:
    bridge = made(tmp_path, "ledger")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    copy = copy_after(bridge, night, "take in")
    night(bridge)
    put_back(bridge, copy)
    repaired(bridge)
    (row,) = rows_of(bridge, "institution")
    assert (row["canary_at"], row["waiver_seen_at"]) == (None, None)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]


@pytest.mark.parametrize("way", WAYS)
def test_a_repair_leaves_a_waiver_a_waiver(tmp_path: Path, way: str) -> None:
    bridge = made(tmp_path, way)
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    night(bridge)
    equalise(bridge)
    night(bridge)
    corrected(bridge, RIGHT, PAYS)
    for loses in (False, True):
        if loses:
            lose(bridge, opened=False)
            repaired(bridge)
        for _ in range(2):
            bridge.far.clock.advance(hours=24)
            bridge.alma_to_sis("all_users")
            night(bridge)
        assert kinds(bridge) == []
    (row,) = rows_of(bridge, "payment")
    assert row["waive"] is not None


def test_a_repair_leaves_a_payment_a_payment(tmp_path: Path) -> None:
    bridge = made(tmp_path, "comment")
    corrected(bridge, RIGHT, PAYS)
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    night(bridge)
    equalise(bridge)
    corrected(bridge, PAYS, RIGHT)
    lose(bridge, opened=False)
    repaired(bridge)
    for _ in range(2):
        equalise(bridge)
        night(bridge)
    (row,) = rows_of(bridge, "payment")
    assert (row["waive"], row["posted"]) == (None, 400)
    assert (in_alma(fee), kinds(bridge)) == ([("PAYMENT", 400, None)], [])


@pytest.mark.parametrize("in_ledger", ["new", "unknown"])
def test_an_older_copy_learns_from_alma_what_was_made_of_a_line(tmp_path: Path, in_ledger: str) -> None:
    bridge = made(tmp_path, "comment")
    corrected(bridge, RIGHT, PAYS)
    first, fee = charged(bridge, 100, 1000)
    pay(bridge, first)
    night(bridge)
    waive(bridge, fee, 400)
    if in_ledger == "unknown":
        bridge.far.faults.add_http("drop_before", method="POST", path="/fees")
    else:
        bridge.far.alma.dispute(fee.id)
    night(bridge)
    bridge.far.faults.clear()
    if in_ledger == "new":
        bridge.far.alma.restore(fee.id)
    copy = copied(bridge)
    corrected(bridge, PAYS, RIGHT)
    for _ in range(2):
        night(bridge)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    put_back(bridge, copy)
    repaired(bridge)
    (row,) = [row for row in rows_of(bridge, "payment") if row["fee_id"] == fee.id]
    assert (row["state"], row["posted"], row["waive"] is not None) == ("posted", 400, True)
    even(bridge)


@pytest.mark.parametrize("way", WAYS)
def test_a_fee_that_alma_purged_long_after_it_was_waived_is_no_exception(tmp_path: Path, way: str) -> None:
    bridge = made(tmp_path, way)
    fee, _ = charged(bridge, 1000, 700)
    waive(bridge, fee, 400)
    night(bridge)
    bridge.alma_to_sis("all_users")
    pay(bridge, fee, 600)
    night(bridge)
    equalise(bridge)
    assert (fee.balance_cents, kinds(bridge)) == (0, [])
    del bridge.far.alma.fees[fee.id]
    bridge.far.alma._fees_of[id(fee.user)].remove(fee)
    for _ in range(2):
        bridge.far.clock.advance(hours=24)
        bridge.alma_to_sis("all_users")
    assert kinds(bridge) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_fee_that_is_paid_twice_beside_a_waiver_is_looked_for(tmp_path: Path, way: str) -> None:
    bridge = made(tmp_path, way)
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    pay(bridge, fee, 300)
    night(bridge)
    equalise(bridge)
    (key,) = [row["external_id"] for row in rows_of(bridge, "payment") if row["waive"] is None]
    bridge.far.alma.pay_at_desk(fee.id, 300)
    fee.transactions[-1] = replace(fee.transactions[-1], external_transaction_id=key)
    assert (fee.balance_cents, posted(fee)) == (0, [300, 300])
    equalise(bridge)
    assert "payments in Alma differ from those posted" in kinds(bridge)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("others_waived = 400", False),
        # Less is waived there than we have waived, or other payments of ours are there than were posted.
        ("others_waived = 399", True),
        ("own_paid = 601", True),
        ("own_paid = 599", True),
        ("own_paid = 1001", True),
    ],
)
def test_a_fee_with_waivers_is_looked_for_unless_all_of_ours_may_be_there(
    tmp_path: Path, change: str, wanted: bool
) -> None:
    bridge = made(tmp_path, "ledger")
    (fee,) = charged(bridge, 1000)
    waive(bridge, fee, 400)
    night(bridge)
    bridge.alma_to_sis("all_users")
    pay(bridge, fee, 600)
    night(bridge)
    with closing(bridge.ledger("a hand")) as ledger, ledger.write() as tx:
        tx.run(f"UPDATE reading SET {change} WHERE institution = :i AND fee_id = :fee", fee=fee.id)
    assert bool(rows_of(bridge, "fee_wanted")) is wanted


@pytest.mark.parametrize("before", [PAYS, f'{WAIVER} = "list"\n77 = "waive:GOODWILL"'])
@pytest.mark.parametrize("way", WAYS)
def test_an_older_copy_that_took_a_waiver_for_another_thing_makes_it_no_second_time(
    tmp_path: Path, way: str, before: str
) -> None:
    bridge = told_once(tmp_path, way)
    fee, line = refused_for_now(bridge)
    corrected(bridge, RIGHT, before)
    file_of(bridge)
    copy = copied(bridge)
    corrected(bridge, before, RIGHT)
    bridge.far.alma.restore(fee.id)
    file_of(bridge, line)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    put_back(bridge, copy)
    bridge.far.clock.advance(seconds=3600)
    repaired(bridge)
    for _ in range(2):
        file_of(bridge, line)
    assert in_alma(fee) == [("WAIVE", 400, "GOODWILL")]
    (row,) = rows_of(bridge, "payment")
    assert (row["posted_to"], row["waive"] is not None) == (fee.id, True)
    assert (row["state"], kinds(bridge)) == (
        ("posted", []) if way == "comment" else ("unknown", ["waiver of unclear outcome"])
    )
