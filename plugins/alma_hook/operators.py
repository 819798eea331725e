"""The tasks of the two DAGs: each fetches what it needs, calls one function, and says what came of it.

XCom carries ids and counts, never rows, names or amounts of a person. What the next task needs lies
in the ledger. Heavy modules are imported when a task runs, never when a DAG file is parsed.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from alma_hook import campus as settings
from alma_hook.errors import BadFile, Fatal, Fault, SendingStopped

try:
    from airflow.sdk import BaseBranchOperator
except ImportError:  # Airflow 3.1 and 3.2
    from airflow.providers.standard.operators.branch import BaseBranchOperator  # type: ignore[assignment]

if TYPE_CHECKING:
    from airflow.sdk import Context

    from alma_hook.alma import AlmaApi, Fee
    from alma_hook.hook import AlmaHook
    from alma_hook.layouts import Layout
    from alma_hook.ledger import Ledger

AS_IN_SETTINGS = "as in the settings"
#: The two ways may run at once, so each has a fixed share of the connection's rate.
OUT_SHARE, BACK_SHARE = 0.7, 0.3
_PROGRESS_SECONDS = 10.0
_SHOWN = 100


@dataclass
class Run:
    """What a task works with: the settings, the ledger, and whether anything may leave."""

    campus: settings.Campus
    ledger: Ledger
    live: bool
    context: Context
    closing: ExitStack

    @property
    def owner(self) -> str:
        """Who holds a lease: this task of this run, so that its own retry may take it again."""
        ti = self.context["ti"]
        return f"{ti.dag_id}/{ti.run_id}/{ti.task_id}"

    def lease(self, direction: str) -> Any:
        """Hold the right to act in a direction while the task works."""
        return self.ledger.lease(direction, self.owner)

    def interval_end(self) -> datetime:
        """The end of the run's interval; now, for a run started by hand, whose interval is a past one."""
        end = self.context.get("data_interval_end")
        by_hand = str(getattr(self.context["dag_run"], "run_type", "")).endswith("manual")
        return datetime.now(UTC) if end is None or by_hand else end

    @property
    def layout(self) -> Layout:
        """The campus's layout."""
        from alma_hook import layouts

        return layouts.load(self.campus.sfs.layout, self.campus.folder)


class CampusOperator(BaseOperator):
    """A task of one campus. ``settings_file`` is its TOML file.

    A ``Fatal`` error fails the task at once, since trying again can't help; a ``Retriable`` one lets
    Airflow try again.
    """

    def __init__(self, *, settings_file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings_file = settings_file

    def execute(self, context: Context) -> Any:
        """Run the task's work with its campus and ledger."""
        with _failing_for_good(), opened(self.settings_file, context) as run:
            return self.work(run)

    @abstractmethod
    def work(self, run: Run) -> Any:
        """Do the task; return ids and counts."""

    def say(self, text: str, *values: Any) -> None:
        """Log a line for the operator."""
        self.log.info(text, *values)

    def progress(self) -> Callable[[int, int], None]:
        """Return a function that logs how far a long task has come, every few seconds at most."""
        started = last = time.monotonic()

        def tell(done: int, of: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _PROGRESS_SECONDS and done:
                last = now
                rate = done / (now - started)
                self.say("%d of %d, %.1f a second, %.0f s to go", done, of, rate, (of - done) / rate)

        return tell


@contextmanager
def _failing_for_good() -> Iterator[None]:
    from airflow.sdk.exceptions import AirflowFailException

    try:
        yield
    except Fatal as error:
        raise AirflowFailException(f"{type(error).__name__}: {error}") from None


@contextmanager
def opened(settings_file: str, context: Context) -> Iterator[Run]:
    """Open a campus's ledger for one task."""
    from alma_hook.connections import open_ledger

    campus = settings.load(Path(settings_file))
    ti = context["ti"]
    ledger = open_ledger(campus, run_id=str(ti.run_id), actor=f"{ti.dag_id}.{ti.task_id}")
    with ExitStack() as closing:
        closing.callback(ledger.close)
        ledger.check()
        dry_run = bool((context.get("params") or {}).get("dry_run", False))
        yield Run(campus, ledger, campus.live and not dry_run, context, closing)


def alma_of(run: Run, share: float = OUT_SHARE) -> tuple[AlmaHook, AlmaApi]:
    """Return the hook and API of a campus, once it is sure that the key is this institution's."""
    from alma_hook.hook import AlmaHook

    hook = AlmaHook(
        run.campus.connections.alma,
        share=share,
        reserve=run.campus.alma_to_sis.reserve_calls,
        workers=run.campus.alma_to_sis.workers,
    )
    run.closing.callback(hook.close)
    api = hook.get_conn()
    answers = api.institution()
    if answers != run.campus.institution:
        raise SendingStopped(
            f"The API key belongs to {answers}, the settings are {run.campus.institution}'s. Nothing was read or "
            f"changed: correct connection {run.campus.connections.alma} or the settings."
        )
    return hook, api


# -- Alma to PeopleSoft -------------------------------------------------------------------------------


class ChooseRetrieval(BaseBranchOperator):
    """Choose how fees are found: what the trigger form says, else what the settings say."""

    def __init__(self, *, default: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.default = default

    def choose_branch(self, context: Context) -> str:
        """Return the task id of the method."""
        chosen = (context.get("params") or {}).get("method", AS_IN_SETTINGS)
        return self.default if chosen == AS_IN_SETTINGS else str(chosen)


class AnalyticsReport(CampusOperator):
    """Take the report in and list the accounts of fees that differ from the ledger."""

    def work(self, run: Run) -> dict[str, int]:
        """Stage page by page, then nominate in one statement."""
        from alma_hook import analytics

        _, api = alma_of(run)
        with run.lease("out") as lease:
            counts = analytics.take_in(api, run.ledger, lease, run.campus, run.live, time.sleep)
        self.say(
            "Report: %d rows, %d fees, data of %s; %d accounts to read",
            counts.rows, counts.fees, counts.updated or "unknown time", counts.accounts,
        )  # fmt: skip
        return asdict(counts)


class SisProfile(CampusOperator):
    """List the accounts that Alma's SIS profile exported as modified, and those open in the ledger."""

    def work(self, run: Run) -> dict[str, Any]:
        """Take every export not taken yet, up to the interval's end; or ask the API where no folder is set."""
        from alma_hook import sftp, sis_profile

        until = run.interval_end()
        if run.campus.alma_to_sis.export_directory is None:
            return self._ask(run, until)
        with run.lease("out") as lease, sftp.connect(run.campus.connections.alma_export) as folder:
            counts = sis_profile.take_in(folder, run.ledger, lease, run.campus, run.live, until)
        self.say(
            "%d exports up to %s with %d accounts; %d accounts with open fees",
            counts.files, until.isoformat(), counts.modified, counts.open,
        )  # fmt: skip
        return asdict(counts)

    def _ask(self, run: Run, until: datetime) -> dict[str, Any]:
        from alma_hook.fees import gather_open_accounts
        from alma_hook.ledger import fees

        _, api = alma_of(run)
        since = until - timedelta(hours=run.campus.alma_to_sis.look_back_hours)
        modified = list(api.user_ids(since.astimezone(UTC).date()))
        with run.lease("out") as lease:
            with run.ledger.write(lease) as tx:
                fees.add_accounts(tx, run.live, modified, "modified")
            open_accounts = gather_open_accounts(run.ledger, lease, run.live, None)
        self.say(
            "%d accounts modified since %s; %d with open fees",
            len(modified),
            since.isoformat(),
            open_accounts,
        )
        return {"files": 0, "modified": len(modified), "open": open_accounts}


class OpenFees(CampusOperator):
    """List the accounts with open fees, to find what was paid or waived in Alma since."""

    def work(self, run: Run) -> dict[str, int]:
        """All of them, or only those that Alma names as changed where the key may ask for that."""
        from alma_hook.fees import gather_open_accounts

        changed: Iterator[Fee] | None = None
        if run.campus.alma_to_sis.fee_transactions:
            _, api = alma_of(run)
            last = run.interval_end().astimezone(UTC).date()
            # A window may be seven days long. Alma's days are of an unstated zone, hence the day ahead.
            changed = api.fee_transactions(last - timedelta(days=5), last + timedelta(days=1))
        with run.lease("out") as lease:
            accounts = gather_open_accounts(run.ledger, lease, run.live, changed)
        self.say("%d accounts with open fees", accounts)
        return {"accounts": accounts}


class AllUsers(CampusOperator):
    """List every user of the institution: one call a user afterwards, within the daily allowance."""

    def work(self, run: Run) -> dict[str, int]:
        """List them a page at a time."""
        from alma_hook.fees import gather_open_accounts
        from alma_hook.ledger import fees

        _, api = alma_of(run)
        accounts = 0
        page: list[str] = []
        with run.lease("out") as lease:
            for user_id in api.user_ids():
                page.append(user_id)
                if len(page) == 1000:
                    with run.ledger.write(lease) as tx:
                        accounts += fees.add_accounts(tx, run.live, page, "all users")
                    page = []
            with run.ledger.write(lease) as tx:
                accounts += fees.add_accounts(tx, run.live, page, "all users")
            gather_open_accounts(run.ledger, lease, run.live, None)
        self.say("%d users", accounts)
        return {"accounts": accounts}


class ReadFees(CampusOperator):
    """Read the fees of every listed account live from Alma, storing as it goes."""

    def work(self, run: Run) -> dict[str, Any]:
        """Read what is left to read; a retry goes on where the last attempt stopped."""
        from alma_hook.fees import read_accounts

        hook, api = alma_of(run)
        with run.lease("out") as lease:
            counts = read_accounts(
                api,
                run.ledger,
                lease,
                live=run.live,
                emplid_source=run.campus.emplid.source,
                workers=run.campus.alma_to_sis.workers,
                progress=self.progress(),
            )
        self.say(
            "%d accounts read, %d fees, %d accounts with a problem, %d left to the next run; %s calls left today",
            counts.accounts, counts.fees, counts.problems, counts.unread, hook.remaining,
        )  # fmt: skip
        return asdict(counts)


class PlanBatches(CampusOperator):
    """Work out by the formula what PeopleSoft must be told, and fix it as batches."""

    def work(self, run: Run) -> dict[str, Any]:
        """Plan from this run's readings only."""
        from alma_hook import charges, sftp
        from alma_hook.ledger import institutions

        if run.live:
            with run.ledger.read() as tx:
                institutions.require_opened(tx)
        target = "rehearsal"
        if run.live:
            with sftp.connect(run.campus.connections.sfs) as folder:
                target = folder.target
        with run.lease("out") as lease:
            counts = charges.plan(run.ledger, lease, run.campus, run.layout, target, run.live)
        self.say(
            "%d fees considered: %d charges (%d cents), %d credits (%d cents), %d listed, %d left to the next run",
            counts.read, counts.charges, counts.charged, counts.credits, counts.credited, counts.listed,
            counts.stale + counts.busy,
        )  # fmt: skip
        return asdict(counts)


class WriteSfsFiles(CampusOperator):
    """Write the file of every planned batch; its bytes are kept in the ledger until they are sent."""

    def work(self, run: Run) -> list[str]:
        """Write what is planned, this run's or an earlier one's that stopped here."""
        from alma_hook import charges, delivery
        from alma_hook.ledger import batches

        with run.ledger.read() as tx:
            rows = batches.in_states(tx, "planned") if run.live else batches.previews_of_run(tx)
        with run.lease("out") as lease:
            for row in rows:
                content = charges.write_file(run.ledger, lease, run.campus, run.layout, row)
                self.say("%s, %d bytes", delivery.describe(row), len(content))
        return [str(row["batch_id"]) for row in rows]


class UploadSfsFiles(CampusOperator):
    """Deliver every written file to PeopleSoft, each exactly once."""

    def work(self, run: Run) -> dict[str, str]:
        """Deliver charges before credits; a rehearsal uploads nothing."""
        from alma_hook import delivery, payments, sftp
        from alma_hook.ledger import batches

        if not run.live:
            self.say("Rehearsal: nothing is uploaded. The files stand in the ledger, table batch_file.")
            return {}
        with run.ledger.read() as tx:
            if not batches.in_states(tx, *batches.UNFINISHED[1:]):
                self.say("Nothing to upload.")
                return {}
        connections = run.campus.connections
        with ExitStack() as stack:
            lease = stack.enter_context(run.lease("out"))
            folder = archive = stack.enter_context(sftp.connect(connections.sfs))
            if connections.archive is not None:
                archive = stack.enter_context(sftp.connect(connections.archive))
            outcomes = delivery.deliver_all(run.ledger, lease, run.campus.sfs, folder, archive)
            payments.settle_by_credits(run.ledger, lease)
        for outcome in outcomes:
            self.say("%s is %s", outcome.file_name, outcome.state)
        unsure = [outcome.batch_id for outcome in outcomes if outcome.state == "unconfirmed"]
        if unsure:
            raise SendingStopped(
                f"Whether PeopleSoft has {', '.join(unsure)} can't be told from here. Ask whether the file was loaded, "
                "then run `python -m alma_hook mark-delivered` or `mark-not-delivered` with the batch. It is not sent "
                "again by itself, and its fees wait until then."
            )
        return {outcome.batch_id: outcome.state for outcome in outcomes}


class Report(CampusOperator):
    """Say how the books stand: what is open on both sides, what explains the difference, what does not."""

    def work(self, run: Run) -> dict[str, Any]:
        """Log the balances line and the exceptions by kind."""
        from alma_hook.ledger import exceptions, fees
        from alma_hook.money import amount

        with run.ledger.read() as tx:
            line, listed, items = fees.balances(tx), exceptions.counts(tx), exceptions.open_items(tx)
        self.say(
            "Balances: Alma %s, PeopleSoft %s, explained %s, on its way %s, UNEXPLAINED %s (%d fees)",
            *(
                amount(int(line[name]))
                for name in ("alma", "peoplesoft", "explained", "on_its_way", "unexplained")
            ),
            line["fees"],
        )
        for item in items[:_SHOWN]:
            self.say("Listed: %s", exceptions.describe(item))
        if len(items) > _SHOWN:
            self.say("and %d more: `python -m alma_hook exceptions` shows them all", len(items) - _SHOWN)
        return {
            **{name: int(value) for name, value in line.items() if name != "institution"},
            "exceptions": listed,
        }


# -- PeopleSoft to Alma -------------------------------------------------------------------------------


class FindPaymentFiles(CampusOperator):
    """Fetch PeopleSoft's query output; a file's bytes are kept in the ledger until it is archived."""

    def work(self, run: Run) -> dict[str, int]:
        """Fetch every file of the pattern; the same file twice is one."""
        from alma_hook import payments, sftp

        with run.lease("back") as lease, sftp.connect(run.campus.connections.sfs) as folder:
            found, new = payments.find_files(folder, run.ledger, lease, run.campus)
        self.say("%d payment files in %s, %d new", found, run.campus.sis_to_alma.directory, new)
        return {"found": found, "new": new}


class TakeInPayments(CampusOperator):
    """Take each payment line into the ledger once."""

    def work(self, run: Run) -> dict[str, Any]:
        """Take every file that can be taken; say all faults of the others, and fail for them at the end."""
        from alma_hook.payments import take_in

        with run.lease("back") as lease:
            counts = take_in(run.ledger, lease, run.campus)
        self.say(
            "%d files, %d lines: %d new, %d known, %d refused and listed",
            counts.files, counts.lines, counts.new, counts.known, counts.refused,
        )  # fmt: skip
        for fault in counts.faults:
            self.log.error("%s", fault)
        return {name: value for name, value in asdict(counts).items() if name != "faults"}


class PostPayments(CampusOperator):
    """Post every waiting payment to Alma, each exactly once."""

    def work(self, run: Run) -> dict[str, Any]:
        """Post account by account; a campus that is not live posts nothing."""
        from alma_hook import payments
        from alma_hook.ledger import institutions
        from alma_hook.money import amount

        if not run.live:
            self.say("Rehearsal: nothing is posted to Alma.")
            return {}
        with run.ledger.read() as tx:
            institutions.require_opened(tx)
        hook, api = alma_of(run, BACK_SHARE)
        with run.lease("back") as lease:
            counts = payments.post(run.ledger, lease, run.campus, api, progress=self.progress())
        self.say(
            "%d payments posted (%s; %d found posted), %d listed, %d waiting; %s calls left today",
            counts.posted, amount(counts.cents), counts.found_posted, counts.listed, counts.waiting, hook.remaining,
        )  # fmt: skip
        return asdict(counts)


class ArchiveFiles(CampusOperator):
    """Move files that are taken in out of PeopleSoft's output folder."""

    def work(self, run: Run) -> dict[str, int]:
        """Move each file whose bytes are those taken in; a file that changed meanwhile stays."""
        from alma_hook import payments, sftp
        from alma_hook.ledger import payments as entries

        if not run.live:
            self.say("Rehearsal: files stay where they are.")
            return {}
        with run.lease("back") as lease, sftp.connect(run.campus.connections.sfs) as folder:
            moved = payments.archive_files(folder, run.ledger, lease, run.campus)
        self.say("%d files archived", moved)
        with run.ledger.read() as tx:
            refused = entries.files(tx, "refused")
        if refused:
            raise BadFile(
                "Payment files were refused; they stay where they lie, the others are done.",
                [
                    Fault(str(row["name"]), "see the log of take_in_payments; remove it or send it again")
                    for row in refused
                ],
            )
        return {"archived": moved}


__all__ = [
    "AS_IN_SETTINGS", "AllUsers", "AnalyticsReport", "ArchiveFiles", "CampusOperator",
    "ChooseRetrieval", "FindPaymentFiles", "OpenFees", "PlanBatches", "PostPayments", "ReadFees", "Report",
    "SisProfile", "TakeInPayments", "UploadSfsFiles", "WriteSfsFiles",
]  # fmt: skip
