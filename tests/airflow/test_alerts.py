"""People are told by a real mail server of what fails, of what is killed, and of what waits: once, and no patron's data."""

from __future__ import annotations

import email
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import policy
from typing import Any
from urllib.parse import quote

import pytest
from aiosmtpd.controller import Controller

from alma_hook.ledger import instant
from simulator.airflow_home import AirflowHome, _free_port
from simulator.demo import ROOT, connections, settings_text
from simulator.serve import running
from tests.airflow.life import Life
from tests.airflow_versions import NAMES_WHAT_FAILED

pytestmark = [pytest.mark.airflow, pytest.mark.cluster]

OUT, BACK, WATCH = "alma_to_sis", "sis_to_alma", "watch_fees"
# The task that its run's message names; Airflow 3.1 does not say which it was.
FAILED = "analytics_report" if NAMES_WHAT_FAILED else ""
SETTINGS = """
[alerts]
notifier = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
arguments = { to = "ops@campus.invalid", from_email = "airflow@campus.invalid", subject = "{subject}", html_content = "{html}" }
payment_file_hours = 48
export_file_hours = 48
delivered_hours = 48
[brake]
max_lines = 20
"""
# A task gives up at once, those of the way back after a second try.
POLICY = """
import datetime

def task_policy(task):
    task.retries = 1 if task.dag_id == "sis_to_alma" else 0
    task.retry_delay = datetime.timedelta(seconds=1)

def task_instance_mutation_hook(ti):
    ti.max_tries = 1 if ti.dag_id == "sis_to_alma" else 0
"""


class Mailbox:
    """A mail server on loopback, and what it was given."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []
        #: All there ever was, subject and raw text.
        self.all: list[str] = []
        self.controller = Controller(self, hostname="127.0.0.1", port=_free_port(0))

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 aiosmtpd's name
        mail = email.message_from_bytes(envelope.content, policy=policy.default)
        body = mail.get_body(("html", "plain"))
        self.all.append(f"{mail['subject']}\n{body.get_content() if body else ''}")
        self.mails.append((str(mail["subject"]), str(body.get_content() if body else "")))
        return "250 OK"

    def wait(self, count: int, timeout: float = 60) -> list[tuple[str, str]]:
        """Wait for so many mails and hand them out."""
        deadline = time.monotonic() + timeout
        while len(self.mails) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        found, self.mails = self.mails, []
        return found


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    box.controller.start()
    yield box
    box.controller.stop()


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, mailbox: Mailbox) -> Iterator[Life]:
    work = tmp_path_factory.mktemp("alerts")
    file = work / "campus.toml"
    with running(work / "campus", students=40, fees=30) as (campus, facts):
        campus.limits.per_second = 1000
        settings = settings_text(facts, "default") + SETTINGS
        file.write_text(settings)
        ledger = f"sqlite:///{work / 'ledger.db'}"
        smtp = {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": mailbox.controller.port,
            "extra": {"disable_ssl": True, "disable_tls": True},
        }
        airflow = AirflowHome(
            work / "airflow",
            dags=ROOT / "dags",
            env={
                "ALMA_HOOK_CAMPUS": str(file),
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
            },
            connections={
                **connections(facts, {"conn_type": "sqlite", "host": ledger[10:]}),
                "smtp_default": smtp,
            },
            policy=POLICY,
        )
        made = Life(campus, airflow, ledger, settings, file)
        with airflow:
            yield made


def summary_of(life: Life, dag_id: str, run_id: str, task_id: str) -> str:
    path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}"
    return str(life.airflow.api("GET", path)["rendered_fields"]["summary"])


def days_ago(days: int) -> str:
    return instant(datetime.now(UTC) - timedelta(days=days))


def of_patrons(life: Life) -> set[str]:
    students = life.campus.students
    words = {word for s in students for word in (s.primary_id, s.first_name, s.last_name) if word}
    # Some have a batch's number for an id.
    return (words - {"000001", "000002"}) | {life.airflow._connections["alma_default"]["password"]}


def test_a_task_that_fails_and_a_ledger_that_is_missing_are_told_once(life: Life, mailbox: Mailbox) -> None:
    run_id = life.start(OUT)
    assert life.wait(OUT, run_id) == "failed"
    assert "No summary: There is no ledger" in summary_of(life, OUT, run_id, "report_red_run")
    # With no ledger nobody can note who was told, so the run tells it too.
    (again, why), (subject, body) = sorted(mailbox.wait(2))
    assert again == f"[{life.campus.alma.institution}] run failed: {OUT}/{FAILED}"
    assert "not known" in why
    assert subject == f"[{life.campus.alma.institution}] task failed: {OUT}/analytics_report: LedgerError"
    assert f"run {run_id}" in body
    assert "python -m alma_hook migrate" in body
    assert f"{life.airflow.url}/dags/{OUT}/runs/" in body

    ledger = life.by_hand("migrate")
    assert "up to date" in ledger
    run_id = life.start(OUT)
    assert life.wait(OUT, run_id) == "failed"
    # The run's own message comes only where no task has spoken.
    time.sleep(5)
    [(subject, body)] = mailbox.wait(1)
    assert subject.endswith(f"sending stopped: {OUT}/plan_batches: SendingStopped")
    assert "python -m alma_hook open" in body
    # The DAG's table says "clear it", which is not enough here.
    assert "clearing alone does not help" in body
    assert "clearing alone does not help" in life.airflow.task_log(OUT, run_id, "plan_batches")


def test_a_killed_task_is_told_by_its_run(life: Life, mailbox: Mailbox) -> None:
    life.open_ledger()
    life.campus.faults.add_http("delay_before", method="GET", seconds=20)
    run_id = life.start(OUT)
    deadline = time.monotonic() + 60
    while (
        life.airflow.task_states(OUT, run_id).get("analytics_report") != "running"
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    life.airflow.kill_task("analytics_report")
    assert life.wait(OUT, run_id) == "failed"
    life.campus.faults.clear()
    [(subject, body)] = mailbox.wait(1)
    assert subject == f"[{life.campus.alma.institution}] task killed: {OUT}/{FAILED}"
    assert f"{f'task {FAILED}, ' if FAILED else ''}run {run_id}" in body
    assert "clear the red task" in body


def test_a_run_that_would_spend_the_reserve_of_calls_is_told(life: Life, mailbox: Mailbox) -> None:
    life.campus.limits.remaining = 1005
    run_id, state = life.run(OUT, method="all_users")
    life.campus.limits.remaining = 1_000_000
    assert state == "failed"
    [(subject, body)] = mailbox.wait(1)
    assert subject == f"[{life.campus.alma.institution}] API reserve reached: {OUT}/read_fees: QuotaSpent"
    assert f"task read_fees, run {run_id}" in body


def test_a_task_that_is_tried_again_is_told_after_its_last_try(life: Life, mailbox: Mailbox) -> None:
    life.campus.faults.add_sftp("connect", times=None, action="drop")
    run_id, state = life.run(BACK)
    assert state == "failed"
    life.campus.faults.clear()
    [(subject, body)] = mailbox.wait(1)
    assert subject.endswith(f"task failed: {BACK}/find_payment_files: Retriable")
    assert f"run {run_id}, attempt 2" in body
    assert mailbox.wait(1, timeout=3) == []
    # The run's page shows how far it came, and once it was cleared and is well that of `report`.
    shown = summary_of(life, BACK, run_id, "report_red_run")
    assert "RED: a task failed" in shown
    assert "Nothing was sent, taken in or posted." in shown
    life.airflow.clear(BACK, run_id)
    assert life.wait(BACK, run_id) == "success"
    assert "RED" not in summary_of(life, BACK, run_id, "report")


def test_what_waits_is_told_once_a_day(life: Life, mailbox: Mailbox) -> None:
    assert life.run(OUT)[1] == "success"
    assert life.run(WATCH)[1] == "success"
    [(subject, body)] = mailbox.wait(1)
    assert subject == f"[{life.campus.alma.institution}] held for approval: batch 000001"
    assert "brake.max_lines is 20" in body
    assert "release_batch" in body
    assert life.run(WATCH)[1] == "success"
    assert mailbox.wait(1, timeout=3) == []

    with life.ledger(write=True) as tx:
        tx.run("UPDATE alert SET sent_at = '2026-01-01T00:00:00.000000Z' WHERE institution = :i")
    assert life.run(WATCH)[1] == "success"
    assert [subject for subject, _ in mailbox.wait(1)] == [subject]

    # Days later: what was sent lies there, nothing came, nothing ran, and the list has grown old.
    digest = re.search(r"digest ([0-9a-f]{12})", life.by_hand("held"))
    assert digest is not None
    life.by_hand("release", "000001", "--digest", digest[1], "--reason", "the first fees")
    assert life.run(OUT)[1] == "success"
    (file,) = life.inbound()
    with life.ledger(write=True) as tx:
        tx.run("UPDATE exception_item SET opened_at = '2026-01-01T00:00:00.000Z' WHERE institution = :i")
        tx.run("UPDATE batch SET delivered_at = :at WHERE institution = :i", at=days_ago(4))
        tx.run("UPDATE institution SET opened_at = :at WHERE institution = :i", at=days_ago(5))
        for name in (OUT, BACK):
            tx.run(
                "UPDATE event SET at = :at WHERE institution = :i AND subject = :s",
                s=f"dag {name}",
                at=days_ago(4),
            )
    run_id, state = life.run(WATCH)
    assert state == "success"
    mails = dict(mailbox.wait(7))
    expected = [
        f"late: {OUT}", f"late: {BACK}", f"delivered, not collected: {file}", f"no payment file: {BACK}",
        f"no export of Alma's: {OUT}", f"nothing delivered: {OUT}", "exceptions grown old: exceptions",
    ]  # fmt: skip
    assert sorted(mails) == sorted(f"[{life.campus.alma.institution}] {what}" for what in expected)
    for body in mails.values():
        assert "What to do: " in body
        assert f"{life.airflow.url}/dags/" in body
        assert f"Seen by DAG {WATCH}, task watch, run {run_id}" in body
    # Nowhere in any mail of this campus, within other words or not.
    assert [word for word in of_patrons(life) if any(word in text for text in mailbox.all)] == []
