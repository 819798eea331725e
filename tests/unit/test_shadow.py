"""Weeks of dry runs: what the report says would have been sent is what a live campus has sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from alma_hook import payment_intake, shadow
from alma_hook.ledger import shadow as entries
from alma_hook.shadow import Shadow
from simulator.alma_records import Fee
from simulator.clock import Clock
from tests.bridge import Bridge

BEGIN = datetime(2026, 11, 2, 16, 0, tzinfo=UTC)
#: What stands in a line of PeopleSoft's file, and when it was planned.
FACTS = (
    "fee_id", "kind", "amount", "emplid", "item_type", "term", "reference", "description", "account_type",
    "effective_date", "reason",
)  # fmt: skip
Line = tuple[object, ...]
OpenCampus = Callable[..., Bridge]


@pytest.fixture
def open_campus(tmp_path: Path) -> OpenCampus:
    """``open_campus("live", live=True, ...)``: one of several campuses that are alike to the cent, at one time of day."""

    def made(name: str, *, live: bool, settings: Callable[[str], str] = str, **options: object) -> Bridge:
        work = tmp_path / name
        work.mkdir()
        written = {True: "live = true", False: "live = false"}[live]
        return Bridge(
            work,
            settings=lambda text: settings(text.replace("live = true", written)),
            clock=Clock(BEGIN),
            **options,  # type: ignore[arg-type]
        )

    return made


def shown(bridge: Bridge) -> Shadow:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        history = entries.history(tx)
    ledger.close()
    return shadow.replay(history, bridge.campus, bridge.layout)


def would_be_lines(bridge: Bridge) -> list[Line]:
    return sorted((w.at, *(getattr(w.line, name) for name in FACTS)) for w in shown(bridge).lines)


def would_be_payments(bridge: Bridge) -> list[tuple[object, ...]]:
    return sorted((w.at, w.fee_id, w.cents) for w in shown(bridge).posted if w.cents)


def sent_lines(bridge: Bridge) -> list[Line]:
    """What a live campus's ledger has sent, and when it was planned."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows(
            "SELECT l.*, b.created_at FROM line l JOIN batch b ON b.institution = l.institution "
            "AND b.batch_id = l.batch_id WHERE l.institution = :i AND l.state = 'sent'"
        )
    ledger.close()
    return sorted((row["created_at"], *(row[name] for name in FACTS)) for row in rows)


def posted_payments(bridge: Bridge) -> list[tuple[object, ...]]:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows("SELECT * FROM payment_now WHERE institution = :i AND posted > 0")
    ledger.close()
    return sorted((row["marked_at"], row["fee_id"], int(row["posted"])) for row in rows)


def dry_sis_to_alma(bridge: Bridge) -> None:
    """The tasks of the DAG that are not skipped while a campus is not live."""
    with bridge.working("back") as (ledger, lease):
        payment_intake.find_files(bridge.folder, ledger, lease, bridge.campus)
        payment_intake.take_in(ledger, lease, bridge.campus)


class PresentProcess:
    """What a campus has today: it charges in PeopleSoft by files of its own and posts payments with keys of its own."""

    def __init__(self, bridge: Bridge) -> None:
        self.far = bridge.far
        self.done: set[str] = set()

    def load(self, name: str, content: bytes) -> None:
        """Hand a file to PeopleSoft."""
        self.far.path(f"{self.far.folders.inbound}/{name}").write_bytes(content)
        for result in self.far.load_inbound():
            assert result.loaded, result

    def post(self) -> None:
        """Post to Alma what students have paid since the last time."""
        for number, payment in sorted(self.far.peoplesoft.payments.items()):
            for application in payment.applied if number not in self.done else []:
                item = self.far.peoplesoft.items[application.item_nbr]
                fee_id = item.reference.removeprefix(self.far.reference_prefix)
                cents = min(application.cents, self.far.alma.fees[fee_id].balance_cents)
                self.far.alma.pay_by_api(
                    fee_id, cents, method="ONLINE", external_transaction_id=f"BURSAR{number}"
                )
            self.done.add(number)


def both(campuses: tuple[Bridge, Bridge], act: Callable[[Bridge], object]) -> None:
    """The same happens on both campuses."""
    for campus in campuses:
        act(campus)


METHODS = ["analytics_report", "sis_profile", "all_users"]


def a_day_at_the_library(campuses: tuple[Bridge, Bridge]) -> None:
    both(campuses, lambda c: c.far.new_fees(4))
    both(campuses, lambda c: c.far.desk_payments(2))
    both(campuses, lambda c: c.far.waives(2))
    both(campuses, lambda c: c.far.clock.advance(hours=12))
    both(campuses, lambda c: c.far.refresh_analytics())
    both(campuses, lambda c: c.far.write_sis_export(24 * 400, "xml"))


@pytest.mark.parametrize("method", METHODS)
def test_dry_runs_would_have_sent_what_live_runs_sent(
    open_campus: OpenCampus, ledger_url: str, method: str
) -> None:
    live, dry = campuses = open_campus("live", live=True), open_campus("dry", live=False, url=ledger_url)
    for _ in range(8):
        a_day_at_the_library(campuses)
        live.alma_to_sis(method)
        dry.alma_to_sis(method, live=False)
    sent = sent_lines(live)
    kinds = {(line[2], line[-1]) for line in sent}
    assert {("charge", "new"), ("credit", "waived"), ("credit", "paid in the library")} <= kinds
    assert len({line[0] for line in sent}) == 8
    assert would_be_lines(dry) == sent
    held = {held.entry.fee_id: held.entry.kind for held in shown(dry).held if held.until is None}
    listed = live.listed_fees()
    assert set(held) == listed
    assert {f"fee {fee_id}": kind for fee_id, kind in held.items()} == live.exceptions()
    assert dry.folder.files("/sfs/inbound", "*") == []
