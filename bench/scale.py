"""Several institutions at once on one machine and one PostgreSQL ledger, each reading at the full rate of its own Alma."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.books import postgres
from bench.common import Row
from bench.far_alma import far_alma
from bench.files import peak_mb

RATE, LATENCY, SECONDS = 10, 0.4, 25


def measure() -> Iterator[Row]:
    """One institution, then five: the share of each one's rate, and what a reading task takes of the machine."""
    with postgres() as fresh, far_alma() as far:
        # One far side for all: it is slow for each call, and strict about none.
        users = [user for user, _ in far.fees(RATE * SECONDS)]
        for count in (1, 5):
            far.begin(10_000, LATENCY)
            url = fresh(f"institutions_{count}")
            context = multiprocessing.get_context("spawn")
            with context.Pool(count) as pool:
                told = pool.starmap(_read, [(far.url, url, number, users) for number in range(count)], 1)
            of = f"{count} institution{'s' * (count > 1)} at {RATE}/s each"
            yield Row(f"{of}: share of the rate of the slowest", 0.97, min(share for share, _, _ in told))
            yield Row("a reading task's share of a core", None, sum(cpu for _, cpu, _ in told) / count)
            yield Row("its peak of memory", None, max(memory for _, _, memory in told), "MB")


class _Alma:
    """The other process as a reading process sees it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.began = self.ended = 0.0

    def begin(self, *_: Any) -> None:
        """Note the time; Alma itself counts for all."""
        self.began = time.monotonic()

    def seen(self) -> None:
        """Note the time."""
        self.ended = time.monotonic()


def _read(alma: str, ledger: str, number: int, users: list[str]) -> tuple[float, float, float]:
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
    from alma_hook import analytics, charges, fees, hook  # noqa: F401  # what a task imports is none of the rate's
    from bench.pacing import read

    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        before = resource.getrusage(resource.RUSAGE_SELF)
        far = _Alma(alma)
        read(far, RATE, LATENCY, users, Path(work), None, (ledger, f"INST_{number}"))  # type: ignore[arg-type]
        took = far.ended - far.began
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # The last call's answer is in that time. What the ledger's opening costs is in the CPU's.
    return len(users) / (took - LATENCY) / RATE, cpu / took, peak_mb()
