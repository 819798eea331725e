"""Held batches, their answers, and the reports that are compared, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from alma_hook.errors import Fatal
from alma_hook.ledger import Ledger, batches, exceptions, fees, holds, payments, story

INSTITUTION, USER = "01CAMPUS_INST", "061719993"
TARGET = batches.Target(
    "default", "alma_{sequence}.dat", "2026-11-22", "sftp.campus.invalid:22", "/sfs/inbound"
)
WHY = ("3 lines, brake.max_lines is 2", "total 30.00, brake.max_total is 20.00")


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, 8, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def pass_(self, **span: float) -> None:
        self.at += timedelta(**span)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def ledger(ledger_url: str, time: Time) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url, INSTITUTION, run_id="run 1", actor="the bursar", clock=time)
    ledger.migrate()
    yield ledger
    ledger.close()


def line(fee_id: str, amount: int = 1000) -> batches.Line:
    return batches.Line(
        fee_id=fee_id, kind="charge", amount=amount, emplid=USER, item_type="300000000001", term="2268",
        reference=f"ALMA{fee_id}", description="Library fee", account_type="LIB", effective_date="2026-11-22",
        due_date="", reason="new", item_fee=fee_id,
    )  # fmt: skip


def hold(ledger: Ledger, *lines: batches.Line, live: bool = True) -> str:
    with ledger.write() as tx:
        for one in lines:
            tx.run(
                "INSERT INTO fee (institution, fee_id, user_id, first_seen_at) VALUES (:i, :fee, :user, :now) "
                "ON CONFLICT (institution, fee_id) DO NOTHING",
                fee=one.fee_id, user=USER, now=tx.now,
            )  # fmt: skip
        batch_id = batches.open_batch(tx, "charges", live, lines, TARGET, held=True)
        holds.set_aside(tx, batch_id, WHY)
    return batch_id


def plan(ledger: Ledger, *lines: batches.Line) -> str:
    with ledger.write() as tx:
        return batches.open_batch(tx, "charges", True, lines, TARGET)


def release(ledger: Ledger, batch_id: str, by: str = "the bursar") -> None:
    with ledger.write() as tx:
        holds.release(tx, batch_id, holds.digest(tx, batch_id), by, "looked at")


def refuse(ledger: Ledger, batch_id: str, reason: str = "the policy is wrong") -> None:
    with ledger.write() as tx:
        holds.refuse(tx, batch_id, "the bursar", reason)


def approved(ledger: Ledger, hours: int = 24) -> set[str]:
    with ledger.read() as tx:
        return {str(facts[0]) for facts in holds.approved(tx, hours)}


def state(ledger: Ledger, batch_id: str) -> tuple[str, set[str]]:
    with ledger.read() as tx:
        return batches.batch(tx, batch_id)["state"], {row["state"] for row in batches.lines(tx, batch_id)}


def listed(ledger: Ledger) -> list[tuple[str, str, int, str]]:
    with ledger.read() as tx:
        rows = exceptions.open_items(tx)
    return [(row["subject"], row["kind"], int(row["amount"]), row["detail"]) for row in rows]


# -- while it waits ------------------------------------------------------------------------------------


def test_a_held_batch_keeps_its_fees_busy_and_is_listed(ledger: Ledger) -> None:
    batch_id = hold(ledger, line("1"), line("2", 2000))
    assert state(ledger, batch_id) == ("held", {"pending"})
    with ledger.read() as tx:
        pending = tx.rows("SELECT fee_id, pending FROM fee_position WHERE institution = :i ORDER BY fee_id")
        (row,) = holds.held(tx)
    assert [(found["fee_id"], found["pending"]) for found in pending] == [("1", 1), ("2", 1)]
    assert (row["batch_id"], row["why"], row["largest"], row["total"]) == (
        batch_id,
        "; ".join(WHY),
        2000,
        3000,
    )
    assert listed(ledger) == [(f"batch {batch_id}", "batch held for approval", 3000, "; ".join(WHY))]
    assert holds.describe(row) == f"batch {batch_id} (charges, 2 lines, 30.00): {'; '.join(WHY)}"


def test_it_is_in_no_state_from_which_anything_leaves(ledger: Ledger) -> None:
    hold(ledger, line("1"))
    with ledger.write() as tx:
        assert batches.in_states(tx, *batches.UNFINISHED) == []
        assert batches.drop_unsent(tx) == []


def test_a_rehearsals_batch_waits_for_nobody(ledger: Ledger) -> None:
    batch_id = hold(ledger, line("1"), live=False)
    with ledger.read() as tx:
        assert holds.held(tx) == []
        assert [row["why"] for row in holds.holds(tx, [batch_id])] == ["; ".join(WHY)]
    assert (state(ledger, batch_id), listed(ledger)) == (("preview", {"preview"}), [])
    with pytest.raises(Fatal, match=r"P000001 is not held for approval; those are: none"):
        release(ledger, batch_id)


def test_it_is_not_settled_as_any_exception(ledger: Ledger) -> None:
    hold(ledger, line("1"))
    with ledger.write() as tx, pytest.raises(Fatal, match="`release` or `refuse`"):
        payments.resolve(tx, exceptions.open_items(tx)[0]["exception_id"], "the bursar", "seen")
    assert len(listed(ledger)) == 1


def test_it_shows_what_it_is_made_of(ledger: Ledger) -> None:
    batch_id = hold(ledger, line("1"), line("2", 2000), line("3", 7))
    with ledger.write() as tx:
        for fee_id, kind in (("1", "OVERDUEFINE"), ("2", "OVERDUEFINE")):
            fees.store_missing(tx, fee_id, 0, "")
            tx.run("UPDATE reading SET type = :kind WHERE fee_id = :fee", kind=kind, fee=fee_id)
        shown = [tuple(row.values()) for row in holds.composition(tx, batch_id)]
    assert shown == [("", "300000000001", 1, 7), ("OVERDUEFINE", "300000000001", 2, 3000)]


# -- the answer ----------------------------------------------------------------------------------------


def test_released_it_waits_for_the_next_run_which_gives_it_up(ledger: Ledger) -> None:
    batch_id = hold(ledger, line("1"))
    release(ledger, batch_id)
    # Its fees stay busy: nothing plans them from a reading made before.
    assert state(ledger, batch_id) == ("released", {"pending"})
    with ledger.write() as tx:
        assert batches.drop_unsent(tx) == ["1"]
    assert state(ledger, batch_id) == ("cancelled", {"dropped"})
    assert approved(ledger) == {"1"}


def test_an_answer_is_kept_with_the_persons_name(ledger: Ledger, time: Time) -> None:
    one, two = hold(ledger, line("1")), hold(ledger, line("2"))
    with ledger.read() as tx:
        digest = holds.digest(tx, one)
    time.pass_(hours=1)
    release(ledger, one, by="a circulation head")
    refuse(ledger, two)
    assert listed(ledger) == []
    with ledger.read() as tx:
        rows = tx.rows("SELECT * FROM batch_hold WHERE institution = :i ORDER BY batch_id")
        events = tx.rows(
            "SELECT what, detail FROM event WHERE subject = :s ORDER BY event_id", s=f"batch {one}"
        )
        lives = [[what for _, what in story.of_fee(tx, fee_id)] for fee_id in ("1", "2")]
    assert [(r["answer"], r["answered_by"], r["answer_reason"], r["digest"]) for r in rows] == [
        ("released", "a circulation head", "looked at", digest),
        ("refused", "the bursar", "the policy is wrong", None),
    ]
    assert ("released by a circulation head", f"digest {digest}; looked at") in [
        (e["what"], e["detail"]) for e in events
    ]
    assert f"batch {one} set aside: {'; '.join(WHY)}" in lives[0]
    assert f"batch {one} released by a circulation head, looked at" in lives[0]
    assert f"batch {two} refused by the bursar, the policy is wrong" in lives[1]


def test_refused_its_fees_are_free_and_read_again(ledger: Ledger) -> None:
    batch_id = hold(ledger, line("1"))
    refuse(ledger, batch_id)
    assert state(ledger, batch_id) == ("cancelled", {"dropped"})
    assert approved(ledger) == set()
    with ledger.read() as tx:
        assert fees.accounts_left(tx, True) == [USER]
    plan(ledger, line("1"))


@pytest.mark.parametrize("first", [release, refuse])
@pytest.mark.parametrize("second", [release, refuse])
def test_a_batch_is_answered_once(ledger: Ledger, first: object, second: object) -> None:
    batch_id = hold(ledger, line("1"))
    first(ledger, batch_id)  # type: ignore[operator]
    before = state(ledger, batch_id)
    with pytest.raises(
        Fatal, match=rf"was {'released' if first is release else 'refused'} by the bursar at 2026-11-22"
    ):
        second(ledger, batch_id)  # type: ignore[operator]
    assert state(ledger, batch_id) == before


def test_an_answer_needs_a_name_a_reason_and_a_batch(ledger: Ledger) -> None:
    batch_id = hold(ledger, line("1"))
    for answer in (
        lambda: release(ledger, batch_id, by=" "),
        lambda: refuse(ledger, batch_id, reason=" "),
        lambda: release(ledger, plan(ledger, line("2"))),
        lambda: release(ledger, "000099"),
    ):
        with pytest.raises(Fatal):
            answer()
    assert state(ledger, batch_id) == ("held", {"pending"})
    assert len(listed(ledger)) == 1


def test_a_release_without_a_reason_is_none(ledger: Ledger) -> None:
    batch_id = hold(ledger, line("1"))
    for reason in ("", " \n"):
        with ledger.write() as tx, pytest.raises(Fatal, match="needs a reason"):
            holds.release(tx, batch_id, holds.digest(tx, batch_id), "the bursar", reason)
    assert state(ledger, batch_id) == ("held", {"pending"})
    assert len(listed(ledger)) == 1


# -- the digest ----------------------------------------------------------------------------------------


def test_the_digest_of_another_batch_releases_nothing(ledger: Ledger) -> None:
    one, other = hold(ledger, line("1")), hold(ledger, line("2"))
    with ledger.read() as tx:
        digest = holds.digest(tx, other)
    for seen in (digest, "", digest[:6]):
        with ledger.write() as tx, pytest.raises(Fatal, match="not what was looked at"):
            holds.release(tx, one, seen, "the bursar", "looked at")
    assert state(ledger, one) == ("held", {"pending"})


@pytest.mark.parametrize(
    "change",
    [f"{name} = 'X'" for name in holds.FACTS if name not in ("amount", "kind")]
    + ["amount = 1001", "kind = 'credit'"],
)  # fmt: skip
def test_the_digest_is_of_every_line_and_all_that_counts_of_it(ledger: Ledger, change: str) -> None:
    batch_id = hold(ledger, line("1"), line("2"))
    with ledger.write() as tx:
        before = holds.digest(tx, batch_id)
        assert before == holds.digest(tx, batch_id)
        assert len(before) == 12
        tx.run(f"UPDATE line SET {change} WHERE batch_id = :b AND line_no = 2", b=batch_id)
        assert holds.digest(tx, batch_id) != before


def test_a_digest_is_taken_as_a_person_types_it(ledger: Ledger) -> None:
    batch_id = hold(ledger, line("1"))
    with ledger.write() as tx:
        holds.release(tx, batch_id, f" {holds.digest(tx, batch_id).upper()}\n", "the bursar", "looked at")
    assert state(ledger, batch_id)[0] == "released"


# -- what was approved ---------------------------------------------------------------------------------


def picked_up(ledger: Ledger, *lines: batches.Line) -> None:
    """Lines held, released, and given up by the next run."""
    release(ledger, hold(ledger, *lines))
    with ledger.write() as tx:
        batches.drop_unsent(tx)


def test_an_approval_holds_for_its_hours(ledger: Ledger, time: Time) -> None:
    picked_up(ledger, line("1"))
    time.pass_(hours=24)
    assert approved(ledger) == {"1"}
    time.pass_(seconds=1)
    assert approved(ledger) == set()
    assert approved(ledger, 25) == {"1"}


def test_the_hours_begin_with_the_answer(ledger: Ledger, time: Time) -> None:
    batch_id = hold(ledger, line("1"))
    time.pass_(days=40)
    assert state(ledger, batch_id) == ("held", {"pending"})
    release(ledger, batch_id)
    assert approved(ledger) == {"1"}


def test_an_approval_is_used_once(ledger: Ledger) -> None:
    picked_up(ledger, line("1"), line("2"))
    batch_id = plan(ledger, line("1"))
    assert approved(ledger) == {"2"}
    with ledger.write() as tx:
        batches.deliver(tx, batch_id, "planned")
    assert approved(ledger) == {"2"}


def test_a_batch_given_up_before_it_left_uses_nothing(ledger: Ledger) -> None:
    picked_up(ledger, line("1"))
    plan(ledger, line("1"))
    with ledger.write() as tx:
        batches.drop_unsent(tx)
    assert approved(ledger) == {"1"}


def test_a_rehearsal_uses_nothing(ledger: Ledger) -> None:
    picked_up(ledger, line("1"))
    with ledger.write() as tx:
        batches.open_batch(tx, "charges", False, [line("1")], TARGET)
    assert approved(ledger) == {"1"}


def test_another_line_of_the_fee_ends_an_approval(ledger: Ledger) -> None:
    picked_up(ledger, line("1"))
    batch_id = plan(ledger, line("1", 1500))
    assert approved(ledger) == set()
    with ledger.write() as tx:
        batches.deliver(tx, batch_id, "planned")
    assert approved(ledger) == set()


# -- reports -------------------------------------------------------------------------------------------


def report(
    ledger_url: str, time: Time, run_id: str, reported: int, accepted: bool
) -> tuple[int | None, object]:
    """Keep a run's report; return the last accepted one before, and what that run's plan doubts."""
    ledger = Ledger(ledger_url, INSTITUTION, run_id=run_id, clock=time)
    time.pass_(hours=12)
    with ledger.write() as tx:
        last = holds.last_report(tx)
        holds.keep_report(tx, reported, last, accepted)
        doubted = holds.doubted_report(tx)
    ledger.close()
    return last, doubted


def test_a_doubted_report_is_compared_with_no_later_one(ledger: Ledger, ledger_url: str, time: Time) -> None:
    assert report(ledger_url, time, "run 2", 1000, True) == (None, None)
    assert report(ledger_url, time, "run 3", 1100, True) == (1000, None)
    assert report(ledger_url, time, "run 4", 100, False) == (1100, (100, 1100))
    assert report(ledger_url, time, "run 5", 90, False) == (1100, (90, 1100))
    # A retry's takes the place of the first attempt's.
    assert report(ledger_url, time, "run 5", 900, True) == (1100, None)
    assert report(ledger_url, time, "run 6", 800, True) == (900, None)


def test_releasing_a_batch_of_its_run_accepts_a_report(ledger: Ledger, ledger_url: str, time: Time) -> None:
    report(ledger_url, time, "run 0", 1000, True)
    report(ledger_url, time, "run 1", 100, False)
    one, other = hold(ledger, line("1")), hold(ledger, line("2"))
    refuse(ledger, one)
    with ledger.read() as tx:
        assert holds.last_report(tx) == 1000
    release(ledger, other)
    with ledger.read() as tx:
        assert (holds.last_report(tx), holds.doubted_report(tx)) == (100, None)


def test_an_older_report_that_is_accepted_late_hides_no_newer_one(
    ledger: Ledger, ledger_url: str, time: Time
) -> None:
    report(ledger_url, time, "run 0", 1000, True)
    report(ledger_url, time, "run 1", 100, False)
    batch_id = hold(ledger, line("1"))
    report(ledger_url, time, "run 2", 990, True)
    release(ledger, batch_id)
    with ledger.read() as tx:
        assert holds.last_report(tx) == 990
