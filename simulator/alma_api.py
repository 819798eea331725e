"""Alma's REST gateway: keys, limits, faults, and then the call itself. One function, no socket."""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from simulator.alma import AlmaModel
from simulator.alma_calls import AlmaCalls
from simulator.alma_records import AlmaRefusal
from simulator.analytics import Analytics, AnalyticsFailure
from simulator.faults import Faults, HttpRule
from simulator.limits import Limits
from simulator.wire import ConnectionDropped, Request, Response, error_response, json_response, tracking_id

Area = Literal["users", "conf", "analytics"]
PREFIX = ["almaws", "v1"]


@dataclass(frozen=True)
class ApiKey:
    """A key and what it may do: areas it may read and areas it may write (writing includes reading)."""

    value: str
    read: frozenset[str] = frozenset({"users", "conf", "analytics"})
    write: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Call:
    """One line of the call log; ``target`` is decoded and without the key."""

    method: str
    target: str
    status: int


FULL_KEY = ApiKey("simulated-key-read-write", write=frozenset({"users"}))
READ_KEY = ApiKey("simulated-key-read-only")
USERS_ONLY_KEY = ApiKey("simulated-key-users-only", frozenset({"users"}), frozenset({"users"}))


class AlmaApi:
    """Answers requests from an AlmaModel.

    ``handle`` is thread-safe. It raises ConnectionDropped where a fault cuts the connection.
    ``before_call`` is run before each call is applied, so that a test can let something happen in between.
    ``calls`` is the log (last 20,000), ``status`` 0 where the connection was cut.
    """

    def __init__(
        self,
        model: AlmaModel,
        faults: Faults | None = None,
        limits: Limits | None = None,
        *,
        keys: Iterable[ApiKey] = (FULL_KEY, READ_KEY, USERS_ONLY_KEY),
        analytics: Analytics | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.model = model
        self.faults = faults or Faults()
        self.limits = limits or Limits(clock=model.clock)
        self.keys = {key.value: key for key in keys}
        self.analytics = analytics or Analytics(model)
        self.calls: deque[Call] = deque(maxlen=20_000)
        self.before_call: Callable[[Request], None] | None = None
        self._routes = AlmaCalls(model, self.analytics)
        self._sleep = sleep
        self._rng = random.Random(1)
        self._count_lock = threading.Lock()

    def handle(self, request: Request) -> Response:
        """The answer to one request, with X-Exl-Api-Remaining on it."""
        try:
            response = self._gateway(request)
        except ConnectionDropped:
            self.calls.append(Call(request.method, request.readable, 0))
            raise
        response.headers.setdefault("Server", "CA-API-Gateway/9.0 (simulator)")
        response.headers["X-Exl-Api-Remaining"] = str(self.limits.remaining)
        response.headers["X-Request-ID"] = f"sim{len(self.calls):07d}"
        self.calls.append(Call(request.method, request.readable, response.status))
        return response

    def call_count(self, method: str | None = None, containing: str = "") -> int:
        """How many logged calls have this method and this text in their target."""
        with self._count_lock:
            return sum(
                1
                for call in list(self.calls)
                if (method is None or call.method == method) and containing in call.target
            )

    def _gateway(self, request: Request) -> Response:
        key = self._key(request)
        if key is None:
            return self._error(request, 403, "INVALID_REQUEST", "Invalid API Key", gateway=True)
        refused = self.limits.take()
        if refused is not None:
            message = (
                "HTTP requests are more than allowed per second. See https://goo.gl/2x1c1M "
                if refused == "PER_SECOND_THRESHOLD"
                else "Daily API request threshold reached"
            )
            return self._error(request, 429, refused, message, gateway=True)
        if not self._allowed(key, request):
            # Alma's gateway says 400, and in XML whatever was asked for.
            return error_response(
                400,
                "UNAUTHORIZED",
                "API-key not defined or not configured to allow this API.",
                "xml",
                tracking_id(self._rng),
            )
        rule = self.faults.due_http(request.method, request.readable)
        if rule is None:
            return self._apply(request)
        return self._faulty(request, rule)

    def _faulty(self, request: Request, rule: HttpRule) -> Response:
        tracking = tracking_id(self._rng)
        if rule.kind in ("refuse", "fail_before"):
            return error_response(rule.status, rule.code, rule.message, rule.form, tracking)
        if rule.kind == "out_of_quota":
            return self._error(
                request, 429, "DAILY_THRESHOLD", "Daily API request threshold reached", gateway=True
            )
        if rule.kind == "drop_before":
            raise ConnectionDropped("dropped before applying")
        if rule.kind == "delay_before":
            self._sleep(rule.seconds)
        if rule.kind == "meanwhile_before":
            _let_happen(rule)
        response = self._apply(request)
        if rule.kind == "fail_after":
            return error_response(rule.status, rule.code, rule.message, rule.form, tracking)
        if rule.kind == "drop_after":
            raise ConnectionDropped("dropped after applying")
        if rule.kind == "delay_after":
            self._sleep(rule.seconds)
        if rule.kind == "meanwhile_after":
            _let_happen(rule)
        if rule.kind == "broken_body":
            if rule.body == "html":
                return Response(200, {"Content-Type": "text/html"}, b"<html><body>Please wait</body></html>")
            return Response(200, response.headers, response.body[: len(response.body) // 2])
        if rule.kind == "partial_list":
            return _without_last_fee(response)
        return response

    def _apply(self, request: Request) -> Response:
        if self.before_call is not None:
            self.before_call(request)
        try:
            return self._routes.call(request)
        except AlmaRefusal as refusal:
            return self._error(request, 400, refusal.code, refusal.message)
        except AnalyticsFailure as failure:
            return self._error(request, failure.status, failure.code, failure.message)

    def _key(self, request: Request) -> ApiKey | None:
        scheme, _, value = request.header("Authorization").partition(" ")
        if scheme.lower() == "apikey":
            return self.keys.get(value.strip())
        return self.keys.get(request.query.get("apikey", ""))

    def _allowed(self, key: ApiKey, request: Request) -> bool:
        segments = request.segments
        area = segments[2] if len(segments) > 2 else ""
        return area in key.write or (request.method == "GET" and area in key.read)

    def _error(
        self, request: Request, status: int, code: str, message: str, *, gateway: bool = False
    ) -> Response:
        json_form: Literal["gateway_json", "json"] = "gateway_json" if gateway else "json"
        return error_response(
            status, code, message, json_form if request.wants_json else "xml", tracking_id(self._rng)
        )


def _let_happen(rule: HttpRule) -> None:
    if rule.meanwhile is not None and not rule.meanwhile():
        raise ConnectionDropped("dropped with what happened meanwhile")


def _without_last_fee(response: Response) -> Response:
    """The same JSON list with its last fee missing and the totals of the whole."""
    try:
        shown = json.loads(response.body)
    except ValueError:
        return response
    if shown.get("fee"):
        shown["fee"] = shown["fee"][:-1]
    return json_response(json.dumps(shown).encode())
