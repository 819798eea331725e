"""Random lives in which PeopleSoft rejects lines and forgets files, and a person does what the docs say."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from alma_hook import confirmations
from alma_hook.errors import Fatal
from alma_hook.ledger import items
from tests.bridge import Bridge
from tests.unit.test_confirmations import with_items

SEEDS = int(os.environ.get("SEEDS", "8"))
ROUNDS = 14


class Campus:
    """One seed's campus. ``forgotten``: files that PeopleSoft lost; they never come back."""

    def __init__(self, work: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        wait = self.rng.choice(["", "credit_wait_days = 0\n", "credit_wait_days = 2\n"])
        self.bridge = Bridge(
            work, students=5, fees=0, seed=seed,
            settings=lambda text: with_items(text).replace("[sfs]\n", f"[sfs]\n{wait}"),
        )  # fmt: skip
        self.far = self.bridge.far
        self.everybody = frozenset(self.far.peoplesoft.emplids or ())
        self.answered = 0

    def live(self, *, troubled: bool) -> None:
        """A day: something happens in Alma, a run, PeopleSoft loads or does not, a list, a person looks."""
        for happens in (lambda: self.far.new_fees(1), lambda: self.far.waives(1), lambda: self.far.desk_payments(1),
                        lambda: self.far.students_pay(0.3), self._raise):  # fmt: skip
            if troubled and self.rng.random() < 0.4:
                happens()
        self.far.clock.advance(hours=self.rng.choice([5, 20, 40]))
        self.far.refresh_analytics()
        self.bridge.alma_to_sis()
        self.far.clock.advance(hours=1)
        if troubled and self.rng.random() < 0.2:
            for file in self.far.path("/sfs/inbound").glob("*.dat"):
                file.unlink()
        if not troubled or self.rng.random() < 0.7:
            unknown = (
                self.rng.sample(sorted(self.everybody), self.rng.choice([0, 0, 1, 2])) if troubled else []
            )
            self.far.peoplesoft.emplids = set(self.everybody) - set(unknown)
            self.far.load_inbound()
        self.far.clock.advance(hours=1)
        if not troubled or self.rng.random() < 0.8:
            self.far.write_query_output(kind="applied")
        self.far.write_query_output()
        self.bridge.sis_to_alma()
        self.look()

    def _raise(self) -> None:
        active = [fee for fee in self.far.alma.fees.values() if fee.status == "ACTIVE"]
        if active:
            self.far.alma.raise_fee(self.rng.choice(active).id, self.rng.randrange(1, 900))

    def look(self) -> None:
        """The office tells of rejected lines; what lists show as missing is made void without it.

        Where an item differs, the office is asked whether it has loaded the fee's lines. A file that lies in
        its folder still is not missing.
        """
        for load in self.far.peoplesoft.loads[self.answered :]:
            batch_id = load.file_name.removesuffix(".dat").rpartition("_")[2]
            for reject in load.rejects:
                self._void(batch_id, reject.line_number - 1, rejected=True)
        self.answered = len(self.far.peoplesoft.loads)
        waiting = {file.name for file in self.far.path("/sfs/inbound").iterdir()}
        loaded = {load.file_name for load in self.far.peoplesoft.loads}
        differing = {subject for subject, kind in self.bridge.exceptions().items() if kind == items.DIFFERS}
        ledger = self.bridge.ledger("look")
        with ledger.read() as tx:
            rows = items.unconfirmed(tx)
        ledger.close()
        # Credits first: a charge whose credits were sent has to stand.
        for row in sorted(rows, key=lambda row: row["kind"], reverse=True):
            if row["listed"] and row["file_name"] not in waiting:
                self._void(row["batch_id"], row["line_no"], rejected=False)
            elif f"item {row['fee_id']}" in differing and row["file_name"] not in waiting | loaded:
                self._void(row["batch_id"], row["line_no"], rejected=True)

    def _void(self, batch_id: str, line_no: int, *, rejected: bool) -> None:
        settings = self.bridge.campus.sis_to_alma.items
        with self.bridge.working("out") as (ledger, lease), suppress(Fatal):
            confirmations.void(
                ledger, lease, batch_id, line_no, "as the docs say", rejected=rejected, settings=settings
            )

    def violations(self) -> list[str]:
        """What PeopleSoft posted and the ledger counts is the same for every fee, and no fee was charged twice."""
        books, found = self.bridge.books(), []
        ledger = self.bridge.ledger("look")
        with ledger.read() as tx:
            positions = tx.rows("SELECT * FROM fee_position WHERE institution = :i")
            unseen = items.unconfirmed(tx)
        ledger.close()
        for row in positions:
            fee = books.fees[row["fee_id"]]
            if (fee.charged_cents, fee.credited_cents) != (row["charged"], row["credited"]):
                posted = (fee.charged_cents, fee.credited_cents)
                found.append(f"{fee.fee_id}: posted {posted}, told {row['charged'], row['credited']}")
        return found + [f"{row['batch_id']}/{row['line_no']} was never seen" for row in unseen]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_rejected_and_forgotten_lines_reach_peoplesoft_once(seed: int, tmp_path: Path) -> None:
    campus = Campus(tmp_path, seed)
    for _ in range(ROUNDS):
        campus.live(troubled=True)
    for _ in range(6):
        campus.live(troubled=False)
        campus.far.clock.advance(days=2)

    assert campus.violations() == []
    assert campus.bridge.unexplained() == {}
    assert not [kind for kind in campus.bridge.exceptions().values() if "seen" in kind or "differs" in kind]
