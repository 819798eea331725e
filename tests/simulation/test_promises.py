"""Both promises, over random lives: no line twice, no payment twice, and what differs is listed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.simulation.world import live

SEEDS = int(os.environ.get("SEEDS", "60"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_books_agree_after_any_life(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = live(tmp_path, seed, monkeypatch)

    assert world.violations() == [], "\n".join(world.trace)
    # A second run after all is quiet does nothing.
    counts = world.bridge.alma_to_sis("all_users")
    assert (counts.charges, counts.credits) == (0, 0)
    world.far.write_query_output()
    taken, posted = world.bridge.sis_to_alma()
    assert (taken.new, posted.posted) == (0, 0)
