"""Payments that PeopleSoft took back, and fees that staff made anew in Alma for what was taken back.

Nothing follows from a payment that is missing or lower in one file, but that it is not posted meanwhile. In a second file
running, or by a person's word, it stands as taken back: what of it is not in Alma is not posted any more, what is there is
listed for a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from alma_hook.errors import BadFile, Fatal, Fault
from alma_hook.ledger import exceptions, fees
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.store import Row, Tx, in_list, moment
from alma_hook.money import amount as text_of

TAKEN_BACK = "payment taken back in PeopleSoft"
BACK = "payment is back after it was settled as taken back"
#: The key of a payment that is known by Alma's word only: no file of PeopleSoft's has ever told of it.
LOST = "alma:"
#: The state of a payment on a charge of before the books were opened: it counts for no fee of ours.
EARLIER = "earlier"
#: The state of one that waited, and whose line is that of no payment as the settings say now: it counts for no fee.
DROPPED = "dropped"
#: A file with the same bytes that lies there again under its name sooner than this may be the very same one, sent twice.
SAME_FILE_APART = timedelta(hours=12)
_STANDS = "('standing', 'settled')"
#: A payment on a charge of before the books were opened concerns us where its item stands for a fee of ours since then.
#: (Of applied amounts what was applied before is told by its sum, see ``applied.since_opening``.)
_COUNTS = (
    f"(p.state <> '{EARLIER}' OR EXISTS (SELECT 1 FROM opening_item_now o JOIN institution n ON n.institution = o.institution "
    "WHERE o.institution = p.institution AND o.fee_id = p.fee_id AND n.payment_shape <> 'applied'))"
)
#: A file lacks no payment that a later one was the first to tell of, nor one that Alma alone tells of and has
#: since that day: a repair reads old ones again.
_TOLD_BY_THEN = (
    " AND NOT EXISTS (SELECT 1 FROM payment_file f WHERE f.institution = p.institution AND f.name = p.file_name "
    "AND f.sha256 = p.file_sha256 AND (f.written_at > :at OR (f.written_at = :at AND f.name > :name))) "
    f"AND NOT (p.payment_key LIKE '{LOST}%' AND (p.paid_on = '' OR p.paid_on >= :day))"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a file of payments says of known ones. ``cents`` by key, nought where it is taken back as a whole.

    ``lacking`` is told by a cumulative file only: then a known payment that is not in ``cents`` was taken
    back, unless it is ``unclear``: a line that can't be read may be it. ``idle``: what is taken back of these is
    not in Alma, so however many they are, they speak against no file.
    """

    cents: Mapping[str, int]
    lacking: bool
    unclear: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()

    def of(self, key: str) -> int | None:
        """What the file says of a payment: cents, or ``None`` where it says nothing."""
        if key in self.cents:
            return self.cents[key]
        # Any line that can't be read may be one that Alma alone tells of.
        unclear = bool(self.unclear) if key.startswith(LOST) else key in self.unclear
        return 0 if self.lacking and not unclear else None


def newest(tx: Tx, file: Row) -> bool:
    """Whether no newer file of its kind was taken in; of two of one second the later name is the newer."""
    return not tx.one(
        "SELECT COUNT(*) FROM payment_file WHERE institution = :i AND kind = :kind AND state IN ('taken', 'archived') "
        "AND (written_at > :at OR (written_at = :at AND name > :name))",
        kind=file["kind"],
        at=file["written_at"],
        name=file["name"],
    )


def observe(tx: Tx, file: Row, shown: Shown, limit: int) -> frozenset[str]:
    """Note what the newest file shows lower, or not at all, and what is back; return the keys noted first here.

    Raises ``BadFile`` when more than ``limit`` payments are lower or missing for the first time: that is a
    file cut short, or payments that PeopleSoft has applied anew.
    """
    before: dict[str, list[Row]] = {}
    later: dict[str, list[Row]] = {}
    # A repair reads old files again: they tell nothing of what was seen taken back later.
    for row in tx.rows("SELECT * FROM reversal WHERE institution = :i AND state <> 'withdrawn'"):
        if row["first_written_at"] <= file["written_at"]:
            before.setdefault(row["payment_key"], []).append(row)
        else:
            later.setdefault(row["payment_key"], []).append(row)
    known = f"SELECT payment_key, payment_no, amount FROM payment p WHERE institution = :i AND {_COUNTS}"
    payments = (
        tx.rows(known + _TOLD_BY_THEN, at=file["written_at"], day=file["written_at"][:10], name=file["name"])
        if shown.lacking
        else in_list(tx, f"{known} AND payment_key", list(shown.cents))
    )
    found: list[tuple[Row, int]] = []
    for payment in payments:
        cents = shown.of(payment["payment_key"])
        if cents is None:
            continue
        of_payment = before.get(payment["payment_key"], [])
        stood = sum(int(row["amount"]) for row in of_payment if row["state"] != "seen_once")
        more = max(0, int(payment["amount"]) - cents) - stood
        seen = next((row for row in of_payment if row["state"] == "seen_once"), None)
        if more >= 0 and of_payment:
            for row in of_payment:
                exceptions.close_subject(tx, _back(row), "it is gone again")
        if more < 0:
            # A file from before it was taken back says nothing of it; a repair reads such ones again.
            gone = [row for row in of_payment if row["state"] != "seen_once" and _later(file, row)]
            _give_back(tx, gone, -more)
        if seen is not None and more <= 0:
            _change(tx, seen, "withdrawn", 0, f"the payment is back in {file['name']}")
        elif seen is not None and _another(tx, file, seen):
            _change(
                tx, seen, "standing", min(more, int(seen["amount"])), f"in {file['name']} too", file["name"]
            )
            more -= int(seen["amount"])
        newer = later.get(payment["payment_key"], [])
        more -= sum(int(row["amount"]) for row in newer)
        waits = any(row["state"] == "seen_once" for row in newer)
        if more > 0 and not waits and (seen is None or _another(tx, file, seen)):
            found.append((payment, more))
    if sum(payment["payment_key"] not in shown.idle for payment, _ in found) > limit:
        raise BadFile(
            "A file of PeopleSoft's payments can't be taken in.", [_too_many(file, shown, found, limit)]
        )
    _add(tx, file, found)
    return frozenset(str(payment["payment_key"]) for payment, _ in found)


def seen_once(tx: Tx, payment_key: str) -> int:
    """Return by how many cents one file has shown the payment lower, and no second one."""
    sql = (
        "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM reversal WHERE institution = :i AND payment_key = :key "
        "AND state = 'seen_once'"
    )
    return int(tx.one(sql, key=payment_key))


def _too_many(file: Row, shown: Shown, found: Sequence[tuple[Row, int]], limit: int) -> Fault:
    missing = sum(payment["payment_key"] not in shown.cents for payment, _ in found)
    return Fault(
        str(file["name"]),
        f"lacks {missing} payments that were taken in before and shows {len(found) - missing} with less, "
        f"{text_of(sum(cents for _, cents in found))} in all: more than sis_to_alma.reversal_limit, {limit}. Is it cut "
        "short, begins it with a later day, or were payments applied anew? If PeopleSoft truly took them back, raise the "
        "limit for one run",
    )


def _later(file: Row, seen: Row) -> bool:
    return (str(file["written_at"]), str(file["name"])) > (seen["first_written_at"], seen["first_file"])


def _another(tx: Tx, file: Row, seen: Row) -> bool:
    """Whether a file is a second witness: the very same one sent twice is not, but the same content of another day is."""
    if not _later(file, seen):
        return False
    apart = moment(file["written_at"]) - moment(seen["first_written_at"])
    return (
        file["name"] != seen["first_file"]
        or apart >= SAME_FILE_APART
        # The same bytes under the same name are one row, of when they were written last.
        or tx.one(
            "SELECT COUNT(*) FROM payment_file WHERE institution = :i AND name = :name AND written_at = :at",
            name=seen["first_file"],
            at=seen["first_written_at"],
        )
        > 0
    )


def _add(tx: Tx, file: Row, found: Iterable[tuple[Row, int]]) -> None:
    for payment, cents in found:
        tx.run(
            "INSERT INTO reversal (institution, reversal_id, payment_key, amount, state, first_file, first_written_at, "
            "found_at, changed_at) VALUES (:i, :id, :key, :amount, 'seen_once', :file, :at, :now, :now)",
            id=_next_id(tx, payment),
            key=payment["payment_key"],
            amount=cents,
            file=file["name"],
            at=file["written_at"],
            now=tx.now,
        )
        tx.event(
            f"payment {payment['payment_no']}",
            "seen taken back",
            f"{text_of(cents)}, first in {file['name']}",
        )


def _change(tx: Tx, row: Row, state: str, cents: int, why: str, second_file: str | None = None) -> None:
    if row["covered_by"] is not None:
        # Nothing stands in for it any more.
        _release(tx, row, f"payment {number_of(row)} is back")
    tx.run(
        # A withdrawn one keeps the amount that it had.
        "UPDATE reversal SET state = :state, amount = CASE WHEN :amount > 0 THEN :amount ELSE amount END, "
        "second_file = COALESCE(:file, second_file), covered = 0, covered_by = NULL, changed_at = :now "
        "WHERE institution = :i AND reversal_id = :id",
        state=state,
        amount=cents,
        file=second_file,
        now=tx.now,
        id=row["reversal_id"],
    )
    number = number_of(row)
    what = {"standing": "taken back", "settled": "taken back"}.get(state, "back again")
    tx.event(f"payment {number}", what, f"{text_of(cents or int(row['amount']))}, {why}")
    fees.touch(tx, [_payment(tx, number)["fee_id"]])


def take_word(tx: Tx, payment_key: str, reason: str) -> None:
    """Take a person's word on what one file alone has shown of a payment: it stands, and what of it lies in Alma is settled."""
    for seen in tx.rows(
        "SELECT * FROM reversal WHERE institution = :i AND payment_key = :key AND state = 'seen_once'",
        key=payment_key,
    ):
        _change(tx, seen, "standing", 0, "as a person says too")
        ((payment, rows),) = _standing(tx, payment_key)
        cents = _excess_of(payment, rows)[seen["reversal_id"]]
        if cents:
            _settle(tx, payment, seen["reversal_id"], cents, reason, [payment["fee_id"]])


def number_of(row: Row) -> int:
    """Return the number of the payment that a reversal, or a fee made anew, is about."""
    return int(str(row["reversal_id"]).partition("-")[0])


def id_of(payment: Row, place: int) -> str:
    """Return the id of a payment's reversal; nought: of one that the archive tells of."""
    return f"{payment['payment_no']}-{place:02d}"


def _next_id(tx: Tx, payment: Row) -> str:
    sql = "SELECT COUNT(*) FROM reversal WHERE institution = :i AND payment_key = :key"
    return id_of(payment, 1 + int(tx.one(sql, key=payment["payment_key"])))


def renumber(tx: Tx, payment: Row) -> None:
    """Let a payment's reversals bear its number: it is what is left of one that they were about, and has its key.

    It waits to be posted, so nothing is listed or carried yet by their ids.
    """
    sql = (
        "SELECT reversal_id FROM reversal WHERE institution = :i AND payment_key = :key ORDER BY reversal_id"
    )
    for place, row in enumerate(tx.rows(sql, key=payment["payment_key"]), 1):
        tx.run(
            "UPDATE reversal SET reversal_id = :new WHERE institution = :i AND reversal_id = :id",
            new=id_of(payment, place),
            id=row["reversal_id"],
        )


def restore(tx: Tx, payment: Row, told: Mapping[str, Any], covered_by: str | None) -> None:
    """Bring in what the archive tells of a payment's reversal, or bring this ledger's one to it."""
    values = {
        **{name: told[name] for name in ("amount", "covered", "settled", "state", "second_file")},
        "covered_by": covered_by,
        "now": tx.now,
    }
    of_file = {"key": payment["payment_key"], "file": told["first_file"], "at": told["first_written_at"]}
    known = tx.run(
        "UPDATE reversal SET amount = :amount, covered = :covered, covered_by = :covered_by, settled = :settled, "
        "state = :state, second_file = :second_file, changed_at = :now WHERE institution = :i AND payment_key = :key "
        "AND first_file = :file AND first_written_at = :at",
        **values,
        **of_file,
    )
    if not known:
        tx.run(
            "INSERT INTO reversal (institution, reversal_id, payment_key, amount, covered, covered_by, settled, state, "
            "first_file, first_written_at, second_file, found_at, changed_at) VALUES (:i, :id, :key, :amount, :covered, "
            ":covered_by, :settled, :state, :file, :at, :second_file, :now, :now)",
            id=_next_id(tx, payment),
            **values,
            **of_file,
        )
    tx.event(f"payment {payment['payment_no']}", "taken back", "as the archive tells")


def _payment(tx: Tx, number: int) -> Row:
    found = tx.row("SELECT * FROM payment_now WHERE institution = :i AND payment_no = :no", no=number)
    assert found is not None
    return _in_alma(found)


def _in_alma(payment: Row) -> Row:
    """Return a payment with the fee that it is on in Alma: one of before the opening was posted there by somebody else."""
    return {**payment, "fee_id": payment["reported_fee_id"]} if payment["state"] == EARLIER else payment


def _give_back(tx: Tx, rows: Sequence[Row], cents: int) -> None:
    """Take reversals back, the newest first; what a person has settled by then is listed."""
    for row in sorted(rows, key=lambda row: str(row["reversal_id"]), reverse=True):
        part = min(cents, int(row["amount"]) - int(row["settled"]))
        if part > 0:
            left = int(row["amount"]) - part
            _change(tx, row, row["state"] if left else "withdrawn", left, f"{text_of(part)} of it is back")
            cents -= part
    settled = [row for row in rows if int(row["settled"])]
    cents = min(cents, sum(int(row["settled"]) for row in settled))
    if cents > 0:
        number = number_of(settled[0])
        payment = _payment(tx, number)
        exceptions.open_all(
            tx,
            [
                Listed(
                    BACK,
                    _back(max(settled, key=lambda row: str(row["reversal_id"]))),
                    cents,
                    f"payment {number}: {text_of(cents)} that was taken back is in PeopleSoft's output again",
                    fee_id=payment["fee_id"],
                    payment_key=payment["payment_key"],
                )
            ],
        )
    # What was not posted is to be posted again, or to be given back: it was taken off the list as taken back.
    for number in {number_of(row) for row in rows}:
        payment = _payment(tx, number)
        if payment["state"] == "posted" and payment["received"] > payment["posted"]:
            rest = int(payment["received"]) - int(payment["posted"])
            exceptions.open_all(tx, [exceptions.of_payment(payment, exceptions.OVERPAID, rest)])


def _back(row: Row) -> str:
    """The subject under which it is listed that a payment is back after a reversal of it was settled.

    By its newest settled one: that stays while this is listed, and a payment may go again.
    """
    return f"payment back {row['reversal_id']}"


def take_up(tx: Tx, listed: Row) -> None:
    """Record that a person has undone what was done about a payment that is back: should it go again, it is news."""
    left = int(listed["amount"])
    for row in tx.rows(
        "SELECT * FROM reversal WHERE institution = :i AND payment_key = :key AND settled > 0 "
        "AND state IN ('standing', 'settled') ORDER BY reversal_id DESC",
        key=listed["payment_key"],
    ):
        if not left:
            break
        part = min(left, int(row["settled"]))
        left -= part
        tx.run(
            "UPDATE reversal SET settled = settled - :part, changed_at = :now WHERE institution = :i AND reversal_id = :id",
            part=part,
            now=tx.now,
            id=row["reversal_id"],
        )
        _uncarry(tx, row, part)
        rest = int(row["amount"]) - part
        _change(tx, row, row["state"] if rest else "withdrawn", rest, f"{text_of(part)} of it was undone")


def _uncarry(tx: Tx, row: Row, cents: int) -> None:
    """Let PeopleSoft's item stand for no fee made anew any more by so much: the payment that was taken back is there."""
    # One that the archive told of does not name which reversal it came from.
    ids = {str(row["reversal_id"]), f"{number_of(row)}-00"}
    carries = tx.rows("SELECT * FROM carry WHERE institution = :i ORDER BY carried_at DESC, to_fee")
    for carry in [carry for carry in carries if carry["reversal_id"] in ids]:
        part = min(cents, int(carry["amount"]))
        cents -= part
        if part:
            drop_carry(tx, carry, part)


def drop_carry(tx: Tx, carry: Row, cents: int) -> None:
    """Let a fee made anew stand for so much less of an older one; what waits for it goes back to that one."""
    of = {"fee": carry["to_fee"]}
    if cents < int(carry["amount"]):
        tx.run(
            "UPDATE carry SET amount = amount - :cents WHERE institution = :i AND to_fee = :fee",
            cents=cents,
            **of,
        )
    else:
        tx.run("DELETE FROM carry WHERE institution = :i AND to_fee = :fee", **of)
        tx.run(
            "UPDATE payment SET posted_to = fee_id WHERE institution = :i AND posted_to = :fee AND state = 'new'",
            **of,
        )
    touched = [carry["from_fee"], carry["item_fee"], carry["to_fee"]]
    fees.touch(tx, touched)
    fees.add_accounts(tx, True, sorted(fees.accounts_of_fees(tx, touched)), "payment is back")
    tx.event(f"fee {carry['to_fee']}", "stands no more for an older fee", text_of(cents))


def _release(tx: Tx, row: Row, why: str) -> None:
    """Let a payment that stood in for this one be posted again."""
    tx.run(
        "UPDATE payment SET state = 'new' WHERE institution = :i AND payment_key = :key AND state = 'settled'",
        key=row["covered_by"],
    )
    number = tx.one(
        "SELECT payment_no FROM payment WHERE institution = :i AND payment_key = :key", key=row["covered_by"]
    )
    tx.event(f"payment {number}", "to be posted again", why)


def release_covers(tx: Tx, kinds: frozenset[str]) -> None:
    """Let payments that stand in stand in no more where their kind is none of these; ``judge`` has to follow."""
    for row in tx.rows(
        "SELECT v.*, p.kind FROM reversal v JOIN payment p ON p.institution = v.institution "
        "AND p.payment_key = v.covered_by WHERE v.institution = :i AND p.state = 'settled' AND p.kind IS NOT NULL"
    ):
        if row["kind"] in kinds:
            continue
        _release(tx, row, "by its kind it is no payment any more")
        tx.run(
            "UPDATE reversal SET covered = 0, covered_by = NULL, changed_at = :now WHERE institution = :i AND reversal_id = :id",
            now=tx.now,
            id=row["reversal_id"],
        )
        fees.touch(tx, [_payment(tx, number_of(row))["fee_id"]])


def excess(paid: int, posted: int, rows: Sequence[Row]) -> list[int]:
    """Return what of each of a payment's reversals is in Alma and not dealt with, in cents.

    ``rows``: those that stand, oldest first. What was never posted is consumed first, by what of them is not
    dealt with: that was in Alma.
    """
    unposted = paid - posted
    found = []
    for row in rows:
        left = int(row["amount"]) - int(row["covered"]) - int(row["settled"])
        consumed = min(unposted, left)
        unposted -= consumed
        found.append(left - consumed)
    return found


def _excess_of(payment: Row, rows: Sequence[Row]) -> dict[str, int]:
    """Return ``excess`` by reversal."""
    cents = excess(int(payment["amount"]), int(payment["posted"]), rows)
    return dict(zip([row["reversal_id"] for row in rows], cents, strict=True))


def judge(tx: Tx) -> int:
    """List what stands as taken back and is in Alma, and take off the list what is not; return how many are listed.

    A payment of the same fee and student that waits to be posted stands in for it: it is what the student
    paid instead. Payments whose outcome is unclear wait until it is known.
    """
    listed: list[Listed] = []
    overpaid = set(exceptions.open_subjects(tx, [exceptions.OVERPAID]))
    unclear = _taken_back_since_opening(tx)
    for payment, rows in _standing(tx):
        for row in rows:
            _see_cover(tx, row)
        number, stands = payment["payment_no"], int(payment["stands"])
        if stands <= 0 and payment["payment_key"] in unclear:
            # Of before, it was in Alma: whether it is a person's affair a person says.
            asked = exceptions.of_payment(payment, exceptions.BEFORE_OR_AFTER, int(payment["amount"]))
            exceptions.open_all(tx, [asked])
        elif (payment["state"] == "new" and stands <= 0) or (
            payment["state"] == "posted" and int(payment["received"]) <= int(payment["posted"])
        ):
            exceptions.close_subject(tx, f"payment {number}", "PeopleSoft took it back")
        elif f"payment {number}" in overpaid:
            rest = int(payment["received"]) - int(payment["posted"])
            exceptions.open_all(tx, [exceptions.of_payment(payment, exceptions.OVERPAID, rest)])
        for row, cents in zip(rows, _excess_of(payment, rows).values(), strict=True):
            left = cents - _cover(tx, payment, row, cents) if cents and row["covered_by"] is None else cents
            if left > 0:
                listed.append(
                    Listed(
                        TAKEN_BACK,
                        f"reversal {row['reversal_id']}",
                        left,
                        f"payment {number} of {text_of(int(payment['amount']))}: {text_of(int(row['amount']))} taken back, "
                        f"by {row['first_file']} and {row['second_file'] or 'a person'}; {text_of(left)} of it is in Alma",
                        fee_id=payment["fee_id"],
                        payment_key=payment["payment_key"],
                    )
                )
    exceptions.list_only(tx, exceptions.judged_subjects(tx, [TAKEN_BACK]), listed)
    return len(listed)


def _taken_back_since_opening(tx: Tx) -> frozenset[str]:
    """Return the keys of payments of which nobody has said whether they are of before the opening, taken back after it."""
    rows = tx.rows(
        "SELECT d.payment_key FROM payment_of_unclear_day d WHERE d.institution = :i AND EXISTS (SELECT 1 FROM reversal v "
        "JOIN batch b ON b.institution = v.institution AND b.batch_id = '000000' WHERE v.institution = d.institution "
        f"AND v.payment_key = d.payment_key AND v.state IN {_STANDS} AND v.first_written_at > b.created_at)"
    )
    return frozenset(row["payment_key"] for row in rows)


def _standing(tx: Tx, payment_key: str | None = None) -> list[tuple[Row, list[dict[str, Any]]]]:
    """Return each payment with reversals that stand, and those, oldest first."""
    of = "AND v.payment_key = :key " if payment_key is not None else ""
    values = {} if payment_key is None else {"key": payment_key}
    rows = tx.rows(
        f"SELECT v.* FROM reversal v WHERE v.institution = :i AND v.state IN {_STANDS} {of}ORDER BY v.reversal_id",
        **values,
    )
    of_payment: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_payment.setdefault(str(row["payment_key"]), []).append(dict(row))
    payments = in_list(
        tx, "SELECT * FROM payment_now WHERE institution = :i AND payment_key", list(of_payment)
    )
    return [
        (_in_alma(payment), of_payment[payment["payment_key"]])
        for payment in sorted(payments, key=lambda payment: int(payment["payment_no"]))
    ]


def _see_cover(tx: Tx, row: dict[str, Any]) -> None:
    """Bring a cover up to what PeopleSoft still has of the payment that stands in.

    One that has become more than there is room for, since a person has dealt with a part meanwhile, stands in no more.
    """
    if row["covered_by"] is None:
        return
    stands = int(
        tx.one(
            "SELECT stands FROM payment_now WHERE institution = :i AND payment_key = :key",
            key=row["covered_by"],
        )
    )
    if stands > int(row["amount"]) - int(row["settled"]):
        _release(tx, row, f"no room is left for it in what was taken back of payment {number_of(row)}")
        row["covered"], row["covered_by"] = 0, None
    else:
        row["covered"] = stands
    tx.run(
        "UPDATE reversal SET covered = :covered, covered_by = :by WHERE institution = :i AND reversal_id = :id",
        covered=row["covered"],
        by=row["covered_by"],
        id=row["reversal_id"],
    )


def _cover(tx: Tx, payment: Row, row: Row, cents: int) -> int:
    """Let a waiting payment of at most ``cents`` stand in, the largest; return how much it is."""
    other = tx.row(
        "SELECT * FROM payment_now WHERE institution = :i AND fee_id = :fee AND emplid = :emplid AND state = 'new' "
        "AND stands > 0 AND stands <= :cents AND payment_key <> :key "
        # While nobody has said whether one of before the opening is among them, nothing can be told.
        "AND NOT EXISTS (SELECT 1 FROM payment_of_unclear_day d JOIN payment u ON u.institution = d.institution "
        "AND u.payment_key = d.payment_key WHERE d.institution = :i AND u.fee_id = :fee) ORDER BY stands DESC, payment_no",
        fee=payment["fee_id"],
        emplid=payment["emplid"],
        cents=cents,
        key=payment["payment_key"],
    )
    if other is None:
        return 0
    tx.run(
        "UPDATE payment SET state = 'settled' WHERE institution = :i AND payment_key = :key AND state = 'new'",
        key=other["payment_key"],
    )
    tx.run(
        "UPDATE reversal SET covered = :cents, covered_by = :key, changed_at = :now "
        "WHERE institution = :i AND reversal_id = :id",
        cents=other["stands"],
        key=other["payment_key"],
        now=tx.now,
        id=row["reversal_id"],
    )
    why = f"stands in for payment {payment['payment_no']}, which PeopleSoft took back"
    tx.event(f"payment {other['payment_no']}", "settled", why)
    exceptions.close_subject(tx, f"payment {other['payment_no']}", why)
    fees.touch(tx, [payment["fee_id"]])
    return int(other["stands"])


def waiting_students(tx: Tx) -> tuple[frozenset[str], frozenset[str]]:
    """Return the EMPLIDs and the accounts of students whose new fees wait.

    A payment of theirs that is in Alma, or may be, was taken back and nobody has dealt with it, or one file alone shows
    it so: a new fee may be the older one made anew.
    """
    rows = tx.rows(
        # See `fees.readings_of_run` for the CROSS JOIN.
        "SELECT p.emplid, f.user_id FROM ("
        "SELECT x.payment_key FROM exception_item x WHERE x.institution = :i AND x.kind = :kind AND x.closed_at IS NULL "
        "UNION SELECT v.payment_key FROM reversal v WHERE v.institution = :i AND v.state = 'seen_once') k "
        "CROSS JOIN payment p LEFT JOIN fee f ON f.institution = p.institution "
        "AND f.fee_id = COALESCE(p.posted_to, p.fee_id) WHERE p.institution = :i AND p.payment_key = k.payment_key "
        f"AND p.state IN ('posted', 'posting', 'unknown', '{EARLIER}')",
        kind=TAKEN_BACK,
    )
    # Of payments that were never told of, only the fee is known.
    rows += tx.rows(
        "SELECT COALESCE(o.emplid, l.emplid) AS emplid, f.user_id FROM exception_item x "
        "LEFT JOIN fee f ON f.institution = x.institution AND f.fee_id = x.fee_id "
        "LEFT JOIN line l ON l.institution = x.institution AND l.fee_id = x.fee_id AND l.state = 'sent' "
        "LEFT JOIN opening_item o ON o.institution = x.institution AND o.fee_id = x.fee_id "
        "WHERE x.institution = :i AND x.kind IN (:less, :refused) AND x.closed_at IS NULL",
        less=exceptions.LESS_APPLIED,
        refused=exceptions.LINE_REFUSED,
    )
    emplids, accounts = ({row[name] for row in rows} - {None} for name in ("emplid", "user_id"))
    return frozenset(emplids), frozenset(accounts)


# -- settling ------------------------------------------------------------------------------------------


def settle(tx: Tx, listed: Row, by: str, reason: str, replaced_by: str | None) -> None:
    """Record that a person has dealt with what was taken back, in one of two ways.

    Without ``replaced_by`` PeopleSoft's item is made good there, or Alma's payment stands for another
    reason. With it the library has made the fee anew in Alma under that id: PeopleSoft's item, on which
    the money is owed again, then stands for the new fee. Raises ``Fatal`` with every reason against it.
    """
    reversal_id = str(listed["subject"]).removeprefix("reversal ")
    ((payment, rows),) = _standing(tx, listed["payment_key"])
    cents = _excess_of(payment, rows).get(reversal_id, 0)
    # It is listed in the very transaction that changes it; should that ever end, nothing is settled by old words.
    if cents != int(listed["amount"]):  # pragma: no cover
        raise Fatal(
            "What was taken back has changed since it was listed; look at `exceptions` after the next run."
        )
    touched = [payment["fee_id"]]
    if replaced_by is not None:
        _carry(tx, payment, reversal_id, cents, replaced_by, by, reason)
        touched.append(replaced_by)
    _settle(tx, payment, reversal_id, cents, reason, touched)


def _settle(tx: Tx, payment: Row, reversal_id: str, cents: int, reason: str, touched: Sequence[str]) -> None:
    tx.run(
        "UPDATE reversal SET state = 'settled', settled = settled + :cents, changed_at = :now "
        "WHERE institution = :i AND reversal_id = :id",
        cents=cents,
        now=tx.now,
        id=reversal_id,
    )
    fees.touch(tx, touched)
    fees.add_accounts(tx, True, sorted(fees.accounts_of_fees(tx, touched)), "payment taken back")
    tx.event(f"payment {payment['payment_no']}", "taken back: settled", f"{text_of(cents)}; {reason}")


def _carry(tx: Tx, payment: Row, reversal_id: str, cents: int, to_fee: str, by: str, reason: str) -> None:
    faults = _against(tx, payment, cents, to_fee)
    if faults:
        raise Fatal(
            "\n".join([f"Fee {to_fee} can't stand for what was taken back:", *(f"  {f}" for f in faults)])
        )
    from_fee = payment["fee_id"]
    item_fee = (
        tx.one("SELECT item_fee FROM carry WHERE institution = :i AND to_fee = :fee", fee=from_fee)
        or from_fee
    )
    tx.run(
        "INSERT INTO carry VALUES (:i, :to, :from, :item, :cents, :reversal, :now, :by, :reason)",
        to=to_fee,
        item=item_fee,
        cents=cents,
        reversal=reversal_id,
        now=tx.now,
        by=by,
        reason=reason,
        **{"from": from_fee},
    )
    exceptions.close_subject(tx, f"fee {to_fee}", f"it was made anew for fee {from_fee}", by)
    route(tx)


def _against(tx: Tx, payment: Row, cents: int, to_fee: str) -> list[str]:
    """Return why a fee can't be the one that was made anew."""
    fee = tx.row(
        "SELECT r.*, f.user_id, o.user_id AS other_user FROM reading r "
        "JOIN fee f ON f.institution = r.institution AND f.fee_id = r.fee_id "
        "LEFT JOIN fee o ON o.institution = r.institution AND o.fee_id = :old "
        "WHERE r.institution = :i AND r.fee_id = :fee",
        fee=to_fee,
        old=payment["fee_id"],
    )
    if fee is None or fee["status"] == "MISSING":
        return ["no run has seen it in Alma; let alma_to_sis read the account, or look at the id"]
    faults = []
    if to_fee == payment["fee_id"]:
        faults.append("it is the fee that the payment was posted to; it needs an id of its own")
    if fee["user_id"] != fee["other_user"]:
        faults.append("it belongs to another account")
    if fee["type"] == "CREDIT":
        faults.append("it is a CREDIT fee")
    line = tx.row(
        "SELECT batch_id FROM line WHERE institution = :i AND fee_id = :fee AND state IN ('pending', 'sent', 'void')",
        fee=to_fee,
    )
    if line is not None:
        faults.append(
            f"PeopleSoft was charged for it already, or is about to be (batch {line['batch_id']}); let the business office "
            "take the older item back, and settle without --replaced-by"
        )
    if tx.one("SELECT COUNT(*) FROM carry WHERE institution = :i AND to_fee = :fee", fee=to_fee):
        faults.append("it stands for another taken-back payment already; make one fee for each")
    if int(fee["original"]) > cents:
        faults.append(f"it is of {text_of(int(fee['original']))}, more than the {text_of(cents)} taken back")
    return faults


def route(tx: Tx) -> None:
    """Give payments that wait, on an item that stands for newer fees, to the one they fit.

    In the order in which the fees were made: the first that is open by so much, else the first that is
    open, else the newest.
    """
    fees_of: dict[str, list[str]] = {}
    for row in tx.rows(
        "SELECT item_fee, to_fee FROM carry WHERE institution = :i ORDER BY carried_at, to_fee"
    ):
        fees_of.setdefault(row["item_fee"], [row["item_fee"]]).append(row["to_fee"])
    if not fees_of:
        return
    waiting = in_list(
        tx,
        "SELECT * FROM payment_now WHERE institution = :i AND state = 'new' AND stands > 0 AND reported_fee_id",
        list(fees_of),
    )
    involved = sorted({fee_id for row in waiting for fee_id in fees_of[row["reported_fee_id"]]})
    expected = {
        row["fee_id"]: int(row["expected"])
        for row in in_list(
            tx, "SELECT fee_id, expected FROM fee_expected WHERE institution = :i AND fee_id", involved
        )
    }
    for row in sorted(waiting, key=lambda row: int(row["payment_no"])):
        places = fees_of[row["reported_fee_id"]]
        cents = int(row["stands"])
        to = next((p for p in places if expected.get(p, 0) >= cents), None)
        to = to or next((p for p in places if expected.get(p, 0) > 0), places[-1])
        expected[to] = expected.get(to, 0) - cents
        if to != row["fee_id"]:
            tx.run(
                "UPDATE payment SET posted_to = :fee WHERE institution = :i AND payment_key = :key AND state = 'new'",
                fee=to,
                key=row["payment_key"],
            )
            exceptions.close_subject(tx, f"payment {row['payment_no']}", f"it is for fee {to} now")
            fees.touch(tx, [row["fee_id"], to])
            tx.event(f"payment {row['payment_no']}", "belongs to another fee", f"fee {to}")


def carried_lines(tx: Tx) -> dict[str, Row]:
    """Return, by fee made anew, the newest charge of the item that stands for it: lines about the fee copy it."""
    rows = tx.rows(
        # See `fees.readings_of_run` for the CROSS JOIN.
        "SELECT c.to_fee, l.* FROM carry c CROSS JOIN line l WHERE l.institution = c.institution AND l.fee_id = c.item_fee "
        "AND c.institution = :i AND l.state = 'sent' AND l.kind = 'charge'"
    )
    # The last of a fee's is the newest.
    return {row["to_fee"]: row for row in sorted(rows, key=lambda row: (row["batch_id"], row["line_no"]))}


def carries_of_fee(tx: Tx, fee_id: str) -> list[Row]:
    """Return what stands for this fee, and what its item stands for."""
    return tx.rows(
        "SELECT * FROM carry WHERE institution = :i AND (to_fee = :fee OR from_fee = :fee) ORDER BY carried_at",
        fee=fee_id,
    )
