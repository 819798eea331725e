"""The lives themselves: each is the same every time, can be told in few lines, and really is eventful."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alma_hook import payments
from tests.simulation import accidents, life
from tests.simulation.play import least, play, shrink
from tests.simulation.world import ALL, Only, Tally

ROOT = Path(__file__).resolve().parents[2]
EVENTFUL = range(70)


@pytest.fixture(scope="module")
def tally() -> Tally:
    """What happens in some lives."""
    total = Tally()
    for seed in EVENTFUL:
        total.add(play(seed).tally)
    return total


def test_a_seed_is_one_life() -> None:
    first, second = play(11), play(11)
    assert (first.trace, first.tally) == (second.trace, second.tally)
    assert len(first.trace) > 50


def test_a_seed_is_the_same_life_in_another_process() -> None:
    code = "import json, tests.simulation.play as p; print(json.dumps(p.play(11).trace))"
    for hash_seed in ("1", "2"):
        shown = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True,
            env={"PYTHONPATH": f"plugins:{ROOT}", "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        assert json.loads(shown.stdout) == play(11).trace


def test_every_kind_of_event_that_is_on_happens(tally: Tally) -> None:
    on = {kind.name for kind in life.KINDS.values() if kind.off is None}
    assert on - set(tally.operations) == set()


def test_every_kind_of_fault_happens(tally: Tally) -> None:
    happened = {fault.partition(": ")[2] for fault in tally.faults}
    meant = {*accidents.CHANGING, *accidents.LISTING, *accidents.SFTP_WRITE, *accidents.SFTP_AFTER}
    meant |= {*accidents.DATABASE_BEGIN, *accidents.DATABASE_COMMIT, *accidents.DATABASE_AFTER}
    assert meant - happened == set()


def test_workers_die_at_every_boundary_and_stand_still(tally: Tally) -> None:
    assert {"before a POST", "after a POST", "before a commit", "after a commit", "written", "rename"} <= set(
        tally.deaths
    )
    assert tally.interruptions["an hour and the same way"] > 0
    assert min(tally.cents[name] for name in ("charges", "credits", "payments")) > 100_000


@pytest.mark.parametrize("kind", [kind.name for kind in life.KINDS.values() if kind.off])
def test_what_is_off_can_be_switched_on_and_says_why_it_is_not(kind: str) -> None:
    assert life.KINDS[kind].off
    assert any(event.kind == kind for seed in range(50) for event in life.script(seed, frozenset({kind})))
    for seed in range(2):
        play(seed, switched_on=frozenset({kind}))


def test_a_broken_life_comes_down_to_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def settled(self: Any, account: str, row: Any, fee: Any) -> None:
        """Post the payment and forget about it."""
        self.alma.pay(account, fee.fee_id, 1, row["external_id"], "", "ONLINE")

    monkeypatch.setattr(payments._Poster, "_one", settled)
    seed = next(seed for seed in range(3, 50) if play(seed).violations)
    only, shrunk = shrink(lambda some: play(seed, some))

    assert shrunk.violations
    assert len(shrunk.trace) < 20 < len(play(seed).trace)
    assert play(seed, Only.parse(str(only))).trace == shrunk.trace


def test_what_is_named_is_what_happens() -> None:
    assert str(Only.parse("12,3,5.40,5.7")) == "3,12,5.7,5.40"
    assert Only.parse("3,5.17") == Only(frozenset({3, 5}), frozenset({"5.17"}))
    assert Only(None, None) == ALL
    whole = play(11)
    assert play(11, Only(frozenset(whole.events), frozenset(whole.fired))).trace == whole.trace


def test_the_least_of_a_list_is_found() -> None:
    tried: list[list[int]] = []

    def breaks(some: list[int]) -> bool:
        tried.append(some)
        return {3, 11} <= set(some)

    assert least(list(range(16)), breaks) == [3, 11]
    assert len(tried) < 40
