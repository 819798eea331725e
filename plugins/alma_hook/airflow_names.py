"""Names that lie elsewhere in the oldest Airflow that is supported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alma_hook.errors import Fault, SettingsError

try:
    from airflow.sdk import conf
    from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException
except ImportError:  # Airflow 3.1
    from airflow.configuration import conf  # type: ignore[assignment]
    from airflow.exceptions import (  # type: ignore[attr-defined,no-redef]
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
    )

__all__ = [
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "conf",
    "connection_of",
]


def connection_of(conn_id: str, get: Callable[[str], Any] | None = None) -> Any:
    """Return an Airflow connection, fetched as a task does or by ``get``.

    Raises ``SettingsError`` when there is none of that id, or it can't be read.
    """
    from airflow.sdk import BaseHook

    try:
        return (get or BaseHook.get_connection)(conn_id)
    except (AirflowNotFoundException, ImportError):
        # Outside of a task Airflow 3.1 has nobody to ask, and says so by an ImportError.
        raise _no_connection(conn_id) from None


def _no_connection(conn_id: str) -> SettingsError:
    """Return the error of an Airflow connection that does not exist, or that can't be read.

    Airflow says of both that they are not defined, so the places that hold secrets are asked again.
    """
    from airflow.configuration import ensure_secrets_loaded

    environment = "airflow.secrets.environment_variables.EnvironmentVariablesBackend"
    for backend in ensure_secrets_loaded(default_backends=[environment]):
        try:
            backend.get_connection(conn_id)
        except Exception as error:  # noqa: BLE001 each raises its own, and its text may quote the secret
            text = (
                f"{type(backend).__name__} failed to give it ({type(error).__name__}). Mend what stands there: whole "
                'JSON, names and texts in double quotes, such as {"conn_type": "sqlite", "host": "/folder/ledger.db"}'
            )
            return SettingsError(
                "An Airflow connection can't be read.", [Fault("connection", text, field=conn_id)]
            )
    return SettingsError(
        "An Airflow connection is missing.", [Fault("connection", "create it", field=conn_id)]
    )
