"""The lives that ``make test`` lives, in two halves."""

from __future__ import annotations

import os

from tests.simulation.play import Played, play, shrink

SEEDS = int(os.environ.get("SEEDS", "500"))
CHUNK = 25


def halves(which: int) -> list[range]:
    """The seeds of the first or the second half, in chunks."""
    middle = SEEDS // 2
    first, last = (0, middle) if which == 0 else (middle, SEEDS)
    return [range(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]


def broken_among(seeds: range) -> str | None:
    """Live these lives; say what the first one that broke a promise comes down to."""
    for seed in seeds:
        played = play(seed)
        if played.violations:
            return told(played)
    return None


def told(played: Played) -> str:
    """What a broken life comes down to, and how to see it again."""
    only, least = shrink(lambda some: play(played.seed, some))
    again = f"make simulate FIRST={played.seed} SEEDS=1 ONLY={only}"
    return "\n".join([f"seed {played.seed}", *played.violations, "", *least.violations, *least.trace, again])
