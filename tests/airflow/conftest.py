"""One real Airflow for all tests of a file: starting it costs more than most of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulator.airflow_home import AirflowHome

WriteDag = Callable[[str, str], None]


@pytest.fixture(scope="module")
def dags_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dags")


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory, dags_folder: Path) -> Iterator[AirflowHome]:
    """A running Airflow that reads the DAGs of `dags_folder`, and of no other."""
    with AirflowHome(
        tmp_path_factory.mktemp("airflow"),
        dags=dags_folder,
        connections={"from_environment": {"conn_type": "http", "host": "127.0.0.1", "password": "not-shown"}},
    ) as home:
        yield home


@pytest.fixture
def write_dag(dags_folder: Path) -> WriteDag:
    """Put a DAG file, by its stem, where the running Airflow finds it within a few seconds."""

    def write(stem: str, text: str) -> None:
        unfinished = dags_folder / f"{stem}.tmp"
        unfinished.write_text(textwrap.dedent(text))
        unfinished.rename(dags_folder / f"{stem}.py")

    return write
