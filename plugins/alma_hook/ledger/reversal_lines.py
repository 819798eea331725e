"""Lines of PeopleSoft's output that take payments back: each counts once, in however many files it stands.

Where one line sums up what was taken back of a payment, the largest counts: it has what those before it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from alma_hook.ledger.store import Row, Tx, in_list


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``key`` is made from what it says, ``text_key`` likewise but from its day as the file writes it.

    ``kind``: what it says that it is.
    """

    payment_key: str
    key: str
    text_key: str
    cents: int
    kind: str | None = None


def keep(tx: Tx, lines: Sequence[Line], others: frozenset[str]) -> tuple[list[Line], frozenset[Line]]:
    """Keep these lines; return them with the keys that they are kept by, and those among them that were not known.

    Known by either key it is the same line: its day may be read otherwise since, or written otherwise. What it was first said
    to be it stays, unless that is one of the kinds that the settings call something else (``others``).
    """
    kept = _of(tx, {line.payment_key for line in lines})
    by_key = {(row["payment_key"], row["line_key"]): row for row in kept}
    by_text = {(row["payment_key"], row["text_key"]): row for row in kept}
    there: list[Line] = []
    new: list[Line] = []
    changed: list[dict[str, str | None]] = []
    for line in lines:
        known = by_text.get((line.payment_key, line.text_key)) or by_key.get((line.payment_key, line.key))
        if known is None:
            there.append(line)
            new.append(line)
            continue
        there.append(replace(line, key=known["line_key"]))
        kind = line.kind if known["kind"] in others else known["kind"]
        if (known["text_key"], known["kind"]) != (line.text_key, kind):
            place = {"payment": line.payment_key, "line": known["line_key"]}
            changed.append({**place, "text": line.text_key, "kind": kind})
    tx.many(
        "INSERT INTO reversal_line (institution, payment_key, line_key, cents, netted, text_key, kind) "
        "VALUES (:i, :payment_key, :key, :cents, 0, :text_key, :kind)",
        [asdict(line) for line in new],
    )
    tx.many(
        "UPDATE reversal_line SET text_key = :text, kind = :kind "
        "WHERE institution = :i AND payment_key = :payment AND line_key = :line",
        changed,
    )
    return there, frozenset(new)


def apart(tx: Tx, lines: Sequence[Line], others: frozenset[str]) -> Counter[str]:
    """Return by the payments of these lines, all that one file has, the cents of lines kept which are not among them."""
    there = {(line.payment_key, key) for line in lines for key in (line.key, line.text_key)}
    found: Counter[str] = Counter()
    for row in _of(tx, {line.payment_key for line in lines}):
        of_file = {(row["payment_key"], row["line_key"]), (row["payment_key"], row["text_key"])} & there
        if row["kind"] not in others and not of_file:
            found[row["payment_key"]] += int(row["cents"])
    return found


def taken_off(tx: Tx, payment_keys: Iterable[str], others: frozenset[str], *, sums_up: bool) -> Counter[str]:
    """Return by payment the cents that the lines kept take off it but those of kinds that are called something else.

    ``sums_up``: one line has all of it, the largest.
    """
    counting = [row for row in _of(tx, payment_keys) if row["kind"] not in others]
    return _by_payment(counting, sums_up=sums_up)


@dataclass(frozen=True, slots=True)
class Missed:
    """What lines took off a payment that do not count any more, as far as it is neither given back nor in Alma.

    ``fee_id``: ``None`` where the payment itself was never taken in, as nothing of it was left.
    """

    payment_key: str
    cents: int
    fee_id: str | None


def missed(tx: Tx, others: frozenset[str], *, sums_up: bool) -> list[Missed]:
    """Return what is missing of payments since the kinds of their lines are called something else (``others``)."""
    sql = "SELECT * FROM reversal_line WHERE institution = :i AND kind"
    no_more = _by_payment(in_list(tx, sql, sorted(others)), sums_up=sums_up)
    if not no_more:
        return []
    off = taken_off(tx, no_more, others, sums_up=sums_up)
    payments = in_list(
        tx,
        "SELECT payment_key, fee_id, state, posted, stands, (SELECT COALESCE(w.gross, w.amount) FROM payment w "
        "WHERE w.institution = n.institution AND w.payment_key = n.payment_key) AS gross "
        "FROM payment_now n WHERE institution = :i AND payment_key",
        list(no_more),
    )
    found = []
    for row in payments:
        key, gross = row["payment_key"], int(row["gross"])
        if row["state"] in ("new", "posted"):
            cents = min(no_more[key], gross - off[key] - int(row["stands"]), gross - int(row["posted"]))
            found.append(Missed(key, cents, row["fee_id"]))
    known = {row["payment_key"] for row in payments}
    found += [Missed(key, cents, None) for key, cents in no_more.items() if key not in known]
    return sorted((one for one in found if one.cents > 0), key=lambda one: one.payment_key)


def _by_payment(rows: Iterable[Row], *, sums_up: bool) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        key, cents = row["payment_key"], int(row["cents"])
        found[key] = max(found[key], cents) if sums_up else found[key] + cents
    return found


def _of(tx: Tx, payment_keys: Iterable[str]) -> list[Row]:
    sql = "SELECT * FROM reversal_line WHERE institution = :i AND payment_key"
    return in_list(tx, sql, sorted(payment_keys))
