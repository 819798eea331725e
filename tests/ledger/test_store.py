"""The ledger's database: migrations, transactions, leases, and errors that give nothing away."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, make_url

from alma_hook.errors import AlmaHookError, Fatal, LeaseTaken, LedgerError, Retriable, SettingsError
from alma_hook.ledger import Ledger, batches, instant, moment, payments, reversal_lines, store
from alma_hook.resources import include

INSTITUTION = "01CAMPUS_INST"
SECRET = "061719993"
Open = Callable[..., Ledger]


@pytest.fixture
def open_ledger(ledger_url: str) -> Iterator[Open]:
    """``open_ledger(run, institution, clock)``: the same database, as another run sees it."""
    opened: list[Ledger] = []

    def open_one(
        run_id: str = "run 1", institution: str = INSTITUTION, clock: Callable[[], datetime] | None = None
    ) -> Ledger:
        opened.append(Ledger(ledger_url, institution, run_id=run_id, actor="a test", clock=clock))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Open) -> Ledger:
    ledger = open_ledger()
    ledger.migrate()
    return ledger


def line(fee_id: str = "138412345678", amount: int = 1000) -> batches.Line:
    return batches.Line(
        fee_id=fee_id, kind="charge", amount=amount, emplid=SECRET, item_type="300000000001", term="",
        reference=f"ALMA{fee_id}", description="Library fee", account_type="LIB", effective_date="2026-11-22",
        due_date="", reason="new", item_fee=fee_id,
    )  # fmt: skip


TARGET = batches.Target(
    "default", "alma_{sequence}.dat", "2026-11-22", "sftp.campus.invalid:22", "/sfs/inbound"
)


# -- versions ------------------------------------------------------------------------------------------


def test_a_database_without_a_ledger(open_ledger: Open) -> None:
    ledger = open_ledger()
    assert ledger.version() is None
    with pytest.raises(LedgerError, match=r"There is no ledger.*migrate") as caught:
        ledger.check()
    assert isinstance(caught.value, Fatal)


def test_migrating_makes_the_ledger_and_again_nothing(open_ledger: Open) -> None:
    ledger = open_ledger()
    assert ledger.migrate() == [name for _, name, _ in store.migrations()]
    ledger.check()
    assert ledger.migrate() == []
    ledger.check()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "DELETE FROM migration WHERE version = :newest",
            r"of version \d+, this package needs \d+\. Back it up",
        ),
        ("UPDATE migration SET version = 999 WHERE version = :newest", "an older package runs here"),
    ],
)
def test_a_ledger_of_another_version_is_not_used(ledger: Ledger, change: str, said: str) -> None:
    with ledger.write() as tx:
        tx.run(change, newest=tx.one("SELECT MAX(version) FROM migration"))
    with pytest.raises(LedgerError, match=said):
        ledger.check()


def test_a_migration_that_fails_leaves_nothing_behind(
    open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, whole = open_ledger(), store.migrations()
    broken = [
        *whole,
        (whole[-1][0] + 1, "broken.sql", "CREATE TABLE one (a TEXT);\nCREATE TABLE one (a TEXT);"),
    ]
    monkeypatch.setattr(store, "migrations", lambda: broken)
    with pytest.raises(AlmaHookError):
        ledger.migrate()
    assert ledger.version() is None
    assert inspect(ledger.engine).get_table_names() == []
    monkeypatch.setattr(store, "migrations", lambda: whole)
    ledger.migrate()
    ledger.check()


def test_a_later_migration_keeps_what_is_there(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with ledger.write() as tx:
        batches.open_batch(tx, "charges", True, [line()], TARGET)
    newer = [*store.migrations(), (999, "999_more.sql", "-- more\nCREATE TABLE more (a TEXT);")]
    monkeypatch.setattr(store, "migrations", lambda: newer)
    with pytest.raises(LedgerError, match="Back it up"):
        ledger.check()
    assert ledger.migrate() == ["999_more.sql"]
    with ledger.read() as tx:
        assert tx.one("SELECT SUM(amount) FROM line") == 1000


def test_what_lines_had_taken_off_payments_is_known_after_a_migration(
    open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = store.migrations()
    monkeypatch.setattr(store, "migrations", lambda: [each for each in whole if each[0] < 17])
    ledger = open_ledger()
    ledger.migrate()
    with ledger.write() as tx:
        for number, key in enumerate("ab", 1):
            tx.run(
                "INSERT INTO payment (institution, payment_key, payment_no, external_id, fee_id, emplid, amount, paid_on, "
                "file_name, file_sha256, line_no, taken_at, run_id, state) VALUES (:i, :key, :no, :key, '1', '2', 600, '', '', "
                "'', 1, '', '', 'new')",
                key=key,
                no=number,
            )
        for key, line_key, netted in (("a", "x", 1), ("a", "y", 1), ("a", "z", 0), ("b", "x", 0)):
            tx.run(
                "INSERT INTO reversal_line VALUES (:i, :key, :line, 200, :netted)",
                key=key,
                line=line_key,
                netted=netted,
            )
    monkeypatch.setattr(store, "migrations", lambda: whole)
    ledger.migrate()
    with ledger.read() as tx:
        assert payments.gross(tx, ["a", "b"]) == {"a": 1000, "b": 600}
        assert reversal_lines.taken_off(tx, ["a", "b"], frozenset(), sums_up=False) == {"a": 600, "b": 200}


def test_the_migrations_hold_no_semicolon_inside_a_text_or_behind_a_statement() -> None:
    for _, name, sql in store.migrations():
        # Whole lines of comment are taken out before the statements are parted.
        for row in (row for row in sql.splitlines() if not row.lstrip().startswith("--")):
            code, _, comment = row.partition("--")
            assert ";" not in comment, f"{name}: {row}"
            assert code.count("'") % 2 == 0
            assert ";" not in "".join(code.split("'")[1::2]), f"{name}: {row}"


def test_the_migrations_run_in_sqlite3_as_they_are(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "plain.db") as connection:
        for _, _, sql in store.migrations():
            connection.executescript(sql)
        assert connection.execute("SELECT COUNT(*) FROM fee_position").fetchone() == (0,)
    connection.close()


def test_the_migrations_run_in_postgresql_as_they_are(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        for _, _, sql in store.migrations():
            connection.exec_driver_sql(sql.replace("%", "%%"))
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM fee_position").scalar() == 0
    engine.dispose()


def test_every_table_is_by_institution() -> None:
    for sql in (sql for _, _, sql in store.migrations()):
        for table in sql.split("CREATE TABLE ")[1:]:
            name = table.split()[0]
            assert name == "migration" or "institution TEXT NOT NULL" in table or name == "institution"


def test_every_sql_file_is_numbered() -> None:
    names = sorted(path.name for path in include("sql").glob("*.sql"))
    assert names == [name for _, name, _ in store.migrations()]
    assert [number for number, _, _ in store.migrations()] == list(range(1, len(names) + 1))


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(LedgerError, match="SQLite or PostgreSQL"):
        Ledger("mysql://ledger.campus.invalid/ledger", INSTITUTION)


# -- transactions --------------------------------------------------------------------------------------


def test_a_transaction_that_fails_leaves_nothing_behind(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.write() as tx:
        batches.open_batch(tx, "charges", True, [line()], TARGET)
        raise ZeroDivisionError
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM line") == 0
        assert tx.one("SELECT COUNT(*) FROM event") == 0
    with ledger.write() as tx:
        assert batches.open_batch(tx, "charges", True, [line()], TARGET) == "000001"


def test_reading_changes_nothing(ledger: Ledger) -> None:
    with ledger.write() as tx:
        batches.open_batch(tx, "charges", True, [line()], TARGET)
    with ledger.read() as tx:
        tx.run("UPDATE line SET amount = 1")
    with ledger.read() as tx:
        assert tx.one("SELECT amount FROM line") == 1000


def test_a_reader_sees_one_state_of_the_books(open_ledger: Open, ledger: Ledger) -> None:
    other = open_ledger("run 2")
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM line") == 0
        with other.write() as writing:
            batches.open_batch(writing, "charges", True, [line()], TARGET)
        assert tx.one("SELECT COUNT(*) FROM line") == 0
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM line") == 1


def test_institutions_have_books_of_their_own(open_ledger: Open, ledger: Ledger) -> None:
    other = open_ledger("run 1", "01OTHER_INST")
    for each in (ledger, other):
        with each.write() as tx:
            assert batches.open_batch(tx, "charges", True, [line()], TARGET) == "000001"
    with other.read() as tx:
        assert len(batches.in_states(tx, "planned")) == 1
    with ledger.lease("out", "run 1"), other.lease("out", "run 9"):
        pass


def test_cents_beyond_32_bits(ledger: Ledger) -> None:
    with ledger.write() as tx:
        batches.open_batch(tx, "charges", True, [line(amount=9_999_999_999_99)], TARGET)
    with ledger.read() as tx:
        assert tx.one("SELECT SUM(amount) FROM line") == 9_999_999_999_99


def test_the_databases_clock_is_utc_and_now(ledger: Ledger) -> None:
    assert abs(ledger.now() - datetime.now(UTC)) < timedelta(seconds=5)
    now = datetime(2026, 11, 22, 3, 4, 5, 678000, tzinfo=UTC)
    assert instant(now) == "2026-11-22T03:04:05.678Z"
    assert moment(instant(now)) == now


# -- leases --------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


def test_one_run_at_a_time_works_in_a_direction(open_ledger: Open, ledger: Ledger) -> None:
    other = open_ledger("run 2")
    with ledger.lease("out", "run 1"):
        with pytest.raises(LeaseTaken, match="Run run 1 works"), other.lease("out", "run 2"):
            pass
        with other.lease("back", "run 2"):
            pass
    with other.lease("out", "run 2"):
        pass


def test_the_retry_of_a_task_that_died_takes_its_own_lease_again(open_ledger: Open, ledger: Ledger) -> None:
    first = ledger.lease("out", "run 1").__enter__()  # and the worker is gone
    with open_ledger("run 1").lease("out", "run 1") as second:
        assert second.token > first.token


def test_a_lease_runs_out_and_the_older_holder_is_fenced_off(open_ledger: Open) -> None:
    clock = Clock()
    slow, quick = open_ledger("run 1", clock=clock), open_ledger("run 2", clock=clock)
    slow.migrate()
    with slow.lease("out", "run 1") as old:
        clock.at += timedelta(minutes=store.LEASE_MINUTES, seconds=1)
        with quick.lease("out", "run 2") as new:
            with pytest.raises(LeaseTaken), slow.write(old) as tx:
                batches.open_batch(tx, "charges", True, [line()], TARGET)
            with quick.write(new) as tx:
                assert tx.one("SELECT COUNT(*) FROM line") == 0
        with pytest.raises(LeaseTaken), slow.write(old):
            pass


def test_working_prolongs_the_lease(open_ledger: Open) -> None:
    clock = Clock()
    busy, waiting = open_ledger("run 1", clock=clock), open_ledger("run 2", clock=clock)
    busy.migrate()
    with busy.lease("out", "run 1") as lease:
        for _ in range(5):
            clock.at += timedelta(minutes=store.LEASE_MINUTES - 1)
            with busy.write(lease):
                pass
        with pytest.raises(LeaseTaken), waiting.lease("out", "run 2"):
            pass


# -- what the books hold together ----------------------------------------------------------------------


def test_a_fee_has_one_pending_line(ledger: Ledger) -> None:
    with ledger.write() as tx:
        batches.open_batch(tx, "charges", True, [line()], TARGET)
    with pytest.raises(Retriable), ledger.write() as tx:
        batches.open_batch(tx, "charges", True, [line()], TARGET)
    with ledger.read() as tx:
        assert tx.one("SELECT last_batch FROM institution WHERE institution = :i") == 1


@pytest.mark.parametrize("amount", [0, -1])
def test_a_line_is_above_nought(ledger: Ledger, amount: int) -> None:
    with pytest.raises(AlmaHookError), ledger.write() as tx:
        batches.open_batch(tx, "charges", True, [line(amount=amount)], TARGET)


def test_a_state_is_left_only_by_who_knows_it(ledger: Ledger) -> None:
    with ledger.write() as tx:
        batch_id = batches.open_batch(tx, "charges", True, [line()], TARGET)
        batches.move(tx, batch_id, "planned", "written")
    with pytest.raises(LeaseTaken, match="no longer planned"), ledger.write() as tx:
        batches.move(tx, batch_id, "planned", "written")


def test_a_batch_that_is_given_up_frees_its_fees_and_keeps_its_lines(ledger: Ledger) -> None:
    with ledger.write() as tx:
        batch_id = batches.open_batch(tx, "charges", True, [line()], TARGET)
        batches.drop(tx, batch_id, "planned")
        batches.open_batch(tx, "charges", True, [line(amount=900)], TARGET)
    with ledger.read() as tx:
        assert [(row["amount"], row["state"]) for row in batches.lines_of_fee(tx, "138412345678")] == [
            (1000, "dropped"), (900, "pending"),
        ]  # fmt: skip


def test_bytes_come_back_as_they_were(ledger: Ledger) -> None:
    data = bytes(range(256)) * 10
    with ledger.write() as tx:
        batch_id = batches.open_batch(tx, "charges", True, [line()], TARGET)
        batches.keep_content(tx, batch_id, data, "sha")
    with ledger.read() as tx:
        assert batches.content(tx, batch_id) == data


def test_every_change_is_an_event_with_its_run_and_actor(ledger: Ledger) -> None:
    with ledger.write() as tx:
        batch_id = batches.open_batch(tx, "charges", True, [line()], TARGET)
        batches.move(tx, batch_id, "planned", "written")
        batches.deliver(tx, batch_id, "written")
    with ledger.read() as tx:
        events = tx.rows("SELECT * FROM event WHERE institution = :i ORDER BY event_id")
    assert [event["what"] for event in events] == ["planned", "written", "delivered"]
    assert {(event["run_id"], event["actor"], event["subject"]) for event in events} == {
        ("run 1", "a test", "batch 000001")
    }
    assert not any(SECRET in str(event.values()) for event in events)


# -- errors that give nothing away ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO line (institution, batch_id) VALUES (:i, :secret)",  # not null
        "INSERT INTO nowhere VALUES (:secret)",
        "SELECT :secret FROM",
        "INSERT INTO institution (institution, ledger_id) VALUES (:i, :secret)",  # unique
        "INSERT INTO fee (institution, fee_id, user_id, version, first_seen_at) VALUES (:i, :secret, :secret, :secret",
    ],
)
def test_no_error_of_the_database_quotes_a_value(ledger: Ledger, statement: str) -> None:
    with ledger.write() as tx:
        pass
    with pytest.raises(AlmaHookError) as caught, ledger.write() as tx:
        tx.run(statement, secret=SECRET)
    error: BaseException | None = caught.value
    assert SECRET not in str(error)
    assert error is not None
    assert error.__suppress_context__


@pytest.mark.parametrize("wrong", [{"amount": -1}, {"kind": "gift"}, {"emplid": None}, {"reason": {SECRET}}])
def test_no_error_of_many_rows_quotes_a_value(ledger: Ledger, wrong: dict[str, Any]) -> None:
    with pytest.raises(AlmaHookError) as caught, ledger.write() as tx:
        batches.open_batch(tx, "charges", True, [line()._replace(**wrong)], TARGET)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_wrong_type_quotes_no_value_either(postgres_url: str) -> None:
    ledger = Ledger(postgres_url, INSTITUTION)
    ledger.migrate()
    with pytest.raises(LedgerError) as caught, ledger.write() as tx:
        tx.run("INSERT INTO migration VALUES (CAST(:secret || 'x' AS INTEGER), '', '')", secret=SECRET)
    assert SECRET not in str(caught.value)
    ledger.close()


def test_a_password_stands_in_no_error(tmp_path: Path) -> None:
    ledger = Ledger("postgresql+psycopg://ledger:swordfish@127.0.0.1:1/ledger", INSTITUTION)
    with pytest.raises(Retriable) as caught:
        ledger.check()
    assert "swordfish" not in str(caught.value)
    assert "The ledger at postgresql://ledger@127.0.0.1:1/ledger can't be reached" in str(caught.value)
    ledger.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/opt/airflow/swordfish.db", "not an address"),
        ("postgresql:/ledger:swordfish@db/ledger", "not an address"),
        ("postgresql://ledger:swordfish@db:port/ledger", "not an address"),
        ("", "not an address"),
        # Read to the letter, what follows the first @ would be the host, and shown.
        ("postgresql://ledger:my@swordfish@db/ledger", "must be written %40"),
        ("postgresql://ledger:my@sword/fish@db/ledger", "must be written %40"),
        ("sqlite:///swordfish.db", "four slashes"),
        ("sqlite://opt/swordfish.db", "four slashes"),
        ("sqlite://", "four slashes"),
    ],
)
def test_an_address_that_can_not_be_used(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        Ledger(url, INSTITUTION)
    assert "fish" not in str(caught.value)


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"pip install 'psycopg\[binary\]'"):
        Ledger("postgresql://ledger@127.0.0.1/ledger", INSTITUTION)


def test_options_that_the_driver_does_not_know(postgres_url: str) -> None:
    ledger = Ledger(f"{postgres_url}&pasword=swordfish", INSTITUTION)
    with pytest.raises(LedgerError, match="refused the connection; look at its extra") as caught:
        ledger.check()
    assert "swordfish" not in str(caught.value)
    ledger.close()


def test_a_socket_s_folder_as_host(postgres_url: str) -> None:
    given = make_url(postgres_url)
    folder = given.query["host"]
    assert isinstance(folder, str)
    ledger = Ledger(given.set(host=folder, query={}), INSTITUTION)
    ledger.migrate()
    ledger.check()
    ledger.close()


def test_a_database_that_is_gone_is_worth_another_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "no such folder"
    ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}", INSTITUTION)
    for action in (ledger.check, ledger.migrate):
        with pytest.raises(Retriable) as caught:
            action()
        assert f"no folder {folder} for the ledger: make it" in str(caught.value)
    ledger.close()


def test_looking_for_a_ledger_makes_no_file(tmp_path: Path) -> None:
    file = tmp_path / "mistyped.db"
    ledger = Ledger(f"sqlite:///{file}", INSTITUTION)
    assert ledger.version() is None
    with pytest.raises(LedgerError) as caught:
        ledger.check()
    assert f"no ledger at sqlite:///{file}." in str(caught.value)
    assert not file.exists()
    ledger.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text(SECRET * 100)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", INSTITUTION)
    with pytest.raises(AlmaHookError) as caught:
        ledger.check()
    assert SECRET not in str(caught.value)
    assert str(tmp_path / "ledger.db") in str(caught.value)
    ledger.close()
