"""``make bench``: how much our side costs, each measured beside a plain loop in the same run.

python -m bench [--lines 200000] [--rows 100000] [--calls 200]
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from datetime import date

import pandas as pd
from lxml import etree

from alma_hook import analytics, charge_file, layouts
from alma_hook.pace import Pace

ROWSET = "urn:schemas-microsoft-com:xml-analysis:rowset"


def timed(work: Callable[[], object]) -> float:
    """Seconds of the best of three runs."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def file_writing(count: int) -> tuple[str, float]:
    """The default layout by its declaration, against a loop that formats line by line; the bytes must be the same."""
    layout = layouts.load("default")
    frame = pd.DataFrame(
        {
            "fee_id": [str(10**15 + n) for n in range(count)],
            "kind": ["charges"] * count,
            "emplid": [f"{n:09d}" for n in range(count)],
            "item_type": ["300000000001"] * count,
            "amount": [100 + n % 9000 for n in range(count)],
            "reversal": ["N"] * count,
            "term": ["2267"] * count,
            "effective_date": ["2026-11-22"] * count,
            "due_date": [""] * count,
            "account_type": ["LIB"] * count,
            "reference": [f"ALMA{10**15 + n}" for n in range(count)],
            "description": ["Library fee"] * count,
        },
        columns=list(charge_file.COLUMNS),
    )
    total = int(frame["amount"].sum())
    control = charge_file.Control("charges", count, total, "LIB01", "CAMPS", "USD", date(2026, 11, 22))
    rows = list(frame.itertuples(index=False))

    def loop() -> bytes:
        out = [f"H{count:010d}{total // 100:013d}.{total % 100:02d}LIB01USD11222026".ljust(124)]
        out += [
            f"D{r.emplid:<11}{r.item_type:<12}{r.amount // 100:013d}.{r.amount % 100:02d}{r.reversal}{r.term:<4}"
            f"11222026        {r.account_type:<3}{r.reference:<30}{r.description:<30}"
            for r in rows
        ]
        return "".join(line + "\n" for line in out).encode("ascii")

    if charge_file.write(layout, control, frame) != loop():
        raise SystemExit("the two writers disagree")
    return f"{count} lines, loop / ours", timed(loop) / timed(
        lambda: charge_file.write(layout, control, frame)
    )


def report_parsing(count: int) -> tuple[str, float]:
    """Report pages of ten columns to rows of four, against a plain lxml loop over the same bytes."""
    cells = "".join(f"<Column{n}>value {n}</Column{n}>" for n in range(1, 11))
    headings = [*analytics.HEADINGS, *(f"Other {n}" for n in range(6))]
    schema = "".join(
        f'<xsd:element name="Column{n}" saw-sql:columnHeading="{heading}"/>'
        for n, heading in enumerate(headings, 1)
    )
    page = (
        "<report><QueryResult><ResumptionToken>T</ResumptionToken><IsFinished>{end}</IsFinished><ResultXml>"
        f'<rowset xmlns="{ROWSET}"><xsd:schema xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
        f'xmlns:saw-sql="urn:saw-sql">{schema}</xsd:schema>'
        f"{f'<Row><Column0>0</Column0>{cells}</Row>' * analytics.PAGE_ROWS}</rowset></ResultXml></QueryResult></report>"
    )
    pages = [page.replace("{end}", "false").encode()] * (count // analytics.PAGE_ROWS - 1)
    pages.append(page.replace("{end}", "true").encode())

    class Source:
        def __init__(self) -> None:
            self.left = iter(pages)

        def analytics_page(self, _query: object, /) -> bytes:
            return next(self.left)

    def ours() -> int:
        return sum(
            len(rows) for rows in analytics.pages(Source(), "/shared/x", analytics.HEADINGS, time.sleep)
        )

    def plain() -> int:
        found = 0
        for body in pages:
            for row in etree.fromstring(body).iter(f"{{{ROWSET}}}Row"):
                found += bool({cell.tag: cell.text for cell in row})
        return found

    if ours() != plain():
        raise SystemExit("the two readers disagree")
    return f"{count} rows, plain loop / ours", timed(plain) / timed(ours)


def pacing(count: int) -> tuple[str, float]:
    """The share of 50 calls a second that eight threads with calls of 0.1 s get through."""
    pace, started = Pace(50), time.perf_counter()
    todo = iter(range(count))
    lock = threading.Lock()

    def worker() -> None:
        while True:
            with lock:
                if next(todo, None) is None:
                    return
            pace.wait()
            time.sleep(0.1)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{count} calls at 50/s, share of the rate", count / (time.perf_counter() - started) / 50


def main() -> None:
    """Print one row a measurement: what, target, result, met or missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    for name, target, (what, result) in (
        ("SFS file writing", 3.0, file_writing(options.lines)),
        ("Analytics parsing", 0.7, report_parsing(options.rows)),
        ("Pacing", 0.97, pacing(options.calls)),
    ):
        met = "met" if result >= target else "missed"
        print(f"{name:20} {what:40} target {target:5.2f}   result {result:5.2f}   {met}", flush=True)


if __name__ == "__main__":
    main()
