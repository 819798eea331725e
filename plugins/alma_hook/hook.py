"""Alma as an Airflow connection.

Airflow's http provider builds the session (TLS, proxy, client certificate); the calls are made
here. Its own ``run()`` would fetch the connection for each call, write bodies of errors to the log
and, for asynchronous calls, repeat a POST that failed.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from airflow.sdk import BaseHook

from alma_hook.errors import (
    AlmaHookError,
    Fault,
    NotPermitted,
    OutcomeUnknown,
    QuotaSpent,
    Retriable,
    SettingsError,
)

if TYPE_CHECKING:
    from requests import Session

    from alma_hook.alma import AlmaApi, Request
    from alma_hook.alma_answers import Reply

#: What the session itself understands of a connection's extra; all else is ours and never sent.
_SESSION_EXTRAS = ("proxies", "proxy", "verify", "verify_ssl", "cert", "trust_env")
_CONNECT_SECONDS = 10
#: With the deadline of a posting well below the shortest quiet period of two minutes.
_MOST_SECONDS = 25
_MOST_CALLS = 1000
_MOST_CALLS_A_MINUTE = 60_000
#: Alma takes up to a second or two for a call. With more under way than leave in this time, they would only wait in line.
_SECONDS_UNDER_WAY = 2.5


class AlmaHook(BaseHook):
    """A connection of type ``alma``: host is the API gateway's address, password the API key.

    Extra: ``requests_per_second`` (default 10), ``requests_per_minute`` (default none), ``timeout`` in seconds
    (default 20), ``write`` (default true), and the http provider's ``proxies``, ``verify``, ``cert``, ``trust_env``.
    ``reserve`` daily calls are left to the campus's other integrations; ``share`` of the rate is this hook's.
    ``workers``: calls under way at once, at most; from ``get_conn`` on, as many as the rate can use.
    """

    conn_name_attr = "alma_conn_id"
    default_conn_name = "alma_default"
    conn_type = "alma"
    hook_name = "Ex Libris Alma"

    def __init__(
        self, alma_conn_id: str = default_conn_name, *, reserve: int = 0, workers: int = 8, share: float = 1.0
    ) -> None:
        super().__init__()
        self.alma_conn_id = alma_conn_id
        self.reserve = reserve
        self.workers = workers
        self.share = share
        self.remaining: int | None = None
        self._under_way = 0
        self._counting = threading.Lock()
        self._api: AlmaApi | None = None
        self._may_write = True
        self._close: Callable[[], None] = lambda: None

    def get_conn(self) -> AlmaApi:
        """Return Alma's API over this connection; the connection is fetched once."""
        if self._api is None:
            from alma_hook.alma import AlmaApi
            from alma_hook.pace import Pace

            session, base, extra = self._session()
            self._close = session.close
            rate = self.share * self._number(extra, "requests_per_second", 10, _MOST_CALLS)
            per_minute = None
            if extra.get("requests_per_minute"):
                per_minute = self.share * self._number(extra, "requests_per_minute", 0, _MOST_CALLS_A_MINUTE)
            pace = Pace(rate, per_minute)
            self.workers = min(self.workers, math.ceil(_SECONDS_UNDER_WAY * rate))
            timeout = (_CONNECT_SECONDS, self._number(extra, "timeout", 20, _MOST_SECONDS))

            def send(request: Request) -> Reply:
                with self._within_reserve():
                    pace.wait()
                    reply = _send(session, base, request, timeout)
                    self._note_quota(reply)
                if reply.status == 429:
                    pace.refused()
                return reply

            self._may_write = bool(extra.get("write", True))
            self._api = AlmaApi(send)
        return self._api

    def close(self) -> None:
        """Give the sockets back; the next call opens them again."""
        self._close()

    def test_connection(self) -> tuple[bool, str]:
        """Ask Alma who the key belongs to and, when it is to write, whether it may."""
        answers = ""
        try:
            api = self.get_conn()
            answers = f"Alma answers for {api.institution()}"
            if not self._may_write:
                return True, f"{answers}, reading"
            api.check_write()
        except NotPermitted as error:
            if not answers:
                return False, str(error)
            return False, (
                f"{answers}, but the key may not write (Alma code {error.code}). Payments can't be posted with it: give it "
                "the area Users with read/write. For dry runs only, switch the test of that off."
            )
        except AlmaHookError as error:
            unheard = isinstance(error, Retriable) and error.code is None
            where = " Is the gateway's address right, and may this machine reach it?" if unheard else ""
            return False, f"{error}{where}"
        finally:
            self.close()
        return True, f"{answers}, reading and writing"

    def _number(self, extra: dict[str, Any], name: str, default: float, most: float) -> float:
        try:
            value = float(extra.get(name) or default)
        except (TypeError, ValueError):
            value = 0.0
        if not 0 < value <= most:
            fault = Fault(
                "connection",
                f"extra {name} must be a number above nought, {most:g} at most",
                field=self.alma_conn_id,
            )
            raise SettingsError("The connection to Alma can't be used.", [fault])
        return value

    def _note_quota(self, reply: Reply) -> None:
        left = reply.headers.get("x-exl-api-remaining", "")
        if not left.isdecimal():
            return
        with self._counting:
            # Answers overtake each other, so the least that was told holds; much more than that is a new day's.
            if self.remaining is None or int(left) > self.remaining + 2 * self.workers:
                self.remaining = int(left)
            self.remaining = min(self.remaining, int(left))

    @contextmanager
    def _within_reserve(self) -> Iterator[None]:
        """Make a call only if the reserve is left whole, should Alma not have counted any of those under way."""
        with self._counting:
            if self.remaining is not None and self.remaining - self._under_way <= self.reserve:
                raise QuotaSpent(
                    f"{self.remaining} of today's API calls are left, and {self.reserve} are kept for the campus's other "
                    "integrations. What was read or posted stays; the next run goes on from there."
                )
            self._under_way += 1
        try:
            yield
        finally:
            with self._counting:
                self._under_way -= 1

    def _require_address(self, host: str, port: int | None) -> None:
        """Raise ``SettingsError`` unless host and port make an address. What stands there is not told: it may be a key."""
        try:
            parts = urlsplit(host)
            twice = parts.port is not None and port is not None
            whole = parts.scheme in ("http", "https") and parts.hostname and not re.search(r"[\s@?#]", host)
        except ValueError:
            twice, whole = False, False
        if whole and not twice:
            return
        said = (
            "its port stands in host and in port: leave one of them out"
            if twice
            else "host is no address such as https://api-na.hosted.exlibrisgroup.com, and the port by itself or behind a colon"
        )
        fault = Fault("connection", said, field=self.alma_conn_id)
        raise SettingsError("The connection to Alma can't be used.", [fault])

    def _session(self) -> tuple[Session, str, dict[str, Any]]:
        from airflow.providers.http.hooks.http import HttpHook
        from airflow.sdk import Connection
        from requests.adapters import HTTPAdapter

        from alma_hook.airflow_names import connection_of

        connection = connection_of(self.alma_conn_id)
        key, host = connection.password, (connection.host or "").rstrip("/")
        if not key or not host:
            raise NotPermitted(f"Connection {self.alma_conn_id} lacks the gateway's address or the API key.")
        if "://" not in host:
            host = f"https://{host}"
        extra: dict[str, Any] = connection.extra_dejson
        plain = Connection(
            conn_id=self.alma_conn_id, conn_type="http", host=host, port=connection.port,
            extra=json.dumps({name: extra[name] for name in _SESSION_EXTRAS if name in extra}),
        )  # fmt: skip

        class _Http(HttpHook):
            @classmethod
            def get_connection(cls, _conn_id: str) -> Any:
                return plain

        self._require_address(host, connection.port)
        http = _Http(adapter=HTTPAdapter(pool_maxsize=self.workers, max_retries=0))
        session = http.get_conn(headers={"Authorization": f"apikey {key}"})
        # At level DEBUG it writes every address, and ours hold user ids.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
        return session, http.base_url + "/almaws/v1", extra


def _send(session: Session, base: str, request: Request, timeout: tuple[float, float]) -> Reply:
    import requests

    from alma_hook.alma_answers import Reply

    if request.send_before is not None and time.monotonic() > request.send_before:
        raise Retriable("The call waited too long for its turn and was not sent.")
    url = base + request.path
    if request.query:
        url += "?" + urlencode(request.query, quote_via=quote, safe="")
    headers = {"Accept": request.accept}
    if request.body is not None:
        headers["Content-Type"] = "application/json"
    try:
        response = session.request(
            request.method, url, data=request.body, headers=headers, timeout=timeout, allow_redirects=False
        )
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise NotPermitted("The gateway's certificate is not trusted; nothing was sent.") from None
        raise OutcomeUnknown("The encrypted connection to Alma broke off before the answer came.") from None
    except (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError) as error:
        raise Retriable(f"Alma can't be reached ({type(error).__name__}); nothing was sent.") from None
    except requests.exceptions.ConnectionError as error:
        if _never_connected(error):
            raise Retriable("Alma can't be reached (no connection); nothing was sent.") from None
        raise OutcomeUnknown("The connection to Alma broke off before the answer came.") from None
    except requests.exceptions.RequestException as error:
        raise OutcomeUnknown(f"Alma's answer did not come ({type(error).__name__}).") from None
    lower = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, lower, response.content)


def _never_connected(error: Exception) -> bool:
    from urllib3.exceptions import NewConnectionError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError)
