"""The lives find what they are for: with one protection taken out, a promise is soon seen to be broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from alma_hook import alma_answers, charges, delivery, payment_file, payments
from alma_hook.alma_answers import Fee
from alma_hook.ledger import Ledger, Row, Tx, batches
from alma_hook.ledger import fees as readings
from tests.simulation.play import play

MOST_SEEDS = 500
Patch = pytest.MonkeyPatch


def no_read_back(patch: Patch) -> None:
    """A payment of unclear outcome is tried again without a look at what Alma has."""
    plain = payments._Poster._one

    def one(self: Any, account: str, row: Row, fee: Fee) -> Any:
        return plain(self, account, row, replace(fee, transactions=()))

    patch.setattr(payments._Poster, "_one", one)


def no_quiet_period(patch: Patch) -> None:
    """It is looked for at once, and not after the longest time that a call may take."""
    patch.setattr(payments._Poster, "_quiet_until", lambda *_: False)


def no_deadline(patch: Patch) -> None:
    """A worker that stood still sends its call whenever it wakes up."""
    patch.setattr(payments, "DEADLINE_SECONDS", 1e9)


def no_temporary_name(patch: Patch) -> None:
    """The file grows under its final name, where PeopleSoft takes it."""
    plain = delivery._Delivery._begin_upload

    def begin_upload(self: Any) -> None:
        plain(self)
        if self.row["temporary"] is not None:
            with self.ledger.write(self.lease) as tx:
                tx.run(
                    "UPDATE batch SET temporary = file_name WHERE institution = :i AND batch_id = :b",
                    b=self.row["batch_id"],
                )
                self.row = batches.batch(tx, self.row["batch_id"])
            self.temporary = self.final

    patch.setattr(delivery._Delivery, "_begin_upload", begin_upload)


def payments_of_the_ledger(patch: Patch) -> None:
    """Pa is what the ledger posted, not what the reading shows."""
    plain = charges.position_of

    def position_of(row: Row, _own: Any, posted: Mapping[str, int]) -> charges.Position:
        return plain(row, {row["fee_id"]: list(posted.items())}, posted)

    patch.setattr(charges, "position_of", position_of)


def missing_is_nought(patch: Patch) -> None:
    """A fee that is found nowhere is taken for settled."""
    plain = readings.store_missing

    def store_missing(tx: Tx, fee_id: str, version: int, problem: str) -> None:
        plain(tx, fee_id, version, problem)
        tx.run(
            "UPDATE reading SET balance = 0, status = 'CLOSED', problem = NULL "
            "WHERE institution = :i AND fee_id = :fee",
            fee=fee_id,
        )

    patch.setattr(readings, "store_missing", store_missing)


def stale_readings(patch: Patch) -> None:
    """What is planned may rest on a reading from before the fee's books changed."""
    plain = readings.readings_of_run

    def readings_of_run(tx: Tx) -> list[Row]:
        return [{**row, "fee_version": row["version"]} for row in plain(tx)]

    patch.setattr(readings, "readings_of_run", readings_of_run)


def no_fence(patch: Patch) -> None:
    """A worker that stood still goes on although another has taken over."""
    patch.setattr(Ledger, "_prolong", lambda *_: None)


def no_guard_against_an_older_ledger(patch: Patch) -> None:
    """Neither Alma's payments nor the files in the folders are asked whether the ledger is the right one."""
    patch.setattr(charges, "refuse_foreign", lambda *_: None)
    patch.setattr(delivery._Delivery, "_archive", lambda _: None)
    patch.setattr(delivery._Delivery, "_written", lambda self: self._begin_upload())


def float_cents(patch: Patch) -> None:
    """Amounts are read as floats."""

    def cents(text: Any) -> int:
        return int(float(text) * 100)

    patch.setattr(alma_answers, "cents", cents)
    patch.setattr(payment_file, "cents", cents)


CASES: list[tuple[tuple[Callable[[Patch], None], ...], frozenset[str]]] = [
    ((no_read_back,), frozenset()),
    ((no_quiet_period,), frozenset()),
    ((no_deadline,), frozenset()),
    ((no_temporary_name,), frozenset()),
    ((payments_of_the_ledger,), frozenset()),
    ((missing_is_nought,), frozenset()),
    ((stale_readings,), frozenset()),
    ((no_fence,), frozenset()),
    ((stale_readings, no_fence), frozenset()),
    ((no_guard_against_an_older_ledger,), frozenset({"older ledger put back"})),
    ((float_cents,), frozenset()),
]


@pytest.mark.parametrize(
    ("protections", "switched_on"),
    CASES,
    ids=[" and ".join(each.__name__ for each in protections) for protections, _ in CASES],
)
def test_without_it_a_promise_is_broken(
    protections: tuple[Callable[[Patch], None], ...],
    switched_on: frozenset[str],
    monkeypatch: Patch,
    record_property: Callable[[str, object], None],
) -> None:
    for protection in protections:
        protection(monkeypatch)
    for seed in range(MOST_SEEDS):
        broken = play(seed, switched_on=switched_on).violations
        if broken:
            print(f"caught after {seed + 1} lives: {broken[0]}")
            record_property("lives", seed + 1)
            monkeypatch.undo()
            assert play(seed).violations == []
            return
    pytest.fail(f"not seen in {MOST_SEEDS} lives")
