"""The simulator's one source of time, so that a day can pass in a test."""

import threading
from datetime import UTC, datetime, timedelta


class Clock:
    """UTC time: the machine's, or one that stands still until it is moved.

    ``Clock()`` follows the machine. ``Clock(at)`` stands at ``at`` (must carry a zone).
    ``advance`` works on both: on the machine's clock it adds a lasting offset.
    """

    def __init__(self, at: datetime | None = None) -> None:
        self._lock = threading.Lock()
        self._offset = timedelta()
        self._fixed: datetime | None = None
        if at is not None:
            self.set(at)

    def now(self) -> datetime:
        """The present moment, in UTC, with its zone."""
        with self._lock:
            if self._fixed is not None:
                return self._fixed
            return datetime.now(UTC) + self._offset

    def set(self, at: datetime) -> None:
        """Stand still at ``at``. Raises ValueError when ``at`` has no zone."""
        if at.tzinfo is None:
            raise ValueError("a clock is set to a time with a zone")
        with self._lock:
            self._fixed = at.astimezone(UTC)

    def advance(
        self, by: timedelta | None = None, *, seconds: float = 0, hours: float = 0, days: float = 0
    ) -> datetime:
        """Move on by the given span and return the new time."""
        span = (by or timedelta()) + timedelta(seconds=seconds, hours=hours, days=days)
        with self._lock:
            if self._fixed is not None:
                self._fixed += span
            else:
                self._offset += span
        return self.now()
