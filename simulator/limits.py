"""Alma's call limits: so many in any one second, so many a day, counted over all keys."""

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import date

from simulator.clock import Clock


class Limits:
    """Counts calls. The second is the machine's own (``monotonic``), the day the simulated clock's UTC day.

    ``peak`` is the most calls that arrived within any one second, refused ones included: what a
    pacing test looks at. Refused calls use up neither limit.
    """

    def __init__(
        self,
        per_second: int = 50,
        per_minute: int | None = None,
        per_day: int = 1_000_000,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_second = per_second
        self.per_minute = per_minute
        self.per_day = per_day
        self.peak = 0
        self._clock = clock or Clock()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._taken: deque[float] = deque()
        self._arrived: deque[float] = deque()
        self._day: date | None = None
        self._used = 0

    @property
    def remaining(self) -> int:
        """Calls left until midnight UTC, as X-Exl-Api-Remaining shows them."""
        with self._lock:
            self._turn_day()
            return max(0, self.per_day - self._used)

    @remaining.setter
    def remaining(self, calls: int) -> None:
        with self._lock:
            self._turn_day()
            self._used = self.per_day - calls

    @property
    def used(self) -> int:
        """Calls accepted today."""
        with self._lock:
            self._turn_day()
            return self._used

    def take(self) -> str | None:
        """Count one call: None when it may pass, else the code that refuses it."""
        with self._lock:
            now = self._monotonic()
            self._turn_day()
            self._arrived.append(now)
            while self._arrived[0] <= now - 1.0:
                self._arrived.popleft()
            self.peak = max(self.peak, len(self._arrived))
            while self._taken and self._taken[0] <= now - 60.0:
                self._taken.popleft()
            if self._used >= self.per_day:
                return "DAILY_THRESHOLD"
            in_second = 0
            for at in reversed(self._taken):
                if at <= now - 1.0:
                    break
                in_second += 1
            if in_second >= self.per_second:
                return "PER_SECOND_THRESHOLD"
            if self.per_minute is not None and len(self._taken) >= self.per_minute:
                return "PER_SECOND_THRESHOLD"  # the code for the minute's limit is not on record
            self._taken.append(now)
            self._used += 1
            return None

    def _turn_day(self) -> None:
        today = self._clock.now().date()
        if today != self._day:
            self._day, self._used = today, 0
