"""What costs time by the size of a ledger: a plan goes through nothing but what its run has read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alma_hook.ledger.store import Tx
from tests.bridge import Bridge
from tests.unit.test_reversals import charged, cumulative, equalise, night, pay

#: The tables that grow with the years.
_LARGE = {
    "fee",
    "reading",
    "line",
    "payment",
    "payment_now",
    "event",
    "batch_file",
    "item",
}


def statements(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """From now on each statement of the ledger, with how SQLite goes about it: ``table: way``."""
    found: dict[str, list[str]] = {}
    plain = {name: getattr(Tx, name) for name in ("rows", "row", "one", "run")}

    def told(name: str) -> Any:
        def call(tx: Tx, sql: str, **values: Any) -> Any:
            if re.match(r"SELECT|UPDATE|DELETE|INSERT", sql) and sql not in found:
                steps = plain["rows"](tx, f"EXPLAIN QUERY PLAN {sql}", **values)
                found[sql] = [str(step["detail"]) for step in steps]
            return plain[name](tx, sql, **values)

        return call

    for name in plain:
        monkeypatch.setattr(Tx, name, told(name))
    return found


def goes_through_all(step: str, sql: str) -> bool:
    """Whether a step looks at every row of a large table, or at every one of the institution's, which is the same."""
    way = re.fullmatch(r"(SCAN|SEARCH) (\w+)(?: USING .*?)?(?: \((.*)\))?", step)
    if way is None:
        return False
    kind, alias, by = way.groups()
    tables = re.findall(rf"(?:FROM|JOIN|UPDATE|INTO) (\w+) (?:AS )?{alias}\b", sql)
    large = alias in _LARGE or not _LARGE.isdisjoint(tables)
    return large and (kind == "SCAN" or by == "institution=?")


def test_a_plan_looks_at_what_its_run_has_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    first, second, _ = charged(bridge, 1000, 700, 500)
    pay(bridge, first, 300)
    night(bridge)
    bridge.far.alma.waive_at_desk(second.id, 200)
    bridge.far.clock.advance(seconds=60)
    bridge.far.refresh_analytics()
    with bridge.working("out") as (ledger, lease):
        for name, work in bridge.tasks_out("analytics_report"):
            if name == "plan":
                found = statements(monkeypatch)
                work(ledger, lease)
                break
            work(ledger, lease)
    monkeypatch.undo()
    assert any("FROM reading r" in sql for sql in found)
    assert {sql: step for sql, steps in found.items() for step in steps if goes_through_all(step, sql)} == {}
    equalise(bridge)
