"""The ledger's database, named by an ordinary Airflow connection."""

from __future__ import annotations

from alma_hook.campus import Campus
from alma_hook.errors import Fault, SettingsError
from alma_hook.ledger import Ledger


def ledger_url(conn_id: str) -> str:
    """Return the SQLAlchemy address of a connection of type sqlite or postgres.

    SQLite: host is the file's absolute path. PostgreSQL: host, port, login, password, and the
    database in schema; the extra becomes query parameters such as ``sslmode``. Raises
    ``SettingsError`` when the connection is missing or of another type.
    """
    from sqlalchemy import URL

    from alma_hook.airflow_names import conf, connection_of

    connection = connection_of(conn_id)
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
        return f"sqlite:///{path}"
    if connection.conn_type in ("postgres", "postgresql"):
        return URL.create(
            "postgresql+psycopg",
            connection.login,
            connection.password,
            connection.host,
            connection.port,
            connection.schema,
            {name: str(value) for name, value in connection.extra_dejson.items()},
        ).render_as_string(hide_password=False)
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


def open_ledger(campus: Campus, *, run_id: str, actor: str) -> Ledger:
    """Return a campus's ledger."""
    return Ledger(ledger_url(campus.connections.ledger), campus.institution, run_id=run_id, actor=actor)
