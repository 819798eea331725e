"""One life: a small campus, the real bridge between its two sides, and whatever goes wrong there.

The code under test is the real one, down to the statements: only the clock, Alma and the far side's
folders are models. A *death* ends a worker between two statements that touch the outside, its lease
still held. An *interruption* lets other things happen while a worker stands still. A *fault* is what
the outside does wrong. All of it follows from the seed.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar
from unittest.mock import patch

from alma_hook import fees, opening, opening_file
from alma_hook.alma import AlmaApi, Request
from alma_hook.alma_answers import Reply
from alma_hook.errors import AlmaHookError, OutcomeUnknown, Retriable
from alma_hook.ledger import Lease, Ledger, Tx, store
from simulator.alma import NOT_AT_DESK
from simulator.alma_records import Fee
from simulator.clock import Clock
from simulator.limits import Limits
from simulator.query_output import REVERSAL_ITEM_TYPE
from simulator.sfs_layout import Detail, parse
from tests.bridge import Bridge, LocalFolder
from tests.simulation import accidents
from tests.simulation.database import database, scratch
from tests.simulation.people import People

DAYS = 10
METHODS = ("analytics_report", "analytics_report", "open_fees", "all_users", "sis_profile", "sis_profile")
ROUNDS = 16
_BUSY = (
    "The ledger's database can't be reached or is busy (OperationalError). Nothing of this step was written."
)


#: Payments told as what is applied to each item up to now.
APPLIED = """[sis_to_alma.columns]
emplid = "Emplid"
reference = "Reference Nbr"
applied = "Applied Amt"
item = "Item Nbr"
"""
ITEMS = """
[sis_to_alma.items]
pattern = "LIBRARY_APPLIED_*.csv"
complete = true
confirm_days = 1
[sis_to_alma.items.columns]
emplid = "Emplid"
reference = "Reference Nbr"
amount = "Item Amt"
balance = "Item Balance"
"""


#: The item type of what the office waives, and what a line is by its item type.
WAIVER = "900000000007"
KINDS = """
[sis_to_alma.kinds]
300000000001 = "payment"
300000000002 = "payment"
300000000003 = "payment"
"""

#: What PeopleSoft held before, as the books are opened with it.
OPENING = """
[opening.columns]
emplid = "Emplid"
item_type = "Item Type"
term = "Item Term"
reference = "Reference Nbr"
balance = "Item Balance"
applied = "Applied Amt"
"""

#: What a campus may rule of first charges.
RULES = (
    'minimum = "5.00"',
    'minimum_of_student = "20.00"',
    "minimum_age_days = 2",
    'user_groups_left_out = ["GRADUATE"]',
    'fee_types_left_out = ["OVERDUEFINE"]',
)


class Death(BaseException):
    """The worker's process is gone. Not an ``Exception``: no code may catch it."""


@dataclass(frozen=True)
class Event:
    """One thing in a life: its number, seconds from the life's begin, and its kind."""

    number: int
    at: int
    kind: str


@dataclass(frozen=True)
class Only:
    """What of a life is to happen: all of it, or these events and accidents alone."""

    events: frozenset[int] | None = None
    accidents: frozenset[str] | None = None

    @classmethod
    def parse(cls, text: str) -> Only:
        """``3,5.17``: event 3, and event 5 with accident 5.17."""
        names = [name for name in text.split(",") if name]
        events = frozenset(int(name.partition(".")[0]) for name in names)
        return cls(events, frozenset(name for name in names if "." in name))

    def __str__(self) -> str:
        accidents = sorted(self.accidents or (), key=lambda name: [int(part) for part in name.split(".")])
        bare = sorted((self.events or frozenset()) - {int(name.partition(".")[0]) for name in accidents})
        return ",".join([*map(str, bare), *accidents])


ALL = Only()


@dataclass
class Run:
    """One run of a DAG: of ``out`` or ``back``."""

    direction: str
    run_id: str
    method: str = ""
    live: bool = True
    until: datetime = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Nature:
    """What a campus is like for all of its life."""

    mode: str
    read_back: str
    layout: str
    payment_ids: bool
    emplid: str
    by_api: bool
    fee_transactions: bool
    output: str
    takes_at_once: bool
    short_ids: bool
    items: bool
    credit_wait_days: int | None
    brake: tuple[int, int, int] | None
    cumulative: bool
    bounced: str
    reversal_limit: int
    credits: str
    applied: bool
    first_charges: str | None
    opening: bool
    waives: bool
    reverses: bool
    sums_up: bool

    @classmethod
    def of(cls, rng: random.Random, rules: random.Random) -> Nature:
        """Draw one; ``rules``: what the campus rules, drawn by itself."""
        applied = rng.random() < 0.2
        payment_ids = rng.random() < 0.7
        output = rng.choice(["all", "all", "all", "days", "new only"] if payment_ids else ["all", "days"])
        return cls(
            mode=rng.choice(["rename", "rename", "direct"]),
            read_back=rng.choice(["hash", "hash", "hash", "size", "none"]),
            layout=rng.choice(["default", "default", "princeton_libfines"]),
            payment_ids=payment_ids and not applied,
            emplid=rng.choice(["primary_id", "primary_id", "identifier:UNIV_ID"]),
            by_api=rng.random() < 0.3,
            fee_transactions=rng.random() < 0.4,
            output="all" if applied else output,
            takes_at_once=rng.random() < 0.25,
            short_ids=rng.random() < 0.02,
            items=rng.random() < 0.4,
            credit_wait_days=rng.choice([None, None, 0, 2]),
            # Lines, total and largest line of a batch that leaves unasked.
            brake=rng.choice([None, None, (4, 10**7, 10**6), (2000, 15_000, 6_000), (0, 10**7, 10**6)]),
            cumulative=applied or (output == "all" and rng.random() < 0.7),
            bounced=rng.choice(["omit", "omit", "zero"]),
            reversal_limit=rng.choice([1, 3, 20]),
            credits=rng.choice(["list", "list", "ignore"]),
            applied=applied,
            first_charges=rules.choice(RULES) if rules.random() < 0.25 else None,
            opening=rules.random() < 0.1,
            waives=rules.random() < 0.15 and payment_ids and not applied,
            # A line of its own takes a payment back, beside the payment's.
            reverses=rules.random() < 0.2 and payment_ids and not applied,
            sums_up=rules.random() < 0.4,
        )

    @property
    def taken_back_as(self) -> str:
        """How its output shows a payment taken back."""
        return f"reversal{'_sum' * self.sums_up}" if self.reverses else self.bounced

    @property
    def lists(self) -> bool:
        """Whether PeopleSoft writes lists of items."""
        return self.items or self.applied

    def tells_of_payments(self, name: str) -> bool:
        """Whether an output file does."""
        return ("APPLIED" if self.applied else "PAYMENTS") in name

    @property
    def waits_for_its_charge(self) -> bool:
        """Whether no credit reaches PeopleSoft before its charge was seen there."""
        return self.items and self.credit_wait_days is None

    def settings(self, text: str, begin: datetime) -> str:
        """The campus's settings."""
        if self.applied:
            text = text.partition("[sis_to_alma.columns]")[0] + APPLIED
            text = text.replace("[sis_to_alma]", '[sis_to_alma]\nshape = "applied"')
        text = text.replace("[sfs]", f'[sfs]\nmode = "{self.mode}"\nread_back = "{self.read_back}"')
        if self.by_api:
            text = text.replace('export_directory = "/alma/sis_export"\n', "")
        if self.fee_transactions:
            text = text.replace("[sfs]", "fee_transactions = true\n[sfs]")
        if self.credit_wait_days is not None:
            text = text.replace("[sfs]", f"[sfs]\ncredit_wait_days = {self.credit_wait_days}")
        text = text.replace("[sfs]", f'credits = "{self.credits}"\n[sfs]')
        if self.first_charges is not None:
            text += f"[first_charges]\n{self.first_charges}\n"
        if self.brake is not None:
            lines, total, line = (f"{n}" if n < 5000 else f'"{n // 100}.00"' for n in self.brake)
            text += f"[brake]\nmax_lines = {lines}\nmax_total = {total}\nmax_line = {line}\n"
        text = text.replace(
            "[sis_to_alma]",
            f'[sis_to_alma]\npattern = "LIBRARY_{"APPLIED" if self.applied else "PAYMENTS"}_*.csv"\n'
            f"reversal_limit = {self.reversal_limit}\ncumulative = {str(self.cumulative).lower()}",
        )
        if not self.payment_ids and not self.applied:
            text = text.replace('payment_id = "Payment ID"\n', "").replace(
                "[sis_to_alma]", "[sis_to_alma]\ncomplete_days = true"
            )
        term = f'\n[[terms]]\nfirst = {(begin - timedelta(days=60)).date()}\nterm = "2267"\n'
        more = ITEMS * self.items + OPENING * self.opening
        if self.waives:
            text = text.replace("[sis_to_alma]", '[sis_to_alma]\nwaivers_shown_by = "comment"')
        if self.waives or self.reverses:
            text = text.replace('paid_on = "Date Paid"\n', 'paid_on = "Date Paid"\nkind = "Item Type"\n')
            more += KINDS + f'{WAIVER} = "waive:GOODWILL"\n' * self.waives
            more += f'{REVERSAL_ITEM_TYPE} = "reversal"\n' * self.reverses
        if self.reverses and self.sums_up and not self.cumulative:
            text = text.replace("[sis_to_alma]", '[sis_to_alma]\nreversal_lines = "sum"')
        return text + f'[emplid]\nsource = "{self.emplid}"\n' + more + term


@dataclass
class Tally:
    """What happened in a life, or in many."""

    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    interruptions: Counter[str] = field(default_factory=Counter)
    cents: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Count another's too."""
        for name, counter in vars(self).items():
            counter.update(getattr(other, name))


class OneThread:
    """In place of a pool: one life has one thread, so that it is the same each time."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> OneThread:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, work: Callable[..., Any], *given: object) -> Done:
        return Done(work(*given))

    def shutdown(self, *, cancel_futures: bool) -> None: ...


class Done:
    """What was asked of it, done at once."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def result(self) -> Any:
        return self._result


class Folder(LocalFolder):
    """The far side's folders, reached by a connection that may break at each step."""

    def __init__(self, world: World) -> None:
        super().__init__(world.far.root, self._before, world.seconds)
        self.world = world

    def _before(self, action: str, path: str) -> None:
        world = self.world
        if action in ("written", "renamed"):
            world.arrived(path)
            if world.boundary(f"{action} {place(path)}", "sftp", accidents.SFTP_AFTER):
                raise Retriable("The connection broke off.")
            return
        if world.boundary(f"{action} {place(path)}", "sftp", accidents.SFTP_BEFORE) is not None:
            raise Retriable("The connection broke off.")

    def write(self, path: str, content: bytes) -> None:
        self._begin(path, content)
        self.put(path, content)
        self.before("written", path)

    def create(self, path: str, content: bytes) -> bool:
        self._begin(path, content, new=True)
        if self.path(path).exists():
            return False
        self.put(path, content)
        self.before("written", path)
        return True

    def _begin(self, path: str, content: bytes, new: bool = False) -> None:
        """Begin to write; a file that has to be ``new`` is not opened where there is one."""
        world = self.world
        fault = world.boundary(f"write {place(path)}", "sftp", accidents.SFTP_WRITE)
        if fault == "half written" and not (new and self.path(path).exists()):
            self.put(path, content[: len(content) // 2])
            world.torn.add(path.rpartition("/")[2])
            world.arrived(path)
        if fault is not None:
            raise Retriable("The connection broke off.")


class SimulatedBridge(Bridge):
    """The bridge, on a database that is kept from life to life."""

    def __init__(self, work: Path, url: str | None, **options: Any) -> None:
        self.database = database(url)
        super().__init__(work, url=self.database.url, **options)

    def prepare_ledger(self) -> None:
        self.database.renew(lambda: self.ledger("setup"))


class World:
    """One seed's life. ``trace`` holds what happened, for whoever has to find out why."""

    #: Kind of event -> what it does; filled by ``tests.simulation.life``.
    acts: ClassVar[Mapping[str, Callable[[World], str | None]]] = {}

    def __init__(self, seed: int, only: Only = ALL, url: str | None = None) -> None:
        self.seed, self.only = seed, only
        self.rng = random.Random(f"{seed}")
        self.trace: list[str] = []
        self.tally = Tally()
        self.fired: list[str] = []
        self.weather = accidents.Weather.of(self.rng)
        self.nature = Nature.of(self.rng, random.Random(f"{seed} rules"))
        self.begin = datetime(2026, 1, 1, 13, tzinfo=UTC) + timedelta(days=self.rng.randrange(365))
        self.clock = Clock(self.begin)
        work = scratch() / "campus"
        rmtree(work, ignore_errors=True)
        work.mkdir()
        self.bridge = SimulatedBridge(
            work, url, students=5, fees=9, seed=seed, layout=self.nature.layout, clock=self.clock,
            limits=Limits(clock=self.clock, monotonic=self.seconds),
            settings=lambda text: self.nature.settings(text, self.begin),
        )  # fmt: skip
        self.far = self.bridge.far
        self.bridge.folder = Folder(self)
        self.bridge.api = AlmaApi(self.sent, pause=self.wait)
        self.far.api._sleep = self.wait
        self._name_students()
        if self.nature.short_ids:
            self.far.alma.behaviour.external_id_length = 12
        # -- the worker
        self.dead = False
        self.in_transaction = self.depth = self._runs = self._boundaries = 0
        self.event: Event | None = None
        self._luck = self.rng
        self.runs: dict[str, list[Run]] = {"out": [], "back": []}
        # -- the campus
        self.open = True
        #: Files of PeopleSoft's that come later: name, bytes, and the time they bear then, if it is not the time they come.
        self.drawer: list[tuple[str, bytes, float | None]] = []
        self.outputs: list[tuple[str, bytes]] = []
        self.people = People(self)
        #: EMPLIDs that PeopleSoft knows no more.
        self.refused_emplids: set[str] = set()
        # -- the witness
        #: What came to PeopleSoft, and what a person said will never be loaded: file or void, file name, line.
        self.steps: list[tuple[str, str, int]] = []
        self.lost_files: dict[str, bytes] = {}
        #: Payment files that lay in the folder: the time they bore, in whole seconds, name and bytes.
        self.left: list[tuple[int, str, bytes]] = []
        self.shown: dict[str, list[int]] = {}
        self.torn: set[str] = set()
        self.applied_too_late: set[str] = set()
        self.quiet_after: int | None = None
        self._watch_readings()
        #: What PeopleSoft held of a fee when the books were opened, in cents.
        self.held_before: dict[str, int] = {}
        if self.nature.opening and self.bridge.database.file is not None:
            self._open_with_items()

    def _open_with_items(self) -> None:
        """A former process has charged some of the fees, a few of them wrongly, and the books are opened with that."""
        rng, far, bridge = random.Random(f"{self.seed} opening"), self.far, self.bridge
        for fee in far.alma.fees.values():
            item_type = bridge.campus.item_type(fee.type, "")
            if fee.status != "ACTIVE" or item_type is None or rng.random() < 0.5:
                continue
            cents = fee.balance_cents + (rng.choice([-1, 100]) if rng.random() < 0.25 else 0)
            emplid = fee.user.identifiers.get("UNIV_ID", fee.user.primary_id)
            if re.fullmatch(bridge.campus.emplid.pattern, emplid) is None:
                continue  # PeopleSoft knows no such person
            far.peoplesoft.charge(emplid, item_type, "2261", far.reference_prefix + fee.id, cents)
            self.held_before[fee.id] = cents
        bridge.database.lose(opened=False)
        assert bridge.campus.opening is not None
        content, day = far.peoplesoft.applied_output(), bridge.campus.today(self.clock.now())
        items = opening_file.read("items.csv", content, bridge.campus, bridge.campus.opening)
        matching = opening.match(
            items, opening.read_accounts(bridge.api, items, bridge.campus), bridge.campus, day
        )
        told = opening.record(matching, "items.csv", content, day, "as the docs say")
        ledger = bridge.ledger("opening")
        with ledger.lease("out", "opening") as out, ledger.lease("back", "opening"):
            opening.accept(ledger, out, bridge.campus, matching, told, bridge.folder, bridge.marks)

    def _name_students(self) -> None:
        if self.nature.emplid == "primary_id":
            return
        for number, student in enumerate(self.far.students):
            emplid = student.primary_id
            self.far.alma.rekey_user(emplid, f"user{number}")
            self.far.alma.set_identifier(f"user{number}", "UNIV_ID", emplid)
        self.far.refresh_analytics()

    def _watch_readings(self) -> None:
        """Note what each answer of Alma shows of a fee: its balance and the payments with our key."""
        payloads = self.far.api._routes.payloads
        plain = payloads.fee

        def watched(fee: Fee) -> dict[str, Any]:
            values = self.shown.setdefault(fee.id, [])
            value = fee.balance_cents + own_paid(fee)
            if values[-1:] != [value]:
                values.append(value)
            return plain(fee)

        payloads.fee = watched  # type: ignore[method-assign]

    @contextmanager
    def living(self) -> Iterator[World]:
        """Stand at every boundary while this life goes on."""
        with ExitStack() as stack:
            base = self.bridge.database
            stack.enter_context(patch.object(store, "_engine", base.engine))
            stack.enter_context(patch.object(Ledger, "close", lambda _: None))
            stack.enter_context(patch.object(Ledger, "write", self._watched(Ledger.write)))
            stack.enter_context(patch.object(fees, "ThreadPoolExecutor", OneThread))
            yield self

    def _watched(self, write: Callable[..., Any]) -> Callable[..., Any]:
        world = self

        @contextmanager
        def watched(ledger: Ledger, lease: Lease | None = None) -> Iterator[Tx]:
            if world.boundary("before a transaction", "database", accidents.DATABASE_BEGIN):
                raise Retriable(_BUSY)
            with write(ledger, lease) as tx:
                world.in_transaction += 1
                try:
                    yield tx
                    if world.boundary("before a commit", "database", accidents.DATABASE_COMMIT):
                        raise Retriable(_BUSY)
                finally:
                    world.in_transaction -= 1
            if world.boundary("after a commit", "database", accidents.DATABASE_AFTER):
                raise Retriable(_BUSY)

        return watched

    # -- time ------------------------------------------------------------------------------------------------

    def seconds(self) -> float:
        """The campus's time in seconds since 1970."""
        return self.clock.now().timestamp()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds=seconds)

    def say(self, text: str) -> None:
        """Add a line to the trace."""
        number = "" if self.event is None else f"{self.event.number}"
        self.trace.append(f"{self.clock.now():%m-%d %H:%M:%S} {number:>3} {'  ' * self.depth}{text}")

    # -- chance ------------------------------------------------------------------------------------------------

    def boundary(self, where: str, kind: str = "", faults: tuple[str, ...] = ()) -> str | None:
        """Let happen what happens here; return the fault to be made, if it is one."""
        if self.dead:
            raise Death
        if self.event is None or not self.direction:
            return None
        self.clock.advance(seconds=0.02)
        self._boundaries += 1
        number, draw = self._boundaries, self._luck.random()
        death, interruption, fault = self.weather.at(kind)
        if draw >= (fault if faults else interruption):
            return None
        if death <= draw < interruption and (self.in_transaction or self.depth > 1):
            return None
        name = f"{self.event.number}.{number}"
        if self.only.accidents is not None and name not in self.only.accidents:
            return None
        self.fired.append(name)
        rng = random.Random(f"{self.seed} {name}")
        if draw < death:
            self.say(f"[{name}] the worker dies {where}")
            self.tally.deaths[where.partition(" /")[0]] += 1
            self.dead = True
            raise Death
        if draw < interruption:
            self._meanwhile(name, where, kind, rng)
            return None
        chosen = rng.choice(faults)
        self.say(f"[{name}] {where}: {chosen}")
        self.tally.faults[f"{kind}: {chosen}"] += 1
        return chosen

    def _meanwhile(self, name: str, where: str, kind: str, rng: random.Random) -> None:
        """Other things happen while the worker stands still."""
        what = rng.choice(accidents.MEANWHILE + accidents.BESIDE.get(kind, ()))
        self.say(f"[{name}] the worker stands still {where}: {what}")
        self.tally.interruptions[what] += 1
        before, self.rng = self.rng, rng
        self.depth += 1
        try:
            if what.startswith("an hour"):
                for event in rng.choices(self.meanwhile, k=rng.randrange(4)):
                    self.act(event)
                self.clock.advance(hours=1)
            if what == "campus":
                self.act(rng.choice(self.meanwhile))
            elif what in self.acts:
                self.act(what)
            elif what != "an hour":
                out = (self.direction == "out") == what.endswith("the same way")
                self.act("alma_to_sis" if out else "sis_to_alma")
        finally:
            self.depth -= 1
            self.rng = before

    #: Kinds of events that a campus has at any moment; filled by ``tests.simulation.life``.
    meanwhile: ClassVar[tuple[str, ...]] = ()
    direction = ""

    # -- what happens ----------------------------------------------------------------------------------------

    def happen(self, event: Event) -> None:
        """Let one event of the life happen, at its time or when what went before is over."""
        if self.only.events is not None and event.number not in self.only.events:
            return
        self.event = event
        self.rng = random.Random(f"{self.seed} {event.number}")
        self._luck = random.Random(f"{self.seed} {event.number} luck")
        self._boundaries = 0
        due = self.begin + timedelta(seconds=event.at)
        if due > self.clock.now():
            self.clock.set(due)
        self.act(event.kind)

    def act(self, kind: str) -> None:
        """Do what a kind of event does."""
        place = len(self.trace)
        text = self.acts[kind](self)
        if text is None:
            return
        self.tally.operations[kind] += 1
        if text:
            self.say(text)
            # What was done stands before what it led to.
            self.trace.insert(place, self.trace.pop())

    # -- Alma ------------------------------------------------------------------------------------------------

    def sent(self, request: Request) -> Reply:
        """Carry a call to Alma, over a line that may fail."""
        kind = "reading" if request.method == "GET" else "changing"
        kinds = accidents.LISTING if request.path.endswith("/fees") else accidents.READING
        if kind == "changing":
            kinds = accidents.CHANGING
        fault = self.boundary(f"before a {request.method}", kind, kinds)
        if request.send_before is not None and self.seconds() > request.send_before:
            raise Retriable("The call waited too long for its turn and was not sent.")
        if fault == "unreachable":
            raise Retriable("Alma can't be reached (no connection); nothing was sent.")
        if fault is not None:
            self._break(fault, request)
        self.tally.operations[f"call {request.method}"] += 1
        self.wait(0.1)
        try:
            reply = self.bridge.send(request)
        except OutcomeUnknown:
            self.boundary(f"after a {request.method} without an answer", kind)
            raise
        finally:
            self.far.faults.http.clear()
        self.boundary(f"after a {request.method}", kind)
        return reply

    def _break(self, fault: str, request: Request) -> None:
        about = accidents.alma_fault(fault, random.Random(f"{self.seed} {self.fired[-1]} about"))
        self.far.faults.add_http(fault, **about)  # type: ignore[arg-type]
        if fault == "apply_late" and about["seconds"] in accidents.TOO_LATE:
            # Of a waiver our key stands in the comment.
            said = request.query.get("comment", "").partition(" ")[0]
            self.applied_too_late.add(request.query.get("external_transaction_id", said))

    # -- PeopleSoft --------------------------------------------------------------------------------------------

    def arrived(self, path: str) -> None:
        """A file stands in a folder: some far sides take it at once."""
        folder, _, name = path.rpartition("/")
        inbound = folder == self.far.folders.inbound and name.endswith(".dat")
        if inbound and ("file", name, 0) not in self.steps:
            self.steps.append(("file", name, 0))
        if inbound and self.nature.takes_at_once and self.open:
            self.far.load_inbound()

    def leave(self, name: str, content: bytes, at: float | None = None) -> None:
        """Let a file lie in PeopleSoft's output folder. ``at``: the time it bears, if that is not now."""
        path = f"{self.far.folders.outbound}/{name}"
        self.bridge.folder.put(path, content)
        if at is not None:
            os.utime(self.far.path(path), (at, at))
        if self.nature.tells_of_payments(name):
            self.left.append((int(self.seconds() if at is None else at), name, content))

    def lines_of(self, name: str) -> tuple[Detail, ...]:
        """The lines of a file that PeopleSoft had whole, loaded or lost."""
        content = self.lost_files.get(name)
        if content is None:
            content = (self.far.path(self.far.folders.loaded) / name).read_bytes()
        return parse(self.far.peoplesoft.layout, content).details

    def line_of(self, name: str, number: int) -> Detail:
        """One of them; they count from 1."""
        return self.lines_of(name)[number - 1]

    def part(self, whole: int) -> int:
        """All of it, or a part."""
        return whole if whole == 1 or self.rng.random() < 0.5 else self.rng.randrange(1, whole)

    # -- runs ------------------------------------------------------------------------------------------------

    def new_run(self, direction: str, **about: Any) -> Run:
        """A run that begins now."""
        self._runs += 1
        run = Run(direction, f"{direction} {self._runs}", **about)
        self.runs[direction].append(run)
        return run

    def run(self, run: Run, first: int = 0) -> str:
        """Run a DAG's tasks from ``first`` on, as Airflow does: a task that fails is tried again, or not.

        Returns what came of it.
        """
        bridge = self.bridge
        if run.direction == "out":
            tasks = bridge.tasks_out(run.method, live=run.live, until=run.until)
        else:
            tasks = bridge.tasks_back(monotonic=self.seconds)
        before, self.direction = self.direction, run.direction
        said = ""
        try:
            for name, work in tasks[first:]:
                attempts = self.rng.choice([1, 2, 3])
                done, error = self._attempt(run, name, work)
                while error is not None and attempts > 1:
                    attempts -= 1
                    self.clock.advance(minutes_5)
                    done, error = self._attempt(run, name, work)
                if error is not None:
                    return f"{said}; {name} fails: {error}"
                said += summary(name, done)
                self.boundary("between two tasks")
        except Death:
            # Between tasks it is the scheduler that dies, which is nothing to the ledger.
            self.dead = False
        finally:
            self.direction = before
        return said

    def _attempt(self, run: Run, name: str, work: Callable[[Ledger, Lease], Any]) -> tuple[Any, str | None]:
        self.tally.operations[f"task {name}"] += 1
        ledger = self.bridge.ledger(run.run_id)
        try:
            with ledger.lease(run.direction, f"{run.run_id}/{name}") as lease:
                return work(ledger, lease), None
        except Death:
            self.dead = False
            return None, "the worker died"
        except AlmaHookError as error:
            return None, f"{type(error).__name__}, {str(error)[:60]}"

    # -- the end of a life -------------------------------------------------------------------------------------

    def calm_down(self) -> None:
        """No more faults; people do what is theirs to do; then both DAGs run until nothing changes."""
        self.event = None
        self.far.faults.clear()
        self.open = True
        self._mend()
        before: object = None
        for number in range(1, ROUNDS + 1):
            self.rng = random.Random(f"{self.seed} calm {number}")
            # Where a list of items tells, a line has to be a day old to be missed.
            self.clock.advance(hours=30 if self.nature.items else 5)
            self.far.api.apply_due()
            self.far.load_inbound()
            said = f"{self.people.put_right() or ''}"
            self.people.decide()
            self.people.look_after_lines()
            said += f"{self.people.answer() or ''}"
            if 2 <= number <= 5 and self.rng.random() < 0.5:
                said += f"{self.people.settle() or ''}"
            if number == 2 and self.held_before:
                said += self.people.release()
            self.far.refresh_analytics()
            out = self.run(self.new_run("out", method="all_users"))
            said += f"{self.people.repair_again(out) or ''}"
            self.far.load_inbound()
            self._last_outputs()
            said += out + self.run(self.new_run("back"))
            self.say(f"calm {number}: {said}")
            after = self.state()
            if after == before:
                self.quiet_after = number
                return
            before = after

    def _mend(self) -> None:
        """PeopleSoft knows its students again, and what it truly took back is not too much for a file."""
        assert self.far.peoplesoft.emplids is not None
        self.far.peoplesoft.emplids |= self.refused_emplids
        campus = self.bridge.campus
        back = campus.sis_to_alma.model_copy(update={"reversal_limit": 1000})
        self.bridge.campus = campus.model_copy(update={"sis_to_alma": back})

    def _last_outputs(self) -> None:
        for name, content, at in self.drawer:
            self.leave(name, content, at)
        self.drawer = []
        if self.nature.lists:
            self._was_left(self.far.write_query_output(kind="applied"))
        if not self.nature.applied:
            cumulative = self.nature.output != "new only"
            self._was_left(
                self.far.write_query_output(cumulative=cumulative, bounced=self.nature.taken_back_as)
            )

    def _was_left(self, path: str) -> None:
        """Note a file that PeopleSoft left just now, if it tells of payments."""
        name = path.rpartition("/")[2]
        if self.nature.tells_of_payments(name):
            self.left.append((int(self.seconds()), name, self.far.path(path).read_bytes()))

    def state(self) -> object:
        """All that a run may change, but for times."""
        ledger = self.bridge.ledger("look")
        with ledger.read() as tx:
            rows = [
                tx.rows(f"SELECT {columns} FROM {table} WHERE institution = :i ORDER BY 1, 2, 3")
                for table, columns in (
                    ("line", "batch_id, line_no, state"),
                    ("batch", "batch_id, state, changed_at"),
                    ("payment", "payment_no, state, posted, attempts"),
                    ("exception_item", "subject, kind, amount, closed_at"),
                    ("reversal", "reversal_id, state, amount, covered, settled"),
                )
            ]
        paid = [len(fee.transactions) for fee in self.far.alma.fees.values()]
        folders = (self.far.folders.inbound, self.far.folders.archive, self.far.folders.loaded)
        files = [sorted(file.name for file in self.far.path(folder).iterdir()) for folder in folders]
        return rows, paid, files, len(self.far.peoplesoft.loads)


minutes_5 = timedelta(minutes=5)


def place(path: str) -> str:
    """Where a file lies, without its name; what it is by its end."""
    folder, _, name = path.rpartition("/")
    return f"/{folder.strip('/')}/*{Path(name).suffix}"


def summary(task: str, done: Any) -> str:
    """What a task came to, in a few words; empty for nothing."""
    if task == "plan":
        lines = [f"{done.charges} charges"] * bool(done.charges) + [f"{done.credits} credits"] * bool(
            done.credits
        )
        return f", {' and '.join(lines)} planned" if lines else ""
    if task == "upload":
        return "".join(f", {outcome.file_name} {outcome.state}" for outcome in done)
    if task == "take in" and done.new:
        return f", {done.new} payments taken in"
    if task == "post" and done.posted:
        return f", {done.posted} posted"
    return ""


def own_payments(fee: Fee) -> list[tuple[str, int]]:
    """The payments on a fee with a whole key of ours, and the waivers; told by their look, not by the package."""
    marks = [
        (
            (t.comment or "").partition(" ")[0] if t.kind == "WAIVE" else t.external_transaction_id or "",
            t.amount_cents,
        )
        for t in fee.transactions
    ]
    return [(key, cents) for key, cents in marks if len(key) == 16 and key.startswith("SFS")]


def own_paid(fee: Fee) -> int:
    """Pa, by Alma's own books, in cents."""
    return sum(cents for _, cents in own_payments(fee))


def by_api(fee: Fee) -> int:
    """How many payments came in by the API, whatever their key looks like."""
    return sum(t.received_by == NOT_AT_DESK for t in fee.transactions)
