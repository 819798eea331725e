"""The simulator's HTTP server: a thread a connection around ``AlmaApi.handle``."""

import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, Self

from simulator.address import LOOPBACK, listens_on
from simulator.wire import ConnectionDropped, Request, Response

_log = logging.getLogger(__name__)


class Handler(Protocol):
    """Whatever answers requests: Alma, or the simulator's own control."""

    def handle(self, request: Request) -> Response:
        """Answer one request, or raise ConnectionDropped."""
        ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    api: Handler
    control: Handler | None

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hung up is no news.
        _log.debug("connection with %s ended", client_address, exc_info=True)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request.of(self.command, self.path, dict(self.headers.items()), body)
        handler = self.server.api
        if self.server.control is not None and request.segments[:1] == ["simulator"]:
            handler = self.server.control
        try:
            response = handler.handle(request)
        except ConnectionDropped:
            self.close_connection = True
            return
        except Exception:  # noqa: BLE001 - a defect here must not look like a dropped connection
            _log.exception("the simulator itself failed on %s %s", request.method, request.readable)
            response = Response(500, {"Content-Type": "text/plain"}, b"the simulator itself failed")
        head = [f"HTTP/1.1 {response.status} {self.responses.get(response.status, ('',))[0]}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        head += [f"Date: {self.date_time_string()}", f"Content-Length: {len(response.body)}", "", ""]
        # One write: a head and a body sent apart wait for each other's acknowledgement.
        self.wfile.write("\r\n".join(head).encode("latin-1") + response.body)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the names http.server looks for

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: targets may carry keys."""


class AlmaServer:
    """``with AlmaServer(api) as server: server.url``: serves until the block ends.

    ``port`` 0 takes a free one. ``control`` answers paths under ``/simulator``. ``name``: what other machines
    call this one; they are only listened to if it has one.
    """

    def __init__(
        self, api: Handler, *, port: int = 0, control: Handler | None = None, name: str = LOOPBACK
    ) -> None:
        self._server = _Server((listens_on(name), port), _Connection)
        self._name = name
        self._server.api = api
        self._server.control = control
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="simulated-alma",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """``http://NAME:PORT``, without ``/almaws/v1``."""
        return f"http://{self._name}:{self.port}"

    def start(self) -> Self:
        """Begin serving in a background thread."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and close the socket."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(timeout=5)
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
