"""The ledger's database for many short lives: the real engine, kept from life to life, and no waiting for disks.

A statement compiled once serves every life; what would be lost in a power cut is nothing here.
"""

from __future__ import annotations

import atexit
import gc
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, make_url

from alma_hook.ledger import Ledger, institutions, store

_real_engine = store._engine


@cache
def scratch() -> Path:
    """This process's own folder, in memory where the machine has such a place; removed at its end."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="lives-", dir=memory if memory.is_dir() else None))
    # Not by atexit, which a process of a pool leaves without calling.
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=1)
    return folder


class Database:
    """One database, made new for each life. ``url`` none: an SQLite file."""

    def __init__(self, url: str | None = None) -> None:
        self.file = scratch() / "ledger.db" if url is None else None
        self.url = url or f"sqlite:///{self.file}"
        self._engine: Engine | None = None
        self._empty: bytes | None = None
        self._unopened: bytes | None = None

    def engine(self, _url: str) -> Engine:
        """The real engine for the ledger's address, the same for every ``Ledger``."""
        if self._engine is None:
            self._engine = _real_engine(self.url)
            atexit.register(self._engine.dispose)
            if self.file is not None:

                @event.listens_for(self._engine, "connect")
                def _careless(connection: Any, _record: Any) -> None:
                    connection.execute("PRAGMA synchronous = OFF")

        return self._engine

    def renew(self, ledger: Callable[[], Ledger]) -> None:
        """Make an empty ledger that is open for live running."""
        if self._empty is not None:
            self.put_back(self._empty)
            return
        if self.file is None:
            self._drop_everything()
        else:
            self._remove()
        made = ledger()
        made.migrate()
        if self.file is not None:
            self._unopened = self.copy()
        with made.write() as tx:
            institutions.open_clean(tx, "the bursar")
        made.close()
        if self.file is not None:
            self._empty = self.copy()

    def copy(self) -> bytes:
        """The ledger as it is now."""
        assert self.file is not None
        with self.engine(self.url).connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.file.read_bytes()

    def put_back(self, content: bytes) -> None:
        """Put a copy in the ledger's place."""
        self._remove()
        assert self.file is not None
        self.file.write_bytes(content)

    def lose(self, *, opened: bool) -> None:
        """Put a ledger that knows nothing in its place."""
        content = self._empty if opened else self._unopened
        assert content is not None
        self.put_back(content)

    def _remove(self) -> None:
        assert self.file is not None
        self.engine(self.url).dispose()
        for part in ("", "-wal", "-shm"):
            self.file.with_name(self.file.name + part).unlink(missing_ok=True)

    def _drop_everything(self) -> None:
        engine = self.engine(self.url)
        engine.dispose()
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")


@cache
def database(url: str | None = None) -> Database:
    """The database of an address, once a process."""
    # What was imported up to here is never garbage, and looking through it costs a tenth of a life.
    gc.freeze()
    if url is not None and make_url(url).get_backend_name() != "postgresql":
        raise ValueError("lives are lived on an SQLite file of their own, or on PostgreSQL")
    return Database(url)
