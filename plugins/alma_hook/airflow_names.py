"""Names that lie elsewhere in the oldest Airflow that is supported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alma_hook.errors import Fault, SettingsError

if TYPE_CHECKING:
    from airflow.sdk import Connection

try:
    from airflow.sdk import conf
    from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException
except ImportError:  # Airflow 3.1
    from airflow.configuration import conf  # type: ignore[assignment]
    from airflow.exceptions import (  # type: ignore[attr-defined,no-redef]
        AirflowFailException,
        AirflowNotFoundException,
    )

__all__ = ["AirflowFailException", "AirflowNotFoundException", "conf", "connection_of"]


def connection_of(conn_id: str) -> Connection:
    """Return an Airflow connection. Raises ``SettingsError`` when there is none of that id."""
    from airflow.sdk import BaseHook

    try:
        return BaseHook.get_connection(conn_id)
    except (AirflowNotFoundException, ImportError):
        # Outside of a task Airflow 3.1 has nobody to ask, and says so by an ImportError.
        raise SettingsError(
            "An Airflow connection is missing.", [Fault("connection", "create it", field=conn_id)]
        ) from None
