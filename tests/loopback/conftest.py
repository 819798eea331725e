"""A simulated campus behind real sockets on 127.0.0.1, and Airflow connections to it by environment."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

# Before the first import of Airflow, which else writes its configuration into the home folder.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

from alma_hook.alma import AlmaApi
from simulator.alma_api import FULL_KEY
from simulator.alma_http import AlmaServer
from simulator.campus import Campus
from simulator.sftp import SftpServer
from simulator.wire import Request, Response

Connect = Callable[..., None]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """``connect("alma_default", conn_type="alma", host=..., extra={...})`` makes an Airflow connection."""

    def by_environment(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return by_environment


@pytest.fixture
def campus(tmp_path: Path) -> Campus:
    """A small campus without fees, whose limits are far above what a test calls."""
    made = Campus(tmp_path / "far", students=6, fees=0)
    made.limits.per_second = 10_000
    return made


class Supervisor:
    """What a worker's supervisor answers a task: variables it keeps, of connections it has none."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}

    def send(self, message: Any) -> Any:
        """Answer one message of the task."""
        from airflow.sdk.exceptions import ErrorType
        from airflow.sdk.execution_time.comms import ErrorResponse, VariableResult

        kind = type(message).__name__
        if kind == "PutVariable":
            self.variables[message.key] = message.value
            return None
        if kind == "GetVariable" and message.key in self.variables:
            return VariableResult(key=message.key, value=self.variables[message.key])
        missing = {
            "GetVariable": ErrorType.VARIABLE_NOT_FOUND,
            "GetConnection": ErrorType.CONNECTION_NOT_FOUND,
        }
        # Airflow 3.1 tells it what to mask, too.
        return ErrorResponse(error=missing[kind]) if kind in missing else None


@pytest.fixture(autouse=True)
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """The process above the task's, which a task asks for what lies in Airflow's database."""
    from airflow.sdk.execution_time import task_runner

    answering = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", answering, raising=False)
    return answering


@dataclass
class Recorder:
    """Stands before the simulator and keeps every request as it came over the wire."""

    campus: Campus
    requests: list[Request] = field(default_factory=list)

    def handle(self, request: Request) -> Response:
        """Keep the request and let Alma answer it."""
        self.requests.append(request)
        return self.campus.api.handle(request)

    def sent(self, method: str) -> list[Request]:
        """The requests of a method, in their order."""
        return [request for request in self.requests if request.method == method]


@pytest.fixture
def recorder(campus: Campus) -> Recorder:
    return Recorder(campus)


@pytest.fixture
def alma(recorder: Recorder, connect: Connect) -> Iterator[AlmaServer]:
    """Alma over HTTP, and ``alma_default`` leading there with a key that may write."""
    with AlmaServer(recorder) as server:
        connect("alma_default", conn_type="alma", host=server.url, password=FULL_KEY.value)
        yield server


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated readings follow at once: how often is asked here, not how long is waited."""
    defaults = AlmaApi.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "pause", lambda _seconds: None)


@pytest.fixture
def sftp(campus: Campus, connect: Connect) -> Iterator[SftpServer]:
    """The campus's SFTP server, and ``sfs_sftp`` leading there with its host key."""
    with campus.sftp_server() as server:
        connect("sfs_sftp", **sftp_fields(server))
        yield server


def sftp_fields(server: SftpServer, **changed: Any) -> dict[str, Any]:
    """The fields of a right connection to a server, with some of them changed."""
    fields: dict[str, Any] = {
        "conn_type": "sftp",
        "host": "127.0.0.1",
        "port": server.port,
        "login": server.username,
        "password": server.password,
        "extra": {"host_key": server.host_key},
    }
    return {**fields, **changed}


@contextmanager
def answering(status: int, body: bytes, content_type: str = "text/html") -> Iterator[str]:
    """The address of a server that has one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815 the names that http.server looks for

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
