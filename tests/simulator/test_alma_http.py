"""Alma over HTTP: a public client runs against it unchanged, and connections break where they should."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from simulator.alma import AlmaModel
from simulator.alma_api import FULL_KEY, AlmaApi
from simulator.alma_http import AlmaServer
from simulator.analytics import REPORT_PATH
from simulator.limits import Limits

HEADERS = {"Authorization": f"apikey {FULL_KEY.value}", "Accept": "application/json"}


@pytest.fixture
def api() -> AlmaApi:
    model = AlmaModel()
    model.add_user("000123456")
    return AlmaApi(model, limits=Limits(per_second=10_000))


@pytest.fixture
def server(api: AlmaApi) -> Iterator[AlmaServer]:
    with AlmaServer(api) as running:
        yield running


def test_keep_alive_serves_many_calls_on_one_connection(api: AlmaApi, server: AlmaServer) -> None:
    with requests.Session() as session:
        session.headers.update(HEADERS)
        began = time.monotonic()
        for _ in range(50):
            answer = session.get(f"{server.url}/almaws/v1/users/000123456/fees", timeout=5)
            assert answer.json()["total_record_count"] == 0
        assert time.monotonic() - began < 2
    assert api.call_count("GET", "/fees") == 50


@pytest.mark.parametrize(("kind", "balance"), [("drop_before", 1000), ("drop_after", 600)])
def test_dropped_connections(api: AlmaApi, server: AlmaServer, kind: str, balance: int) -> None:
    fee = api.model.add_fee("000123456", 1000)
    api.faults.add_http(kind, method="POST")  # type: ignore[arg-type]
    target = f"{server.url}/almaws/v1/users/000123456/fees/{fee.id}"
    query = {"op": "pay", "method": "ONLINE", "amount": "4.00"}
    with requests.Session() as session, pytest.raises(requests.ConnectionError):
        session.post(target, params=query, headers=HEADERS, timeout=5)
    assert fee.balance_cents == balance


def test_payments_of_many_threads_all_count(api: AlmaApi, server: AlmaServer) -> None:
    fee = api.model.add_fee("000123456", 10_000)

    def pay(_: int) -> int:
        query = {"op": "pay", "method": "ONLINE", "amount": "1.00"}
        with requests.Session() as session:
            target = f"{server.url}/almaws/v1/users/000123456/fees/{fee.id}"
            return session.post(target, params=query, headers=HEADERS, timeout=5).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(pay, range(40))) == {200}
    assert fee.balance_cents == 6000
    assert len(fee.transactions) == 40


def test_almapy_reads_pays_and_reports(api: AlmaApi, server: AlmaServer) -> None:
    """almapy 9.3: its session and base address are injected, nothing else is."""
    almapy = pytest.importorskip("almapy")
    import niquests

    fees = [api.model.add_fee("000123456", 500 + number) for number in range(60)]
    api.analytics.refresh()

    async def story() -> None:
        async with niquests.AsyncSession(base_url=f"{server.url}/almaws/v1") as session:
            client = almapy.AlmaClient(FULL_KEY.value, client=session, rate_limit=1000)
            shown = await client.users.fines.get_fines("000123456")
            assert shown.total_record_count == 60
            assert [one.id for one in shown.fee] == [fee.id for fee in fees]
            paid = await client.users.fines.update_fee(
                "000123456", fees[0].id, op="pay", amount=2.5, method="ONLINE", external_transaction_id="X1"
            )
            assert paid.balance == 2.5
            assert paid.transaction[0].external_transaction_id == "X1"
            with pytest.raises(almapy.exceptions.UserNotFoundError):
                await client.users.fines.get_fines("999999999")
            rows = await client.analytics.get_full_report(REPORT_PATH, limit=25)
            assert [row["Fine Fee Id"] for row in rows] == [fee.id for fee in fees]
            assert rows[0]["Remaining Amount"] == "5"

    asyncio.run(story())
    assert fees[0].balance_cents == 250
