"""The second half of the random lives, on another core; see ``test_promises.py``."""

from __future__ import annotations

import pytest

from tests.simulation.halves import broken_among, halves


@pytest.mark.parametrize("seeds", halves(1))
def test_the_books_agree_after_any_life(seeds: range) -> None:
    found = broken_among(seeds)
    if found is not None:
        pytest.fail(found, pytrace=False)
