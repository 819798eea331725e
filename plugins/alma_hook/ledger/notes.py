"""What the archive is told of a payment, and what a ledger takes back from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alma_hook.ledger import exceptions, fees, payments, reversals
from alma_hook.ledger.store import Row, Tx, in_list

#: What stands in a note of the payment itself, ``account`` beside it: that of its fees.
COLUMNS = (
    "external_id",
    "fee_id",
    "posted_to",
    "emplid",
    "amount",
    "paid_on",
    "state",
    "posted",
    "trying",
    "waive",
)
#: What an older note does not tell.
SINCE = {"trying": 0, "waive": None}
FIELDS = (*COLUMNS, "account", "reversals", "carries")
_REVERSAL = ("amount", "covered", "settled", "state", "first_file", "first_written_at", "second_file")
_CARRY = ("to_fee", "from_fee", "item_fee", "amount", "carried_at", "carried_by", "reason")
#: The one note that tells of all payments of before the books were opened, a list of each one's columns.
EARLIER = "earlier"
EARLIER_FIELDS = ("external_id", "payments")
_EARLIER = ("external_id", "fee_id", "emplid", "amount", "paid_on", "posted")
# The states of a payment that may be posted yet.
_WAITS = ("new", "posting", "unknown")
# Those in which nothing is to be posted.
_SETTLED = ("settled", payments.CREDITED)


@dataclass(frozen=True, slots=True)
class Note:
    """One payment's note, or that of all ``EARLIER`` ones: JSON, and its SHA-256."""

    external_id: str
    text: bytes
    sha256: str

    def told(self) -> dict[str, Any]:
        """Return what it says."""
        return {**SINCE, **json.loads(self.text)}


def unnoted(tx: Tx) -> list[Note]:
    """Return the notes that the archive lacks or has otherwise, each payment's whole.

    Of waivers that may be in Alma, of payments that are settled, or of which something taken back was; and of those that
    were when they were noted.
    Of those of before the books were opened one for all.
    """
    rows = tx.rows(
        "SELECT p.*, f.user_id AS account FROM payment p LEFT JOIN fee f ON f.institution = p.institution "
        "AND f.fee_id = COALESCE(p.posted_to, p.fee_id) WHERE p.institution = :i AND (p.state IN ('settled', 'credited') "
        "OR (p.waive IS NOT NULL AND p.state <> 'new') "
        "OR EXISTS (SELECT 1 FROM reversal v WHERE v.institution = p.institution AND v.payment_key = p.payment_key "
        "AND (v.settled > 0 OR v.covered > 0)) "
        "OR EXISTS (SELECT 1 FROM payment_note n WHERE n.institution = p.institution "
        "AND n.external_id = p.external_id)) ORDER BY p.payment_no"
    )
    keys = [row["payment_key"] for row in rows]
    taken_back: dict[str, list[Row]] = {}
    for row in in_list(tx, "SELECT * FROM reversal WHERE institution = :i AND payment_key", keys):
        taken_back.setdefault(row["payment_key"], []).append(row)
    carries: dict[int, list[Row]] = {}
    for row in tx.rows("SELECT * FROM carry WHERE institution = :i ORDER BY to_fee"):
        carries.setdefault(reversals.number_of(row), []).append(row)
    covers = {row["payment_key"]: row["external_id"] for row in _covers(tx)}
    notes = [
        _note(
            payment,
            taken_back.get(payment["payment_key"], []),
            carries.get(int(payment["payment_no"]), []),
            covers,
        )
        for payment in rows
    ]
    return unknown(tx, [*notes, *_earlier(tx)])


def _earlier(tx: Tx) -> list[Note]:
    """Return the note of payments on charges of before the books were opened: nothing else tells them from others."""
    columns = ", ".join(_EARLIER)
    rows = tx.rows(
        f"SELECT {columns} FROM payment WHERE institution = :i AND state = '{reversals.EARLIER}' ORDER BY external_id"
    )
    told = {"external_id": EARLIER, "payments": [[row[name] for name in _EARLIER] for row in rows]}
    return [_as_note(told)] if rows else []


def unknown(tx: Tx, notes: Iterable[Note]) -> list[Note]:
    """Return the notes that this ledger has neither written nor taken in: in the archive, those of a later life of it."""
    rows = tx.rows("SELECT external_id, sha256 FROM payment_note WHERE institution = :i")
    known = {row["external_id"]: row["sha256"] for row in rows}
    return [note for note in notes if known.get(note.external_id) != note.sha256]


def _covers(tx: Tx) -> list[Row]:
    return tx.rows(
        "SELECT DISTINCT p.payment_key, p.external_id FROM reversal v JOIN payment p ON p.institution = v.institution "
        "AND p.payment_key = v.covered_by WHERE v.institution = :i"
    )


def _note(payment: Row, taken_back: Sequence[Row], carries: Sequence[Row], covers: Mapping[str, str]) -> Note:
    dealt_with = [
        row
        for row in sorted(taken_back, key=lambda row: str(row["reversal_id"]))
        if row["state"] in ("standing", "settled") and (int(row["settled"]) or int(row["covered"]))
    ]
    told = {
        **{name: payment[name] for name in (*COLUMNS, "account")},
        "reversals": [
            {**{name: row[name] for name in _REVERSAL}, "covered_by": covers.get(row["covered_by"] or "")}
            for row in dealt_with
        ],
        # A fee made anew stays what it is, whatever becomes of what was taken back.
        "carries": [{name: row[name] for name in _CARRY} for row in carries],
    }
    return _as_note(told)


def _as_note(told: Mapping[str, Any]) -> Note:
    text = json.dumps(told, indent=1, sort_keys=True).encode()
    return Note(str(told["external_id"]), text, hashlib.sha256(text).hexdigest())


def noted(tx: Tx, external_id: str, sha256: str) -> None:
    """Record that the archive and this ledger tell the same of a payment."""
    tx.run(
        "INSERT INTO payment_note VALUES (:i, :id, :sha, :now) ON CONFLICT (institution, external_id) "
        "DO UPDATE SET sha256 = excluded.sha256, noted_at = excluded.noted_at",
        id=external_id,
        sha=sha256,
        now=tx.now,
    )


# -- back from the archive ---------------------------------------------------------------------------------


def items_of(notes: Iterable[Note]) -> dict[str, str]:
    """Return by fee made anew, as the notes tell, the fee whose item in PeopleSoft stands for it."""
    return {carry["to_fee"]: carry["item_fee"] for told in _of_payments(notes) for carry in told["carries"]}


def _of_payments(notes: Iterable[Note]) -> list[dict[str, Any]]:
    return [note.told() for note in notes if note.external_id != EARLIER]


def restore(tx: Tx, notes: Sequence[Note]) -> None:
    """Bring what the notes tell into the books."""
    of_payments = _of_payments(notes)
    for note in notes:
        if note.external_id == EARLIER:
            _restore_earlier(tx, note.told()["payments"])
    for told in of_payments:
        _restore_payment(tx, told)
    for told in of_payments:
        _restore_reversals(tx, told)
    for note in notes:
        noted(tx, note.external_id, note.sha256)


def _restore_earlier(tx: Tx, told: Sequence[Sequence[Any]]) -> None:
    for columns in told:
        values = dict(zip(_EARLIER, columns, strict=True))
        row = _payment(tx, values["external_id"])
        if row is None:
            _add_lost(tx, {**SINCE, **values, "state": reversals.EARLIER, "posted_to": None})
        else:
            payments.set_aside(tx, row, values["posted"])


def _restore_payment(tx: Tx, told: Mapping[str, Any]) -> None:
    row = _payment(tx, told["external_id"])
    met = {told["fee_id"], told["posted_to"], *(carry["to_fee"] for carry in told["carries"])} - {None}
    for fee_id in sorted(met) if told["account"] else []:
        if tx.one("SELECT user_id FROM fee WHERE institution = :i AND fee_id = :fee", fee=fee_id) is None:
            fees.meet(tx, fee_id, told["account"])
    if row is not None and row["state"] != "posted" and told["state"] in ("posting", "unknown", "posted"):
        # The settings may have called it another thing when the copy was made.
        tx.run(
            "UPDATE payment SET waive = :waive WHERE institution = :i AND external_id = :id",
            waive=told["waive"],
            id=told["external_id"],
        )
    if row is None and told["state"] in ("posted", *_SETTLED):
        _add_lost(tx, told)
    elif row is None and told["waive"] and told["state"] in ("posting", "unknown"):
        # Alma may not show whose waiver it is, so it can't be looked for.
        _add_lost(tx, {**told, "state": "unknown"})
    elif (
        row is not None
        and row["state"] == "new"
        and told["waive"]
        and told["state"] in ("posting", "unknown")
    ):
        payments.settle_posting(tx, payments.mark_posting(tx, row, int(told["trying"])), "unknown")
    elif row is not None and row["state"] != "posted" and told["state"] == "posted":
        # Alma does not show it any more: its account is gone.
        payments.found_posted(tx, row, int(told["posted"]))
    elif (
        row is not None
        and row["state"] in (*_WAITS, payments.CREDITED)
        and told["state"] in _SETTLED
        and row["state"] != told["state"]
    ):
        # What was unclear when the copy was made was not in Alma: until that is known nobody can settle it.
        payments.settle_posting(tx, row, told["state"])
        exceptions.close_subject(tx, f"payment {row['payment_no']}", "it was settled, as the archive tells")
    elif (
        row is not None
        and told["state"] in _WAITS
        and (row["state"] == payments.CREDITED or _stands_in(tx, row))
    ):
        # It is settled no more.
        payments.settle_posting(tx, row, "new")
    fees.touch(tx, sorted(met))


def _add_lost(tx: Tx, told: Mapping[str, Any]) -> None:
    """Add a payment that the archive tells of; what identifies it in PeopleSoft is told again by its line."""
    tx.run("UPDATE institution SET last_payment = last_payment + 1 WHERE institution = :i")
    tx.run(
        "INSERT INTO payment (institution, payment_key, payment_no, external_id, fee_id, emplid, amount, paid_on, "
        "file_name, file_sha256, line_no, taken_at, run_id, state, posted, posted_to, trying, waive, marked_at) "
        "SELECT :i, :key, i.last_payment, :external_id, CAST(:fee_id AS TEXT), :emplid, CAST(:amount AS BIGINT), :paid_on, "
        "'the archive', '', 0, :now, :run, :state, CAST(:posted AS BIGINT), CAST(:posted_to AS TEXT), "
        "CAST(:trying AS BIGINT), CAST(:waive AS TEXT), CASE WHEN :state = 'unknown' THEN CAST(:now AS TEXT) END "
        "FROM institution i WHERE i.institution = :i",
        key=f"{reversals.LOST}{told['external_id']}",
        now=tx.now,
        run=tx.run_id,
        **{name: told[name] for name in COLUMNS},
    )


def _stands_in(tx: Tx, payment: Row) -> bool:
    covers = {row["payment_key"] for row in _covers(tx)}
    return payment["state"] == "settled" and payment["payment_key"] in covers


def _restore_reversals(tx: Tx, told: Mapping[str, Any]) -> None:
    payment = _payment(tx, told["external_id"])
    # One that waits: its file brings it in again, and nothing of it was in Alma that could be taken back.
    if payment is None:
        return
    for part in told["reversals"]:
        cover = _payment(tx, part["covered_by"]) if part["covered_by"] else None
        reversals.restore(tx, payment, part, None if cover is None else cover["payment_key"])
    kept = {carry["to_fee"] for carry in told["carries"]}
    for carry in tx.rows("SELECT * FROM carry WHERE institution = :i ORDER BY to_fee"):
        if reversals.number_of(carry) == int(payment["payment_no"]) and carry["to_fee"] not in kept:
            reversals.drop_carry(tx, carry, int(carry["amount"]))
    for carry in told["carries"]:
        tx.run(
            "INSERT INTO carry VALUES (:i, :to_fee, :from_fee, :item_fee, CAST(:amount AS BIGINT), :reversal, :carried_at, "
            ":carried_by, :reason) ON CONFLICT (institution, to_fee) DO NOTHING",
            reversal=reversals.id_of(payment, 0),
            **carry,
        )


def _payment(tx: Tx, external_id: str) -> Row | None:
    return tx.row("SELECT * FROM payment_now WHERE institution = :i AND external_id = :id", id=external_id)
