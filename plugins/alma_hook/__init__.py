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
                    "hidden-fields": ["login", "port", "schema"],
                    "relabeling": {"host": "Gateway address", "password": "API key"},
                    "placeholders": {"host": "https://api-na.hosted.exlibrisgroup.com"},
                },
                "conn-fields": {
                    "requests_per_second": {
                        "label": "Requests per second",
                        "description": "This package's share of the institution's limit. Sandboxes allow 10.",
                        "schema": {"type": ["integer", "null"], "default": 10, "minimum": 1, "maximum": 50},
                    },
                    "timeout": {
                        "label": "Timeout (seconds)",
                        "description": "How long one call may take before its outcome counts as unclear.",
                        "schema": {"type": ["integer", "null"], "default": 20, "minimum": 1, "maximum": 25},
                    },
                    "write": {
                        "label": "Key may write",
                        "description": "When set, Test connection also asks for write permission.",
                        "schema": {"type": ["boolean", "null"], "default": True},
                    },
                },
            }
        ],
    }
