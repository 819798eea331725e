"""Alma's own books: users and their fees, and what staff and patrons do to them at the desk."""

import random
from collections import defaultdict
from datetime import datetime, timedelta

from simulator.alma_records import AlmaBehaviour, AlmaRefusal, Fee, Transaction, User
from simulator.alma_users import UserRegister
from simulator.clock import Clock
from simulator.codes import LIBRARIES, PAYMENT_METHODS, WAIVE_REASONS

NOT_AT_DESK = "Not At Desk"


class AlmaModel(UserRegister):
    """One institution's users and fees.

    Methods take and return integer cents and raise AlmaRefusal with Alma's error code. Every change
    holds ``lock``; hold it as well to read several things that must agree.
    """

    def __init__(
        self,
        institution: str = "01CAMPUS_INST",
        environment: str = "SANDBOX",
        clock: Clock | None = None,
        rng: random.Random | None = None,
        currency: str = "USD",
        behaviour: AlmaBehaviour | None = None,
    ) -> None:
        super().__init__(clock or Clock())
        self.institution = institution
        self.environment = environment
        self.currency = currency
        self.behaviour = behaviour or AlmaBehaviour()
        self.fees: dict[str, Fee] = {}
        self._rng = rng or random.Random(0)
        self._fees_of: defaultdict[int, list[Fee]] = defaultdict(list)
        self._desk_receipt = 24010000520
        self._transaction_number = 0

    # -- fees ----------------------------------------------------------------------------------

    def add_fee(
        self,
        user_id: str | User,
        cents: int,
        *,
        type: str = "OVERDUEFINE",
        owner: str = "MAIN",
        at: datetime | None = None,
        title: str | None = None,
        barcode: str | None = None,
        comment: str | None = None,
    ) -> Fee:
        """Charge a user ``cents`` (positive; a CREDIT is kept negative) and return the new fee."""
        with self.lock:
            user = user_id if isinstance(user_id, User) else self.user(user_id)
            if cents <= 0:
                raise AlmaRefusal("401666", "Parameter is not valid: original_amount")
            amount = -cents if type == "CREDIT" else cents
            when = at or self.clock.now()
            fee = Fee(
                self._new_fee_id(),
                user,
                type,
                "ACTIVE",
                amount,
                amount,
                owner,
                when,
                when,
                comment,
                title,
                barcode,
            )
            self.fees[fee.id] = fee
            self._fees_of[id(user)].append(fee)
            self._touch(fee, when)
            return fee

    def fee(self, fee_id: str) -> Fee:
        """The fee with this id. Refuses with 401665 when there is none."""
        try:
            return self.fees[fee_id]
        except KeyError:
            raise AlmaRefusal("401665", "Fine not found.") from None

    def fees_of(self, user: User, status: str | None = None) -> list[Fee]:
        """A user's fees in the order they were made, all or those of one status."""
        with self.lock:
            return [fee for fee in self._fees_of[id(user)] if status is None or fee.status == status]

    def raise_fee(self, fee_id: str, cents: int) -> Fee:
        """A fee that grows while the item is out: original and balance both rise by ``cents``."""
        with self.lock:
            fee = self._open(fee_id)
            fee.original_cents += cents
            fee.balance_cents += cents
            self._touch(fee)
            return fee

    def pay_at_desk(
        self, fee_id: str, cents: int | None = None, *, desk: str = "Circulation", method: str = "CASH"
    ) -> Transaction:
        """A payment at the library's desk (default: all of it). Alma makes its own external id."""
        with self.lock:
            fee = self._open(fee_id)
            self._desk_receipt += 1
            return self._take(
                fee,
                "PAYMENT",
                fee.balance_cents if cents is None else cents,
                created_by="Circulation desk",
                received_by=desk,
                method=method,
                external_transaction_id=str(self._desk_receipt),
            )

    def waive_at_desk(
        self, fee_id: str, cents: int | None = None, *, reason: str = "GOODWILL"
    ) -> Transaction:
        """Staff let a patron off ``cents`` of a fee (default: all of it)."""
        with self.lock:
            fee = self._open(fee_id)
            return self._take(
                fee,
                "WAIVE",
                fee.balance_cents if cents is None else cents,
                created_by="Circulation desk",
                received_by="Circulation",
                reason=reason,
            )

    def pay_by_api(
        self,
        fee_id: str,
        cents: int,
        *,
        method: str,
        external_transaction_id: str | None = None,
        comment: str | None = None,
    ) -> Fee:
        """Pay user fine/fee. Nothing checks that an external id is new: a second call pays again."""
        with self.lock:
            fee = self._open(fee_id)
            if method not in PAYMENT_METHODS:
                raise AlmaRefusal("401666", "Parameter is not valid: method")
            self._take(
                fee,
                "PAYMENT",
                cents,
                created_by="Ex Libris",
                received_by=NOT_AT_DESK,
                method=method,
                external_transaction_id=(external_transaction_id or "")[: self.behaviour.external_id_length]
                or None,
                comment=comment,
            )
            return fee

    def waive_by_api(self, fee_id: str, cents: int, *, reason: str, comment: str | None = None) -> Fee:
        """Waive ``cents``. A CREDIT takes the amount with either sign, up to what is left of it."""
        with self.lock:
            fee = self._open(fee_id)
            if reason not in WAIVE_REASONS:
                raise AlmaRefusal("401666", "Parameter is not valid: reason")
            if fee.type == "CREDIT":
                if not self.behaviour.credit_waivable:
                    raise AlmaRefusal("401666", "Parameter is not valid: fee type cannot be waived")
                self._use(
                    fee,
                    "WAIVE",
                    abs(cents),
                    created_by="Ex Libris",
                    received_by=NOT_AT_DESK,
                    reason=reason,
                    comment=comment,
                )
            else:
                self._take(
                    fee,
                    "WAIVE",
                    cents,
                    created_by="Ex Libris",
                    received_by=NOT_AT_DESK,
                    reason=reason,
                    comment=comment,
                )
            return fee

    def dispute(self, fee_id: str, *, comment: str | None = None) -> Fee:
        """An ACTIVE fee goes into dispute."""
        return self._move(fee_id, "ACTIVE", "INDISPUTE", comment)

    def restore(self, fee_id: str, *, comment: str | None = None) -> Fee:
        """A disputed fee becomes ACTIVE again."""
        return self._move(fee_id, "INDISPUTE", "ACTIVE", comment)

    def export(self, fee_id: str, *, close: bool = False) -> Fee:
        """The bursar export takes a fee: to EXPORTED with its balance, or (``close``) to CLOSED at nought."""
        with self.lock:
            fee = self._open(fee_id)
            if close:
                self._take(fee, "EXPORT", fee.balance_cents, created_by="Ex Libris")
                return fee
            return self._move(fee_id, "ACTIVE", "EXPORTED", None)

    def give_credit(
        self, user_id: str | User, cents: int, *, owner: str = "MAIN", comment: str | None = None
    ) -> Fee:
        """A CREDIT fee: ACTIVE with a negative balance."""
        return self.add_fee(user_id, cents, type="CREDIT", owner=owner, comment=comment)

    def use_credit(self, credit_id: str, cents: int | None = None, *, against: str | None = None) -> Fee:
        """Spend a credit at the desk: on the fee ``against``, else paid out in cash. Returns the credit."""
        with self.lock:
            credit = self._open(credit_id)
            spent = -credit.balance_cents if cents is None else cents
            if against is not None:
                spent = min(spent, self._open(against).balance_cents) if cents is None else spent
                self.pay_at_desk(against, spent)
            self._desk_receipt += 1
            self._use(
                credit,
                "PAYMENT",
                spent,
                created_by="Circulation desk",
                received_by="Circulation",
                external_transaction_id=str(self._desk_receipt),
            )
            return credit

    def return_lost_item(self, fee_id: str) -> Fee | None:
        """A lost book comes back: what is open is waived, what had been paid becomes a CREDIT (returned)."""
        with self.lock:
            fee = self.fee(fee_id)
            if fee.status == "ACTIVE" and fee.balance_cents > 0:
                self.waive_at_desk(fee_id, reason="RETURNED")
            paid = sum(t.amount_cents for t in fee.transactions if t.kind == "PAYMENT")
            return self.give_credit(fee.user, paid, owner=fee.owner) if paid > 0 else None

    # -- inside --------------------------------------------------------------------------------

    def _new_fee_id(self) -> str:
        while True:
            digits = self._rng.choice((16, 17, 18))
            fee_id = str(self._rng.randrange(10 ** (digits - 1), 10**digits))
            if fee_id not in self.fees:
                return fee_id

    def _open(self, fee_id: str) -> Fee:
        fee = self.fee(fee_id)
        if fee.status == "CLOSED":
            raise AlmaRefusal("401666", "Request failed: API does not support closed fees.")
        if fee.status != "ACTIVE":
            raise AlmaRefusal("401666", f"Parameter is not valid: the fee's status is {fee.status}")
        return fee

    def _take(self, fee: Fee, kind: str, cents: int, **about: str | None) -> Transaction:
        if cents <= 0 or cents > fee.balance_cents:
            raise AlmaRefusal("401666", "Parameter is not valid: amount")
        return self._record(fee, kind, cents, about)

    def _use(self, credit: Fee, kind: str, cents: int, **about: str | None) -> Transaction:
        if cents <= 0 or cents > -credit.balance_cents:
            raise AlmaRefusal("401666", "Parameter is not valid: amount")
        return self._record(credit, kind, -cents, about)

    def _record(self, fee: Fee, kind: str, cents: int, about: dict[str, str | None]) -> Transaction:
        self._transaction_number += 1
        transaction = Transaction(
            id=f"{self._transaction_number:012d}",
            kind=kind,
            amount_cents=cents,
            at=self.clock.now(),
            created_by=about.pop("created_by", None) or "Ex Libris",
            received_by_label=LIBRARIES.get(fee.owner, fee.owner),
            **about,
        )
        fee.transactions.append(transaction)
        fee.balance_cents -= cents
        if fee.balance_cents == 0:
            fee.status = "CLOSED"
        self._touch(fee)
        return transaction

    def _move(self, fee_id: str, before: str, after: str, comment: str | None) -> Fee:
        with self.lock:
            fee = self.fee(fee_id)
            if fee.status != before:
                raise AlmaRefusal("401666", f"Parameter is not valid: the fee's status is {fee.status}")
            fee.status = after
            if comment:
                fee.comment = comment
            self._touch(fee)
            return fee

    def _touch(self, fee: Fee, at: datetime | None = None) -> None:
        fee.status_time = at or self.clock.now()
        if self.behaviour.fees_touch_users:
            fee.user.modified_at = max(fee.user.modified_at, fee.status_time)


def days_ago(clock: Clock, days: float) -> datetime:
    """The moment ``days`` before now, UTC."""
    return clock.now() - timedelta(days=days)
