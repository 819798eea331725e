"""The whole bridge in one process: the functions that the tasks call, against the simulated campus.

No Airflow, no sockets: Alma is a function of the request, SFTP a folder. The simulator's books are
the witness.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from alma_hook import (
    analytics,
    campus,
    charges,
    delivery,
    fees,
    guard,
    layouts,
    payment_intake,
    payments,
    sis_profile,
)
from alma_hook.alma import AlmaApi, Request
from alma_hook.alma_answers import Reply
from alma_hook.errors import OutcomeUnknown, Retriable
from alma_hook.ledger import Lease, Ledger, batches, exceptions, institutions
from alma_hook.ledger import fees as fee_entries
from alma_hook.remote import RemoteFile
from simulator import wire
from simulator.alma_api import FULL_KEY
from simulator.campus import Campus as SimulatedCampus
from simulator.campus_records import CampusBooks
from simulator.clock import Clock

SETTINGS = """
institution = "01CAMPUS_INST"
live = true
[alma_to_sis]
report_path = "{report_path}"
export_directory = "/alma/sis_export"
reserve_calls = 0
[sfs]
layout = "{layout}"
origin_id = "LIB01"
account_type = "LIB"
directory = "/sfs/inbound"
[item_types]
OVERDUEFINE = "300000000001"
LOSTITEMREPLACEMENTFEE = "300000000002"
LOSTITEMPROCESSFEE = "300000000003"
[sis_to_alma]
directory = "/sfs/outbound"
[sis_to_alma.columns]
payment_id = "Payment ID"
emplid = "Emplid"
reference = "Reference Number"
amount = "Paid Amount"
paid_on = "Date Paid"
"""


#: The name of one of a DAG's tasks, and its work with a ledger and the lease of its direction.
Task = tuple[str, Callable[[Ledger, Lease], Any]]

_END_OF_TIME = datetime(2100, 1, 1, tzinfo=UTC)


class LocalFolder:
    """The SFTP tree as a folder on disk. ``before`` sees each action first and may raise."""

    target = "sftp.campus.invalid:22"
    host_key = "SHA256:made-up"

    def __init__(
        self,
        root: Path,
        before: Callable[[str, str], None] = lambda _action, _path: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.root = root
        self.before = before
        self.now = now

    def path(self, remote: str) -> Path:
        return self.root / remote.lstrip("/")

    def size(self, path: str) -> int | None:
        self.before("size", path)
        return self.path(path).stat().st_size if self.path(path).is_file() else None

    def read(self, path: str) -> bytes:
        self.before("read", path)
        try:
            return self.path(path).read_bytes()
        except FileNotFoundError:
            raise Retriable(f"{path} is not there any more.") from None

    def write(self, path: str, content: bytes) -> None:
        self.before("write", path)
        self.put(path, content)
        self.before("written", path)

    def create(self, path: str, content: bytes) -> bool:
        self.before("write", path)
        if self.path(path).exists():
            return False
        self.put(path, content)
        self.before("written", path)
        return True

    def put(self, path: str, content: bytes) -> None:
        """Let a file be there, with the far side's time."""
        self.path(path).write_bytes(content)
        os.utime(self.path(path), (self.now(), self.now()))

    def rename(self, before: str, after: str) -> None:
        self.before("rename", before)
        if self.path(after).exists():
            raise Retriable(f"{after} is there already")
        if not self.path(before).exists():
            raise Retriable(f"{before} is not there any more.")
        self.path(before).rename(self.path(after))
        self.before("renamed", after)

    def remove(self, path: str) -> None:
        self.before("remove", path)
        self.path(path).unlink()

    def files(self, directory: str, patterns: str) -> list[RemoteFile]:
        self.before("list", directory)
        found = [
            RemoteFile(file.name, file.stat().st_size, int(file.stat().st_mtime))
            for file in self.path(directory).iterdir()
            if file.is_file() and any(fnmatchcase(file.name, pattern) for pattern in patterns.split(","))
        ]
        return sorted(found, key=lambda file: (file.modified, file.name))


class Variable:
    """An Airflow variable: it lives with Airflow, and outlives the ledger."""

    name = "Airflow's variable"
    text: bytes | None = None

    def read(self) -> bytes | None:
        return self.text

    def write(self, text: bytes) -> None:
        self.text = text


def midday() -> Clock:
    """A running clock that begins on one and the same day, at noon of the campus: else a test passes by the hour it is run."""
    clock = Clock()
    clock.advance(datetime(2026, 12, 1, 20, tzinfo=UTC) - clock.now())
    return clock


class Bridge:
    """A simulated campus and the real bridge between its two sides."""

    def __init__(
        self,
        work: Path,
        *,
        url: str | None = None,
        layout: str = "default",
        settings: Callable[[str], str] = lambda text: text,
        **simulated: object,
    ) -> None:
        self.far = SimulatedCampus(
            work / "far",
            **{
                "clock": midday(),
                "students": 40,
                "fees": 30,
                "layout": layouts.include("layouts") / f"{layout}.toml",
                **simulated,
            },
        )  # type: ignore[arg-type]
        self.far.limits.per_second = 10**9  # the pace is the hook's affair, tested with it
        self.file = work / "campus.toml"
        self.file.write_text(settings(SETTINGS.format(report_path=self.far.analytics.path, layout=layout)))
        self.campus = campus.load(self.file)
        self.layout = layouts.load(layout)
        self.url = url or f"sqlite:///{work / 'ledger.db'}"
        self.folder = LocalFolder(self.far.root, now=self.seconds)
        self.runs = itertools.count(1)
        archive = self.campus.sfs.archive_directory
        self.marks = [Variable(), guard.ArchiveMark(self.folder, archive, self.campus.institution)]
        self.prepare_ledger()
        self.api = AlmaApi(self.send, pause=lambda _: None)

    def prepare_ledger(self) -> None:
        """Make the ledger and open it."""
        ledger = self.ledger("setup")
        ledger.migrate()
        with ledger.write() as tx:
            institutions.open_clean(tx, "the bursar")
        ledger.close()

    def seconds(self) -> float:
        """The campus's time in seconds since 1970."""
        return self.far.clock.now().timestamp()

    def ledger(self, run_id: str | None = None) -> Ledger:
        return Ledger(
            self.url,
            self.campus.institution,
            run_id=run_id or f"run {next(self.runs)}",
            clock=self.far.clock.now,
        )

    def send(self, request: Request) -> Reply:
        headers = {"Accept": request.accept, "Authorization": f"apikey {FULL_KEY.value}"}
        asked = wire.Request(
            request.method, "/almaws/v1" + request.path, request.query, headers, request.body or b""
        )
        try:
            answer = self.far.api.handle(asked)
        except wire.ConnectionDropped:
            raise OutcomeUnknown("The connection broke off.") from None
        return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.body)

    @contextmanager
    def working(self, direction: str) -> Iterator[tuple[Ledger, Lease]]:
        ledger = self.ledger()
        try:
            ledger.check()
            with ledger.lease(direction, ledger.run_id) as lease:
                yield ledger, lease
        finally:
            ledger.close()

    def alma_to_sis(self, method: str = "analytics_report", *, live: bool = True) -> charges.PlanCounts:
        """One run of the DAG; the far side's report is refreshed and its exports written as asked."""
        with self.working("out") as (ledger, lease):
            done = {name: work(ledger, lease) for name, work in self.tasks_out(method, live=live)}
        return done["plan"]

    def tasks_out(self, method: str, *, live: bool = True, until: datetime = _END_OF_TIME) -> list[Task]:
        """The tasks of ``alma_to_sis``; ``until`` is the end of the run's interval."""
        tasks: list[Task] = [
            ("retrieve", lambda ledger, lease: self.retrieve(method, ledger, lease, live, until)),
            ("read", lambda ledger, lease: self.read(ledger, lease, live)),
            ("plan", lambda ledger, lease: self.plan(ledger, lease, live)),
            ("write", lambda ledger, lease: self.write(ledger, lease, live)),
        ]
        return [*tasks, ("upload", self.upload)] if live else tasks

    def retrieve(
        self, method: str, ledger: Ledger, lease: Lease, live: bool, until: datetime = _END_OF_TIME
    ) -> None:
        settings = self.campus.alma_to_sis
        if method == "analytics_report":
            analytics.take_in(self.api, ledger, lease, self.campus, live, lambda _: None)
        elif method == "sis_profile" and settings.export_directory is not None:
            sis_profile.take_in(self.folder, ledger, lease, self.campus, live, until)
        elif method == "sis_profile":
            since = min(until, self.far.clock.now()) - timedelta(hours=settings.look_back_hours)
            modified = list(self.api.user_ids(since.date()))
            with ledger.write(lease) as tx:
                fee_entries.add_accounts(tx, live, modified, "modified")
            fees.gather_open_accounts(ledger, lease, live, None)
        elif method == "all_users":
            with ledger.write(lease) as tx:
                fee_entries.add_accounts(tx, live, list(self.api.user_ids()), "all users")
            fees.gather_open_accounts(ledger, lease, live, None)
        else:
            last = min(until, self.far.clock.now()).date()
            day = timedelta(days=1)
            changed = (
                self.api.fee_transactions(last - 5 * day, last + day) if settings.fee_transactions else None
            )
            fees.gather_open_accounts(ledger, lease, live, changed)

    def read(self, ledger: Ledger, lease: Lease, live: bool = True) -> fees.ReadCounts:
        return fees.read_accounts(
            self.api, ledger, lease, self.marks, live=live, campus=self.campus, workers=1
        )

    def plan(self, ledger: Ledger, lease: Lease, live: bool = True) -> charges.PlanCounts:
        return charges.plan(ledger, lease, self.campus, self.layout, self.folder.target, live, self.marks)

    def write(self, ledger: Ledger, lease: Lease, live: bool = True) -> None:
        with ledger.read() as tx:
            rows = batches.in_states(tx, "planned") if live else batches.previews_of_run(tx)
        for row in rows:
            charges.write_file(ledger, lease, self.campus, self.layout, row)

    def upload(self, ledger: Ledger, lease: Lease) -> list[delivery.Outcome]:
        outcomes = delivery.deliver_all(ledger, lease, self.campus.sfs, self.folder, self.folder, self.marks)
        payments.settle_by_credits(ledger, lease)
        return outcomes

    def sis_to_alma(self) -> tuple[payment_intake.TakeInCounts, payments.PostCounts]:
        """One run of the DAG on whatever lies in PeopleSoft's output folder."""
        with self.working("back") as (ledger, lease):
            done = {name: work(ledger, lease) for name, work in self.tasks_back()}
        return done["take in"], done["post"]

    def tasks_back(self, monotonic: Callable[[], float] = time.monotonic) -> list[Task]:
        """The tasks of ``sis_to_alma``."""
        folder = self.folder
        return [
            ("find", lambda ledger, lease: payment_intake.find_files(folder, ledger, lease, self.campus)),
            ("take in", lambda ledger, lease: payment_intake.take_in(ledger, lease, self.campus, self.marks)),
            (
                "post",
                lambda ledger, lease: payments.post(
                    ledger, lease, self.campus, self.api, folder, self.marks, monotonic=monotonic
                ),
            ),
            (
                "archive",
                lambda ledger, lease: payment_intake.archive_files(
                    folder, ledger, lease, self.campus, self.marks
                ),
            ),
        ]

    # -- what is seen from outside -----------------------------------------------------------------

    def books(self) -> CampusBooks:
        return self.far.books()

    def exceptions(self) -> dict[str, str]:
        """Open exceptions: subject -> kind."""
        ledger = self.ledger("look")
        with ledger.read() as tx:
            found = {row["subject"]: row["kind"] for row in exceptions.open_items(tx)}
        ledger.close()
        return found

    def listed_fees(self) -> set[str]:
        ledger = self.ledger("look")
        with ledger.read() as tx:
            found = {row["fee_id"] for row in exceptions.open_items(tx) if row["fee_id"]}
        ledger.close()
        return found

    def balances(self) -> dict[str, int]:
        ledger = self.ledger("look")
        with ledger.read() as tx:
            found = {name: int(v) for name, v in fee_entries.balances(tx).items() if name != "institution"}
        ledger.close()
        return found

    def unexplained(self) -> dict[str, int]:
        """Differences between the far sides' own books that no open exception names."""
        listed = self.listed_fees()
        return {
            fee_id: book.difference_cents
            for fee_id, book in self.books().fees.items()
            if book.difference_cents and fee_id not in listed
        }
