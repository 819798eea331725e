"""
### Changed balances through the day

The same story as `alma_to_sis`, for accounts that PeopleSoft already charges: what was paid or waived
in Alma since then reaches PeopleSoft the same day. Runs only when `alma_to_sis.intraday_schedule` is set.

| task | when it is red |
|---|---|
| `open_fees`, `read_fees` | Alma is down or the day's calls are spent. What was read is kept; clear it. |
| `plan_batches`, `held_batches`, `ask_for_approval`, `write_sfs_files`, `upload_sfs_files`, `report`, `report_red_run` | As in `alma_to_sis`. |

Every task may be cleared and run again at any time.
Connections: `alma_default`, `alma_ledger`, `sfs_sftp`.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from alma_hook import campus, operators
from alma_hook.operators import alerting, forms
from alma_hook.operators.approval import HeldBatches, ask_for_approval
from alma_hook.schedule import every

SETTINGS_FILE = campus.find(Path(__file__).parent)
CAMPUS = campus.load(SETTINGS_FILE)

with DAG(
    "alma_to_sis_intraday",
    schedule=every(CAMPUS.alma_to_sis.intraday_schedule, CAMPUS.timezone),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["alma", "peoplesoft", "fees"],
    default_args=alerting.defaults(SETTINGS_FILE),
    on_failure_callback=alerting.when_run_fails(SETTINGS_FILE),
    params={
        "dry_run": forms.dry_run(
            CAMPUS.live, "Work everything out and keep the files in the ledger; upload nothing.", alone=True
        ),
    },
):
    plan = operators.PlanBatches(task_id="plan_batches")
    held = HeldBatches(task_id="held_batches")
    upload = operators.UploadSfsFiles(task_id="upload_sfs_files")
    (
        operators.OpenFees(task_id="open_fees")
        >> operators.ReadFees(task_id="read_fees")
        >> plan
        >> operators.WriteSfsFiles(task_id="write_sfs_files")
        >> upload
        >> operators.Report(task_id="report")
    )
    upload >> operators.ReportRedRun(task_id="report_red_run")
    plan >> held >> ask_for_approval(held)
