"""Reading fees and posting payments at the limit: the real tasks' work against an Alma that counts every second."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.common import Row
from bench.far_alma import INSTITUTION, KEY, FarAlma, Seen, far_alma

RATES, LATENCIES = (10, 25, 50), (0.15, 0.4, 1.0)


def hook(url: str, rate: int, per_minute: int | None = None):
    """The hook as a task has it, with the whole rate."""
    from alma_hook.hook import AlmaHook

    extra = {"requests_per_second": rate, **({"requests_per_minute": per_minute} if per_minute else {})}
    os.environ["AIRFLOW_CONN_ALMA_BENCH"] = json.dumps(
        {"conn_type": "alma", "host": url, "password": KEY, "extra": extra}
    )
    return AlmaHook("alma_bench", workers=128)


@contextmanager
def books(folder: Path, url: str | None = None, institution: str = INSTITUTION) -> Iterator[tuple]:
    """A fresh ledger, opened, and its campus; with a ``url``, that institution's part of a ledger that is there."""
    from alma_hook import campus
    from alma_hook.ledger import Ledger, institutions
    from tests.bridge import SETTINGS

    file = folder / "campus.toml"
    text = SETTINGS.format(report_path="/shared/x", layout="default")
    file.write_text(text.replace(INSTITUTION, institution))
    for old in folder.glob("ledger.db*"):
        old.unlink()
    ledger = Ledger(url or f"sqlite:///{folder / 'ledger.db'}", institution, run_id="bench")
    ledger.migrate()
    with ledger.write() as tx:
        institutions.open_clean(tx, "the bench")
    try:
        yield ledger, campus.load(file)
    finally:
        ledger.close()


def read(
    far: FarAlma,
    rate: int,
    latency: float,
    users: Sequence[str],
    folder: Path,
    per_minute: int | None = None,
    ledger_of: tuple[str | None, str] = (None, INSTITUTION),
) -> Seen:
    """Read these accounts as the task ``read_fees`` does. ``ledger_of``: the ledger's address, and whose part of it."""
    from alma_hook import fees
    from alma_hook.ledger import fees as entries

    with books(folder, *ledger_of) as (ledger, campus), ledger.lease("out", "bench") as lease:
        with ledger.write(lease) as tx:
            entries.add_accounts(tx, True, users, "bench")
        with_hook = hook(far.url, rate, per_minute)
        api = with_hook.get_conn()
        far.begin(rate, latency, per_minute)
        counts = fees.read_accounts(
            api, ledger, lease, [], live=True, campus=campus, workers=with_hook.workers
        )
        with_hook.close()
        if (counts.accounts, counts.fees) != (len(users), len(users)):
            raise SystemExit(f"{counts} of {len(users)} accounts")
    return far.seen()


def post(far: FarAlma, rate: int, latency: float, count: int, folder: Path) -> Seen:
    """Post so many payments, each of an account of its own, as the task ``post_payments`` does."""
    from alma_hook import payments
    from alma_hook.alma_answers import Fee
    from alma_hook.keys import external_id
    from alma_hook.ledger import batches, fees
    from alma_hook.ledger import payments as entries
    from tests.bridge import LocalFolder

    made = far.fees(count)
    with books(folder) as (ledger, campus), ledger.lease("back", "bench") as lease:
        with ledger.write(lease) as tx:
            target = batches.Target("default", "alma_{sequence}.dat", "2026-11-22", "far", "/sfs/inbound")
            lines = []
            for user, fee_id in made:
                fee = Fee(fee_id, user, "OVERDUEFINE", "ACTIVE", 1000, 1000, "MAIN", None, (), "USD")
                fees.store_reading(tx, fee, 0, emplid=user, reason="fee")
                lines.append(batches.Line(fee_id, "charge", 1000, user, "300000000001", "2268", f"ALMA{fee_id}",
                                          "Library fee", "LIB", "2026-11-22", "", "new", fee_id))  # fmt: skip
            batches.deliver(tx, batches.open_batch(tx, "charges", True, lines, target), "planned")
            # This institution's first payment was read back long ago.
            entries.pass_canary(tx, waiver=False)
            keys = [(f"P{fee_id}", user, fee_id) for user, fee_id in made]
            entries.add(tx, "paid.csv", "0" * 64, [
                entries.Payment(key, external_id(INSTITUTION, key), fee_id, user, 400, "2026-11-22", n)
                for n, (key, user, fee_id) in enumerate(keys, 2)
            ])  # fmt: skip
        (folder / "sfs" / "archive").mkdir(parents=True, exist_ok=True)
        with_hook = hook(far.url, rate)
        api = with_hook.get_conn()
        far.begin(rate, latency)
        counts = payments.post(ledger, lease, campus, api, LocalFolder(folder), [], workers=with_hook.workers)
        with_hook.close()
        if (counts.posted, counts.listed) != (count, 0):
            raise SystemExit(f"{counts} of {count} payments")
    return far.seen()


def measure(seconds: float = 6.0, posting: float = 10.0) -> Iterator[Row]:
    """Each rate with each latency, reading and posting; then the limit of a minute, and a limit lower than was set."""
    refused = calls = 0
    with far_alma() as far, tempfile.TemporaryDirectory(prefix="bench-") as work:
        folder = Path(work)
        users = [user for user, _ in far.fees(int(max(RATES) * seconds))]
        for rate in RATES:
            for latency in LATENCIES:
                for what in ("reading", "posting"):
                    if what == "reading":
                        seen = read(far, rate, latency, users[: int(rate * seconds)], folder)
                    else:
                        seen = post(far, rate, latency, int(rate * posting) // 2, folder)
                    refused, calls = refused + seen.refused, calls + len(seen.arrived)
                    yield Row(
                        f"{what} at {rate}/s, {latency} s a call: share of the rate", 0.97, seen.rate / rate
                    )
        yield Row(f"refused of {calls} calls of those, per 1,000", 1.0, 1000 * refused / calls, most=True)
        # 10 a second are allowed, but only 300 a minute.
        seen = read(far, 10, 0.15, users[:100], folder, per_minute=300)
        yield Row("reading at 300 a minute: share of the rate", 0.97, seen.rate / 5)
        yield Row("refused of those", 0.0, seen.refused, most=True)
        yield from lowered(far, users, folder)


def lowered(far: FarAlma, users: Sequence[str], folder: Path) -> Iterator[Row]:
    """Set for 25 a second where Alma allows 12: how many calls does it refuse?"""
    from alma_hook.pace import Pace  # noqa: F401  # the pace is inside the hook

    with books(folder) as (ledger, campus), ledger.lease("out", "bench") as lease:
        from alma_hook import fees
        from alma_hook.ledger import fees as entries

        with ledger.write(lease) as tx:
            entries.add_accounts(tx, True, users[:150], "bench")
        with_hook = hook(far.url, 25)
        api = with_hook.get_conn()
        far.begin(12, 0.15)
        counts = fees.read_accounts(
            api, ledger, lease, [], live=True, campus=campus, workers=with_hook.workers
        )
        with_hook.close()
        seen = far.seen()
        yield Row(
            "set to 25/s where Alma allows 12: accounts read of 150", 150, counts.accounts - counts.problems
        )
        yield Row("refused of those, of 100 calls", None, 100 * seen.refused / len(seen.arrived))


def peers(calls: int = 40) -> Iterator[Row]:
    """The same reading by others: a plain loop, almapy, almapiwrapper."""
    rate, latency = 25, 0.4
    with far_alma() as far, tempfile.TemporaryDirectory(prefix="bench-") as work:
        users = [user for user, _ in far.fees(rate * 8)]
        yield Row(f"this package at {rate}/s, {latency} s a call: share of the rate", 0.97,
                  read(far, rate, latency, users, Path(work)).rate / rate)  # fmt: skip
        for name, by in (("requests.get, one after the other", by_requests), ("almapy", by_almapy),
                         ("almapiwrapper", by_almapiwrapper)):  # fmt: skip
            far.begin(rate, latency)
            try:
                by(far, users[:calls] if by is not by_almapy else users, rate)
            except ImportError:
                print(f"{name} is not installed", file=sys.stderr)
                continue
            seen = far.seen()
            yield Row(f"{name}: share of the rate", None, seen.rate / rate)
            yield Row(f"{name}: refused of 1,000 calls", None, 1000 * seen.refused / len(seen.arrived))


def by_requests(far: FarAlma, users: Sequence[str], _rate: int) -> None:
    """What a script does."""
    import requests

    for user in users:
        requests.get(f"{far.url}/almaws/v1/users/{user}/fees", timeout=20,
                     headers={"Authorization": f"apikey {KEY}", "Accept": "application/json"}).json()  # fmt: skip


def by_almapy(far: FarAlma, users: Sequence[str], rate: int) -> None:
    """All at once, as its own limit of calls lets them."""
    import almapy
    import niquests
    import stamina.instrumentation

    stamina.instrumentation.set_on_retry_hooks([])  # it writes a line for each call that it repeats

    async def story() -> None:
        async with niquests.AsyncSession(base_url=f"{far.url}/almaws/v1") as session:
            client = almapy.AlmaClient(KEY, client=session, rate_limit=rate)
            await asyncio.gather(
                *(client.users.fines.get_fines(user) for user in users), return_exceptions=True
            )

    asyncio.run(story())


def by_almapiwrapper(far: FarAlma, users: Sequence[str], _rate: int) -> None:
    """One after the other, which is all it can."""
    from almapiwrapper.apikeys import ApiKeys
    from almapiwrapper.users import User

    User.api_base_url = User.api_base_url_users = f"{far.url}/almaws/v1/users"
    key = {"API_Key": KEY, "Supported_APIs": [{"Area": "Users", "Permissions": "RW", "Env": "P"}]}
    ApiKeys._read_keys_file = staticmethod(lambda: {"CAMPUS": [key]})
    for user in users:
        found = User(user, "CAMPUS", "P").fees
        if not found:
            raise SystemExit("almapiwrapper read nothing")
