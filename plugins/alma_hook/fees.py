"""Live reading of accounts: what Alma says of their fees right now, and whether that is evidence."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from alma_hook import guard
from alma_hook import ledger as books
from alma_hook.alma import FeeLists, look_up
from alma_hook.alma_answers import Fee, Transaction, User
from alma_hook.campus import Campus
from alma_hook.errors import Inconsistent, QuotaSpent, Refused, Retriable, UserNotFound
from alma_hook.guard import MarkPlace
from alma_hook.ledger import Lease, Ledger, batches, exceptions
from alma_hook.ledger import fees as entries

_CHUNK = 50
_FEW = 3

NOT_FOUND = "fee not found in Alma"
USER_GONE = "user not found in Alma"
INCONSISTENT = "inconsistent reading"
#: Under which it is listed that accounts could not be read.
_UNREAD = "accounts"


class FeesSource(FeeLists, Protocol):
    """The two calls a reading needs."""

    def user(self, user_id: str) -> User:
        """Return one user."""
        ...


@dataclass(frozen=True, slots=True)
class AccountReading:
    """One account as read. ``missing`` wanted fees are in none of the four lists; ``problem`` says why."""

    user_id: str
    fees: tuple[Fee, ...] = ()
    missing: frozenset[str] = frozenset()
    problem: str | None = None
    emplid: str | None = None
    user_group: str | None = None

    @property
    def readable(self) -> bool:
        """Whether Alma gave an answer about the account, be it that there is none."""
        return self.problem in (None, NOT_FOUND, USER_GONE)


@dataclass
class ReadCounts:
    """What a reading task did: accounts read, fees seen, accounts with a problem, accounts left unread."""

    accounts: int = 0
    fees: int = 0
    problems: int = 0
    unread: int = 0

    def add(self, reading: AccountReading) -> None:
        """Count one account."""
        self.accounts += 1
        self.fees += len(reading.fees)
        self.problems += reading.problem is not None


@dataclass(frozen=True, slots=True)
class OfUser:
    """What is asked about a user besides the fees: ``emplid_source`` as in the settings, and the group or not.

    With the EMPLID as primary id and without the group no call is needed: each fee names its user.
    """

    emplid_source: str = "primary_id"
    group: bool = False

    def read(self, source: FeesSource, user_id: str) -> tuple[str | None, str | None]:
        """Return EMPLID (``None``: the fee names it) and user group (``None``: not asked for)."""
        by_primary_id = self.emplid_source == "primary_id"
        if by_primary_id and not self.group:
            return None, None
        user = source.user(user_id)
        emplid = user.identifiers.get(self.emplid_source.removeprefix("identifier:"), "")
        return None if by_primary_id else emplid, user.group if self.group else None


def read_account(source: FeesSource, user_id: str, wanted: frozenset[str], of_user: OfUser) -> AccountReading:
    """Read one account, in as many statuses as it takes to find every wanted fee.

    A fee seen in two lists moved between the calls, so the account is read again. A fee in no list
    is reported as missing, never as settled.
    """
    try:
        seen = look_up(source, user_id, wanted)
        found, missing = tuple(seen.values()), wanted - seen.keys()
        emplid, group = of_user.read(source, user_id) if found else (None, None)
        return AccountReading(user_id, found, missing, NOT_FOUND if missing else None, emplid, group)
    except Inconsistent:
        return AccountReading(user_id, missing=wanted, problem=INCONSISTENT)
    except UserNotFound:
        return AccountReading(user_id, missing=wanted, problem=USER_GONE)
    except Refused as error:
        return AccountReading(user_id, missing=wanted, problem=f"reading refused by Alma, code {error.code}")


def nothing_to_read(ledger: Ledger, campus: Campus, live: bool) -> bool:
    """Whether ``read_accounts`` would ask nobody and change nothing."""
    with ledger.read() as tx:
        today = campus.today(books.moment(tx.now)).isoformat()
        return not (
            entries.any_listed(tx, live)
            or entries.left_out_no_more(tx, today, campus.charging_rules)
            or (live and (batches.unsent(tx) or exceptions.is_open(tx, _UNREAD)))
        )


def read_accounts(
    source: FeesSource,
    ledger: Ledger,
    lease: Lease,
    marks: Sequence[MarkPlace],
    *,
    live: bool,
    campus: Campus,
    workers: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ReadCounts:
    """Read every account on the list and store what was seen, some accounts a transaction.

    Stops at once when the day's calls are down to the reserve (``QuotaSpent``); what is stored
    stays, and the next attempt goes on from there. Live, the ledger's ``marks`` are looked at first: an older
    copy would give up what was sent since.
    """
    counts = ReadCounts()
    if live:
        guard.check(ledger, marks)
    of_user = OfUser(campus.emplid.source, campus.first_charges.by_user_group)
    with ledger.write(lease) as tx:
        today = campus.today(books.moment(tx.now)).isoformat()
        left_out = entries.left_out_no_more(tx, today, campus.charging_rules)
        entries.add_accounts(tx, live, left_out, "left out until now")
        if live:
            freed = entries.accounts_of_fees(tx, batches.drop_unsent(tx))
            entries.add_accounts(tx, live, sorted(freed), "planned before, never sent")
        entries.put_back_stale(tx, live)
        todo = entries.accounts_left(tx, live)
        if live and not todo:
            _list_unread(tx, [])
    chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    with ThreadPoolExecutor(workers, "alma") as pool:
        asked: deque[_Asked] = deque()
        try:
            for place, chunk in enumerate(chunks):
                # The calls go on while the answers before them are stored.
                while len(asked) < _ahead(workers) and place + len(asked) < len(chunks):
                    asked.append(_ask(pool, source, ledger, chunks[place + len(asked)], of_user))
                before, coming = asked.popleft()
                answers = [each.result() for each in coming]
                with ledger.write(lease) as tx:
                    for answer in answers:
                        if isinstance(answer, AccountReading):
                            _store(tx, live, answer, before)
                            counts.add(answer)
                    if live and chunk is chunks[-1]:
                        _list_unread(tx, entries.accounts_left(tx, live))
                failed = [answer for answer in answers if isinstance(answer, Retriable)]
                counts.unread += len(failed)
                _raise_if_alma_is_down(failed, len(chunk))
                progress(counts.accounts, len(todo))
        finally:
            pool.shutdown(cancel_futures=True)
    return counts


#: The versions of a chunk's fees from before Alma was asked, and what Alma will have said of each account.
_Asked = tuple[dict[str, int], list[Future[AccountReading | Retriable]]]


def _ahead(workers: int) -> int:
    """How many chunks are asked for at once. With one worker nothing goes on beside anything else."""
    return 1 if workers == 1 else 2 + workers // _CHUNK


def _ask(
    pool: ThreadPoolExecutor, source: FeesSource, ledger: Ledger, chunk: Sequence[str], of_user: OfUser
) -> _Asked:
    """Begin to read a chunk of accounts. What their fees' readings are based on is looked up before that."""
    with ledger.read() as tx:
        wanted, before = entries.wanted(tx, chunk), entries.versions(tx, chunk)
    attempt = partial(_attempt, source, wanted, of_user)
    return before, [pool.submit(attempt, user_id) for user_id in chunk]


def _list_unread(tx: books.Tx, accounts: Sequence[str]) -> None:
    """List how many accounts could not be read: of one with no fee that is known yet nothing else would tell."""
    listed = [
        exceptions.Listed(
            "accounts could not be read",
            _UNREAD,
            0,
            f"{len(accounts)} of those that may have changed; the next run tries them again, and what is new on them waits",
        )
    ] * bool(accounts)
    exceptions.list_only(tx, [_UNREAD], listed)


def _attempt(
    source: FeesSource, wanted: dict[str, set[str]], of_user: OfUser, user_id: str
) -> AccountReading | Retriable:
    try:
        return read_account(source, user_id, frozenset(wanted[user_id]), of_user)
    except Retriable as error:
        return error


def _raise_if_alma_is_down(failed: list[Retriable], of: int) -> None:
    """One account that can't be read stays on the list for the next run.

    Several with none read between them, or the end of the day's calls, is Alma's state and not theirs.
    """
    spent = [error for error in failed if isinstance(error, QuotaSpent)]
    if spent or (len(failed) == of and of > _FEW):
        raise (spent or failed)[0]


def _store(tx: books.Tx, live: bool, reading: AccountReading, before: dict[str, int]) -> None:
    for fee in reading.fees:
        # A fee that belonged to another account before has no version from before the call: -1 is stale.
        version = before.get(fee.fee_id)
        if version is None:
            version = -1 if entries.known(tx, fee.fee_id) else 0
        emplid = fee.user_id if reading.emplid is None else reading.emplid
        entries.store_reading(
            tx,
            fee,
            version,
            emplid=emplid,
            reason=reason_of(fee),
            others_paid=others_paid(fee),
            others_waived=others_waived(fee),
            user_group=reading.user_group,
        )
    for fee_id in reading.missing:
        entries.store_missing(tx, fee_id, before.get(fee_id, 0), reading.problem or NOT_FOUND)
    # Where nothing could be read there may be new fees too: the account stays on the list.
    if reading.readable:
        entries.mark_read(tx, live, reading.user_id)


def reason_of(fee: Fee) -> str:
    """Say for people why a fee's balance is what it is; it never changes an amount."""
    kinds = [_kind(t) for t in fee.of_others()]
    if any("waive" in kind for kind in kinds):
        return "waived"
    if any("payment" in kind for kind in kinds):
        return "paid in the library"
    if fee.status == "CLOSED" and not fee.transactions:
        return "closed"
    return "fee"


def others_paid(fee: Fee) -> int:
    """Return the cents paid on a fee in Alma by others than us: at the desk, or by another interface."""
    return sum(t.cents for t in fee.of_others() if "payment" in _kind(t))


def others_waived(fee: Fee) -> int:
    """Return the cents waived on a fee in Alma without a key of ours."""
    return sum(t.cents for t in fee.of_others() if "waive" in _kind(t))


def _kind(transaction: Transaction) -> str:
    return re.sub(r"[^a-z]", "", transaction.type.lower())


def gather_open_accounts(ledger: Ledger, lease: Lease, live: bool, changed: Iterable[Fee] | None) -> int:
    """List the accounts with open fees: all of them, or those of the fees that Alma names as changed."""
    # Alma is asked before the ledger is locked.
    named = None if changed is None else [fee.fee_id for fee in changed]
    with ledger.write(lease) as tx:
        if named is None:
            return entries.add_open_accounts(tx, live, "open fees")
        users = entries.accounts_of_fees(tx, named)
        return entries.add_accounts(tx, live, sorted(users), "changed fees")
