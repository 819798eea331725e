"""A batch beyond the brake's limits, and the person who answers for it in Airflow's pages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from urllib.parse import quote

import pytest
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

from simulator.airflow_home import FINAL_STATES, AirflowHome, AirflowRefusedError
from simulator.campus import Campus
from simulator.demo import ROOT, connections, settings_text
from simulator.money import text_of
from simulator.serve import running
from tests.airflow.life import Life

pytestmark = [pytest.mark.airflow, pytest.mark.cluster]

OUT, RELEASE = "alma_to_sis", "release_batch"
WAITING = ("awaiting_input", "deferred")
# A test can't wait for hours: where the file is, the time to answer is over at once.
POLICY = """
import datetime, pathlib

def task_policy(task):
    if task.task_id == "await_answer" and pathlib.Path({marker!r}).exists():
        # With an older provider the time to answer goes by the other name.
        name = "response_timeout" if hasattr(task, "response_timeout") else "execution_timeout"
        setattr(task, name, datetime.timedelta(seconds=2))
    task.retry_delay = datetime.timedelta(seconds=1)
"""


@pytest.fixture(scope="module")
def hurry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this file is, the time to answer is over at once."""
    return tmp_path_factory.mktemp("hurry") / "now"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, hurry: Path) -> Iterator[Life]:
    """A campus whose brake lets no batch of more than 20 lines through."""
    work = tmp_path_factory.mktemp("approval")
    file = work / "campus.toml"
    with running(work / "campus", students=60, fees=40) as (campus, facts):
        campus.limits.per_second = 1000
        settings = settings_text(facts, "default") + '[brake]\nmax_lines = 20\napprovers = ["admin"]\n'
        file.write_text(settings)
        ledger = f"sqlite:///{work / 'ledger.db'}"
        airflow = AirflowHome(
            work / "airflow",
            dags=ROOT / "dags",
            env={
                "ALMA_HOOK_CAMPUS": str(file),
                # Both may do everything in Airflow; one of them is named in the settings.
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,colleague:admin",
            },
            connections=connections(facts, {"conn_type": "sqlite", "host": ledger[10:]}),
            policy=POLICY.format(marker=str(hurry)),
        )
        made = Life(campus, airflow, ledger, settings, file)
        made.open_ledger()
        mark(campus)
        airflow.prepare()
        try:
            airflow.start(triggerer=True)
            yield made
        finally:
            airflow.stop()


def mark(far: Campus) -> set[str]:
    """Give everybody and everything a name that stands nowhere else; return what may be told to nobody."""
    secrets: set[str] = set()
    for number, student in enumerate(far.students):
        student.first_name, student.last_name = f"Vorname{number:04d}Qx", f"Nachname{number:04d}Qx"
        student.email = f"mail{number:04d}qx@campus.invalid"
        secrets |= {student.first_name, student.last_name, student.email}
    for number, fee in enumerate(far.alma.fees.values()):
        fee.title, fee.barcode, fee.comment = (
            f"Titel{number:04d}Qx",
            f"3990{number:010d}",
            f"Worte{number:04d}Qx",
        )
        secrets |= {fee.title, fee.barcode, fee.comment}
    return secrets | {student.primary_id for student in far.students if len(student.primary_id) > 6}


def asked(life: Life, batch_id: str) -> str:
    """Wait until a person is asked about a batch; return the run in which."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = life.airflow.api("GET", f"/api/v2/dags/{RELEASE}/dagRuns?limit=100")["dag_runs"]
        for run in runs:
            run_id = str(run["dag_run_id"])
            if run_id.startswith(f"batch_{batch_id}_"):
                states = life.airflow.task_states(RELEASE, run_id)
                if states["await_answer"] in WAITING:
                    return run_id
        time.sleep(0.2)
    raise TimeoutError(f"nobody was asked about batch {batch_id}")


def answer(life: Life, run_id: str, option: str, reason: str) -> str:
    """Answer as the admin, and wait for the run's end, whose state is returned; what asks anew is told the same again.

    Airflow may take the exit of the process that asked for the failure of the one that goes on, when the answer comes
    within the second, and asks anew (apache/airflow#72716). People are slower than a test.
    """
    path = f"/api/v2/dags/{RELEASE}/dagRuns/{run_id}/taskInstances/await_answer/-1/hitlDetails"
    deadline = time.monotonic() + 180
    while (state := life.airflow.state(RELEASE, run_id)) not in FINAL_STATES:
        assert time.monotonic() < deadline, life.airflow.task_states(RELEASE, run_id)
        waits = life.airflow.task_states(RELEASE, run_id)["await_answer"] in WAITING
        if waits and not life.airflow.api("GET", path)["response_received"]:
            life.airflow.answer(RELEASE, run_id, "await_answer", option, {"reason": reason})
        time.sleep(0.5)
    return state


def as_colleague(life: Life) -> str:
    """A token of who is not named as one who may answer."""
    passwords = json.loads((life.airflow.work / "passwords.json").read_text())
    login = {"username": "colleague", "password": passwords["colleague"]}
    return str(life.airflow.api("POST", "/auth/token", login, signed=False)["access_token"])


def held(life: Life) -> list[str]:
    return [
        row["batch_id"]
        for row in life.rows("SELECT batch_id FROM batch WHERE institution = :i AND state = 'held'")
    ]


def answers(life: Life) -> dict[str, tuple[str, str, str | None]]:
    rows = life.rows("SELECT * FROM batch_hold WHERE institution = :i AND answer IS NOT NULL")
    return {row["batch_id"]: (row["answer"], row["answered_by"], row["answer_reason"]) for row in rows}


def test_what_a_person_releases_is_sent_and_waiting_blocks_nothing(life: Life) -> None:
    _, state = life.run(OUT)
    assert (state, held(life), life.inbound()) == ("success", ["000001"], {})
    run_id = asked(life, "000001")

    # Whoever looks at the run finds the way to the answer, and there what it is about.
    looked_at = life.airflow.api("GET", f"/api/v2/dags/{OUT}/dagRuns")["dag_runs"][0]["dag_run_id"]
    tasks = f"/api/v2/dags/{OUT}/dagRuns/{quote(looked_at, safe='')}/taskInstances"
    for task_id in ("held_batches", "report"):
        links = life.airflow.api("GET", f"{tasks}/{task_id}/links")["extra_links"]
        assert links["Answer for held batches"].startswith(
            f"{life.airflow.url}/dags/{RELEASE}/required_actions"
        )
    links = life.airflow.api("GET", f"{tasks}/ask_for_approval/links?map_index=0")["extra_links"]
    assert links["Triggered DAG"].endswith(f"/dags/{RELEASE}/runs/{run_id}")
    started = life.airflow.api("GET", f"{tasks}/ask_for_approval/0")
    assert started["rendered_map_index"] == "batch 000001"
    note = life.airflow.api("GET", f"/api/v2/dags/{RELEASE}/dagRuns/{run_id}")["note"]
    if "note" in signature(TriggerDagRunOperator).parameters:
        assert note.startswith("batch 000001 (charges, ")
    summary = life.airflow.api("GET", f"{tasks}/report")["rendered_fields"]["summary"]
    assert "waits for an answer: " in summary

    # Another run meanwhile is not blocked, and asks nobody a second time.
    assert life.run(OUT)[1] == "success"
    assert len(life.airflow.api("GET", f"/api/v2/dags/{RELEASE}/dagRuns")["dag_runs"]) == 1
    path = f"/api/v2/dags/{RELEASE}/dagRuns/{run_id}/taskInstances/await_answer/-1/hitlDetails"
    shown = life.airflow.api("GET", path)
    text = shown["subject"] + shown["body"]
    lines = life.rows("SELECT * FROM line WHERE institution = :i")
    assert f"{len(lines)} lines" in text
    assert "brake.max_lines is 20" in text
    assert f"| all | | {len(lines)} | {text_of(sum(line['amount'] for line in lines))} |" in text
    largest = max(lines, key=lambda line: int(line["amount"]))
    assert f"{largest['fee_id']} | new | {text_of(largest['amount'])} |" in text
    of_patrons = {student.primary_id for student in life.campus.students} | {line["emplid"] for line in lines}
    of_patrons |= {
        name for student in life.campus.students for name in (student.first_name, student.last_name)
    }
    assert [word for word in of_patrons if word and word in text.split()] == []

    own, life.airflow._token = life.airflow._token, as_colleague(life)
    try:
        with pytest.raises(AirflowRefusedError) as refused:
            life.airflow.answer(RELEASE, run_id, "await_answer", "Release", {"reason": "it will be right"})
    finally:
        life.airflow._token = own
    assert refused.value.status == 403
    assert (held(life), life.inbound()) == (["000001"], {})
    assert answer(life, run_id, "Release", "a new fine policy") == "success"
    path = f"/api/v2/dags/{RELEASE}/dagRuns/{run_id}/taskInstances/report"
    rows = [row.split() for row in life.airflow.api("GET", path)["rendered_fields"]["summary"].splitlines()]
    assert [row[:3] for row in rows if row[:1] in (["000001"], ["000002"])] == [
        ["000001", "charges", "replaced"],
        ["000002", "charges", "delivered"],
    ]

    assert answers(life) == {"000001": ("released", "admin", "a new fine policy")}
    assert list(life.inbound()) == ["alma_charges_000002.dat"]
    assert life.broken() == []


def test_a_task_marked_as_success_releases_nothing_and_a_refusal_leaves_the_fees_to_the_next_run(
    life: Life,
) -> None:
    life.days_work(fees=25)
    assert life.run(OUT)[1] == "success"
    (batch_id,) = held(life)
    run_id = asked(life, batch_id)
    path = f"/api/v2/dags/{RELEASE}/dagRuns/{run_id}/taskInstances/await_answer"
    life.airflow.api("PATCH", path, {"new_state": "success"})

    assert life.wait(RELEASE, run_id) == "failed"
    assert "Nobody has answered" in life.airflow.task_log(RELEASE, run_id, "record_answer")
    assert (held(life), life.inbound()) == ([batch_id], {})

    # The batch waits, so it is asked for anew; neither a marked task nor a marked run of that is an answer.
    assert life.run(OUT)[1] == "success"
    second, third = f"{run_id}_2", f"{run_id}_3"
    assert asked(life, batch_id) == second
    path = f"/api/v2/dags/{RELEASE}/dagRuns/"
    for task_id in ("record_answer", "await_answer"):
        life.airflow.api("PATCH", f"{path}{second}/taskInstances/{task_id}", {"new_state": "success"})
    assert life.wait(RELEASE, second) == "success"
    # This one has got as far as looking for held batches itself.
    assert asked(life, batch_id) == third
    life.airflow.api("PATCH", f"{path}{third}", {"state": "success"})
    assert (held(life), life.inbound()) == ([batch_id], {})
    assert life.run(OUT)[1] == "success"
    fourth = asked(life, batch_id)
    assert fourth == f"{run_id}_4"
    # A release needs a reason, also of who does not use the form.
    assert answer(life, fourth, "Release", " ") == "failed"
    assert "needs a reason" in life.airflow.task_log(RELEASE, fourth, "record_answer")
    tasks = f"{path}{fourth}/taskInstances"
    links = life.airflow.api("GET", f"{tasks}/record_answer/links")["extra_links"]
    assert links["Summary of this run"].endswith(f"{fourth}/tasks/report_red_run/rendered_templates")
    red = life.airflow.api("GET", f"{tasks}/report_red_run")["rendered_fields"]["summary"]
    assert "RED: a task failed" in red
    assert (held(life), life.inbound()) == ([batch_id], {})

    life.airflow.api(
        "POST",
        f"/api/v2/dags/{RELEASE}/clearTaskInstances",
        {
            "dag_run_id": run_id, "task_ids": ["await_answer"], "include_downstream": True, "dry_run": False,
            "only_failed": False, "reset_dag_runs": True,
        },
    )  # fmt: skip
    asked(life, batch_id)
    assert answer(life, run_id, "Refuse", "ask circulation first") == "success"
    assert answers(life)[batch_id] == ("refused", "admin", "ask circulation first")
    assert life.inbound() == {}
    shown = life.airflow.api("GET", f"{path}{run_id}/taskInstances/report")["rendered_fields"]["summary"]
    assert "refused by admin: " in shown
    # Its fees are worked out anew, and held again under another number.
    assert life.run(OUT)[1] == "success"
    (again,) = held(life)
    assert again > batch_id


def test_time_that_runs_out_counts_as_a_refusal(life: Life, hurry: Path) -> None:
    (before,) = held(life)
    run_id = asked(life, before)
    life.by_hand("refuse", before, "--reason", "to begin anew")
    hurry.touch()
    try:
        assert life.run(OUT)[1] == "success"
        (batch_id,) = held(life)
        deadline = time.monotonic() + 90
        while batch_id not in answers(life) and time.monotonic() < deadline:
            time.sleep(0.5)
    finally:
        hurry.unlink()

    assert answers(life)[batch_id] == ("refused", "nobody, the time ran out", "refused in Airflow's pages")
    assert life.inbound() == {}
    # The run that still asked for the batch answered by hand changes nothing any more.
    assert answer(life, run_id, "Release", "") == "success"
    assert life.inbound() == {}
    assert (
        life.rows(
            "SELECT 1 AS one FROM line WHERE institution = :i AND state = 'sent' AND batch_id > :b",
            b="000002",
        )
        == []
    )


def test_nothing_of_a_patron_or_a_key_is_written_outside_the_ledger_and_the_files(life: Life) -> None:
    """Logs, XCom, rendered templates, what a person was asked, Airflow's own database: all that it wrote is searched."""
    far = life.campus
    # Those made since are marked from here on; numbers go on as they were, so nobody's mark changes.
    secrets = mark(far)
    for connection in life.airflow._connections.values():
        secrets |= {str(connection["password"])} if connection.get("password") else set()
    # Red tasks of every sort: a file that can't be taken, a key without permission, a server that is not known.
    far.new_fees(3)
    far.refresh_analytics()
    far.write_sis_export()
    life.run(OUT)
    export = far.path(far.write_sis_export())
    export.with_name("TORN_" + export.name).write_bytes(export.read_bytes()[:-200])
    assert life.run(OUT, method="sis_profile")[1] == "failed"
    far.load_inbound()
    far.students_pay(0.5)
    far.overpay(2)
    path = far.path(far.write_query_output())
    broken = path.with_name("BROKEN_" + path.name)
    broken.write_bytes(path.read_bytes().replace(b"Paid Amount", b"Amount"))
    torn = path.with_name("TORN_" + path.name)
    torn.write_bytes(path.read_bytes().replace(b",", b",,", 30))
    assert life.run("sis_to_alma")[1] == "failed"
    far.faults.add_http("refuse", method="GET", times=40)
    life.run(OUT)
    far.faults.clear()

    # What was asked, released, sent and posted before was marked already.
    assert [answer for answer, *_ in answers(life).values() if answer == "released"]
    assert life.rows("SELECT 1 AS one FROM payment WHERE institution = :i AND state = 'posted' LIMIT 1")
    written = [file for file in life.airflow.work.rglob("*") if file.is_file()]
    assert any(file.name == "airflow.db" for file in written)
    assert any("task_id=post_payments" in str(file) for file in written)
    contents = {str(file.relative_to(life.airflow.work)): file.read_bytes() for file in written}

    def places(word: str) -> list[str]:
        return [name for name, content in contents.items() if word.encode() in content]

    assert {secret: places(secret) for secret in secrets if places(secret)} == {}
    # The search finds what is there: ids of fees are no secret.
    assert places(str(far.oddities.unmapped_fee))
