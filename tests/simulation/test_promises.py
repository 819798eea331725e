"""Both promises, over random lives: no line twice, no payment twice, and what differs is listed."""

from __future__ import annotations

import os

import pytest

from tests.simulation.play import Played, play, shrink

SEEDS = int(os.environ.get("SEEDS", "500"))
CHUNK = 25


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_books_agree_after_any_life(first: int) -> None:
    for seed in range(first, min(first + CHUNK, SEEDS)):
        played = play(seed)
        if played.violations:
            pytest.fail(told(played), pytrace=False)


def told(played: Played) -> str:
    """What a broken life comes down to, and how to see it again."""
    only, least = shrink(lambda some: play(played.seed, some))
    again = f"make simulate FIRST={played.seed} SEEDS=1 ONLY={only}"
    return "\n".join([f"seed {played.seed}", *played.violations, "", *least.violations, *least.trace, again])


def test_the_books_agree_on_postgres_too(postgres_url: str) -> None:
    for seed in range(5):
        played = play(seed, url=postgres_url)
        assert played.violations == [], "\n".join(played.trace)
        assert played.trace == play(seed).trace
