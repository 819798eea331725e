"""Files to PeopleSoft, each exactly once.

    written -> uploading -> (acknowledged) -> uploaded -> renaming -> delivered

Each state is committed before the next action, so after a crash the state says what to look at on
the far side. Whatever can't be told for sure is parked as ``unconfirmed`` for a person and never
sent again by itself: a charge sent twice is worse than one that waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from alma_hook import guard, notes
from alma_hook.campus import Sfs
from alma_hook.errors import Retriable, SendingStopped
from alma_hook.guard import MarkPlace
from alma_hook.ledger import Lease, Ledger, Row, batches, moment
from alma_hook.money import amount
from alma_hook.remote import RemoteFolder

TEMPORARY = ".part"
#: What becomes of a batch while another file lies under the one name that PeopleSoft loads.
WAITS = "waiting until the last file was collected"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one batch ended: ``state`` is its state now."""

    batch_id: str
    file_name: str
    state: str


def deliver_all(
    ledger: Ledger,
    lease: Lease,
    sfs: Sfs,
    folder: RemoteFolder,
    archive: RemoteFolder,
    marks: Sequence[MarkPlace],
) -> list[Outcome]:
    """Deliver every written batch, charges before credits, this run's or one that an earlier run left.

    Under one name for both kinds they take turns: else each day's charges would take it before the credits.
    ``marks`` are renewed before each file leaves, and what became of each batch is noted in the archive.
    """
    with ledger.read() as tx:
        rows, unnoted = batches.in_states(tx, *batches.UNFINISHED[1:]), batches.unnoted(tx)
        unnoted += batches.without_done_file(tx)
        last = batches.last_sent_as(tx)
    rows.sort(key=lambda row: row["sent_as"] is not None and last.get(row["sent_as"]) == row["kind"])
    # What people have said of payments decides what is charged: it is told before anything is.
    notes.note_payments(ledger, lease, archive, sfs.archive_directory, marks)
    if not rows and not unnoted:
        return []
    guard.bind_server(ledger, folder)
    guard.bind_archive(ledger, archive, sfs.archive_directory)
    guard.advance(ledger, marks)
    notes.note_batches(ledger, lease, archive, sfs.archive_directory)
    outcomes = [deliver(ledger, lease, sfs, folder, archive, row["batch_id"], marks) for row in rows]
    _put_done_files(ledger, lease, folder)
    notes.note_batches(ledger, lease, archive, sfs.archive_directory)
    return outcomes


def _put_done_files(ledger: Ledger, lease: Lease, folder: RemoteFolder) -> None:
    """Tell the far side by an empty file that one is whole. It may be told twice, when a worker dies in between."""
    with ledger.read() as tx:
        rows = batches.without_done_file(tx)
    for row in rows:
        if row["target"] == folder.target:
            folder.write(f"{row['directory']}/{row['done_name']}", b"")
            with ledger.write(lease) as tx:
                batches.done_file_put(tx, row["batch_id"])


def deliver(
    ledger: Ledger,
    lease: Lease,
    sfs: Sfs,
    folder: RemoteFolder,
    archive: RemoteFolder,
    batch_id: str,
    marks: Sequence[MarkPlace],
) -> Outcome:
    """Take one batch as far as it goes: delivered, or parked as unconfirmed.

    Raises ``Retriable`` when the connection fails; the batch stays in its state and the next attempt
    goes on from there. Raises ``SendingStopped`` when the far side is not the batch's, or holds a
    file of its name that is not its.
    """
    with ledger.read() as tx:
        row = batches.batch(tx, batch_id)
        content = batches.content(tx, batch_id)
    if row["target"] != folder.target:
        raise SendingStopped(
            f"Batch {batch_id} was made for {row['target']}, and the connection names {folder.target} now. Put the "
            "old address back until the batch is delivered, so that it can't be sent to two places."
        )
    delivery = _Delivery(ledger, lease, sfs, folder, archive, row, content, marks)
    while delivery.state in batches.UNFINISHED and not delivery.waits:
        delivery.step()
    return Outcome(batch_id, row["file_name"], WAITS if delivery.waits else delivery.state)


class _Delivery:
    """One batch on its way. Every step looks at the far side, acts, and commits."""

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        sfs: Sfs,
        folder: RemoteFolder,
        archive: RemoteFolder,
        row: Row,
        content: bytes,
        marks: Sequence[MarkPlace],
    ) -> None:
        self.ledger, self.lease, self.sfs, self.marks = ledger, lease, sfs, marks
        self.folder, self.archive = folder, archive
        self.row, self.content = row, content
        # A drop box that may only be written to shows nothing, so nothing is asked of it.
        self.blind = sfs.read_back == "none"
        self.state: str = row["state"]
        self.final = f"{row['directory']}/{row['sent_as'] or row['file_name']}"
        self.waits = False
        self.temporary = f"{row['directory']}/{row['temporary']}"
        self.acknowledged = row["acknowledged_at"] is not None
        # A state found at the start was left by an attempt that died: then the far side is asked first.
        self.resumed = self.state in ("uploading", "uploaded", "renaming")

    def step(self) -> None:
        getattr(self, f"_{self.state}")()
        self.resumed = False

    def _written(self) -> None:
        if not self.blind and self.folder.size(self.final) is not None:
            self.waits = self.row["sent_as"] is not None
            if self.waits:
                return
            raise self._name_taken("lies at PeopleSoft's already")
        if self.archive.size(f"{self.sfs.archive_directory}/{self.row['file_name']}") is not None:
            raise self._name_taken("lies in the archive already")
        self._begin_upload()

    def _uploading(self) -> None:
        if self.row["temporary"] is None:
            self._upload_direct()
        elif not self.resumed:
            self._upload()
        elif self.acknowledged and (self.blind or self.folder.size(self.temporary) is None):
            self._move("unconfirmed")
        elif self.acknowledged and self._is_ours(self.temporary):
            self._uploaded_now()
        else:
            # Never acknowledged, or not whole: put again, under a name the dead attempt can't write to.
            self._begin_upload()

    def _begin_upload(self) -> None:
        name = None
        if self.sfs.mode == "rename":
            name = f"{self.row['file_name']}.{self.lease.token}{TEMPORARY}"
        with self.ledger.write(self.lease) as tx:
            batches.begin_upload(tx, self.row["batch_id"], self.state, name)
            self.row = batches.batch(tx, self.row["batch_id"])
        self.temporary = f"{self.row['directory']}/{name}"
        self.state, self.acknowledged = "uploading", False

    def _upload(self) -> None:
        self._archive()
        self.folder.write(self.temporary, self.content)
        self._acknowledge()
        if self.blind:
            self._uploaded_now()
        elif self.folder.size(self.temporary) is None:
            self._move("unconfirmed")
        elif self._is_ours(self.temporary):
            self._uploaded_now()
        else:
            raise Retriable("The uploaded file reads back otherwise than it was written; it is put again.")

    def _upload_direct(self) -> None:
        """Without a temporary name the far side may load the file at once, so any doubt is left to a person."""
        if self.resumed:
            seen = not self.blind and self.folder.size(self.final) is not None and self._is_ours(self.final)
            if seen:
                self._delivered()
            else:
                self._move("unconfirmed")
            return
        self._archive()
        self._mark_leaving()
        self.folder.write(self.final, self.content)
        self._acknowledge()
        if self.blind or self.folder.size(self.final) is None or self._is_ours(self.final):
            self._delivered()
        else:
            self._move("unconfirmed")

    def _uploaded(self) -> None:
        if not self.blind and self.folder.size(self.temporary) is None:
            self._move("unconfirmed")
        else:
            self._move("renaming")

    def _renaming(self) -> None:
        if self.resumed:
            self._look_after_rename()
            return
        self._mark_leaving()
        try:
            self.folder.rename(self.temporary, self.final)
        except Retriable:
            # The answer may be lost, not the rename: only the far side knows.
            self._look_after_rename(give_up=True)
            return
        self._delivered()

    def _look_after_rename(self, give_up: bool = False) -> None:
        if self.blind:
            self._move("unconfirmed")
        elif self.folder.size(self.final) is not None:
            # Under a fixed name it may be another file, with the very same bytes: then ours lies there too.
            if self.row["sent_as"] is not None and self.folder.size(self.temporary) is not None:
                self.waits = True
            elif self._is_ours(self.final):
                self._delivered()
            else:
                self._move("unconfirmed")
        elif self.folder.size(self.temporary) is not None:
            if give_up:
                raise Retriable("The far side did not rename the file; the next attempt does it.")
            self._mark_leaving()
            self.folder.rename(self.temporary, self.final)
            self._delivered()
        elif self._recently_uploaded():
            self._delivered()
        else:
            self._move("unconfirmed")

    def _mark_leaving(self) -> None:
        """Put a mark between the ledger's word that the file leaves and its leaving.

        A copy that lacks the one, a standby that lags by seconds for instance, lacks the other: it is stopped.
        """
        guard.advance(self.ledger, self.marks)

    def _recently_uploaded(self) -> bool:
        """With both names gone soon after the upload, the far side has taken the file."""
        uploaded = self.row["uploaded_at"]
        with self.ledger.read() as tx:
            now = moment(tx.now)
        return uploaded is not None and now - moment(uploaded) <= timedelta(hours=self.sfs.taken_within_hours)

    def _is_ours(self, path: str) -> bool:
        if self.sfs.read_back == "size":
            return self.folder.size(path) == len(self.content)
        return hashlib.sha256(self.folder.read(path)).hexdigest() == str(self.row["sha256"])

    def _move(self, state: str) -> None:
        with self.ledger.write(self.lease) as tx:
            batches.move(tx, self.row["batch_id"], self.state, state)
        self.state = state

    def _acknowledge(self) -> None:
        with self.ledger.write(self.lease) as tx:
            batches.acknowledge(tx, self.row["batch_id"])
        self.acknowledged = True

    def _uploaded_now(self) -> None:
        with self.ledger.write(self.lease) as tx:
            batches.move(tx, self.row["batch_id"], self.state, "uploaded", uploaded_at=tx.now)
            self.row = batches.batch(tx, self.row["batch_id"])
        self.state = "uploaded"

    def _delivered(self) -> None:
        with self.ledger.write(self.lease) as tx:
            batches.deliver(tx, self.row["batch_id"], self.state)
        self.state = "delivered"

    def _archive(self) -> None:
        """Keep the bytes and a manifest before anything is sent: from them the ledger can be rebuilt."""
        with self.ledger.read() as tx:
            lines = batches.lines(tx, self.row["batch_id"])
        path = f"{self.sfs.archive_directory}/{self.row['file_name']}"
        # A beginning of it: an attempt that died while it wrote. Anything else is another batch's.
        if self.archive.size(path) is not None and not self.content.startswith(self.archive.read(path)):
            raise self._name_taken("lies in the archive already, with other content")
        self._keep(path, self.content)
        # The accounts in it may have got other ids since such an attempt.
        self._keep(path + notes.MANIFEST, notes.manifest(self.row, lines))

    def _keep(self, path: str, content: bytes) -> None:
        """Put a file into the archive, unless it is there: an attempt that stood still must not tear what a later one kept."""
        if not self.archive.create(path, content) and self.archive.read(path) != content:
            self.archive.write(path, content)

    def _name_taken(self, where: str) -> SendingStopped:
        return SendingStopped(
            f"A file named {self.row['file_name']} {where}, and this ledger has not put it there. Either the ledger is "
            "an older copy, or another one sends to the same place. Nothing was sent."
        )


def describe(row: Row) -> str:
    """Return one batch for a log: number, file, lines and total, without patron data."""
    return (
        f"batch {row['batch_id']} ({row['kind']}): {row['file_name']}, {row['line_count']} lines, "
        f"{amount(int(row['total']))}, {row['state']}"
    )
