"""PeopleSoft's payments into the ledger, and from there to Alma, each exactly once.

For each payment: read the account's fees; is our key on the fee already, it is posted. Else mark it
``posting``, commit, call, and record the outcome. An unclear outcome is looked at again after a
quiet period longer than any call can last: our key found means posted, the fee found without our
key means that it may be tried again, the fee not found means that nothing is known yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby, islice
from threading import Lock
from typing import Protocol

from alma_hook import guard, notes
from alma_hook.alma import FeeLists, look_up
from alma_hook.alma_answers import Fee
from alma_hook.campus import Campus
from alma_hook.errors import (
    AlmaHookError,
    Inconsistent,
    OutcomeUnknown,
    QuotaSpent,
    Refused,
    Retriable,
    SendingStopped,
    UserNotFound,
)
from alma_hook.guard import MarkPlace
from alma_hook.ledger import (
    Lease,
    Ledger,
    Row,
    Tx,
    applied,
    exceptions,
    fees,
    moment,
    opening,
    reversals,
    unassigned,
)
from alma_hook.ledger import payments as entries
from alma_hook.remote import RemoteFolder

#: A call must leave within this many seconds of its mark, or not at all: a worker that stood still
#: must not send late, when another may have taken over.
DEADLINE_SECONDS = 30.0
_FAILED_IN_A_ROW = 3
#: Stands behind our key in a waiver's comment.
WAIVED = "Waived in PeopleSoft Student Financials"


class FeesTarget(FeeLists, Protocol):
    """The calls that posting needs."""

    def pay(
        self,
        user_id: str,
        fee_id: str,
        value: int,
        external_id: str,
        comment: str,
        method: str,
        send_before: float,
    ) -> Fee:
        """Pay cents on a fee; not sent once the monotonic clock is past ``send_before``."""
        ...

    def waive(
        self, user_id: str, fee_id: str, value: int, reason: str, comment: str, send_before: float
    ) -> Fee:
        """Waive cents of a fee, in the same way."""
        ...


@dataclass
class PostCounts:
    """What a posting came to; ``cents`` is what was newly applied in Alma."""

    tried: int = 0
    posted: int = 0
    cents: int = 0
    found_posted: int = 0
    waiting: int = 0
    listed: int = 0


def post(
    ledger: Ledger,
    lease: Lease,
    campus: Campus,
    alma: FeesTarget,
    archive: RemoteFolder,
    marks: Sequence[MarkPlace],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    progress: Callable[[int, int], None] = lambda done, of: None,
    workers: int = 1,
) -> PostCounts:
    """Post every waiting payment to Alma, account by account, as many accounts at once as there are ``workers``.

    What belongs to one account is posted in its order, and all one after the other until a first payment ever was read
    back. One account that can't be read leaves its payments to the next run; Alma being down for several in
    a row ends the task (``Retriable``). What people have said of payments is noted in the ``archive`` first.
    Raises ``SendingStopped`` when the ledger's ``marks`` are not its own, or when the first payment ever can't be read back.
    """
    guard.check(ledger, marks)
    with ledger.write(lease) as tx:
        entries.follow_kinds(tx, campus.sis_to_alma.reasons, campus.sis_to_alma.ignored)
        if campus.sis_to_alma.without_reference == "oldest_first":
            unassigned.assign_oldest_first(tx)
        reversals.route(tx)
        reversals.judge(tx)
        waiting = entries.to_post(tx)
        may_be_earlier = opening.may_be_earlier(tx)
    notes.note_payments(ledger, lease, archive, campus.sfs.archive_directory, marks)
    if waiting:
        guard.advance(ledger, marks)
    poster = _Poster(
        ledger,
        lease,
        campus,
        alma,
        monotonic,
        waiting,
        partial(notes.note_payments, ledger, lease, archive, campus.sfs.archive_directory, marks),
        may_be_earlier,
    )
    accounts = [(account, list(group)) for account, group in groupby(waiting, key=lambda row: row["account"])]
    done = failed_in_a_row = 0
    for payments, error in _each(poster, accounts, workers):
        if error is None:
            failed_in_a_row = 0
        elif not isinstance(error, Inconsistent):
            failed_in_a_row += 1
            if failed_in_a_row == _FAILED_IN_A_ROW:
                raise error
        done += len(payments)
        progress(done, len(waiting))
    settle_by_credits(ledger, lease)
    return poster.counts


#: The rows of one account's payments, and the account.
_Account = tuple[str | None, list[Row]]
_Outcome = tuple[list[Row], AlmaHookError | None]


def _each(poster: _Poster, accounts: Sequence[_Account], workers: int) -> Iterator[_Outcome]:
    """Post each account's payments; yield them and why they could not be read, as they are done.

    Whoever stops, by an error or by asking for no more, waits until the outcome of every call under way is recorded.
    """
    left = iter(accounts)
    while workers == 1 or not poster.proved:
        account = next(left, None)
        if account is None:
            return
        yield _post_account(poster, account)
    with ThreadPoolExecutor(workers, "alma") as pool:
        under_way: set[Future[_Outcome]] = set()
        try:
            while True:
                for account in islice(left, workers - len(under_way)):
                    under_way.add(pool.submit(_post_account, poster, account))
                if not under_way:
                    return
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for each in ended:
                    yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _post_account(poster: _Poster, account: _Account) -> _Outcome:
    """Post one account's payments; what can't be read is listed, and left to the next run."""
    user_id, payments = account
    try:
        poster.account(user_id, payments)
    except QuotaSpent:
        raise
    except (Inconsistent, Retriable) as error:
        poster.list_unread(user_id, error)
        return payments, error
    return payments, None


def settle_by_credits(ledger: Ledger, lease: Lease) -> int:
    """Settle payments that a credit delivered later explains; return how many.

    A fee paid in both places is credited in PeopleSoft, where the student then gets the money back:
    nothing is left to post. Once PeopleSoft is charged more for the fee, that money pays it: the payment is posted
    after all, as far as Alma asks for it. Where it
    was posted in part, its rest is listed again: the key is used up.
    """
    with ledger.write(lease) as tx:
        for row in entries.wanted_after_all(tx):
            entries.settle_posting(tx, row, "new")
        explained = entries.explained_by_credits(tx)
        for row in explained:
            if row["state"] == "new":
                entries.settle_posting(tx, row, entries.CREDITED)
            exceptions.close_subject(
                tx, f"payment {row['payment_no']}", "a credit of that size was delivered later"
            )
        exceptions.open_all(
            tx,
            [
                exceptions.of_payment(row, exceptions.OVERPAID, int(row["received"]) - int(row["posted"]))
                for row in entries.left_over_again(tx)
            ],
        )
        # The outcome of what was on its way is known now, as far as it is.
        reversals.judge(tx)
    return len(explained)


class _Poster:
    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        campus: Campus,
        alma: FeesTarget,
        monotonic: Callable[[], float],
        waiting: Sequence[Row],
        note: Callable[[], None],
        may_be_earlier: frozenset[str],
    ) -> None:
        self.ledger, self.lease, self.campus, self.alma = ledger, lease, campus, alma
        self.monotonic, self.note = monotonic, note
        self.waivers_shown = campus.sis_to_alma.waivers_shown_by == "comment"
        self.may_be_earlier = may_be_earlier
        self.counts = PostCounts()
        self._books = Lock()
        self.by_level = campus.sis_to_alma.shape == applied.SHAPE
        self._wanted = {row["waive"] is not None for row in waiting}
        with ledger.read() as tx:
            self.canary_passed = {
                waiver: entries.canary_passed(tx, waiver=waiver) for waiver in (False, True)
            }
        self.canary_passed[True] |= not self.waivers_shown

    @property
    def proved(self) -> bool:
        """Whether Alma was ever seen to give our key back, in what waits."""
        return all(self.canary_passed[waiver] for waiver in self._wanted)

    @contextmanager
    def _writing(self) -> Iterator[Tx]:
        """Open a transaction of this task, one at a time: SQLite lets those that wait for each other starve."""
        with self._books, self.ledger.write(self.lease) as tx:
            yield tx

    def _count(self, **more: int) -> None:
        with self._books:
            for name, value in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + value)

    def account(self, account: str | None, payments: Sequence[Row]) -> None:
        """Post one account's payments, from one reading of its fees."""
        if account is None:
            for row in payments:
                self._list(
                    row, exceptions.NO_FEE if row["reported_fee_id"] is None else exceptions.NOT_CHARGED
                )
            return
        payments = [row for row in payments if not self._held(row)]
        if not payments:
            return
        try:
            found = look_up(self.alma, account, frozenset(str(row["fee_id"]) for row in payments))
        except UserNotFound:
            self.list_all(payments, "user not found in Alma")
            return
        except Refused as error:
            self.list_all(payments, "reading refused by Alma", error)
            return
        for row in payments:
            fee = found.get(row["fee_id"])
            if fee is None:
                # Not seen is not settled: a payment whose outcome is unclear stays so.
                self._list(row, "fee not found in Alma")
                continue
            after = self._one(account, row, fee)
            if after is not None:
                found[row["fee_id"]] = after

    def _held(self, row: Row) -> bool:
        if row["payment_key"] in self.may_be_earlier:
            self._list(row, opening.BEFORE_OR_AFTER)
        elif row["charged_emplid"] is None:
            self._list(row, exceptions.NOT_CHARGED)
        elif row["charged_emplid"] != row["emplid"]:
            self._list(row, exceptions.OTHER_EMPLID)
        elif row["state"] in ("posting", "unknown") and self._quiet_until(row):
            self._list(row, "outcome of the posting unclear")
            self._count(waiting=1)
        else:
            return False
        return True

    def _quiet_until(self, row: Row) -> bool:
        """Whether a call made under the mark may still be on its way."""
        with self.ledger.read() as tx:
            now = moment(tx.now)
        return now < moment(row["marked_at"]) + timedelta(minutes=self.campus.sis_to_alma.quiet_minutes)

    def _one(self, account: str, row: Row, fee: Fee) -> Fee | None:
        """Post one payment on a fee as read; return the fee as it stands then, if it changed."""
        ours = [t for t in fee.own_payments() if t.external_id == row["external_id"]]
        if ours:
            self._posted(row, fee, ours[0].cents, found=[t.cents for t in ours])
            return None
        waiver = row["waive"] is not None
        if row["state"] != "new" and waiver and not self.waivers_shown:
            self._list(row, exceptions.WAIVER_UNCLEAR)
            self._count(waiting=1)
            return None
        if (
            row["state"] != "new"
            and not self.canary_passed[waiver]
            and _alike(fee, int(row["trying"]), waiver=waiver)
        ):
            # Whether Alma gives our keys back is not known yet: this may be ours without its key.
            self._list(row, "outcome of the posting unclear")
            self._count(waiting=1)
            return None
        self._prove(waiver=waiver)
        if row["state"] != "new":
            # The quiet period is over and the fee is seen without our key: it was not applied.
            with self._writing() as tx:
                row = entries.settle_posting(tx, row, "new")
                settings = self.campus.sis_to_alma
                changed = entries.follow_kinds(tx, settings.reasons, settings.ignored)
            # It is to be made as another thing now, by the next run; or PeopleSoft took it back meanwhile.
            if int(row["payment_no"]) in changed or int(row["payable"]) <= 0:
                return None
        if self.by_level and not self._all_known(fee):
            self._list(row, exceptions.OTHER_PAYMENTS)
            return None
        if fee.status != "ACTIVE" or fee.balance <= 0:
            self._list(row, exceptions.SETTLED if fee.balance <= 0 else f"fee is {fee.status} in Alma")
            return None
        value = min(int(row["payable"]), fee.balance)
        deadline = self.monotonic() + DEADLINE_SECONDS
        with self._writing() as tx:
            row = entries.mark_posting(tx, row, value)
        self._count(tried=1)
        try:
            if waiver and not self.waivers_shown:
                # Nothing else tells of it once the ledger is lost.
                with self._books:
                    self.note()
            after = self._call(account, fee, value, row, deadline)
            if after.fee_id != fee.fee_id or fee.balance - after.balance != value:
                raise OutcomeUnknown("Alma's answer does not show the payment.")
        except OutcomeUnknown as error:
            self._settle(row, "unknown", error)
            self._list(row, "outcome of the posting unclear", error)
            return None
        except Refused as error:
            self._settle(row, "new", error)
            self._list(row, "refused by Alma", error)
            return None
        except AlmaHookError as error:
            # Surely not applied: never sent, or refused before Alma looked at it.
            self._settle(row, "new", error)
            raise
        self._posted(row, after, value)
        self._prove(waiver=waiver)
        return after

    def _call(self, account: str, fee: Fee, value: int, row: Row, deadline: float) -> Fee:
        settings, key = self.campus.sis_to_alma, row["external_id"]
        if row["waive"] is not None:
            comment = f"{key} {WAIVED}"
            return self.alma.waive(account, fee.fee_id, value, row["waive"], comment, send_before=deadline)
        return self.alma.pay(
            account, fee.fee_id, value, key, settings.comment, settings.method, send_before=deadline
        )

    def _all_known(self, fee: Fee) -> bool:
        """Whether Alma shows on a fee the payments that the ledger posted there, and no others of ours.

        An amount applied up to now is compared with them, so they have to be right.
        """
        with self.ledger.read() as tx:
            posted = entries.posted_on(tx, fee.fee_id)
        return sorted((str(t.external_id), t.cents) for t in fee.own_payments()) == posted

    def _posted(self, row: Row, fee: Fee, value: int, found: Sequence[int] = ()) -> None:
        """Record a payment as posted. ``found``: what Alma shows under its key, where it was looked for."""
        rest = int(row["stands"]) - value
        listed = [exceptions.of_payment(row, exceptions.OVERPAID, rest)] if rest > 0 else []
        with self._writing() as tx:
            entries.settle_posting(tx, row, "posted", posted=value)
            if self.by_level:
                listed = [
                    exceptions.of_payment(part, exceptions.SETTLED, int(part["stands"]))
                    for part in applied.part_rests(tx)
                ]
            exceptions.list_only(tx, [f"payment {row['payment_no']}"], listed)
            # So that the balances count the payment on both sides; the next plan reads for itself.
            fees.store_balance(tx, fee, row["external_id"], found or [value])
        found_or_cents = {"found_posted": 1} if found else {"cents": value}
        self._count(posted=1, listed=len(listed), **found_or_cents)

    def _prove(self, *, waiver: bool) -> None:
        """Read the institution's first payment, or waiver, back before another one is made, in this run or a later one.

        One whose account is gone since can't be read back ever: then the next one is the first.
        """
        if self.canary_passed[waiver]:
            return
        with self.ledger.read() as tx:
            rows = entries.all_posted(tx, waiver=waiver)
        for row in rows:
            fee_id = str(row["posted_to"])
            try:
                seen = look_up(self.alma, row["account"], frozenset({fee_id})).get(fee_id)
            except UserNotFound:
                continue
            except Refused:
                seen = None
            self._require_shown(row, seen)
            return

    def _require_shown(self, row: Row, seen: Fee | None) -> None:
        ours = [t for t in seen.own_payments() if t.external_id == row["external_id"]] if seen else []
        # There twice, it shows as well that keys come back; its fee is listed by the other DAG.
        waiver = row["waive"] is not None
        if row["posted"] not in [t.cents for t in ours]:
            if waiver:
                raise SendingStopped(
                    f"Payment {row['payment_no']}, the first waiver of this institution, was accepted by Alma, but its comment "
                    "with our key does not come back with the fee. Look at the fee in Alma: if it is waived, set sis_to_alma."
                    'waivers_shown_by = "ledger". Posting stops here.'
                )
            raise SendingStopped(
                f"Payment {row['payment_no']}, the first of this institution, was accepted by Alma but does not show "
                "there with our external_transaction_id and amount. Without that no payment can be told from another "
                "after a failure, so posting stops here. Look at the fee in Alma."
            )
        with self._writing() as tx:
            entries.pass_canary(tx, waiver=waiver)
        self.canary_passed[waiver] = True

    def _settle(self, row: Row, state: str, error: AlmaHookError) -> None:
        with self._writing() as tx:
            entries.settle_posting(tx, row, state, code=error.code, tracking_id=error.tracking_id)

    def list_unread(self, account: str | None, error: AlmaHookError) -> None:
        """List what is still to be posted of an account that could not be read; the next run tries again."""
        with self.ledger.read() as tx:
            rows = [row for row in entries.to_post(tx) if row["account"] == account]
        self._count(waiting=len(rows))
        self.list_all([row for row in rows if row["state"] == "new"], "account could not be read", error)

    def list_all(self, rows: Sequence[Row], kind: str, error: AlmaHookError | None = None) -> None:
        """List every payment of an account."""
        for row in rows:
            self._list(row, kind, error)

    def _list(self, row: Row, kind: str, error: AlmaHookError | None = None) -> None:
        more = f"; {error}" if error is not None else ""
        listed = exceptions.of_payment(row, kind, max(int(row["stands"]), 0) or int(row["amount"]), more)
        with self._writing() as tx:
            exceptions.list_only(tx, [listed.subject], [listed])
        self._count(listed=1)


def _alike(fee: Fee, value: int, *, waiver: bool) -> bool:
    """Whether a fee bears a payment, or something else, of that amount without a key of ours."""
    return any((t.type != "PAYMENT") == waiver and t.cents == value for t in fee.of_others())
