"""Whether this ledger is the right one: no older copy, no second one, no other Alma's or server's.

An old or empty ledger is the worst case: it would charge everyone again. So a mark stands outside
the ledger, too, renewed before anything leaves. A mark found there that this ledger never put
was put by a later one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence

from alma_hook.errors import SendingStopped
from alma_hook.ledger.store import Tx, in_list

#: The name of the one-time word of a person that what stands outside is right.
MARKS = "marks"
_PUT_BACK = (
    "Nothing was sent. Put the newest ledger back, or bring this one up to date with `python -m alma_hook repair`; "
    "docs/operations.md tells how."
)


def new_mark(tx: Tx) -> tuple[str, bytes]:
    """Record a new mark; return it and what is to be written outside, a line of JSON."""
    mark = secrets.token_hex(8)
    _know(tx, mark)
    row = tx.row(
        "SELECT ledger_id, last_batch, last_payment, opened_as_of FROM institution WHERE institution = :i"
    )
    told = {"mark": mark, "at": tx.now, "institution": tx.institution, **(row or {})}
    return mark, (json.dumps(told) + "\n").encode()


def mark_placed(tx: Tx, mark: str) -> None:
    """Record that a mark stands in every place."""
    tx.run("UPDATE mark SET placed_at = :now WHERE institution = :i AND mark = :mark", now=tx.now, mark=mark)


def _know(tx: Tx, mark: str) -> None:
    tx.run(
        "INSERT INTO mark (institution, mark, at, run_id) VALUES (:i, :mark, :now, :run) "
        "ON CONFLICT (institution, mark) DO NOTHING",
        mark=mark,
        now=tx.now,
        run=tx.run_id,
    )


def check_marks(tx: Tx, outside: Mapping[str, bytes | None]) -> None:
    """Raise ``SendingStopped`` unless the marks outside, by place, are this ledger's own.

    ``None`` is a place without one. Of several places one may be behind or torn: each mark is one
    that was put at some time, and as long as all that can be read are known nothing was put since by
    another ledger.
    """
    found = {place: _read(text) for place, text in outside.items() if text is not None}
    told = {place: mark for place, mark in found.items() if mark is not None}
    readable = {place: mark for place, (mark, _) in told.items()}
    if _accepted_once(tx, [at for _, at in told.values()]):
        for mark in readable.values():
            _know(tx, mark)
        # What is gone may be gone until the next mark is put.
        tx.run("UPDATE mark SET placed_at = NULL WHERE institution = :i")
        return
    known = {
        row["mark"]
        for row in in_list(tx, "SELECT mark FROM mark WHERE institution = :i AND mark", [*readable.values()])
    }
    foreign = sorted(place for place, mark in readable.items() if mark not in known)
    if foreign:
        raise SendingStopped(
            f"{_sentence(foreign)} holds a mark that this ledger never put: the ledger is an older copy, "
            f"an empty one, or a second one at work. {_PUT_BACK}"
        )
    if found and not tx.one("SELECT COUNT(*) FROM mark WHERE institution = :i"):
        raise SendingStopped(
            f"{_sentence(sorted(found))} holds the mark of a ledger at work, and this ledger has never "
            f"put one: it is empty or another one. {_PUT_BACK}"
        )
    if not readable and tx.one("SELECT COUNT(placed_at) FROM mark WHERE institution = :i"):
        raise SendingStopped(
            f"The mark that this ledger has put is gone from {' and '.join(sorted(outside))}, so an older copy could not "
            "be told. Nothing was sent. If the folder or Airflow's variables were cleared or moved on purpose, run "
            "`python -m alma_hook rebind marks --reason ...`; if not, put the right ledger or connection back."
        )


def _sentence(places: Sequence[str]) -> str:
    """Begin a sentence with places; their own capitals stay."""
    text = " and ".join(places)
    return text[:1].upper() + text[1:]


def _read(text: bytes) -> tuple[str, str] | None:
    """Return a mark and when it was put; a place whose writing broke off holds none that can be read."""
    try:
        told = json.loads(text)
        return str(told["mark"]), str(told.get("at", ""))
    except (ValueError, KeyError, TypeError):
        return None


def _accepted_once(tx: Tx, put_at: Sequence[str]) -> bool:
    """Whether a person has said that what stood outside is right, which is good for once and for what stood there then.

    A mark that was put later is a newer ledger's: this one is a copy from before the word was used.
    """
    said_at = tx.one("SELECT bound_at FROM binding WHERE institution = :i AND what = :what", what=MARKS)
    if said_at is None or any(at > said_at for at in put_at):
        return False
    return bool(tx.run("DELETE FROM binding WHERE institution = :i AND what = :what", what=MARKS))


def bind(tx: Tx, what: str, value: str | None, else_: str = "Correct the connection") -> None:
    """Bind the ledger to what it sees for the first time. Raises ``SendingStopped`` when it sees another.

    ``value`` ``None``: it can't be told, which is good enough only while nothing is bound. ``else_`` says what to
    do when another is seen.
    """
    row = tx.row("SELECT value, bound_at FROM binding WHERE institution = :i AND what = :what", what=what)
    if row is None and value is not None:
        tx.run(
            "INSERT INTO binding VALUES (:i, :what, :value, :now, :actor)",
            what=what,
            value=value,
            now=tx.now,
            actor=tx.actor,
        )
        tx.event("institution", f"bound to {what}", value)
    elif row is not None and row["value"] != value:
        raise SendingStopped(
            f"This ledger works with {what} {row['value']} since {row['bound_at'][:10]}, and what it meets now is "
            f"{value or 'not to be told'}. Nothing was sent. {else_}; if the change is meant, run "
            f"`python -m alma_hook rebind '{what}' --reason ...`."
        )


def bindings(tx: Tx) -> dict[str, str]:
    """Return what the ledger is bound to."""
    rows = tx.rows("SELECT what, value FROM binding WHERE institution = :i ORDER BY what")
    return {row["what"]: row["value"] for row in rows}


def unbind(tx: Tx, what: str, reason: str) -> bool:
    """Forget a binding by a person's word, or (``marks``) accept the marks outside once; ``False``: none such."""
    if what == MARKS:
        tx.run(
            "INSERT INTO binding VALUES (:i, :what, :value, :now, :actor) ON CONFLICT (institution, what) DO UPDATE SET "
            "bound_at = excluded.bound_at, bound_by = excluded.bound_by",
            what=MARKS,
            value="accepted once",
            now=tx.now,
            actor=tx.actor,
        )
    elif not tx.run("DELETE FROM binding WHERE institution = :i AND what = :what", what=what):
        return False
    tx.event("institution", f"{what} released", reason)
    return True
