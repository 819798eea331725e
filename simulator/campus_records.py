"""What a campus tells about itself: its folders, its oddities, and both sides' books, in cents."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FeeBooks:
    """One fee on both sides, in cents. ``peoplesoft_cents`` is the balance of the items that refer to it.

    ``alma_cents`` is 0 once CLOSED. ``charged``, ``credited`` and ``paid`` are PeopleSoft's postings.
    """

    fee_id: str
    type: str
    status: str
    alma_cents: int
    peoplesoft_cents: int
    charged_cents: int
    credited_cents: int
    paid_cents: int

    @property
    def difference_cents(self) -> int:
        """What Alma shows more than PeopleSoft."""
        return self.alma_cents - self.peoplesoft_cents


@dataclass(frozen=True)
class CampusBooks:
    """Both sides of every fee, EMPLID-free. ``foreign``: PeopleSoft references that are no fee of ours."""

    fees: dict[str, FeeBooks]
    foreign: dict[str, int]
    unapplied_cents: int

    @property
    def alma_cents(self) -> int:
        """Balance of all fees in Alma."""
        return sum(fee.alma_cents for fee in self.fees.values())

    @property
    def peoplesoft_cents(self) -> int:
        """Balance of all library items in PeopleSoft."""
        return sum(fee.peoplesoft_cents for fee in self.fees.values()) + sum(self.foreign.values())

    @property
    def unequal(self) -> dict[str, FeeBooks]:
        """Fees on which the two sides differ."""
        return {fee_id: fee for fee_id, fee in self.fees.items() if fee.difference_cents}


@dataclass
class Folders:
    """Paths as an SFTP client sees them."""

    inbound: str = "/sfs/inbound"
    outbound: str = "/sfs/outbound"
    outbound_archive: str = "/sfs/outbound/archive"
    archive: str = "/sfs/archive"
    loaded: str = "/sfs/loaded"
    sis_export: str = "/alma/sis_export"


@dataclass
class Oddities:
    """The few deliberate exceptions of a campus, by fee id (None where there are no fees)."""

    staff_fee: str | None = None
    unmapped_fee: str | None = None
    disputed_fee: str | None = None
    credit_fee: str | None = None
    all: list[str] = field(default_factory=list)
