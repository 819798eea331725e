from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from simulator.airflow_home import AirflowHomeError, alive

pytestmark = [pytest.mark.airflow, pytest.mark.cluster]

PLUS_ONE = """
    from airflow.sdk import BaseHook, dag, task

    @dag(schedule="@daily")
    def plus_one():
        @task
        def given(dag_run=None):
            print("a line for the log")
            return dag_run.conf["number"]

        @task
        def added(number):
            return number + 1

        @task
        def connected():
            return BaseHook.get_connection("from_environment").host

        added(given()) >> connected()

    plus_one()
"""

FAILS = """
    from airflow.sdk import dag, task

    @dag(schedule=None)
    def fails():
        @task
        def broken():
            raise ValueError("as it should")

        broken()

    fails()
"""

LONG = """
    import time
    from airflow.sdk import dag, task

    @dag(schedule=None)
    def long():
        @task
        def working():
            print("at work", flush=True)
            time.sleep(600)

        working()

    long()
"""

PARENT = """
    import sys, time
    from pathlib import Path
    from simulator.airflow_home import AirflowHome

    work = Path(sys.argv[1])
    with AirflowHome(work / "home", dags=work / "dags") as home:
        run_id = home.trigger("long")
        while "at work" not in home.task_log("long", run_id, "working"):
            time.sleep(0.1)
        print(home.pid("scheduler"), flush=True)
        time.sleep(600)
"""


def test_a_run_goes_through_and_can_be_looked_into(airflow_home, write_dag):
    write_dag("plus_one", PLUS_ONE)

    run_id = airflow_home.trigger("plus_one", {"number": 4})

    assert airflow_home.wait("plus_one", run_id, timeout=90) == "success"
    states = airflow_home.task_states("plus_one", run_id)
    assert states == {"given": "success", "added": "success", "connected": "success"}
    assert airflow_home.xcom("plus_one", run_id, "added") == 5
    assert airflow_home.xcom("plus_one", run_id, "added", "no_such_key") is None
    assert airflow_home.xcom("plus_one", run_id, "connected") == "127.0.0.1"
    assert "a line for the log" in airflow_home.task_log("plus_one", run_id, "given")


def test_a_schedule_starts_nothing_by_itself(airflow_home, write_dag):
    write_dag("plus_one", PLUS_ONE)
    run_id = airflow_home.trigger("plus_one", {"number": 1})
    airflow_home.wait("plus_one", run_id, timeout=90)

    runs = airflow_home.api("GET", "/api/v2/dags/plus_one/dagRuns?run_type=scheduled")

    assert runs["total_entries"] == 0


def test_a_failed_run_is_told_with_its_reason(airflow_home, write_dag):
    write_dag("fails", FAILS)

    run_id = airflow_home.trigger("fails")

    assert airflow_home.wait("fails", run_id, timeout=90) == "failed"
    assert airflow_home.task_states("fails", run_id) == {"broken": "failed"}
    assert "as it should" in airflow_home.task_log("fails", run_id, "broken")


def test_a_dag_file_that_cannot_be_read_is_named(airflow_home, write_dag, dags_folder):
    write_dag("unreadable", "from airflow.sdk import dag\nraise RuntimeError('no settings here')")
    try:
        with pytest.raises(AirflowHomeError, match="no settings here"):
            airflow_home.trigger("unreadable", timeout=60)
    finally:
        (dags_folder / "unreadable.py").unlink()


def test_sigterm_to_the_parent_leaves_nothing_running(tmp_path):
    """Not even a task in the middle of its work whose scheduler was killed before."""
    write = tmp_path / "dags" / "long.py"
    write.parent.mkdir()
    write.write_text(textwrap.dedent(LONG))
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        scheduler = psutil.Process(int(parent.stdout.readline()))
        running = [scheduler, *psutil.Process(parent.pid).children(recursive=True)]
        assert len(running) > 4
        scheduler.kill()
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 128 + signal.SIGTERM
    assert [process for process in running if alive(process)] == []
