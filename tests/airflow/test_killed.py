"""The real DAGs under the real scheduler, killed wherever money is on its way; the far sides' books are the witness.

Each test goes on with the campus as the one before left it, and ends with its books equal.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import metadata

import psutil
import pytest
from packaging.version import Version
from sqlalchemy import create_engine, text

from simulator.airflow_home import AirflowHome, alive
from simulator.deaths import (
    ARCHIVED,
    ARCHIVING,
    BEFORE_ARCHIVING,
    BEFORE_POST,
    BEFORE_RENAME,
    BEFORE_UPLOAD,
    POSTED,
    POSTED_LATE,
    READING_ACCOUNT,
    READING_BACK,
    READING_FEES,
    RENAMED,
    RENAMED_LATE,
    RETRY_AT_ONCE,
    UPLOADED,
    Moment,
    uploading,
)
from simulator.demo import ROOT, connections, settings_text
from simulator.serve import running
from tests.airflow.life import NOTICE_SOON, Life, one_call_at_a_time, until
from tests.airflow.postgres import Postgres

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.cluster,
    pytest.mark.skipif(
        Version(metadata.version("apache-airflow")) < Version("3.1.1"),
        reason="Airflow 3.1.0 does not try a killed task again",
    ),
]

OUT, BACK = "alma_to_sis", "sis_to_alma"
# As shipped a DAG has one run at a time, but for backfills. Here nothing but the ledger keeps runs apart.
POLICY = (
    RETRY_AT_ONCE
    + """

def dag_policy(dag):
    dag.max_active_runs = 4
"""
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Of this module's own, because it is going to crash."""
    with Postgres("ledger") as server:
        yield server


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[tuple[Life, Life]]:
    """Two campuses on one Airflow: the first has its ledger on SQLite, the second on PostgreSQL.

    Airflow's own database is PostgreSQL: on SQLite it refuses requests while others write.
    """
    work = tmp_path_factory.mktemp("killed")
    file = work / "campus.toml"
    with (
        Postgres("airflow") as metadata_server,
        running(work / "first", seed=1, students=80, fees=60) as (first, facts),
        # An institution of its own: the mark of its ledger lies in the same Airflow's variables.
        running(work / "second", seed=2, students=80, fees=60, institution="01SECOND_INST") as (
            second,
            others,
        ),
    ):
        sqlite = f"sqlite:///{work / 'ledger.db'}"
        own = {f"{name}_2": fields for name, fields in connections(others, postgres.connection()).items()}
        texts = [
            one_call_at_a_time(settings_text(facts, "default")),
            one_call_at_a_time(settings_text(others, "default"))
            + '[connections]\nalma = "alma_default_2"\nledger = "alma_ledger_2"\nsfs = "sfs_sftp_2"\n',
        ]
        file.write_text(texts[0])
        airflow = AirflowHome(
            work / "airflow",
            dags=ROOT / "dags",
            env={
                "ALMA_HOOK_CAMPUS": str(file),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata_server.url("psycopg2"),
                **NOTICE_SOON,
            },
            connections={**connections(facts, {"conn_type": "sqlite", "host": sqlite[10:]}), **own},
            parallelism=6,
            policy=POLICY,
        )
        for campus in (first, second):
            campus.limits.per_second = 1000
        both = (
            Life(first, airflow, sqlite, texts[0], file),
            Life(second, airflow, postgres.url("psycopg"), texts[1], file),
        )
        for each in both:
            each.open_ledger()
        with airflow:
            yield both


@pytest.fixture
def life(lives: tuple[Life, Life]) -> Life:
    lives[0].take_turn()
    return lives[0]


@pytest.fixture
def on_postgres(lives: tuple[Life, Life]) -> Life:
    lives[1].take_turn()
    return lives[1]


# -- the task's process, at each action that money depends on --------------------------------------------------


def test_while_it_reads_and_until_half_of_the_file_is_there(life: Life) -> None:
    deaths = life.deaths(replace(READING_FEES, skip=5), ARCHIVING, BEFORE_UPLOAD, uploading(3500))

    run_id, state = life.run(OUT)

    assert state == "success"
    assert [death.seen for death in deaths.happened] == [
        [],
        ["charges written"],
        ["charges uploading"],
        ["charges uploading"],
    ]
    assert life.tries(OUT, run_id, "read_fees") == 2
    assert life.tries(OUT, run_id, "upload_sfs_files") == 4
    assert life.parts() == [3500]
    assert life.inbound()["alma_charges_000001.dat"] == 125 * (1 + 56)
    assert life.broken() == []


def test_from_the_upload_to_the_rename(life: Life) -> None:
    life.days_work(fees=8, waives=6)
    deaths = life.deaths(UPLOADED, READING_BACK, BEFORE_RENAME)

    _, state = life.run(OUT)

    assert state == "success"
    assert [death.seen for death in deaths.happened] == [
        ["charges uploading", "credits written"],
        ["charges uploading, acknowledged", "credits written"],
        ["charges renaming, acknowledged", "credits written"],
    ]
    assert life.broken() == []


def test_after_the_rename_with_peoplesoft_taking_the_file_at_once(life: Life) -> None:
    life.days_work(fees=8, waives=6)
    life.campus.faults.move_on_arrival = True
    # The first one's rename is still to be answered when the second death is waited for.
    deaths = life.deaths(RENAMED_LATE, replace(RENAMED, skip=1))

    _, state = life.run(OUT)

    life.campus.faults.move_on_arrival = False
    assert state == "success"
    assert [death.seen for death in deaths.happened] == [
        ["charges renaming, acknowledged", "credits written"],
        ["credits renaming, acknowledged"],
    ]
    assert life.broken() == []


def test_what_cannot_be_told_waits_for_a_person(life: Life) -> None:
    """Both uploads are gone when the task comes back: one was lost, the other was taken and loaded."""
    life.days_work(fees=8, waives=6)
    inbound = life.campus.path(life.campus.folders.inbound)
    for leftover in inbound.iterdir():
        leftover.unlink()

    def strike(moment: Moment) -> None:
        life.airflow.kill_task(moment.task_id)
        [part] = inbound.iterdir()
        if "charges" in part.name:
            part.unlink()
        else:
            part.rename(inbound / f"{part.name.partition('.dat')[0]}.dat")
            life.campus.load_inbound()

    life.deaths(READING_BACK, READING_BACK, strike=strike)

    run_id, state = life.run(OUT)

    assert state == "failed"
    assert life.airflow.task_states(OUT, run_id)["upload_sfs_files"] == "failed"
    assert life.open() == ["charges unconfirmed, acknowledged", "credits unconfirmed, acknowledged"]
    assert "mark-delivered" in life.airflow.task_log(OUT, run_id, "upload_sfs_files")
    charges, credits = (
        row["batch_id"]
        for row in life.rows("SELECT batch_id FROM batch WHERE state = 'unconfirmed' ORDER BY batch_id")
    )
    life.by_hand("mark-delivered", credits)
    life.time_passes(hours=4)
    life.by_hand("mark-not-delivered", charges)
    # Cleared, the task finds nothing to upload; the next run works the lost charges out anew.
    life.airflow.clear(OUT, run_id)
    assert life.wait(OUT, run_id) == "success"
    assert life.inbound() == {}
    assert life.run(OUT)[1] == "success"
    assert life.broken() == []


def test_at_four_payments_until_the_run_is_given_up(life: Life) -> None:
    """The first of them is the first that this institution ever posts."""
    life.students_pay(8)
    deaths = life.deaths(
        POSTED, replace(BEFORE_POST, skip=1), replace(POSTED_LATE, skip=1), replace(READING_ACCOUNT, skip=1)
    )

    run_id, state = life.run(BACK)

    assert state == "failed"
    assert life.tries(BACK, run_id, "post_payments") == 4
    assert [death.seen for death in deaths.happened] == [
        ["1 posting"],
        ["2 posting"],
        ["3 posting"],
        ["3 posting"],
    ]
    # Within the quiet period the retries left them alone, and said so.
    assert life.listed() == {"outcome of the posting unclear": 3}

    # The next run waits until the dead one's lease has run out.
    run_id = life.start(BACK)
    until(lambda: "works in this direction" in life.airflow.task_log(BACK, run_id, "find_payment_files"))
    life.time_passes(minutes=11)
    deaths = life.deaths(BEFORE_ARCHIVING, ARCHIVED)
    assert life.wait(BACK, run_id) == "success"
    assert [death.moment for death in deaths.happened] == [BEFORE_ARCHIVING, ARCHIVED]
    assert life.airflow.xcom(BACK, run_id, "post_payments")["found_posted"] == 2
    assert life.listed() == {}
    assert life.broken() == []


# -- who looks after the task -----------------------------------------------------------------------------------


def test_a_task_outlives_its_supervisor_and_wakes_after_its_own_retry(life: Life) -> None:
    """Airflow starts both tasks again while their first attempts still stand in the middle of their work."""
    life.students_pay(4)
    life.days_work(fees=8)
    asleep: list[psutil.Process] = []

    def strike(moment: Moment) -> None:
        task = life.airflow.task_process(moment.task_id)
        supervisor = task.parent()
        supervisor.kill()
        psutil.wait_procs([supervisor], timeout=10)
        task.suspend()
        asleep.append(task)

    life.deaths(RENAMED, strike=strike)
    life.deaths(replace(POSTED, skip=1), strike=strike)
    runs = {dag_id: life.start(dag_id) for dag_id in (OUT, BACK)}
    states = {dag_id: life.wait(dag_id, run_id) for dag_id, run_id in runs.items()}

    assert states == {OUT: "success", BACK: "success"}
    assert life.tries(OUT, runs[OUT], "upload_sfs_files") == 2
    assert life.tries(BACK, runs[BACK], "post_payments") == 2
    assert life.open() == ["1 posting"]
    before = life.rows("SELECT * FROM event")
    assert len(asleep) == 2
    for task in asleep:
        task.resume()
    psutil.wait_procs(asleep, timeout=20)
    assert [task for task in asleep if alive(task)] == []
    # They had their answers, and were not let write.
    assert life.rows("SELECT * FROM event") == before
    life.time_passes(minutes=11)
    assert life.run(BACK)[1] == "success"
    assert life.broken() == []


def test_the_scheduler_is_lost_with_its_machine_and_then_alone(life: Life) -> None:
    """First with its workers and their tasks, in the middle of both directions; then they outlive it."""
    life.students_pay(4)
    life.days_work(fees=8)
    outlived: list[bool] = []

    def strike(moment: Moment) -> None:
        task = life.airflow.task_process(moment.task_id)
        life.airflow.kill_process("scheduler", alone=moment is UPLOADED)
        outlived.append(alive(task))
        life.airflow.start_process("scheduler")

    posting = life.deaths(replace(POSTED, skip=1), strike=strike)
    runs = {dag_id: life.start(dag_id) for dag_id in (OUT, BACK)}
    until(lambda: posting.happened)
    uploads = life.deaths(UPLOADED, strike=strike)
    states = {dag_id: life.wait(dag_id, run_id) for dag_id, run_id in runs.items()}

    assert states == {OUT: "success", BACK: "success"}
    assert [death.seen for death in uploads.happened] == [["charges uploading", "1 posting"]]
    assert outlived == [False, True]
    assert life.tries(BACK, runs[BACK], "post_payments") == 2
    life.time_passes(minutes=11)
    assert life.run(BACK)[1] == "success"
    assert life.broken() == []


# -- the ledger's database -------------------------------------------------------------------------------------

HOLDS_THE_LOCK = """
import sqlite3, sys
ledger = sqlite3.connect(sys.argv[1], isolation_level=None)
ledger.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_holds_the_sqlite_ledger_for_a_while(life: Life) -> None:
    life.students_pay(4)

    def strike(moment: Moment) -> None:
        other = subprocess.Popen(
            [sys.executable, "-c", HOLDS_THE_LOCK, life.ledger_url.removeprefix("sqlite:///")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        threading.Timer(4, other.communicate).start()

    deaths = life.deaths(POSTED, strike=strike)

    run_id, state = life.run(BACK)

    assert state == "success"
    assert [death.seen for death in deaths.happened] == [["1 posting"]]
    assert life.tries(BACK, run_id, "post_payments") == 1
    assert life.broken() == []


def test_postgresql_crashes_in_the_middle_of_an_upload(on_postgres: Life, postgres: Postgres) -> None:
    life = on_postgres
    deaths = life.deaths(UPLOADED, strike=lambda _: postgres.crash())

    run_id, state = life.run(OUT)

    assert state == "success"
    assert [death.seen for death in deaths.happened] == [["charges uploading"]]
    # No transaction was open, and the next one connects anew.
    assert life.tries(OUT, run_id, "upload_sfs_files") == 1
    assert life.broken() == []


def test_alma_has_answered_and_the_commit_never_comes(on_postgres: Life, postgres: Postgres) -> None:
    """A foreign transaction holds the task up with its answer in hand. There it is killed; then the database crashes."""
    life = on_postgres
    life.students_pay(8)
    waiting_for_the_lock: list[threading.Thread] = []

    def strike(moment: Moment) -> None:
        foreign = create_engine(life.ledger_url).connect()
        foreign.execute(text("UPDATE institution SET writes = writes"))

        def when_it_waits() -> None:
            waits = text("SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            until(lambda: foreign.execute(waits).scalar())
            if len(waiting_for_the_lock) == 1:
                life.airflow.kill_task(moment.task_id)
            else:
                postgres.crash()
            foreign.invalidate()
            foreign.engine.dispose()

        waiting_for_the_lock.append(threading.Thread(target=when_it_waits))
        waiting_for_the_lock[-1].start()

    life.deaths(replace(POSTED, skip=2), replace(POSTED, skip=1), strike=strike)
    _, state = life.run(BACK)

    for thread in waiting_for_the_lock:
        thread.join(10)
    assert (state, len(waiting_for_the_lock)) == ("success", 2)
    assert life.open() == ["2 posting"]
    life.time_passes(minutes=11)
    run_id, _ = life.run(BACK)
    assert life.airflow.xcom(BACK, run_id, "post_payments")["found_posted"] == 2
    assert life.broken() == []


# -- all at once ------------------------------------------------------------------------------------------------


def test_runs_of_both_directions_and_a_backfill_at_the_same_moment(on_postgres: Life) -> None:
    """Airflow's own limit of runs is lifted, see POLICY: only the ledger's leases keep these five apart."""
    life = on_postgres
    life.students_pay(20)
    life.days_work(fees=20, waives=10)
    gate = threading.Event()

    def meet() -> bool:
        """Nobody does anything outside before all five are at work."""
        if not gate.is_set():
            running = "/api/v2/dags/~/dagRuns?state=running"
            until(lambda: life.airflow.api("GET", running)["total_entries"] == 5)
            gate.set()
        return True

    life.campus.faults.add_http("meanwhile_before", path="operation/test", times=None, meanwhile=meet)
    life.campus.faults.add_sftp("list", action="meanwhile", times=None, meanwhile=meet)
    now = datetime.now(UTC)

    filled = life.airflow.backfill(OUT, now - timedelta(hours=37), now - timedelta(hours=13))
    runs = [(dag_id, life.start(dag_id)) for dag_id in (BACK, BACK, OUT)]
    runs += [(OUT, run_id) for run_id in filled]
    states = [life.wait_in_line(dag_id, run_id) for dag_id, run_id in runs]

    assert len(filled) == 2
    assert states == ["success"] * 5
    assert gate.is_set()
    # What one run had to leave to the next.
    for dag_id in (OUT, BACK):
        assert life.run(dag_id)[1] == "success"
    assert life.broken() == []
