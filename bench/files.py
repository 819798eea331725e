"""A table of lines to the bytes of an SFS file, against a loop that formats line by line."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from datetime import date

from bench.common import Row, side_by_side


def measure(count: int = 1_000_000) -> Iterator[Row]:
    """The default layout by its declaration; the bytes must be the same."""
    yield from in_a_process(_measure, count)


def in_a_process(work: Callable[..., list[Row]], *values: object) -> list[Row]:
    """Run a measurement in a fresh process, so that its peak of memory is its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, values)


def peak_mb() -> float:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lines(count: int):
    """A frame of lines as the plan makes it."""
    import pandas as pd

    from alma_hook import charge_file

    return pd.DataFrame(
        {
            "fee_id": [str(10**15 + n) for n in range(count)],
            "kind": ["charges"] * count,
            "emplid": [f"{n:09d}" for n in range(count)],
            "item_type": ["300000000001"] * count,
            "amount": [100 + n % 9000 for n in range(count)],
            "reversal": ["N"] * count,
            "term": ["2267"] * count,
            "effective_date": ["2026-11-22"] * count,
            "due_date": [""] * count,
            "account_type": ["LIB"] * count,
            "reference": [f"ALMA{10**15 + n}" for n in range(count)],
            "description": ["Library fee"] * count,
        },
        columns=list(charge_file.COLUMNS),
    )


def _measure(count: int) -> list[Row]:
    from alma_hook import charge_file, layouts

    layout = layouts.load("default")
    frame = lines(count)
    total = int(frame["amount"].sum())
    control = charge_file.Control("charges", count, total, "LIB01", "CAMPS", "USD", date(2026, 11, 22))

    def ours() -> bytes:
        return charge_file.write(layout, control, frame)

    def loop() -> bytes:
        out = [f"H{count:010d}{total // 100:013d}.{total % 100:02d}LIB01USD11222026".ljust(124)]
        for r in frame.itertuples(index=False):
            out.append(
                f"D{r.emplid:<11}{r.item_type:<12}{r.amount // 100:013d}.{r.amount % 100:02d}{r.reversal}{r.term:<4}"
                f"11222026        {r.account_type:<3}{r.reference:<30}{r.description:<30}"
            )
        return "".join(line + "\n" for line in out).encode("ascii")

    content = ours()
    peak = peak_mb()
    if content != loop():
        raise SystemExit("the two writers disagree")
    del content
    ratio = side_by_side(ours, loop, rounds=3)
    return [
        Row(
            f"{count:,} lines to bytes: how many times as fast as a loop with an f-string a line", 3.0, ratio
        ),
        Row("its peak of memory, the table itself included", 1000, peak, "MB", most=True),
    ]
