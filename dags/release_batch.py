"""
### A batch that waits for a person

Started by `alma_to_sis` for each batch that is beyond a limit of `[brake]`. Nothing of it has left. Open
`await_answer` and its tab *Required Actions*: it shows the limit, the sums and the largest lines, without patron data.
**Release** reads the fees again in Alma and sends the lines that still hold; **Refuse**, or no answer in
`brake.answer_hours`, sends nothing, and the next run works the fees out anew.

| task | when it is red |
|---|---|
| `await_answer` | The ledger can't be reached (clear it), or the batch is not the one that was meant: its message says so. Nothing was sent. |
| `record_answer` | Nobody answered, or gave no reason, or the batch is another one by now. Nothing was released; its message says what to do. |
| `read_fees` | Alma is down or the day's calls are spent. The release stands; clear it, or the next run of `alma_to_sis` sends what was released. |
| `plan_batches`, `write_sfs_files`, `upload_sfs_files`, `report`, `report_red_run` | As in `alma_to_sis`. |
| `held_batches`, `ask_for_approval` | As in `alma_to_sis`: what was not approved as it is now is asked for again. |

Every task may be cleared and run again at any time; marking one, or the run, as a success releases nothing: the next
run of `alma_to_sis` asks for the batch in a new run of this DAG. Answers stand in the
ledger with the person's name. Where Airflow's pages can't be reached, `python -m alma_hook release` or `refuse` does the same.
Connections: `alma_default`, `alma_ledger`, `sfs_sftp`.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from alma_hook import campus, operators
from alma_hook.operators import alerting, approval, forms

SETTINGS_FILE = campus.find(Path(__file__).parent)
CAMPUS = campus.load(SETTINGS_FILE)

with DAG(
    approval.DAG_ID,
    schedule=None,
    # A paused one would let batches wait unseen; it does nothing until somebody answers.
    is_paused_upon_creation=False,
    doc_md=__doc__,
    tags=["alma", "peoplesoft", "fees"],
    default_args=alerting.defaults(SETTINGS_FILE),
    on_failure_callback=alerting.when_run_fails(SETTINGS_FILE),
    params={"batch": forms.batch(), "digest": forms.digest()},
):
    wait = approval.await_answer(CAMPUS.brake.answer_hours, CAMPUS.brake.approvers)
    record = approval.RecordAnswer(task_id="record_answer")
    read = operators.ReadFees(task_id="read_fees")
    plan = operators.PlanBatches(task_id="plan_batches")
    write = operators.WriteSfsFiles(task_id="write_sfs_files")
    upload = operators.UploadSfsFiles(task_id="upload_sfs_files")
    held = approval.HeldBatches(task_id="held_batches")
    # After a refusal too, which leaves all before it skipped.
    report = operators.Report(task_id="report", trigger_rule="none_failed")

    upload >> operators.ReportRedRun(task_id="report_red_run")
    wait >> record >> read >> plan >> write >> upload >> report
    plan >> held >> approval.ask_for_approval(held)
