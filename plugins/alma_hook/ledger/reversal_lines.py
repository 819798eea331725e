"""Lines of PeopleSoft's output that take payments back: each counts once, in however many files it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from alma_hook.ledger.store import Tx, in_list


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``key`` is made from what it says, ``text_key`` likewise but from its day as the file writes it."""

    payment_key: str
    key: str
    text_key: str
    cents: int


def keep(tx: Tx, lines: Sequence[Line]) -> frozenset[str]:
    """Keep these lines; return the keys of the payments that one takes back which was not known.

    Known by either key it is the same line: its day may be read otherwise since, or written otherwise.
    """
    sql = "SELECT payment_key, line_key, text_key FROM reversal_line WHERE institution = :i AND payment_key"
    kept = in_list(tx, sql, sorted({line.payment_key for line in lines}))
    keys = {(row["payment_key"], row["line_key"]) for row in kept}
    texts = {(row["payment_key"], row["text_key"]) for row in kept}
    others = [line for line in lines if (line.payment_key, line.text_key) not in texts]
    tx.many(
        "INSERT INTO reversal_line (institution, payment_key, line_key, cents, netted, text_key) "
        "VALUES (:i, :key, :line, :cents, 0, :text) "
        "ON CONFLICT (institution, payment_key, line_key) DO UPDATE SET text_key = excluded.text_key",
        [
            {"key": line.payment_key, "line": line.key, "cents": line.cents, "text": line.text_key}
            for line in others
        ],
    )
    return frozenset(line.payment_key for line in others if (line.payment_key, line.key) not in keys)


def taken_off(tx: Tx, payment_keys: Sequence[str]) -> Counter[str]:
    """Return by payment the cents that all lines kept take off it."""
    sql = "SELECT payment_key, cents FROM reversal_line WHERE institution = :i AND payment_key"
    found: Counter[str] = Counter()
    for row in in_list(tx, sql, payment_keys):
        found[row["payment_key"]] += int(row["cents"])
    return found
