"""Both DAGs under a real scheduler: the simulator's books are the witness."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from simulator.demo import Demo
from simulator.serve import running

LAYOUTS = Path(__file__).resolve().parents[2] / "include" / "layouts"


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
