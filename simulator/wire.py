"""Requests, answers and the forms Alma's errors take. No socket here: HTTP is one way of carrying them."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from urllib.parse import parse_qsl, unquote

from simulator.faults import ErrorForm


class ConnectionDropped(ConnectionError):
    """The connection is to be cut without an answer. In-process callers see this exception itself."""


@dataclass(frozen=True)
class Request:
    """One HTTP request. ``path`` is still percent-encoded and has no query; ``headers`` any case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def of(
        cls, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> "Request":
        """A request from a target such as ``/almaws/v1/users/0001/fees?status=CLOSED``."""
        path, _, query = target.partition("?")
        return cls(method, path, dict(parse_qsl(query, keep_blank_values=True)), headers or {}, body)

    def header(self, name: str) -> str:
        """A header's value, the empty text when it is absent."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), "")

    @property
    def segments(self) -> list[str]:
        """The path's segments, each decoded after splitting, so ``%2F`` stays inside its segment."""
        return [unquote(segment) for segment in self.path.split("/") if segment]

    @property
    def readable(self) -> str:
        """Decoded path and query without the key: what fault rules and the call log look at."""
        shown = "&".join(f"{name}={value}" for name, value in self.query.items() if name != "apikey")
        return unquote(self.path) + (f"?{shown}" if shown else "")

    @property
    def wants_json(self) -> bool:
        """``format`` decides, then Accept; without either, and for ``*/*``, Alma answers in XML."""
        if "format" in self.query:
            return self.query["format"] == "json"
        return "json" in self.header("Accept")


@dataclass(frozen=True)
class Response:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()


def json_response(body: bytes, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(status, {"Content-Type": "application/json;charset=UTF-8"}, body)


def xml_response(body: bytes, status: int = 200) -> Response:
    """An XML answer."""
    return Response(status, {"Content-Type": "application/xml;charset=UTF-8"}, body)


def tracking_id(rng: random.Random) -> str:
    """What Ex Libris support asks for, in its usual shape."""
    return f"E01-{rng.randrange(10**9, 10**10)}-SIMUL-AWAE{rng.randrange(10**9, 10**10)}"


def error_response(status: int, code: str, message: str, form: ErrorForm, tracking: str) -> Response:
    """An error in one of the forms a client meets: two JSON shapes, XML, or no error body at all."""
    if form == "json":
        shown: dict[str, object] = {
            "errorsExist": True,
            "errorList": {"error": [{"errorCode": code, "errorMessage": message, "trackingId": tracking}]},
            "result": None,
        }
        return json_response(json.dumps(shown).encode(), status)
    if form == "gateway_json":
        # The gateway's shape: ``error`` is an object, not a list.
        shown = {
            "web_service_result": {
                "errorsExist": True,
                "errorList": {"error": {"errorCode": code, "errorMessage": message}},
            }
        }
        return json_response(json.dumps(shown).encode(), status)
    if form == "xml":
        body = (
            '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
            '<web_service_result xmlns="http://com/exlibris/urm/general/xmlbeans">'
            "<errorsExist>true</errorsExist><errorList><error>"
            f"<errorCode>{escape(code)}</errorCode><errorMessage>{escape(message)}</errorMessage>"
            f"<trackingId>{tracking}</trackingId></error></errorList></web_service_result>"
        )
        return xml_response(body.encode(), status)
    if form == "html":
        return Response(
            status, {"Content-Type": "text/html"}, b"<html><body><h1>Service unavailable</h1></body></html>"
        )
    if form == "text":
        return Response(status, {"Content-Type": "text/plain;charset=UTF-8"}, message.encode())
    return Response(status, {"Content-Type": "text/plain;charset=UTF-8"}, b"")
