"""Lines of PeopleSoft's output that take payments back: each counts once, in however many files it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alma_hook.ledger.store import Tx, in_list


def keep(tx: Tx, payment_key: str, lines: Mapping[str, int], *, netted: bool = False) -> None:
    """Keep the lines that take a payment back, by their keys in cents; what is known of one stays.

    ``netted``: they are off the amount with which the payment is taken in.
    """
    tx.many(
        "INSERT INTO reversal_line VALUES (:i, :key, :line, :cents, :netted) "
        "ON CONFLICT (institution, payment_key, line_key) DO NOTHING",
        [
            {"key": payment_key, "line": line, "cents": cents, "netted": int(netted)}
            for line, cents in lines.items()
        ],
    )


def only(tx: Tx, payment_key: str, lines: Mapping[str, int]) -> None:
    """Keep these lines and no others: a file that tells of the payment tells of all that take it back."""
    sql = "SELECT line_key FROM reversal_line WHERE institution = :i AND payment_key = :key AND netted = 0"
    gone = [row["line_key"] for row in tx.rows(sql, key=payment_key) if row["line_key"] not in lines]
    tx.many(
        "DELETE FROM reversal_line WHERE institution = :i AND payment_key = :key AND line_key = :line",
        [{"key": payment_key, "line": line} for line in gone],
    )
    keep(tx, payment_key, lines)


def taken_off(tx: Tx, payment_key: str) -> int:
    """Return the cents that lines of their own have taken back of a payment since it was taken in."""
    sql = "SELECT COALESCE(SUM(cents), 0) FROM reversal_line WHERE institution = :i AND payment_key = :key AND netted = 0"
    return int(tx.one(sql, key=payment_key))


def known(tx: Tx, payment_keys: Sequence[str]) -> frozenset[str]:
    """Return the keys of the lines that are known to take these payments back."""
    sql = "SELECT line_key FROM reversal_line WHERE institution = :i AND payment_key"
    return frozenset(row["line_key"] for row in in_list(tx, sql, payment_keys))
