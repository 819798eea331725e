"""Both promises, over the first half of the random lives: no line twice, no payment twice, what differs is listed.

One file of tests runs on one core, so the second half is in ``test_promises_too.py``.
"""

from __future__ import annotations

import pytest

from tests.simulation.halves import broken_among, halves
from tests.simulation.play import play

# Kinds of events that copy or lose the ledger's file.
FILES = frozenset({"older ledger put back", "ledger lost"})


@pytest.mark.parametrize("seeds", halves(0))
def test_the_books_agree_after_any_life(seeds: range) -> None:
    found = broken_among(seeds)
    if found is not None:
        pytest.fail(found, pytrace=False)


def test_the_books_agree_on_postgres_too(postgres_url: str) -> None:
    for seed in range(5):
        played = play(seed, url=postgres_url, switched_off=FILES)
        assert played.violations == [], "\n".join(played.trace)
        assert played.trace == play(seed, switched_off=FILES).trace
