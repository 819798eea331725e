"""The simulated Alma in a process of its own: as slow as it is told, and strict about every second."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from simulator.alma import AlmaModel
from simulator.alma_api import FULL_KEY, AlmaApi
from simulator.alma_http import AlmaServer
from simulator.limits import Limits
from simulator.wire import Request, Response

KEY = FULL_KEY.value
INSTITUTION = "01CAMPUS_INST"


@dataclass(frozen=True, slots=True)
class Seen:
    """What Alma saw since the last ``begin``: when calls arrived (monotonic seconds), and how many it refused."""

    arrived: tuple[float, ...]
    refused: int

    @property
    def rate(self) -> float:
        """Calls a second from the first to the last, those refused left out."""
        return (len(self.arrived) - 1 - self.refused) / (self.arrived[-1] - self.arrived[0])


class FarAlma:
    """The near end of the other process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.url = str(pipe.recv())

    def _ask(self, *question: Any) -> Any:
        self._pipe.send(question)
        return self._pipe.recv()

    def begin(self, per_second: int, latency: float, per_minute: int | None = None) -> None:
        """From now on allow so many calls, and take so many seconds for each; count anew."""
        self._ask("begin", per_second, latency, per_minute)

    def seen(self) -> Seen:
        """What was seen since then."""
        return Seen(*self._ask("seen"))

    def fees(self, count: int, cents: int = 1000) -> list[tuple[str, str]]:
        """Make that many users with a fee each; return their ids and the fees'."""
        return list(self._ask("fees", count, cents))


@contextmanager
def far_alma() -> Iterator[FarAlma]:
    """Run it until the block ends."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=_serve, args=(far,), daemon=True)
    process.start()
    try:
        yield FarAlma(near)
    finally:
        near.send(("end",))
        process.join(5)


class _Slow:
    """Counts each call as it arrives, lets Alma answer it, and holds the answer back."""

    def __init__(self, api: AlmaApi) -> None:
        self.api = api
        self.latency = 0.0
        self.arrived: list[float] = []
        self.refused = 0

    def handle(self, request: Request) -> Response:
        began = time.monotonic()
        self.arrived.append(began)
        answer = self.api.handle(request)
        if answer.status == 429:
            self.refused += 1
        else:
            time.sleep(max(0.0, began + self.latency - time.monotonic()))
        return answer


def _serve(pipe: Connection) -> None:
    model = AlmaModel(INSTITUTION)
    api = AlmaApi(model, limits=Limits(per_second=1000, per_day=10**9))
    slow = _Slow(api)
    made = 0
    with AlmaServer(slow) as server:
        pipe.send(server.url)
        while True:
            match pipe.recv():
                case ("begin", per_second, latency, per_minute):
                    api.limits = Limits(per_second=per_second, per_minute=per_minute, per_day=10**9)
                    slow.latency, slow.arrived, slow.refused = latency, [], 0
                    pipe.send(None)
                case ("seen",):
                    pipe.send((tuple(slow.arrived), slow.refused))
                case ("fees", count, cents):
                    found = []
                    for number in range(made, made + count):
                        user = model.add_user(f"{number:09d}")
                        found.append((user.primary_id, model.add_fee(user, cents).id))
                    made += count
                    pipe.send(found)
                case _:
                    return
