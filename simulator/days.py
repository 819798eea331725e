"""``python -m simulator days``: a campus where days pass by themselves, for an Airflow elsewhere.

It hands over what that Airflow needs to know, ``campus.toml`` and ``connections.json``, and tells each day what both
sides' books show. What the DAGs did in between shows in them: nothing here calls Airflow.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulator.campus import Campus
from simulator.demo import CALLS_PER_SECOND, connections, settings_text
from simulator.serve import running, write_whole


def days(
    work: Path, *, hand_over: Path, ledger: Mapping[str, Any], minutes: float = 5, **options: Any
) -> None:
    """Let a day pass every ``minutes``, until SIGTERM or SIGINT.

    ``ledger`` is the ledger's connection in Airflow's form; the DAGs' schedules are set to every fifth minute.
    ``options`` are those of ``serve.running``.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with running(work, **options) as (campus, facts):
        campus.limits.per_second = CALLS_PER_SECOND + 5
        write_whole(hand_over / "campus.toml", settings_text(facts, "default", schedule="*/5 * * * *"))
        write_whole(hand_over / "connections.json", json.dumps(connections(facts, ledger)))
        print("SIMULATOR: not Alma, not PeopleSoft. Its people and fees are generated.")
        print(
            f"  {len(campus.students)} students, {len(campus.alma.fees)} fees; a day takes {minutes:g} minutes"
        )
        print(
            f"  {len(campus.oddities.all)} odd fees may differ for good: of staff, disputed, a credit, of an unknown type"
        )
        day = 0
        print(f"day {day}: {_books(campus)}", flush=True)
        while not ended.wait(minutes * 60):
            day += 1
            # Before anything new happens: whatever differs now, nobody has made equal.
            print(f"day {day}: {_loaded(campus)}; {_books(campus)}", flush=True)
            print(f"day {day}: {_happens(campus)}", flush=True)
    print("simulator ended", flush=True)


def _loaded(campus: Campus) -> str:
    loads = campus.load_inbound()
    lines = sum(load.posted for load in loads)
    rejects = sum(len(load.rejects) for load in loads)
    return f"PeopleSoft loaded {len(loads)} files, {lines} lines, {rejects} rejected"


def _happens(campus: Campus) -> str:
    """Students pay, the library goes on, and both sides leave their reports of it."""
    paid = campus.students_pay(0.1)
    desk, waived = campus.desk_payments(2), campus.waives(2)
    fees = len(campus.new_fees(10))
    campus.write_query_output()
    campus.refresh_analytics()
    return f"students pay {paid} fees in PeopleSoft and {desk} at the library's desk; {waived} are waived, {fees} new"


def _books(campus: Campus) -> str:
    books = campus.books()
    return (
        f"open in Alma {books.alma_cents / 100:,.2f}, in PeopleSoft {books.peoplesoft_cents / 100:,.2f}; "
        f"{len(books.unequal)} of {len(books.fees)} fees differ"
    )
