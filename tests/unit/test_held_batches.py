"""Batches beyond the brake's limits, from the run that holds them to what PeopleSoft has in the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from alma_hook import charges, delivery
from alma_hook.errors import Fatal
from alma_hook.ledger import Row, batches, fees, holds
from simulator.alma_records import Fee
from tests.bridge import Bridge
from tests.conftest import MakeBridge

LIMITS = '[brake]\nmax_lines = 3\nmax_total = "100.00"\nmax_line = "60.00"\n[sfs]'


def braked(text: str) -> str:
    return text.replace("[sfs]", LIMITS)


@pytest.fixture
def bridge(make_bridge: MakeBridge, ledger_url: str) -> Bridge:
    """A campus without fees, with small limits, on each database."""
    return make_bridge(url=ledger_url, fees=0, settings=braked)


def add(bridge: Bridge, *amounts: int, first: int = 0) -> list[Fee]:
    """A fee for each of so many students."""
    students = bridge.far.students[first:]
    return [bridge.far.alma.add_fee(students[n], cents) for n, cents in enumerate(amounts)]


def run(bridge: Bridge, method: str = "analytics_report", hours: float = 12) -> charges.PlanCounts:
    bridge.far.clock.advance(hours=hours)
    bridge.far.refresh_analytics()
    counts = bridge.alma_to_sis(method)
    for result in bridge.far.load_inbound():
        assert result.loaded, result
    return counts


def held(bridge: Bridge) -> list[Row]:
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        return holds.held(tx)


def answer(bridge: Bridge, act: Callable[..., None], batch_id: str | None = None, *said: str) -> None:
    with closing(bridge.ledger("a person")) as ledger, ledger.write() as tx:
        which = batch_id or holds.held(tx)[0]["batch_id"]
        digest = (holds.digest(tx, which),) if act is holds.release else ()
        act(tx, which, *(said or (*digest, "the bursar", "looked at")))


def owed(bridge: Bridge, *of: Fee) -> list[int]:
    """What PeopleSoft was charged for these fees, less what was credited."""
    books = bridge.books().fees
    return [books[fee.id].charged_cents - books[fee.id].credited_cents for fee in of]


def postings(bridge: Bridge) -> int:
    return len(bridge.far.peoplesoft.postings)


# -- held ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "leaves", "why"),
    [
        ([3000, 3000, 4000], True, ""),
        ([3000, 3000, 4001], False, "total 100.01, brake.max_total is 100.00"),
        ([100, 100, 100, 100], False, "4 lines, brake.max_lines is 3"),
    ],
)
def test_at_the_limit_a_batch_leaves_beyond_it_stays(
    bridge: Bridge, amounts: list[int], leaves: bool, why: str
) -> None:
    made = add(bridge, *amounts)
    counts = run(bridge)
    assert owed(bridge, *made) == (amounts if leaves else [0] * len(amounts))
    assert [row["why"] for row in held(bridge)] == ([] if leaves else [why])
    assert (counts.charges, counts.held_lines) == ((len(amounts), 0) if leaves else (0, len(amounts)))


def test_nothing_of_a_held_batch_leaves_however_long_it_waits(bridge: Bridge) -> None:
    made = add(bridge, 3000, 3000, 3000, 3000)
    run(bridge)
    for day in range(40):
        counts = run(bridge, ["analytics_report", "open_fees", "all_users"][day % 3], hours=24)
        assert (counts.held, counts.batches, counts.busy) == ([], [], 4)
    assert postings(bridge) == 0
    assert list(bridge.far.path("/sfs/archive").iterdir()) == []
    (row,) = held(bridge)
    assert bridge.exceptions() == {f"batch {row['batch_id']}": "batch held for approval"}
    assert (bridge.balances()["on_its_way"], bridge.balances()["unexplained"]) == (12000, 0)
    answer(bridge, holds.release)
    run(bridge)
    assert owed(bridge, *made) == [3000] * 4


def test_the_others_go_on(bridge: Bridge) -> None:
    add(bridge, 3000, 3000, 3000, 3000)
    run(bridge)
    later = add(bridge, 500, 700, first=10)
    run(bridge)
    assert owed(bridge, *later) == [500, 700]
    assert len(held(bridge)) == 1


def test_a_large_line_is_held_alone(bridge: Bridge) -> None:
    small, large, other = add(bridge, 2000, 6001, 6000)
    run(bridge)
    assert owed(bridge, small, large, other) == [2000, 0, 6000]
    (row,) = held(bridge)
    assert (row["line_count"], row["why"]) == (1, "a line of 60.01, brake.max_line is 60.00")


def test_credits_are_held_like_charges(bridge: Bridge) -> None:
    made = add(bridge, 2500, 2500, 2500)
    run(bridge)
    made += add(bridge, 2500, first=10)
    run(bridge)
    for fee in made:
        bridge.far.alma.waive_at_desk(fee.id)
    run(bridge)
    assert owed(bridge, *made) == [2500] * 4
    assert [row["kind"] for row in held(bridge)] == ["credits"]
    answer(bridge, holds.release)
    run(bridge)
    assert owed(bridge, *made) == [0] * 4
    assert bridge.unexplained() == {}


def test_a_dry_run_says_what_would_be_held_and_holds_nothing(bridge: Bridge) -> None:
    made = add(bridge, 100, 100, 100, 100)
    bridge.far.refresh_analytics()
    counts = bridge.alma_to_sis(live=False)
    assert (counts.held, counts.held_lines, counts.charges) == (["P000001"], 4, 0)
    assert (held(bridge), bridge.exceptions()) == ([], {})
    run(bridge)
    assert [row["batch_id"] for row in held(bridge)] == ["000001"]
    assert owed(bridge, *made) == [0] * 4


# -- released ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["analytics_report", "open_fees", "sis_profile", "all_users"])
def test_released_exactly_the_approved_lines_leave_once(make_bridge: MakeBridge, method: str) -> None:
    bridge = make_bridge(fees=0, settings=braked)
    made = add(bridge, 3000, 3000, 3000, 3000, 9000)
    run(bridge)
    big, large = held(bridge)
    answer(bridge, holds.release, big["batch_id"])
    assert postings(bridge) == 0
    counts = run(bridge, method)
    assert (counts.charges, counts.held) == (4, [])
    assert owed(bridge, *made) == [3000, 3000, 3000, 3000, 0]
    for _ in range(3):
        run(bridge, method)
    assert postings(bridge) == 4
    assert [row["batch_id"] for row in held(bridge)] == [large["batch_id"]]


def test_nothing_leaves_from_old_evidence(bridge: Bridge) -> None:
    """What changed between the batch and the run after its release is not what was approved."""
    same, waived, raised, gone, paid = add(bridge, 3000, 3000, 5000, 3000, 3000)
    run(bridge)
    answer(bridge, holds.release)
    bridge.far.alma.waive_at_desk(waived.id, 1000)
    bridge.far.alma.raise_fee(raised.id, 1001)
    bridge.far.alma.waive_at_desk(gone.id)
    bridge.far.alma.pay_at_desk(paid.id, 1)
    counts = run(bridge)
    # The two that became less pass the brake like any other; the one beyond its limit is held anew.
    assert owed(bridge, same, waived, raised, gone, paid) == [3000, 2000, 0, 0, 2999]
    assert (len(counts.batches), len(counts.held)) == (2, 1)
    assert [row["why"] for row in held(bridge)] == ["a line of 60.01, brake.max_line is 60.00"]


def test_changed_lines_beyond_a_limit_are_held_anew(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 8)
    run(bridge)
    answer(bridge, holds.release)
    for fee in made[:4]:
        bridge.far.alma.waive_at_desk(fee.id, 1)
    run(bridge)
    assert owed(bridge, *made) == [0] * 4 + [2000] * 4
    assert [row["line_count"] for row in held(bridge)] == [4]


def test_lines_that_the_settings_now_make_otherwise_are_held_anew(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    answer(bridge, holds.release)
    bridge.campus = bridge.campus.model_copy(
        update={"item_types": dict.fromkeys(bridge.campus.item_types, "300000000003")}
    )
    run(bridge)
    assert owed(bridge, *made) == [0] * 4
    assert len(held(bridge)) == 1


def test_an_account_that_can_not_be_read_at_once_is_still_approved_the_next_time(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    answer(bridge, holds.release)
    bridge.far.faults.add_http("fail_before", path=f"/users/{made[0].user.primary_id}/fees", times=None)
    run(bridge, hours=1)
    assert owed(bridge, *made) == [0, 2000, 2000, 2000]
    bridge.far.faults.clear()
    counts = run(bridge, hours=1)
    assert owed(bridge, *made) == [2000] * 4
    assert (counts.charges, counts.held) == (1, [])


def test_an_approval_that_is_too_old_is_none(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    answer(bridge, holds.release)
    run(bridge, hours=24.1)
    assert owed(bridge, *made) == [0] * 4
    (row,) = held(bridge)
    assert row["batch_id"] == "000002"


def test_the_same_line_again_is_not_approved_again(bridge: Bridge) -> None:
    (fee,) = add(bridge, 1000)
    run(bridge)
    bridge.far.alma.raise_fee(fee.id, 7000)
    run(bridge)
    answer(bridge, holds.release)
    run(bridge, hours=1)
    assert owed(bridge, fee) == [8000]
    # Equal in everything and within the day, but nobody was asked about this one.
    bridge.far.alma.raise_fee(fee.id, 7000)
    run(bridge, hours=1)
    assert owed(bridge, fee) == [8000]
    assert [row["total"] for row in held(bridge)] == [7000]


def test_two_batches_are_released_for_themselves(bridge: Bridge) -> None:
    first = add(bridge, *[2000] * 4)
    run(bridge)
    second = add(bridge, *[1500] * 5, first=10)
    run(bridge)
    one, two = (row["batch_id"] for row in held(bridge))
    answer(bridge, holds.release, two)
    run(bridge, hours=1)
    assert (owed(bridge, *first), owed(bridge, *second)) == ([0] * 4, [1500] * 5)
    answer(bridge, holds.release, one)
    with pytest.raises(Fatal, match="was released by the bursar"):
        answer(bridge, holds.release, one)
    run(bridge, hours=1)
    assert (owed(bridge, *first), owed(bridge, *second)) == ([2000] * 4, [1500] * 5)
    assert (held(bridge), bridge.exceptions(), bridge.unexplained()) == ([], {}, {})


def test_both_released_at_once_leave_in_one_batch(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    made += add(bridge, *[1500] * 5, first=10)
    run(bridge)
    for row in held(bridge):
        answer(bridge, holds.release, row["batch_id"])
    counts = run(bridge)
    assert (counts.charges, len(counts.batches)) == (9, 1)
    assert bridge.unexplained() == {}


def test_a_stale_digest_releases_nothing(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        seen = holds.digest(tx, "000001")
    answer(bridge, holds.refuse)
    bridge.far.alma.raise_fee(made[0].id, 100)
    run(bridge)
    with pytest.raises(Fatal, match="not what was looked at"):
        answer(bridge, holds.release, "000002", seen, "the bursar", "looked at")
    run(bridge)
    assert owed(bridge, *made) == [0] * 4


def test_a_release_while_a_run_reads_is_for_the_next_one(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    with bridge.working("out") as (ledger, lease):
        bridge.retrieve("open_fees", ledger, lease, True)
        bridge.read(ledger, lease)
        answer(bridge, holds.release)
        counts = charges.plan(
            ledger, lease, bridge.campus, bridge.layout, bridge.folder.target, True, bridge.marks
        )
    assert (counts.charges, counts.held, counts.busy) == (0, [], 4)
    run(bridge, "open_fees", hours=1)
    assert owed(bridge, *made) == [2000] * 4


@pytest.mark.parametrize("died_after", ["read", "plan", "write", "upload"])
def test_a_worker_dies_on_the_way_of_a_released_batch(bridge: Bridge, died_after: str) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    answer(bridge, holds.release)
    bridge.far.clock.advance(hours=1)
    upto(bridge, died_after)
    bridge.far.load_inbound()
    bridge.far.clock.advance(hours=1)
    run(bridge)
    assert owed(bridge, *made) == [2000] * 4
    assert postings(bridge) == 4
    assert (held(bridge), bridge.exceptions()) == ([], {})


def upto(bridge: Bridge, step: str) -> None:
    """A run that ends after one of its tasks and is never taken up again."""
    with bridge.working("out") as (ledger, lease):
        bridge.retrieve("open_fees", ledger, lease, True)
        bridge.read(ledger, lease)
        if step == "read":
            return
        charges.plan(ledger, lease, bridge.campus, bridge.layout, bridge.folder.target, True, bridge.marks)
        if step == "plan":
            return
        with ledger.read() as tx:
            rows = batches.in_states(tx, "planned")
        for row in rows:
            charges.write_file(ledger, lease, bridge.campus, bridge.layout, row)
        if step == "upload":
            delivery.deliver_all(ledger, lease, bridge.campus.sfs, bridge.folder, bridge.folder, bridge.marks)


def test_a_death_between_giving_up_and_reading_forgets_no_account(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    answer(bridge, holds.release)
    with bridge.working("out") as (ledger, _), ledger.write() as tx:
        freed = fees.accounts_of_fees(tx, batches.drop_unsent(tx))
        fees.add_accounts(tx, True, sorted(freed), "planned before, never sent")
    # Nothing nominates them but the list itself.
    with bridge.working("out") as (ledger, lease):
        assert bridge.read(ledger, lease).accounts == 4
        counts = charges.plan(
            ledger, lease, bridge.campus, bridge.layout, bridge.folder.target, True, bridge.marks
        )
    assert (counts.charges, counts.held) == (4, [])
    run(bridge)
    assert owed(bridge, *made) == [2000] * 4


# -- refused -------------------------------------------------------------------------------------------


def test_refused_its_fees_are_worked_out_anew(bridge: Bridge) -> None:
    made = add(bridge, *[2000] * 4)
    run(bridge)
    answer(bridge, holds.refuse)
    assert (held(bridge), bridge.exceptions()) == ([], {})
    counts = run(bridge)
    assert (counts.held, counts.charges) == (["000002"], 0)
    assert owed(bridge, *made) == [0] * 4
    answer(bridge, holds.refuse)
    bridge.far.alma.waive_at_desk(made[0].id)
    run(bridge)
    assert owed(bridge, *made) == [0, 2000, 2000, 2000]
    assert bridge.unexplained() == {}


# -- a report that shows suddenly less -----------------------------------------------------------------


@pytest.fixture
def large(make_bridge: MakeBridge) -> Bridge:
    """Enough fees for a report's size to say something, all of them in PeopleSoft."""
    bridge = make_bridge(fees=0, students=130)
    add(bridge, *[1000] * 120)
    run(bridge)
    assert postings(bridge) == 120
    return bridge


def shows(bridge: Bridge, rows: int | None) -> None:
    bridge.far.analytics.traps.cut_short_to = rows


def test_a_cut_report_holds_its_run_and_is_no_measure_for_the_next(large: Bridge) -> None:
    (fee,) = add(large, 700, first=125)
    shows(large, 20)
    large.far.alma.waive_at_desk(next(iter(large.far.alma.fees)), 300)
    run(large)
    why = "the report showed 20 open fees, the last one 120: beyond brake.max_drop of 50 %"
    assert [(row["kind"], row["why"]) for row in held(large)] == [("credits", why)]
    # The next cut one is held too: the first did not become the measure.
    (other,) = add(large, 800, first=126)
    large.far.analytics.rows.reverse()
    run(large, "all_users")
    assert owed(large, fee, other) == [700, 800]
    (third,) = add(large, 900, first=127)
    shows(large, 10)
    large.far.clock.advance(hours=12)
    large.far.refresh_analytics()
    large.far.analytics.rows.reverse()
    large.alma_to_sis()
    large.far.load_inbound()
    assert owed(large, third) == [0]
    assert [row["why"][:30] for row in held(large)] == [
        "the report showed 20 open fees",
        "the report showed 10 open fees",
    ]
    # A whole one is none of that.
    shows(large, None)
    (fourth,) = add(large, 600, first=128)
    run(large)
    assert owed(large, fourth) == [600]
    assert len(held(large)) == 2


def test_half_of_the_fees_is_not_sudden(large: Bridge) -> None:
    shows(large, 60)
    large.far.alma.waive_at_desk(next(iter(large.far.alma.fees)), 300)
    counts = run(large)
    assert (counts.credits, counts.held) == (1, [])


def test_a_real_drop_that_is_released_is_the_new_measure(large: Bridge) -> None:
    made = list(large.far.alma.fees.values())
    for fee in made[:80]:
        large.far.alma.waive_at_desk(fee.id)
    (new,) = add(large, 700, first=125)
    run(large)
    assert [(row["kind"], row["line_count"]) for row in held(large)] == [("charges", 1), ("credits", 80)]
    assert owed(large, *made[:80]) == [1000] * 80
    for row in held(large):
        answer(large, holds.release, row["batch_id"])
    (later,) = add(large, 800, first=126)
    counts = run(large)
    assert (counts.charges, counts.credits, counts.held) == (2, 80, [])
    assert owed(large, *made, new, later) == [0] * 80 + [1000] * 40 + [700, 800]
    assert large.unexplained() == {}


def test_without_an_answer_a_drop_is_told_at_every_run(large: Bridge) -> None:
    for fee in list(large.far.alma.fees.values())[:80]:
        large.far.alma.waive_at_desk(fee.id)
    run(large)
    add(large, 700, first=125)
    run(large)
    add(large, 800, first=126)
    run(large)
    assert [row["line_count"] for row in held(large)] == [80, 1, 1]
    # Any of them accepts the report; each is answered for itself.
    answer(large, holds.release, held(large)[1]["batch_id"])
    (last,) = add(large, 900, first=127)
    run(large)
    assert owed(large, last) == [900]
    assert [row["line_count"] for row in held(large)] == [80, 1]


def test_only_live_reports_count(large: Bridge) -> None:
    shows(large, 5)
    large.far.alma.waive_at_desk(next(iter(large.far.alma.fees)), 300)
    large.far.refresh_analytics()
    assert large.alma_to_sis(live=False).held == []
    shows(large, None)
    counts: Any = run(large)
    assert (counts.credits, counts.held) == (1, [])


def test_a_retry_of_the_report_counts_as_the_last_attempt(large: Bridge) -> None:
    large.far.alma.waive_at_desk(next(iter(large.far.alma.fees)), 300)
    large.far.refresh_analytics()
    with large.working("out") as (ledger, lease):
        shows(large, 5)
        large.retrieve("analytics_report", ledger, lease, True)
        shows(large, None)
        large.retrieve("analytics_report", ledger, lease, True)
        large.read(ledger, lease)
        counts = charges.plan(
            ledger, lease, large.campus, large.layout, large.folder.target, True, large.marks
        )
    assert (counts.credits, counts.held) == (1, [])


def test_who_answered_and_how_is_told_of_the_batch_that_was_asked_about(bridge: Bridge) -> None:
    add(bridge, 7000)
    run(bridge)
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        (first,) = [row["batch_id"] for row in holds.held(tx)]
        assert holds.answer_of(tx, first) is None
    answer(bridge, holds.release)
    add(bridge, 8000)
    run(bridge)
    answer(bridge, holds.refuse)

    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        assert holds.answer_of(tx, first) == ("released", "the bursar")
        others = tx.rows("SELECT batch_id FROM batch_hold WHERE institution = :i AND batch_id <> :b", b=first)
        assert [holds.answer_of(tx, row["batch_id"]) for row in others] == [("refused", "the bursar")]
