"""What the DAGs share: contiguous intervals in the campus's zone, and the tasks' defaults."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

try:
    from airflow.sdk import CronDataIntervalTimetable
except ImportError:  # Airflow 3.1 and 3.2
    from airflow.timetables.interval import (  # type: ignore[assignment]
        CronDataIntervalTimetable,
    )

#: Retries suit what passes by itself; errors that a person must see to fail at once.
TASK_DEFAULTS: dict[str, Any] = {
    "owner": "library",
    "retries": 3,
    "retry_delay": timedelta(minutes=5),
    "execution_timeout": timedelta(hours=4),
}


def every(cron: str | None, timezone: str) -> CronDataIntervalTimetable | None:
    """Return a timetable whose intervals follow each other without gap or overlap, or none at all.

    A bare cron expression would give Airflow 3 intervals of no length, and a fixed length would
    leave an hour out when clocks change.
    """
    return CronDataIntervalTimetable(cron, timezone=timezone) if cron else None
