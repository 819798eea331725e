"""Runs of their intervals, late ones, and days on which nothing ran, under the real scheduler."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from packaging.version import Version
from sqlalchemy import create_engine

from simulator.airflow_home import AirflowHome
from simulator.alma_records import User
from simulator.deaths import RETRY_AT_ONCE
from simulator.demo import ROOT, connections, settings_text
from simulator.serve import running
from tests.airflow.life import Life, until
from tests.airflow.postgres import Postgres

pytestmark = [pytest.mark.airflow, pytest.mark.cluster]

OUT, BACK = "alma_to_sis", "sis_to_alma"
PACIFIC, ZURICH = ZoneInfo("America/Los_Angeles"), ZoneInfo("Europe/Zurich")
# Between two looks for an export lies a minute, which a test can't wait.
# Nor can it wait for the minutes of the settings: where the file is, it has waited long enough soon.
POLICY = (
    RETRY_AT_ONCE
    + """
    if task.task_id == "wait_for_export":
        import pathlib

        task.poke_interval = 2
        if pathlib.Path({marker!r}).exists():
            task.timeout = 5
"""
)
#: The length of an interval, so that whenever this runs the export of the last one is still waited for.
HALF_A_DAY = 12 * 60


@pytest.fixture(scope="module")
def hurry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this file is, an export has been waited for long enough after seconds."""
    return tmp_path_factory.mktemp("hurry") / "now"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, hurry: Path) -> Iterator[Life]:
    """A campus by the SIS profile. Airflow makes the runs that are due, and its database is PostgreSQL."""
    work = tmp_path_factory.mktemp("missed")
    file = work / "campus.toml"
    with (
        Postgres("airflow") as metadata_server,
        running(work / "campus", students=40, fees=0) as (campus, facts),
    ):
        campus.limits.per_second = 1000
        settings = settings_text(facts, "default").replace(
            "[alma_to_sis]", f'[alma_to_sis]\nmethod = "sis_profile"\nexport_wait_minutes = {HALF_A_DAY}', 1
        )
        file.write_text(settings)
        ledger = f"sqlite:///{work / 'ledger.db'}"
        airflow = AirflowHome(
            work / "airflow",
            dags=ROOT / "dags",
            env={
                "ALMA_HOOK_CAMPUS": str(file),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata_server.url("psycopg2"),
            },
            connections=connections(facts, {"conn_type": "sqlite", "host": ledger[10:]}),
            schedules=True,
            policy=POLICY.format(marker=str(hurry)),
        )
        made = Life(campus, airflow, ledger, settings, file)
        made.open_ledger()
        with airflow:
            yield made


def export(life: Life, at: datetime, *users: User) -> str:
    """Alma's SIS profile leaves the users that changed, at a time."""
    name = f"USERS_{at:%Y%m%dT%H%M%S}.xml"
    ids = "".join(f"<user><primary_id>{user.primary_id}</primary_id></user>" for user in users)
    path = life.campus.path(life.campus.folders.sis_export) / name
    path.write_text(f"<users>{ids}</users>")
    os.utime(path, (at.timestamp(), at.timestamp()))
    return name


def new_fees(life: Life, *places: int) -> list[User]:
    """A fee for each of these students, who are returned."""
    users = [life.campus.students[place] for place in places]
    for user in users:
        life.campus.alma.add_fee(user, 1250)
    return users


def taken(life: Life) -> dict[str, str]:
    """By name, the run that took an export."""
    rows = life.rows("SELECT name, run_id FROM export_file WHERE institution = :i AND live = 1")
    return {row["name"]: row["run_id"] for row in rows}


def runs(life: Life, kind: str) -> dict[str, tuple[datetime, datetime]]:
    """The runs of a kind, and where their intervals begin and end."""
    answer = life.airflow.api("GET", f"/api/v2/dags/{OUT}/dagRuns?run_type={kind}&limit=100")
    return {
        run["dag_run_id"]: (
            datetime.fromisoformat(run["data_interval_start"]),
            datetime.fromisoformat(run["data_interval_end"]),
        )
        for run in answer["dag_runs"]
    }


def fill(life: Life, first: datetime, last: datetime, *more: str) -> dict[str, str]:
    """What a person types; return each run of the backfill with its state at the end."""
    conf = json.dumps({"method": "sis_profile"})
    life.airflow.airflow(
        "backfill", "create", "--dag-id", OUT, "--from-date", first.isoformat(), "--to-date", last.isoformat(),
        "--dag-run-conf", conf, "--max-active-runs", "1", *more,
    )  # fmt: skip
    states = {run_id: life.wait(OUT, run_id) for run_id in sorted(runs(life, "backfill"))}
    # Airflow makes one backfill of a DAG at a time, and notes its end a little later.
    path = f"/api/v2/backfills?dag_id={OUT}"
    until(
        lambda: all(each["completed_at"] for each in life.airflow.api("GET", path)["backfills"]), timeout=60
    )
    return states


def postings(life: Life) -> int:
    return len(life.campus.peoplesoft.postings)


def test_after_days_without_airflow_one_run_waits_for_the_late_export_and_takes_all_of_them(
    life: Life,
) -> None:
    users = new_fees(life, 0, 1, 2, 3)
    now = datetime.now(UTC)
    names = [
        export(life, now - timedelta(hours=hours), user)
        for hours, user in zip((70, 46, 25), users, strict=False)
    ]

    life.airflow.unpause(OUT)
    until(lambda: runs(life, "scheduled"), timeout=60)
    [(run_id, (start, end))] = runs(life, "scheduled").items()
    until(lambda: life.airflow.task_states(OUT, run_id)["wait_for_export"] == "up_for_reschedule", timeout=60)
    assert taken(life) == {}
    names.append(export(life, datetime.now(UTC), users[3]))

    assert life.wait(OUT, run_id) == "success"
    assert [at.astimezone(PACIFIC).hour for at in (start, end)] in ([8, 20], [20, 8])
    assert end <= now < end + timedelta(hours=13)
    assert taken(life) == dict.fromkeys(names, run_id)
    log = life.airflow.task_log(OUT, run_id, "choose_retrieval")
    assert (
        f"from {start.astimezone(PACIFIC):%Y-%m-%d %H:%M %Z} to {end.astimezone(PACIFIC):%Y-%m-%d %H:%M %Z}"
        in log
    )
    assert life.broken() == []
    assert postings(life) == 4


@pytest.mark.skipif(
    Version(metadata.version("apache-airflow")) < Version("3.1.1"),
    reason="the command line of Airflow 3.1.0 takes no configuration for a backfill",
)
@pytest.mark.parametrize(
    ("morning", "hours", "students"),
    [
        # Clocks are set forward on 8 March at two, and back on 1 November.
        (datetime(2026, 3, 7, 8, tzinfo=PACIFIC), [12, 11, 12], (4, 5, 6, 7)),
        (datetime(2026, 10, 31, 8, tzinfo=PACIFIC), [12, 13, 12], (14, 15, 16, 17)),
    ],
    ids=["spring", "autumn"],
)
def test_a_backfill_over_a_change_of_clocks_takes_each_interval_its_export_and_nothing_twice(
    life: Life, morning: datetime, hours: list[int], students: tuple[int, ...]
) -> None:
    users = new_fees(life, *students)
    next_day = morning + timedelta(days=1)
    starts = [morning, morning.replace(hour=20), next_day]
    ends = [*starts[1:], next_day.replace(hour=20)]
    earlier = set(runs(life, "backfill"))
    names = [
        export(life, end.astimezone(UTC) - timedelta(minutes=30), user)
        for end, user in zip(ends, users, strict=False)
    ]
    later = export(life, ends[-1].astimezone(UTC) + timedelta(minutes=30), users[3])
    before = postings(life)

    states = fill(life, starts[0], starts[-1])

    made = {run_id: of for run_id, of in runs(life, "backfill").items() if run_id not in earlier}
    assert sorted(made.values()) == [
        (a.astimezone(UTC), b.astimezone(UTC)) for a, b in zip(starts, ends, strict=True)
    ]
    assert [(end - start).total_seconds() / 3600 for start, end in sorted(made.values())] == hours
    assert set(states.values()) == {"success"}
    assert [made[taken(life)[name]][0] for name in names] == [start.astimezone(UTC) for start in starts]
    assert later not in taken(life)
    assert life.broken() != []  # the fourth fee, which no export of those days names
    assert postings(life) - before == 3

    again = fill(life, starts[0], starts[1], "--reprocess-behavior", "completed")
    assert set(again.values()) == {"success"}
    run_id, state = life.run(OUT)
    assert (state, taken(life)[later]) == ("success", run_id)
    assert "Started by hand" in life.airflow.task_log(OUT, run_id, "choose_retrieval")
    assert life.broken() == []
    assert postings(life) - before == 4


def test_a_backfill_by_what_shows_the_present_is_skipped_and_says_so(life: Life) -> None:
    start = datetime(2025, 11, 1, 20, tzinfo=PACIFIC)
    body = {
        "dag_id": OUT, "from_date": start.isoformat(), "to_date": start.isoformat(),
        "dag_run_conf": {"method": "all_users"},
    }  # fmt: skip
    life.airflow.api("POST", "/api/v2/backfills", body)
    made = {run_id: of for run_id, of in runs(life, "backfill").items() if of[0] == start}
    [(run_id, (_, end))] = made.items()

    assert life.wait(OUT, run_id) == "success"
    # And back again: thirteen hours.
    assert end - start == timedelta(hours=13)
    assert set(life.airflow.task_states(OUT, run_id).values()) == {"skipped"}
    assert "a backfill with the method sis_profile" in life.airflow.task_log(OUT, run_id, "choose_retrieval")


def test_what_alma_sftp_and_peoplesoft_kept_from_moving_for_days_moves_when_they_are_back(life: Life) -> None:
    life.students_pay(3)
    paid = [payment.reference for payment in life.campus.peoplesoft.payments.values()]
    export(life, datetime.now(UTC), *new_fees(life, 8, 9))
    faults = life.campus.faults
    faults.add_http("refuse", times=None, status=503)
    for dag_id, red in ((OUT, "read_fees"), (BACK, "post_payments")):
        run_id, state = life.run(dag_id)
        assert (state, life.airflow.task_states(dag_id, run_id)[red]) == ("failed", "failed")
    faults.clear()

    export(life, datetime.now(UTC), *new_fees(life, 10, 11))
    faults.add_sftp("connect", times=None, action="drop")
    for dag_id, red in ((OUT, "sis_profile"), (BACK, "find_payment_files")):
        run_id, state = life.run(dag_id)
        assert (state, life.airflow.task_states(dag_id, run_id)[red]) == ("failed", "failed")
    faults.clear()

    # Of PeopleSoft's folders alone.
    export(life, datetime.now(UTC), *new_fees(life, 18))
    for op in ("open", "write", "rename", "read", "list", "stat", "remove"):
        faults.add_sftp(op, path="/sfs/.*", action="drop", times=None)
    for dag_id, red in ((OUT, "read_fees"), (BACK, "find_payment_files")):
        run_id, state = life.run(dag_id)
        assert (state, life.airflow.task_states(dag_id, run_id)[red]) == ("failed", "failed")
    faults.clear()

    # PeopleSoft loads nothing meanwhile.
    for places in ((), (12, 13)):
        export(life, datetime.now(UTC), *new_fees(life, *places))
        assert life.run(OUT)[1] == "success"
    assert life.run(BACK)[1] == "success"

    assert len(life.inbound()) == 2
    assert len(paid) == 3
    assert life.broken() == []


def ask(life: Life, *statements: str) -> list[str]:
    """Run statements on Airflow's own database; return the first column of the last one's rows."""
    engine = create_engine(life.airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    with engine.begin() as connection:
        found = [connection.exec_driver_sql(statement) for statement in statements][-1]
        rows = [str(row[0]) for row in found] if found.returns_rows else []
    engine.dispose()
    return rows


def age(life: Life, days: int) -> None:
    """Let all that Airflow has scheduled so far have been that many days ago. A run's name holds its time."""

    def back(*columns: str) -> str:
        return ", ".join(f"{column} = {column} - interval '{days} days'" for column in columns)

    tables = ask(
        life,
        "SELECT r.table_name FROM information_schema.columns r JOIN information_schema.columns d "
        "ON d.table_schema = r.table_schema AND d.table_name = r.table_name AND d.column_name = 'dag_id' "
        "WHERE r.column_name = 'run_id' AND r.table_schema = 'public' AND r.table_name <> 'dag_run'",
    )
    of_runs = "SELECT run_id FROM dag_run WHERE run_type = 'scheduled'"
    ask(
        life,
        # The tables refer to each other by that name.
        "SET session_replication_role = replica",
        *(f"UPDATE {table} SET run_id = 'aged_' || run_id WHERE run_id IN ({of_runs})" for table in tables),
        "UPDATE dag_run SET run_id = 'aged_' || run_id, "
        + back("logical_date", "data_interval_start", "data_interval_end", "run_after")
        + " WHERE run_type = 'scheduled'",
        "UPDATE dag SET "
        + back(
            "next_dagrun", "next_dagrun_data_interval_start", "next_dagrun_data_interval_end", "next_dagrun_create_after",
        ),
    )  # fmt: skip


def scheduled(life: Life, dag_id: str) -> list[dict[str, str]]:
    path = f"/api/v2/dags/{dag_id}/dagRuns?run_type=scheduled&limit=100"
    return list(life.airflow.api("GET", path)["dag_runs"])


def test_an_airflow_that_stood_still_for_days_catches_up_and_does_nothing_twice(life: Life) -> None:
    """It had run before, and runs were due since. Airflow makes the one that was next when it stopped, and the newest."""
    life.airflow.unpause(BACK)
    until(
        lambda: (
            scheduled(life, BACK)
            and {run["state"] for run in scheduled(life, OUT) + scheduled(life, BACK)}
            <= {"success", "failed"}
        ),
        timeout=120,
    )
    life.airflow.stop()
    age(life, days=4)
    now = datetime.now(UTC)
    names = [
        export(life, now - timedelta(hours=hours), user)
        for hours, user in zip((70, 46, 25), new_fees(life, 20, 21, 22), strict=True)
    ]
    names.append(export(life, now, *new_fees(life, 23)))
    life.campus.load_inbound()
    life.campus.students_pay(1.0)
    life.campus.write_query_output()
    before = set(ask(life, "SELECT run_id FROM dag_run"))

    life.airflow.start()

    def new(dag_id: str) -> list[dict[str, str]]:
        return [run for run in scheduled(life, dag_id) if run["dag_run_id"] not in before]

    def newest(dag_id: str) -> bool:
        return any(
            datetime.fromisoformat(run["data_interval_end"]) > now - timedelta(hours=13)
            for run in new(dag_id)
        )

    until(lambda: newest(OUT) and newest(BACK), timeout=120)
    for dag_id in (OUT, BACK):
        for run in new(dag_id):
            assert life.wait(dag_id, run["dag_run_id"]) == "success"
    assert len(new(OUT)) <= 2
    assert set(names) <= set(taken(life))
    life.campus.load_inbound()
    assert life.run(BACK)[1] == "success"
    assert life.broken() == []


def test_zone_and_hours_are_the_campus_s_and_an_export_that_never_comes_turns_the_wait_red(
    life: Life, hurry: Path
) -> None:
    """Each hour at twenty past, by another zone's clocks; the other way at 5:40 in the morning."""
    life.airflow.stop()
    folder = life.campus.path(life.campus.folders.sis_export)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    for file in folder.iterdir():
        os.utime(file, (long_ago.timestamp(), long_ago.timestamp()))
    life.settings = (
        life.settings.replace(
            "[alma_to_sis]", 'timezone = "Europe/Zurich"\n[alma_to_sis]\nschedule = "20 * * * *"', 1
        )
        .replace("[sis_to_alma]", '[sis_to_alma]\nschedule = "40 5 * * *"', 1)
    )  # fmt: skip
    life.take_turn()
    hurry.touch()
    before = set(ask(life, "SELECT run_id FROM dag_run"))
    life.airflow.start()

    def of_settings(dag_id: str, length: timedelta) -> list[tuple[str, datetime, datetime]]:
        made = [
            (
                run["dag_run_id"],
                *(datetime.fromisoformat(run[f"data_interval_{end}"]) for end in ("start", "end")),
            )
            for run in scheduled(life, dag_id)
            if run["dag_run_id"] not in before
        ]
        return [(run_id, start, end) for run_id, start, end in made if end - start == length]

    until(lambda: of_settings(OUT, timedelta(hours=1)), timeout=120)
    run_id, start, _ = of_settings(OUT, timedelta(hours=1))[0]
    assert start.minute == 20
    assert life.wait(OUT, run_id) == "failed"
    states = life.airflow.task_states(OUT, run_id)
    assert (states["wait_for_export"], states["sis_profile"]) == ("failed", "upstream_failed")
    assert "AirflowSensorTimeout" in life.airflow.task_log(OUT, run_id, "wait_for_export")
    assert f"{start.astimezone(ZURICH):%Y-%m-%d %H:%M %Z}" in life.airflow.task_log(
        OUT, run_id, "choose_retrieval"
    )

    # Cleared once it has come, the same run takes it.
    posted = postings(life)
    name = export(life, datetime.now(UTC), *new_fees(life, 24))
    life.airflow.clear(OUT, run_id)
    assert life.wait(OUT, run_id) == "success"
    assert taken(life)[name] == run_id
    assert life.broken() == []
    assert postings(life) - posted == 1

    # The other way has run today, so its next run is tomorrow's.
    until(
        lambda: life.airflow.api("GET", f"/api/v2/dags/{BACK}")["timetable_summary"] == "40 5 * * *",
        timeout=120,
    )

    # A past interval of these hours, asked for over the API as Airflow's pages do.
    past = datetime(2026, 6, 3, 14, 20, tzinfo=ZURICH)
    name = export(life, past.astimezone(UTC) + timedelta(minutes=50), *new_fees(life, 25))
    body = {"dag_id": OUT, "from_date": past.isoformat(), "to_date": past.isoformat()}
    life.airflow.api("POST", "/api/v2/backfills", body)
    [run_id] = [run_id for run_id, (start, _) in runs(life, "backfill").items() if start == past]
    assert life.wait(OUT, run_id) == "success"
    assert taken(life)[name] == run_id
    assert life.broken() == []
    assert postings(life) - posted == 2
