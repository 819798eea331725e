"""What Airflow itself costs: runs with nothing to do beside bare DAGs of as many tasks, and the parsing of DAG files."""

from __future__ import annotations

import os
import runpy
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.common import Row, seconds

ROOT = Path(__file__).resolve().parents[1]
#: So many that one run which waited for the scheduler decides nothing.
ROUNDS = 6

_BARE = """
from airflow.sdk import DAG, BaseOperator


class Nothing(BaseOperator):
    def execute(self, context):
        self.log.info("nothing to do")


for name, count in {counts!r}.items():
    with DAG(f"bare_{{name}}", schedule=None, catchup=False) as dag:
        before = None
        for number in range(count):
            task = Nothing(task_id=f"task_{{number}}")
            if before is not None:
                before >> task
            before = task
    globals()[f"bare_{{name}}"] = dag
"""


def measure() -> Iterator[Row]:
    """Parse the DAG files; then run both DAGs and their bare twins in a real Airflow, one after the other."""
    yield from parsing()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as work:
        yield from runs(Path(work))


def parsing() -> Iterator[Row]:
    """The slowest DAG file in a process that has parsed one before, as the DAG processor's have."""
    os.environ["ALMA_HOOK_CAMPUS"] = str(ROOT / "include" / "campus.toml")
    files = sorted((ROOT / "dags").glob("*.py"))
    for file in files:
        runpy.run_path(str(file))
    took = {file.stem: statistics.median(seconds(lambda file=file: runpy.run_path(str(file))) for _ in range(5))
            for file in files}  # fmt: skip
    slowest = max(took, key=lambda name: took[name])
    yield Row(
        f"the slowest DAG file parsed in a warm parser ({slowest})",
        150,
        1000 * took[slowest],
        "ms",
        most=True,
    )
    del os.environ["ALMA_HOOK_CAMPUS"]


def runs(work: Path) -> Iterator[Row]:
    """Runs with nothing to do: every fee is equal on both sides, and no payment file lies there."""
    from simulator.demo import CALLS_PER_SECOND, Demo
    from simulator.serve import running

    with running(work / "campus", seed=1, students=50, fees=0) as (campus, facts):
        campus.limits.per_second = CALLS_PER_SECOND + 5
        story = Demo(work, campus, facts, "default")
        airflow = story.airflow
        dags = work / "dags"
        dags.mkdir()
        for name in ("alma_to_sis", "sis_to_alma"):
            (dags / f"{name}.py").symlink_to(ROOT / "dags" / f"{name}.py")
        airflow.env["AIRFLOW__CORE__DAGS_FOLDER"] = str(dags)
        airflow.prepare()
        try:
            airflow.start()
            counts = {name: ran(airflow, name)[1] for name in ("alma_to_sis", "sis_to_alma")}
            (dags / "bare.py").write_text(_BARE.format(counts=counts))
            took: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                for name in counts:
                    for dag_id in (name, f"bare_{name}"):
                        took.setdefault(dag_id, []).append(ran(airflow, dag_id)[0])
        finally:
            airflow.stop()
    for name, count in counts.items():
        ours, bare = statistics.median(took[name]), statistics.median(took[f"bare_{name}"])
        yield Row(f"{name} with nothing to do, {count} tasks that run", None, ours, "s")
        yield Row(f"a bare DAG of {count} tasks", None, bare, "s")
        yield Row(f"{name} by that", 1.3, ours / bare, "times", most=True)


def ran(airflow: Any, dag_id: str) -> tuple[float, int]:
    """Run a DAG; return how long it took by Airflow's own clock, and how many tasks ran."""
    deadline = time.monotonic() + 60
    while dag_id not in airflow.dag_ids() and time.monotonic() < deadline:
        time.sleep(0.5)
    run_id = airflow.trigger(dag_id)
    state = airflow.wait(dag_id, run_id, timeout=120)
    if state != "success":
        raise SystemExit(f"{dag_id}: {state}, {airflow.task_states(dag_id, run_id)}")

    told = airflow.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")
    first, last = (datetime.fromisoformat(told[name]) for name in ("start_date", "end_date"))
    done = sum(state == "success" for state in airflow.task_states(dag_id, run_id).values())
    return (last - first).total_seconds(), done
