"""Calls at an even pace: never more than the rate in any one second, and no bursts to catch up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Hands out the moments at which calls may leave, ``rate`` a second, to any number of threads."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap = 1.0 / rate
        self._clock = clock
        self._pause = pause
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next call may leave."""
        with self._lock:
            mine = max(self._clock(), self._next)
            self._next = mine + self._gap
        delay = mine - self._clock()
        if delay > 0:
            self._pause(delay)
