"""
### What nobody would notice

Twice an hour: is a run late, does a batch wait for approval, have exceptions grown old, did a file stay away or was
one not collected? People are told by `[alerts]` of the settings: each thing once, and again each day while it lasts.
Red tasks and killed ones are told by themselves, at once.

| task | when it is red |
|---|---|
| `watch` | The ledger or the SFTP server can't be reached, or a message could not be sent. Nothing else is held up; the next run tries again. |

Connections: `alma_ledger`, `sfs_sftp`, and the notifier's own.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param

from alma_hook import campus
from alma_hook.operators import alerting
from alma_hook.schedule import every

SETTINGS_FILE = campus.find(Path(__file__).parent)
CAMPUS = campus.load(SETTINGS_FILE)

with DAG(
    "watch_fees",
    schedule=every(CAMPUS.alerts.schedule, CAMPUS.timezone),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["alma", "peoplesoft", "fees"],
    default_args={**alerting.defaults(SETTINGS_FILE), "execution_timeout": timedelta(minutes=15)},
    on_failure_callback=alerting.when_run_fails(SETTINGS_FILE),
    params={
        "test_message": Param(
            False,
            type="boolean",
            title="Test message",
            description="Send a test message and look at nothing else, to see whether it arrives.",
        ),
    },
):
    alerting.WatchFees(task_id="watch")
