"""Lines of PeopleSoft's output that take payments back: each counts once, in however many files it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from alma_hook.ledger.store import Tx, in_list


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


def keep(tx: Tx, lines: Sequence[Line]) -> frozenset[str]:
    """Keep these lines; return the keys of the payments that one takes back which was not known.

    Known by either key it is the same line: its day may be read otherwise since, or written otherwise.
    """
    sql = "SELECT payment_key, line_key, text_key, kind FROM reversal_line WHERE institution = :i AND payment_key"
    kept = in_list(tx, sql, sorted({line.payment_key for line in lines}))
    keys = {(row["payment_key"], row["line_key"]) for row in kept}
    texts = {(row["payment_key"], row["text_key"]): row["kind"] for row in kept}
    others = [line for line in lines if (line.payment_key, line.text_key) not in texts]
    tx.many(
        "INSERT INTO reversal_line (institution, payment_key, line_key, cents, netted, text_key, kind) "
        "VALUES (:i, :payment_key, :key, :cents, 0, :text_key, :kind) "
        "ON CONFLICT (institution, payment_key, line_key) "
        "DO UPDATE SET text_key = excluded.text_key, kind = excluded.kind",
        [asdict(line) for line in others],
    )
    # What is told again as another kind that takes back is that now.
    tx.many(
        "UPDATE reversal_line SET kind = :kind WHERE institution = :i AND payment_key = :payment_key AND text_key = :text_key",
        [
            asdict(line)
            for line in lines
            if texts.get((line.payment_key, line.text_key), line.kind) != line.kind
        ],
    )
    return frozenset(line.payment_key for line in others if (line.payment_key, line.key) not in keys)


def taken_off(tx: Tx, payment_keys: Sequence[str], kinds: frozenset[str]) -> Counter[str]:
    """Return by payment the cents that all lines kept take off it which are of these ``kinds``, or of before kinds were kept."""
    sql = "SELECT payment_key, cents, kind FROM reversal_line WHERE institution = :i AND payment_key"
    found: Counter[str] = Counter()
    for row in in_list(tx, sql, payment_keys):
        if row["kind"] is None or row["kind"] in kinds:
            found[row["payment_key"]] += int(row["cents"])
    return found
