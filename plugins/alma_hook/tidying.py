"""The removal of patrons' data that is older than the settings say, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from alma_hook.campus import Retention
from alma_hook.ledger import Ledger, instant, retention
from alma_hook.ledger.retention import Kind


@dataclass(frozen=True, slots=True)
class Removed:
    """What came of one kind. ``count``: how many went, or would go, ``None`` where all are kept; ``oldest`` since when."""

    kind: Kind
    count: int | None
    oldest: str | None


def tidy_up(
    ledger: Ledger, settings: Retention, owner: str, *, only_count: bool = False
) -> Iterator[Removed]:
    """Remove kind by kind what is too old, each part in a transaction of its own: it may be killed and run again.

    Raises ``LeaseTaken`` while a run of the direction concerned is at work.
    """
    now = ledger.now()
    for kind in retention.KINDS:
        days = int(getattr(settings, kind.setting))
        before = instant(now - timedelta(days=days))
        count = None
        if days and only_count:
            with ledger.read() as tx:
                count = retention.count(tx, kind, before)
        elif days:
            count = _remove(ledger, kind, before, owner)
        with ledger.read() as tx:
            yield Removed(kind, count, retention.oldest(tx, kind))


def _remove(ledger: Ledger, kind: Kind, before: str, owner: str) -> int:
    removed = 0
    with ledger.lease(kind.direction, owner) as lease:
        while True:
            with ledger.write(lease) as tx:
                part = retention.remove(tx, kind, before)
            if part == 0:
                return removed
            removed += part
