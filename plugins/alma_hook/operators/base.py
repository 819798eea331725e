"""What every task shares: its campus, its ledger, its failing for good or for now, and the report."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from alma_hook import campus as settings
from alma_hook.errors import AlmaHookError, Fatal, SendingStopped
from alma_hook.operators.links import HeldForApproval

if TYPE_CHECKING:
    from airflow.sdk import Context

    from alma_hook.alma import AlmaApi
    from alma_hook.guard import MarkPlace
    from alma_hook.hook import AlmaHook
    from alma_hook.layouts import Layout
    from alma_hook.ledger import Ledger
    from alma_hook.remote import RemoteFolder

AS_IN_SETTINGS = "as in the settings"
#: The two ways may run at once, so each has a fixed share of the connection's rate.
OUT_SHARE, BACK_SHARE = 0.7, 0.3
_PROGRESS_SECONDS = 10.0
#: Stands before what a DAG's table says of a red task, whose "clear it" is not enough then.
MEND_FIRST = "What the error says has to be mended first; clearing alone does not help. "
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

    @property
    def kind(self) -> str:
        """How the run came to be."""
        return kind_of(self.context)

    def interval_end(self) -> datetime:
        """The end of the run's interval; now, for a run that somebody started, whose interval is a past one."""
        interval = interval_of(self.context)
        return datetime.now(UTC) if interval is None else interval[1]

    def begun(self) -> datetime | None:
        """When the run could begin at the earliest; Airflow keeps it when tasks are cleared."""
        return getattr(self.context.get("dag_run"), "run_after", None)

    def marks(self, archive: RemoteFolder) -> list[MarkPlace]:
        """Where the ledger's mark stands."""
        from alma_hook.connections import marks_of

        return marks_of(self.campus, archive)

    @property
    def layout(self) -> Layout:
        """The campus's layout."""
        from alma_hook import layouts

        return layouts.load(self.campus.sfs.layout, self.campus.folder)


def kind_of(context: Context) -> str:
    """Return how a run came to be: ``scheduled``, ``manual``, ``backfill``, ``operator_triggered``, ..."""
    # Its text would be that of the enum's member.
    return str(context["dag_run"].run_type.value)


def runbook(doc_md: str, task_id: str) -> str:
    """Return what a DAG's own table says of a red task."""
    for line in doc_md.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and f"`{task_id}`" in [name.strip() for name in cells[1].split(",")]:
            return cells[2]
    return "see docs/operations.md"


def interval_of(context: Context) -> tuple[datetime, datetime] | None:
    """Return the interval that a run is for; ``None`` for one that somebody started, whose interval is a past one."""
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is None or end is None or kind_of(context) not in ("scheduled", "backfill"):
        return None
    return start, end


def rehearses(context: Context) -> bool:
    """Whether the trigger form asks for a dry run."""
    return bool((context.get("params") or {}).get("dry_run", False))


def when_red(task: Any) -> str:
    """Return what a task's DAG says of it when it is red."""
    return runbook(str(task.dag.doc_md or "") if task.has_dag() else "", task.task_id)


def explained(task: Any) -> None:
    """Give a task its page in Airflow."""
    if task.doc_md is None:
        task.doc_md = page_of(getdoc(type(task)) or "", when_red(task))


def page_of(does: str, red: str) -> str:
    """Return a task's page: what it does, and what its DAG's table says of it when it is red."""
    return f"{does}\n\n**When it is red:** {red}\n\nIt may be cleared and run again at any time."


class CampusOperator(BaseOperator):
    """A task of one campus. ``settings_file`` is its TOML file.

    A ``Fatal`` error fails the task at once, since trying again can't help; a ``Retriable`` one lets
    Airflow try again.
    """

    def __init__(self, *, settings_file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings_file = settings_file
        explained(self)

    def execute(self, context: Context) -> Any:
        """Run the task's work with its campus and ledger; before an error, log what its DAG's table says of it."""
        with failing_for_good(self), opened(self.settings_file, context) as run:
            return self.work(run)

    @abstractmethod
    def work(self, run: Run) -> Any:
        """Do the task; return ids and counts."""

    def say(self, text: str, *values: Any) -> None:
        """Log a line for the operator."""
        self.log.info(text, *values)

    def progress(self, hook: AlmaHook) -> Callable[[int, int], None]:
        """Return a function that logs how far a long task has come, every few seconds at most."""
        started = last = time.monotonic()

        def tell(done: int, of: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _PROGRESS_SECONDS and done:
                last = now
                rate = done / (now - started)
                self.say(
                    "%d of %d, %.1f a second, %.0f s to go, %s calls left today",
                    done, of, rate, (of - done) / rate, hook.remaining,
                )  # fmt: skip

        return tell


@contextmanager
def failing_for_good(task: Any) -> Iterator[None]:
    """Let a ``Fatal`` error fail the task at once, since trying again can't help.

    Before any error the log says what the DAG's table says of the task.
    """
    from alma_hook.airflow_names import AirflowFailException, AirflowSkipException

    try:
        yield
    except AirflowSkipException:
        raise
    except Exception as error:
        task.is_red = True
        first = MEND_FIRST if isinstance(error, Fatal) else ""
        task.log.error("%sWhen %s is red: %s", first, task.task_id, when_red(task))
        if first:
            raise AirflowFailException(f"{type(error).__name__}: {error}") from None
        raise


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
        yield Run(campus, ledger, campus.live and not rehearses(context), context, closing)


def alma_of(run: Run, share: float = OUT_SHARE) -> tuple[AlmaHook, AlmaApi]:
    """Return the hook and API of a campus, once it is sure that the key is this institution's."""
    from alma_hook import guard
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
    if run.live:
        guard.bind_alma(run.ledger, api)
    return hook, api


def archive_of(run: Run, folder: RemoteFolder, stack: ExitStack) -> RemoteFolder:
    """Return the archive's folder: of the same server, or of a connection of its own."""
    from alma_hook import sftp

    archive = run.campus.connections.archive
    return folder if archive is None else stack.enter_context(sftp.connect(archive))


def marks_now(run: Run, stack: ExitStack) -> list[MarkPlace]:
    """Return where the ledger's mark stands; nowhere while the campus is not live, when nothing has ever left."""
    from alma_hook import sftp

    if not run.campus.live:
        return []
    return run.marks(archive_of(run, stack.enter_context(sftp.connect(run.campus.connections.sfs)), stack))


def warn_of_held(task: CampusOperator, run: Run) -> int:
    """Say of each batch that is set aside what it is and what to do, and return how many: no task is red for it."""
    from alma_hook.ledger import holds

    with run.ledger.read() as tx:
        rows = holds.held(tx)
    for row in rows:
        task.log.warning(
            "Held for approval: %s. Not sent. `python -m alma_hook held` shows it; answer with `release` or `refuse`.",
            holds.describe(row),
        )
    return len(rows)


class Report(CampusOperator):
    """Say what the run has come to and how the books stand: *Rendered Templates* of this task shows it at a glance."""

    # What a task's template fields hold at its end is what Airflow shows as rendered templates.
    template_fields = ("summary",)
    overwrite_rtif_after_execution = True
    operator_extra_links = (HeldForApproval(),)
    ended_well = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.summary = ""
        self.held = 0

    def title(self, run: Run) -> str:
        """Return what stands above the summary."""
        return f"{run.context['ti'].dag_id}, {'live' if run.live else 'dry run: nothing was sent or posted'}"

    def work(self, run: Run) -> dict[str, Any]:
        """Show the summary; log the balances line, what PeopleSoft has not shown yet, and the exceptions."""
        from alma_hook.ledger import alerts, exceptions, summary
        from alma_hook.ledger import items as far_items
        from alma_hook.money import amount

        dag_id = str(run.context["ti"].dag_id)
        if run.live and self.ended_well:
            with run.ledger.write() as tx:
                alerts.finish_run(tx, dag_id)
        with run.ledger.read() as tx:
            done = summary.of_run(tx, dag_id, run.begun())
            items, unseen = exceptions.open_items(tx), far_items.summary(tx)
        line = done.balances
        self.summary = summary.text(done, self.title(run))
        self.say(
            "Balances: Alma %s, PeopleSoft %s, explained %s, on its way %s, UNEXPLAINED %s (%d fees)",
            *(
                amount(int(line[name]))
                for name in ("alma", "peoplesoft", "explained", "on_its_way", "unexplained")
            ),
            line["fees"],
        )
        self.held = warn_of_held(self, run)
        if run.campus.sis_to_alma.items is not None:
            self.say(
                "Not seen in PeopleSoft: %d charges (%s), the oldest delivered %s; newest complete list of items: %s",
                unseen["charges"], amount(int(unseen["charged"])), unseen["oldest"] or "-", unseen["newest"] or "none",
            )  # fmt: skip
        for item in items[:_SHOWN]:
            self.say("Listed: %s", exceptions.describe(item))
        if len(items) > _SHOWN:
            self.say("and %d more: `python -m alma_hook exceptions` shows them all", len(items) - _SHOWN)
        return {
            **{name: int(value) for name, value in line.items() if name != "institution"},
            "exceptions": {row["kind"]: int(row["n"]) for row in done.open},
            "unseen_charges": int(unseen["charges"]),
        }


class ReportRedRun(Report):
    """Say what a run had come to when a task of it turned red: *Rendered Templates* of this task shows it at a glance."""

    ended_well = False

    def __init__(self, **kwargs: Any) -> None:
        # A run is as red with it as without it: `report` stays undone until the red task is cleared.
        super().__init__(trigger_rule="one_failed", **kwargs)

    def title(self, run: Run) -> str:
        """Return what stands above the summary."""
        return f"{super().title(run)}. RED: a task failed, whose log says why; by then it had come to this"

    def execute(self, context: Context) -> Any:
        """Do the same as `report`; where the ledger is what failed, there is nothing to tell, and it is told already."""
        try:
            with opened(self.settings_file, context) as run:
                return self.work(run)
        except AlmaHookError as error:
            self.summary = f"No summary: {error}"
            self.log.warning("%s", self.summary)
            return {}
