"""Alma Analytics: a report of open fees, as old as its last refresh, and the paging clients trip over."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape

from simulator.alma import AlmaModel
from simulator.alma_records import Fee
from simulator.codes import FEE_STATUSES, FEE_TYPES
from simulator.money import text_of

REPORT_PATH = "/shared/Campus/Reports/Fees for PeopleSoft"
# heading, type in OBI's words, type in XML Schema's words
COLUMNS = (
    ("Fine Fee Id", "varchar", "xsd:string"),
    ("Primary Identifier", "varchar", "xsd:string"),
    ("Fine Fee Type", "varchar", "xsd:string"),
    ("Fine Fee Status", "varchar", "xsd:string"),
    ("Remaining Amount", "double", "xsd:double"),
    ("Original Amount", "double", "xsd:double"),
    ("Currency", "varchar", "xsd:string"),
    ("Fine Fee Creation Date", "timestamp", "xsd:dateTime"),
    ("Data Updated As Of", "timestamp", "xsd:dateTime"),
)
HEADINGS = tuple(heading for heading, _, _ in COLUMNS)
_ROWSET = "urn:schemas-microsoft-com:xml-analysis:rowset"

Row = dict[str, str]  # heading -> text; a missing heading is NULL


class AnalyticsFailure(Exception):
    """Analytics answers with an error: HTTP ``status``, Alma's ``code`` and ``message``."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code
        self.message = message


@dataclass
class AnalyticsTraps:
    """Misbehaviour that can be switched on.

    ``repeated_rows``: one row a transaction, as in the subject area's own grain.
    ``missing_headings``: these columns are not in the report.
    ``cut_short_to``: the report says it is finished after so many rows.
    ``still_loading``: so many first answers have an empty result, and ``still_loading_later`` second pages.
    ``null_headings``: every third row (from the second) lacks these elements, as NULL does.
    ``no_schema``: no column headings anywhere; ``repeat_token``: the token stands on every page.
    ``not_shared``: the report is in a folder that is not shared; ``down``: no report in the answer.
    ``page_rows``: never more rows a page than this, whatever the limit.
    """

    repeated_rows: bool = False
    missing_headings: set[str] = field(default_factory=set)
    cut_short_to: int | None = None
    still_loading: int = 0
    still_loading_later: int = 0
    null_headings: set[str] = field(default_factory=set)
    no_schema: bool = False
    repeat_token: bool = False
    not_shared: bool = False
    down: bool = False
    page_rows: int | None = None


@dataclass
class _Cursor:
    rows: list[Row]
    at: int = 0
    pages: int = 0
    still_loading: int = 0
    still_loading_later: int = 0


class Analytics:
    """The report ``path`` over a model. Not thread-safe by itself: callers hold the model's lock."""

    def __init__(self, model: AlmaModel, path: str = REPORT_PATH, rng: random.Random | None = None) -> None:
        self.model = model
        self.path = path
        self.traps = AnalyticsTraps()
        self.rows: list[Row] = []
        self.updated_at: datetime | None = None
        self._rng = rng or random.Random(2)
        self._cursors: dict[str, _Cursor] = {}

    def refresh(self) -> int:
        """Take the night's snapshot of open fees (ACTIVE and INDISPUTE); returns the number of rows.

        Times carry no zone, as in Analytics; here they are UTC. Nothing appears in the report
        before the first refresh.
        """
        with self.model.lock:
            self.updated_at = self.model.clock.now()
            fees = [
                fee
                for fee in self.model.fees.values()
                if fee.status in ("ACTIVE", "INDISPUTE") and not fee.user.purged
            ]
            repeats = self.traps.repeated_rows
            self.rows = [
                self._row(fee) for fee in fees for _ in range(max(1, len(fee.transactions)) if repeats else 1)
            ]
            return len(self.rows)

    def _row(self, fee: Fee) -> Row:
        return {
            "Fine Fee Id": fee.id,
            "Primary Identifier": fee.user.primary_id,
            "Fine Fee Type": FEE_TYPES.get(fee.type, fee.type),
            "Fine Fee Status": FEE_STATUSES[fee.status],
            "Remaining Amount": _double(fee.balance_cents),
            "Original Amount": _double(fee.original_cents),
            "Currency": self.model.currency,
            "Fine Fee Creation Date": fee.creation_time.strftime("%Y-%m-%dT%H:%M:%S"),
            "Data Updated As Of": (self.updated_at or fee.creation_time).strftime("%Y-%m-%dT%H:%M:%S"),
        }

    def page(self, path: str | None, limit: int, token: str | None, col_names: bool = True) -> str:
        """One answer of GET /analytics/reports, as XML text. A token outranks the path.

        The server's cursor moves with every answer, so a page can't be asked for again. Raises
        AnalyticsFailure for a wrong path, a folder that is not shared, or a token past the end.
        """
        if self.traps.down:
            return '<?xml version="1.0" encoding="UTF-8"?><error>Analytics is not available</error>'
        if token:
            cursor = self._cursors.get(token)
            if cursor is None:
                raise AnalyticsFailure(500, "420033", "No more rows to fetch")
        else:
            if self.traps.not_shared:
                raise AnalyticsFailure(
                    400,
                    "500",
                    f"access denied for user to path {path} - make sure the "
                    "report is saved in a shared folder.",
                )
            if path != self.path:
                raise AnalyticsFailure(500, "INTERNAL_SERVER_ERROR", f"Path not found ({path})")
            cursor = _Cursor(
                list(self.rows),
                still_loading=self.traps.still_loading,
                still_loading_later=self.traps.still_loading_later,
            )
            if self.traps.cut_short_to is not None:
                cursor.rows = cursor.rows[: self.traps.cut_short_to]
        return self._answer(cursor, limit, token, col_names)

    def _answer(self, cursor: _Cursor, limit: int, token: str | None, col_names: bool) -> str:
        if cursor.still_loading > 0:
            cursor.still_loading -= 1
            return _document(self._new_token(cursor) if token is None else None, False, "<ResultXml/>")
        if cursor.pages and cursor.still_loading_later > 0:
            cursor.still_loading_later -= 1
            return _document(None, False, "<ResultXml/>")
        # OBI fetches in bulks of 25: a limit of 30 gives up to 50 rows.
        size = max(25, -(-limit // 25) * 25)
        if self.traps.page_rows is not None:
            size = min(size, self.traps.page_rows)
        rows = cursor.rows[cursor.at : cursor.at + size]
        shown = self._result(
            rows, cursor.at, with_schema=cursor.pages == 0 and not self.traps.no_schema, col_names=col_names
        )
        cursor.at += len(rows)
        cursor.pages += 1
        finished = cursor.at >= len(cursor.rows)
        known = token or (None if finished else self._new_token(cursor))
        if finished and known is not None:
            self._cursors.pop(known, None)
        show_token = known if token is None or self.traps.repeat_token else None
        return _document(show_token, finished, f"<ResultXml>{shown}</ResultXml>")

    def _new_token(self, cursor: _Cursor) -> str:
        token = f"{self._rng.getrandbits(512):0128X}"
        self._cursors[token] = cursor
        return token

    def _result(self, rows: Sequence[Row], first: int, *, with_schema: bool, col_names: bool) -> str:
        columns = [column for column in COLUMNS if column[0] not in self.traps.missing_headings]
        parts = [f'<rowset xmlns="{_ROWSET}">']
        if with_schema:
            parts.append(_schema(columns, col_names))
        for number, row in enumerate(rows, start=first):
            cells = ["<Column0>0</Column0>"]
            for place, (heading, _, _) in enumerate(columns, start=1):
                if number % 3 == 1 and heading in self.traps.null_headings:
                    continue
                if heading in row:
                    cells.append(f"<Column{place}>{escape(row[heading])}</Column{place}>")
            parts.append(f"<Row>{''.join(cells)}</Row>")
        parts.append("</rowset>")
        return "".join(parts)


def _schema(columns: Sequence[tuple[str, str, str]], col_names: bool) -> str:
    elements = []
    for place, (heading, kind, xsd) in enumerate([("0", "integer", "xsd:int"), *columns]):
        shown = f' saw-sql:columnHeading="{escape(heading)}"' if col_names else ""
        elements.append(
            f'<xsd:element maxOccurs="1" minOccurs="0" name="Column{place}"{shown} '
            f'saw-sql:displayFormula="saw_{place}" saw-sql:tableHeading="" '
            f'saw-sql:type="{kind}" type="{xsd}"/>'
        )
    return (
        '<xsd:schema xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:saw-sql="urn:saw-sql" '
        f'targetNamespace="{_ROWSET}"><xsd:complexType name="Row"><xsd:sequence>{"".join(elements)}'
        "</xsd:sequence></xsd:complexType></xsd:schema>"
    )


def _document(token: str | None, finished: bool, result: str) -> str:
    shown = f"<ResumptionToken>{token}</ResumptionToken>" if token else ""
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?><report><QueryResult>'
        f"{shown}<IsFinished>{str(finished).lower()}</IsFinished>{result}</QueryResult></report>"
    )


def _double(cents: int) -> str:
    """A double as Analytics writes it: ``12.5``, ``3``, ``0``."""
    return text_of(cents).rstrip("0").rstrip(".")
