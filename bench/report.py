"""An Analytics report taken in, against a plain lxml loop over the same bytes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common import Row, side_by_side
from bench.files import in_a_process, peak_mb

ROWSET = "urn:schemas-microsoft-com:xml-analysis:rowset"
PAGES = 10  # different ones; a report repeats them


def measure(rows: int = 1_000_000) -> Iterator[Row]:
    """Parse a report of that many rows; then take it into a ledger, for the memory of the whole."""
    yield from in_a_process(_parsed, rows)
    yield from in_a_process(_taken_in, rows)


def page(number: int, finished: bool) -> bytes:
    """A page as Alma writes it: nine columns, of which four are ours; fee ids of their own on each page."""
    from alma_hook import analytics

    headings = [
        *analytics.HEADINGS,
        "Fine Fee Type",
        "Fine Fee Status",
        "Original Amount",
        "Currency",
        "Fine Fee Creation Date",
    ]
    schema = "".join(
        f'<xsd:element name="Column{n}" type="xsd:string" saw-sql:columnHeading="{heading}"/>'
        for n, heading in enumerate(headings, 1)
    )
    first = number * analytics.PAGE_ROWS
    rows = "".join(
        f"<Row><Column0>0</Column0><Column1>{10**15 + n}</Column1><Column2>{n // 2:09d}</Column2>"
        f"<Column3>{10 + n % 90}.5</Column3><Column4>{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}</Column4>"
        "<Column5>Overdue fine</Column5><Column6>Active</Column6><Column7>100</Column7><Column8>USD</Column8>"
        "<Column9>2026-10-01T10:00:00</Column9></Row>"
        for n in range(first, first + analytics.PAGE_ROWS)
    )
    return (
        f"<report><QueryResult><ResumptionToken>T</ResumptionToken><IsFinished>{str(finished).lower()}</IsFinished>"
        f'<ResultXml><rowset xmlns="{ROWSET}"><xsd:schema xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
        f'xmlns:saw-sql="urn:saw-sql">{schema}</xsd:schema>{rows}</rowset></ResultXml></QueryResult></report>'
    ).encode()


class Source:
    """Gives a report page by page. ``fresh``: each page has fees of its own."""

    def __init__(self, rows: int, *, fresh: bool) -> None:
        from alma_hook import analytics

        self.count = rows // analytics.PAGE_ROWS
        self.fresh = fresh
        self.at = 0
        self.stock = [] if fresh else [page(n, False) for n in range(PAGES)]
        self.last = page(self.count - 1, True)

    def analytics_page(self, _query: object, /) -> bytes:
        self.at += 1
        if self.at == self.count:
            self.at = 0
            return self.last
        return page(self.at - 1, False) if self.fresh else self.stock[self.at % PAGES]


def _parsed(rows: int) -> list[Row]:
    from lxml import etree

    from alma_hook import analytics

    source = Source(rows, fresh=False)

    def ours() -> int:
        return sum(
            len(analytics.fee_rows(found, "x", 1)[0])
            for found in analytics.pages(source, "/shared/x", analytics.HEADINGS, time.sleep)
        )

    def parsed() -> int:
        return sum(
            len(found) for found in analytics.pages(source, "/shared/x", analytics.HEADINGS, time.sleep)
        )

    def plain() -> int:
        found = 0
        for _ in range(source.count):
            for row in etree.fromstring(source.analytics_page({})).iter(f"{{{ROWSET}}}Row"):
                found += bool({cell.tag: cell.text for cell in row})
        return found

    if not ours() == plain() == rows:
        raise SystemExit("the two readers disagree")
    return [
        Row(
            f"{rows:,} rows of a report parsed: share of a plain lxml loop's speed",
            0.7,
            side_by_side(parsed, plain, 3),
        ),
        Row("the same with ids checked and amounts made cents", None, side_by_side(ours, plain, 3)),
    ]


def _taken_in(rows: int) -> list[Row]:
    from alma_hook import analytics, campus
    from alma_hook.ledger import Ledger
    from tests.bridge import SETTINGS

    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        file = Path(work) / "campus.toml"
        file.write_text(SETTINGS.format(report_path="/shared/x", layout="default"))
        ledger = Ledger(f"sqlite:///{work}/ledger.db", "01CAMPUS_INST", run_id="bench")
        ledger.migrate()
        before = peak_mb()
        began = time.monotonic()
        with ledger.lease("out", "bench") as lease:
            counts = analytics.take_in(
                Source(rows, fresh=True), ledger, lease, campus.load(file), True, time.sleep
            )
        took = time.monotonic() - began
        if counts.fees != rows:
            raise SystemExit(f"{counts}")
        return [
            Row(f"{rows:,} rows taken into a new ledger: peak of memory", 500, peak_mb(), "MB", most=True),
            Row("of that before it began", None, before, "MB"),
            Row("its time, with the making of the pages", None, took, "s"),
        ]
