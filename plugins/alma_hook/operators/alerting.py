"""Telling people: of a task that failed, of a run that died, and of what the ledger shows to be late, missing or old.

Through any of Airflow's notifiers, as `[alerts]` names it. A message holds what an error of ours, the ledger
and the DAG's own table say, and no patron data; of errors that are not ours it holds the kind alone.
"""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alma_hook import campus as settings
from alma_hook import errors
from alma_hook.errors import AlmaHookError
from alma_hook.operators.base import MEND_FIRST, CampusOperator, Run, runbook
from alma_hook.operators.links import answers, page
from alma_hook.schedule import TASK_DEFAULTS

if TYPE_CHECKING:
    from airflow.sdk import Context

    from alma_hook.campus import Campus
    from alma_hook.ledger import Ledger

FAILED, STOPPED, SPENT, DIED = "task failed", "sending stopped", "API reserve reached", "task killed"
RUN_FAILED = "run failed"
_CAUSES = {"SendingStopped": STOPPED, "QuotaSpent": SPENT}
#: What Airflow calls the error of a task that is not to be tried again; one of ours that is ``Fatal`` comes as it.
_FOR_GOOD = "AirflowFailException"
#: Seconds; a DAG processor gives a callback 50 before it ends it.
_TASK_SPEAKS_WITHIN = 20.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Message:
    """What people are sent. ``cause`` and ``subject`` tell one message from another: each is sent once a day."""

    cause: str
    subject: str
    lines: tuple[str, ...]

    def headline(self, campus: Campus) -> str:
        """Return the message in one line."""
        return f"[{campus.institution}] {self.cause}: {self.subject}"


def defaults(settings_file: Path) -> dict[str, Any]:
    """Return what the tasks of a campus's DAGs have in common."""
    return {
        **TASK_DEFAULTS,
        "settings_file": str(settings_file),
        "on_failure_callback": when_task_fails(settings_file),
    }


def send(campus: Campus, message: Message, context: Mapping[str, Any]) -> None:
    """Send a message by the campus's notifier; without one, log it. Raises what the notifier raises."""
    headline, text = message.headline(campus), "\n".join(message.lines)
    path = campus.alerts.notifier
    if path is None:
        _log.warning("%s\n%s\n(nobody is told: alerts.notifier is not set)", headline, text)
        return
    from importlib import import_module

    words = {"{subject}": headline, "{text}": text, "{html}": f"<pre>{html.escape(text)}</pre>"}
    module, _, name = path.rpartition(".")
    notifier = getattr(import_module(module), name)(**_filled(campus.alerts.arguments, words))
    # Not called, which would take our text for a template of Jinja's.
    notifier.notify(context)


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(word, text)
        return value
    if isinstance(value, Mapping):
        return {name: _filled(each, words) for name, each in value.items()}
    return [_filled(each, words) for each in value] if isinstance(value, (list, tuple)) else value


def when_task_fails(settings_file: Path) -> Callable[[Context], None]:
    """Return the callback of a task that failed for the last time; it runs in the task's own process."""

    def told(context: Context) -> None:
        ti = context["ti"]
        error = context.get("exception")
        cause, said = _of_error(error)
        first = MEND_FIRST if type(error).__name__ == _FOR_GOOD else ""
        # Not the run: an outage of days is one thing. What an error is called tells one thing from another.
        place = f"{ti.dag_id}/{ti.task_id}: {said.partition(':')[0].partition(';')[0]}"
        lines = (
            f"DAG {ti.dag_id}, task {ti.task_id}, run {ti.run_id}, attempt {ti.try_number}",
            "",
            said,
            "",
            f"What to do: {first}{runbook(str(context['dag'].doc_md or ''), ti.task_id)}",
            f"Log: {getattr(ti, 'log_url', None) or page(ti.dag_id, ti.run_id, ti.task_id)}",
        )
        _tell(settings_file, Message(cause, place, lines), context, f"{ti.dag_id}/{ti.run_id}")

    return told


def when_run_fails(settings_file: Path) -> Callable[[Context], None]:
    """Return the callback of a run that failed; it runs in the DAG processor when the run is over.

    A task that was killed at its last try calls nobody itself, so this one speaks where no task has.
    """

    def told(context: Context) -> None:
        run = context["dag_run"]
        # Airflow names the task that made the run fail, where it is still in the DAG.
        task_id = getattr(context.get("ti"), "task_id", "") if _names_what_failed() else ""
        where = f"DAG {run.dag_id}, {f'task {task_id}, ' if task_id else ''}run {run.run_id}"
        place, address = f"{run.dag_id}/{task_id}", page(run.dag_id, run.run_id, task_id)
        killed = (
            "A task was killed, or could not be run: Airflow knows no error of it. Mostly the worker lacked memory or was "
            "stopped. What it had begun stands in the ledger."
        )
        unknown = (
            "A task failed or was killed. The ledger can't be reached, so whether the task has told people itself is not "
            "known, nor whether this was told before."
        )
        todo = "What to do: clear the red task; it goes on where it stopped, and sends nothing twice."
        todo_blindly = "What to do: bring the ledger's database up. Then clear the red task."
        _tell(
            settings_file,
            Message(DIED, place, (where, "", killed, "", todo, f"Run: {address}")),
            context,
            f"{run.dag_id}/{run.run_id}",
            unless_since=run.start_date,
            blindly=Message(RUN_FAILED, place, (where, "", unknown, "", todo_blindly, f"Run: {address}")),
        )

    return told


def _names_what_failed() -> bool:
    """Whether the task in a run's callback is the one that failed; older Airflows name any that ended."""
    from airflow.models.dagrun import DagRun

    made = getattr(DagRun, "produce_dag_callback", None)
    return made is not None and "relevant_ti" in signature(made).parameters


def _tell(
    settings_file: Path,
    message: Message,
    context: Mapping[str, Any],
    run: str,
    unless_since: Any = None,
    blindly: Message | None = None,
) -> None:
    """Send and note it, unless people were told the same within the hours of the settings.

    ``blindly``: what is sent in its place where the ledger is down; that keeps nobody from being told.
    """
    from alma_hook.connections import open_ledger
    from alma_hook.ledger import alerts, instant

    campus = settings.load(settings_file)
    sent = False
    try:
        with closing(open_ledger(campus, run_id=run, actor="alerts")) as ledger:
            if unless_since is not None and _spoken(ledger, run, instant(unless_since)):
                return
            with ledger.read() as tx:
                due = alerts.due(tx, message.cause, message.subject, campus.alerts.repeat_hours)
            if due:
                send(campus, message, context)
                sent = True
            else:
                _log.warning("%s: people were told before.", message.headline(campus))
            with ledger.write() as tx:
                if due:
                    alerts.told(tx, message.cause, message.subject)
                alerts.spoke(tx, run, message.cause)
    except AlmaHookError as error:
        _log.warning("The ledger can't be asked, or told, who was told (%s).", type(error).__name__)
        if not sent:
            send(campus, blindly or message, context)


def _spoken(ledger: Ledger, run: str, since: str) -> bool:
    """Whether a task of the run tells people itself. It does so after Airflow has noted its failure, hence the wait."""
    from alma_hook.ledger import alerts

    deadline = time.monotonic() + _TASK_SPEAKS_WITHIN
    while True:
        with ledger.read() as tx:
            if alerts.spoken_of(tx, run, since):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(1)


def _of_error(error: object) -> tuple[str, str]:
    """Return the cause, and what may be told of an error: ours in full, of others the kind alone."""
    if isinstance(error, AlmaHookError):
        return _CAUSES.get(type(error).__name__, FAILED), f"{type(error).__name__}: {error}"
    text = str(error)
    kind = text.partition(":")[0]
    # One of ours that can't be mended by trying again comes as Airflow's own error, by the name it had.
    if type(error).__name__ == _FOR_GOOD and hasattr(errors, kind):
        return _CAUSES.get(kind, FAILED), text
    return FAILED, f"{type(error).__name__}; the log says more."


class WatchFees(CampusOperator):
    """Tell people what is late, missing, waiting or old: each thing once, and again each day while it lasts."""

    def work(self, run: Run) -> dict[str, int]:
        """Look, tell, note. A campus that is not live is only watched by hand."""
        from alma_hook import watch
        from alma_hook.ledger import alerts

        if (run.context.get("params") or {}).get("test_message"):
            text = "This is a test. Whoever reads it will be told when something is wrong."
            send(run.campus, Message("test", "watch_fees", (text,)), run.context)
            return {"told": 1}
        if not run.campus.live:
            self.say("The settings say live = false: nothing is watched.")
            return {}
        trouble: Exception | None = None
        lying = None
        try:
            lying = self._lying(run)
        except AlmaHookError as error:
            # All else is told first: that PeopleSoft can't be reached is when it matters.
            trouble = error
        with run.ledger.read() as tx:
            found = watch.conditions(tx, run.campus, lying)
            due = [
                each
                for each in found
                if alerts.due(tx, each.cause, each.subject, run.campus.alerts.repeat_hours)
            ]
        judged = [cause for cause in watch.CAUSES if lying is not None or cause != watch.NOT_COLLECTED]
        with run.ledger.write() as tx:
            alerts.over(tx, judged, [(each.cause, each.subject) for each in found])
        told = 0
        for each in due:
            address = answers() if each.cause == watch.HELD else page(each.dag_id)
            ti = run.context["ti"]
            seen = f"Seen by DAG {ti.dag_id}, task {ti.task_id}, run {ti.run_id}"
            lines = (each.text, "", f"What to do: {each.do}", f"DAG {each.dag_id}: {address}", seen)
            try:
                send(run.campus, Message(each.cause, each.subject, lines), run.context)
            except Exception as error:  # noqa: BLE001 each notifier raises its own
                self.log.warning(
                    "%s: %s: nobody could be told (%s)", each.cause, each.subject, type(error).__name__
                )
                trouble = error
                continue
            told += 1
            # One by one: what was told before a message fails is not told again.
            with run.ledger.write() as tx:
                alerts.told(tx, each.cause, each.subject)
        for each in found:
            self.log.warning("%s: %s: %s", each.cause, each.subject, each.text)
        if trouble is not None:
            raise trouble
        with run.ledger.write() as tx:
            alerts.finish_run(tx, str(run.context["ti"].dag_id))
        return {"found": len(found), "told": told}

    def _lying(self, run: Run) -> frozenset[str]:
        """Return the names in PeopleSoft's folder; of a drop box that shows nothing, none."""
        from alma_hook import sftp, watch

        with run.ledger.read() as tx:
            old = watch.sent_since(tx, run.campus)
        if not old or run.campus.sfs.read_back == "none":
            return frozenset()
        with sftp.connect(run.campus.connections.sfs) as folder:
            return frozenset(file.name for file in folder.files(run.campus.sfs.directory, "*"))
