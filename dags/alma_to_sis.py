"""
### Library fees from Alma to PeopleSoft

Every 12 hours: find the accounts whose fees may have changed, read them live from Alma, work out what
PeopleSoft must be told, write the SFS files (charges and credits apart), deliver them by SFTP.

| task | when it is red |
|---|---|
| `choose_retrieval` | Airflow could not run it. Clear it. Skipped: a backfill of a past interval by another method than `sis_profile`. |
| `analytics_report` | Alma is down or the day's calls are spent: clear it. Or the report lacks a column or is too old: clear it once Alma's report is right. Nothing was sent. |
| `wait_for_export` | Alma's export did not come in `alma_to_sis.export_wait_minutes`, or its SFTP server can't be reached. Nothing was sent. Look at the profile's job; clear it, or run by another method. |
| `sis_profile` | SFTP, or Alma where there is no folder, failed: clear it. Or an export is cut short or no users file: the others were taken in; have it exported again and clear. |
| `open_fees`, `all_users` | Alma is down or the day's calls are spent. Nothing was sent; clear it. |
| `read_fees` | Alma is down or the day's calls are spent. What was read is kept; clear it and it goes on from there. |
| `plan_batches` | PeopleSoft's SFTP server can't be reached: clear it. Or a guard stopped sending: its message says which. Nothing was sent. |
| `held_batches`, `ask_for_approval` | A run of `release_batch` could not be started. Clear it; the batch stays held and was not sent. |
| `write_sfs_files` | A batch does not fit the layout any more: its message names fee, field and width. |
| `upload_sfs_files` | SFTP failed (clear it, it goes on), or it can't be told whether a file arrived: follow the message. |
| `report` | The ledger can't be reached. Clear it; it only reports. |
| `report_red_run` | Airflow could not run it. Clear the red task; this one only reports. |

`report` shows what the run has come to; where a task is red, `report_red_run` what it had come to by then.

A batch beyond the limits of `[brake]` is set aside and the run goes on. `ask_for_approval` starts a run of `release_batch`
for it, in which a person answers; it is skipped where nothing is set aside.

Missed intervals: the next run finds whatever they would have found. Only by `sis_profile` a backfill of theirs takes
what Alma exported then; by another method it skips itself.

Clearing does not help where the message names a key, a login, a permission or a folder: docs/operations.md says of each
message what has to be mended first.

Any of them is red, too, when another run holds the right to work in this direction for longer than its retries last, or
the ledger can't be reached: clear it.

Every task may be cleared and run again at any time: what PeopleSoft already has is never sent twice.
Connections: `alma_default`, `alma_ledger`, `sfs_sftp`, and `alma_export_sftp` for the SIS profile.
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
    "alma_to_sis",
    schedule=every(CAMPUS.alma_to_sis.schedule, CAMPUS.timezone),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["alma", "peoplesoft", "fees"],
    default_args=alerting.defaults(SETTINGS_FILE),
    on_failure_callback=alerting.when_run_fails(SETTINGS_FILE),
    params={
        "method": forms.method(CAMPUS.alma_to_sis.method),
        "dry_run": forms.dry_run(
            CAMPUS.live, "Work everything out and keep the files in the ledger; upload nothing."
        ),
    },
):
    choose = operators.ChooseRetrieval(
        task_id="choose_retrieval", default=CAMPUS.alma_to_sis.method, timezone=CAMPUS.timezone
    )
    wait = operators.WaitForExport(task_id="wait_for_export", minutes=CAMPUS.alma_to_sis.export_wait_minutes)
    profile = operators.SisProfile(task_id="sis_profile")
    others = [
        operators.AnalyticsReport(task_id="analytics_report"),
        operators.OpenFees(task_id="open_fees"),
        operators.AllUsers(task_id="all_users"),
    ]
    read = operators.ReadFees(task_id="read_fees", trigger_rule="none_failed_min_one_success")
    plan = operators.PlanBatches(task_id="plan_batches")
    write = operators.WriteSfsFiles(task_id="write_sfs_files")
    upload = operators.UploadSfsFiles(task_id="upload_sfs_files")
    held = HeldBatches(task_id="held_batches")
    report = operators.Report(task_id="report")

    upload >> operators.ReportRedRun(task_id="report_red_run")
    choose >> wait >> profile
    choose >> others
    [profile, *others] >> read >> plan >> write >> upload >> report
    plan >> held >> ask_for_approval(held)
