"""Batches and their lines: planned, written, delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from alma_hook.errors import Fatal, LeaseTaken, LedgerError
from alma_hook.ledger import exceptions, fees
from alma_hook.ledger.store import Row, Tx, in_list

#: States in which a live batch still has to be worked on, in their order.
UNFINISHED = ("planned", "written", "uploading", "uploaded", "renaming")
#: All that a batch may be in: set aside for a person first, and what it comes to in the end; ``preview`` of a dry run.
STATES = ("held", "released", *UNFINISHED, "delivered", "unconfirmed", "cancelled", "preview")

# What the ledger's events tell of a batch that the archive told of, and of one that was given up wrongly.
_RESTORED = "restored from the archive"
_AFTER_ALL = "delivered after all"
_COUNTS = "void line counts after all"

#: Of a line ``l`` that was given up: its batch was in doubt, or stands in the archive, so PeopleSoft may have it.
MAY_BE_LOADED = (
    "EXISTS (SELECT 1 FROM event e WHERE e.institution = l.institution AND e.subject = 'batch ' || l.batch_id "
    f"AND e.what IN ('unconfirmed', '{_RESTORED}'))"
)

#: The batch of what PeopleSoft held when the books were opened: it was never sent, and comes before all that are.
OPENING = "000000"

#: States in which nothing of a batch stands in the archive yet.
_UNSENT = ("planned", "written", "held", "released")

#: The columns of an archived file's manifest: those of its batch, then those of each line.
MANIFEST_BATCH = (
    "institution", "batch_id", "run_id", "created_at", "layout", "file_name", "file_date", "target", "directory", "sha256",
)  # fmt: skip
MANIFEST_LINE = (
    "line_no", "fee_id", "user_id", "kind", "amount", "emplid", "item_type", "term", "reference", "description",
    "account_type", "effective_date", "due_date", "reason", "credit_item",
)  # fmt: skip
#: And those that one written before they were known lacks, with what they would have told.
MANIFEST_SINCE = {"credit_item": "0"}


class Line(NamedTuple):
    """A charge or credit to be sent; ``amount`` in cents, more than nought.

    ``item_fee``: the fee whose item in PeopleSoft it is about, another one where ``fee_id`` was made anew for it.
    ``credit_item`` 1: a credit with an item type of its own. PeopleSoft makes it an item that pays the charge,
    where a credit that is marked as a reversal lowers the charge's own item.
    """

    fee_id: str
    kind: str
    amount: int
    emplid: str
    item_type: str
    term: str
    reference: str
    description: str
    account_type: str
    effective_date: str
    due_date: str
    reason: str
    item_fee: str
    credit_item: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a batch goes, fixed when it is planned."""

    layout: str
    file_name: str
    file_date: str
    host: str
    directory: str
    sent_as: str | None = None
    done_file: str | None = None


_NUMBERS = ("line_no", "amount", "credit_item")
_COLUMNS = ("line_no", *Line._fields, "state")


def _add_lines(tx: Tx, batch_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add a batch's lines: the fields of ``Line``, ``line_no`` and ``state``."""
    tx.insert("line", _COLUMNS, rows, batch_id=batch_id)


def _touch(tx: Tx, batch_id: str) -> None:
    """Make every reading of a batch's fees stale."""
    tx.run(
        "UPDATE fee SET version = version + 1 WHERE institution = :i "
        "AND fee_id IN (SELECT fee_id FROM line WHERE institution = :i AND batch_id = :b)",
        b=batch_id,
    )


def _row(line: Line, number: int, state: str) -> dict[str, Any]:
    return {"line_no": number, "state": state, **line._asdict()}


def open_batch(
    tx: Tx, kind: str, live: bool, lines: Sequence[Line], target: Target, *, held: bool = False
) -> str:
    """Fix the lines of a new batch and return its id. ``{sequence}`` in the file name is filled in.

    A live batch takes the next number; a rehearsal has numbers of its own, so it leaves no gap. A held
    batch waits for a person's answer and is never sent; its fees are busy as those of any other. That keeps their readings
    from being planned from again; they are stale once the batch is delivered or given up.
    """
    counter = "last_batch" if live else "last_preview"
    tx.run(f"UPDATE institution SET {counter} = {counter} + 1 WHERE institution = :i")
    number = int(tx.one(f"SELECT {counter} FROM institution WHERE institution = :i"))
    batch_id = f"{'' if live else 'P'}{number:06d}"
    state = ("held" if held else "planned") if live else "preview"
    file_name = target.file_name.replace("{sequence}", batch_id)
    done = target.done_file and target.done_file.replace("{file}", target.sent_as or file_name)
    tx.run(
        "INSERT INTO batch (institution, batch_id, kind, state, run_id, created_at, changed_at, layout, file_name, "
        "file_date, target, directory, line_count, total, sent_as, done_name) VALUES (:i, :b, :kind, :state, :run, :now, "
        ":now, :layout, :file_name, :file_date, :target, :directory, :count, :total, :sent_as, :done)",
        b=batch_id,
        kind=kind,
        state=state,
        run=tx.run_id,
        now=tx.now,
        layout=target.layout,
        file_name=file_name,
        sent_as=target.sent_as,
        done=done,
        file_date=target.file_date,
        target=target.host,
        directory=target.directory,
        count=len(lines),
        total=sum(line.amount for line in lines),
    )
    _add_lines(
        tx, batch_id, [_row(line, n, "pending" if live else "preview") for n, line in enumerate(lines, 1)]
    )
    tx.event(f"batch {batch_id}", state if live else "rehearsed", f"{kind}, {len(lines)} lines")
    return batch_id


def bring_opening(tx: Tx, lines: Sequence[Line], file_name: str, data: bytes, sha256: str, day: str) -> None:
    """Let the charges that PeopleSoft held when the books are opened count as delivered, and as seen there."""
    tx.run(
        "INSERT INTO batch (institution, batch_id, kind, state, run_id, created_at, changed_at, layout, file_name, file_date, "
        "target, directory, line_count, total, sha256, delivered_at, confirmed_at) VALUES (:i, :b, 'charges', 'delivered', "
        ":run, :now, :now, 'opening', :file_name, :day, '', '', :count, :total, :sha, :now, :now)",
        b=OPENING,
        run=tx.run_id,
        now=tx.now,
        file_name=file_name,
        day=day,
        count=len(lines),
        total=sum(line.amount for line in lines),
        sha=sha256,
    )
    keep_content(tx, OPENING, data, sha256)
    _add_lines(tx, OPENING, [_row(line, n, "sent") for n, line in enumerate(lines, 1)])
    tx.run(
        "UPDATE line SET confirmed_at = :now, confirmed_in = :file WHERE institution = :i AND batch_id = :b",
        now=tx.now,
        file=file_name,
        b=OPENING,
    )
    _touch(tx, OPENING)
    tx.event(f"batch {OPENING}", "opened with", f"{len(lines)} lines")


def in_states(tx: Tx, *states: str) -> list[Row]:
    """Return the live batches in these states, charges before credits, oldest first."""
    names = ", ".join(f"'{state}'" for state in states)
    return tx.rows(
        f"SELECT * FROM batch WHERE institution = :i AND state IN ({names}) "
        "ORDER BY CASE kind WHEN 'charges' THEN 0 ELSE 1 END, batch_id"
    )


def last_sent_as(tx: Tx) -> dict[str, str]:
    """Return by fixed name the kind of the last batch that was delivered under it."""
    rows = tx.rows(
        "SELECT sent_as, kind FROM batch WHERE institution = :i AND state = 'delivered' AND sent_as IS NOT NULL "
        "GROUP BY sent_as, kind ORDER BY MAX(delivered_at)"
    )
    return {row["sent_as"]: row["kind"] for row in rows}


def without_done_file(tx: Tx) -> list[Row]:
    """Return the delivered batches whose empty file is still to follow, oldest first."""
    return tx.rows(
        "SELECT * FROM batch WHERE institution = :i AND state = 'delivered' AND done_name IS NOT NULL AND done_at IS NULL "
        "ORDER BY batch_id"
    )


def done_file_put(tx: Tx, batch_id: str) -> None:
    """Note that a batch's empty file is there."""
    tx.run("UPDATE batch SET done_at = :now WHERE institution = :i AND batch_id = :b", now=tx.now, b=batch_id)


def open_empty(tx: Tx, kind: str, target: Target) -> list[str]:
    """Open a batch without lines unless this run has sent one of that kind; return its id, if there is one."""
    sent = "SELECT COUNT(*) FROM batch WHERE institution = :i AND run_id = :run AND kind = :kind AND state <> 'cancelled'"
    if tx.one(sent, run=tx.run_id, kind=kind):
        return []
    return [open_batch(tx, kind, True, (), target)]


def newest(tx: Tx, count: int, state: str | None = None) -> list[Row]:
    """Return so many of the newest batches, in a state or in any, the newest last."""
    where = "" if state is None else "AND state = :state"
    rows = tx.rows(
        f"SELECT * FROM batch WHERE institution = :i {where} ORDER BY created_at DESC, batch_id DESC LIMIT :count",
        count=count,
        **({} if state is None else {"state": state}),
    )
    return rows[::-1]


def newest_previews(tx: Tx) -> list[Row]:
    """Return the batches that the newest dry run with any rehearsed, charges before credits."""
    return tx.rows(
        "SELECT * FROM batch WHERE institution = :i AND state = 'preview' AND run_id = (SELECT b.run_id FROM batch b "
        "WHERE b.institution = :i AND b.state = 'preview' ORDER BY b.created_at DESC, b.batch_id DESC LIMIT 1) ORDER BY batch_id"
    )


def previews_of_run(tx: Tx) -> list[Row]:
    """Return the batches that this run rehearsed."""
    return tx.rows(
        "SELECT * FROM batch WHERE institution = :i AND run_id = :run AND state = 'preview' ORDER BY batch_id",
        run=tx.run_id,
    )


def batch(tx: Tx, batch_id: str) -> Row:
    """Return one batch."""
    found = tx.row("SELECT * FROM batch WHERE institution = :i AND batch_id = :b", b=batch_id)
    if found is None:
        raise LookupError(f"no batch {batch_id}")
    return found


def lines(tx: Tx, batch_id: str) -> list[Row]:
    """Return a batch's lines in their order, with the account of each one's fee."""
    return tx.rows(
        "SELECT l.*, f.user_id FROM line l JOIN fee f ON f.institution = l.institution AND f.fee_id = l.fee_id "
        "WHERE l.institution = :i AND l.batch_id = :b ORDER BY l.line_no",
        b=batch_id,
    )


def unnoted(tx: Tx) -> list[Row]:
    """Return the batches whose end the archive does not tell yet, oldest first."""
    return tx.rows(
        "SELECT * FROM batch WHERE institution = :i AND state IN ('delivered', 'cancelled') "
        "AND (noted_at IS NULL OR noted_at <> changed_at) ORDER BY batch_id"
    )


def noted(tx: Tx, row: Row) -> None:
    """Record that the archive tells of this change of a batch."""
    tx.run(
        "UPDATE batch SET noted_at = :changed WHERE institution = :i AND batch_id = :b",
        changed=row["changed_at"],
        b=row["batch_id"],
    )


def content(tx: Tx, batch_id: str) -> bytes:
    """Return the bytes of a written batch."""
    return bytes(
        tx.one("SELECT content FROM batch_file WHERE institution = :i AND batch_id = :b", b=batch_id)
    )


def keep_content(tx: Tx, batch_id: str, data: bytes, sha256: str) -> None:
    """Keep the bytes that will be sent, and no others."""
    tx.run("DELETE FROM batch_file WHERE institution = :i AND batch_id = :b", b=batch_id)
    tx.run("INSERT INTO batch_file VALUES (:i, :b, :data)", b=batch_id, data=data)
    tx.run("UPDATE batch SET sha256 = :s WHERE institution = :i AND batch_id = :b", b=batch_id, s=sha256)


def move(tx: Tx, batch_id: str, before: str, after: str, **stamps: str) -> None:
    """Move a batch from one state to the next; refused when it is not where it was thought to be."""
    allowed = {"acknowledged_at", "uploaded_at", "delivered_at"}
    sets = "".join(f", {name} = :{name}" for name in stamps if name in allowed)
    moved = tx.run(
        f"UPDATE batch SET state = :after, changed_at = :now{sets} "
        "WHERE institution = :i AND batch_id = :b AND state = :before",
        b=batch_id,
        before=before,
        after=after,
        now=tx.now,
        **stamps,
    )
    if not moved:
        raise LeaseTaken(f"Batch {batch_id} is no longer {before}: another run works on it.")
    tx.event(f"batch {batch_id}", after)
    if before == "unconfirmed":
        exceptions.close_subject(tx, f"batch {batch_id}", f"it is {after}")
    if after == "unconfirmed":
        _list_unconfirmed(tx, batch_id)


def _list_unconfirmed(tx: Tx, batch_id: str) -> None:
    row = batch(tx, batch_id)
    detail = (
        f"{row['file_name']}, {row['line_count']} lines: ask whether PeopleSoft has it, then mark-delivered or "
        "mark-not-delivered"
    )
    exceptions.open_all(
        tx, [exceptions.Listed("batch unconfirmed", f"batch {batch_id}", int(row["total"]), detail)]
    )


def acknowledge(tx: Tx, batch_id: str) -> None:
    """Note that the far side has said that it holds the whole upload."""
    tx.run(
        "UPDATE batch SET acknowledged_at = :now WHERE institution = :i AND batch_id = :b",
        now=tx.now,
        b=batch_id,
    )
    tx.event(f"batch {batch_id}", "acknowledged")


def begin_upload(tx: Tx, batch_id: str, before: str, temporary: str | None) -> None:
    """Begin an upload under a temporary name that no other attempt writes to; none: under the final name.

    The batch keeps which of the two it was: settings may change before a dead attempt is taken up.
    """
    move(tx, batch_id, before, "uploading")
    tx.run(
        "UPDATE batch SET temporary = :name, acknowledged_at = NULL WHERE institution = :i AND batch_id = :b",
        name=temporary,
        b=batch_id,
    )


def unsent(tx: Tx) -> list[Row]:
    """Return every batch that no upload was begun for."""
    return in_states(tx, "planned", "written", "released")


def drop_unsent(tx: Tx) -> list[str]:
    """Give up every batch that no upload was begun for, and return its fees: they are worked out anew.

    What was planned before an outage, or released days after it was held, would else be sent on old evidence.
    """
    freed: list[str] = []
    for row in unsent(tx):
        drop(tx, row["batch_id"], row["state"])
        freed += [line["fee_id"] for line in lines(tx, row["batch_id"])]
    return freed


def deliver(tx: Tx, batch_id: str, before: str) -> None:
    """Note that PeopleSoft has the file: from now on its lines count."""
    move(tx, batch_id, before, "delivered", delivered_at=tx.now)
    tx.run(
        "UPDATE line SET state = 'sent' WHERE institution = :i AND batch_id = :b AND state = 'pending'",
        b=batch_id,
    )
    _touch(tx, batch_id)


def deliver_after_all(tx: Tx, batch_id: str) -> None:
    """Let a batch count that was given up wrongly: PeopleSoft has it. What was sent again since is then credited.

    Raises ``Fatal`` for one that PeopleSoft can't have, while a fee of it is under way again, and where the credit of what
    was sent again would not meet what this batch has charged.
    """
    if not _was_sent(tx, batch_id):
        raise Fatal(
            f"Batch {batch_id} was never sent: it was given up before its upload began, and its fees were worked out anew."
        )
    ours = lines(tx, batch_id)
    _require_even(tx, f"batch {batch_id}", ours)
    deliver(tx, batch_id, "cancelled")
    tx.run(
        "UPDATE line SET state = 'sent' WHERE institution = :i AND batch_id = :b AND state = 'dropped'",
        b=batch_id,
    )
    done_file_put(tx, batch_id)
    tx.event(f"batch {batch_id}", _AFTER_ALL)
    _look_at_again(tx, ours)


def count_again(tx: Tx, batch_id: str, line_no: int) -> None:
    """Let a line count that was made void wrongly: PeopleSoft has it. What was sent again since is then credited.

    Raises ``Fatal`` as `deliver_after_all` does, and for a line that is not void.
    """
    ours = [line for line in lines(tx, batch_id) if line["line_no"] == line_no and line["state"] == "void"]
    if not ours:
        raise Fatal(f"Line {line_no} of batch {batch_id} is not void, or there is none: nothing was changed.")
    _require_even(tx, f"line {line_no} of batch {batch_id}", ours)
    _count(tx, batch_id, ours)
    tx.run(
        "UPDATE batch SET changed_at = :now WHERE institution = :i AND batch_id = :b", now=tx.now, b=batch_id
    )
    _look_at_again(tx, ours)


def _count(tx: Tx, batch_id: str, ours: Sequence[Row]) -> None:
    tx.many(
        "UPDATE line SET state = 'sent' WHERE institution = :i AND batch_id = :b AND line_no = :n AND state = 'void'",
        [{"b": batch_id, "n": line["line_no"]} for line in ours],
    )
    for line in ours:
        tx.event(f"batch {batch_id}", _COUNTS, f"line {line['line_no']}")
        tx.event(f"fee {line['fee_id']}", _COUNTS, f"batch {batch_id} line {line['line_no']}")
    fees.touch(tx, [line["fee_id"] for line in ours])


def counted_again(tx: Tx, batch_id: str) -> frozenset[int]:
    """Return the numbers of a batch's lines of which a person has said, since they were void, that they count."""
    told = tx.rows(
        "SELECT detail FROM event WHERE institution = :i AND subject = :s AND what = :what",
        s=f"batch {batch_id}",
        what=_COUNTS,
    )
    return frozenset(int(row["detail"].removeprefix("line ")) for row in told)


def _look_at_again(tx: Tx, ours: Sequence[Row]) -> None:
    # A fee that is held, or settled in Alma meanwhile, may be looked at by nothing else.
    fee_ids = sorted({line["fee_id"] for line in ours})
    fees.add_accounts(tx, True, sorted(fees.accounts_of_fees(tx, fee_ids)), _AFTER_ALL)


def _require_even(tx: Tx, what: str, ours: Sequence[Row]) -> None:
    """Raise ``Fatal`` where a credit can't even out what was sent again of these lines since."""
    fee_ids = sorted({line["fee_id"] for line in ours})
    since = in_list(
        tx,
        "SELECT l.fee_id, l.kind, l.emplid, l.item_type, b.batch_id, b.state AS batch_state FROM line l "
        "JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id WHERE l.institution = :i "
        "AND l.state IN ('sent', 'pending') AND l.fee_id",
        fee_ids,
    )
    under_way = sorted({line["batch_id"] for line in since if line["batch_state"] in UNFINISHED})
    if under_way:
        raise Fatal(
            f"Fees of {what} are under way again in batch {', '.join(under_way)}; say it again after that run."
        )
    # A credit copies a fee's newest charge.
    newest = sorted(
        (line for line in since if line["kind"] == "charge"), key=lambda line: str(line["batch_id"])
    )
    now = {line["fee_id"]: (line["emplid"], line["item_type"]) for line in newest}
    moved = [
        f"line {line['line_no']} (fee {line['fee_id']})"
        for line in ours
        if line["kind"] == "charge"
        and now.get(line["fee_id"], (line["emplid"], line["item_type"]))
        != (line["emplid"], line["item_type"])
    ]
    if moved:
        raise Fatal(
            f"Since {what} was given up, fees of it were charged to another EMPLID or item type: "
            f"{', '.join(moved)}. A credit would reach the new one and not the old. Let the business office reverse the "
            "group that it loaded from this file; then it is rightly given up."
        )


def _was_sent(tx: Tx, batch_id: str) -> bool:
    sql = f"SELECT 1 FROM line l WHERE l.institution = :i AND l.batch_id = :b AND l.state = 'dropped' AND {MAY_BE_LOADED} LIMIT 1"
    return bool(tx.one(sql, b=batch_id))


def drop(tx: Tx, batch_id: str, before: str) -> None:
    """Give a batch up whose file surely never reached PeopleSoft; its fees are free to be planned again."""
    move(tx, batch_id, before, "cancelled")
    if before in _UNSENT:
        # The archive holds nothing of it, or a file of that name that another campus put there.
        noted(tx, batch(tx, batch_id))
    tx.run(
        "UPDATE line SET state = 'dropped' WHERE institution = :i AND batch_id = :b AND state = 'pending'",
        b=batch_id,
    )
    _touch(tx, batch_id)


def accounts_charged(tx: Tx, fee_ids: Sequence[str]) -> dict[str, str]:
    """Return the account of every fee that the ledger has a line or, of those named, any record of."""
    rows = tx.rows(
        "SELECT DISTINCT f.fee_id, f.user_id FROM fee f JOIN line l ON l.institution = f.institution "
        "AND l.fee_id = f.fee_id WHERE f.institution = :i AND l.state <> 'preview'"
    )
    rows += in_list(tx, "SELECT fee_id, user_id FROM fee WHERE institution = :i AND fee_id", fee_ids)
    return {row["fee_id"]: row["user_id"] for row in rows}


_LINE_STATES = {"delivered": "sent", "cancelled": "dropped", "unconfirmed": "pending"}


def restore(
    tx: Tx,
    told: Row,
    of: Sequence[Row],
    data: bytes,
    state: str,
    void: frozenset[int],
    counting: frozenset[int],
) -> bool:
    """Bring in a batch as the archive tells it, or bring this ledger's one to that end; ``True``: it was new.

    ``told`` is a row of its manifest, ``of`` are those of its lines. ``state``: ``delivered``, ``cancelled``, or
    ``unconfirmed``; ``void``: numbers of lines that count no more, ``counting``: of those that do again. Raises
    ``LedgerError`` when the ledger has another batch of that number, or another end of it.
    """
    batch_id = str(told["batch_id"])
    held = tx.row("SELECT * FROM batch WHERE institution = :i AND batch_id = :b", b=batch_id)
    if held is not None:
        same = [(row["fee_id"], row["kind"], int(row["amount"])) for row in lines(tx, batch_id)]
        if held["state"] == "cancelled" and not _was_sent(tx, batch_id):
            # Given up before its upload began is no end: this ledger may be a copy from before it.
            held = _pick_up(tx, batch_id)
        ended = held["state"] in ("delivered", "cancelled")
        # A person may have said since that it was given up wrongly: here, or where the archive is from.
        said = (held["state"], state) == ("delivered", "cancelled") and _said_after_all(tx, batch_id)
        if (held["state"], state) == ("cancelled", "delivered"):
            deliver_after_all(tx, batch_id)
            said = True
        if same != [(row["fee_id"], row["kind"], int(row["amount"])) for row in of] or (
            ended and not said and state not in (held["state"], "unconfirmed")
        ):
            raise LedgerError(
                f"Batch {batch_id} in the archive is not this ledger's: two ledgers have been at work. Nothing was "
                "changed. Put the one back that sent what PeopleSoft has."
            )
        if not ended:
            keep_content(tx, batch_id, data, str(told["sha256"]))
            {"delivered": deliver, "cancelled": drop, "unconfirmed": _park}[state](
                tx, batch_id, held["state"]
            )
            tx.event(f"batch {batch_id}", _RESTORED, state)
        _void(tx, batch_id, of, void)
        _count(
            tx,
            batch_id,
            [line for line in lines(tx, batch_id) if line["state"] == "void" and line["line_no"] in counting],
        )
        return False
    tx.many(
        "INSERT INTO fee (institution, fee_id, user_id, first_seen_at) VALUES (:i, :fee_id, :user_id, :now) "
        "ON CONFLICT (institution, fee_id) DO NOTHING",
        [{"fee_id": row["fee_id"], "user_id": row["user_id"], "now": tx.now} for row in of],
    )
    tx.run(
        "INSERT INTO batch (institution, batch_id, kind, state, run_id, created_at, changed_at, layout, file_name, "
        "file_date, target, directory, line_count, total, delivered_at) VALUES (:i, :b, :kind, :state, :run, :created, "
        ":now, :layout, :file_name, :file_date, :target, :directory, :count, :total, :delivered)",
        b=batch_id,
        kind=f"{told['kind']}s",
        state=state,
        run=told["run_id"],
        created=told["created_at"],
        now=tx.now,
        count=len(of),
        total=sum(int(row["amount"]) for row in of),
        # When it was delivered is not told; it can't have been before it was made.
        delivered=told["created_at"] if state == "delivered" else None,
        **{name: told[name] for name in ("layout", "file_name", "file_date", "target", "directory")},
    )
    keep_content(tx, batch_id, data, str(told["sha256"]))
    _add_lines(
        tx,
        batch_id,
        [
            {
                **{name: row[name] for name in MANIFEST_LINE if name != "user_id"},
                **{name: int(row[name]) for name in _NUMBERS},
                "item_fee": item_fee,
                "state": _LINE_STATES[state],
            }
            for row, item_fee in zip(of, _item_fees(tx, of), strict=True)
        ],
    )
    tx.run(
        "UPDATE institution SET last_batch = :n WHERE institution = :i AND last_batch < :n", n=int(batch_id)
    )
    _touch(tx, batch_id)
    tx.event(f"batch {batch_id}", _RESTORED, state)
    _void(tx, batch_id, of, void)
    if state == "unconfirmed":
        _list_unconfirmed(tx, batch_id)
    return True


def _item_fees(tx: Tx, of: Sequence[Row]) -> list[str]:
    """Return for each line of a manifest, which does not tell it, the fee whose item it is about: the first of its reference."""
    follow = [row for row in of if row["kind"] == "credit" or row["reason"] not in ("new", "opening")]
    sql = "SELECT reference, item_fee FROM line WHERE institution = :i AND fee_id"
    found = {
        row["reference"]: row["item_fee"] for row in in_list(tx, sql, [str(row["fee_id"]) for row in follow])
    }
    # Of a fee made anew, no earlier line but the older one's bears it; they are few, so this goes through all lines.
    strange = sorted({str(row["reference"]) for row in follow} - found.keys())
    sql = "SELECT reference, item_fee FROM line WHERE institution = :i AND reference"
    found |= {row["reference"]: row["item_fee"] for row in in_list(tx, sql, strange)}
    return [str(found.get(row["reference"], row["fee_id"])) for row in of]


def _pick_up(tx: Tx, batch_id: str) -> Row:
    tx.run("UPDATE batch SET state = 'written' WHERE institution = :i AND batch_id = :b", b=batch_id)
    tx.run(
        "UPDATE line SET state = 'pending' WHERE institution = :i AND batch_id = :b AND state = 'dropped'",
        b=batch_id,
    )
    return batch(tx, batch_id)


def _said_after_all(tx: Tx, batch_id: str) -> bool:
    sql = "SELECT COUNT(*) FROM event WHERE institution = :i AND subject = :s AND what = :what"
    return bool(tx.one(sql, s=f"batch {batch_id}", what=_AFTER_ALL))


def _void(tx: Tx, batch_id: str, of: Sequence[Row], numbers: frozenset[int]) -> None:
    tx.many(
        "UPDATE line SET state = 'void' WHERE institution = :i AND batch_id = :b AND line_no = :n AND state = 'sent'",
        [{"b": batch_id, "n": number} for number in sorted(numbers)],
    )
    fees.touch(tx, [row["fee_id"] for row in of if int(row["line_no"]) in numbers])


def _park(tx: Tx, batch_id: str, before: str) -> None:
    if before != "unconfirmed":
        move(tx, batch_id, before, "unconfirmed")


def lines_of_fee(tx: Tx, fee_id: str) -> list[dict[str, Any]]:
    """Return every line of a fee with its batch's file and state, oldest first."""
    return [
        dict(row)
        for row in tx.rows(
            "SELECT l.*, b.file_name, b.state AS batch_state, b.run_id, b.created_at, b.delivered_at, "
            "h.why AS held_why, h.answer, h.answered_at, h.answered_by, h.answer_reason FROM line l "
            "JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
            "LEFT JOIN batch_hold h ON h.institution = l.institution AND h.batch_id = l.batch_id "
            "WHERE l.institution = :i AND l.fee_id = :fee ORDER BY l.batch_id, l.line_no",
            fee=fee_id,
        )
    ]
