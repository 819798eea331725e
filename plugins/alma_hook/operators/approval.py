"""A batch that the brake has set aside, and the person who answers for it in Airflow's pages.

What counts is the ledger: an answer is written there with the person's name, bound to the digest of what
was looked at, and what is released is read from there. So a task that is marked as a success releases nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from inspect import signature
from itertools import count
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param

from alma_hook.errors import Fatal, SendingStopped
from alma_hook.operators.base import (
    CampusOperator,
    Run,
    explained,
    failing_for_good,
    opened,
    page_of,
    runbook,
    warn_of_held,
)
from alma_hook.operators.links import RELEASE_BATCH, HeldForApproval, SummaryOfRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from alma_hook.ledger import Row, Tx

DAG_ID = RELEASE_BATCH
_ASK = "ask_for_approval"
AWAIT_ANSWER = "await_answer"
RELEASE, REFUSE = "Release", "Refuse"
#: Who answers when the time runs out.
NOBODY = "nobody, the time ran out"
_LARGEST = 10
# Of older standard providers a run can't be started with one.
_RUNS_CAN_HAVE_NOTES = "note" in signature(TriggerDagRunOperator).parameters
# And there the time in which to answer goes by the name of another one.
_TIME_TO_ANSWER = (
    "response_timeout" if "response_timeout" in signature(HITLOperator).parameters else "execution_timeout"
)


def ask_for_approval(held: HeldBatches) -> Any:
    """Start a run of ``release_batch`` for each batch that waits for a person and has none yet.

    Where nothing is held, the task is skipped.
    """
    return TriggerDagRunOperator.partial(
        task_id=_ASK,
        doc_md=page_of(
            "Start a run of `release_batch` for each batch that waits for a person; skipped where none does.",
            runbook(str(held.dag.doc_md or ""), _ASK),
        ),
        map_index_template="batch {{ task.conf.batch }}",
        trigger_dag_id=DAG_ID,
        logical_date=None,
        skip_when_already_exists=True,
    ).expand_kwargs(held.output)


def await_answer(hours: int, approvers: Sequence[str]) -> AwaitAnswer:
    """Return the task in which a person answers, within so many hours; without ``approvers`` whoever may run the DAG."""
    time_to_answer: dict[str, Any] = {_TIME_TO_ANSWER: timedelta(hours=hours)}
    return AwaitAnswer(
        task_id=AWAIT_ANSWER,
        subject="A batch for PeopleSoft is beyond the brake's limits",
        options=[RELEASE, REFUSE],
        defaults=REFUSE,
        **time_to_answer,
        assigned_users=[{"id": name, "name": name} for name in approvers] or None,
        params={
            "reason": Param(
                "",
                type="string",
                maxLength=500,
                title="Reason",
                description="Needed for either answer. Kept in the ledger beside your name: no student's name or number.",
            )
        },
    )


class HeldBatches(CampusOperator):
    """List the batches that wait for a person, of this run and of earlier ones."""

    operator_extra_links = (HeldForApproval(),)
    held = 0

    def work(self, run: Run) -> list[dict[str, Any]]:
        """Return the run of ``release_batch`` that each needs; a rehearsal asks for none."""
        from alma_hook.ledger import holds

        if not run.live:
            self.say("Rehearsal: nobody is asked.")
            return []
        self.held = warn_of_held(self, run)
        found: list[dict[str, Any]] = []
        with run.ledger.read() as tx:
            for row in holds.held(tx):
                batch_id, digest = str(row["batch_id"]), holds.digest(tx, row["batch_id"])
                run_id = _run_that_asks(run.context, f"batch_{batch_id}_{digest}")
                found.append({"trigger_run_id": run_id, "conf": {"batch": batch_id, "digest": digest}})
                if _RUNS_CAN_HAVE_NOTES:
                    found[-1]["note"] = holds.describe(row)
        return found


class AwaitAnswer(HITLOperator):
    """Show a held batch to a person and wait for the answer; when the time runs out it is refused.

    What is shown is read from the ledger when the task begins. A batch is never changed while it is held, so
    that is still what the answer is about; ``RecordAnswer`` checks it all the same.
    """

    def __init__(self, *, settings_file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings_file = settings_file
        explained(self)

    def execute(self, context: Context) -> Any:
        """Read the batch, then wait. Skipped when it is answered already, by the command line."""
        from alma_hook.airflow_names import AirflowSkipException

        batch_id, digest = _asked(context)
        with failing_for_good(self), opened(self.settings_file, context) as run, run.ledger.read() as tx:
            row = _held(tx, batch_id, digest)
            if row is None:
                raise AirflowSkipException(f"Batch {batch_id} does not wait for an answer any more.")
            self.subject = (
                f"{row['institution']}: {row['kind']} of batch {batch_id}, {row['line_count']} lines, "
                f"{_amount(row['total'])} {run.campus.currency}"
            )
            self.body = shown(tx, row, digest)
        self.log.info("%s\n%s", self.subject, self.body)
        return super().execute(context)


class RecordAnswer(CampusOperator):
    """Write the person's answer into the ledger; the tasks after it send what was released."""

    operator_extra_links = (SummaryOfRun(),)

    def work(self, run: Run) -> dict[str, Any]:
        """Release or refuse. Skips what follows when the batch was refused or answered elsewhere."""
        from alma_hook.airflow_names import AirflowSkipException
        from alma_hook.ledger import batches, fees, holds

        batch_id, digest = _asked(run.context)
        answer = run.context["ti"].xcom_pull(task_ids=AWAIT_ANSWER)
        if not isinstance(answer, Mapping) or not answer.get("chosen_options"):
            raise SendingStopped(
                f"Nobody has answered for batch {batch_id} in task {AWAIT_ANSWER}, so it stays held. Clear that task and "
                "answer it, or use `python -m alma_hook release` or `refuse`."
            )
        if not run.live:
            raise SendingStopped("The settings say live = false: nothing is released.")
        by = str((answer.get("responded_by_user") or {}).get("name") or NOBODY)
        reason = str((answer.get("params_input") or {}).get("reason") or "").strip()
        released = list(answer["chosen_options"]) == [RELEASE] and by != NOBODY
        with run.lease("out") as lease, run.ledger.write(lease) as tx:
            waits = _held(tx, batch_id, digest) is not None
            if waits and released:
                holds.release(tx, batch_id, digest, by, reason)
            elif waits:
                holds.refuse(tx, batch_id, by, reason or "refused in Airflow's pages")
            # This very task may have been cut off after its commit; what follows is then still to be done.
            mine = holds.answer_of(tx, batch_id) == ("released", by)
            freed = fees.accounts_of_fees(tx, batches.drop_unsent(tx)) if mine else set()
            fees.add_accounts(tx, True, sorted(freed), "released")
        if not mine:
            done = f"refused by {by}" if waits else "answered elsewhere"
            raise AirflowSkipException(f"Batch {batch_id} was {done}: nothing of it is sent.")
        self.say(
            "Batch %s is released by %s. Its fees are read again, and what still holds is sent.", batch_id, by
        )
        return {"accounts": len(freed)}


def shown(tx: Tx, row: Row, digest: str) -> str:
    """Return what a person is shown of a batch, in Markdown: limits, sums, the largest lines. No patron data."""
    from alma_hook.ledger import batches, holds

    lines = sorted(batches.lines(tx, row["batch_id"]), key=lambda line: -int(line["amount"]))
    return "\n".join(
        [
            f"Set aside because of: **{row['why']}**",
            "",
            "| Alma fee type | item type | lines | total |",
            "|---|---|---:|---:|",
            *(
                f"| {part['type'] or '-'} | {part['item_type']} | {part['lines']} | {_amount(part['total'])} |"
                for part in holds.composition(tx, row["batch_id"])
            ),
            f"| all | | {row['line_count']} | {_amount(row['total'])} |",
            "",
            f"The largest {min(_LARGEST, len(lines))} lines:",
            "",
            "| line | fee | why | amount |",
            "|---:|---|---|---:|",
            *(
                f"| {line['line_no']} | {line['fee_id']} | {line['reason']} | {_amount(line['amount'])} |"
                for line in lines[:_LARGEST]
            ),
            "",
            f"Digest {digest}. **Release**: the fees are read again in Alma, and the lines that still hold are sent. "
            "**Refuse**: nothing is sent; the next run works the fees out anew.",
        ]
    )


def _run_that_asks(context: Context, first: str) -> str:
    """Return the run in which a batch is asked for: one that waits, or a new one.

    The batch is still held, so a run that is over brought no answer: it failed, or it was marked by hand.
    """
    ti = context["ti"]
    for number in count(1):
        run_id = first if number == 1 else f"{first}_{number}"
        over = ti.get_dr_count(dag_id=DAG_ID, run_ids=[run_id], states=["success", "failed"])
        # This one has passed the question already.
        if not over and run_id != ti.run_id:
            break
    return run_id


def _asked(context: Context) -> tuple[str, str]:
    params = context["params"]
    return str(params["batch"]), str(params["digest"])


def _held(tx: Tx, batch_id: str, digest: str) -> Row | None:
    """Return a batch that waits for an answer, or ``None``. Raises ``Fatal`` when it is not the one that was meant."""
    from alma_hook.ledger import holds

    row = next((row for row in holds.held(tx) if row["batch_id"] == batch_id), None)
    if row is not None and holds.digest(tx, batch_id) != digest:
        raise Fatal(
            f"Batch {batch_id} holds other lines than this run was started for: its digest is not {digest}. Nothing was "
            "released. The next run of alma_to_sis asks for it as it is now."
        )
    return row


def _amount(cents: Any) -> str:
    from alma_hook.money import amount

    return amount(int(cents))
