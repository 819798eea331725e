"""Both DAGs under a real scheduler: the simulator's books are the witness."""

from __future__ import annotations

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
            demo.tell()
        settled = demo.settle()

    assert demo.told.failed == []
    assert settled.unexplained == 0
    assert demo.told.lines["charges"] >= 90 - 4 + 65
    assert demo.told.lines["credits"] > 0
    assert demo.told.lines["payments"] > 0
    # Every cent that PeopleSoft shows as paid on an item is either in Alma or listed.
    assert settled.alma - settled.peoplesoft == settled.explained
