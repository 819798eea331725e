"""Buttons on a task's page in Airflow (tab *Details*), to what the task made.

A link is worked out by the task when it ends and is kept as an XCom, so nothing has to be registered for it:
it is there however the package is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

#: The tasks that show a run's summary, of a red one the second; and the DAG in which people answer.
REPORT, REPORT_RED_RUN = "report", "report_red_run"
RELEASE_BATCH = "release_batch"


class SummaryOfRun(BaseOperatorLink):
    """To what the whole run has come to."""

    name = "Summary of this run"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the address of the report's page in this run."""
        red = getattr(operator, "is_red", False)
        return page(ti_key.dag_id, ti_key.run_id, REPORT_RED_RUN if red else REPORT) + "/rendered_templates"


class HeldForApproval(BaseOperatorLink):
    """To the batches that wait for a person; no button where the task has seen none."""

    name = "Answer for held batches"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the address of the answers that runs of ``release_batch`` wait for."""
        if not getattr(operator, "held", 0):
            return ""
        return answers()


def answers() -> str:
    """Return the address of the page where batches wait for a person."""
    return page(RELEASE_BATCH) + "/required_actions?response_received=false"


def page(dag_id: str, run_id: str = "", task_id: str = "") -> str:
    """Return the address of a page of Airflow: of a DAG, a run of it, or a task of that run."""
    from alma_hook.airflow_names import conf

    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    path = f"/dags/{quote(dag_id)}"
    path += f"/runs/{quote(run_id, safe='')}" if run_id else ""
    return base + path + (f"/tasks/{quote(task_id)}" if task_id else "")
