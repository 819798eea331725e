"""A lost or old ledger brought back: from the archive's manifests and notes, from Alma's payments, from payment files.

What was sent and what people have said of payments stands in the archive, what was posted stands in Alma with our
keys, what is still to be posted stands in the archived payment files. Nothing is sent here; what can't be told is
left to a person.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alma_hook.alma import FeeLists, look_up
from alma_hook.alma_answers import Fee
from alma_hook.campus import Campus
from alma_hook.errors import BadFile, Fault, Refused
from alma_hook.ledger import Lease, Ledger, batches, fees, institutions, opening, unassigned
from alma_hook.ledger import notes as words
from alma_hook.ledger import payments as entries
from alma_hook.notes import MANIFEST, STATE, read_manifest, read_payments
from alma_hook.payment_intake import take_in
from alma_hook.remote import RemoteFile, RemoteFolder

_ENDS = ("delivered", "cancelled")
#: Before the name of an archived file of payments: when it was archived.
_STAMP = re.compile(r"^[0-9]{8}T[0-9]{12}_")


@dataclass(frozen=True, slots=True)
class Archived:
    """A batch as the archive tells it. ``state`` is its end, ``unconfirmed`` where none is noted.

    By number: lines made ``void``, and those ``counting`` again that once were. ``said``: the whole lines of its note;
    of an opening they tell more, see ``opening.said``. ``noted``: whether there is a note of its end, be it cut short.
    """

    batch: Mapping[str, str]
    lines: tuple[Mapping[str, Any], ...]
    content: bytes
    state: str
    void: frozenset[int]
    counting: frozenset[int]
    said: tuple[str, ...] = ()
    noted: bool = True


@dataclass
class RepairCounts:
    """What a repair came to. ``accounts_gone``: accounts of charged fees that Alma does not know any more.

    ``notes``: payments of which the archive tells what people have said. ``files``: of payments, taken in again.
    """

    batches: int = 0
    added: int = 0
    given_up: int = 0
    unconfirmed: int = 0
    accounts: int = 0
    accounts_gone: int = 0
    payments: int = 0
    notes: int = 0
    files: int = 0


def repair(
    ledger: Ledger,
    out: Lease,
    back: Lease,
    campus: Campus,
    archive: RemoteFolder,
    folder: RemoteFolder,
    alma: FeeLists,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> RepairCounts:
    """Bring the ledger up to what the archive, Alma and the archived payment files say.

    May be run on an empty ledger or on an older copy, and again. Everything is read before anything is
    written; the payment files are taken in at the end, so that whichever way runs first knows what was paid.
    Raises ``BadFile`` with every fault of the archive, ``Retriable`` when a side can't be read.
    """
    told, said = read_archive(archive, campus)
    files = _payment_files(folder, campus)
    counts = RepairCounts(batches=len(told))
    account_of = {str(line["fee_id"]): str(line["user_id"]) for one in told for line in one.lines}
    with ledger.read() as tx:
        # Where the ledger has met a fee since, it knows better: users are re-keyed.
        account_of |= batches.accounts_charged(tx, sorted(account_of))
    seen = _read_alma(alma, account_of, counts, progress)
    with ledger.write(out) as tx:
        if institutions.opened_clean(tx):
            # An opening with items that was begun, died, and was never said again.
            told = [one for one in told if one.noted or one.batch["batch_id"] != batches.OPENING]
        archived = {str(one.batch["batch_id"]) for one in told}
        for row in batches.in_states(tx, "planned", "written"):
            if row["batch_id"] not in archived:
                batches.drop(tx, row["batch_id"], row["state"])
                counts.given_up += 1
        for one in told:
            counts.added += batches.restore(
                tx, one.batch, one.lines, one.content, one.state, one.void, one.counting
            )
            if one.batch["batch_id"] == batches.OPENING:
                opening.restore(tx, one.content, one.said)
        counts.unconfirmed = len(batches.in_states(tx, "unconfirmed"))
        institutions.restored(tx)
    with ledger.write(back) as tx:
        entries.take_up_dropped(tx)
        news, item_of = words.unknown(tx, said), words.items_of(said)
        behind: set[str] = set()
        for fee in seen:
            fees.meet(tx, fee.fee_id, fee.user_id)
            for payment in fee.own_payments():
                item_fee = item_of.get(fee.fee_id, fee.fee_id)
                brought = entries.restore(
                    tx,
                    fee.fee_id,
                    item_fee,
                    str(payment.external_id),
                    payment.cents,
                    payment.at,
                    waiver=payment.type != "PAYMENT",
                )
                counts.payments += brought
                if brought:
                    behind.add(fee.user_id)
        # What was read of them last is from before these payments.
        fees.add_accounts(tx, True, sorted(behind), "repaired")
        words.restore(tx, news)
        unassigned.recognise(tx)
        counts.notes = len(news)
        # What this ledger has taken in already tells it nothing, but of payments that Alma alone tells of.
        taken = (
            set()
            if entries.any_lost(tx)
            else {(row["name"], row["sha256"]) for row in entries.files(tx, "taken", "archived")}
        )
        for kind, file, content in files:
            digest = hashlib.sha256(content).hexdigest()
            if (file.name, digest) not in taken:
                entries.keep_file(tx, file.name, digest, content, kind=kind, modified=file.modified)
                counts.files += 1
    take_in(ledger, back, campus, [])
    return counts


def read_archive(archive: RemoteFolder, campus: Campus) -> tuple[list[Archived], list[words.Note]]:
    """Return every archived batch of this institution, oldest first, and what is noted of payments.

    Raises ``BadFile`` with all faults.
    """
    directory = campus.sfs.archive_directory
    found: list[Archived] = []
    faults: list[Fault] = []
    for file in archive.files(directory, f"*{MANIFEST}"):
        rows = read_manifest(archive.read(f"{directory}/{file.name}"))
        name = file.name.removesuffix(MANIFEST)
        wrong = _fault_of(rows)
        if wrong is not None:
            faults.append(
                Fault(
                    file.name,
                    f"{wrong}; bring it back from a backup, or remove it if PeopleSoft never got {name}",
                )
            )
            continue
        if rows[0]["institution"] != campus.institution:
            continue
        if archive.size(f"{directory}/{name}") is None:
            faults.append(
                Fault(name, "is not beside its manifest; bring it back from a backup of the archive")
            )
            continue
        content = archive.read(f"{directory}/{name}")
        if hashlib.sha256(content).hexdigest() != rows[0]["sha256"]:
            faults.append(Fault(name, "is not the file that its manifest tells of; bring the right one back"))
            continue
        note = f"{directory}/{name}{STATE}"
        said = b"" if archive.size(note) is None else archive.read(note)
        end, *more = said.decode("ascii", "replace").split("\n")
        void, counting = _numbers(more, "void"), _numbers(more, "counts")
        lines = tuple(row for row in rows if int(row["line_no"]))
        state = end if end in _ENDS else "unconfirmed"
        noted = archive.size(note) is not None
        found.append(Archived(rows[0], lines, content, state, void, counting, tuple(more[:-1]), noted))
    words_said, unread = read_payments(archive, directory, campus.institution)
    if faults or unread:
        raise BadFile("The archive can't be read whole; nothing was changed.", [*faults, *unread])
    return sorted(found, key=lambda one: one.batch["batch_id"]), words_said


def _numbers(note: Sequence[str], word: str) -> frozenset[int]:
    return frozenset(int(line.removeprefix(word)) for line in note if re.fullmatch(rf"{word} [0-9]+", line))


_NUMBERS = ("amount", "line_no", "credit_item")


def _fault_of(rows: list[dict[str, Any]]) -> str | None:
    columns = {*batches.MANIFEST_BATCH, *batches.MANIFEST_LINE}
    if not rows:
        return "holds no line that can be read"
    if set(rows[0]) != columns:
        return (
            "lacks columns of this version, or has others; it was written by another version of this package"
        )
    for place, row in enumerate(rows, 1):
        if None in row or None in row.values() or not all(row[name].isdecimal() for name in _NUMBERS):
            return f"line {place} is broken or cut short"
        if row["batch_id"] != rows[0]["batch_id"]:
            return "tells of more than one batch"
    return None


def _read_alma(
    alma: FeeLists,
    account_of: Mapping[str, str],
    counts: RepairCounts,
    progress: Callable[[int, int], None],
) -> list[Fee]:
    """Return the fees of ours that Alma still has, with their payments."""
    charged: dict[str, set[str]] = {}
    for fee_id, account in account_of.items():
        charged.setdefault(account, set()).add(fee_id)
    seen: list[Fee] = []
    for account, fee_ids in sorted(charged.items()):
        try:
            # A payment on the item of an older fee may have been posted to one made anew, never charged itself.
            found = look_up(alma, account, frozenset(fee_ids), paid_by_us=True)
        except Refused:
            counts.accounts_gone += 1
        else:
            seen += [fee for fee_id, fee in found.items() if fee_id in fee_ids or fee.own_payments()]
        counts.accounts += 1
        progress(counts.accounts, len(charged))
    return seen


def _payment_files(folder: RemoteFolder, campus: Campus) -> list[tuple[str, RemoteFile, bytes]]:
    """Return PeopleSoft's archived output with its kind; of applied amounts the newest file, which tells all."""
    settings = campus.sis_to_alma
    directory = settings.archive_directory
    found: list[tuple[str, RemoteFile, bytes]] = []
    for kind, pattern in settings.patterns.items():
        files = folder.files(directory, ",".join(f"*_{name.strip()}" for name in pattern.split(",")))
        if settings.shape == "applied":
            files = sorted(files, key=lambda file: (file.modified, file.name))[-1:]
        # By the name that it had: under another one it would be another file, and a witness of its own.
        found += [
            (kind, replace(file, name=_STAMP.sub("", file.name)), folder.read(f"{directory}/{file.name}"))
            for file in files
        ]
    return found
