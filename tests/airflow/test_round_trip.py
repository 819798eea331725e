"""Both DAGs under a real scheduler: the simulator's books are the witness."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest

from simulator.airflow_home import AirflowHome
from simulator.demo import Demo
from simulator.serve import running

LAYOUTS = Path(__file__).resolve().parents[2] / "include" / "layouts"


def seen(airflow: AirflowHome) -> tuple[str, dict[str, dict[str, str | None]]]:
    """What Airflow's API gives its pages of the first run: the report's summary, and the buttons of tasks."""
    first = airflow.api("GET", "/api/v2/dags/alma_to_sis/dagRuns?order_by=run_after")["dag_runs"][0][
        "dag_run_id"
    ]
    tasks = f"/api/v2/dags/alma_to_sis/dagRuns/{quote(first, safe='')}/taskInstances"
    report = airflow.api("GET", f"{tasks}/report")
    links = {
        task_id: airflow.api("GET", f"{tasks}/{task_id}/links")["extra_links"]
        for task_id in ("upload_sfs_files", "report")
    }
    return report["rendered_fields"]["summary"], links


@pytest.mark.airflow
def test_the_money_goes_round_and_a_repeated_run_moves_none(tmp_path: Path) -> None:
    layout = "princeton_libfines"  # the demo itself runs the default one
    with running(tmp_path / "campus", students=120, fees=90, layout=LAYOUTS / f"{layout}.toml") as (
        campus,
        facts,
    ):
        campus.limits.per_second = 1000
        demo = Demo(tmp_path, campus, facts, layout)
        with demo.airflow:
            demo.run("alma_to_sis", {"method": "analytics_report"})
            loads = campus.load_inbound()
            campus.students_pay(0.5)
            campus.overpay(2)
            campus.desk_payments(6)
            campus.waives(4)
            campus.write_query_output()
            demo.run("sis_to_alma")
            demo.run("alma_to_sis", {"method": "open_fees"})
            loads += campus.load_inbound()
            moved = Counter(demo.told.lines)
            campus.write_query_output()
            demo.run("sis_to_alma")
            demo.run("alma_to_sis", {"method": "analytics_report"})
            late = campus.load_inbound()
            shown, links = seen(demo.airflow)
        settled = demo.settle()

    assert demo.told.failed == []
    assert settled.unexplained == 0
    assert moved["charges"] == 90 - len(campus.oddities.all)
    assert moved["credits"] > 0
    assert moved["payments"] > 0
    # Again at once: no line, no payment, no file.
    assert demo.told.lines == moved
    assert late == []
    # What the tasks say they sent is what PeopleSoft posted.
    assert sum(load.posted for load in loads) == moved["charges"] + moved["credits"]
    assert settled.alma - settled.peoplesoft == settled.explained
    # A person sees it without opening a log, and the buttons of other tasks lead there.
    first = next(row.split() for row in shown.splitlines() if row.startswith("000001"))
    assert first[:4] == ["000001", "charges", "delivered", str(loads[0].posted)]
    assert first[-1] == loads[0].file_name
    assert "0.00  of the difference, UNEXPLAINED" in shown
    assert list(links["upload_sfs_files"]) == ["Summary of this run"]
    assert links["upload_sfs_files"]["Summary of this run"].endswith("/tasks/report/rendered_templates")
    assert links["report"] == {"Answer for held batches": None}
