"""What people are told of though no task is red: each thing when it is so, not before, and not for ever."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from alma_hook import watch
from alma_hook.ledger import alerts, instant
from simulator.clock import Clock
from tests.bridge import Bridge
from tests.conftest import MakeBridge

LATE = """
[alerts]
late_minutes = 90
exception_days = 2
delivered_hours = 30
payment_file_hours = 40
export_file_hours = 50
[brake]
max_lines = 2
[sfs]"""
#: 08:00 in Los Angeles.
MORNING = datetime(2026, 11, 20, 16, tzinfo=UTC)


@pytest.fixture
def bridge(make_bridge: MakeBridge, ledger_url: str) -> Bridge:
    return make_bridge(
        url=ledger_url, fees=0, clock=Clock(MORNING), settings=lambda text: text.replace("[sfs]", LATE)
    )


def told(bridge: Bridge, lying: Collection[str] = ()) -> dict[str, str]:
    """What lasts now: cause and subject -> text; not what never was yet, which most of these tests let be."""
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        last = {
            watch.NO_PAYMENTS: alerts.last_payment_file(tx),
            watch.NO_EXPORT: alerts.last_export(tx),
            watch.NOTHING_SENT: alerts.last_delivery(tx),
        }
        return {
            f"{each.cause}: {each.subject}": each.text
            for each in watch.conditions(tx, bridge.campus, lying)
            if (
                alerts.last_finished(tx, each.subject)
                if each.cause == watch.LATE
                else last.get(each.cause, True)
            )
        }


def finished(bridge: Bridge, *dag_ids: str) -> None:
    with closing(bridge.ledger("a run")) as ledger, ledger.write() as tx:
        for dag_id in dag_ids:
            alerts.finish_run(tx, dag_id)


def never_run(bridge: Bridge) -> list[str]:
    return [each for each in all_of(bridge) if each.startswith(watch.LATE)]


def all_of(bridge: Bridge) -> list[str]:
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        return [f"{each.cause}: {each.subject}" for each in watch.conditions(tx, bridge.campus, ())]


def test_what_never_came_since_the_books_were_opened_is_missed(bridge: Bridge) -> None:
    def missed(hours: float) -> list[str]:
        bridge.far.clock.set(MORNING + timedelta(hours=hours))
        return [each for each in all_of(bridge) if not each.startswith(watch.LATE)]

    assert missed(29) == []
    assert missed(31) == ["nothing delivered: alma_to_sis"]
    assert missed(41) == ["no payment file: sis_to_alma", "nothing delivered: alma_to_sis"]
    assert missed(51) == [
        "no payment file: sis_to_alma",
        "no export of Alma's: alma_to_sis",
        "nothing delivered: alma_to_sis",
    ]


def test_a_campus_is_late_that_never_ran_since_its_books_were_opened(bridge: Bridge) -> None:
    bridge.far.clock.set(MORNING + timedelta(hours=1))
    assert never_run(bridge) == []
    bridge.far.clock.set(MORNING + timedelta(days=30))
    assert never_run(bridge) == ["late: alma_to_sis", "late: sis_to_alma"]


def test_of_a_campus_whose_books_are_not_open_nothing_is_told(bridge: Bridge) -> None:
    with closing(bridge.ledger("a hand")) as ledger, ledger.write() as tx:
        tx.run("UPDATE institution SET opened_at = NULL WHERE institution = :i")
    bridge.far.clock.set(MORNING + timedelta(days=30))
    assert never_run(bridge) == []


def test_a_run_is_late_when_the_one_due_after_the_last_has_not_ended(bridge: Bridge) -> None:
    finished(bridge, "alma_to_sis")
    bridge.far.clock.set(MORNING + timedelta(hours=13, minutes=29))
    assert told(bridge) == {}
    bridge.far.clock.set(MORNING + timedelta(hours=13, minutes=31))
    assert told(bridge) == {
        "late: alma_to_sis": "No live run of alma_to_sis has come to its end since 2026-11-20 08:00; one was due at "
        "2026-11-20 20:00."
    }
    finished(bridge, "alma_to_sis")
    assert told(bridge) == {}


@pytest.mark.parametrize(
    ("day", "last", "due"),
    [("2026-03-07", "20:00-0800", "15:00"), ("2026-10-31", "20:00-0700", "16:00")],
)
def test_a_changed_clock_makes_no_run_late(bridge: Bridge, day: str, last: str, due: str) -> None:
    """Between two runs lie eleven hours or thirteen then."""
    bridge.far.clock.set(datetime.fromisoformat(f"{day}T{last}").astimezone(UTC))
    finished(bridge, "alma_to_sis")
    hour, minute = map(int, due.split(":"))
    due_at = bridge.far.clock.now().replace(hour=hour, minute=minute)
    bridge.far.clock.set(due_at + timedelta(minutes=89))
    assert told(bridge) == {}
    bridge.far.clock.set(due_at + timedelta(minutes=91))
    assert list(told(bridge)) == ["late: alma_to_sis"]


def test_a_held_batch_is_told_until_it_is_answered(bridge: Bridge) -> None:
    for student in bridge.far.students[:3]:
        bridge.far.alma.add_fee(student, 1000)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    assert told(bridge) == {
        "held for approval: batch 000001": "Not sent: batch 000001 (charges, 3 lines, 30.00): 3 lines, "
        "brake.max_lines is 2. Planned by run run 1."
    }


def test_what_leaves_money_in_doubt_is_told_after_a_day(bridge: Bridge) -> None:
    bridge.folder.put("/sfs/outbound/BROKEN.csv", b"Emplid,Amount\n1")
    bridge.sis_to_alma()
    bridge.far.clock.advance(hours=23, seconds=3540)
    assert told(bridge) == {}
    bridge.far.clock.advance(seconds=60)
    assert "1 payment file refused" in told(bridge)["exceptions grown old: exceptions"]


def test_exceptions_are_told_by_kind_when_they_have_grown_old(bridge: Bridge) -> None:
    first = [bridge.far.alma.add_fee(student, 700, type="UNHEARDOF") for student in bridge.far.students[:2]]
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.clock.advance(days=1, hours=23)
    assert told(bridge) == {}
    bridge.far.clock.advance(hours=1)
    assert told(bridge) == {
        "exceptions grown old: exceptions": "2 entries are on the list of exceptions for 2 days or more, or for a day "
        "where nobody knows yet what became of money: 2 fee type without item type (14.00)."
    }
    for fee in first:
        bridge.far.alma.waive_at_desk(fee.id, 700)
    bridge.alma_to_sis("all_users")
    assert told(bridge) == {}


def test_a_file_that_nobody_collects_is_told(bridge: Bridge) -> None:
    bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    lying = {"alma_charges_000001.dat", "of_somebody_else.dat"}
    bridge.far.clock.advance(hours=23.9)
    assert told(bridge, lying) == {}
    bridge.far.clock.advance(hours=0.1)
    assert list(told(bridge, lying)) == ["delivered, not collected: alma_charges_000001.dat"]
    assert told(bridge) == {}


def test_what_stays_away_is_told_after_the_hours_that_were_set(bridge: Bridge) -> None:
    bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.far.refresh_analytics()
    bridge.far.write_sis_export(24)
    bridge.alma_to_sis("sis_profile")
    bridge.far.load_inbound()
    bridge.far.write_query_output()
    bridge.sis_to_alma()
    causes = {}
    for hours in (29, 31, 41, 51):
        bridge.far.clock.set(MORNING + timedelta(hours=hours))
        causes[hours] = [name.partition(":")[0] for name in told(bridge)]
    assert causes == {
        29: [],
        31: ["nothing delivered"],
        41: ["no payment file", "nothing delivered"],
        51: ["no payment file", "no export of Alma's", "nothing delivered"],
    }


def test_a_thing_is_told_once_a_day_and_anew_when_it_comes_back(bridge: Bridge) -> None:
    def due() -> bool:
        with closing(bridge.ledger("watch")) as ledger, ledger.write() as tx:
            found = alerts.due(tx, "late", "alma_to_sis", 24)
            if found:
                alerts.told(tx, "late", "alma_to_sis")
            return found

    times = []
    for hours in (0, 1, 22, 1.5, 1):
        bridge.far.clock.advance(hours=hours)
        times.append(due())
    assert times == [True, False, False, True, False]
    with closing(bridge.ledger("watch")) as ledger, ledger.write() as tx:
        alerts.over(tx, ["held for approval"], [])
    assert not due()
    with closing(bridge.ledger("watch")) as ledger, ledger.write() as tx:
        alerts.over(tx, ["late"], [("late", "sis_to_alma")])
    assert due()


def test_a_run_is_told_of_when_one_of_its_tasks_was_since_then(bridge: Bridge) -> None:
    at = [bridge.far.clock.now() + timedelta(minutes=minutes) for minutes in (0, 10, 20)]
    bridge.far.clock.set(at[1])
    with closing(bridge.ledger("a run")) as ledger, ledger.write() as tx:
        alerts.spoke(tx, "alma_to_sis/run 1", "task failed")

    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        assert alerts.spoken_of(tx, "alma_to_sis/run 1", instant(at[0]))
        assert not alerts.spoken_of(tx, "alma_to_sis/run 1", instant(at[2]))
        assert not alerts.spoken_of(tx, "alma_to_sis/run 11", instant(at[0]))
        assert not alerts.spoken_of(tx, "alma_to_sis/run", instant(at[0]))


def test_a_failure_is_told_once_a_day_and_anew_when_a_run_has_ended_well(bridge: Bridge) -> None:
    subject = "alma_to_sis/read_fees: Retriable"

    def fails(hours: float) -> bool:
        bridge.far.clock.advance(hours=hours)
        with closing(bridge.ledger("a run")) as ledger, ledger.write() as tx:
            found = alerts.due(tx, "task failed", subject, 24)
            if found:
                alerts.told(tx, "task failed", subject)
            return found

    assert [fails(hours) for hours in (0, 12, 11, 2, 12)] == [True, False, False, True, False]
    finished(bridge, "sis_to_alma")
    assert not fails(1)
    finished(bridge, "alma_to_sis")
    assert fails(1)
