"""The DAG files as Airflow and their readers meet them: quick to parse, told in full, never a gap in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

# Before the first import of Airflow, which else writes its configuration into the home folder.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

import pendulum
from airflow.sdk import DAG
from airflow.timetables.base import DataInterval, TimeRestriction

from alma_hook.campus import METHODS, Connections
from tests.airflow_versions import DagBag, DagSerialization, ParamValidationError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "dags"
FILES = sorted(FOLDER.glob("*.py"))
SHIPPED = ROOT / "include" / "campus.toml"
PACIFIC = ZoneInfo("America/Los_Angeles")
DAG_IDS = {"alma_to_sis", "alma_to_sis_intraday", "release_batch", "sis_to_alma", "tidy_up", "watch_fees"}

HEAVY = (
    "aiohttp",
    "asyncssh",
    "lxml",
    "numpy",
    "pandas",
    "paramiko",
    "psycopg",
    "requests",
    "sqlalchemy.engine",
)
PARSE = """
import json, runpy, sys
import airflow.sdk
before = set(sys.modules)
runpy.run_path(sys.argv[1])
print("LOADED", json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture
def bag(monkeypatch: pytest.MonkeyPatch) -> DagBag:
    """The DAGs with the settings as they are shipped."""
    monkeypatch.delenv("ALMA_HOOK_CAMPUS", raising=False)
    return DagBag(str(FOLDER))


def parsed(settings: Path, monkeypatch: pytest.MonkeyPatch) -> DagBag:
    monkeypatch.setenv("ALMA_HOOK_CAMPUS", str(settings))
    return DagBag(str(FOLDER))


def with_settings(tmp_path: Path, old: str, new: str) -> Path:
    text = SHIPPED.read_text()
    assert old in text
    path = tmp_path / "campus.toml"
    path.write_text(text.replace(old, new))
    return path


# -- parsing ------------------------------------------------------------------------------------------


def test_every_dag_file_is_read_without_error(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == DAG_IDS == {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_dag_file_is_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 100


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_parsing_loads_nothing_heavy(file: Path, tmp_path: Path) -> None:
    """Airflow parses a DAG file every half minute and once more for each task."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins"), "AIRFLOW_HOME": str(tmp_path)}
    environment["ALMA_HOOK_CAMPUS"] = str(SHIPPED)
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(file)], env=environment, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    loaded = json.loads(line.removeprefix("LOADED "))
    assert "alma_hook.operators" in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []
    assert [name for name in loaded if name.startswith("alma_hook.ledger")] == []


def test_broken_settings_are_told_with_every_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SHIPPED.read_text()
    for old, new in (
        ("live = false", 'live = "perhaps"'),
        ('origin_id = "LIB01"', ""),
        ('"America/Los_Angeles"', '"Nowhere/At_All"'),
        ('directory = "/sfs/inbound"', 'directory = "sfs/inbound"'),
        ('OVERDUEFINE = "300000000001"', 'OVERDUEFINE = "not an item type"'),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "campus.toml").write_text(text + "\n[unheard_of]\nkey = 1\n")

    bag = parsed(tmp_path / "campus.toml", monkeypatch)

    assert {Path(file).name for file in bag.import_errors} == {file.name for file in FILES}
    for error in bag.import_errors.values():
        for key in (
            "live", "sfs.origin_id", "timezone", "sfs.directory", "item_types.OVERDUEFINE", "unheard_of",
        ):  # fmt: skip
            assert f"campus.toml, {key}: " in error


def test_settings_that_are_no_toml_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "campus.toml").write_text('institution = "01CAMPUS_INST\n')
    for error in parsed(tmp_path / "campus.toml", monkeypatch).import_errors.values():
        assert "The settings are not TOML" in error


def test_missing_settings_are_told_with_the_places_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = parsed(tmp_path / "elsewhere.toml", monkeypatch)
    assert len(bag.import_errors) == len(FILES)
    assert all(str(tmp_path / "elsewhere.toml") in error for error in bag.import_errors.values())


# -- what a reader finds ------------------------------------------------------------------------------


def told(param: Any) -> str:
    """What a trigger form says of a field: in plain text, or else in Markdown."""
    return str(param.description or param.schema.get("description_md") or "")


def test_every_parameter_is_described(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert ("dry_run" in dag.params) == (dag.dag_id not in ("release_batch", "watch_fees"))
        for name in dag.params:
            param = dag.params.get_param(name)
            assert told(param), f"{dag.dag_id}.{name}"
            assert param.schema.get("title"), f"{dag.dag_id}.{name}"


def test_the_form_offers_every_method(bag: DagBag) -> None:
    dag = bag.dags["alma_to_sis"]
    param = dag.params.get_param("method")
    assert set(METHODS) == set(param.schema["enum"]) - {param.value}
    assert set(METHODS) <= set(dag.task_ids)
    assert all(f"**{method}**:" in told(param) for method in METHODS)
    assert param.schema["values_display"] == {param.value: "as in the settings: analytics_report"}


def test_the_form_says_which_window_a_run_by_hand_takes(bag: DagBag) -> None:
    for dag_id in ("alma_to_sis", "alma_to_sis_intraday", "sis_to_alma"):
        params = bag.dags[dag_id].params
        said = "".join(told(params.get_param(name)) for name in params)
        assert said.count("A run started by hand takes what is there now") == 1, dag_id


@pytest.mark.parametrize("live", [True, False])
def test_the_form_says_when_every_run_is_a_dry_run(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_settings(tmp_path, "live = false", f"live = {str(live).lower()}")
    for dag_id in ("alma_to_sis", "alma_to_sis_intraday", "sis_to_alma"):
        said = told(parsed(path, monkeypatch).dags[dag_id].params.get_param("dry_run"))
        assert ("**live = false**" in said) is not live, dag_id


def test_every_task_has_an_owner_a_time_limit_and_retries(bag: DagBag) -> None:
    for dag in bag.dags.values():
        for task in dag.tasks:
            assert task.owner not in ("", "airflow"), task.task_id
            assert task.execution_timeout is not None, task.task_id
            # With an older provider a person's time to answer is this task's own.
            longest = timedelta(days=8) if task.task_id == "await_answer" else timedelta(hours=12)
            assert task.execution_timeout <= longest, task.task_id
            assert task.retries > 0, task.task_id
            assert task.pool == "default_pool", task.task_id  # a task that names a missing pool hangs


def test_the_text_of_a_dag_names_every_task_and_connection(bag: DagBag) -> None:
    ids = Connections()
    for dag in bag.dags.values():
        used = {ids.ledger}
        if dag.dag_id != "tidy_up":
            used.add(ids.sfs)
        if dag.dag_id not in ("tidy_up", "watch_fees"):
            used.add(ids.alma)
        if "sis_profile" in dag.task_ids:
            used.add(ids.alma_export)
        unnamed = [name for name in [*dag.task_ids, *used] if f"`{name}`" not in str(dag.doc_md)]
        assert unnamed == [], dag.dag_id


def test_the_text_of_a_dag_names_no_task_that_is_not_there(bag: DagBag) -> None:
    for dag in bag.dags.values():
        rows = [line.split("|")[1].strip() for line in str(dag.doc_md).splitlines() if line.startswith("| `")]
        assert rows
        named = {name.strip("` ") for row in rows for name in row.split(",")}
        assert named <= set(dag.task_ids), dag.dag_id


def test_the_page_of_a_task_says_what_it_does_and_what_a_red_one_means(bag: DagBag) -> None:
    for dag in bag.dags.values():
        rows = {
            line.split("|")[1]: line.split("|")[2].strip()
            for line in str(dag.doc_md).splitlines()
            if line.startswith("| `")
        }
        for task in dag.tasks:
            (red,) = [text for names, text in rows.items() if f"`{task.task_id}`" in names]
            assert f"**When it is red:** {red}" in str(task.doc_md), task.task_id


def test_the_buttons_of_a_task_need_no_registration(bag: DagBag) -> None:
    """Airflow's API server knows them from the serialized DAG alone, however the package is installed."""
    buttons = {
        (dag.dag_id, task.task_id): set(task.operator_extra_link_dict)
        for dag in bag.dags.values()
        for task in DagSerialization.from_dict(DagSerialization.to_dict(dag)).tasks
    }
    for dag_id in ("alma_to_sis", "alma_to_sis_intraday", "release_batch"):
        assert buttons[dag_id, "upload_sfs_files"] == {"Summary of this run"}
        assert buttons[dag_id, "held_batches"] == {"Answer for held batches"}
        assert buttons[dag_id, "ask_for_approval"] == {"Triggered DAG"}
        assert buttons[dag_id, "report"] == {"Answer for held batches"}
    assert buttons["sis_to_alma", "post_payments"] == {"Summary of this run"}
    for dag in bag.dags.values():
        leading = [name for (dag_id, name), links in buttons.items() if dag_id == dag.dag_id and links]
        assert ("report" in dag.task_ids) == bool(leading)


def test_what_airflow_shows_of_a_dag(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert dag.tags
        # A batch that waits for a person holds up no other.
        assert dag.max_active_runs == (16 if dag.dag_id == "release_batch" else 1)
        assert dag.catchup is False


# -- when ---------------------------------------------------------------------------------------------


def intervals(dag: DAG, first: datetime, count: int) -> list[DataInterval]:
    """The data intervals that the scheduler would make, from a day on."""
    timetable: Any = DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable
    restriction = TimeRestriction(pendulum.instance(first), None, catchup=True)

    def following() -> Any:
        last = None
        while True:
            info = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
            last = info.data_interval
            yield last

    return list(islice(following(), count))


@pytest.mark.parametrize("change", [datetime(2026, 3, 6, tzinfo=UTC), datetime(2026, 10, 30, tzinfo=UTC)])
def test_no_hour_is_left_out_when_clocks_change(change: datetime, bag: DagBag) -> None:
    found = intervals(bag.dags["alma_to_sis"], change, 8)

    assert all(before.end == after.start for before, after in pairwise(found))
    hours = [each.end.astimezone(PACIFIC).hour for each in found]
    assert hours in ([8, 20] * 4, [20, 8] * 4)
    lengths = {(each.end - each.start).total_seconds() / 3600 for each in found}
    assert lengths == ({11, 12} if change.month == 3 else {12, 13})


@pytest.mark.parametrize("change", [datetime(2026, 3, 7, tzinfo=UTC), datetime(2026, 10, 31, tzinfo=UTC)])
def test_payments_are_fetched_without_a_gap(change: datetime, bag: DagBag) -> None:
    found = intervals(bag.dags["sis_to_alma"], change, 30)
    assert all(before.end == after.start and after.start < after.end for before, after in pairwise(found))


def test_the_intraday_dag_runs_only_where_the_campus_says_when(
    bag: DagBag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not bag.dags["alma_to_sis_intraday"].timetable.can_be_scheduled
    path = with_settings(
        tmp_path, "[alma_to_sis]\n", '[alma_to_sis]\nintraday_schedule = "0 10-18/2 * * *"\n'
    )
    dag = parsed(path, monkeypatch).dags["alma_to_sis_intraday"]
    found = intervals(dag, datetime(2026, 11, 20, tzinfo=UTC), 6)
    assert all(before.end == after.start for before, after in pairwise(found))


def test_the_campus_says_when_and_in_which_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_settings(tmp_path, '"America/Los_Angeles"', '"America/New_York"')
    (each, *_) = intervals(
        parsed(path, monkeypatch).dags["alma_to_sis"], datetime(2026, 11, 20, tzinfo=UTC), 1
    )
    assert each.end.astimezone(ZoneInfo("America/New_York")).hour in (8, 20)


@pytest.mark.parametrize(
    ("dag_id", "name", "value"),
    [
        ("release_batch", "batch", "12; DROP TABLE line"),
        ("release_batch", "digest", "0123456789AB"),
        ("release_batch", "digest", "0123456789a"),
        ("alma_to_sis", "method", "by guess"),
        ("alma_to_sis", "dry_run", "perhaps"),
    ],
)
def test_a_form_takes_nothing_that_it_does_not_offer(bag: DagBag, dag_id: str, name: str, value: str) -> None:
    """Airflow holds what comes through its API to the same words."""
    with pytest.raises(ParamValidationError):
        bag.dags[dag_id].params.get_param(name).resolve(value)
