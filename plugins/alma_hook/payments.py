"""PeopleSoft's payments into the ledger, and from there to Alma, each exactly once.

For each payment: read the account's fees; is our key on the fee already, it is posted. Else mark it
``posting``, commit, call, and record the outcome. An unclear outcome is looked at again after a
quiet period longer than any call can last: our key found means posted, the fee found without our
key means that it may be tried again, the fee not found means that nothing is known yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
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


class FeesTarget(FeeLists, Protocol):
    """The two calls that posting needs."""

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
) -> PostCounts:
    """Post every waiting payment to Alma, account by account.

    One account that can't be read leaves its payments to the next run; Alma being down for several in
    a row ends the task (``Retriable``). What people have said of payments is noted in the ``archive`` first.
    Raises ``SendingStopped`` when the ledger's ``marks`` are not its own, or when the first payment ever can't be read back.
    """
    with ledger.write(lease) as tx:
        if campus.sis_to_alma.without_reference == "oldest_first":
            unassigned.assign_oldest_first(tx)
        reversals.route(tx)
        waiting = entries.to_post(tx)
        may_be_earlier = opening.may_be_earlier(tx)
    notes.note_payments(ledger, lease, archive, campus.sfs.archive_directory, marks)
    if waiting:
        guard.advance(ledger, marks)
    poster = _Poster(ledger, lease, campus, alma, monotonic, may_be_earlier)
    done = failed_in_a_row = 0
    for account, group in groupby(waiting, key=lambda row: row["account"]):
        payments = list(group)
        try:
            poster.account(account, payments)
            failed_in_a_row = 0
        except QuotaSpent:
            raise
        except Inconsistent as error:
            poster.list_unread(account, error)
        except Retriable as error:
            poster.list_unread(account, error)
            failed_in_a_row += 1
            if failed_in_a_row == 3:
                raise
        done += len(payments)
        progress(done, len(waiting))
    settle_by_credits(ledger, lease)
    return poster.counts


def settle_by_credits(ledger: Ledger, lease: Lease) -> int:
    """Settle payments that a credit delivered later explains; return how many.

    A fee paid in both places is credited in PeopleSoft, where the student then gets the money back:
    nothing is left to post. Once PeopleSoft is charged more for the fee, that money pays it unless it was
    given back, which is not known here: the payment is listed again.
    """
    with ledger.write(lease) as tx:
        explained = entries.explained_by_credits(tx)
        for row in explained:
            if row["state"] == "new":
                entries.settle_posting(tx, row, "settled")
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
        may_be_earlier: frozenset[str],
    ) -> None:
        self.ledger, self.lease, self.campus, self.alma = ledger, lease, campus, alma
        self.monotonic = monotonic
        self.may_be_earlier = may_be_earlier
        self.counts = PostCounts()
        self.by_level = campus.sis_to_alma.shape == applied.SHAPE
        with ledger.read() as tx:
            self.canary_passed = entries.canary_passed(tx)

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
            self.counts.waiting += 1
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
        if row["state"] != "new" and not self.canary_passed and _alike(fee, int(row["trying"])):
            # Whether Alma gives our keys back is not known yet: this may be ours without its key.
            self._list(row, "outcome of the posting unclear")
            self.counts.waiting += 1
            return None
        self._prove()
        if row["state"] != "new":
            # The quiet period is over and the fee is seen without our key: it was not applied.
            with self.ledger.write(self.lease) as tx:
                row = entries.settle_posting(tx, row, "new")
            if int(row["payable"]) <= 0:
                return None  # PeopleSoft took it back meanwhile
        if self.by_level and not self._all_known(fee):
            self._list(row, exceptions.OTHER_PAYMENTS)
            return None
        if fee.status != "ACTIVE" or fee.balance <= 0:
            self._list(row, exceptions.SETTLED if fee.balance <= 0 else f"fee is {fee.status} in Alma")
            return None
        value = min(int(row["payable"]), fee.balance)
        deadline = self.monotonic() + DEADLINE_SECONDS
        with self.ledger.write(self.lease) as tx:
            row = entries.mark_posting(tx, row, value)
        self.counts.tried += 1
        settings = self.campus.sis_to_alma
        try:
            after = self.alma.pay(
                account,
                fee.fee_id,
                value,
                row["external_id"],
                settings.comment,
                settings.method,
                send_before=deadline,
            )
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
        self._prove()
        return after

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
        with self.ledger.write(self.lease) as tx:
            entries.settle_posting(tx, row, "posted", posted=value)
            if self.by_level:
                listed = [
                    exceptions.of_payment(part, exceptions.SETTLED, int(part["stands"]))
                    for part in applied.part_rests(tx)
                ]
            exceptions.list_only(tx, [f"payment {row['payment_no']}"], listed)
            # So that the balances count the payment on both sides; the next plan reads for itself.
            fees.store_balance(tx, fee, row["external_id"], found or [value])
        self.counts.posted += 1
        self.counts.listed += len(listed)
        if found:
            self.counts.found_posted += 1
        else:
            self.counts.cents += value

    def _prove(self) -> None:
        """Read the institution's first payment back before another one is made, in this run or a later one.

        One whose account is gone since can't be read back ever: then the next one is the first.
        """
        if self.canary_passed:
            return
        with self.ledger.read() as tx:
            rows = entries.all_posted(tx)
        for row in rows:
            try:
                seen = look_up(self.alma, row["account"], frozenset({str(row["fee_id"])})).get(row["fee_id"])
            except UserNotFound:
                continue
            except Refused:
                seen = None
            self._require_shown(row, seen)
            return

    def _require_shown(self, row: Row, seen: Fee | None) -> None:
        ours = [t for t in seen.own_payments() if t.external_id == row["external_id"]] if seen else []
        # There twice, it shows as well that keys come back; its fee is listed by the other DAG.
        if row["posted"] not in [t.cents for t in ours]:
            raise SendingStopped(
                f"Payment {row['payment_no']}, the first of this institution, was accepted by Alma but does not show "
                "there with our external_transaction_id and amount. Without that no payment can be told from another "
                "after a failure, so posting stops here. Look at the fee in Alma."
            )
        with self.ledger.write(self.lease) as tx:
            entries.pass_canary(tx)
        self.canary_passed = True

    def _settle(self, row: Row, state: str, error: AlmaHookError) -> None:
        with self.ledger.write(self.lease) as tx:
            entries.settle_posting(tx, row, state, code=error.code, tracking_id=error.tracking_id)

    def list_unread(self, account: str, error: AlmaHookError) -> None:
        """List what is still to be posted of an account that could not be read; the next run tries again."""
        with self.ledger.read() as tx:
            rows = [row for row in entries.to_post(tx) if row["account"] == account]
        self.counts.waiting += len(rows)
        self.list_all([row for row in rows if row["state"] == "new"], "account could not be read", error)

    def list_all(self, rows: Sequence[Row], kind: str, error: AlmaHookError | None = None) -> None:
        """List every payment of an account."""
        for row in rows:
            self._list(row, kind, error)

    def _list(self, row: Row, kind: str, error: AlmaHookError | None = None) -> None:
        more = f"; {error}" if error is not None else ""
        listed = exceptions.of_payment(row, kind, max(int(row["stands"]), 0) or int(row["amount"]), more)
        with self.ledger.write(self.lease) as tx:
            exceptions.list_only(tx, [listed.subject], [listed])
        self.counts.listed += 1


def _alike(fee: Fee, value: int) -> bool:
    """Whether a fee bears a payment of that amount without a key of ours."""
    return any(t.type == "PAYMENT" and t.cents == value for t in fee.of_others())
