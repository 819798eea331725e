"""What people do on a campus: with the command line, in PeopleSoft's office, in the library.

They do what docs/operations.md tells them, late, and they remember it: what they said is a witness, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from alma_hook import confirmations
from alma_hook.errors import AlmaHookError, BadFile, Fatal, Retriable
from alma_hook.ledger import Lease, Ledger, Row, batches, exceptions, holds, items, moment, payments
from alma_hook.ledger.opening import HELD_SINCE_OPENING
from alma_hook.ledger.reversals import TAKEN_BACK
from alma_hook.repair import repair

if TYPE_CHECKING:
    from tests.simulation.world import World

#: So long a batch in doubt has rested before a person says that it never arrived.
REST = timedelta(hours=4)
#: Before the first line of a file of either layout.
HEADER_LINES = 1
#: So long all rests before a lost ledger is rebuilt: nothing that was sent before may still be on its way.
STILL = timedelta(hours=1)


@dataclass(frozen=True)
class Settled:
    """What a person has said of a payment taken back. ``anew``: the fee made anew; else it is written off."""

    number: int
    external_id: str
    item_fee: str
    cents: int
    anew: str | None


@dataclass(frozen=True)
class Memory:
    """A ledger put aside, and what people had said to it by then."""

    ledger: bytes
    mark: bytes | None
    settled: tuple[Settled, ...]
    steps: tuple[tuple[str, str, int], ...]


class People:
    """The people of one campus."""

    def __init__(self, world: World) -> None:
        self.world = world
        #: Files of which they said that PeopleSoft never got them.
        self.given_up: set[str] = set()
        #: Lines that the office entered by hand: file and number.
        self.entered: set[tuple[str, int]] = set()
        #: Lines that they have released: reference and cents, a credit's below nought.
        self.approved: set[tuple[str, int]] = set()
        #: What the ledger should know of what they have settled, and all that they ever have.
        self.settled: list[Settled] = []
        self.ever_settled: list[Settled] = []
        #: What was taken back -> the fee that the library made for it.
        self.anew: dict[str, str] = {}
        self.copies: list[Memory] = []
        self.put_aside: Memory | None = None
        #: When the ledger was lost, until it is rebuilt.
        self.lost_at: float | None = None
        #: The lines that were void in the ledger that was lost.
        self.lost_voids: set[tuple[str, str, int]] = set()
        self.repairs = 0

    @contextmanager
    def _working(self) -> Iterator[tuple[Ledger, Lease]]:
        ledger = self.world.bridge.ledger("a person")
        with ledger.lease("out", "a person") as lease:
            yield ledger, lease

    # -- what was sent ---------------------------------------------------------------------------------------

    def decide(self) -> int:
        """Say of each batch in doubt what PeopleSoft's office knows of it; return how many."""
        world = self.world
        if not world.open:
            return 0
        world.far.load_inbound()
        loaded = self._loaded()
        decided = 0
        with suppress(Retriable, Fatal), self._working() as (ledger, lease):
            with ledger.read() as tx:
                rows, now = batches.in_states(tx, "unconfirmed"), moment(tx.now)
            for row in rows:
                arrived = row["file_name"] in loaded
                if not arrived and moment(row["changed_at"]) + REST > now:
                    continue
                with ledger.write(lease) as tx:
                    (batches.deliver if arrived else batches.drop)(tx, row["batch_id"], "unconfirmed")
                if not arrived:
                    self.given_up.add(row["file_name"])
                decided += 1
        return decided

    def _loaded(self) -> dict[str, set[int]]:
        """Each file that PeopleSoft loaded, with the numbers of the lines that it rejected."""
        return {
            load.file_name: {reject.line_number - HEADER_LINES for reject in load.rejects}
            for load in self.world.far.peoplesoft.loads
            if load.error is None
        }

    def look_after_lines(self) -> int:
        """Make void what the office rejected, and what stood in a file that is gone; return how many lines."""
        if self.put_aside is not None:
            # What an older copy of the ledger says of a line is old: the docs ask to put the right one back first.
            return 0
        loaded = self._loaded()
        with self.world.bridge.ledger("look").read() as tx:
            rows = items.unconfirmed(tx)
        done = 0
        # Credits first: a charge whose credits were sent has to stand.
        for row in sorted(rows, key=lambda row: (row["kind"], row["batch_id"], row["line_no"]), reverse=True):
            name, number = row["file_name"], int(row["line_no"])
            missing = number in loaded[name] if name in loaded else name in self.world.lost_files
            if missing and (name, number) not in self.entered and self._void(row):
                self.world.steps.append(("void", name, number))
                done += 1
        return done

    def _void(self, row: Row) -> bool:
        by_the_list = bool(row["listed"]) and self.world.rng.random() < 0.5
        settings = self.world.bridge.campus.sis_to_alma.items
        try:
            with self._working() as (ledger, lease):
                confirmations.void(
                    ledger, lease, row["batch_id"], int(row["line_no"]), "as the docs say",
                    rejected=not by_the_list, settings=settings,
                )  # fmt: skip
        except AlmaHookError as error:
            if row["kind"] == "charge" and any(
                why in str(error) for why in ("was paid", "credits were sent")
            ):
                self._enter(row["file_name"], int(row["line_no"]))
            return False
        return True

    def _enter(self, name: str, number: int) -> None:
        """What can't be made void any more is entered by hand in PeopleSoft."""
        self.world.far.peoplesoft.enter(self.world.line_of(name, number))
        self.entered.add((name, number))
        self.world.tally.operations["line entered by hand"] += 1

    def answer(self) -> str | None:
        """Release what the brake has held as it is, or refuse it."""
        ledger = self.world.bridge.ledger("a person")
        with ledger.read() as tx:
            rows = [
                (row["batch_id"], holds.digest(tx, row["batch_id"]), batches.lines(tx, row["batch_id"]))
                for row in holds.held(tx)
            ]
        if not rows:
            return None
        refused = 0
        for batch_id, digest, lines in rows:
            with ledger.write() as tx:
                if self.world.event is not None and self.world.rng.random() < 0.2:
                    holds.refuse(tx, batch_id, "a person", "the policy is looked at first")
                    refused += 1
                    self.world.tally.operations["held batch refused"] += 1
                else:
                    holds.release(tx, batch_id, digest, "a person", "looked at")
                    self.approved |= {(line["reference"], signed(line)) for line in lines}
        return f"a person answers {len(rows)} held batches, {refused} with no"

    # -- payments taken back -----------------------------------------------------------------------------------

    def settle(self) -> str | None:
        """Deal with one payment taken back: write it off, or make the fee anew and say so later."""
        world = self.world
        ledger = world.bridge.ledger("a person")
        with ledger.read() as tx:
            rows = [row for row in exceptions.open_items(tx) if row["kind"] == TAKEN_BACK]
        if not rows:
            return None
        row = world.rng.choice(sorted(rows, key=lambda row: row["subject"]))
        fee = world.far.alma.fee(row["fee_id"])
        anew = self.anew.get(row["subject"])
        if anew is None and world.rng.random() < 0.6 and not fee.user.purged:
            made = world.far.alma.add_fee(fee.user, world.part(int(row["amount"])), type=fee.type)
            self.anew[row["subject"]] = made.id
            world.tally.operations["fee made anew"] += 1
            return f"fee …{made.id[-5:]} is made anew for {row['subject']}"
        try:
            with ledger.write() as tx:
                paid = tx.row(
                    "SELECT fee_id, external_id FROM payment WHERE institution = :i AND payment_key = :key",
                    key=row["payment_key"],
                )
                payments.resolve(tx, row["exception_id"], "a person", "as the office says", anew)
        except AlmaHookError:
            if world.rng.random() < 0.3:
                # It stays a fee like any other, and what was taken back is written off.
                self.anew.pop(row["subject"], None)
            return ""
        assert paid is not None
        number = len(self.ever_settled)
        said = Settled(number, paid["external_id"], paid["fee_id"], int(row["amount"]), anew)
        self.settled.append(said)
        self.ever_settled.append(said)
        if anew is not None:
            world.tally.operations["settled by a fee made anew"] += 1
        return f"{row['subject']} is settled" + (f" by fee …{anew[-5:]}" if anew else "")

    # -- what was held since the opening -----------------------------------------------------------------------

    def release(self) -> str:
        """Let all go that did not agree when the books were opened; return how many."""
        ledger = self.world.bridge.ledger("a person")
        with ledger.write() as tx:
            rows = [row for row in exceptions.open_items(tx) if row["kind"] == HELD_SINCE_OPENING]
            for row in rows:
                payments.resolve(tx, row["exception_id"], "a person", "looked at")
        return f", {len(rows)} fees released" if rows else ""

    # -- the ledger --------------------------------------------------------------------------------------------

    def _remember(self) -> Memory:
        mark = self.world.bridge.marks[0].read()
        return Memory(self.world.bridge.database.copy(), mark, tuple(self.settled), tuple(self.world.steps))

    def _recall(self, memory: Memory) -> None:
        self.world.bridge.database.put_back(memory.ledger)
        self.settled = list(memory.settled)
        # The files that have come since are still there; what was said since is not.
        later = [step for step in self.world.steps if step[0] == "file" and step not in memory.steps]
        self.world.steps[:] = [*memory.steps, *later]

    def copy_or_put_back(self) -> str | None:
        """Copy the ledger; or put an older copy in its place."""
        if self.world.bridge.database.file is None or self.lost_at is not None or self.put_aside is not None:
            return None
        if not self.copies or self.world.rng.random() < 0.4:
            self.copies.append(self._remember())
            return "the ledger is copied"
        self.put_aside = self._remember()
        self._recall(self.world.rng.choice(self.copies))
        return "an older copy of the ledger is put in its place"

    def put_right(self) -> str | None:
        """Put the newest ledger back, or rebuild one that is lost."""
        world = self.world
        if self.put_aside is not None:
            newest, self.put_aside = self.put_aside, None
            if world.bridge.marks[0].read() != newest.mark:
                # Nothing had left since the copy was made, so it was as good, and has been at work since.
                return "the older copy is the newest now"
            self._recall(newest)
            return "the newest ledger is put back"
        if self.lost_at is not None and world.seconds() - self.lost_at >= STILL.total_seconds():
            return self.repair()
        return None

    def lose(self) -> str | None:
        """The ledger is lost, and somebody makes an empty one."""
        if self.world.bridge.database.file is None or self.lost_at is not None or self.put_aside is not None:
            return None
        self.world.bridge.database.lose(opened=self.world.rng.random() < 0.5)
        self.lost_at = self.world.seconds()
        self.lost_voids = {step for step in self.world.steps if step[0] == "void"}
        self.copies = []
        return "the ledger is lost, and an empty one is made"

    def repair(self) -> str | None:
        """Bring the ledger up to what archive, Alma and payment files say."""
        world, bridge = self.world, self.world.bridge
        world.far.api.apply_due()
        ledger = bridge.ledger("repair")
        try:
            with ledger.lease("out", "repair") as out, ledger.lease("back", "repair") as back:
                counts = repair(ledger, out, back, bridge.campus, bridge.folder, bridge.folder, bridge.api)
        except Retriable:
            return None
        except BadFile as error:
            return self._mend_archive(error)
        self.repairs += 1
        again, self.lost_at = self.lost_at is None, None
        known = self.settled if again else []
        self.settled = [*known, *(said for said in self._noted() if said not in known)]
        if again:
            return f"the ledger is repaired once more: {counts.payments} payments"
        archive = world.far.path(world.far.folders.archive)
        noted = {
            ("void", file.name.removesuffix(".state"), int(line[5:]))
            for file in archive.glob("*.state")
            for line in file.read_text().splitlines()
            if line.startswith("void ")
        }
        # What was said to the empty one is not lost.
        world.steps[:] = [step for step in world.steps if step not in self.lost_voids or step in noted]
        return f"the ledger is repaired: {counts.added} batches, {counts.payments} payments"

    def _noted(self) -> list[Settled]:
        """What of all that they have settled the archive tells: what was said before the last run, of each the oldest."""
        told = [
            json.loads(note.read_text())
            for note in self.world.far.path(self.world.far.folders.archive).glob("payment_*.note")
        ]
        room = {note["external_id"]: sum(part["settled"] for part in note["reversals"]) for note in told}
        found = []
        for said in self.ever_settled:
            if said.cents <= room.get(said.external_id, 0):
                room[said.external_id] -= said.cents
                found.append(said)
        return found

    def repair_again(self, said: str) -> str | None:
        """Once more, where a user's id has changed since the archive was written: a run has met the new one by now."""
        if not 0 < self.repairs < 4:
            return None
        with self.world.bridge.ledger("look").read() as tx:
            differ = exceptions.open_subjects(tx, ["payments in Alma differ from those posted"])
        return self.repair() if differ or "SendingStopped" in said else None

    def _mend_archive(self, error: BadFile) -> str:
        """Remove what is cut short of a file that PeopleSoft never got; there is no other."""
        came = {name for _, name, _ in self.world.steps}
        archive = self.world.far.path(self.world.far.folders.archive)
        for fault in error.faults:
            name = fault.where.removesuffix(".manifest.csv")
            assert name not in came, f"the archive has lost {name}, which was sent"
            for file in archive.glob(f"{name}*"):
                file.unlink()
        return "what is cut short in the archive is removed"


def signed(line: Row) -> int:
    """What a line adds to its item, in cents."""
    return int(line["amount"]) if line["kind"] == "charge" else -int(line["amount"])
