"""The tasks from Alma to PeopleSoft."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import BaseSensorOperator

from alma_hook import campus as settings
from alma_hook.airflow_names import AirflowSkipException
from alma_hook.errors import SendingStopped
from alma_hook.operators.base import (
    AS_IN_SETTINGS,
    CampusOperator,
    Run,
    alma_of,
    archive_of,
    explained,
    failing_for_good,
    interval_of,
    kind_of,
    marks_now,
)
from alma_hook.operators.links import SummaryOfRun

try:
    from airflow.sdk import BaseBranchOperator
except ImportError:  # Airflow 3.1 and 3.2
    from airflow.providers.standard.operators.branch import BaseBranchOperator  # type: ignore[assignment]

if TYPE_CHECKING:
    from airflow.sdk import Context

    from alma_hook.alma_answers import Fee


WAIT_FOR_EXPORT = "wait_for_export"
#: How far back Alma is asked for fees that were paid or waived.
_WINDOW_DAYS = 5


class ChooseRetrieval(BaseBranchOperator):
    """Choose how fees are found: what the trigger form says, else what the settings say.

    Of a past interval only the SIS profile's exports tell; a backfill by another method is skipped.
    """

    def __init__(self, *, default: str, timezone: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.default = default
        self.timezone = timezone
        explained(self)

    def choose_branch(self, context: Context) -> str:
        """Return the task id of the method, and log what time the run is for."""
        chosen = (context.get("params") or {}).get("method", AS_IN_SETTINGS)
        method = self.default if chosen == AS_IN_SETTINGS else str(chosen)
        interval = interval_of(context)
        if interval is None:
            self.log.info("Started by hand: by %s, with what there is up to now", method)
        else:
            start, end = interval
            zone = ZoneInfo(self.timezone)
            first, last = (f"{at.astimezone(zone):%Y-%m-%d %H:%M %Z}" for at in (start, end))
            self.log.info("For the interval from %s to %s: by %s", first, last, method)
            past = end + (end - start) < datetime.now(UTC)
            if method != "sis_profile" and kind_of(context) == "backfill" and past:
                raise AirflowSkipException(
                    f"Skipped: {method} shows how things are now, which the next run does as well, and nothing is lost. "
                    "What Alma exported in a past interval is taken by a backfill with the method sis_profile."
                )
        return WAIT_FOR_EXPORT if method == "sis_profile" else method


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


class WaitForExport(BaseSensorOperator):
    """Wait for the export that Alma's SIS profile should have left since the last run; what comes late is awaited.

    Between two looks it takes no worker. A run started by hand or for a past interval waits for nothing, and
    neither does a campus that has set no ``export_wait_minutes``. A run that began in time and sees none until then
    is red; cleared after that, it takes whatever has come.
    """

    def __init__(self, *, settings_file: str, minutes: int | None, **kwargs: Any) -> None:
        timeout = timedelta(minutes=minutes or 5)
        super().__init__(mode="reschedule", poke_interval=60, timeout=timeout, **kwargs)
        self.settings_file = settings_file
        self.minutes = minutes
        explained(self)

    def poke(self, context: Context) -> bool:
        """Look whether a complete export of this interval, or a later one, is there."""
        from alma_hook import sftp, sis_profile

        with failing_for_good(self):
            campus = settings.load(Path(self.settings_file))
        start, end = context.get("data_interval_start"), context.get("data_interval_end")
        scheduled = kind_of(context) == "scheduled"
        if (
            self.minutes is None
            or campus.alma_to_sis.export_directory is None
            or not scheduled
            or start is None
        ):
            self.log.info("Nothing is waited for.")
            return True
        # By the run's begin, not by now: then the wait would end well just before Airflow ends it as too long.
        began = getattr(context.get("dag_run"), "start_date", None) or datetime.now(UTC)
        if end is not None and began > end + timedelta(minutes=self.minutes):
            self.log.info("The interval is long past: whatever has come is taken.")
            return True
        with failing_for_good(self), sftp.connect(campus.connections.alma_export) as folder:
            come = sis_profile.has_come(folder, campus, start, datetime.now(UTC))
        self.log.info(
            "An export written since %s is %s", start.isoformat(), "there" if come else "not there yet"
        )
        return come


class SisProfile(CampusOperator):
    """List the accounts that Alma's SIS profile exported as modified, and those open in the ledger."""

    def work(self, run: Run) -> dict[str, Any]:
        """Take every export not taken yet; or ask the API where no folder is set.

        A backfill leaves what came after its interval to the runs of later ones. A scheduled run may have waited
        for an export that came after its interval's end, so it takes all that there is.
        """
        from alma_hook import sftp, sis_profile

        if run.campus.alma_to_sis.export_directory is None:
            return self._ask(run, run.interval_end())
        until = run.interval_end() if run.kind == "backfill" else datetime.now(UTC)
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
        """All of them, or only those that Alma names as changed where the key may ask for that.

        Alma names those of a few days only: when no run has ended for longer, each account is read.
        """
        from alma_hook.fees import gather_open_accounts

        changed: Iterator[Fee] | None = None
        if run.campus.alma_to_sis.fee_transactions and not self._after_an_outage(run):
            _, api = alma_of(run)
            last = run.interval_end().astimezone(UTC).date()
            # A window may be seven days long. Alma's days are of an unstated zone, hence the day ahead.
            first = last - timedelta(days=_WINDOW_DAYS)
            changed = api.fee_transactions(first, last + timedelta(days=1))
        with run.lease("out") as lease:
            accounts = gather_open_accounts(run.ledger, lease, run.live, changed)
        self.say("%d accounts with open fees as of now, whatever the run's interval", accounts)
        return {"accounts": accounts}

    def _after_an_outage(self, run: Run) -> bool:
        from alma_hook.ledger import alerts, moment

        with run.ledger.read() as tx:
            ended = [alerts.last_finished(tx, dag_id) for dag_id in ("alma_to_sis", "alma_to_sis_intraday")]
        last = max(filter(None, ended), default=None)
        return run.live and (
            last is None or moment(last) < datetime.now(UTC) - timedelta(days=_WINDOW_DAYS - 1)
        )


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
        from alma_hook.fees import ReadCounts, nothing_to_read, read_accounts

        if nothing_to_read(run.ledger, run.campus, run.live):
            # Nobody has to be asked, neither Alma nor the archive.
            self.say("Nothing to read: no account differs from the ledger.")
            return asdict(ReadCounts())
        hook, api = alma_of(run)
        with ExitStack() as stack:
            marks = marks_now(run, stack)
            lease = stack.enter_context(run.lease("out"))
            counts = read_accounts(
                api,
                run.ledger,
                lease,
                marks,
                live=run.live,
                campus=run.campus,
                workers=hook.workers,
                progress=self.progress(hook),
            )
        self.say(
            "%d accounts read, %d fees, %d accounts with a problem, %d left to the next run; %s calls left today",
            counts.accounts, counts.fees, counts.problems, counts.unread, hook.remaining,
        )  # fmt: skip
        return asdict(counts)


class PlanBatches(CampusOperator):
    """Work out by the formula what PeopleSoft must be told, and fix it as batches."""

    operator_extra_links = (SummaryOfRun(),)

    def work(self, run: Run) -> dict[str, Any]:
        """Plan from this run's readings only; without any there is nothing to look for at PeopleSoft's either."""
        from alma_hook.ledger import fees, institutions

        with run.ledger.read() as tx:
            if run.live:
                institutions.require_opened(tx)
            idle = not fees.any_read(tx) and run.campus.sfs.nothing_to_send != "empty_file"
        if not idle:
            return self._plan(run)
        self.say("Nothing was read, so nothing is planned.")
        if not run.campus.live:
            self._say_what_would_have_left(run)
        return {"read": 0, "batches": [], "held": []}

    def _plan(self, run: Run) -> dict[str, Any]:
        from alma_hook import charges, guard, sftp
        from alma_hook.ledger import holds

        with ExitStack() as stack:
            target, marks = "rehearsal", []
            if run.live:
                folder = stack.enter_context(sftp.connect(run.campus.connections.sfs))
                target, marks = folder.target, run.marks(archive_of(run, folder, stack))
                guard.bind_server(run.ledger, folder)
            lease = stack.enter_context(run.lease("out"))
            counts = charges.plan(run.ledger, lease, run.campus, run.layout, target, run.live, marks)
        self.say(
            "%d fees considered: %d charges (%d cents), %d credits (%d cents), %d listed, %d left to the next run",
            counts.read, counts.charges, counts.charged, counts.credits, counts.credited, counts.listed,
            counts.stale + counts.busy,
        )  # fmt: skip
        with run.ledger.read() as tx:
            held = holds.holds(tx, counts.held)
        for row in held:
            verb = "is set aside" if run.live else "would be set aside"
            self.log.warning("Beyond the brake's limits, %s: %s", verb, holds.describe(row))
        if not run.campus.live:
            self._say_what_would_have_left(run)
        return asdict(counts)

    def _say_what_would_have_left(self, run: Run) -> None:
        from alma_hook import shadow, shadow_report
        from alma_hook.ledger import shadow as seen

        with run.ledger.read() as tx:
            history = seen.history(tx)
        self.say("%s", shadow_report.in_one_line(shadow.replay(history, run.campus, run.layout), run.campus))


class WriteSfsFiles(CampusOperator):
    """Write the file of every planned batch; its bytes are kept in the ledger until they are sent."""

    def work(self, run: Run) -> list[str]:
        """Write what is planned, this run's or an earlier one's that stopped here."""
        from alma_hook.ledger import batches

        with run.ledger.read() as tx:
            rows = batches.in_states(tx, "planned") if run.live else batches.previews_of_run(tx)
        if not rows:
            self.say("Nothing to write.")
            return []
        from alma_hook import charges, delivery

        with run.lease("out") as lease:
            for row in rows:
                content = charges.write_file(run.ledger, lease, run.campus, run.layout, row)
                self.say("%s, %d bytes", delivery.describe(row), len(content))
        return [str(row["batch_id"]) for row in rows]


class UploadSfsFiles(CampusOperator):
    """Deliver every written file to PeopleSoft, each exactly once."""

    operator_extra_links = (SummaryOfRun(),)

    def work(self, run: Run) -> dict[str, str]:
        """Deliver charges before credits; a rehearsal uploads nothing."""
        from alma_hook import delivery, payments, sftp
        from alma_hook.ledger import batches, notes

        if not run.live:
            self.say("Rehearsal: nothing is uploaded. The files stand in the ledger, table batch_file.")
            return {}
        with run.ledger.read() as tx:
            waiting = batches.in_states(tx, *batches.UNFINISHED[1:]) or batches.unnoted(tx)
            waiting = waiting or batches.without_done_file(tx)
            if not waiting and not notes.unnoted(tx):
                self.say("Nothing to upload.")
                return {}
        with ExitStack() as stack:
            lease = stack.enter_context(run.lease("out"))
            folder = stack.enter_context(sftp.connect(run.campus.connections.sfs))
            archive = archive_of(run, folder, stack)
            outcomes = delivery.deliver_all(
                run.ledger, lease, run.campus.sfs, folder, archive, run.marks(archive)
            )
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
