"""The connection type ``alma`` as Airflow's pages ask for it, and its *Test connection* by the API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow import __version__ as airflow_version

from simulator.airflow_home import AirflowHome
from simulator.serve import running

pytestmark = [pytest.mark.airflow, pytest.mark.cluster]
OLD = airflow_version.startswith("3.1.")


@pytest.mark.skipif(OLD, reason="Airflow 3.1 takes a form's fields from the hook's code, with FAB")
def test_the_form_has_its_own_fields(airflow_home: AirflowHome) -> None:
    (alma,) = [
        each
        for each in airflow_home.api("GET", "/ui/connections/hook_meta")
        if each["connection_type"] == "alma"
    ]
    standard = alma["standard_fields"]
    assert {name for name, field in standard.items() if field and field["hidden"]} == {"login", "url_schema"}
    assert (standard["host"]["title"], standard["password"]["title"]) == ("Gateway address", "API key")
    assert standard["port"]["placeholder"] == "443"
    extra = alma["extra_fields"]
    assert set(extra) == {"requests_per_second", "timeout", "write"}
    assert all(field["description"] and field["schema"]["title"] for field in extra.values())
    assert {name: field["value"] for name, field in extra.items()} == {
        "requests_per_second": 10,
        "timeout": 20,
        "write": True,
    }


def test_the_button_tests_a_saved_connection(airflow_home: AirflowHome, tmp_path: Path) -> None:
    """As the page asks: with every field of the form, blank ones too, and the key as asterisks."""
    shown = "" if OLD else "***"  # Airflow 3.1 asks for the key again
    with running(tmp_path, students=2, fees=0) as (_, facts):
        keys = facts["alma"]["api_keys"]

        def tested(key: str, **extra: Any) -> tuple[bool, str]:
            fields = {
                "connection_id": "alma_of_the_form",
                "conn_type": "alma",
                "description": "",
                "host": "http://127.0.0.1",
                "port": facts["alma"]["port"],
                "login": "",
                "schema": "",
                "extra": json.dumps({"requests_per_second": 10, "timeout": 20, "write": True, **extra}),
            }
            airflow_home.api("POST", "/api/v2/connections", {**fields, "password": key})
            try:
                reply = airflow_home.api(
                    "POST", "/api/v2/connections/test", {**fields, "password": shown or key}
                )
            finally:
                airflow_home.api("DELETE", "/api/v2/connections/alma_of_the_form")
            return reply["status"], reply["message"]

        assert tested(keys["read_write"]) == (True, "Alma answers for 01SIMULATED_INST, reading and writing")
        assert tested(keys["read_only"], write=False) == (True, "Alma answers for 01SIMULATED_INST, reading")
        works, message = tested(keys["read_only"])
        assert (works, "the key may not write" in message) == (False, True)
        works, message = tested("no such key")
        assert (works, "The API key is wrong" in message) == (False, True)
