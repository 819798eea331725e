"""Accounts to read, readings of fees, and what the ledger expects of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from alma_hook.alma_answers import Fee
from alma_hook.ledger.store import Row, Tx, in_list, instant, moment, run_in_list

#: So long what the settings leave out is not looked at when nothing says that it changed.
LEFT_OUT_LOOKED_AT = timedelta(days=7)
_ADD = (
    "INSERT INTO account_to_read (institution, live, user_id, why, added_at, added_run) "
    "{source} ON CONFLICT (institution, live, user_id) DO UPDATE SET read_run = NULL"
)
_FEE = (
    "INSERT INTO fee (institution, fee_id, user_id, first_seen_at) VALUES (:i, :fee, :user, :now) "
    "ON CONFLICT (institution, fee_id) DO UPDATE SET user_id = excluded.user_id"
)


def add_accounts(tx: Tx, live: bool, user_ids: Iterable[str], why: str) -> int:
    """Put accounts on the list of those to read live; return how many were named."""
    rows = [{"live": int(live), "user": u, "why": why, "now": tx.now, "run": tx.run_id} for u in user_ids]
    tx.many(_ADD.format(source="VALUES (:i, :live, :user, :why, :now, :run)"), rows)
    return len(rows)


def add_open_accounts(tx: Tx, live: bool, why: str, *, left_out: bool = False) -> int:
    """Put every account on the list that the ledger has open, by our books or by the last reading.

    Of what the settings leave out only with ``left_out``: it may be all the fees there are.
    """
    source = (
        "SELECT DISTINCT :i, CAST(:live AS INTEGER), user_id, CAST(:why AS TEXT), CAST(:now AS TEXT), "
        "CAST(:run AS TEXT) FROM fee_wanted w WHERE institution = :i"
    )
    if not left_out:
        source += (
            " AND NOT EXISTS (SELECT 1 FROM left_out o WHERE o.institution = w.institution AND o.fee_id = w.fee_id "
            "AND o.user_id = w.user_id AND w.expected = 0)"
        )
    return tx.run(_ADD.format(source=source), live=int(live), why=why, now=tx.now, run=tx.run_id)


def sweep(tx: Tx, day: str) -> int:
    """Once on a day, list every open account, for what no report nominated; return how many were added."""
    if tx.one("SELECT 1 FROM event WHERE institution = :i AND subject = 'sweep' AND detail = :day", day=day):
        return 0
    tx.event("sweep", "all open accounts listed", day)
    before = len(accounts_left(tx, True))
    add_open_accounts(tx, True, "sweep", left_out=True)
    return len(accounts_left(tx, True)) - before


def accounts_of_fees(tx: Tx, fee_ids: Iterable[str]) -> set[str]:
    """Return the accounts of those fees that the ledger knows."""
    sql = "SELECT user_id FROM fee WHERE institution = :i AND fee_id"
    return {row["user_id"] for row in in_list(tx, sql, list(fee_ids))}


def clear_report(tx: Tx) -> None:
    """Forget what an attempt staged before: a report is read whole or not at all, and one at a time."""
    tx.run("DELETE FROM reported_fee WHERE institution = :i")


def stage_report(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep a report's rows (``fee_id``, ``user_id``, ``balance`` in cents) until they are compared.

    A fee may stand in several rows, one a transaction.
    """
    tx.insert("reported_fee", ("fee_id", "user_id", "balance"), rows)


def nominate(tx: Tx, live: bool) -> tuple[int, int]:
    """Compare the staged report with what the ledger expects; return fees reported, accounts to read.

    A report is a day old, so it only names accounts: those of fees whose balance is not the expected
    one, and those of fees open here that it does not show.
    """
    tx.make_room()
    tx.count_rows("reported_fee")
    values = {"live": int(live), "now": tx.now, "run": tx.run_id}
    reported = int(
        tx.one("SELECT COUNT(*) FROM (SELECT DISTINCT fee_id FROM reported_fee WHERE institution = :i) r")
    )
    add = _ADD.format(
        source="SELECT DISTINCT :i, CAST(:live AS INTEGER), user_id, CAST('report' AS TEXT), CAST(:now AS TEXT), "
        "CAST(:run AS TEXT) {}"
    )
    tx.run(
        "UPDATE reported_fee SET differs = 1 WHERE institution = :i AND fee_id IN (SELECT r.fee_id "
        "FROM reported_fee r LEFT JOIN fee f ON f.institution = r.institution AND f.fee_id = r.fee_id "
        "LEFT JOIN expected_sums s ON s.institution = r.institution AND s.fee_id = r.fee_id "
        "WHERE r.institution = :i "
        "AND (f.fee_id IS NULL OR f.user_id <> r.user_id OR COALESCE(s.expected, 0) <> r.balance) "
        "AND NOT EXISTS (SELECT 1 FROM left_out o WHERE o.institution = r.institution AND o.fee_id = r.fee_id "
        "AND o.balance = r.balance AND o.user_id = r.user_id AND COALESCE(s.expected, 0) = 0))"
    )
    differing = "FROM reported_fee WHERE institution = :i AND differs = 1"
    tx.run(add.format(differing), **values)
    tx.run(
        "INSERT INTO fee (institution, fee_id, user_id, first_seen_at) "
        f"SELECT :i, fee_id, MAX(user_id), CAST(:now AS TEXT) {differing} GROUP BY fee_id "
        "ON CONFLICT (institution, fee_id) DO UPDATE SET user_id = excluded.user_id",
        now=tx.now,
    )
    tx.run(
        add.format(
            # Which the report lacks is seen much faster than which are wanted.
            "FROM fee_wanted w WHERE institution = :i AND fee_id IN (SELECT fee_id FROM fee WHERE institution = :i "
            "EXCEPT SELECT fee_id FROM reported_fee WHERE institution = :i)"
        ),
        **values,
    )
    clear_report(tx)
    return reported, len(accounts_left(tx, live))


def accounts_left(tx: Tx, live: bool) -> list[str]:
    """Return the accounts that this run has still to read."""
    rows = tx.rows(
        "SELECT user_id FROM account_to_read WHERE institution = :i AND live = :live "
        "AND (read_run IS NULL OR read_run <> :run) ORDER BY user_id",
        live=int(live),
        run=tx.run_id,
    )
    return [row["user_id"] for row in rows]


def any_listed(tx: Tx, live: bool) -> bool:
    """Whether there are accounts to read, or read and not considered by a plan yet."""
    return (
        tx.one(
            "SELECT 1 FROM account_to_read WHERE institution = :i AND live = :live LIMIT 1", live=int(live)
        )
        is not None
    )


def any_read(tx: Tx) -> bool:
    """Whether this run has read an account."""
    sql = (
        "SELECT 1 FROM account_to_read WHERE institution = :i AND read_run = :run "
        "UNION ALL SELECT 1 FROM reading WHERE institution = :i AND run_id = :run LIMIT 1"
    )
    return tx.one(sql, run=tx.run_id) is not None


def put_back_stale(tx: Tx, live: bool) -> int:
    """Put accounts back on the list whose fees changed in the ledger after this run had read them."""
    return tx.run(
        "UPDATE account_to_read SET read_run = NULL WHERE institution = :i AND live = :live AND read_run = :run "
        "AND EXISTS (SELECT 1 FROM fee f JOIN reading r ON r.institution = f.institution AND r.fee_id = f.fee_id "
        "WHERE f.institution = account_to_read.institution AND f.user_id = account_to_read.user_id "
        "AND r.run_id = :run AND r.fee_version <> f.version)",
        live=int(live),
        run=tx.run_id,
    )


def wanted(tx: Tx, user_ids: Sequence[str]) -> dict[str, set[str]]:
    """Return, for each account, the fees that must be found when it is read."""
    found: dict[str, set[str]] = {user: set() for user in user_ids}
    for row in in_list(
        tx, "SELECT user_id, fee_id FROM fee_wanted WHERE institution = :i AND user_id", user_ids
    ):
        found[row["user_id"]].add(row["fee_id"])
    return found


def versions(tx: Tx, user_ids: Sequence[str]) -> dict[str, int]:
    """Return the version of every fee of these accounts: what a reading made now is based on."""
    sql = "SELECT fee_id, version FROM fee WHERE institution = :i AND user_id"
    return {row["fee_id"]: int(row["version"]) for row in in_list(tx, sql, user_ids)}


def known(tx: Tx, fee_id: str) -> bool:
    """Whether the ledger has met this fee."""
    return tx.one("SELECT 1 FROM fee WHERE institution = :i AND fee_id = :fee", fee=fee_id) is not None


def meet(tx: Tx, fee_id: str, user_id: str) -> None:
    """Know a fee of this account from now on, so that the next run looks for it."""
    tx.run(_FEE, fee=fee_id, user=user_id, now=tx.now)


def store_reading(
    tx: Tx,
    fee: Fee,
    version: int,
    *,
    emplid: str | None,
    reason: str,
    others_paid: int = 0,
    others_waived: int = 0,
    problem: str | None = None,
    user_group: str | None = None,
) -> None:
    """Keep the newest reading of a fee; ``version`` is the fee's from before Alma was asked.

    One that a posting has overtaken changes nothing but makes the fee stale: the books know better.
    """
    meet(tx, fee.fee_id, fee.user_id)
    overtaken = tx.run(
        "UPDATE reading SET run_id = :run, read_at = :now, fee_version = :v WHERE institution = :i AND fee_id = :fee "
        "AND EXISTS (SELECT 1 FROM fee f WHERE f.institution = :i AND f.fee_id = :fee AND f.version <> :v)",
        run=tx.run_id,
        now=tx.now,
        v=version,
        fee=fee.fee_id,
    )
    if overtaken:
        return
    own = fee.own_payments()
    _store(
        tx,
        fee.fee_id,
        {
            "version": version,
            "emplid": emplid,
            "status": fee.status,
            "type": fee.type,
            "owner": fee.owner,
            "currency": fee.currency,
            "original": fee.original,
            "balance": fee.balance,
            "own": sum(t.cents for t in own),
            "reason": reason,
            "problem": problem,
            "others": others_paid,
            "waived": others_waived,
            "made": fee.created_at,
            "group": user_group,
            "payments": "".join(_told(str(t.external_id), t.cents) for t in own),
        },
    )


def _told(external_id: str, cents: int) -> str:
    """How a reading keeps one payment with our key."""
    return f"{external_id}={cents} "


def store_missing(tx: Tx, fee_id: str, version: int, problem: str) -> None:
    """Keep that a fee was found nowhere. Its last known balance stays as it was: unseen is not zero."""
    changed = tx.run(
        "UPDATE reading SET run_id = :run, read_at = :now, fee_version = :v, status = 'MISSING', problem = :p "
        "WHERE institution = :i AND fee_id = :fee",
        run=tx.run_id,
        now=tx.now,
        v=version,
        p=problem,
        fee=fee_id,
    )
    if not changed:
        nothing = {
            "emplid": None,
            "type": "",
            "owner": "",
            "currency": None,
            "original": 0,
            "balance": 0,
            "own": 0,
            "others": 0,
            "waived": 0,
            "made": None,
            "group": None,
            "payments": "",
        }
        _store(
            tx, fee_id, {**nothing, "version": version, "status": "MISSING", "reason": "", "problem": problem}
        )


def _store(tx: Tx, fee_id: str, values: Mapping[str, Any]) -> None:
    tx.run("DELETE FROM reading WHERE institution = :i AND fee_id = :fee", fee=fee_id)
    tx.run(
        "INSERT INTO reading VALUES (:i, :fee, :run, :now, :version, :emplid, :status, :type, :owner, :currency, "
        ":original, :balance, :own, :reason, :problem, :others, :made, :group, :waived, :payments)",
        fee=fee_id,
        run=tx.run_id,
        now=tx.now,
        **values,
    )


def mark_read(tx: Tx, live: bool, user_id: str) -> None:
    """Note that this run has read an account."""
    tx.run(
        "UPDATE account_to_read SET read_run = :run WHERE institution = :i AND live = :live AND user_id = :user",
        run=tx.run_id,
        live=int(live),
        user=user_id,
    )


def forget_read(tx: Tx, live: bool, again: Sequence[str]) -> None:
    """Take the accounts off the list whose readings this run has considered; ``again`` stay on it."""
    tx.many(
        "UPDATE account_to_read SET read_run = NULL WHERE institution = :i AND live = :live AND user_id = :user",
        [{"live": int(live), "user": user} for user in again],
    )
    tx.run(
        "DELETE FROM account_to_read WHERE institution = :i AND live = :live AND read_run = :run",
        live=int(live),
        run=tx.run_id,
    )


def left_out_no_more(tx: Tx, day: str, rules: str) -> list[str]:
    """Return the accounts of what was left out until today, by other rules than those of now, or read a week ago.

    What a user's export or no report names would else never be seen to have changed.
    """
    rows = tx.rows(
        "SELECT DISTINCT o.user_id FROM left_out o "
        "LEFT JOIN reading r ON r.institution = o.institution AND r.fee_id = o.fee_id "
        # An attempt that goes on has read some of them already.
        "WHERE o.institution = :i AND COALESCE(r.run_id, '') <> :run "
        "AND (o.until <= :day OR o.rules <> :rules OR r.read_at IS NULL OR r.read_at <= :week_ago)",
        day=day,
        rules=rules,
        week_ago=instant(moment(tx.now) - LEFT_OUT_LOOKED_AT),
        run=tx.run_id,
    )
    return [row["user_id"] for row in rows]


def leave_out(tx: Tx, considered: Sequence[str], rows: Sequence[Mapping[str, Any]], rules: str) -> None:
    """Keep which of the fees just considered are left out (``fee``, ``user``, ``balance``, ``until``), and no longer which."""
    if tx.one("SELECT 1 FROM left_out WHERE institution = :i LIMIT 1"):
        run_in_list(tx, "DELETE FROM left_out WHERE institution = :i AND fee_id", considered)
    tx.many(
        "INSERT INTO left_out VALUES (:i, :fee, :user, :balance, :until, :rules)",
        [{**row, "rules": rules} for row in rows],
    )


# What later lines of a fee copy of the charge that was sent last, see ``charges.to_copy``.
_COPIED = ("emplid", "item_type", "term", "reference", "description", "account_type", "item_fee")
_NO_LINES: Row = {"charged": 0, "credited": 0, "pending": 0, "charge": None}


# In what follows a CROSS JOIN lets SQLite begin with this run's readings, which are few, where it would begin with all that
# the other table has of the institution; sorted, grouped or made distinct by it, it would do the same.


def readings_of_run(tx: Tx) -> list[Row]:
    """Return this run's readings by fee id, each with its fee's position.

    That is what the view ``fee_position`` says of it, worked out for many at once; ``charge`` is the last one that was
    sent, or ``None``; ``own``: key and cents of the payments with our key that it showed.
    """
    lines, carried, in_flight = _lines_of_run(tx), _carried_of_run(tx), _in_flight(tx)
    rows = tx.rows(
        "SELECT r.fee_id, r.read_at, r.fee_version, r.emplid, r.status, r.type, r.owner, r.currency, r.original, r.balance, "
        "r.reason, r.problem, r.others_paid, r.others_waived, r.made_at, r.user_group, r.own_payments, f.user_id, f.version "
        "FROM reading r CROSS JOIN fee f WHERE f.institution = r.institution AND f.fee_id = r.fee_id "
        "AND r.institution = :i AND r.run_id = :run",
        run=tx.run_id,
    )
    found: list[Row] = [
        {
            **row,
            **lines.get(row["fee_id"], _NO_LINES),
            "carried": carried.get(row["fee_id"], 0),
            "in_flight": row["fee_id"] in in_flight,
            "own": _own(row["own_payments"]),
        }
        for row in rows
    ]
    return sorted(found, key=lambda row: str(row["fee_id"]))


def _own(told: str) -> tuple[tuple[str, int], ...]:
    """Return the payments with our key that a reading showed, see ``_told``."""
    parts = (each.partition("=") for each in told.split())
    return tuple((external_id, int(cents)) for external_id, _, cents in parts)


def _lines_of_run(tx: Tx) -> dict[str, Row]:
    """Return of each fee that this run has read what was sent, how much of it waits, and the last charge sent."""
    rows = tx.rows(
        f"SELECT l.fee_id, l.batch_id, l.line_no, l.kind, l.state, l.amount, {', '.join(f'l.{name}' for name in _COPIED)} "
        "FROM reading r CROSS JOIN line l WHERE l.institution = r.institution AND l.fee_id = r.fee_id "
        "AND l.state IN ('sent', 'pending') AND r.institution = :i AND r.run_id = :run",
        run=tx.run_id,
    )
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["batch_id"], row["line_no"])):
        of_fee = found.setdefault(row["fee_id"], dict(_NO_LINES))
        if row["state"] == "pending":
            of_fee["pending"] += 1
        elif row["kind"] == "charge":
            of_fee["charged"] += int(row["amount"])
            of_fee["charge"] = row
        else:
            of_fee["credited"] += int(row["amount"])
    return dict(found)


def _carried_of_run(tx: Tx) -> dict[str, int]:
    """Return of each fee that this run has read what an older item in PeopleSoft stands in for, where one does."""
    rows = tx.rows(
        "SELECT c.to_fee, c.amount FROM reading r CROSS JOIN carry c WHERE c.institution = r.institution "
        "AND c.to_fee = r.fee_id AND r.institution = :i AND r.run_id = :run",
        run=tx.run_id,
    )
    return {row["to_fee"]: int(row["amount"]) for row in rows}


def _in_flight(tx: Tx) -> frozenset[str]:
    """Return the fees with a payment under way; those are few."""
    sql = "SELECT posted_to FROM payment WHERE institution = :i AND state IN ('posting', 'unknown')"
    return frozenset(row["posted_to"] for row in tx.rows(sql))


def touch(tx: Tx, fee_ids: Iterable[str]) -> None:
    """Make every reading of these fees stale: their lines or payments have changed."""
    run_in_list(tx, "UPDATE fee SET version = version + 1 WHERE institution = :i AND fee_id", list(fee_ids))


def balances(tx: Tx) -> Row:
    """Return the balances line: what both sides hold, what explains the difference, what does not."""
    tx.make_room()
    nothing = dict.fromkeys(("fees", "alma", "peoplesoft", "explained", "on_its_way", "unexplained"), 0)
    return tx.row("SELECT * FROM balances WHERE institution = :i") or nothing


def store_balance(tx: Tx, fee: Fee, external_id: str, values: Sequence[int]) -> None:
    """Bring the last reading of a fee up to a payment just posted. It stays too old to plan from.

    ``values``: its cents, several where Alma has applied it more than once.
    """
    tx.run(
        "UPDATE reading SET balance = :balance, status = :status, own_paid = own_paid + :value, "
        "own_payments = own_payments || :payments "
        "WHERE institution = :i AND fee_id = :fee AND own_payments NOT LIKE :known",
        balance=fee.balance,
        status=fee.status,
        value=sum(values),
        payments="".join(_told(external_id, value) for value in values),
        fee=fee.fee_id,
        known=f"%{external_id}=%",
    )


def export_taken(tx: Tx, live: bool, name: str, sha256: str, modified: int) -> bool:
    """Whether an export of the SIS profile was taken in before.

    ``modified``: when it was written, in seconds since 1970. Written again since it was taken in, the same bytes under
    the same name are news: the same users were modified once more.
    """
    taken_at = tx.one(
        "SELECT taken_at FROM export_file "
        "WHERE institution = :i AND live = :live AND name = :name AND sha256 = :sha",
        live=int(live),
        name=name,
        sha=sha256,
    )
    return taken_at is not None and str(taken_at) >= instant(datetime.fromtimestamp(modified, UTC))


def take_export(tx: Tx, live: bool, name: str, sha256: str, user_ids: Sequence[str]) -> None:
    """List an export's accounts and remember the file, both or neither."""
    add_accounts(tx, live, user_ids, "modified")
    tx.run(
        "INSERT INTO export_file VALUES (:i, :live, :name, :sha, :accounts, :now, :run) "
        "ON CONFLICT (institution, live, name, sha256) DO UPDATE SET taken_at = excluded.taken_at, run_id = excluded.run_id",
        live=int(live),
        name=name,
        sha=sha256,
        accounts=len(user_ids),
        now=tx.now,
        run=tx.run_id,
    )
