"""PeopleSoft Student Financials: loads SFS files into groups, posts them, lets students pay.

Nothing here detects a file that was loaded before, since nothing public says the delivered load does:
a file sent twice is posted twice and shows in the books.
"""

import random
import threading
from collections.abc import Collection
from datetime import date
from pathlib import Path

from simulator.clock import Clock
from simulator.peoplesoft_books import books_of
from simulator.peoplesoft_records import (
    Application,
    Books,
    Item,
    LoadResult,
    Payment,
    Posting,
    Reject,
)
from simulator.query_output import Format, Region, applied_rows, payment_rows, render
from simulator.sfs_layout import BadFile, Detail, Layout, ParsedFile, parse, read_layout


class PeopleSoftModel:
    """One business unit's library items.

    ``emplids`` are the students it knows (None: any). ``item_types`` are the charge item types it
    knows (None: any of 12 digits). ``credit_item_types``: types whose lines are credits on their own
    (a campus that has no reversal mark). ``reference_separates_items`` False: lines of one student,
    item type and term fall on one item, whatever their reference.
    """

    def __init__(
        self,
        layout: Layout | Path,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        business_unit: str = "CAMPS",
        *,
        origin_id: str = "LIB01",
        currency: str = "USD",
        emplids: Collection[str] | None = None,
        item_types: Collection[str] | None = None,
        credit_item_types: Collection[str] = (),
        reference_separates_items: bool = True,
    ) -> None:
        self.layout = read_layout(layout) if isinstance(layout, Path) else layout
        self.clock = clock or Clock()
        self.business_unit = business_unit
        self.origin_id = origin_id
        self.currency = currency
        self.emplids = None if emplids is None else set(emplids)
        self.item_types = None if item_types is None else set(item_types)
        self.credit_item_types = set(credit_item_types)
        self.reference_separates_items = reference_separates_items
        #: Whether a file without lines is taken; whether PeopleSoft's does is not known.
        self.takes_empty_files = False
        self.region = Region()  # of the user who scheduled the queries
        self.lock = threading.RLock()
        self.items: dict[str, Item] = {}
        self.payments: dict[str, Payment] = {}
        self.postings: list[Posting] = []
        self.loads: list[LoadResult] = []
        rng = rng or random.Random(3)
        self._item_number = rng.randrange(100, 1000)
        self._payment_number = rng.randrange(100_000_000, 200_000_000)
        self._group_number = 0
        self._item_of: dict[tuple[str, str, str, str], str] = {}

    # -- loading -------------------------------------------------------------------------------

    def load(self, file_name: str, content: bytes) -> LoadResult:
        """SF External File Load and group posting of one file; never raises for a bad file.

        A fault of the file as a whole posts nothing (``error``). A bad line is left out (``rejects``).
        """
        with self.lock:
            try:
                result = self._load(file_name, content)
            except BadFile as fault:
                result = LoadResult(file_name, error=str(fault))
            self.loads.append(result)
            return result

    def _load(self, file_name: str, content: bytes) -> LoadResult:
        if not file_name.endswith(".dat"):
            raise BadFile("the data file's extension must be .dat")
        parsed = parse(self.layout, content)
        if not parsed.details and self.takes_empty_files:
            self._check_control(parsed, credits=False)
            return LoadResult(file_name)
        if not parsed.details:
            raise BadFile("the file has no detail line")
        kinds = {self._is_credit(detail) for detail in parsed.details}
        if len(kinds) > 1:
            raise BadFile("charges and credits in one group")
        credits = kinds.pop()
        self._check_control(parsed, credits)
        self._group_number += 1
        group_id = f"{self._group_number:015d}"
        posted = total = 0
        rejects = []
        for detail in parsed.details:
            reason = self._refusal(detail)
            if reason is None:
                self._post(group_id, detail, credits)
                posted += 1
                total += detail.amount_cents
            else:
                rejects.append(Reject(detail.line_number, reason))
        return LoadResult(
            file_name, None, "credits" if credits else "charges", group_id, posted, total, tuple(rejects)
        )

    def enter(self, detail: Detail) -> None:
        """The office posts one line by hand, whatever the load would say of its EMPLID or item type."""
        with self.lock:
            self._post("by hand", detail, self._is_credit(detail))

    def charge(
        self, emplid: str, item_type: str, term: str, reference: str, cents: int, paid: int = 0
    ) -> Item:
        """An item that another process has charged, of which ``paid`` was paid before now."""
        with self.lock:
            self._item_number += 1
            number = f"{self._item_number:015d}"
            now = self.clock.now()
            item = Item(number, emplid, item_type, term, reference, cents, cents, 0, now)
            self.items[number] = item
            self._item_of[emplid, item_type, term, reference] = number
            self.postings.append(Posting("another process", number, cents, reference, now))
            if paid:
                self.pay(number, paid)
            return item

    def _is_credit(self, detail: Detail) -> bool:
        return detail.reversal or detail.below_nought or detail.item_type in self.credit_item_types

    def _reverses(self, detail: Detail) -> bool:
        """A minus alone says that it is a credit; of which kind, its item type."""
        return detail.reversal or (detail.below_nought and detail.item_type not in self.credit_item_types)

    def _check_control(self, parsed: ParsedFile, credits: bool) -> None:
        control = parsed.control
        if control.line_count is not None and control.line_count != len(parsed.details):
            raise BadFile(
                f"the control count is {control.line_count}, the file has {len(parsed.details)} lines"
            )
        total = sum(detail.amount_cents for detail in parsed.details)
        expected = -total if credits and control.total_negative_for_credits else total
        if credits and self.layout.amounts_negative_for_credits:
            unsigned = next((d.line_number for d in parsed.details if not d.below_nought), None)
            if unsigned is not None:
                raise BadFile(f"line {unsigned}: a credit without a minus")
        if control.total_cents is not None and control.total_cents != expected:
            raise BadFile(f"the control total is {control.total_cents} cents, the lines make {expected}")
        if control.origin_id is not None and control.origin_id != self.origin_id:
            raise BadFile(f"origin {control.origin_id!r} may not load here")
        if control.currency is not None and control.currency != self.currency:
            raise BadFile(f"currency {control.currency!r}")

    def _refusal(self, detail: Detail) -> str | None:
        if self.emplids is not None and detail.emplid not in self.emplids:
            return "EMPLID unknown"
        known = self.item_types is None or detail.item_type in self.item_types | self.credit_item_types
        if len(detail.item_type) != 12 or not detail.item_type.isdecimal() or not known:
            return "item type unknown"
        if detail.amount_cents <= 0:
            return "amount not above nought"
        if self._reverses(detail) and self._key(detail) not in self._item_of:
            return "no charge to reverse"
        return None

    def _key(self, detail: Detail) -> tuple[str, str, str, str]:
        reference = detail.reference if self.reference_separates_items else ""
        return detail.emplid, detail.item_type, detail.term, reference

    def _post(self, group_id: str, detail: Detail, credits: bool) -> None:
        now = self.clock.now()
        if credits and not self._reverses(detail):
            # A credit item: money that pays the charge with the same reference, else stays on account.
            payment = self._new_payment(
                detail.emplid, detail.amount_cents, detail.reference, detail.item_type
            )
            payment.exported = True
            self._apply(
                payment,
                [
                    item
                    for item in self.items.values()
                    if item.emplid == detail.emplid and item.reference == detail.reference
                ],
            )
            self.postings.append(
                Posting(
                    group_id,
                    payment.payment_id,
                    -detail.amount_cents,
                    detail.reference,
                    now,
                    is_credit_item=True,
                )
            )
            return
        number = self._item_of.get(self._key(detail))
        if number is None:
            self._item_number += 1
            number = f"{self._item_number:015d}"
            self._item_of[self._key(detail)] = number
            self.items[number] = Item(
                number, detail.emplid, detail.item_type, detail.term, detail.reference, 0, 0, 0, now
            )
        cents = -detail.amount_cents if credits else detail.amount_cents
        self._change(self.items[number], cents)
        if not credits:
            self.items[number].original_cents += cents
        self.postings.append(Posting(group_id, number, cents, detail.reference, now))

    def _change(self, item: Item, cents: int) -> None:
        """Raise or lower an item; money it no longer needs becomes unapplied credit on the account."""
        item.amount_cents += cents
        self._unapply(item, item.applied_cents - max(item.amount_cents, 0))

    def _unapply(self, item: Item, excess: int) -> None:
        for payment in reversed(self.payments.values()):
            for application in payment.applications:
                if application.item_nbr == item.item_nbr and excess > 0:
                    part = min(excess, application.cents)
                    application.cents -= part
                    item.applied_cents -= part
                    excess -= part
            payment.applications = [part for part in payment.applications if part.cents]

    def reverse_group(self, group_id: str) -> int:
        """Reverse Groups: undo every line of a group of charges or reversals; returns the lines undone."""
        with self.lock:
            undone = 0
            for posting in self.postings:
                if posting.group_id == group_id and not posting.reversed and not posting.is_credit_item:
                    posting.reversed = True
                    self._change(self.items[posting.item_nbr], -posting.cents)
                    undone += 1
            return undone

    # -- paying --------------------------------------------------------------------------------

    def open_items(self, emplid: str | None = None) -> list[Item]:
        """Items with something to pay, oldest first, of one student or of all."""
        with self.lock:
            return [
                item
                for item in self.items.values()
                if item.balance_cents > 0 and emplid in (None, item.emplid)
            ]

    def item_by_reference(self, reference: str) -> Item:
        """The first item with this REF1_DESCR; raises KeyError when there is none."""
        with self.lock:
            for item in self.items.values():
                if item.reference == reference:
                    return item
            raise KeyError(reference)

    def pay(
        self,
        target: str,
        cents: int | None = None,
        *,
        one_payment: bool = False,
        item_type: str | None = None,
    ) -> list[Payment]:
        """A student pays. ``target``: item number, reference, or EMPLID; ``cents`` None: all that is open.

        On an item, what is too much stays unapplied on the account. On an EMPLID the oldest items come
        first, a payment each (or, ``one_payment``, all under one id, a record and a row of output an item),
        and what is left stays on the last. ``item_type``: that of the credit item, such as a waiver's; None: the
        item's own. Raises KeyError for an unknown target, ValueError for nothing to
        pay with.
        """
        with self.lock:
            item = self.items.get(target)
            if item is None:
                item = next((each for each in self.items.values() if each.reference == target), None)
            targets = [item] if item else [each for each in self.items.values() if each.emplid == target]
            if not targets:
                raise KeyError(target)
            payable = [each for each in targets if each.balance_cents > 0] or targets[-1:]
            left = sum(max(0, each.balance_cents) for each in payable) if cents is None else cents
            if left <= 0:
                raise ValueError("nothing to pay")
            made: list[Payment] = []
            for place, each in enumerate(payable):
                part = left if place == len(payable) - 1 else min(left, each.balance_cents)
                if part > 0:
                    of = made[0].payment_id if one_payment and made else None
                    made.append(
                        self._new_payment(each.emplid, part, each.reference, item_type or each.item_type, of)
                    )
                    self._apply(made[-1], [each])
                left -= part
            return made

    def bounce(self, payment_id: str, cents: int | None = None) -> Payment:
        """Take a payment back (all, or ``cents`` of it): its items are open again by that much.

        ``payment_id``: its key in ``payments``, the id but for further parts of one payment.
        """
        with self.lock:
            payment = self.payments[payment_id]
            taken = payment.amount_cents if cents is None else cents
            if not 0 < taken <= payment.amount_cents:
                raise ValueError("more than the payment")
            loose = min(taken, payment.unapplied_cents)
            payment.amount_cents -= taken
            payment.bounced_cents += taken
            payment.bounces.append(taken)
            rest = taken - loose
            for application in reversed(payment.applications):
                part = min(rest, application.cents)
                application.cents -= part
                self.items[application.item_nbr].applied_cents -= part
                rest -= part
            payment.applications = [part for part in payment.applications if part.cents]
            return payment

    def reapply(self, emplid: str) -> None:
        """Take all of a student's payments off the items and apply them anew, to the newest items first.

        What the Payment Applier does after a reset: to a reader of applied amounts it looks as if money
        were taken back on one item and paid on another.
        """
        with self.lock:
            payments = [payment for payment in self.payments.values() if payment.emplid == emplid]
            items = [item for item in self.items.values() if item.emplid == emplid]
            for item in items:
                item.applied_cents = 0
            for payment in payments:
                payment.applications.clear()
            for payment in payments:
                self._apply(payment, items[::-1])

    def _new_payment(
        self, emplid: str, cents: int, reference: str, item_type: str, of: str | None = None
    ) -> Payment:
        """A payment; ``of``: its part on another item of the payment with that id."""
        self._payment_number += 1
        own = f"{self._payment_number:012d}"
        payment = Payment(of or own, emplid, cents, reference, item_type, self.clock.now())
        self.payments[own] = payment
        return payment

    def _apply(self, payment: Payment, items: list[Item]) -> None:
        for item in items:
            part = min(payment.unapplied_cents, max(item.balance_cents, 0))
            if part > 0:
                item.applied_cents += part
                payment.applications.append(Application(item.item_nbr, part))

    # -- what it tells others ------------------------------------------------------------------

    def query_output(
        self,
        format: Format = "csv",
        cumulative: bool = True,
        *,
        since: date | None = None,
        bounced: str = "omit",
    ) -> bytes:
        """The query of paid library items, one row a payment.

        ``cumulative`` False: only payments that no such output has shown. ``since``: only payments of that
        day and later. ``bounced``: a payment taken back is left out (``omit``), shown as 0.00 (``zero``) or as
        a second, negative row (``negative``), or by rows of an item type of its own, one for each time (``reversal``)
        or one that grows (``reversal_sum``).
        """
        with self.lock:
            paid = [
                payment
                for payment in self.payments.values()
                if payment.item_type not in self.credit_item_types
                and (since is None or payment.at.date() >= since)
            ]
            shown = [payment for payment in paid if cumulative or not payment.exported]
            if not cumulative:
                for payment in shown:
                    payment.exported = True
            return render(payment_rows(shown, self.region, bounced), format, "ALMA_LIBRARY_PAYMENTS")

    def applied_output(self, format: Format = "csv") -> bytes:
        """The query of library items, one row an item, with what has been applied to it up to now."""
        with self.lock:
            table = applied_rows(self.items.values(), self.business_unit, self.region)
            return render(table, format, "ALMA_LIBRARY_ITEMS")

    def books(self) -> Books:
        """Balances by reference and by EMPLID, from the postings and payments."""
        with self.lock:
            return books_of(
                self.items.values(), self.postings, self.payments.values(), self.credit_item_types
            )
