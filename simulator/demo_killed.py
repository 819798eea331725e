"""``make demo KILL=1``: the round trip with its tasks killed in the middle of it, told line by line.

The processes that run the package's tasks die by SIGKILL when the far sides see them act. Airflow tries again
by itself; what it may and may not do then is the ledger's to say.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator.campus import Campus
from simulator.deaths import (
    ARCHIVED,
    BEFORE_ARCHIVING,
    BEFORE_POST,
    BEFORE_RENAME,
    POSTED,
    READING_BACK,
    RENAMED,
    RETRY_AT_ONCE,
    UPLOADED,
    Deaths,
    Moment,
    uploading,
)
from simulator.demo import Demo, by_hand, say

_OPEN = """
SELECT 'batch ' || batch_id || ' (' || kind || '): ' || state
       || CASE WHEN acknowledged_at IS NULL THEN '' ELSE ', acknowledged' END
  FROM batch WHERE state NOT IN ('delivered', 'cancelled')
UNION ALL
SELECT 'payment ' || payment_no || ': ' || state FROM payment WHERE state IN ('posting', 'unknown')
UNION ALL
SELECT 'payment file ' || name || ': ' || state FROM payment_file WHERE state = 'taken'
"""
_SINCE = """
SELECT subject, what, detail FROM event
 WHERE event_id > ? AND (subject LIKE 'batch %' OR subject IN (SELECT 'payment ' || payment_no FROM payment
       WHERE state IN ('posting', 'unknown') OR attempts > 1 OR payment_key IN (SELECT payment_key FROM exception_item)))
 ORDER BY event_id
"""
_MARKS = {
    "payment": ("marked_at",),
    "lease": ("expires_at",),
    "batch": ("changed_at", "acknowledged_at", "uploaded_at"),
}


class KilledDemo(Demo):
    """The same campus and Airflow; every part of its story has somebody die."""

    def __init__(self, work: Path, campus: Campus, facts: dict[str, Any], layout: str) -> None:
        super().__init__(work, campus, facts, layout, policy=RETRY_AT_ONCE)

    def tell(self) -> None:
        """Kill at every step, and look at the books."""
        campus = self.campus
        half = 125 * len(campus.alma.fees) // 2  # a line has 124 columns
        say(
            "Fees go out. The task dies with half of the file uploaded, and again before it knows of the whole"
        )
        self.dying("alma_to_sis", uploading(half), UPLOADED)
        self.loaded()

        say(
            "40 new fees, 20 waived. It dies before the rename, then after it, when PeopleSoft has the file already"
        )
        campus.new_fees(40)
        campus.waives(20)
        campus.refresh_analytics()
        campus.faults.move_on_arrival = True
        self.dying("alma_to_sis", BEFORE_RENAME, RENAMED)
        campus.faults.move_on_arrival = False

        say(
            "50 payments come back. It dies when Alma has applied one and not answered, and before one reaches Alma; "
            "then\nbefore their file is archived, and after"
        )
        campus.students_pay(50 / len(campus.peoplesoft.open_items()))
        campus.write_query_output()
        self.dying(
            "sis_to_alma", replace(POSTED, skip=9), replace(BEFORE_POST, skip=14), BEFORE_ARCHIVING, ARCHIVED
        )

        say(
            "Their quiet period passes (the marks in the ledger are moved back 11 minutes). Alma is asked about both"
        )
        self.time_passes("-11 minutes")
        self.dying("sis_to_alma")

        say(
            "20 new fees. It dies while it reads its upload back, which somebody then removes: only a person can tell"
        )
        campus.new_fees(20)
        campus.refresh_analytics()
        self.dying("alma_to_sis", READING_BACK, then=self._lose_the_upload, ends="failed")
        self._ask_a_person()
        self.run("alma_to_sis", {"method": "analytics_report"})
        self.loaded()

        say("The same again at once: nothing may be sent and nothing posted")
        self.again_at_once()
        self._count_anew()

    def dying(
        self,
        dag_id: str,
        *moments: Moment,
        then: Callable[[], None] = lambda: None,
        ends: str = "success",
    ) -> None:
        """Run a DAG with deaths at these moments, and tell what its retries did. ``then`` happens after each."""
        before = self._ask("SELECT COALESCE(MAX(event_id), '') FROM event")[0][0]
        inbound = self.campus.path(self.campus.folders.inbound)
        leftovers = set(inbound.iterdir())

        def strike(moment: Moment) -> None:
            pid = self.airflow.kill_task(moment.task_id)
            print(f"  KILLED process {pid} of {moment.task_id}: {moment.told}")
            for (text,) in self._ask(_OPEN):
                print(f"    ledger: {text}")
            for file in sorted(set(inbound.iterdir()) - leftovers):
                print(f"    at PeopleSoft's: {file.name}, {file.stat().st_size:,} bytes")
            then()

        deaths = Deaths(self.airflow, self.campus.faults, strike=strike)
        deaths.await_(*moments)
        self.run(dag_id, ends=ends)
        if [death.moment for death in deaths.happened] != list(moments):
            self.told.failed.append(f"{dag_id} was not killed as it should have been")
        courses: dict[str, list[str]] = {}
        for subject, what, detail in self._ask(_SINCE, before):
            courses.setdefault(subject, []).append(detail if what == "listed" else what)
        for subject, course in courses.items():
            print(f"    {subject}: {', '.join(course)}")
        if dag_id == "sis_to_alma":
            for state, count in self._ask(
                "SELECT state, COUNT(*) FROM payment GROUP BY state ORDER BY state DESC"
            ):
                print(f"    payments {state}: {count}")

    def time_passes(self, span: str) -> None:
        """Move the ledger's marks back: for rules that compare them with the clock, the same as waiting."""
        with sqlite3.connect(self.ledger) as ledger:
            for table, columns in _MARKS.items():
                for column in columns:
                    ledger.execute(
                        f"UPDATE {table} SET {column} = strftime('%Y-%m-%dT%H:%M:%fZ', {column}, ?)",  # noqa: S608
                        (span,),
                    )
        ledger.close()

    def _lose_the_upload(self) -> None:
        [(name,)] = self._ask("SELECT temporary FROM batch WHERE state = 'uploading'")
        (self.campus.path(self.campus.folders.inbound) / name).unlink()
        print(f"  somebody removes {name}")

    def _ask_a_person(self) -> None:
        [(batch_id,)] = self._ask("SELECT batch_id FROM batch WHERE state = 'unconfirmed'")
        print("  The business office says that the file was never loaded; four hours pass in the ledger.")
        self.time_passes("-4 hours")
        said = by_hand(
            "mark-not-delivered", batch_id, settings=self.settings, ledger=f"sqlite:///{self.ledger}"
        )
        print(f"  $ python -m alma_hook mark-not-delivered {batch_id}\n  {said.strip()}", flush=True)

    def _count_anew(self) -> None:
        """A killed attempt tells nobody what it did, so what was sent is counted in the ledger."""
        for name, sql in (
            ("charges", "SELECT COUNT(*), SUM(amount) FROM line WHERE state = 'sent' AND kind = 'charge'"),
            ("credits", "SELECT COUNT(*), SUM(amount) FROM line WHERE state = 'sent' AND kind = 'credit'"),
            ("payments", "SELECT COUNT(*), SUM(posted) FROM payment WHERE state = 'posted'"),
        ):
            [(self.told.lines[name], self.told.cents[name])] = self._ask(sql)

    def _ask(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        ledger = sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)
        try:
            return ledger.execute(sql, values).fetchall()
        finally:
            ledger.close()
