"""The simulator's own controls, as JSON over HTTP under ``/simulator``. Alma has nothing like it.

GET  /simulator/state                     what there is, which faults fired, how many calls came
GET  /simulator/books                     both sides of every fee, in cents
POST /simulator/new_fees {"count": 5}     and the other campus actions, see ACTIONS
POST /simulator/advance {"hours": 24}     move the simulated clock
POST /simulator/limits {"remaining": 10, "per_second": 5}
POST /simulator/faults {"http": {"kind": "drop_after", "path": "op=pay"}}
POST /simulator/faults {"sftp": {"op": "rename", "when": "after", "action": "drop"}}
POST /simulator/faults {"move_on_arrival": true, "forbid_temp_names": false, "clear": true}
"""

import json
from dataclasses import asdict
from typing import Any

from simulator.campus import Campus
from simulator.wire import Request, Response, json_response

ACTIONS = (
    "new_fees",
    "students_pay",
    "overpay",
    "bounce",
    "desk_payments",
    "waives",
    "refresh_analytics",
    "load_inbound",
    "write_query_output",
    "write_sis_export",
)


class Control:
    """Answers the paths above for one campus; every answer carries ``"simulator": true``."""

    def __init__(self, campus: Campus) -> None:
        self.campus = campus

    def handle(self, request: Request) -> Response:
        """One control request. A bad one is answered with 400 and says what was wrong."""
        try:
            asked: dict[str, Any] = json.loads(request.body or b"{}")
            name = request.segments[1] if len(request.segments) == 2 else ""
            if request.method == "GET" and name == "books":
                return _answer(self._books())
            if request.method == "GET" and name == "state":
                return _answer(self._state())
            if request.method == "POST" and name == "faults":
                return _answer(self._faults(asked))
            if request.method == "POST" and name == "limits":
                return _answer(self._limits(**asked))
            if request.method == "POST" and name == "advance":
                return _answer({"now": self.campus.clock.advance(**asked).isoformat()})
            if request.method == "POST" and name in ACTIONS:
                return _answer({name: self._act(name, asked)})
        except (TypeError, ValueError, KeyError) as wrong:
            return _answer({"error": str(wrong)}, 400)
        return _answer(
            {"error": f"no such control: {request.method} {request.path}", "actions": ACTIONS}, 404
        )

    def _act(self, name: str, asked: dict[str, Any]) -> Any:
        done = getattr(self.campus, name)(**asked)
        if name == "new_fees":
            return [fee.id for fee in done]
        if name == "load_inbound":
            return [asdict(result) for result in done]
        return done

    def _books(self) -> dict[str, Any]:
        books = self.campus.books()
        return {
            "alma_cents": books.alma_cents,
            "peoplesoft_cents": books.peoplesoft_cents,
            "unapplied_cents": books.unapplied_cents,
            "unequal": len(books.unequal),
            "foreign": books.foreign,
            "fees": [asdict(fee) for fee in books.fees.values()],
        }

    def _state(self) -> dict[str, Any]:
        campus = self.campus
        updated = campus.analytics.updated_at
        with campus.alma.lock:
            statuses: dict[str, int] = {}
            for fee in campus.alma.fees.values():
                statuses[fee.status] = statuses.get(fee.status, 0) + 1
        return {
            "now": campus.clock.now().isoformat(),
            "institution": campus.alma.institution,
            "students": len(campus.students),
            "fees": statuses,
            "oddities": asdict(campus.oddities),
            "analytics_updated": None if updated is None else updated.isoformat(),
            "items": len(campus.peoplesoft.items),
            "payments": len(campus.peoplesoft.payments),
            "loads": [asdict(load) for load in campus.peoplesoft.loads],
            "calls": {
                "logged": len(campus.api.calls),
                "today": campus.limits.used,
                "remaining": campus.limits.remaining,
                "peak_per_second": campus.limits.peak,
            },
            "faults": self._shown_faults(),
        }

    def _limits(self, remaining: int | None = None, per_second: int | None = None) -> dict[str, Any]:
        limits = self.campus.limits
        if remaining is not None:
            limits.remaining = int(remaining)
        if per_second is not None:
            limits.per_second = int(per_second)
        return {"limits": {"remaining": limits.remaining, "per_second": limits.per_second}}

    def _faults(self, asked: dict[str, Any]) -> dict[str, Any]:
        faults = self.campus.faults
        unknown = set(asked) - {"http", "sftp", "clear", "move_on_arrival", "forbid_temp_names"}
        if unknown:
            raise ValueError(f"unknown: {sorted(unknown)}")
        if asked.get("clear"):
            faults.clear()
        if "http" in asked:
            faults.add_http(**asked["http"])
        if "sftp" in asked:
            faults.add_sftp(**asked["sftp"])
        faults.move_on_arrival = bool(asked.get("move_on_arrival", faults.move_on_arrival))
        faults.forbid_temp_names = bool(asked.get("forbid_temp_names", faults.forbid_temp_names))
        return {"faults": self._shown_faults()}

    def _shown_faults(self) -> dict[str, Any]:
        faults = self.campus.faults
        return {
            "http": [rule.shown() for rule in faults.http],
            "sftp": [rule.shown() for rule in faults.sftp],
            "move_on_arrival": faults.move_on_arrival,
            "forbid_temp_names": faults.forbid_temp_names,
        }


def _answer(shown: dict[str, Any], status: int = 200) -> Response:
    return json_response(json.dumps({"simulator": True, **shown}).encode(), status)
