"""A seed's life from begin to end; and, of one that broke a promise, the least that breaks it still."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tests.simulation import life, promises
from tests.simulation.world import ALL, Only, Tally, World

T = TypeVar("T")
MOST_TRIALS = 400


@dataclass
class Played:
    """How a life went. ``fired`` names its accidents, ``events`` the numbers of its events."""

    seed: int
    violations: list[str]
    trace: list[str]
    tally: Tally
    events: list[int]
    fired: list[str]


def play(
    seed: int,
    only: Only = ALL,
    *,
    switched_on: frozenset[str] = frozenset(),
    switched_off: frozenset[str] = frozenset(),
    url: str | None = None,
) -> Played:
    """Live a seed's life and look at what it left.

    ``switched_on``: kinds of events that are off otherwise, ``switched_off``: that are on.
    """
    world = World(seed, only, url)
    events = life.script(seed, switched_on, switched_off)
    with world.living():
        try:
            for event in events:
                world.happen(event)
            world.calm_down()
            violations = promises.broken(world)
        except Exception as error:  # noqa: BLE001 whatever the code under test raises is what is looked for
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
            violations = [f"{type(error).__name__} at {place}: {str(error)[:200]}"]
        promises.moved(world)
    return Played(seed, violations, world.trace, world.tally, [event.number for event in events], world.fired)


def shrink(again: Callable[[Only], Played]) -> tuple[Only, Played]:
    """Leave out events, then accidents, while the same promise is still broken; return what is left."""
    trials = 0
    best = again(ALL)
    promise = best.violations[0].partition(":")[0]

    def breaks(only: Only) -> bool:
        nonlocal trials, best
        if trials >= MOST_TRIALS:
            return False
        trials += 1
        played = again(only)
        same = any(said.startswith(f"{promise}:") for said in played.violations)
        if same:
            best = played
        return same

    events = least(best.events, lambda some: breaks(Only(frozenset(some))))
    fired = best.fired
    if not breaks(Only(frozenset(events), frozenset(fired))):
        return Only(frozenset(events)), best
    fired = least(fired, lambda some: breaks(Only(frozenset(events), frozenset(some))))
    events = least(events, lambda some: breaks(Only(frozenset(some), frozenset(fired))))
    only = Only(frozenset(events), frozenset(name for name in fired if int(name.split(".")[0]) in events))
    return only, again(only)


def least(whole: list[T], breaks: Callable[[list[T]], bool]) -> list[T]:
    """Delta debugging: ever smaller parts are left out, as long as it still breaks."""
    size = max(1, len(whole) // 2)
    while size:
        place = 0
        while place < len(whole):
            rest = whole[:place] + whole[place + size :]
            if len(rest) < len(whole) and breaks(rest):
                whole = rest
            else:
                place += size
        size //= 2
    return whole
