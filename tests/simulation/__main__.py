"""``make simulate``: live many lives, say what happened in them, and what broke a promise.

python -m tests.simulation [--seeds 500] [--first 0] [--only 3,5.17] [--on KIND] [--workers N]

With one seed, all that happened in its life is told.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from simulator.money import text_of
from tests.simulation import life
from tests.simulation.play import Played, play, shrink
from tests.simulation.world import ALL, DAYS, Only, Tally

CHUNK = 10
MOST_SHOWN = 5


@dataclass
class Lived:
    """What a chunk of seeds came to."""

    lives: int = 0
    tally: Tally = field(default_factory=Tally)
    broken: list[Played] = field(default_factory=list)


def live(seeds: range, *, only: Only, switched_on: frozenset[str], url: str | None) -> Lived:
    """Live some lives in this process."""
    lived = Lived()
    for seed in seeds:
        played = play(seed, only, switched_on=switched_on, url=url)
        lived.lives += 1
        lived.tally.add(played.tally)
        if played.violations:
            lived.broken.append(played)
    return lived


def main() -> int:
    """Return 0 when every promise was kept."""
    options = _options().parse_args()
    only = Only.parse(options.only) if options.only else ALL
    about = {"only": only, "switched_on": frozenset(options.on), "url": options.database}
    seeds = range(options.first, options.first + options.seeds)
    started = time.monotonic()
    if len(seeds) == 1:
        played = play(seeds[0], **about)
        total = Lived(1, played.tally, [played] if played.violations else [])
        print("\n".join(played.trace), "\n")
    else:
        workers = 1 if options.database else options.workers
        total = _all(seeds, partial(live, **about), workers)
    seconds = time.monotonic() - started
    print(f"lives: {total.lives} of {DAYS} days, seeds {seeds[0]} to {seeds[-1]}")
    print(f"time: {seconds:.0f} s, {total.lives / seconds:.1f} lives a second in {options.workers} processes")
    _tell(total.tally)
    print(f"\nviolations: {sum(len(played.violations) for played in total.broken)}")
    for played in total.broken[:MOST_SHOWN]:
        _explain(played, only == ALL, partial(play, played.seed, **{**about, "only": ALL}))
    for played in total.broken[MOST_SHOWN:]:
        print(f"seed {played.seed}: {played.violations[0]}")
    return 1 if total.broken else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=500, help="how many lives")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--only", help="events and accidents that are to happen, as a failed seed names them")
    parser.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="KIND",
        choices=[kind.name for kind in life.KINDS.values() if kind.off],
        help="switch on a kind of event that the present code does not claim to handle: %(choices)s",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--database", metavar="URL", help="a PostgreSQL database that may be emptied")
    return parser


def _all(seeds: range, work: partial[Lived], workers: int) -> Lived:
    total = Lived()
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    said = started = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        for lived in pool.map(work, chunks):
            total.lives += lived.lives
            total.tally.add(lived.tally)
            total.broken += lived.broken
            for played in lived.broken:
                print(f"seed {played.seed}: {played.violations[0]}", file=sys.stderr)
            if time.monotonic() - said > 30:
                said = time.monotonic()
                print(
                    f"{total.lives} of {len(seeds)}, {total.lives / (said - started):.1f} a second, "
                    f"{len(total.broken)} broken",
                    file=sys.stderr,
                )
    return total


def _tell(tally: Tally) -> None:
    for title, counter in (
        ("operations", tally.operations),
        ("faults", tally.faults),
        ("workers that died", tally.deaths),
        ("interruptions", tally.interruptions),
    ):
        _column(f"{title}: {counter.total():,}", {name: f"{n:,}" for name, n in counter.most_common()})
    money = {
        name: f"${int(text_of(cents)[:-3]):,}{text_of(cents)[-3:]}" for name, cents in _money(tally.cents)
    }
    _column("money moved", money)


def _money(cents: Counter[str]) -> list[tuple[str, int]]:
    return [(name, cents[name]) for name in ("charges", "credits", "payments")]


def _column(title: str, rows: dict[str, str]) -> None:
    print(f"\n{title}")
    for name, value in rows.items():
        print(f"  {name:<44}{value:>14}")


def _explain(played: Played, whole: bool, again: partial[Played]) -> None:
    """Say what a life broke, and what of it is needed for that."""
    print(f"\nseed {played.seed}:")
    print(*played.violations, sep="\n")
    if whole:
        only, least = shrink(lambda some: again(only=some))
        print("\nThe least of it that breaks the same promise:")
        print(*least.violations, *least.trace, sep="\n")
        print(f"Again: make simulate FIRST={played.seed} SEEDS=1 ONLY={only}")


if __name__ == "__main__":
    sys.exit(main())
