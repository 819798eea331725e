"""
### Payments from PeopleSoft to Alma

Through the day: fetch PeopleSoft's query output of paid library items, take each payment into the
ledger once, post it to Alma with *pay user fine/fee*, archive the file. Lists of PeopleSoft's items, where the
settings name them, go the same way and show which delivered lines were loaded.

| task | when it is red |
|---|---|
| `find_payment_files` | SFTP failed. Nothing was changed; clear it. |
| `take_in_payments` | The ledger can't be reached: clear it. Or the settings now tell payments apart in another way, so that known ones would be posted again: put them back. |
| `post_payments` | Alma or SFTP is down, the day's calls are spent, or the first payment could not be read back. Each payment is posted or still waiting; clear it and it goes on. |
| `archive_files` | SFTP failed (clear it), or a file was refused: the log of `take_in_payments` names every line. The other files are done. |
| `report` | The ledger can't be reached. Clear it; it only reports. |
| `report_red_run` | Airflow could not run it. Clear the red task; this one only reports. |

`report` shows what the run has come to; where a task is red, `report_red_run` what it had come to by then.

Clearing does not help where the message names a key, a login, a permission or a folder: docs/operations.md says of each
message what has to be mended first.

Any of them is red, too, when another run holds the right to work in this direction for longer than its retries last, or
the ledger can't be reached: clear it.

Every task may be cleared and run again at any time: a payment is never posted twice.
Connections: `alma_default`, `alma_ledger`, `sfs_sftp`.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from alma_hook import campus, operators
from alma_hook.operators import alerting, forms
from alma_hook.schedule import every

SETTINGS_FILE = campus.find(Path(__file__).parent)
CAMPUS = campus.load(SETTINGS_FILE)

with DAG(
    "sis_to_alma",
    schedule=every(CAMPUS.sis_to_alma.schedule, CAMPUS.timezone),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["alma", "peoplesoft", "fees"],
    default_args=alerting.defaults(SETTINGS_FILE),
    on_failure_callback=alerting.when_run_fails(SETTINGS_FILE),
    params={
        "dry_run": forms.dry_run(
            CAMPUS.live, "Take the files in; post nothing to Alma and leave them there.", alone=True
        ),
    },
):
    archive = operators.ArchiveFiles(task_id="archive_files")
    (
        operators.FindPaymentFiles(task_id="find_payment_files")
        >> operators.TakeInPayments(task_id="take_in_payments")
        >> operators.PostPayments(task_id="post_payments")
        >> archive
        >> operators.Report(task_id="report")
    )
    archive >> operators.ReportRedRun(task_id="report_red_run")
