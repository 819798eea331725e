"""The brake: which lines of a plan are set aside until a person has looked at them.

A limit here never changes what is due, only whether it leaves unasked. It is meant for the day on
which everything looks right by itself and is wrong as a whole: a changed fine policy, a mapping
mistake, a report cut short, a ledger that has forgotten what was sent.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from alma_hook.campus import Brake
from alma_hook.ledger.batches import Line
from alma_hook.ledger.holds import Facts, facts
from alma_hook.money import amount

#: A report is compared with the last one only if that showed so many fees: of a handful, half is no news.
COMPARED_FROM = 100


@dataclass(frozen=True, slots=True)
class Part:
    """Lines that make one batch. ``broken``: the limits they are beyond, in words; none, and they may leave."""

    lines: tuple[Line, ...]
    broken: tuple[str, ...] = ()


def part(lines: Sequence[Line], approved: Set[Facts], limits: Brake, drop: str | None) -> list[Part]:
    """Part the lines of one kind into batches: each line in exactly one, in the order they came.

    Lines that a person has approved leave in a batch of their own, so that they break no limit again.
    Single lines beyond ``max_line`` are set aside by themselves; the others are then judged without
    them. With ``drop``, a report's sudden drop in words, everything not approved is set aside.
    """
    known: list[Line] = []
    fresh: list[Line] = []
    for line in lines:
        (known if approved and facts(line) in approved else fresh).append(line)
    if drop is None:
        groups = [
            [line for line in fresh if line.amount <= limits.max_line],
            [line for line in fresh if line.amount > limits.max_line],
        ]
    else:
        groups = [fresh]
    reasons = [drop] if drop else []
    parts = [Part(tuple(known))]
    parts += [Part(tuple(group), (*reasons, *broken(group, limits))) for group in groups]
    return [made for made in parts if made.lines]


def broken(lines: Sequence[Line], limits: Brake) -> list[str]:
    """Return every limit that these lines as one batch are beyond, with both values."""
    total = sum(line.amount for line in lines)
    largest = max((line.amount for line in lines), default=0)
    checks = (
        (len(lines), limits.max_lines, f"{len(lines)} lines, brake.max_lines is {limits.max_lines}"),
        (total, limits.max_total, f"total {amount(total)}, brake.max_total is {amount(limits.max_total)}"),
        (
            largest,
            limits.max_line,
            f"a line of {amount(largest)}, brake.max_line is {amount(limits.max_line)}",
        ),
    )
    return [text for value, limit, text in checks if value > limit]


def dropped(fees: int, last: int | None, limits: Brake) -> bool:
    """Whether a report shows suddenly fewer fees than the last accepted one."""
    return last is not None and last >= COMPARED_FROM and fees * 100 < last * (100 - limits.max_drop)


def drop_in_words(fees: int, last: int, limits: Brake) -> str:
    """Return in words why a run's report is doubted."""
    return f"the report showed {fees} open fees, the last one {last}: beyond brake.max_drop of {limits.max_drop} %"
