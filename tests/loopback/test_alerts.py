"""Who is told what, by the tasks' own code: while the far side is down, when a message fails, and over many runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from alma_hook.errors import Retriable, SendingStopped
from alma_hook.ledger import instant
from alma_hook.operators import alerting
from tests.airflow_versions import NAMES_WHAT_FAILED
from tests.loopback.conftest import Connect
from tests.loopback.test_operators import Worker, campus, far, unmigrated, worker

__all__ = ["campus", "far", "unmigrated", "worker"]

ALERTS = """
[alerts]
notifier = "tests.loopback.test_alerts.Notifier"
arguments = { subject = "{subject}", text = "{text}" }
"""
ERROR = Retriable("The SFTP server of connection sfs_sftp can't be reached.")


class Notifier:
    """Keeps what it is to send; ``fails``: the words in whose messages it breaks."""

    sent: ClassVar[list[dict[str, str]]] = []
    fails: ClassVar[list[str]] = []

    def __init__(self, **arguments: str) -> None:
        self.arguments = arguments

    def notify(self, _context: object) -> None:
        if any(word in self.arguments["subject"] for word in self.fails):
            raise ConnectionRefusedError("no mail server")
        self.sent.append(self.arguments)


@pytest.fixture
def people(worker: Worker) -> Iterator[Worker]:
    worker.settings.write_text(worker.settings.read_text() + ALERTS)
    Notifier.sent.clear()
    Notifier.fails.clear()
    yield worker
    Notifier.sent.clear()
    Notifier.fails.clear()


@pytest.fixture
def slack(connect: Connect) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Slack's API on loopback: its address, and the messages that were posted with the right token."""
    posted: list[dict[str, str]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.headers["Authorization"] == "Bearer xoxb-loopback"
            if known and self.path == "/api/chat.postMessage":
                posted.append(body)
            answer = json.dumps({"ok": known, **({} if known else {"error": "invalid_auth"})}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        connect("slack_api_default", conn_type="slack", password="xoxb-loopback")
        yield f"http://127.0.0.1:{server.server_port}/api/", posted
        server.shutdown()


def subjects() -> list[str]:
    found = [each["subject"].removeprefix("[01CAMPUS_INST] ") for each in Notifier.sent]
    Notifier.sent.clear()
    return found


def days_ago(days: float) -> str:
    return instant(datetime.now(UTC) - timedelta(days=days))


def told_long_ago(worker: Worker) -> None:
    worker.sql(f"UPDATE alert SET sent_at = '{days_ago(1.1)}'")


def watch(worker: Worker) -> list[str]:
    worker.run("watch_fees")
    return sorted(subjects())


def delivered_and_late(worker: Worker) -> str:
    """A file that lies too long, and a DAG that has never run; the file's name."""
    worker.run("alma_to_sis")
    (path,) = worker.far.path("/sfs/inbound").iterdir()
    worker.sql(f"UPDATE batch SET delivered_at = '{days_ago(1.5)}'")
    worker.sql(f"UPDATE institution SET opened_at = '{days_ago(3)}'")
    return path.name


def test_what_is_known_is_told_while_peoplesofts_server_is_down(people: Worker) -> None:
    name = delivered_and_late(people)
    assert watch(people) == [f"delivered, not collected: {name}", "late: sis_to_alma"]
    people.far.faults.add_sftp("connect", times=None)
    told_long_ago(people)

    with pytest.raises(Retriable, match="can't be reached"):
        people.run("watch_fees")

    assert subjects() == ["late: sis_to_alma"]
    people.far.faults.clear()
    # That the file lies there was not known meanwhile, and so is not over.
    assert watch(people) == [f"delivered, not collected: {name}"]
    assert watch(people) == []


def test_a_message_that_fails_keeps_no_other_back_and_is_tried_again(people: Worker) -> None:
    name = delivered_and_late(people)
    Notifier.fails.append("not collected")
    with pytest.raises(ConnectionRefusedError):
        people.run("watch_fees")
    assert subjects() == ["late: sis_to_alma"]

    Notifier.fails.clear()
    assert watch(people) == [f"delivered, not collected: {name}"]


def test_who_waits_for_a_person_is_told_where_to_answer(people: Worker) -> None:
    text = people.settings.read_text()
    people.settings.write_text(text.replace("[sfs]", "[brake]\nmax_lines = 12\n[sfs]"))
    people.run("alma_to_sis")
    people.run("watch_fees")
    (message,) = Notifier.sent
    assert "/dags/release_batch/required_actions" in message["text"]


def test_a_campus_that_is_not_live_is_not_watched_but_may_try_a_message(people: Worker) -> None:
    delivered_and_late(people)
    people.settings.write_text(people.settings.read_text().replace("live = true", "live = false"))
    assert watch(people) == []
    people.run("watch_fees", test_message=True)
    assert subjects() == ["test: watch_fees"]


# -- what fails ------------------------------------------------------------------------------------------


def failed_task(run_id: str, error: Exception) -> Any:
    ti = SimpleNamespace(dag_id="sis_to_alma", run_id=run_id, task_id="find_payment_files", try_number=3)
    return {"ti": ti, "exception": error, "dag": SimpleNamespace(doc_md="")}


def failed_run(run_id: str, task_id: str | None = None) -> Any:
    run = SimpleNamespace(
        dag_id="sis_to_alma", run_id=run_id, start_date=datetime.now(UTC) - timedelta(minutes=5)
    )
    return {"dag_run": run, **({"ti": SimpleNamespace(task_id=task_id)} if task_id else {})}


def test_an_outage_over_many_runs_is_one_message_a_day(
    people: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "_TASK_SPEAKS_WITHIN", 0.0)
    task_fails, run_fails = (
        alerting.when_task_fails(people.settings),
        alerting.when_run_fails(people.settings),
    )
    told = []
    for number in range(3):
        task_fails(failed_task(f"run {number}", ERROR))
        run_fails(failed_run(f"run {number}", "find_payment_files"))
        told.append(subjects())
    assert told == [["task failed: sis_to_alma/find_payment_files: Retriable"], [], []]

    # Another trouble of the same task is another cause, and so is the same one after a run that ended well.
    task_fails(failed_task("run 4", SendingStopped("The ledger is older.")))
    assert subjects() == ["sending stopped: sis_to_alma/find_payment_files: SendingStopped"]
    told_long_ago(people)
    task_fails(failed_task("run 5", ERROR))
    assert len(subjects()) == 1
    people.run("sis_to_alma")
    task_fails(failed_task("run 6", ERROR))
    assert len(subjects()) == 1


@pytest.mark.skipif(not NAMES_WHAT_FAILED, reason="Airflow 3.1 does not say which task made a run fail")
def test_a_killed_task_is_named(people: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "_TASK_SPEAKS_WITHIN", 0.0)
    alerting.when_run_fails(people.settings)(failed_run("run 1", "post_payments"))
    (message,) = Notifier.sent
    assert message["subject"].endswith("task killed: sis_to_alma/post_payments")
    assert "DAG sis_to_alma, task post_payments, run run 1" in message["text"]
    assert "/dags/sis_to_alma/runs/run%201/tasks/post_payments" in message["text"]


def test_where_the_ledger_is_down_no_cause_is_made_up(people: Worker) -> None:
    people.sql("DROP TABLE event")
    alerting.when_run_fails(people.settings)(failed_run("run 1"))
    (message,) = Notifier.sent
    assert message["subject"].endswith("run failed: sis_to_alma/")
    assert "memory" not in message["text"]
    assert "not known" in message["text"]


def test_the_example_for_slack_posts_its_message(
    worker: Worker, slack: tuple[str, list[dict[str, str]]]
) -> None:
    pytest.importorskip("airflow.providers.slack")
    address, posted = slack
    docs = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    (example,) = re.findall(r"```toml\n(\[alerts\] +# Slack.*?)```", docs, re.DOTALL)
    # Only the address is another one than Slack's own.
    there = example.replace("arguments = { ", f'arguments = {{ base_url = "{address}", ')
    worker.settings.write_text(worker.settings.read_text() + "\n" + there)

    assert worker.run("watch_fees", test_message=True)["watch"] == {"told": 1}

    (message,) = posted
    assert message["channel"] == "library-fees"
    assert message["text"].startswith("[01CAMPUS_INST] test: watch_fees\nThis is a test.")
