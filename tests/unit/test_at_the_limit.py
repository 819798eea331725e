"""As fast as Alma allows and no faster: the pace, the fewest calls, and many at once without any harm.

The witnesses are the simulated Alma's log of calls and its own record of payments.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from alma_hook import fees, payments
from alma_hook.alma import AlmaApi, Request
from alma_hook.alma_answers import Reply
from alma_hook.errors import OutcomeUnknown, QuotaSpent, Retriable
from alma_hook.ledger import fees as fee_entries
from alma_hook.pace import Pace
from simulator.alma_records import Fee
from simulator.limits import Limits
from tests.bridge import Bridge

MakeBridge = Callable[..., Bridge]


# -- the pace -----------------------------------------------------------------------------------------


class Time:
    """A clock that goes on by what is slept, each time a little too long."""

    def __init__(self, too_long: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 1000.0
        self.too_long = too_long

    def pause(self, seconds: float) -> None:
        self.now += seconds + self.too_long()

    def pace(self, rate: float, per_minute: float | None = None) -> Pace:
        return Pace(rate, per_minute, clock=lambda: self.now, pause=self.pause)


def left_at(time: Time, pace: Pace, calls: int) -> list[float]:
    found = []
    for _ in range(calls):
        pace.wait()
        found.append(time.now)
    return found


def refusals(rate: int, moments: Sequence[float], per_minute: int | None = None) -> int:
    """How many calls a server refuses that counts every second strictly."""
    at = iter(moments)
    limits = Limits(per_second=rate, per_minute=per_minute, monotonic=lambda: next(at))
    return sum(limits.take() is not None for _ in moments)


@pytest.mark.parametrize("rate", [1, 3, 10, 25, 50])
def test_the_rate_is_used_and_never_exceeded_in_any_second(rate: int) -> None:
    chance = random.Random(rate)
    # Now and then a thread wakes late by far more than calls are apart.
    time = Time(lambda: chance.choice([0.0] * 20 + [0.002, 0.08]))
    moments = left_at(time, time.pace(rate), rate * 60)
    # On the way a call takes up to a hundredth of a second more than another.
    arrived = sorted(moment + chance.uniform(0, 0.01) for moment in moments)
    assert refusals(rate, arrived) == 0
    assert (len(moments) - 1) / (moments[-1] - moments[0]) >= 0.95 * rate


def test_the_limit_of_a_minute_is_kept_too() -> None:
    time = Time()
    moments = left_at(time, time.pace(10, 300), 1000)
    assert refusals(10, moments, 300) == 0
    assert (len(moments) - 1) / (moments[-1] - moments[0]) >= 0.97 * 5


def test_a_refusal_slows_down_and_is_forgotten_within_seconds() -> None:
    time = Time()
    pace = time.pace(10)
    left_at(time, pace, 20)
    refused_at = time.now
    for _ in range(5):  # what was under way is refused with it, which tells no more
        pace.refused()
    moments = left_at(time, pace, 100)
    first = [moment for moment in moments if moment <= refused_at + 2]
    assert moments[0] >= refused_at + 1
    assert 4 <= len(first) <= 8
    later = [moment for moment in moments if refused_at + 5 < moment <= refused_at + 8]
    assert len(later) >= 28


def test_what_was_not_called_for_a_while_is_not_made_up_for() -> None:
    time = Time()
    pace = time.pace(10)
    left_at(time, pace, 5)
    time.now += 60
    moments = left_at(time, pace, 10)
    assert moments[-1] - moments[0] >= 0.7


# -- the fewest calls -----------------------------------------------------------------------------------


def calls(bridge: Bridge, since: int = 0) -> Counter[str]:
    """Calls of each kind after so many."""
    kinds = {"/analytics/": "pages", "fee-transactions": "transactions", "/fees": "fees"}
    return Counter(
        "posts"
        if call.method == "POST"
        else next(kind for text, kind in kinds.items() if text in call.target)
        for call in list(bridge.far.api.calls)[since:]
    )


def even(make_bridge: MakeBridge, students: int = 8, **options: object) -> tuple[Bridge, list[Fee]]:
    """A campus whose students have a fee each that PeopleSoft knows of, and how many calls there were until then."""
    bridge = make_bridge(students=students, fees=0, **options)
    made = [bridge.far.alma.add_fee(student, 2000) for student in bridge.far.students]
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    return bridge, made


def test_a_run_by_the_report_costs_its_pages_and_one_call_for_each_changed_account(
    make_bridge: MakeBridge,
) -> None:
    bridge, made = even(make_bridge, students=60)
    bridge.far.analytics.traps.page_rows = 25
    for changed in (0, 3):
        for fee in made[:changed]:
            bridge.far.alma.waive_at_desk(fee.id, 500)
        bridge.far.refresh_analytics()
        before = bridge.far.api.call_count()
        bridge.alma_to_sis()
        # Sixty rows make three pages of twenty-five, and an account that did not change costs nothing.
        assert calls(bridge, before) == Counter(pages=3, fees=changed)


def test_changed_fees_cost_one_call_a_hundred_and_one_for_each_account(make_bridge: MakeBridge) -> None:
    def by_transactions(text: str) -> str:
        return text.replace("[alma_to_sis]", "[alma_to_sis]\nfee_transactions = true")

    bridge, made = even(make_bridge, students=130, settings=by_transactions)
    for changed, asked in ((0, 1), (100, 1), (120, 2)):
        for fee in made[:changed]:
            bridge.far.alma.waive_at_desk(fee.id, 100)
        before = bridge.far.api.call_count()
        bridge.alma_to_sis("open_fees")
        assert calls(bridge, before) == Counter(transactions=asked, fees=changed)
        bridge.far.load_inbound()


def test_posting_costs_one_reading_a_student_and_one_call_a_payment(make_bridge: MakeBridge) -> None:
    bridge, made = even(make_bridge)
    bridge.far.peoplesoft.pay(f"ALMA{made[0].id}", 100)
    bridge.far.write_query_output()
    bridge.sis_to_alma()  # the institution's first, which is read back
    for fee in made[:3]:
        bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 300)
        bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 400)
    bridge.far.write_query_output()
    before = bridge.far.api.call_count()
    bridge.sis_to_alma()
    assert calls(bridge, before) == Counter(fees=3, posts=6)


# -- a reading that is killed -----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 8])
def test_a_killed_reading_goes_on_where_it_stopped(make_bridge: MakeBridge, workers: int) -> None:
    bridge = make_bridge(students=400, fees=0)
    for student in bridge.far.students:
        bridge.far.alma.add_fee(student, 1000)
    stored: list[int] = []

    def dies(done: int, _of: int) -> None:
        stored.append(done)
        if done >= 200:
            raise KeyboardInterrupt

    with bridge.working("out") as (ledger, lease):
        with ledger.write(lease) as tx:
            fee_entries.add_accounts(tx, True, [s.primary_id for s in bridge.far.students], "all")

        def read(progress: Callable[[int, int], None]) -> fees.ReadCounts:
            return fees.read_accounts(
                bridge.api,
                ledger,
                lease,
                bridge.marks,
                live=True,
                campus=bridge.campus,
                workers=workers,
                progress=progress,
            )

        with pytest.raises(KeyboardInterrupt):
            read(dies)
        before = bridge.far.api.call_count()
        counts = read(lambda _done, _of: None)
    assert stored == [50, 100, 150, 200]
    assert (counts.accounts, bridge.far.api.call_count() - before) == (200, 200)


# -- many at once -----------------------------------------------------------------------------------------


def applied(fee: Fee) -> list[tuple[str | None, int]]:
    return [(t.external_transaction_id, t.amount_cents) for t in fee.transactions if t.kind == "PAYMENT"]


def post(bridge: Bridge, api: AlmaApi, workers: int = 8) -> payments.PostCounts:
    """Take in what PeopleSoft has written and post it, so many accounts at once."""
    with bridge.working("back") as (ledger, lease):
        for name, work in bridge.tasks_back():
            if name != "post":
                work(ledger, lease)
                continue
            counts = payments.post(
                ledger, lease, bridge.campus, api, bridge.folder, bridge.marks, workers=workers
            )
    return counts


@pytest.fixture
def many(tmp_path: Path, ledger_url: str) -> tuple[Bridge, list[Fee]]:
    """Thirty students with a fee each on which they pay twice; a first payment was read back before."""
    bridge, made = even(lambda **options: Bridge(tmp_path, url=ledger_url, **options), students=30)
    bridge.far.peoplesoft.pay(f"ALMA{made[0].id}", 100)
    bridge.far.write_query_output()
    bridge.sis_to_alma()
    for fee in made:
        bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 300)
        bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 400)
    bridge.far.write_query_output()
    return bridge, made


def test_payments_of_many_accounts_at_once_are_posted_once_each(many: tuple[Bridge, list[Fee]]) -> None:
    bridge, made = many
    at_once = Meter(bridge.send)
    counts = post(bridge, AlmaApi(at_once.send, pause=lambda _: None))
    assert (counts.posted, counts.cents, counts.listed) == (60, 30 * 700, 0)
    assert [sorted(cents for _, cents in applied(fee)) for fee in made] == [[100, 300, 400]] + [
        [300, 400]
    ] * 29
    assert at_once.most > 1
    assert bridge.exceptions() == {}
    assert post(bridge, bridge.api).posted == 0


def test_calls_that_end_unclear_among_many_are_each_looked_for_later(many: tuple[Bridge, list[Fee]]) -> None:
    bridge, made = many
    chance = random.Random(7)
    lock = threading.Lock()

    def send(request: Request) -> Reply:
        with lock:
            before, after = chance.random() < 0.1, chance.random() < 0.2
        if request.method == "POST" and before:
            raise OutcomeUnknown("The connection broke off.")
        answer = bridge.send(request)
        if request.method == "POST" and after:
            raise OutcomeUnknown("The connection broke off.")
        return answer

    for _ in range(12):
        with suppress(Retriable):
            post(bridge, AlmaApi(send, pause=lambda _: None))
        bridge.far.clock.advance(seconds=11 * 60)
    assert [sorted(cents for _, cents in applied(fee)) for fee in made] == [[100, 300, 400]] + [
        [300, 400]
    ] * 29
    assert bridge.exceptions() == {}


def test_an_alma_that_goes_down_leaves_no_call_without_its_outcome(many: tuple[Bridge, list[Fee]]) -> None:
    bridge, made = many
    left = iter(range(25))

    def send(request: Request) -> Reply:
        if next(left, None) is None:
            raise Retriable("Alma can't be reached; nothing was sent.")
        return bridge.send(request)

    with pytest.raises(Retriable):
        post(bridge, AlmaApi(send, pause=lambda _: None))
    done = sum(len(applied(fee)) for fee in made) - 1
    assert 0 < done < 60
    # Nothing waits for a quiet period: whatever was sent has its outcome.
    assert post(bridge, bridge.api).posted == 60 - done
    assert [sorted(cents for _, cents in applied(fee)) for fee in made] == [[100, 300, 400]] + [
        [300, 400]
    ] * 29


def test_the_first_payment_ever_is_read_back_before_there_is_a_second(
    tmp_path: Path, ledger_url: str
) -> None:
    bridge, made = even(lambda **options: Bridge(tmp_path, url=ledger_url, **options))
    for fee in made:
        bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 300)
    bridge.far.write_query_output()
    before = bridge.far.api.call_count()
    post(bridge, bridge.api)
    methods = [call.method for call in list(bridge.far.api.calls)[before:]]
    first = methods.index("POST")
    assert methods[first + 1] == "GET"
    assert (methods.count("POST"), methods.count("GET")) == (len(made), len(made) + 1)


class Meter:
    """How many calls were under way at once, at most."""

    def __init__(self, send: Callable[[Request], Reply]) -> None:
        self._send = send
        self._meet = threading.Event()
        self._lock = threading.Lock()
        self._now = self.most = 0

    def send(self, request: Request) -> Reply:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            if self.most > 1:
                self._meet.set()
        self._meet.wait(5)
        try:
            return self._send(request)
        finally:
            with self._lock:
                self._now -= 1


# -- sums over all fees -----------------------------------------------------------------------------------


def test_the_sums_of_all_fees_are_those_of_each(many: tuple[Bridge, list[Fee]]) -> None:
    bridge, made = many
    post(bridge, bridge.api)
    for fee in made[:5]:
        bridge.far.alma.waive_at_desk(fee.id, 200)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    columns = ("charged", "credited", "pending", "received", "posted")
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        each = tx.rows(
            "SELECT p.*, p.charged + p.carried AS owed FROM fee_position p WHERE p.institution = :i"
        )
        at_once = {row["fee_id"]: row for row in tx.rows("SELECT * FROM fee_sums WHERE institution = :i")}
    ledger.close()
    assert len(each) == len(made)
    for row in each:
        wanted = [int(row["owed" if name == "charged" else name]) for name in columns]
        assert [int(at_once[row["fee_id"]][name]) for name in columns] == wanted


def test_the_reserve_stops_a_posting_with_all_outcomes_known(many: tuple[Bridge, list[Fee]]) -> None:
    bridge, made = many
    left = iter(range(40))

    def send(request: Request) -> Reply:
        if next(left, None) is None:
            raise QuotaSpent("The reserve is kept.")
        return bridge.send(request)

    with pytest.raises(QuotaSpent):
        post(bridge, AlmaApi(send, pause=lambda _: None))
    done = sum(len(applied(fee)) for fee in made) - 1
    assert post(bridge, bridge.api).posted == 60 - done


# -- nothing to do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", ["a fee", "nothing", "left out until today", "planned and never sent", "listed"]
)
def test_whether_there_is_anything_to_read_is_known_without_asking(
    make_bridge: MakeBridge, what: str
) -> None:
    """Else a run would connect to Alma and to the archive for nothing."""
    rules = "\n[first_charges]\nminimum_age_days = 2\n" if what == "left out until today" else ""
    bridge = make_bridge(fees=0, settings=lambda text: text + rules)
    if what != "nothing":
        bridge.far.alma.add_fee(bridge.far.students[0], 500)
    bridge.far.refresh_analytics()
    with bridge.working("out") as (ledger, lease):
        tasks = dict(bridge.tasks_out("analytics_report"))
        tasks["retrieve"](ledger, lease)
        if what in ("a fee", "nothing"):
            assert fees.nothing_to_read(ledger, bridge.campus, True) is (what == "nothing")
        if what == "listed":
            bridge.far.faults.add_http("fail_before", path="/users/.*", times=None)
            with suppress(Retriable):
                tasks["read"](ledger, lease)
            bridge.far.faults.clear()
            with ledger.write(lease) as tx:
                tx.run("DELETE FROM account_to_read WHERE institution = :i")
            assert not fees.nothing_to_read(ledger, bridge.campus, True)
            return
        tasks["read"](ledger, lease)
        with ledger.read() as tx:
            assert fee_entries.any_read(tx) is (what != "nothing")
        tasks["plan"](ledger, lease)
    if what == "left out until today":
        for hours, nothing in ((1, True), (48, False)):
            bridge.far.clock.advance(hours=hours)
            with bridge.working("out") as (ledger, _):
                assert fees.nothing_to_read(ledger, bridge.campus, True) is nothing
    if what == "planned and never sent":
        with bridge.working("out") as (ledger, _):
            assert not fees.nothing_to_read(ledger, bridge.campus, True)
            assert fees.nothing_to_read(ledger, bridge.campus, False)
