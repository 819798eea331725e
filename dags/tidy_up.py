"""
### What is kept no longer

Once a week: files that were sent and taken in, dry runs, and fees that were never charged go from the ledger once they are
older than `[retention]` of the settings says; without it nothing goes. What means money stays, and so does everything on
the SFTP servers. The log says how many of each kind went, and of when the oldest is that is left.

| task | when it is red |
|---|---|
| `remove_old` | The ledger can't be reached, or a run of another DAG is at work in it; it tries again. What went by then is gone, the rest goes the next time: clear it at any time. |

Connections: `alma_ledger`.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, Param

from alma_hook import campus
from alma_hook.operators import alerting
from alma_hook.operators.tidying import RemoveOld
from alma_hook.schedule import every

SETTINGS_FILE = campus.find(Path(__file__).parent)
CAMPUS = campus.load(SETTINGS_FILE)

with DAG(
    "tidy_up",
    schedule=every(CAMPUS.retention.schedule, CAMPUS.timezone),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["alma", "peoplesoft", "fees"],
    default_args=alerting.defaults(SETTINGS_FILE),
    on_failure_callback=alerting.when_run_fails(SETTINGS_FILE),
    params={
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Only count what would be removed.",
        ),
    },
):
    RemoveOld(task_id="remove_old")
