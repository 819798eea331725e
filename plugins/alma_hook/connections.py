"""The ledger's database, named by an ordinary Airflow connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import URL

from alma_hook.campus import Campus
from alma_hook.errors import Fault, SettingsError
from alma_hook.guard import ArchiveMark, MarkPlace
from alma_hook.ledger import Ledger
from alma_hook.remote import RemoteFolder

GetConnection = Callable[[str], Any]


def outside_of_tasks(conn_id: str) -> Any:
    """Fetch a connection as `airflow connections` does: those made in Airflow's pages are seen too.

    The tasks' way sees them within a task only, and breaks outside of one on Airflow 3.1.
    """
    from airflow.models import Connection

    return Connection.get_connection_from_secrets(conn_id)  # noqa: AIR311 airflow.sdk has the tasks' way only


def ledger_url(conn_id: str, get: GetConnection | None = None) -> URL:
    """Return the SQLAlchemy address of a connection of type sqlite or postgres.

    SQLite: host is the file's absolute path. PostgreSQL: host (or the folder of its socket), port,
    login, password, and the database in schema; the extra becomes query parameters such as
    ``sslmode``. ``get`` fetches the connection, by default as a task does. Raises ``SettingsError``
    when the connection is missing or of another type.
    """
    from alma_hook.airflow_names import conf, connection_of

    connection = connection_of(conn_id, get)
    if connection.conn_type == "sqlite":
        path = connection.host or ""
        faults = (
            []
            if path.startswith("/")
            else [Fault("connection", "host must be the file's absolute path", field=conn_id)]
        )
        # Workers of the other executors are other machines, each with a file of its own: two ledgers.
        executor = conf.get("core", "executor")
        if not all("LocalExecutor" in name for name in executor.split(",")):
            faults.append(
                Fault("connection", f"SQLite can't serve {executor}; use PostgreSQL", field=conn_id)
            )
        if faults:
            raise SettingsError("The ledger's connection can't be used.", faults)
        return URL.create("sqlite", database=path)
    if connection.conn_type in ("postgres", "postgresql"):
        return URL.create(
            "postgresql+psycopg",
            connection.login,
            connection.password,
            connection.host,
            connection.port,
            connection.schema,
            {name: str(value) for name, value in connection.extra_dejson.items()},
        )
    raise SettingsError(
        "The ledger's connection can't be used.",
        [Fault("connection", f"is of type {connection.conn_type}, not sqlite or postgres", field=conn_id)],
    )


class VariableMark:
    """The ledger's mark in an Airflow variable: in another database and another backup than the ledger."""

    def __init__(self, institution: str) -> None:
        self.key = f"alma_hook_mark_{institution}"
        self.name = f"Airflow's variable {self.key}"

    def read(self) -> bytes | None:
        """Return the mark's text."""
        from airflow.sdk import Variable

        text = Variable.get(self.key, default=None)
        return None if text is None else str(text).encode()

    def write(self, text: bytes) -> None:
        """Replace the mark."""
        from airflow.sdk import Variable

        Variable.set(self.key, text.decode(), description="The mark of the fees ledger; do not change it.")


def marks_of(campus: Campus, archive: RemoteFolder | None) -> list[MarkPlace]:
    """Return where a campus's mark stands: in Airflow's variables and in the archive, each backed up apart.

    ``archive`` may be ``None`` where it can't be read.
    """
    variable = VariableMark(campus.institution)
    if archive is None or not campus.archive_can_be_read:
        return [variable]
    return [variable, ArchiveMark(archive, campus.sfs.archive_directory, campus.institution)]


def open_ledger(campus: Campus, *, run_id: str, actor: str, get: GetConnection | None = None) -> Ledger:
    """Return a campus's ledger."""
    url = ledger_url(campus.connections.ledger, get)
    return Ledger(url, campus.institution, run_id=run_id, actor=actor)
