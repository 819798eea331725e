"""What PeopleSoft keeps: items, postings, payments. Amounts are integer cents, time is UTC."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Reject:
    """A line that was not posted, and why."""

    line_number: int
    reason: str


@dataclass(frozen=True)
class LoadResult:
    """What became of one file. ``error`` set: nothing of it was posted.

    ``kind`` is charges or credits; ``total_cents`` the sum posted, ``group_id`` the group it made.
    """

    file_name: str
    error: str | None = None
    kind: str | None = None
    group_id: str | None = None
    posted: int = 0
    total_cents: int = 0
    rejects: tuple[Reject, ...] = ()

    @property
    def loaded(self) -> bool:
        """Whether anything was posted and nothing refused."""
        return self.error is None and not self.rejects and self.posted > 0


@dataclass
class Posting:
    """One line on an item: a charge (positive), a reversal or credit (negative)."""

    group_id: str
    item_nbr: str
    cents: int
    reference: str
    at: datetime
    reversed: bool = False
    is_credit_item: bool = False


@dataclass
class Item:
    """ITEM_SF: one charge as the student sees it. Always ``balance = amount - applied``."""

    item_nbr: str
    emplid: str
    item_type: str
    item_term: str
    reference: str
    original_cents: int
    amount_cents: int
    applied_cents: int
    at: datetime

    @property
    def balance_cents(self) -> int:
        """ITEM_BALANCE: still to pay; below nought when more was credited than charged."""
        return self.amount_cents - self.applied_cents


@dataclass
class Application:
    """Which part of a payment, or of a credit item, pays which item (ITEM_XREF)."""

    item_nbr: str
    cents: int


@dataclass
class Payment:
    """PAYMENT_TBL. What is not applied stays as a credit on the account."""

    payment_id: str
    emplid: str
    amount_cents: int
    reference: str
    item_type: str
    at: datetime
    applications: list[Application] = field(default_factory=list)
    bounced_cents: int = 0
    #: Each time that something was taken back of it, how much.
    bounces: list[int] = field(default_factory=list)
    exported: bool = False

    @property
    def unapplied_cents(self) -> int:
        """The part that pays nothing yet."""
        return self.amount_cents - sum(application.cents for application in self.applications)


@dataclass(frozen=True)
class Books:
    """The student accounts' side of the money, in cents.

    ``by_reference``: balance of the items with that REF1_DESCR. ``charged``, ``credited``, ``paid``:
    per reference, as posted, as reversed or credited, and as paid (bounced payments taken off).
    ``by_emplid``: items' balances less unapplied money. ``unapplied``: money on account, per EMPLID.
    """

    by_reference: dict[str, int]
    by_emplid: dict[str, int]
    charged: dict[str, int]
    credited: dict[str, int]
    paid: dict[str, int]
    unapplied: dict[str, int]

    @property
    def total_cents(self) -> int:
        """Balance of all items."""
        return sum(self.by_reference.values())
