"""What goes wrong where the code touches the outside: deaths, pauses, and a fault for every kind of boundary.

One draw is made at each boundary. Whether and what happens there follows from the seed, the event
and the boundary's number alone, so an accident can be left out and the others stay as they were.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

#: How often things go wrong at one boundary: each life draws one of each.
DEATH = (0.0, 0.002, 0.008, 0.02)
INTERRUPTION = (0.0, 0.004, 0.012, 0.025)
FAULT = {
    "reading": (0.0, 0.01, 0.05),
    "changing": (0.0, 0.3, 0.5),
    "sftp": (0.0, 0.01, 0.05),
    "database": (0.0, 0.0, 0.003, 0.01),
}
#: Where money moves, more goes wrong than at the many boundaries where it does not.
FOCUS = {"changing": 8.0, "sftp": 2.0, "database": 0.6}

#: Seconds until a change that Alma holds back is applied: within the quiet period, or after it.
SOON, TOO_LATE = (20, 120, 400, 540, 540), (5000, 20_000, 70_000, 200_000)

READING = (
    "unreachable",
    "refuse",
    "fail_before",
    "drop_before",
    "delay_after",
    "broken_body",
    "rate_limited",
    "out_of_quota",
)
CHANGING = (
    *READING,
    "fail_after",
    "drop_after",
    "drop_after",
    *("apply_late",) * 8,
)
LISTING = (*READING, "partial_list", "short_list")
DATABASE_BEGIN = ("refuses to begin",)
DATABASE_COMMIT = ("refuses the commit",)
DATABASE_AFTER = ("commits, and the answer is lost",)
SFTP_BEFORE = ("lost before",)
SFTP_AFTER = ("lost after",)
SFTP_WRITE = ("lost before", "half written", "half written")

#: What happens while a worker stands still; and what more often, where money moves.
MEANWHILE = (
    "campus",
    "campus",
    "campus",
    "an hour",
    "an hour and the same way",
    "the other way",
    "the same way",
    "PeopleSoft loads",
    "query output",
)
BESIDE = {"changing": ("an hour and the same way",) * 4, "reading": ("an hour and the same way",) * 4}

_FORMS = ("json", "json", "xml", "html", "text", "empty")


@dataclass(frozen=True)
class Weather:
    """How rough one life is: chances at each boundary."""

    death: float
    interruption: float
    fault: dict[str, float]

    @classmethod
    def of(cls, rng: random.Random) -> Weather:
        """Draw it. About one life in fifteen is wholly calm."""
        return cls(
            rng.choice(DEATH),
            rng.choice(INTERRUPTION),
            {kind: rng.choice(chances) for kind, chances in FAULT.items()},
        )

    def at(self, boundary: str) -> tuple[float, float, float]:
        """Upper bounds of the draws that mean death, interruption and fault."""
        focus = FOCUS.get(boundary, 1.0)
        death, interruption = self.death * focus, self.interruption * focus
        return death, death + interruption, death + interruption + self.fault.get(boundary, 0.0)


def alma_fault(kind: str, rng: random.Random) -> dict[str, Any]:
    """The details of a fault of Alma's side, as ``simulator.faults.Faults.add_http`` takes them."""
    about: dict[str, Any] = {}
    if kind == "refuse":
        about["form"] = rng.choice(_FORMS)
    elif kind == "fail_before" or kind == "fail_after":
        about |= {"form": rng.choice(_FORMS), "status": rng.choice([500, 502, 503])}
    elif kind == "broken_body":
        about["body"] = rng.choice(["html", "truncated"])
    elif kind == "delay_after":
        about["seconds"] = rng.choice([2.0, 9.0, 19.0])
    elif kind == "apply_late":
        about["seconds"] = rng.choice(SOON) if rng.random() < 0.6 else rng.choice(TOO_LATE)
    return about
