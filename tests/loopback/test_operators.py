"""The DAGs' tasks one after another over real HTTP, real SFTP and a real ledger, as a worker runs them."""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRunType
from airflow.sdk.execution_time import task_runner
from sqlalchemy import create_engine, make_url

from alma_hook import __main__ as command_line
from alma_hook.airflow_names import AirflowFailException, AirflowSkipException
from alma_hook.connections import ledger_url, outside_of_tasks
from alma_hook.errors import LeaseTaken, Retriable, SettingsError
from alma_hook.ledger import Ledger, alerts, batches, holds, instant, institutions
from alma_hook.money import amount
from alma_hook.operators import approval
from simulator.alma_api import FULL_KEY
from simulator.alma_http import AlmaServer
from simulator.campus import Campus
from simulator.sftp import SftpServer
from tests.airflow_versions import DagBag
from tests.bridge import SETTINGS
from tests.loopback.conftest import Connect, Recorder, Supervisor, sftp_fields

DAGS = Path(__file__).resolve().parents[2] / "dags"
RETRIEVALS = {"analytics_report", "sis_profile", "open_fees", "all_users"}


@dataclass
class Worker:
    """Runs DAGs task by task on connections by environment."""

    far: Campus
    settings: Path
    url: str
    runs: int = 0
    #: Of the last run: what its report shows, and the buttons of its tasks.
    shown: str = ""
    links: dict[str, dict[str, str]] = field(default_factory=dict)

    def ledger(self) -> Ledger:
        return Ledger(self.url, "01CAMPUS_INST", run_id="setup")

    def open_ledger(self) -> None:
        ledger = self.ledger()
        ledger.migrate()
        with ledger.write() as tx:
            institutions.open_clean(tx, "the bursar")
        ledger.close()

    def sql(self, statement: str) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def run(
        self, dag_id: str, upto: str = "", kind: str = "manual", end: datetime | None = None, **params: Any
    ) -> dict[str, Any]:
        """One run: what each task returned, by task id. ``upto``: the last task to run, ``end``: its interval's."""
        self.runs += 1
        bag = DagBag(str(DAGS))
        assert bag.import_errors == {}
        dag = bag.dags[dag_id]
        returned: dict[str, Any] = {}
        skipped: set[str] = set()
        for task in dag.topological_sort():
            if task.task_id in skipped or task.trigger_rule == "one_failed":
                continue
            context: Any = {
                "ti": SimpleNamespace(
                    dag_id=dag_id,
                    run_id=f"manual {self.runs}",
                    task_id=task.task_id,
                    get_dr_count=lambda **_: 0,
                ),
                "params": {**{name: dag.params[name] for name in dag.params if name not in params}, **params},
                "data_interval_start": None if end is None else end - timedelta(hours=12),
                "data_interval_end": end,
                "dag_run": SimpleNamespace(run_after=datetime.now(UTC), run_type=DagRunType(kind)),
            }
            if task.task_id == "choose_retrieval":
                chosen = task.choose_branch(context)  # execute() would ask the scheduler to skip the others
                method = "sis_profile" if chosen == "wait_for_export" else chosen
                skipped = RETRIEVALS - {method, chosen}
                returned[task.task_id] = chosen
            elif task.task_id == "wait_for_export":
                assert task.poke(context)
            elif task.task_id != "ask_for_approval":  # which is Airflow's own, and asks the scheduler
                returned[task.task_id] = task.execute(context)
                self.links[task.task_id] = {
                    link.name: link.get_link(task, ti_key=context["ti"]) for link in task.operator_extra_links
                }
            if task.task_id == "report":
                self.shown = task.summary
            if task.task_id == upto:
                break
        return returned


@pytest.fixture
def campus(tmp_path: Path) -> Campus:
    made = Campus(tmp_path / "far", students=20, fees=24)
    made.limits.per_second = 10_000
    return made


@pytest.fixture
def far(alma: AlmaServer, sftp: SftpServer, campus: Campus, connect: Connect, tmp_path: Path) -> Campus:
    """The campus with every connection that the DAGs name."""
    connect(
        "alma_default",
        conn_type="alma",
        host=alma.url,
        password=FULL_KEY.value,
        extra={"requests_per_second": 1000},
    )
    connect("alma_export_sftp", **sftp_fields(sftp))
    connect("alma_ledger", conn_type="sqlite", host=str(tmp_path / "ledger.db"))
    return campus


@pytest.fixture
def unmigrated(far: Campus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    settings = tmp_path / "campus.toml"
    settings.write_text(SETTINGS.format(report_path=far.analytics.path, layout="default"))
    monkeypatch.setenv("ALMA_HOOK_CAMPUS", str(settings))
    return Worker(far, settings, f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def worker(unmigrated: Worker) -> Worker:
    unmigrated.open_ledger()
    return unmigrated


@contextmanager
def failing_for_good(*texts: str) -> Iterator[None]:
    """The task fails at once, its retries untouched, and says these things."""
    with pytest.raises(AirflowFailException) as caught:
        yield
    for text in texts:
        assert text in str(caught.value)


def inbound(campus: Campus) -> list[str]:
    return sorted(path.name for path in campus.path("/sfs/inbound").iterdir())


# -- the whole way ------------------------------------------------------------------------------------


def whole_story(worker: Worker) -> list[dict[str, Any]]:
    """Charge, let students pay, post, settle; and all of it once more."""
    far = worker.far
    returned = [worker.run("alma_to_sis")]
    assert all(result.loaded for result in far.load_inbound())
    far.students_pay(0.6)
    far.desk_payments(3)
    far.write_query_output()
    returned.append(worker.run("sis_to_alma"))
    far.refresh_analytics()
    returned.append(worker.run("alma_to_sis"))
    assert all(result.loaded for result in far.load_inbound())
    far.write_query_output()
    returned.append(worker.run("sis_to_alma"))
    return returned


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_both_dags_make_the_books_equal_and_a_repetition_changes_nothing(
    database: str,
    unmigrated: Worker,
    connect: Connect,
    recorder: Recorder,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = unmigrated
    if database == "postgres":
        worker.url = request.getfixturevalue("postgres_url")
        url = make_url(worker.url)
        connect(
            "alma_ledger",
            conn_type="postgres",
            host=url.host,
            login=url.username,
            schema=url.database,
            extra=dict(url.query),
        )
    worker.open_ledger()

    returned = whole_story(worker)

    charged, posted, settled, _ = returned
    assert charged["plan_batches"]["charges"] == 20
    assert list(charged["upload_sfs_files"].values()) == ["delivered"]
    assert posted["post_payments"]["posted"] > 5
    assert settled["plan_batches"]["credits"] > 0
    assert [run["report"]["unexplained"] for run in returned] == [0, 0, 0, 0]
    odd = set(worker.far.oddities.all)
    assert set(worker.far.books().unequal) <= odd

    posts, before = len(recorder.sent("POST")), worker.far.books()
    again = worker.run("sis_to_alma")
    worker.far.refresh_analytics()
    once_more = worker.run("alma_to_sis")
    assert (again["post_payments"]["tried"], len(recorder.sent("POST"))) == (0, posts)
    assert (once_more["plan_batches"]["charges"], once_more["plan_batches"]["credits"]) == (0, 0)
    assert (inbound(worker.far), worker.far.books()) == ([], before)

    # What other tasks and the UI get to see names no one.
    seen = json.dumps([*returned, again, once_more]) + caplog.text + "".join(capfd.readouterr())
    for student in worker.far.students:
        for value in (student.primary_id, *student.identifiers.values()):
            assert value not in seen


@pytest.mark.parametrize("method", sorted(RETRIEVALS))
def test_every_retrieval_method_finds_a_changed_fee(method: str, worker: Worker) -> None:
    far = worker.far
    worker.run("alma_to_sis")
    far.load_inbound()
    far.waives(4)
    far.refresh_analytics()
    far.write_sis_export()

    returned = worker.run("alma_to_sis", method=method)

    assert returned["choose_retrieval"] == ("wait_for_export" if method == "sis_profile" else method)
    assert returned["plan_batches"]["credits"] == 4
    far.load_inbound()
    assert set(far.books().unequal) <= set(far.oddities.all)


def test_after_days_without_a_run_all_open_fees_are_read_and_not_only_those_that_alma_names(
    worker: Worker,
) -> None:
    text = worker.settings.read_text()
    worker.settings.write_text(text.replace("[sfs]", "fee_transactions = true\n[sfs]", 1))
    worker.run("alma_to_sis")
    far = worker.far
    far.load_inbound()
    charged = far.books().fees.keys() - set(far.oddities.all)
    fee = next(fee for fee in far.alma.fees.values() if fee.id in charged)
    far.alma.waive_at_desk(fee.id, 1)

    named = worker.run("alma_to_sis", "open_fees", method="open_fees")["open_fees"]["accounts"]
    ago = (datetime.now(UTC) - timedelta(days=4, minutes=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    worker.sql(f"UPDATE event SET at = '{ago}' WHERE subject LIKE 'dag %'")
    all_open = worker.run("alma_to_sis", "open_fees", method="open_fees")["open_fees"]["accounts"]

    assert (named, all_open > 10) == (1, True)


@pytest.mark.parametrize(("kind", "taken"), [("scheduled", 1), ("manual", 1), ("backfill", 0)])
def test_an_export_that_came_after_the_interval_is_left_to_later_runs_by_a_backfill_only(
    worker: Worker, kind: str, taken: int
) -> None:
    """A scheduled run may have waited for it."""
    worker.far.write_sis_export()

    returned = worker.run(
        "alma_to_sis", "sis_profile", kind, datetime.now(UTC) - timedelta(minutes=5), method="sis_profile"
    )

    assert returned["sis_profile"]["files"] == taken


@pytest.mark.parametrize(
    ("kind", "method", "ago", "chosen"),
    [
        ("scheduled", "analytics_report", 0, "analytics_report"),
        ("scheduled", "analytics_report", 60, "analytics_report"),
        ("manual", "all_users", 60, "all_users"),
        ("backfill", "analytics_report", 11, "analytics_report"),
        ("backfill", "analytics_report", 13, None),
        ("backfill", "open_fees", 60, None),
        ("backfill", "all_users", 60, None),
        ("backfill", "sis_profile", 60, "wait_for_export"),
    ],
)
def test_of_past_intervals_a_backfill_takes_exports_and_nothing_that_shows_the_present(
    kind: str, method: str, ago: int, chosen: str | None
) -> None:
    task = DagBag(str(DAGS)).dags["alma_to_sis"].get_task("choose_retrieval")
    end = datetime.now(UTC) - timedelta(hours=ago)
    context: Any = {
        "dag_run": SimpleNamespace(run_type=DagRunType(kind)),
        "params": {"method": method},
        "data_interval_start": end - timedelta(hours=12),
        "data_interval_end": end,
    }
    if chosen is None:
        with pytest.raises(AirflowSkipException, match="a backfill with the method sis_profile"):
            task.choose_branch(context)
    else:
        assert task.choose_branch(context) == chosen


def test_a_late_export_is_waited_for_until_it_is_whole(worker: Worker) -> None:
    text = worker.settings.read_text()
    worker.settings.write_text(text.replace("[sfs]", "export_wait_minutes = 60\n[sfs]", 1))
    folder = worker.far.path(worker.far.folders.sis_export)
    end = datetime.now(UTC) - timedelta(minutes=5)

    def there(
        run_type: str = "scheduled", *, ago: timedelta = timedelta(0), began: datetime | None = None
    ) -> bool:
        task = DagBag(str(DAGS)).dags["alma_to_sis"].get_task("wait_for_export")
        context: Any = {
            "dag_run": SimpleNamespace(run_type=DagRunType(run_type), start_date=began),
            "data_interval_start": end - timedelta(hours=12) - ago,
            "data_interval_end": end - ago,
        }
        return bool(task.poke(context))

    worker.far.write_sis_export()
    (old,) = folder.iterdir()
    before = (end - timedelta(hours=60)).timestamp()
    os.utime(old, (before, before))
    assert not there()
    assert there("manual")
    assert there("backfill")
    assert there(ago=timedelta(hours=24))
    # One that began in time is not well because the time is over: Airflow ends it then, and it is red.
    assert not there(ago=timedelta(hours=24), began=end - timedelta(hours=24))
    whole = old.read_bytes()
    growing = folder / "USERS_late.xml"
    growing.write_bytes(whole[:-20])
    assert not there()
    growing.write_bytes(whole)
    assert there()


def test_the_intraday_dag_finds_a_waived_fee(worker: Worker) -> None:
    worker.run("alma_to_sis")
    worker.far.load_inbound()
    worker.far.waives(3)

    returned = worker.run("alma_to_sis_intraday")

    assert (returned["plan_batches"]["credits"], returned["report"]["unexplained"]) == (3, 0)


def test_a_dry_run_moves_nothing(worker: Worker, recorder: Recorder) -> None:
    far = worker.far
    rehearsed = worker.run("alma_to_sis", dry_run=True)
    assert rehearsed["plan_batches"]["charges"] == 20
    assert (len(rehearsed["write_sfs_files"]), rehearsed["upload_sfs_files"], inbound(far)) == (1, {}, [])

    worker.run("alma_to_sis")
    far.load_inbound()
    far.students_pay(0.5)
    name = far.write_query_output()
    taken = worker.run("sis_to_alma", dry_run=True)
    assert taken["take_in_payments"]["new"] == 10
    assert (recorder.sent("POST"), far.path(name).exists()) == ([], True)

    assert worker.run("sis_to_alma")["post_payments"]["posted"] == 10


def test_a_campus_that_is_not_live_moves_nothing(
    worker: Worker, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    text = worker.settings.read_text()
    worker.settings.write_text(text.replace("live = true", "live = false"))
    planned = worker.run("alma_to_sis")["plan_batches"]
    worker.run("alma_to_sis")
    worker.run("sis_to_alma")
    assert (inbound(worker.far), recorder.sent("POST")) == ([], [])
    # Not twice, although each run finds all of it due.
    sums = (
        f"{planned['charges']} of {amount(planned['charged'])} charged, 0 of 0.00 credited, 0 of 0.00 posted"
    )
    assert "".join(capfd.readouterr()).count(sums) == 2


def test_what_is_too_old_goes_by_its_dag(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    worker.run("alma_to_sis", dry_run=True)
    worker.run("alma_to_sis")
    text = worker.settings.read_text()
    worker.settings.write_text(text + "\n[retention]\nsent_file_days = 60\ndry_run_days = 30\n")
    for table in ("batch SET created_at", "batch SET noted_at", "batch SET changed_at"):
        worker.sql(f"UPDATE {table} = '2020-01-01T00:00:00.000Z'")
    gone = {
        "files that were sent or given up": 1,
        "batches of dry runs": 1,
        "dry runs from before the campus was live": 0,
        "fees as they saw them": 0,
    }
    capfd.readouterr()
    assert worker.run("tidy_up", dry_run=True) == {"remove_old": gone}
    said = "".join(capfd.readouterr())
    assert "batches of dry runs: 1 would go; the oldest that is there is of 2020-01-01" in said
    assert "files of PeopleSoft's output: retention.payment_file_days is not set; none is there" in said
    assert worker.run("tidy_up") == {"remove_old": gone}
    assert "batches of dry runs: 1 are gone; none is there" in "".join(capfd.readouterr())
    assert set(worker.run("tidy_up")["remove_old"].values()) == {0}


def test_what_goes_from_task_to_task_is_ids_and_counts(worker: Worker) -> None:
    """Plain JSON, no text but batch ids, states, times and kinds of exceptions."""

    def small(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and small(inner) for key, inner in value.items())
        if isinstance(value, list):
            return all(map(small, value))
        return value is None or isinstance(value, int) or (isinstance(value, str) and len(value) < 40)

    for run in whole_story(worker):
        assert all(small(value) for value in run.values())
        assert len(json.dumps(run)) < 4000


def test_a_run_is_summed_up_for_a_person_and_its_tasks_lead_there(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    returned = worker.run("alma_to_sis")
    (row,) = [line.split() for line in worker.shown.splitlines() if line.startswith("000001")]
    charged = returned["plan_batches"]["charged"]
    assert row == ["000001", "charges", "delivered", "20", amount(charged), *inbound(worker.far)]
    assert worker.shown.startswith("alma_to_sis, live\n")
    for task_id in ("plan_batches", "upload_sfs_files"):
        link = worker.links[task_id]["Summary of this run"]
        assert link.endswith("/dags/alma_to_sis/runs/manual%201/tasks/report/rendered_templates")

    worker.far.load_inbound()
    worker.far.students_pay(1.0)
    worker.far.write_query_output()
    returned = worker.run("sis_to_alma")
    posted = returned["post_payments"]
    rows = [line.split() for line in worker.shown.splitlines()]
    assert [str(returned["take_in_payments"]["new"]), amount(posted["cents"]), "taken", "in"] in rows
    assert [str(posted["posted"]), amount(posted["cents"]), "posted", "to", "Alma"] in rows
    assert {"take_in_payments", "post_payments"} <= {name for name, of in worker.links.items() if of}

    worker.run("sis_to_alma", dry_run=True)
    assert worker.shown.startswith("sis_to_alma, dry run: nothing was sent or posted\n")


# -- what a task says when it can't ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conn_id", "dag_id"),
    [("alma_ledger", "sis_to_alma"), ("alma_default", "alma_to_sis"), ("sfs_sftp", "sis_to_alma")],
)
def test_a_missing_connection(
    conn_id: str, dag_id: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"AIRFLOW_CONN_{conn_id.upper()}")
    with failing_for_good("SettingsError", f"{conn_id}: create it"):
        worker.run(dag_id)


def test_no_ledger(unmigrated: Worker) -> None:
    with failing_for_good("LedgerError", "no ledger", "alma_hook migrate"):
        unmigrated.run("sis_to_alma")


@pytest.mark.parametrize(("version", "text"), [(0, "this package needs"), (999, "newer than this package's")])
def test_a_ledger_of_another_version(version: int, text: str, worker: Worker) -> None:
    worker.sql("DELETE FROM migration")
    worker.sql(f"INSERT INTO migration VALUES ({version}, 'another.sql', '')")
    with failing_for_good("LedgerError", text):
        worker.run("sis_to_alma")


@pytest.mark.parametrize(
    ("dag_id", "last"), [("alma_to_sis", "plan_batches"), ("sis_to_alma", "post_payments")]
)
def test_an_unopened_ledger(dag_id: str, last: str, unmigrated: Worker, recorder: Recorder) -> None:
    ledger = unmigrated.ledger()
    ledger.migrate()
    ledger.close()
    with failing_for_good("SendingStopped", "never opened"):
        unmigrated.run(dag_id, upto=last)
    assert (inbound(unmigrated.far), recorder.sent("POST")) == ([], [])


@pytest.mark.parametrize("dag_id", ["alma_to_sis", "sis_to_alma"])
def test_the_key_of_another_institution(dag_id: str, worker: Worker, recorder: Recorder) -> None:
    if dag_id == "sis_to_alma":
        # With nothing to post Alma is not asked.
        worker.run("alma_to_sis")
        worker.far.load_inbound()
        worker.far.students_pay(1.0)
        worker.far.write_query_output()
    before = len(recorder.requests)
    worker.far.alma.institution = "01ELSEWHERE_INST"
    with failing_for_good("SendingStopped", "01ELSEWHERE_INST", "01CAMPUS_INST"):
        worker.run(dag_id)
    asked = {request.path for request in recorder.requests[before:]}
    assert asked == {"/almaws/v1/users/operation/test"}


def test_a_run_with_nothing_to_post_asks_neither_alma_nor_the_archive(
    worker: Worker, recorder: Recorder
) -> None:
    worker.run("alma_to_sis")
    before = len(recorder.requests)
    returned = worker.run("sis_to_alma")
    assert recorder.requests[before:] == []
    assert (returned["take_in_payments"]["files"], returned["post_payments"]["posted"]) == (0, 0)


def test_a_wrong_key(worker: Worker, alma: AlmaServer, connect: Connect) -> None:
    connect("alma_default", conn_type="alma", host=alma.url, password="wrong")
    with failing_for_good("NotPermitted", "API key"):
        worker.run("alma_to_sis")


def test_an_unknown_host_key(worker: Worker, sftp: SftpServer, connect: Connect) -> None:
    connect("sfs_sftp", **sftp_fields(sftp, extra={}))
    with failing_for_good("NotPermitted", "host_key"):
        worker.run("sis_to_alma")


def test_broken_settings(worker: Worker, connect: Connect) -> None:
    bag = DagBag(str(DAGS))
    worker.settings.write_text("institution = 7")
    with failing_for_good("SettingsError", "sis_to_alma"):
        bag.dags["sis_to_alma"].get_task("report").execute({"ti": SimpleNamespace(run_id="r")})


@pytest.mark.usefixtures("at_once")
def test_alma_down_is_tried_again_by_airflow(worker: Worker) -> None:
    rule = worker.far.faults.add_http("fail_before", status=503, times=None)
    with pytest.raises(Retriable):
        worker.run("alma_to_sis")
    rule.times = 0
    assert worker.run("alma_to_sis")["plan_batches"]["charges"] == 20


def test_sftp_down_is_tried_again_by_airflow(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    worker.far.faults.add_sftp("list", action="drop")
    capfd.readouterr()
    with pytest.raises(Retriable):
        worker.run("sis_to_alma")
    # The page of a red task opens with its log.
    red = "When find_payment_files is red: SFTP failed. Nothing was changed; clear it."
    assert red in "".join(capfd.readouterr())
    worker.run("sis_to_alma")


def test_another_run_at_work_is_waited_for(worker: Worker) -> None:
    ledger = worker.ledger()
    with ledger.lease("back", "another run"), pytest.raises(LeaseTaken):
        worker.run("sis_to_alma")
    ledger.close()
    worker.run("sis_to_alma")


def test_a_full_disk_delivers_nothing_and_the_next_attempt_does(worker: Worker) -> None:
    far = worker.far
    far.faults.add_sftp("write", path="inbound", action="no_space")
    with pytest.raises(Retriable):
        worker.run("alma_to_sis")
    assert [name for name in inbound(far) if name.endswith(".dat")] == []

    far.faults.clear()
    worker.run("alma_to_sis")
    (result,) = far.load_inbound()
    assert (result.loaded, result.posted) == (True, 20)
    assert set(far.books().unequal) <= set(far.oddities.all)


def test_a_refused_file_is_told_once_the_others_are_done(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    far = worker.far
    worker.run("alma_to_sis")
    far.load_inbound()
    far.students_pay(0.5)
    far.write_query_output()
    broken = far.path("/sfs/outbound/BROKEN.csv")
    broken.write_text("Emplid,Something\n000000001,x\n")

    with failing_for_good("BadFile", "BROKEN.csv"):
        worker.run("sis_to_alma")

    assert [path.name for path in far.path("/sfs/outbound").glob("*.csv")] == ["BROKEN.csv"]
    assert len([fee for fee in far.alma.fees.values() if fee.transactions]) == 10
    said = "".join(capfd.readouterr())
    assert "Paid Amount: no such heading" in said
    assert "000000001" not in said

    broken.unlink()
    assert worker.run("sis_to_alma")["report"]["exceptions"].get("payment file refused") is None


# -- a batch that waits for approval ------------------------------------------------------------------


def command(worker: Worker, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """A command as a person gives it: its exit status, and what it says."""
    capfd.readouterr()
    where = ("--settings", str(worker.settings), "--ledger", worker.url)
    status = command_line.main([*arguments, *where])
    return status, "".join(capfd.readouterr())


@pytest.fixture
def braked(worker: Worker) -> Worker:
    """The campus's twenty charges are more than it lets through unasked."""
    text = worker.settings.read_text()
    worker.settings.write_text(text.replace("[sfs]", "[brake]\nmax_lines = 12\n[sfs]"))
    return worker


def test_a_held_batch_is_shown_released_and_sent(braked: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    far = braked.far
    capfd.readouterr()
    returned = braked.run("alma_to_sis")
    said = "".join(capfd.readouterr())

    # Nothing is red, nothing is sent, and each task says so.
    assert (returned["plan_batches"]["charges"], returned["plan_batches"]["held"]) == (0, ["000001"])
    assert (returned["write_sfs_files"], returned["upload_sfs_files"], inbound(far)) == ([], {}, [])
    assert returned["report"]["exceptions"]["batch held for approval"] == 1
    assert returned["report"]["unexplained"] == 0
    assert "set aside: batch 000001 (charges, 20 lines, " in said
    assert said.count("Held for approval: batch 000001") == 2
    assert "waits for an answer: 20 lines, brake.max_lines is 12" in braked.shown
    for task_id in ("held_batches", "report"):
        answer = braked.links[task_id]["Answer for held batches"]
        assert answer.endswith("/dags/release_batch/required_actions?response_received=false")

    status, shown = command(braked, capfd, "held")
    assert status == 0
    assert "000001  charges, held for 0 hours, planned by manual 1" in shown
    assert "20 lines, brake.max_lines is 12" in shown
    assert "OVERDUEFINE as item type 300000000001: " in shown
    assert shown.endswith("1 held\n")
    (digest,) = re.findall(r"^  digest ([0-9a-f]{12})$", shown, re.MULTILINE)

    status, refusal = command(
        braked, capfd, "release", "000001", "--digest", "0" * 12, "--reason", "so be it"
    )
    assert (status, "Nothing was released" in refusal) == (1, True)
    (item,) = re.findall(r"^(\w+)  .* batch 000001: ", command(braked, capfd, "exceptions")[1], re.MULTILINE)
    assert command(braked, capfd, "resolve", item, "--reason", "x")[0] == 1

    status, released = command(
        braked, capfd, "release", "000001", "--digest", digest, "--reason", "a new policy"
    )
    assert (status, "Batch 000001 is released" in released) == (0, True)
    assert inbound(far) == []
    assert command(braked, capfd, "held")[1] == "0 held\n"

    returned = braked.run("alma_to_sis")
    assert returned["plan_batches"]["charges"] == 20
    (result,) = far.load_inbound()
    assert (result.loaded, result.posted) == (True, 20)
    assert "batch held for approval" not in returned["report"]["exceptions"]
    assert braked.run("alma_to_sis")["plan_batches"]["batches"] == []
    assert braked.links["report"] == {"Answer for held batches": ""}

    fee_id = next(fee.fee_id for fee in far.books().fees.values() if fee.charged_cents)
    _, life = command(braked, capfd, "explain", fee_id)
    assert "batch 000001 set aside: 20 lines, brake.max_lines is 12" in life
    assert f"batch 000001 released by {getpass.getuser()}" in life
    for student in far.students:
        assert student.primary_id not in said + shown + refusal + released + life


def test_a_refused_batch_is_held_anew(braked: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    braked.run("alma_to_sis")
    status, said = command(braked, capfd, "refuse", "000001", "--reason", "the policy is wrong")
    assert (status, "Batch 000001 is given up" in said) == (0, True)
    assert command(braked, capfd, "refuse", "000001", "--reason", "again")[0] == 1
    given_up = command(braked, capfd, "batches", "--state", "cancelled")[1]
    assert given_up.startswith("000001  charges, cancelled since ")
    assert given_up.endswith("planned by manual 1\n1 batches\n")
    assert braked.run("alma_to_sis")["plan_batches"]["held"] == ["000002"]
    assert inbound(braked.far) == []
    both = command(braked, capfd, "batches")[1].splitlines()
    assert [line[:8] for line in both] == ["000001  ", "000002  ", "2 batche"]
    assert "000002  charges, held since " in command(braked, capfd, "batches", "--newest", "1")[1]


def test_a_dry_run_tells_what_would_be_held(braked: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    returned = braked.run("alma_to_sis", dry_run=True)
    said = "".join(capfd.readouterr())
    assert returned["write_sfs_files"] == ["P000001"]
    assert "would be set aside: batch P000001 (charges, 20 lines, " in said
    assert "Held for approval" not in said
    assert command(braked, capfd, "held")[1] == "0 held\n"


def test_a_run_that_was_started_for_other_lines_asks_nobody_and_releases_nothing(braked: Worker) -> None:
    braked.run("alma_to_sis")
    with failing_for_good("Fatal", "holds other lines"):
        braked.run("release_batch", batch="000001", digest="0" * 12)
    assert inbound(braked.far) == []


def recording(worker: Worker, digest: str, chosen: str, reason: str, name: str | None = "Quintilla") -> Any:
    """The task that records an answer, as Airflow hands it over: who chose what, for the batch of that digest."""
    task = DagBag(str(DAGS)).dags["release_batch"].get_task("record_answer")
    answer = {
        "chosen_options": [chosen],
        "params_input": {"reason": reason},
        "responded_by_user": name and {"id": "7", "name": name},
    }
    ti = SimpleNamespace(
        dag_id="release_batch", run_id="an answer", task_id="record_answer", xcom_pull=lambda task_ids: answer
    )
    return task.execute(
        {
            "ti": ti,
            "params": {"batch": "000001", "digest": digest},
            "dag_run": SimpleNamespace(run_after=datetime.now(UTC), run_type=DagRunType.MANUAL),
        }
    )


def held_since(worker: Worker) -> str:
    """The digest of batch 000001, which waits for an answer from now on."""
    worker.run("alma_to_sis")
    ledger = worker.ledger()
    with ledger.read() as tx:
        digest = holds.digest(tx, "000001")
    ledger.close()
    return digest


def told_of_batch(worker: Worker) -> list[str]:
    ledger = worker.ledger()
    with ledger.read() as tx:
        rows = tx.rows(
            "SELECT what, detail FROM event WHERE institution = :i AND subject = 'batch 000001' ORDER BY event_id"
        )
    ledger.close()
    return [f"{row['what']}: {row['detail']}" for row in rows]


def test_an_answer_is_an_event_with_the_persons_name_and_reason(braked: Worker) -> None:
    digest = held_since(braked)
    assert recording(braked, digest, "Release", "a new policy")["accounts"] > 0
    assert f"released by Quintilla: digest {digest}; a new policy" in told_of_batch(braked)
    # Its own retry, cut off after the commit, goes on; another's answer comes too late.
    assert recording(braked, digest, "Release", "a new policy")["accounts"] == 0
    with pytest.raises(AirflowSkipException, match="answered elsewhere"):
        recording(braked, digest, "Refuse", "not so", name="Ottokar")
    assert [said for said in told_of_batch(braked) if "Ottokar" in said] == []


def test_a_release_without_a_reason_leaves_the_batch_held(braked: Worker) -> None:
    digest = held_since(braked)
    with failing_for_good("needs a reason", "stays held"):
        recording(braked, digest, "Release", "  ")
    ledger = braked.ledger()
    with ledger.read() as tx:
        assert [row["batch_id"] for row in holds.held(tx)] == ["000001"]
    ledger.close()


@pytest.mark.parametrize("chosen", ["Release", "Refuse"])
def test_an_old_answer_is_none_for_other_lines(braked: Worker, chosen: str) -> None:
    held_since(braked)
    with failing_for_good("holds other lines"):
        recording(braked, "0" * 12, chosen, "seen")
    assert [said for said in told_of_batch(braked) if "Quintilla" in said] == []


def test_what_nobody_answered_is_refused_whatever_was_chosen(braked: Worker) -> None:
    digest = held_since(braked)
    with pytest.raises(AirflowSkipException, match="refused by nobody"):
        recording(braked, digest, "Release", "of a machine", name=None)
    assert braked.run("alma_to_sis")["plan_batches"]["held"] == ["000002"]


def test_what_a_person_is_shown_of_a_batch(braked: Worker) -> None:
    digest = held_since(braked)
    ledger = braked.ledger()
    with ledger.read() as tx:
        (row,) = holds.held(tx)
        text = approval.shown(tx, row, digest)
        amounts = sorted(int(line["amount"]) for line in batches.lines(tx, "000001"))
    ledger.close()
    assert "Set aside because of: **20 lines, brake.max_lines is 12" in text
    assert f"| all | | 20 | {amount(sum(amounts))} |" in text
    parts = re.findall(r"^\| [A-Z]+ \| 3\d+ \| (\d+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert (sum(int(lines) for lines, _ in parts), len(parts) > 1) == (20, True)
    assert sum(int(total.replace(".", "")) for _, total in parts) == sum(amounts)
    shown = re.findall(r"^\| \d+ \| \d+ \| new \| ([\d.]+) \|$", text, re.MULTILINE)
    assert shown == [amount(cents) for cents in reversed(amounts[-10:])]


# -- what nobody would notice -------------------------------------------------------------------------


def test_a_file_that_nobody_collects_is_seen_in_its_folder_and_told(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    worker.run("alma_to_sis")
    (name,) = inbound(worker.far)
    long_ago = instant(datetime.now(UTC) - timedelta(hours=30))
    worker.sql(f"UPDATE batch SET delivered_at = '{long_ago}'")
    capfd.readouterr()
    assert worker.run("watch_fees")["watch"]["told"] >= 1
    said = "".join(capfd.readouterr())
    assert f"delivered, not collected: {name}" in said

    worker.far.load_inbound()
    capfd.readouterr()
    worker.run("watch_fees")
    assert "not collected" not in "".join(capfd.readouterr())


def test_a_monitor_outside_hears_of_what_waits_by_the_exit_status(
    braked: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(braked, capfd, "check") == (0, "nothing is late, missing, waiting or old\n")
    braked.run("alma_to_sis")
    with pytest.raises(SystemExit) as ended:
        command(braked, capfd, "check")
    assert ended.value.code == 1
    assert "held for approval: " in capfd.readouterr().out


# -- the ledger's connection --------------------------------------------------------------------------


def test_a_postgres_connection_as_an_address(connect: Connect) -> None:
    connect(
        "alma_ledger",
        conn_type="postgres",
        host="db.campus.invalid",
        port=5433,
        login="alma",
        password="p@ss/word",
        schema="ledger",
        extra={"sslmode": "require", "connect_timeout": 5},
    )
    url = make_url(ledger_url("alma_ledger"))
    assert (url.drivername, url.host, url.port, url.database) == (
        "postgresql+psycopg", "db.campus.invalid", 5433, "ledger",
    )  # fmt: skip
    assert (url.username, url.password) == ("alma", "p@ss/word")
    assert dict(url.query) == {"sslmode": "require", "connect_timeout": "5"}


def test_a_postgres_connection_by_its_socket(connect: Connect, postgres_url: str) -> None:
    there = make_url(postgres_url)
    connect(
        "alma_ledger",
        conn_type="postgres",
        host=there.query["host"],
        login=there.username,
        schema=there.database,
    )
    ledger = Ledger(ledger_url("alma_ledger"), "01CAMPUS_INST")
    ledger.migrate()
    ledger.check()
    ledger.close()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"conn_type": "sqlite", "host": "ledger.db"}, "absolute path"),
        ({"conn_type": "sqlite"}, "absolute path"),
        ({"conn_type": "mysql", "host": "h"}, "type mysql"),
    ],
)
def test_a_ledger_connection_that_cannot_be_used(fields: dict[str, str], text: str, connect: Connect) -> None:
    connect("alma_ledger", **fields)
    with pytest.raises(SettingsError, match=text):
        ledger_url("alma_ledger")


@pytest.fixture
def no_task(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line is no task: there is no supervisor to ask."""
    monkeypatch.delattr(task_runner, "SUPERVISOR_COMMS")


@pytest.mark.usefixtures("no_task")
def test_a_connection_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_ALMA_LEDGER", raising=False)
    with pytest.raises(SettingsError, match="missing") as caught:
        ledger_url("alma_ledger", outside_of_tasks)
    assert "connection, alma_ledger: create it" in str(caught.value)


@pytest.mark.usefixtures("no_task")
def test_a_connection_that_can_not_be_read_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ALMA_LEDGER", '{"conn_type": "sqlite", "password": "swordfish"')
    with pytest.raises(SettingsError, match="EnvironmentVariablesBackend failed to give it") as caught:
        ledger_url("alma_ledger", outside_of_tasks)
    assert "swordfish" not in str(caught.value)

    monkeypatch.delenv("AIRFLOW_CONN_ALMA_LEDGER")
    secrets = tmp_path / "connections.json"
    secrets.write_text('{"alma_ledger": {"conn_type": "sqlite", "password": "swordfish"')
    backend = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", backend)
    monkeypatch.setenv(
        "AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps({"connections_file_path": str(secrets)})
    )
    with pytest.raises(SettingsError, match="LocalFilesystemBackend failed to give it") as caught:
        ledger_url("alma_ledger", outside_of_tasks)
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize(
    ("executor", "allowed"),
    [
        ("LocalExecutor", True),
        ("CeleryExecutor", False),
        ("airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor", False),
        ("LocalExecutor,CeleryExecutor", False),
    ],
)
def test_sqlite_serves_workers_of_one_machine_only(
    executor: str, allowed: bool, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("alma_ledger", conn_type="sqlite", host="/var/lib/ledger.db")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    if allowed:
        assert str(ledger_url("alma_ledger")) == "sqlite:////var/lib/ledger.db"
    else:
        with pytest.raises(SettingsError, match="use PostgreSQL"):
            ledger_url("alma_ledger")


# -- lists of items -------------------------------------------------------------------------------------


def test_a_list_of_items_confirms_what_was_delivered(
    worker: Worker, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    far = worker.far
    text = worker.settings.read_text().replace(
        "[sis_to_alma]\n", '[sis_to_alma]\npattern = "LIBRARY_PAYMENTS_*.csv"\n'
    )
    worker.settings.write_text(
        text + '[sis_to_alma.items]\npattern = "LIBRARY_APPLIED_*.csv"\ncomplete = true\n'
        'columns = { emplid = "Emplid", reference = "Reference Nbr", amount = "Item Amt" }\n'
    )
    sent = worker.run("alma_to_sis")
    far.load_inbound()
    assert sent["report"]["unseen_charges"] == sent["plan_batches"]["charges"] > 0
    far.clock.advance(seconds=5)  # the far side's clock is ahead: it counts for no more than now
    far.write_query_output()
    far.write_query_output(kind="applied")

    back = worker.run("sis_to_alma")

    assert back["find_payment_files"] == {"found": 2, "new": 2}
    assert back["take_in_payments"]["confirmed"] == sent["plan_batches"]["charges"]
    assert back["archive_files"] == {"archived": 2}
    assert back["report"]["unseen_charges"] == 0
    out, err = capfd.readouterr()
    said = caplog.text + out + err
    assert "Not seen in PeopleSoft: 0 charges (0.00)" in said
    worker.settings.write_text(text)


def test_what_a_red_run_had_come_to_is_shown_and_no_run_ended_well_by_it(worker: Worker) -> None:
    worker.run("alma_to_sis")
    worker.far.load_inbound()
    worker.far.students_pay(0.5)
    worker.far.write_query_output()
    worker.run("sis_to_alma", upto="take_in_payments")
    ledger = worker.ledger()
    with ledger.read() as tx:
        ended = alerts.last_finished(tx, "sis_to_alma")

    red = DagBag(str(DAGS)).dags["sis_to_alma"].get_task("report_red_run")
    run = f"manual {worker.runs}"
    red.execute(
        {
            "ti": SimpleNamespace(dag_id="sis_to_alma", run_id=run, task_id="report_red_run"),
            "dag_run": SimpleNamespace(run_after=datetime.now(UTC), run_type=DagRunType.MANUAL),
        }
    )

    assert "RED: a task failed" in red.summary
    assert "taken in" in red.summary
    assert "posted to Alma" not in red.summary
    with ledger.read() as tx:
        assert alerts.last_finished(tx, "sis_to_alma") == ended
    ledger.close()
