"""Connections, transactions, migrations and leases of the ledger: the one way to its database."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, TextClause, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError

from alma_hook.errors import AlmaHookError, Fault, LeaseTaken, LedgerError, Retriable, SettingsError
from alma_hook.resources import include

Row = Mapping[str, Any]
LEASE_MINUTES = 10
_NOW = {
    "sqlite": "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
    # clock_timestamp, not now(): a transaction that waited for its turn must not write an old time.
    "postgresql": "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')",
}
_CHUNK = 400  # values in one statement, well below what an old SQLite allows
# One fixed number, so that two migrations never run at once.
_MIGRATION_LOCK = 4_112_201


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act in one direction, until another holder's higher token fences it off."""

    direction: str
    token: int


def instant(moment: datetime) -> str:
    """Return an instant as the ledger writes it: UTC with milliseconds, which sorts as time does."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def moment(text_: str) -> datetime:
    """Return the instant that a ledger's time text means."""
    return datetime.fromisoformat(text_)


@lru_cache(maxsize=1024)
def _text(sql: str) -> TextClause:
    """A statement as SQLAlchemy takes it; finding its parameters costs more than running a short one."""
    return text(sql)


@lru_cache(maxsize=256)
def _of_driver(sql: str, dialect: Dialect) -> tuple[str, Sequence[str] | None]:
    """A statement as the database's driver takes it, and in which order its values, if not by name.

    For many rows that is worth it: SQLAlchemy would go through each row's parameters by itself.
    """
    compiled = _text(sql).compile(dialect=dialect)
    return str(compiled), compiled.positiontup if compiled.positional else None


class Tx:
    """One transaction on one institution's books. ``now`` is the database's clock at its begin."""

    def __init__(self, connection: Connection, institution: str, run_id: str, actor: str, now: str) -> None:
        self._connection = connection
        self.institution = institution
        self.run_id = run_id
        self.actor = actor
        self.now = now
        self._events = 0

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return str(self._connection.dialect.name)

    def rows(self, sql: str, **values: Any) -> list[Row]:
        """Return all rows of a query. ``:i`` is always the institution."""
        found = self._connection.execute(_text(sql), {"i": self.institution, **values})
        names = tuple(found.keys())
        return [dict(zip(names, row, strict=True)) for row in found.all()]

    def row(self, sql: str, **values: Any) -> Row | None:
        """Return the first row of a query, or ``None``."""
        found = self._connection.execute(_text(sql), {"i": self.institution, **values}).mappings().first()
        return dict(found) if found is not None else None

    def one(self, sql: str, **values: Any) -> Any:
        """Return the first column of the first row, or ``None``."""
        return self._connection.execute(_text(sql), {"i": self.institution, **values}).scalar()

    def run(self, sql: str, **values: Any) -> int:
        """Run a statement and return how many rows it changed."""
        return self._connection.execute(_text(sql), {"i": self.institution, **values}).rowcount

    def many(self, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each row of values."""
        if not rows:
            return
        statement, names = _of_driver(sql, self._connection.dialect)
        values = [{"i": self.institution, **row} for row in rows]
        if names is None:
            self._connection.exec_driver_sql(statement, values)
        else:
            self._connection.exec_driver_sql(
                statement, [tuple(row[name] for name in names) for row in values]
            )

    def make_room(self) -> None:
        """Let this transaction sum up all fees in memory: with the 4 MB that PostgreSQL has else, it goes through the disk."""
        if self.dialect == "postgresql":
            self.run("SET LOCAL work_mem = '256MB'")

    def count_rows(self, table: str) -> None:
        """Tell PostgreSQL that a table has been filled: it looks by itself after a minute, and takes it for empty until then."""
        if self.dialect == "postgresql":
            self.run(f"ANALYZE {table}")

    def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], **same: str
    ) -> None:
        """Insert many rows at once, of these columns; ``same``: texts that all of them have.

        PostgreSQL copies them: most of the time would go into handing them over one by one.
        """
        if not rows:
            return
        names = f"{table} ({', '.join(['institution', *same, *columns])})"
        alike = (self.institution, *same.values())
        values = [(*alike, *map(row.__getitem__, columns)) for row in rows]
        if self.dialect == "sqlite":
            places = ", ".join("?" * len(values[0]))
            self._connection.exec_driver_sql(f"INSERT INTO {names} VALUES ({places})", values)
        else:
            self._copy(f"COPY {names} FROM STDIN", values)

    def _copy(self, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
        """Let psycopg copy rows, which SQLAlchemy has no way for; what goes wrong is told as by SQLAlchemy."""
        dialect = self._connection.dialect
        assert dialect.loaded_dbapi is not None
        try:
            cursor: Any = self._connection.connection.cursor()
            with cursor, cursor.copy(statement) as copy:
                for row in values:
                    copy.write_row(row)
        except dialect.loaded_dbapi.Error as error:
            raise DBAPIError.instance(
                statement, None, error, dialect.loaded_dbapi.Error, hide_parameters=True, dialect=dialect
            ) from None

    def event(self, subject: str, what: str, detail: str = "") -> None:
        """Record who did what to a subject (``batch 000012``, ``fee 138...``), in this transaction."""
        self.events([(subject, what, detail)])

    def events(self, entries: Sequence[tuple[str, str, str]]) -> None:
        """Record many events at once, in their order."""
        self.many(
            "INSERT INTO event VALUES (:i, :id, :at, :run, :actor, :subject, :what, :detail)",
            [
                {
                    # Sorts by time, then by order within the transaction.
                    "id": f"{self.now}-{place:06d}-{secrets.token_hex(4)}",
                    "at": self.now,
                    "run": self.run_id,
                    "actor": self.actor,
                    "subject": subject,
                    "what": what,
                    "detail": detail,
                }
                for place, (subject, what, detail) in enumerate(entries, self._events)
            ],
        )
        self._events += len(entries)


def in_list(tx: Tx, sql: str, values: Sequence[str]) -> list[Row]:
    """Run ``sql IN (...)`` for any number of values."""
    rows: list[Row] = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        names = ", ".join(f":v{n}" for n in range(len(chunk)))
        rows += tx.rows(f"{sql} IN ({names})", **{f"v{n}": value for n, value in enumerate(chunk)})
    return rows


def run_in_list(tx: Tx, sql: str, values: Sequence[str]) -> None:
    """Run a statement ``sql IN (...)`` for any number of values."""
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        names = ", ".join(f":v{n}" for n in range(len(chunk)))
        tx.run(f"{sql} IN ({names})", **{f"v{n}": value for n, value in enumerate(chunk)})


class Ledger:
    """The ledger of one institution.

    ``url`` is an SQLAlchemy address (``sqlite:////path`` or ``postgresql+psycopg://``); ``run_id``
    and ``actor`` stand in every event. ``clock`` replaces the database's clock in simulations.
    """

    def __init__(
        self,
        url: str | URL,
        institution: str,
        *,
        run_id: str = "manual",
        actor: str = "system",
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.institution = institution
        self.run_id = run_id
        self.actor = actor
        self._clock = clock
        self.engine = _engine(url)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """Open a transaction that sees one state of the books and changes nothing."""
        with _plain_errors(self.engine.url), self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield self._tx(connection)
            connection.rollback()

    @contextmanager
    def write(self, lease: Lease | None = None) -> Iterator[Tx]:
        """Open a transaction that commits at its end, or leaves nothing behind.

        With a lease the transaction is refused (``LeaseTaken``) when another holder has taken over
        meanwhile, and the lease is prolonged.
        """
        with _plain_errors(self.engine.url), self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            tx = self._tx(connection)
            # Touching the institution's row first makes writers wait for each other on PostgreSQL.
            touched = tx.run("UPDATE institution SET writes = writes + 1 WHERE institution = :i")
            if not touched:
                tx.run(
                    "INSERT INTO institution (institution, ledger_id) VALUES (:i, :id)",
                    id=secrets.token_hex(8),
                )
            tx.now = self._now(connection)
            if lease is not None:
                self._prolong(tx, lease)
            yield tx
            connection.commit()

    @contextmanager
    def lease(self, direction: str, owner: str) -> Iterator[Lease]:
        """Hold the right to act in one direction (``out`` or ``back``).

        The same owner may take it again: it is then the retry of a task that died. Raises
        ``LeaseTaken`` while another owner's has not run out.
        """
        with self.write() as tx:
            held = tx.row("SELECT * FROM lease WHERE institution = :i AND direction = :d", d=direction)
            if held and held["owner"] not in (None, owner) and held["expires_at"] > tx.now:
                raise LeaseTaken(
                    f"Run {held['run_id']} works in this direction until {held['expires_at']} at the latest. "
                    "Nothing was done; this task tries again by itself."
                )
            token = int(held["token"]) + 1 if held else 1
            values = {
                "d": direction,
                "t": token,
                "o": owner,
                "r": self.run_id,
                "e": _later(tx.now, LEASE_MINUTES),
            }
            if held:
                tx.run(
                    "UPDATE lease SET token = :t, owner = :o, run_id = :r, expires_at = :e "
                    "WHERE institution = :i AND direction = :d",
                    **values,
                )
            else:
                tx.run("INSERT INTO lease VALUES (:i, :d, :t, :o, :r, :e)", **values)
        lease = Lease(direction, token)
        try:
            yield lease
        finally:
            # One that can't be given back runs out by itself; the work's own error matters more.
            with suppress(AlmaHookError), self.write() as tx:
                tx.run(
                    "UPDATE lease SET owner = NULL, expires_at = NULL "
                    "WHERE institution = :i AND direction = :d AND token = :t",
                    d=direction,
                    t=token,
                )

    def now(self) -> datetime:
        """The database's clock, which all machines share."""
        with self.read() as tx:
            return moment(tx.now)

    def check(self) -> None:
        """Raise ``LedgerError`` unless the ledger exists in the version this package knows."""
        newest = migrations()[-1][0]
        version = self.version()
        if version is None:
            raise LedgerError(
                f"There is no ledger at {_place(self.engine.url)}. Run `python -m alma_hook migrate` once, or "
                "correct the address."
            )
        if version < newest:
            raise LedgerError(
                f"The ledger is of version {version}, this package needs {newest}. Back it up, then run "
                "`python -m alma_hook migrate`."
            )
        if version > newest:
            raise LedgerError(
                f"The ledger is of version {version}, newer than this package's {newest}: an older package "
                "runs here. Install the newer one on every machine."
            )

    def version(self) -> int | None:
        """Return the number of the last migration applied, ``None`` without a ledger."""
        file = _sqlite_file(self.engine.url)
        # Only migrate() makes a ledger: SQLite would leave an empty file at an address with a slip in it.
        if file and file.parent.is_dir() and not file.exists():
            return None
        with _plain_errors(self.engine.url), self.engine.connect() as connection:
            if not self.engine.dialect.has_table(connection, "migration"):
                return None
            return int(
                connection.execute(text("SELECT COALESCE(MAX(version), 0) FROM migration")).scalar_one()
            )

    def migrate(self) -> list[str]:
        """Apply the migrations that are missing, all or none, and return their file names."""
        applied = []
        with _plain_errors(self.engine.url), self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            done = 0
            if self.engine.dialect.has_table(connection, "migration"):
                done = int(
                    connection.execute(text("SELECT COALESCE(MAX(version), 0) FROM migration")).scalar_one()
                )
            for version, name, sql in migrations():
                if version <= done:
                    continue
                for statement in _statements(sql):
                    connection.exec_driver_sql(statement)
                connection.execute(
                    text("INSERT INTO migration VALUES (:v, :f, :at)"),
                    {"v": version, "f": name, "at": self._now(connection)},
                )
                applied.append(name)
            connection.commit()
        return applied

    def _tx(self, connection: Connection) -> Tx:
        return Tx(connection, self.institution, self.run_id, self.actor, self._now(connection))

    def _now(self, connection: Connection) -> str:
        if self._clock is not None:
            return instant(self._clock())
        return str(connection.exec_driver_sql(_NOW[connection.dialect.name]).scalar_one())

    def _prolong(self, tx: Tx, lease: Lease) -> None:
        held = tx.run(
            "UPDATE lease SET expires_at = :e WHERE institution = :i AND direction = :d AND token = :t",
            e=_later(tx.now, LEASE_MINUTES),
            d=lease.direction,
            t=lease.token,
        )
        if not held:
            raise LeaseTaken(
                "Another run took over this direction while this one stood still; it stops here."
            )


def migrations() -> list[tuple[int, str, str]]:
    """Return number, file name and SQL of every migration, in order."""
    files = sorted(include("sql").glob("[0-9][0-9][0-9]_*.sql"))
    return [(int(file.name[:3]), file.name, file.read_text("utf-8")) for file in files]


def _statements(sql: str) -> list[str]:
    """Our migrations hold no semicolon inside a text or comment; a test keeps it so."""
    bare = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return [statement.strip() for statement in bare.split(";") if statement.strip()]


def _later(now: str, minutes: int) -> str:
    return instant(moment(now) + timedelta(minutes=minutes))


def _sqlite_file(address: URL) -> Path | None:
    return Path(address.database or "") if address.get_backend_name() == "sqlite" else None


def _place(address: URL) -> str:
    """Return the address for a person to see: without the password, and without the query, which may hold one."""
    host = address.host or address.query.get("host") or None
    return URL.create(
        address.get_backend_name(),
        address.username,
        host=host if host is None or isinstance(host, str) else ",".join(host),
        port=address.port,
        database=address.database,
    ).render_as_string()


@contextmanager
def _plain_errors(address: URL) -> Iterator[None]:
    """Database errors quote the values of the statement, which are patrons' data: keep only their kind."""
    try:
        yield
    except IntegrityError as error:
        raise Retriable(f"Another run changed the same rows ({type(error.orig).__name__}).") from None
    except OperationalError as error:
        file = _sqlite_file(address)
        if file and not file.parent.is_dir():
            raise Retriable(
                f"There is no folder {file.parent} for the ledger: make it, or correct the ledger's address."
            ) from None
        state = "can't be reached" if error.statement is None else "is busy, broke off, or can't be written"
        raise Retriable(
            f"The ledger at {_place(address)} {state} ({type(error.orig).__name__}). Nothing of this step was "
            "written."
        ) from None
    except DBAPIError as error:
        refused = (
            "the connection; look at its extra, or at what stands behind the question mark"
            if error.statement is None
            else "a statement"
        )
        raise LedgerError(
            f"The ledger at {_place(address)} refused {refused} ({type(error.orig).__name__})."
        ) from None


def _unusable(text_: str) -> SettingsError:
    return SettingsError("The ledger's address can't be used.", [Fault("ledger", text_)])


def _engine(url: str | URL) -> Engine:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        # The error's own text may quote the address with its password.
        raise _unusable(
            "not an address; it looks like sqlite:////folder/ledger.db or postgresql://login@host:5432/database"
        ) from None
    if address.get_backend_name() == "postgresql":
        if "@" in f"{address.host}{address.database}":
            # What stands there is the rest of a password, which would be shown with the address.
            raise _unusable("an @ within the password must be written %40; better, it stands in ~/.pgpass")
        try:
            return create_engine(
                address.set(drivername="postgresql+psycopg"), pool_pre_ping=True, hide_parameters=True
            )
        except ImportError:
            raise _unusable("PostgreSQL needs its driver: pip install 'psycopg[binary]'") from None
    if address.get_backend_name() != "sqlite":
        raise LedgerError("The ledger lives on SQLite or PostgreSQL; the connection names something else.")
    if address.host or not (address.database or "").startswith("/"):
        raise _unusable(
            "SQLite needs the file's absolute path, with four slashes: sqlite:////folder/ledger.db"
        )
    engine = create_engine(address, hide_parameters=True, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver's own transactions begin too late for us: write() says BEGIN IMMEDIATE itself.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        # 64 MB: with the 2 MB that it has else, what a large ledger sums up goes through the disk many times.
        connection.execute("PRAGMA cache_size = -65536")

    return engine
