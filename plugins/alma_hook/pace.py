"""Calls at an even pace: never more than the rate in any one second, and no bursts worth the name to catch up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

#: How much longer than a second as many calls take as a second allows: calls do not all travel at the same speed, and
#: Alma counts them as they arrive.
_SLACK = 0.022
#: What is made up for of a delay: a thread that woke late must not cost its time each time.
_CATCH_UP = 0.1
#: After a refusal the rate is halved, down to this share of it, and grows by so much a second until it is whole again.
_LEAST, _GROWTH = 0.1, 0.15


class Pace:
    """Hands out the moments at which calls may leave, ``rate`` a second, to any number of threads.

    ``per_minute``: how many may leave in any minute. ``refused`` tells it that Alma found a call to be one too many:
    the limit is the institution's, and others call as well.
    """

    def __init__(
        self,
        rate: float,
        per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._window = 1.0 + _SLACK
        self._gap = self._window / rate
        if per_minute is not None:
            self._gap = max(self._gap, (60.0 + _SLACK) / per_minute)
        self._clock = clock
        self._pause = pause
        self._next = float("-inf")
        # When the last calls of a second left: one that was late must not meet one that is not.
        self._left: deque[float] = deque([float("-inf")] * max(1, int(self._window / self._gap + 1e-9)))
        self._share, self._refused_at = 1.0, float("-inf")
        self._turn, self._said = threading.Lock(), threading.Lock()

    def wait(self) -> None:
        """Return when the next call may leave. One waits for the moment, the others for their turn."""
        with self._turn:
            now = self._clock()
            planned = max(self._next, now - _CATCH_UP, self._refused_at + 1.0)
            mine = max(now, planned, self._left[0] + self._window)
            if mine > now:
                self._pause(mine - now)
            self._left.popleft()
            self._left.append(max(mine, self._clock()))
            self._next = planned + self._gap / self._share_at(mine)

    def refused(self) -> None:
        """Stop for a second and go on slower: Alma has refused a call. Those refused within a second are one sign."""
        with self._said:
            now = self._clock()
            if now - self._refused_at >= 1.0:
                self._share = max(self._share_at(now) / 2, _LEAST)
                self._refused_at = now

    def _share_at(self, now: float) -> float:
        """The share of the rate that may be used at a moment."""
        return min(1.0, self._share + _GROWTH * max(0.0, now - self._refused_at))
