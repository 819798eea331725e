"""An Analytics report, page by page.

What the recordings of Alma's report API teach: the token comes with the first page only, and only
when there is a second; headings too; a page may come empty because the report is still being
computed; pages are of any size; a lost page can't be asked for again. A column is known by its
heading, never by its place, and an absent element is an empty value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol

from lxml import etree

from alma_hook import brake
from alma_hook.campus import WEEKDAYS, Campus
from alma_hook.errors import BadFile, Fault, NotReady, Retriable, SettingsError
from alma_hook.ledger import Lease, Ledger, fees, holds, moment
from alma_hook.money import cents

FEE_ID = "Fine Fee Id"
USER_ID = "Primary Identifier"
REMAINING = "Remaining Amount"
UPDATED = "Data Updated As Of"
HEADINGS = (FEE_ID, USER_ID, REMAINING, UPDATED)

PAGE_ROWS = 1000
_WAITS = 20
_NAMES = {"r": "urn:schemas-microsoft-com:xml-analysis:rowset"}
_ROWSET = f"{{{_NAMES['r']}}}"
_XSD = "{http://www.w3.org/2001/XMLSchema}"
_HEADING = "{urn:saw-sql}columnHeading"


class ReportSource(Protocol):
    """The call that a report needs."""

    def analytics_page(self, query: Mapping[str, str], /) -> bytes:
        """Return one page as XML."""
        ...


@dataclass(frozen=True, slots=True)
class ReportCounts:
    """What a report came to: its rows, the fees in them, the accounts to read, the age of its data."""

    rows: int
    fees: int
    accounts: int
    updated: str


def take_in(
    source: ReportSource,
    ledger: Ledger,
    lease: Lease,
    campus: Campus,
    live: bool,
    pause: Callable[[float], None],
) -> ReportCounts:
    """Stage the campus's report page by page, then list the accounts whose fees differ from the ledger.

    Nothing is listed unless the whole report was read.
    """
    path = campus.alma_to_sis.report_path
    if path is None:
        raise SettingsError(
            "The report is not named.", [Fault("campus.toml", "needed", field="alma_to_sis.report_path")]
        )
    name = path.rpartition("/")[2]
    rows, updated = 0, ""
    faults: list[Fault] = []
    with ledger.write(lease) as tx:
        fees.clear_report(tx)
    for page in pages(source, path, HEADINGS, pause):
        first, rows = rows + 1, rows + len(page)
        try:
            staged, newest = fee_rows(page, name, first)
        except BadFile as error:
            faults += error.faults
            continue
        updated = max(updated, newest)
        with ledger.write(lease) as tx:
            fees.stage_report(tx, staged)
    if faults:
        raise BadFile("The report holds rows that can't be read; nothing was taken in.", faults)
    with ledger.write(lease) as tx:
        stale = rows and too_old(updated, moment(tx.now), campus.alma_to_sis.report_max_age_hours)
        if stale:
            raise BadFile("The report can't be used.", [Fault(name, stale)])
        reported, accounts = fees.nominate(tx, live)
        if live:
            last = holds.last_report(tx)
            holds.keep_report(tx, reported, last, not brake.dropped(reported, last, campus.brake))
        day = campus.today(moment(tx.now))
        if live and WEEKDAYS[day.weekday()] == campus.alma_to_sis.sweep_weekday:
            accounts += fees.sweep(tx, day.isoformat())
    return ReportCounts(rows, reported, accounts, updated)


def pages(
    source: ReportSource,
    path: str,
    headings: Sequence[str],
    pause: Callable[[float], None],
    page_rows: int = PAGE_ROWS,
) -> Iterator[list[tuple[str, ...]]]:
    """Yield the rows of each page, each row the texts of ``headings`` in their order.

    Raises ``BadFile`` when headings are missing (all at once), ``NotReady`` when the report is still
    being computed after a few minutes, ``Retriable`` when it breaks off; then it must be read again
    from the start.
    """
    token = ""
    columns: list[str] = []
    waited = 0
    while True:
        query = {"token": token} if token else {"path": path}
        page = _parse(source.analytics_page({**query, "limit": str(page_rows), "col_names": "true"}))
        token = token or page.token
        if page.loading and not page.finished:
            waited += 1
            if waited > _WAITS:
                raise NotReady("Alma is still computing the report; nothing was taken in.")
            pause(min(2.0 * waited, 15.0))
            continue
        if not columns:
            columns = _columns(page, headings, path)
        yield list(page.rows(columns))
        if page.finished:
            return
        if not token:
            raise Retriable("The report has more pages but Alma gave no token for them.")


class _Page:
    def __init__(self, body: bytes) -> None:
        parser = etree.XMLParser(
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=True,
            remove_comments=True,
            remove_pis=True,
        )
        try:
            root = etree.fromstring(body, parser)
        except etree.XMLSyntaxError:
            raise Retriable("A page of the report is cut short or not XML.") from None
        finished = root.findtext(".//IsFinished")
        if finished is None:
            raise Retriable("The answer holds no report. Analytics may be down; try again in some minutes.")
        self.finished = finished.strip().lower() == "true"
        self.token = (root.findtext(".//ResumptionToken") or "").strip()
        rowset = root.find(f".//{_ROWSET}rowset")
        self.loading = rowset is None
        self.headings = {
            element.get(_HEADING, ""): element.get("name", "")
            for element in root.iter(f"{_XSD}element")
            if element.get(_HEADING)
        }
        self._rowset = rowset

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield the texts of these columns, row by row; a cell that a row lacks is empty."""
        if self._rowset is None:
            return
        # Nearly always each row has each of them once: then only our cells are looked at, column by column.
        if all(
            column.isidentifier() and not _xpath(self._rowset, f"boolean(r:Row[count(r:{column}) != 1])")
            for column in columns
        ):
            texts = [
                [cell.text or "" for cell in _xpath(self._rowset, f"r:Row/r:{column}")] for column in columns
            ]
            yield from zip(*texts, strict=True)
            return
        tags = [f"{_ROWSET}{column}" for column in columns]
        for row in self._rowset.iterchildren(f"{_ROWSET}Row"):
            cells = {cell.tag: cell.text for cell in row}
            yield tuple([cells.get(tag) or "" for tag in tags])


def _xpath(element: etree._Element, path: str) -> Any:
    return element.xpath(path, namespaces=_NAMES)


def _parse(body: bytes) -> _Page:
    return _Page(body)


def _columns(page: _Page, headings: Sequence[str], path: str) -> list[str]:
    if page.finished and page.loading:
        return []
    # Alma's own pages write "Fine Fee Id" and "Fine Fee ID": the case tells nothing.
    known = {heading.casefold(): column for heading, column in page.headings.items()}
    missing = [heading for heading in headings if heading.casefold() not in known]
    if missing:
        raise BadFile(
            "The report lacks columns; include/alma/ says how to build it.",
            [
                Fault(path.rpartition("/")[2], "no column with this heading", field=heading)
                for heading in missing
            ],
        )
    return [known[heading.casefold()] for heading in headings]


def fee_rows(
    rows: Sequence[tuple[str, ...]], report: str, first_row: int
) -> tuple[list[dict[str, str | int]], str]:
    """Return a page's fees (``fee_id``, ``user_id``, ``balance`` in cents) and the newest ``Data Updated As Of`` on it.

    Raises ``BadFile`` naming every row that can't be read, by its number from 1.
    """
    faults: list[Fault] = []
    fees: list[dict[str, str | int]] = []
    newest = max((updated for *_, updated in rows), default="")
    for number, (fee_id, user_id, remaining, _) in enumerate(rows, first_row):
        if not (fee_id.isascii() and fee_id.isdigit()):
            faults.append(Fault(report, "is not a fee id", line=number, field=FEE_ID))
        elif not user_id:
            faults.append(Fault(report, "is empty", line=number, field=USER_ID))
        else:
            try:
                fees.append({"fee_id": fee_id, "user_id": user_id, "balance": _remaining(remaining)})
            except ValueError as error:
                faults.append(Fault(report, str(error), line=number, field=REMAINING))
    if faults:
        raise BadFile("The report holds rows that can't be read; nothing was taken in.", faults)
    return fees, newest


@lru_cache(maxsize=4096)
def _remaining(text: str) -> int:
    """Amounts repeat. A report only nominates, so an empty amount may stand for nought."""
    return cents(text) if text else 0


def too_old(updated: str, now: datetime, max_hours: int) -> str | None:
    """Return why a report is too old to nominate from, or ``None``.

    ``updated`` is Alma's time without zone; a day's uncertainty of the zone is nothing here, since
    every nominated fee is read live.
    """
    if not updated:
        return f"it does not say how old its data is: {UPDATED} is empty"
    try:
        age = now.replace(tzinfo=None) - datetime.fromisoformat(updated).replace(tzinfo=None)
    except ValueError:
        return f"its {UPDATED} is not a time"
    hours = int(age.total_seconds() // 3600)
    return f"its data is {hours} hours old, more than the {max_hours} allowed" if hours > max_hours else None
