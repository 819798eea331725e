"""Library fees kept equal in Ex Libris Alma and PeopleSoft Student Financials."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """Tell Airflow about the ``alma`` connection type; read from the distribution's entry point."""
    return {
        "package-name": "alma-sfs-dags",
        "name": "Alma and PeopleSoft Student Financials",
        "description": "Keeps library fees equal in Ex Libris Alma and PeopleSoft Student Financials.",
        "versions": [__version__],
        "connection-types": [
            {
                "connection-type": "alma",
                "hook-class-name": "alma_hook.hook.AlmaHook",
                "hook-name": "Ex Libris Alma",
                "ui-field-behaviour": {
                    # Port stays: Airflow 3.3.1 and 3.3.2 refuse to test a saved connection that has none.
                    "hidden-fields": ["login", "schema"],
                    "relabeling": {
                        "host": "Gateway address",
                        "port": "Port, mostly 443",
                        "password": "API key",
                    },
                    "placeholders": {"host": "https://api-na.hosted.exlibrisgroup.com", "port": "443"},
                },
                "conn-fields": {
                    "requests_per_second": {
                        "label": "Requests per second",
                        "description": "Of both DAGs together, below the institution's limit, which other integrations share. "
                        "Sandboxes allow 10.",
                        "schema": {"type": ["integer", "null"], "default": 10, "minimum": 1, "maximum": 50},
                    },
                    "timeout": {
                        "label": "Timeout (seconds)",
                        "description": "How long one call may take, 25 at most. After that a posting is unclear "
                        "and is looked for.",
                        "schema": {"type": ["integer", "null"], "default": 20, "minimum": 1, "maximum": 25},
                    },
                    "write": {
                        "label": "Test write permission",
                        "description": "Test connection then also asks whether the key may write users and fees, "
                        "as posting payments needs it; dry runs don't.",
                        "schema": {"type": ["boolean", "null"], "default": True},
                    },
                },
            }
        ],
    }
