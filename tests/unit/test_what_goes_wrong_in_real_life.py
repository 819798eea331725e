"""Accidents that are nobody's crash: an old backup, a waiver after a dispute, settings changed at the wrong moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from alma_hook import charges
from alma_hook.alma import Request
from alma_hook.errors import NotPermitted, OutcomeUnknown, Retriable, SendingStopped
from alma_hook.hook import _send
from alma_hook.ledger import Lease, Ledger, batches
from simulator.alma_records import Fee
from tests.bridge import Bridge, LocalFolder


@pytest.fixture
def small(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0)


def charged(bridge: Bridge, cents: int, **fields: Any) -> Fee:
    fee = bridge.far.alma.add_fee(bridge.far.students[0], cents, type="OVERDUEFINE", **fields)
    run(bridge)
    return fee


def run(bridge: Bridge) -> None:
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.load_inbound()


def pays(bridge: Bridge, fee: Fee, cents: int) -> None:
    bridge.far.peoplesoft.pay("ALMA" + fee.id, cents)
    bridge.far.write_query_output()
    bridge.sis_to_alma()


def as_task(bridge: Bridge, run_id: str, work: Callable[[Ledger, Lease], Any]) -> Any:
    ledger = bridge.ledger(run_id)
    try:
        with ledger.lease("out", run_id) as lease:
            return work(ledger, lease)
    finally:
        ledger.close()


def test_a_ledger_put_back_from_a_backup_charges_nobody_again(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0)
    backup = tmp_path / "backup.db"
    shutil.copyfile(tmp_path / "ledger.db", backup)
    fee = charged(bridge, 1000)
    archived = {p.name: p.read_bytes() for p in bridge.far.path("/sfs/archive").iterdir()}
    for part in ("", "-wal", "-shm"):
        (tmp_path / f"ledger.db{part}").unlink(missing_ok=True)
    shutil.copyfile(backup, tmp_path / "ledger.db")
    # One fee more makes the file longer than the one in the archive.
    bridge.far.alma.add_fee(bridge.far.students[1], 500, type="OVERDUEFINE")
    bridge.far.refresh_analytics()

    with pytest.raises(SendingStopped, match="older copy"):
        bridge.alma_to_sis()
    bridge.far.load_inbound()

    assert bridge.books().fees[fee.id].charged_cents == 1000
    assert {p.name: p.read_bytes() for p in bridge.far.path("/sfs/archive").iterdir()} == archived


def test_a_waiver_after_a_dispute_does_not_settle_a_payment(small: Bridge) -> None:
    fee = charged(small, 1000)
    small.far.alma.dispute(fee.id)
    pays(small, fee, 400)
    assert set(small.exceptions().values()) == {"fee is INDISPUTE in Alma"}
    small.far.alma.restore(fee.id)
    small.far.alma.waive_at_desk(fee.id, 400)

    run(small)
    small.sis_to_alma()

    assert small.far.alma.fee(fee.id).balance_cents == 200
    assert small.books().unequal == {}
    assert small.exceptions() == {}


def test_telling_payments_apart_in_another_way_stops(small: Bridge) -> None:
    fee = charged(small, 1000)
    pays(small, fee, 300)
    columns = {k: v for k, v in small.campus.sis_to_alma.columns.items() if k != "payment_id"}
    way = small.campus.sis_to_alma.model_copy(update={"columns": columns, "complete_days": True})
    small.campus = small.campus.model_copy(update={"sis_to_alma": way})
    small.far.write_query_output()

    with pytest.raises(SendingStopped, match="payment_id"):
        small.sis_to_alma()

    assert small.far.alma.fee(fee.id).balance_cents == 700


def test_a_refused_file_that_comes_back_under_right_settings_is_taken_in(small: Bridge) -> None:
    fee = charged(small, 1000)
    small.far.peoplesoft.pay("ALMA" + fee.id, 300)
    path = small.far.path(small.far.write_query_output())
    content = path.read_bytes()
    right = small.campus
    columns = {**right.sis_to_alma.columns, "amount": "Amount"}
    small.campus = right.model_copy(
        update={"sis_to_alma": right.sis_to_alma.model_copy(update={"columns": columns})}
    )
    small.sis_to_alma()
    path.unlink()
    small.sis_to_alma()
    assert list(small.exceptions().values()) == ["refused payment file is gone"]

    small.campus = right
    path.write_bytes(content)
    small.sis_to_alma()

    assert small.far.alma.fee(fee.id).balance_cents == 700
    assert small.exceptions() == {}


def test_a_file_that_takes_the_place_of_another_while_it_is_archived_is_read_too(small: Bridge) -> None:
    fee = charged(small, 1000)
    small.far.peoplesoft.pay("ALMA" + fee.id, 300)
    path = small.far.path(small.far.write_query_output())
    small.far.peoplesoft.pay("ALMA" + fee.id, 200)
    later = small.far.path(small.far.write_query_output())
    newer = later.read_bytes()
    later.unlink()

    def replaced(action: str, _path: str) -> None:
        if action == "rename":
            small.folder.before = lambda _action, _path: None
            path.write_bytes(newer)

    small.folder.before = replaced
    small.sis_to_alma()
    small.sis_to_alma()

    assert small.far.alma.fee(fee.id).balance_cents == 500


def test_mode_changed_while_a_file_is_uploaded_directly_is_left_to_a_person(small: Bridge) -> None:
    small.campus = small.campus.model_copy(
        update={"sfs": small.campus.sfs.model_copy(update={"mode": "direct"})}
    )
    fee = small.far.alma.add_fee(small.far.students[0], 1000, type="OVERDUEFINE")
    small.far.refresh_analytics()

    def taken_and_lost(action: str, path: str) -> None:
        if action == "written" and path.startswith("/sfs/inbound"):
            small.far.load_inbound()
            raise Retriable("The line broke off.")

    small.folder = LocalFolder(small.far.root, taken_and_lost)
    with suppress(Retriable):
        small.alma_to_sis()
    small.folder = LocalFolder(small.far.root)
    small.campus = small.campus.model_copy(
        update={"sfs": small.campus.sfs.model_copy(update={"mode": "rename"})}
    )
    run(small)

    assert small.books().fees[fee.id].charged_cents == 1000
    ledger = small.ledger("look")
    with ledger.read() as tx:
        assert [row["batch_id"] for row in batches.in_states(tx, "unconfirmed")] == ["000001"]
    ledger.close()


def test_a_plan_cleared_days_later_uses_no_old_reading(small: Bridge) -> None:
    fee = small.far.alma.add_fee(small.far.students[0], 1000, type="LOCKERKEY")
    small.far.refresh_analytics()

    def plan(ledger: Ledger, lease: Lease) -> charges.PlanCounts:
        return charges.plan(ledger, lease, small.campus, small.layout, small.folder.target, True, small.marks)

    as_task(small, "monday", lambda ledger, lease: small.retrieve("analytics_report", ledger, lease, True))
    as_task(small, "monday", lambda ledger, lease: small.read(ledger, lease, True))
    as_task(small, "monday", plan)
    assert set(small.exceptions().values()) == {"fee type without item type"}
    small.far.clock.advance(hours=48)
    small.far.alma.pay_at_desk(fee.id)
    types = {**small.campus.item_types, "LOCKERKEY": "300000000001"}
    small.campus = small.campus.model_copy(update={"item_types": types})

    counts = as_task(small, "monday", plan)

    assert (counts.charges, counts.stale) == (0, 1)


def test_what_was_planned_before_an_outage_is_worked_out_anew(small: Bridge) -> None:
    fee = small.far.alma.add_fee(small.far.students[0], 1000, type="OVERDUEFINE")
    small.far.refresh_analytics()

    def no_server(action: str, _path: str) -> None:
        raise Retriable(f"{action}: no answer")

    small.folder = LocalFolder(small.far.root, no_server)
    with suppress(Retriable):
        small.alma_to_sis()
    small.folder = LocalFolder(small.far.root)
    small.far.clock.advance(hours=72)
    small.far.alma.pay_at_desk(fee.id)

    run(small)

    books = small.books().fees[fee.id]
    assert (books.charged_cents, books.credited_cents) == (0, 0)
    assert small.exceptions() == {}


def test_a_payment_under_the_emplid_of_the_newest_charge_is_posted(small: Bridge) -> None:
    fee = charged(small, 1000)
    small.far.alma.waive_at_desk(fee.id, 1000)
    run(small)
    # The library takes the waiver back, and the student has another EMPLID by now.
    fee.status, fee.balance_cents = "ACTIVE", 1000
    fee.transactions.clear()
    small.far.alma.rekey_user(small.far.students[0].primary_id, "000000042")
    small.far.peoplesoft.emplids.add("000000042")
    run(small)
    assert small.books().fees[fee.id].charged_cents == 2000

    small.far.peoplesoft.pay("000000042", 1000)
    small.far.write_query_output()
    small.sis_to_alma()

    assert small.far.alma.fee(fee.id).balance_cents == 0
    assert small.exceptions() == {}


def test_an_account_that_can_not_be_read_is_listed(small: Bridge) -> None:
    fee = charged(small, 1000)
    small.far.faults.add_http("refuse", method="GET", path="fees", times=None, status=500)
    pays(small, fee, 300)
    assert set(small.exceptions().values()) == {"account could not be read"}

    small.far.faults.clear()
    small.sis_to_alma()

    assert small.exceptions() == {}
    assert small.far.alma.fee(fee.id).balance_cents == 700


def test_a_new_primary_id_is_learnt_from_the_report(small: Bridge) -> None:
    fee = charged(small, 1000)
    small.far.alma.rekey_user(small.far.students[0].primary_id, "000000042")
    run(small)
    ledger = small.ledger("look")
    with ledger.read() as tx:
        assert (
            tx.one("SELECT user_id FROM fee WHERE institution = :i AND fee_id = :fee", fee=fee.id)
            == "000000042"
        )
    ledger.close()


def test_an_encrypted_connection_that_breaks_off_leaves_the_outcome_open() -> None:
    class Breaking:
        def __init__(self, said: str) -> None:
            self.said = said

        def request(self, *_: object, **__: object) -> None:
            raise requests.exceptions.SSLError(self.said)

    post = Request("POST", "/users/1/fees/1")
    with pytest.raises(OutcomeUnknown):
        _send(Breaking("UNEXPECTED_EOF_WHILE_READING"), "https://gateway.invalid", post, (1, 1))  # type: ignore[arg-type]
    with pytest.raises(NotPermitted):
        _send(Breaking("CERTIFICATE_VERIFY_FAILED"), "https://gateway.invalid", post, (1, 1))  # type: ignore[arg-type]
