"""A whole campus: Alma, PeopleSoft and the SFTP folders between them, with generated people and fees.

Names are generated (``Student 000123``). Everything is drawn from one seed, so a campus can be made again.
"""

import os
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from simulator.address import LOOPBACK
from simulator.alma import AlmaModel, days_ago
from simulator.alma_api import AlmaApi
from simulator.alma_records import Fee, User
from simulator.analytics import REPORT_PATH, Analytics
from simulator.campus_records import CampusBooks, FeeBooks, Folders, Oddities
from simulator.clock import Clock
from simulator.faults import Faults
from simulator.limits import Limits
from simulator.peoplesoft import PeopleSoftModel
from simulator.peoplesoft_records import LoadResult
from simulator.query_output import EXTENSIONS, Format
from simulator.sftp import SftpServer
from simulator.sis_export import Packing, export_users, pack

REFERENCE_PREFIX = "ALMA"
# Fee type -> how often; the last is the type that no campus has mapped.
FEE_TYPES = {"OVERDUEFINE": 70, "LOSTITEMREPLACEMENTFEE": 18, "LOSTITEMPROCESSFEE": 12}
UNMAPPED_TYPE = "LOCKERKEY"
ITEM_TYPES = ("300000000001", "300000000002", "300000000003")
STAFF_ID = "staff.0007@campus.invalid"
DEFAULT_LAYOUT = Path(__file__).resolve().parents[1] / "include" / "layouts" / "default.toml"


class Campus:
    """A campus with ``students`` students and ``fees`` open fees, four of them oddities (see ``oddities``).

    ``root`` is the SFTP server's folder, made if need be. Files stay in inbound until ``load_inbound``,
    unless ``faults.move_on_arrival`` is set. Amounts are integer cents.
    """

    def __init__(
        self,
        root: Path,
        *,
        seed: int = 1,
        students: int = 2000,
        fees: int = 1500,
        layout: Path = DEFAULT_LAYOUT,
        clock: Clock | None = None,
        institution: str = "01CAMPUS_INST",
        environment: str = "SANDBOX",
        currency: str = "USD",
        business_unit: str = "CAMPS",
        origin_id: str = "LIB01",
        item_types: tuple[str, ...] | None = ITEM_TYPES,
        credit_item_types: tuple[str, ...] = (),
        report_path: str = REPORT_PATH,
        limits: Limits | None = None,
        reference_prefix: str = REFERENCE_PREFIX,
        folders: Folders | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = clock or Clock()
        self.faults = Faults(seed)
        self.folders = folders or Folders()
        self.oddities = Oddities()
        self.reference_prefix = reference_prefix
        self.alma = AlmaModel(institution, environment, self.clock, random.Random(seed + 1), currency)
        self.analytics = Analytics(self.alma, report_path, random.Random(seed + 2))
        self.limits = limits or Limits(clock=self.clock)
        self.api = AlmaApi(self.alma, self.faults, self.limits, analytics=self.analytics)
        self.students: list[User] = self._make_students(students)
        self.peoplesoft = PeopleSoftModel(
            layout,
            self.clock,
            random.Random(seed + 3),
            business_unit,
            origin_id=origin_id,
            currency=currency,
            emplids={student.primary_id for student in self.students},
            item_types=item_types,
            credit_item_types=credit_item_types,
        )
        #: By fee, the reference of the item that a former process has charged for it.
        self.former_references: dict[str, str] = {}
        self.root = root
        self._sequence = 0
        for folder in vars(self.folders).values():
            self.path(folder).mkdir(parents=True, exist_ok=True)
        self._make_fees(fees)
        self.refresh_analytics()

    def path(self, remote: str) -> Path:
        """The place on disk of a path that an SFTP client sees."""
        return self.root / remote.lstrip("/")

    def sftp_server(self, *, port: int = 0, key_file: Path | None = None, name: str = LOOPBACK) -> SftpServer:
        """An SFTP server (not started) over this campus's folders, with this campus's faults."""
        return SftpServer(
            self.root,
            self.faults,
            port=port,
            inbound=self.folders.inbound,
            on_arrival=self._on_arrival,
            key_file=key_file,
            name=name,
        )

    def _on_arrival(self, _name: str) -> None:
        if self.faults.move_on_arrival:
            self.load_inbound()

    # -- making it -----------------------------------------------------------------------------

    def _make_students(self, count: int) -> list[User]:
        made = []
        for number in range(1, count + 1):
            # CSU-shaped EMPLIDs: nine digits beginning with 0 or 9, so a reader that takes them for
            # numbers loses the noughts.
            emplid = f"{'09'[number % 2]}{self.rng.randrange(10**4):04d}{number:04d}"
            joined = days_ago(self.clock, self.rng.uniform(40, 1000))
            made.append(
                self.alma.add_user(
                    emplid,
                    user_group="GRADUATE" if number % 5 == 0 else "UNDERGRAD",
                    last_name=f"{number:06d}",
                    identifiers={"BARCODE": f"2{number:013d}"},
                    modified_at=joined,
                )
            )
        return made

    def _make_fees(self, count: int) -> None:
        if not self.students or count <= 0:
            return
        oddities = self.oddities
        staff = self.alma.add_user(
            STAFF_ID,
            user_group="STAFF",
            first_name="Staff",
            last_name="000007",
            modified_at=days_ago(self.clock, 50),
        )
        plain = max(0, count - 4)
        oddities_made: list[Callable[[], Fee]] = [
            lambda: self._fee(staff),
            lambda: self._fee(self.rng.choice(self.students), type=UNMAPPED_TYPE),
            lambda: self.alma.dispute(self._fee(self.rng.choice(self.students)).id),
            lambda: self._credit(self.rng.choice(self.students)),
        ]
        for _ in range(plain):
            self._fee(self.rng.choice(self.students))
        if count >= 4:
            oddities.all = [make().id for make in oddities_made]
            (oddities.staff_fee, oddities.unmapped_fee, oddities.disputed_fee, oddities.credit_fee) = (
                oddities.all
            )

    def _credit(self, student: User) -> Fee:
        return self.alma.give_credit(
            student, self.rng.randrange(500, 6000, 25), comment="Lost item was returned"
        )

    def _fee(self, user: User, *, type: str | None = None, days: float = 35.0) -> Fee:
        kind = type or self.rng.choices(list(FEE_TYPES), list(FEE_TYPES.values()))[0]
        # Overdue fines go by the quarter, replacement prices by the cent.
        cents = {"OVERDUEFINE": self.rng.randrange(25, 2500, 25), "LOSTITEMPROCESSFEE": 1500}.get(
            kind, self.rng.randrange(1999, 18000)
        )
        owner = self.rng.choices(["MAIN", "LAW", "MUSIC"], [80, 12, 8])[0]
        at = days_ago(self.clock, self.rng.uniform(0, days))
        due = at - timedelta(days=1)
        return self.alma.add_fee(
            user,
            cents,
            type=kind,
            owner=owner,
            at=at,
            title=f"Title {self.rng.randrange(10**5):05d} /",
            barcode=f"3{self.rng.randrange(10**13):013d}",
            comment=f"Date generated: {at:%m/%d/%Y}, Due: {due:%m/%d/%Y}",
        )

    # -- what happens on a campus --------------------------------------------------------------

    def new_fees(self, count: int) -> list[Fee]:
        """``count`` students run up a fee each, now."""
        with self.alma.lock:
            return [self._fee(self.rng.choice(self.students), days=0.0) for _ in range(count)]

    def students_pay(self, share: float = 0.3, *, in_part: float = 0.25) -> int:
        """A share (0..1) of the open items is paid in PeopleSoft, ``in_part`` of them in part; how many."""
        with self.peoplesoft.lock:
            items = self.peoplesoft.open_items()
            paying = self.rng.sample(items, round(len(items) * min(max(share, 0.0), 1.0)))
            for item in paying:
                part = self.rng.random() < in_part and item.balance_cents > 1
                cents = self.rng.randrange(1, item.balance_cents) if part else item.balance_cents
                self.peoplesoft.pay(item.item_nbr, cents)
            return len(paying)

    def overpay(self, count: int) -> int:
        """``count`` students pay more on an item than it costs; how many did."""
        with self.peoplesoft.lock:
            items = self.peoplesoft.open_items()
            paying = self.rng.sample(items, min(count, len(items)))
            for item in paying:
                self.peoplesoft.pay(item.item_nbr, item.balance_cents + self.rng.randrange(1, 2000))
            return len(paying)

    def bounce(self, count: int) -> int:
        """``count`` payments are taken back in PeopleSoft; how many were."""
        with self.peoplesoft.lock:
            credits = self.peoplesoft.credit_item_types
            held = [
                number
                for number, payment in self.peoplesoft.payments.items()
                if payment.amount_cents > 0 and payment.item_type not in credits
            ]
            taken = self.rng.sample(held, min(count, len(held)))
            for number in taken:
                self.peoplesoft.bounce(number)
            return len(taken)

    def desk_payments(self, count: int) -> int:
        """``count`` fees are paid at the library's desk, every other one in part; how many were."""
        return self._at_desk(count, lambda fee, cents: self.alma.pay_at_desk(fee.id, cents))

    def waives(self, count: int) -> int:
        """``count`` fees are waived by staff, every other one in part; how many were."""
        return self._at_desk(count, lambda fee, cents: self.alma.waive_at_desk(fee.id, cents))

    def _at_desk(self, count: int, act: Callable[[Fee, int], object]) -> int:
        with self.alma.lock:
            payable = [
                fee
                for fee in self.alma.fees.values()
                if fee.status == "ACTIVE" and fee.balance_cents > 1 and not fee.user.purged
            ]
            chosen = self.rng.sample(payable, min(count, len(payable)))
            for place, fee in enumerate(chosen):
                act(fee, fee.balance_cents if place % 2 == 0 else self.rng.randrange(1, fee.balance_cents))
            return len(chosen)

    def charged_before(
        self,
        fee: Fee,
        cents: int,
        *,
        paid: int = 0,
        reference: str | None = None,
        item_type: str = "300000000001",
        term: str = "2261",
    ) -> None:
        """A former process has charged a fee in PeopleSoft, under ``reference`` or (None) the one that ours would bear.

        ``paid`` of it was paid there; whether Alma was told is another matter.
        """
        self.former_references[fee.id] = self.reference_prefix + fee.id if reference is None else reference
        self.peoplesoft.charge(fee.user.primary_id, item_type, term, self._reference(fee.id), cents, paid)

    def _reference(self, fee_id: str) -> str:
        return self.former_references.get(fee_id, self.reference_prefix + fee_id)

    def refresh_analytics(self) -> int:
        """The night's refresh of the report; returns its number of rows."""
        return self.analytics.refresh()

    def load_inbound(self, at_most: int | None = None) -> list[LoadResult]:
        """PeopleSoft loads every ``*.dat`` in inbound, in the order of names, and moves it to /sfs/loaded.

        ``at_most``: only so many; the others stay for later.
        """
        with self.peoplesoft.lock:
            results = []
            for file in sorted(self.path(self.folders.inbound).glob("*.dat"))[:at_most]:
                results.append(self.peoplesoft.load(file.name, file.read_bytes()))
                target = self.path(self.folders.loaded) / file.name
                again = 1
                while target.exists():
                    again += 1
                    target = target.with_name(f"{file.name}.{again}")
                file.rename(target)
            return results

    def write_query_output(
        self,
        format: Format = "csv",
        *,
        kind: str = "payments",
        cumulative: bool = True,
        since: date | None = None,
        bounced: str = "omit",
    ) -> str:
        """PeopleSoft leaves a query's output in /sfs/outbound; returns its path there.

        ``kind``: ``payments`` (one row a payment) or ``applied`` (one row an item). The file appears
        whole: it is written under another name first. Its time is that of the campus's clock.
        """
        if kind == "payments":
            content = self.peoplesoft.query_output(format, cumulative, since=since, bounced=bounced)
        elif kind == "applied":
            content = self.peoplesoft.applied_output(format)
        else:
            raise ValueError(f"unknown query: {kind}")
        name = f"LIBRARY_{kind.upper()}_{self._stamp()}{EXTENSIONS[format]}"
        path = self._leave(self.folders.outbound, name, content)
        now = self.clock.now().timestamp()
        os.utime(self.path(path), (now, now))
        return path

    def write_sis_export(self, hours: float = 24.0, packing: Packing = "xml") -> str:
        """Alma's SIS profile leaves the users changed within ``hours``; returns the file's path there."""
        name, content = pack(export_users(self.alma, hours), f"USERS_{self._stamp()}", packing)
        return self._leave(self.folders.sis_export, name, content)

    def _stamp(self) -> str:
        self._sequence += 1
        return f"{self.clock.now():%Y%m%d%H%M%S}_{self._sequence:03d}"

    def _leave(self, folder: str, name: str, content: bytes) -> str:
        target = self.path(folder) / name
        unfinished = target.with_name(f".{name}.writing")
        unfinished.write_bytes(content)
        at = self.clock.now().timestamp()
        os.utime(unfinished, (at, at))
        unfinished.rename(target)
        return f"{folder}/{name}"

    # -- the books -----------------------------------------------------------------------------

    def books(self) -> CampusBooks:
        """Every fee as Alma and as PeopleSoft have it, from their own records, in cents."""
        with self.alma.lock, self.peoplesoft.lock:
            sfs = self.peoplesoft.books()
            fees = {}
            for fee in self.alma.fees.values():
                reference = self._reference(fee.id)
                fees[fee.id] = FeeBooks(
                    fee.id,
                    fee.type,
                    fee.status,
                    fee.balance_cents,
                    sfs.by_reference.get(reference, 0),
                    sfs.charged.get(reference, 0),
                    sfs.credited.get(reference, 0),
                    sfs.paid.get(reference, 0),
                )
            ours = {self._reference(fee_id) for fee_id in fees}
            foreign = {
                reference: cents for reference, cents in sfs.by_reference.items() if reference not in ours
            }
            return CampusBooks(fees, foreign, sum(sfs.unapplied.values()))
