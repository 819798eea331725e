"""``make bench``: speed and memory at the size of a large campus, each beside a plain way of doing it in the same run.

python -m bench [NAME ...]      NAME: pacing peers files report books airflow; without one, all
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from bench.common import Row

#: Name -> module and function.
MEASUREMENTS = {
    "pacing": ("bench.pacing", "measure"),
    "peers": ("bench.pacing", "peers"),
    "files": ("bench.files", "measure"),
    "report": ("bench.report", "measure"),
    "books": ("bench.books", "measure"),
    "airflow": ("bench.airflow_cost", "measure"),
    "scale": ("bench.scale", "measure"),
}


def measurement(name: str) -> Callable[[], Iterator[Row]]:
    """Return the function that measures this."""
    module, function = MEASUREMENTS[name]
    return getattr(importlib.import_module(module), function)


def main() -> int:
    """Print one row a measurement: what, target, result, met or missed. Return 1 when one is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*MEASUREMENTS, []])
    names = parser.parse_args().names or list(MEASUREMENTS)
    logging.disable(logging.WARNING)
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f}\n\n"
        "| what | target | result | |\n| --- | --- | --- | --- |"
    )
    missed, began = 0, time.monotonic()
    for name in names:
        for row in measurement(name)():
            print(row.line(), flush=True)
            missed += row.verdict == "missed"
        print(f"{name}: {time.monotonic() - began:.0f} s since the begin", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
