"""What a message holds, and what it never may."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from alma_hook import campus as settings
from alma_hook.errors import Fault, QuotaSpent, SendingStopped, SettingsError
from alma_hook.operators import alerting

SHIPPED = Path(__file__).resolve().parents[2] / "include" / "campus.toml"
DOC = """
| task | when it is red |
|---|---|
| `read_fees`, `all_users` | Alma is down. Clear it. |
"""


class AirflowFailException(Exception):
    """By this name Airflow's own is known."""


@pytest.mark.parametrize(
    ("error", "cause", "said"),
    [
        (AirflowFailException("SendingStopped: The ledger is older."), "sending stopped", "SendingStopped: The ledger is older."),
        (SendingStopped("The ledger is older."), "sending stopped", "SendingStopped: The ledger is older."),
        (QuotaSpent("2000 calls are left."), "API reserve reached", "QuotaSpent: 2000 calls are left."),
        (SettingsError("Faults:", [Fault("campus.toml", "what", field="live")]), "task failed",
         "SettingsError: Faults:\n  campus.toml, live: what"),
        (KeyError("Kim Miller, 900000001"), "task failed", "KeyError; the log says more."),
        (AirflowFailException("Miller: 900000001"), "task failed", "AirflowFailException; the log says more."),
        (None, "task failed", "NoneType; the log says more."),
    ],
)  # fmt: skip
def test_ours_is_told_in_full_and_of_others_the_kind(error: object, cause: str, said: str) -> None:
    assert alerting._of_error(error) == (cause, said)


def test_what_a_red_task_means_stands_in_the_dags_own_table() -> None:
    assert alerting.runbook(DOC, "all_users") == "Alma is down. Clear it."
    assert alerting.runbook(DOC, "report") == "see docs/operations.md"


def test_the_words_of_a_message_go_where_the_settings_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "campus.toml"
    text = SHIPPED.read_text()
    message = alerting.Message("late", "alma_to_sis", ("Nothing ran.", "", "{{ 1 + 1 }} <b>"))
    file.write_text(text)
    alerting.send(settings.load(file), message, {})
    assert "Nothing ran." in caplog.text
    assert "nobody is told" in caplog.text

    file.write_text(
        text
        + """
[alerts]
notifier = "tests.unit.test_alerting.Notifier"
arguments = { to = ["ops"], title = "{subject}", body = "{text}", more = { page = "{html}" } }
"""
    )
    alerting.send(settings.load(file), message, {})
    assert Notifier.sent == [
        {
            "to": ["ops"],
            "title": "[01CAMPUS_INST] late: alma_to_sis",
            "body": "Nothing ran.\n\n{{ 1 + 1 }} <b>",
            "more": {"page": "<pre>Nothing ran.\n\n{{ 1 + 1 }} &lt;b&gt;</pre>"},
        }
    ]


class Notifier:
    """Takes what it is given."""

    sent: ClassVar[list[dict[str, object]]] = []

    def __init__(self, **arguments: object) -> None:
        self.arguments = arguments

    def notify(self, _context: object) -> None:
        self.sent.append(self.arguments)
