"""The list of what does not fit: opened once, kept until the numbers meet again or a person settles it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alma_hook.ledger.store import Row, Tx, in_list
from alma_hook.money import amount


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry: ``subject`` (``fee 138...``, ``payment 00017``, ``file ...``) and the cents it is about."""

    kind: str
    subject: str
    amount: int
    detail: str
    fee_id: str | None = None
    payment_key: str | None = None


#: So begins the kind of what is not charged because the settings say so: it waits for nobody.
LEFT_OUT = "left out: "

NOT_CHARGED = "no such fee was charged"
NO_FEE = "payment without a fee"
OTHER_EMPLID = "payment by another EMPLID than was charged"
SETTLED = "fee already settled in Alma"
OVERPAID = "paid more than Alma's balance"
WAIVER_UNCLEAR = "waiver of unclear outcome"
OTHER_PAYMENTS = "payments in Alma differ from those posted"
SHRUNKEN = "file has far fewer lines than the last one"
OLDER = "file older than one taken in"
GONE = "refused payment file is gone"
NOT_TOGETHER = "taken back by two lines that no file has together"
NO_PAYMENT = "no payment any more, by its kind"
NO_REVERSAL = "taken back no more, by its kind"
ANOTHER_AMOUNT = "payment with another amount"
LINE_REFUSED = "payment line refused"
BEFORE_OR_AFTER = "paid before the opening or after it"
LESS_APPLIED = "less applied than at the opening"


def of_payment(row: Row, kind: str, value: int, more: str = "") -> Listed:
    """Return the entry of a payment of which ``value`` cents are not in Alma."""
    # One that a repair brought back stands in no file's line.
    place = (
        f"file {row['file_name']}, line {row['line_no']}" if row["line_no"] else f"told by {row['file_name']}"
    )
    detail = f"{amount(value)} of {amount(int(row['amount']))} not in Alma; {place}"
    subject = f"payment {row['payment_no']}"
    return Listed(kind, subject, value, detail + more, row["fee_id"], row["payment_key"])


def overpaid(row: Row, posted: int) -> Listed:
    """Return the entry of a payment that was more than Alma's balance."""
    return of_payment(row, OVERPAID, int(row["amount"]) - posted)


def open_all(tx: Tx, entries: Iterable[Listed]) -> int:
    """List these, or note that they still stand; return how many are new."""
    new = 0
    for entry in entries:
        seen = tx.run(
            "UPDATE exception_item SET seen_at = :now, amount = :amount, detail = :detail "
            "WHERE institution = :i AND kind = :kind AND subject = :subject AND closed_at IS NULL",
            now=tx.now,
            amount=entry.amount,
            detail=entry.detail,
            kind=entry.kind,
            subject=entry.subject,
        )
        if seen or settled_by_a_person(tx, entry):
            continue
        new += 1
        tx.run(
            "INSERT INTO exception_item (institution, exception_id, kind, subject, fee_id, payment_key, amount, "
            "detail, opened_at, opened_run, seen_at) "
            "VALUES (:i, :id, :kind, :subject, :fee, :payment, :amount, :detail, :now, :run, :now)",
            id=secrets.token_hex(6),
            kind=entry.kind,
            subject=entry.subject,
            fee=entry.fee_id,
            payment=entry.payment_key,
            amount=entry.amount,
            detail=entry.detail,
            now=tx.now,
            run=tx.run_id,
        )
        tx.event(entry.subject, "listed", entry.kind)
    return new


def settled_by_a_person(tx: Tx, entry: Listed) -> bool:
    """Whether a person has settled this very thing, and it still stands: tomorrow's cumulative file holds the line again.

    Once it was looked at and no longer there, the same thing is news, see ``close_others``.
    """
    return bool(
        tx.one(
            "SELECT COUNT(*) FROM exception_item WHERE institution = :i AND kind = :kind AND subject = :subject "
            "AND amount = :amount AND standing = 1",
            kind=entry.kind,
            subject=entry.subject,
            amount=entry.amount,
        )
    )


def list_only(tx: Tx, subjects: Sequence[str], entries: Sequence[Listed]) -> None:
    """List these and nothing else on these subjects: what was judged anew."""
    close_others(tx, subjects, entries)
    open_all(tx, entries)


def list_only_of_run(tx: Tx, fee_ids: Iterable[str], entries: Sequence[Listed]) -> None:
    """List these and nothing else on these fees, all of which this run has read."""
    subjects = {f"fee {fee_id}" for fee_id in fee_ids}
    rows = tx.rows(
        # See `fees.readings_of_run` for the CROSS JOIN.
        "SELECT x.exception_id, x.kind, x.subject, x.amount, x.standing FROM reading r CROSS JOIN exception_item x "
        "WHERE x.institution = r.institution AND x.subject = 'fee ' || r.fee_id AND (x.closed_at IS NULL OR x.standing = 1) "
        "AND r.institution = :i AND r.run_id = :run",
        run=tx.run_id,
    )
    _close_but(tx, [row for row in rows if row["subject"] in subjects], entries)
    open_all(tx, entries)


def close_others(tx: Tx, subjects: Sequence[str], keep: Iterable[Listed]) -> int:
    """Close what is listed on these subjects and not in ``keep``: the numbers meet again.

    What a person had settled of it is over too: should it come again, it is listed again.
    """
    return _close_but(tx, _judged(tx, subjects), keep)


def _close_but(tx: Tx, rows: Iterable[Row], keep: Iterable[Listed]) -> int:
    kept = {(entry.kind, entry.subject): entry.amount for entry in keep}

    def over(row: Row) -> bool:
        place = (row["kind"], row["subject"])
        # A person's word is about one amount; an open entry takes the new one over.
        return place not in kept or bool(row["standing"] and kept[place] != row["amount"])

    return _end(tx, [row for row in rows if over(row)], "the numbers agree again")


def _judged(tx: Tx, subjects: Sequence[str]) -> list[Row]:
    """Return what is listed on these subjects, and what a person has settled there that still stands."""
    sql = (
        "SELECT exception_id, kind, subject, amount, standing FROM exception_item "
        "WHERE institution = :i AND (closed_at IS NULL OR standing = 1) AND subject"
    )
    return in_list(tx, sql, subjects)


def _end(tx: Tx, rows: Sequence[Row], resolution: str, by: str = "system") -> int:
    """Close what is open of these and let no word of a person stand on them; return how many were open."""
    tx.many(
        "UPDATE exception_item SET standing = 0 WHERE institution = :i AND exception_id = :id",
        [{"id": row["exception_id"]} for row in rows if row["standing"]],
    )
    listed = [row for row in rows if not row["standing"]]
    for row in listed:
        close(tx, row["exception_id"], by, resolution)
    return len(listed)


def close_kind(tx: Tx, kind: str, subjects: Sequence[str], resolution: str) -> None:
    """Close what is listed under one kind on these subjects, or was settled by a person."""
    _end(tx, [row for row in _judged(tx, subjects) if row["kind"] == kind], resolution)


def listed_below_nought(tx: Tx, kind: str, subjects: Sequence[str]) -> list[str]:
    """Return those of these subjects that are listed under a kind with less than nought, or were settled so by a person."""
    rows = _judged(tx, subjects)
    return [row["subject"] for row in rows if row["kind"] == kind and int(row["amount"]) < 0]


def close_subject(tx: Tx, subject: str, resolution: str, by: str = "system") -> None:
    """Close all that is listed on one subject, or was settled by a person."""
    _end(tx, _judged(tx, [subject]), resolution, by)


def close(tx: Tx, exception_id: str, by: str, resolution: str) -> None:
    """Close one entry; what a person closes stands, see ``settled_by_a_person``."""
    tx.run(
        "UPDATE exception_item SET closed_at = :now, closed_by = :by, resolution = :why, standing = :standing "
        "WHERE institution = :i AND exception_id = :id AND closed_at IS NULL",
        now=tx.now,
        by=by,
        why=resolution,
        standing=int(by != "system"),
        id=exception_id,
    )
    subject = tx.one(
        "SELECT subject FROM exception_item WHERE institution = :i AND exception_id = :id", id=exception_id
    )
    tx.event(str(subject), "settled", resolution)


def open_items(tx: Tx) -> list[Row]:
    """Return the open entries that wait for somebody or something, oldest first."""
    return tx.rows(
        "SELECT * FROM exception_item WHERE institution = :i AND closed_at IS NULL AND kind NOT LIKE :left_out "
        "ORDER BY opened_at, exception_id",
        left_out=f"{LEFT_OUT}%",
    )


def fees_listed(tx: Tx, kinds: Sequence[str]) -> list[Row]:
    """Return the last reading of each fee that is listed under one of these kinds, with its account's ``user_id``."""
    sql = (
        "SELECT f.user_id, r.fee_id, r.type, r.owner, r.made_at, r.balance, r.read_at FROM exception_item x "
        "JOIN fee f ON f.institution = x.institution AND f.fee_id = x.fee_id "
        "JOIN reading r ON r.institution = x.institution AND r.fee_id = x.fee_id "
        "WHERE x.institution = :i AND x.closed_at IS NULL AND x.kind"
    )
    return sorted(in_list(tx, sql, kinds), key=lambda row: (row["user_id"], row["fee_id"]))


def describe(row: Row) -> str:
    """Return one entry for a person: what it is about, why, how much; no patron data."""
    fee = f" (fee {row['fee_id']})" if row["fee_id"] and row["subject"] != f"fee {row['fee_id']}" else ""
    return f"{row['subject']}{fee}: {row['kind']}, {amount(int(row['amount']))}; {row['detail']}"


def open_subjects(tx: Tx, kinds: Sequence[str]) -> list[str]:
    """Return what is listed under these kinds."""
    sql = "SELECT subject FROM exception_item WHERE institution = :i AND closed_at IS NULL AND kind"
    return [row["subject"] for row in in_list(tx, sql, kinds)]


def is_open(tx: Tx, subject: str) -> bool:
    """Whether anything is listed on a subject."""
    sql = "SELECT 1 FROM exception_item WHERE institution = :i AND closed_at IS NULL AND subject = :s"
    return tx.one(sql, s=subject) is not None


def ever(tx: Tx, kind: str, subject: str) -> bool:
    """Whether a subject is listed under a kind, or once was."""
    sql = (
        "SELECT 1 FROM exception_item WHERE institution = :i AND kind = :kind AND subject = :subject LIMIT 1"
    )
    return tx.one(sql, kind=kind, subject=subject) is not None


def judged_subjects(tx: Tx, kinds: Sequence[str]) -> list[str]:
    """Return what is listed under these kinds, or was and is settled by a person: what the next judgement is about."""
    sql = (
        "SELECT DISTINCT subject FROM exception_item "
        "WHERE institution = :i AND (closed_at IS NULL OR standing = 1) AND kind"
    )
    return [row["subject"] for row in in_list(tx, sql, kinds)]


def totals(tx: Tx) -> list[Row]:
    """Return each kind of what is open with its number ``n`` of entries and their ``cents``."""
    return tx.rows(
        "SELECT kind, COUNT(*) AS n, CAST(SUM(amount) AS BIGINT) AS cents FROM exception_item "
        "WHERE institution = :i AND closed_at IS NULL GROUP BY kind ORDER BY kind"
    )
