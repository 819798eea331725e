"""What the measurements share: a row of the table, and two things timed side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``most``: the target is an upper limit. ``None``: no target, a figure beside the others."""

    what: str
    target: float | None
    result: float
    unit: str = ""
    most: bool = False

    @property
    def verdict(self) -> str:
        """``met`` or ``missed``."""
        if self.target is None:
            return ""
        met = self.result <= self.target if self.most else self.result >= self.target
        return "met" if met else "missed"

    def line(self) -> str:
        """The row as a line of a Markdown table."""
        sign = "<=" if self.most else ">="
        target = "" if self.target is None else f"{sign} {self.target:g} {self.unit}".rstrip()
        return (
            f"| {self.what} | {target} | {_text(self.result)} {self.unit}".rstrip() + f" | {self.verdict} |"
        )


def _text(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def seconds(work: Callable[[], object]) -> float:
    """How long a piece of work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def side_by_side(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 5) -> float:
    """How many times as long as ours theirs takes: the median of rounds in which both ran, one after the other.

    The machine is shared, so only what ran in the same seconds is compared.
    """
    ratios = []
    for number in range(rounds):
        pair = (ours, theirs) if number % 2 else (theirs, ours)
        took = {work: seconds(work) for work in pair}
        ratios.append(took[theirs] / took[ours])
    return statistics.median(ratios)
