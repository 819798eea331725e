"""Which lines leave and which are set aside: every limit just at it and just beyond it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alma_hook import brake
from alma_hook.campus import Brake
from alma_hook.ledger.batches import Line
from alma_hook.ledger.holds import FACTS, facts

LIMITS = Brake(max_lines=3, max_total="30.00", max_line="20.00", max_drop=50)  # type: ignore[arg-type]
DROP = "the report showed 1 open fees, the last one 200"


def line(number: int, amount: int, **changed: str) -> Line:
    made = Line(
        fee_id=str(number), kind="charge", amount=amount, emplid="012345678", item_type="300000000001", term="2268",
        reference=f"ALMA{number}", description="Library fee", account_type="LIB", effective_date="2026-11-22",
        due_date="", reason="new", item_fee=str(number),
    )  # fmt: skip
    return made._replace(**changed)  # type: ignore[arg-type]


def lines(*amounts: int) -> list[Line]:
    return [line(number, amount) for number, amount in enumerate(amounts)]


def parted(*amounts: int, drop: str | None = None) -> list[tuple[list[int], tuple[str, ...]]]:
    """The batches that these amounts make: their amounts, and the limits they are beyond."""
    parts = brake.part(lines(*amounts), frozenset(), LIMITS, drop)
    return [([line.amount for line in part.lines], part.broken) for part in parts]


@pytest.mark.parametrize("amounts", [[1], [1, 1, 1], [1000, 2000], [2000], [1000, 1000, 1000]])
def test_at_the_limits_all_leaves(amounts: list[int]) -> None:
    assert parted(*amounts) == [(amounts, ())]


def test_no_lines_make_no_batch() -> None:
    assert parted() == parted(drop=DROP) == []


def test_a_line_too_many_holds_the_batch() -> None:
    assert parted(1, 1, 1, 1) == [([1, 1, 1, 1], ("4 lines, brake.max_lines is 3",))]


def test_a_cent_too_much_holds_the_batch() -> None:
    assert parted(1500, 1501) == [([1500, 1501], ("total 30.01, brake.max_total is 30.00",))]


def test_every_limit_that_is_broken_is_named() -> None:
    (batch,) = parted(1000, 1000, 1000, 1)
    assert batch[1] == ("4 lines, brake.max_lines is 3", "total 30.01, brake.max_total is 30.00")


def test_a_line_that_is_too_large_is_set_aside_by_itself() -> None:
    assert parted(1000, 2001, 2000) == [
        ([1000, 2000], ()),
        ([2001], ("a line of 20.01, brake.max_line is 20.00",)),
    ]


def test_the_others_are_judged_without_it() -> None:
    # With it, they would be four lines of 50.04.
    assert parted(1, 1, 1, 5001) == [
        ([1, 1, 1], ()),
        ([5001], ("total 50.01, brake.max_total is 30.00", "a line of 50.01, brake.max_line is 20.00")),
    ]


def test_a_sudden_drop_holds_everything_as_one_batch() -> None:
    assert parted(1, 2, drop=DROP) == [([1, 2], (DROP,))]
    assert parted(1, 2001, drop=DROP) == [([1, 2001], (DROP, "a line of 20.01, brake.max_line is 20.00"))]


def test_with_limits_of_nought_every_batch_waits() -> None:
    limits = Brake(max_lines=0)
    (part,) = brake.part(lines(1), frozenset(), limits, None)
    assert part.broken == ("1 lines, brake.max_lines is 0",)


@pytest.mark.parametrize("drop", [None, DROP])
def test_what_is_approved_leaves_whatever_the_limits(drop: str | None) -> None:
    known = lines(9000, 9000, 9000, 9000)
    fresh = line(9, 100)
    parts = brake.part([*known, fresh], frozenset(map(facts, known)), LIMITS, drop)
    assert [(part.lines, bool(part.broken)) for part in parts] == [
        (tuple(known), False), ((fresh,), drop is not None),
    ]  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_an_approval_is_of_this_very_line(name: str) -> None:
    seen = line(1, 9000)
    other = seen._replace(**{name: 9001 if name == "amount" else "other"})  # type: ignore[arg-type]
    (part,) = brake.part([other], frozenset([facts(seen)]), LIMITS, None)
    assert part.broken


@pytest.mark.parametrize("name", ["effective_date", "description", "reason", "due_date"])
def test_an_approval_holds_the_day_after(name: str) -> None:
    seen = line(1, 9000)
    (part,) = brake.part([seen._replace(**{name: "other"})], frozenset([facts(seen)]), LIMITS, None)  # type: ignore[arg-type]
    assert not part.broken


@given(
    amounts=st.lists(st.integers(1, 4000), max_size=8),
    approved=st.sets(st.integers(0, 7)),
    drop=st.none() | st.just(DROP),
    max_lines=st.integers(0, 8),
    max_total=st.integers(0, 9000),
    max_line=st.integers(0, 4000),
)
def test_every_line_is_in_one_batch_and_none_leaves_beyond_a_limit(
    amounts: list[int], approved: set[int], drop: str | None, max_lines: int, max_total: int, max_line: int
) -> None:
    limits = Brake.model_construct(max_lines=max_lines, max_total=max_total, max_line=max_line)
    decided = lines(*amounts)
    known = frozenset(facts(one) for number, one in enumerate(decided) if number in approved)
    parts = brake.part(decided, known, limits, drop)

    assert Counter(one for part in parts for one in part.lines) == Counter(decided)
    assert all(part.lines for part in parts)
    for part in parts:
        fees = [int(one.fee_id) for one in part.lines]
        assert fees == sorted(fees)
        if set(fees) & approved:
            assert set(fees) <= approved
            assert not part.broken
        elif part.broken:
            assert drop in part.broken or drop is None
        else:
            assert drop is None
            assert len(part.lines) <= max_lines
            assert sum(one.amount for one in part.lines) <= max_total
            assert max(one.amount for one in part.lines) <= max_line
    # A batch is never set aside within all limits.
    for part in parts:
        over = (
            len(part.lines) > max_lines
            or sum(one.amount for one in part.lines) > max_total
            or max(one.amount for one in part.lines) > max_line
        )
        assert not part.broken or over or drop


@pytest.mark.parametrize(
    ("last", "fees", "doubted"),
    [
        (None, 0, False),  # the first report
        (200, 100, False),  # just half of it
        (200, 99, True),
        (201, 100, True),
        (200, 0, True),
        (200, 400, False),
        (100, 49, True),
        (99, 0, False),  # too few to compare
        (0, 0, False),
    ],
)
def test_half_of_the_last_report_is_enough(last: int | None, fees: int, doubted: bool) -> None:
    assert brake.dropped(fees, last, LIMITS) == doubted


@pytest.mark.parametrize(
    ("max_drop", "fees", "doubted"), [(10, 899, True), (10, 900, False), (100, 0, False)]
)
def test_the_campus_says_what_is_sudden(max_drop: int, fees: int, doubted: bool) -> None:
    assert brake.dropped(fees, 1000, Brake(max_drop=max_drop)) == doubted


def test_a_drop_is_told_with_both_numbers() -> None:
    said = brake.drop_in_words(99, 200, LIMITS)
    assert said == "the report showed 99 open fees, the last one 200: beyond brake.max_drop of 50 %"
