"""PeopleSoft Query's output files: CSV or TXT, XML (XMLP), and the HTML table that Query calls Excel.

Two come from elsewhere: ``xls-html-as-csv`` is the Excel form saved as CSV by somebody in a spreadsheet, ``xml-service``
the XML as the web service gives it, in an envelope and with namespaces. How days and amounts are written follows from
the profile of the user who scheduled the query (``Region``).
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Literal
from xml.sax.saxutils import quoteattr

from simulator.money import text_of
from simulator.peoplesoft_records import Item, Payment

Format = Literal["csv", "txt", "xml", "xml-service", "xls-html", "xls-html-as-csv"]
EXTENSIONS: dict[str, str] = {
    "csv": ".csv",
    "txt": ".txt",
    "xml": ".xml",
    "xml-service": ".xml",
    "xls-html": ".xls",
    "xls-html-as-csv": ".csv",
}
SERVICE = "http://xmlns.oracle.com/Enterprise/Tools/schemas/QAS_QUERYRESULTS_XMLP_RESP.VERSION_1"

#: That of rows by which payments are taken back.
REVERSAL_ITEM_TYPE = "900000000009"
PAYMENT_HEADINGS = {
    "Emplid": "EMPLID",
    "Payment ID": "PAYMENT_ID_NBR",
    "Date Paid": "POSTED_DATE",
    "Reference Number": "REF1_DESCR",
    "Paid Amount": "PAYMENT_AMT",
    "Item Type": "ITEM_TYPE",
}
APPLIED_HEADINGS = {
    "Business Unit": "BUSINESS_UNIT",
    "Emplid": "EMPLID",
    "Item Nbr": "ITEM_NBR",
    "Item Type": "ITEM_TYPE",
    "Item Term": "ITEM_TERM",
    "Reference Nbr": "REF1_DESCR",
    "Item Amt": "ITEM_AMT",
    "Applied Amt": "APPLIED_AMT",
    "Item Balance": "ITEM_BALANCE",
}


@dataclass(frozen=True)
class Region:
    """How a user's profile has days and amounts written; ``numbers`` by the example of -1234.56 less its sign.

    ``numbers``: what stands before thousands and before cents, and around or behind an amount below nought:
    ``1,234.56``, ``(1,234.56)``, ``1.234,56-`` and so on.
    """

    days: str = "%m/%d/%Y"
    numbers: str = "1234.56"

    def amount(self, cents: int) -> str:
        """Cents as this region writes them."""
        example = self.numbers.strip("()-")
        whole, _, rest = text_of(abs(cents)).partition(".")
        if example[1] in ",.":
            whole = f"{int(whole):,}".replace(",", example[1])
        text = f"{whole}{example[-3]}{rest}"
        if cents >= 0:
            return text
        if self.numbers.startswith("("):
            return f"({text})"
        return f"{text}-" if self.numbers.endswith("-") else f"-{text}"


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; ``headings`` maps a heading to its field name."""

    headings: dict[str, str]
    rows: list[tuple[str, ...]]


def payment_rows(payments: Iterable[Payment], region: Region, bounced: str) -> Table:
    """One row a payment: ids with their leading noughts, days in UTC.

    ``bounced`` says how a payment taken back looks: omit, zero, negative (a second row), reversal (a row of an item
    type of its own for each time), or reversal_sum (one such row, which grows).
    """
    rows: list[tuple[str, ...]] = []
    for payment in payments:

        def row(cents: int, payment: Payment = payment, item_type: str | None = None) -> tuple[str, ...]:
            return (
                payment.emplid,
                payment.payment_id,
                payment.at.strftime(region.days),
                payment.reference,
                region.amount(cents),
                item_type or payment.item_type,
            )

        if bounced in ("negative", "reversal", "reversal_sum") and payment.bounced_cents:
            rows.append(row(payment.amount_cents + payment.bounced_cents))
            told_apart = bounced == "reversal" and sum(payment.bounces) == payment.bounced_cents
            parts = payment.bounces if told_apart else [payment.bounced_cents]
            if bounced == "negative":
                rows += [row(-part) for part in parts]
            else:
                rows += [row(part, item_type=REVERSAL_ITEM_TYPE) for part in parts]
        elif payment.amount_cents or bounced == "zero":
            rows.append(row(payment.amount_cents))
    return Table(PAYMENT_HEADINGS, rows)


def applied_rows(items: Iterable[Item], business_unit: str, region: Region) -> Table:
    """One row an item with its amount, what is applied to it up to now, and its balance."""
    return Table(
        APPLIED_HEADINGS,
        [
            (
                business_unit,
                item.emplid,
                item.item_nbr,
                item.item_type,
                item.item_term,
                item.reference,
                region.amount(item.amount_cents),
                region.amount(item.applied_cents),
                region.amount(item.balance_cents),
            )
            for item in items
        ],
    )


def render(table: Table, format: Format, query_name: str) -> bytes:
    """The table as a file's bytes. Raises ValueError for an unknown format."""
    if format in ("csv", "txt"):
        return _csv([tuple(table.headings), *table.rows])
    if format == "xls-html-as-csv":
        above = (query_name, str(len(table.rows)), *[""] * (len(table.headings) - 2))
        return _csv([above, tuple(table.headings), *table.rows])
    if format == "xml":
        return _xml(table, query_name)
    if format == "xml-service":
        return _in_envelope(_xml(table, query_name))
    if format == "xls-html":
        return _html(table, query_name)
    raise ValueError(f"unknown format: {format}")


def _csv(rows: Iterable[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # quotes only where a value needs them
    return text.getvalue().encode("utf-8")


def _xml(table: Table, query_name: str) -> bytes:
    head = (
        f"queryname={quoteattr(query_name)} "
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation=""'
    )
    if not table.rows:
        return f"<?xml version='1.0'?>\n<query numrows='0' {head}/>\n".encode()
    parts = ["<?xml version='1.0'?>", f'<query numrows="{len(table.rows)}" {head}>']
    for number, row in enumerate(table.rows, start=1):
        cells = "".join(
            f"<{name}>{escape(value)}</{name}>"
            for name, value in zip(table.headings.values(), row, strict=True)
        )
        parts.append(f'<row rownumber="{number}">{cells}</row>')
    return "\n".join([*parts, "</query>", ""]).encode()


def _in_envelope(xml: bytes) -> bytes:
    inner = xml.decode().partition("\n")[2].replace("<query ", f'<query xmlns="{SERVICE}" ', 1)
    return (
        "<?xml version='1.0' encoding='UTF-8'?>\n"
        '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>\n'
        f"{inner}</soapenv:Body></soapenv:Envelope>\n"
    ).encode()


def _html(table: Table, query_name: str) -> bytes:
    def row(cells: Iterable[str], tag: str = "td") -> str:
        # A blank cell holds a blank that HTML keeps.
        return "<tr>" + "".join(f"<{tag}>{escape(cell) or '&nbsp;'}</{tag}>" for cell in cells) + "</tr>"

    lines = [
        row([query_name, str(len(table.rows))]),
        row(table.headings, "th"),
        *(row(cells) for cells in table.rows),
    ]
    return (
        "<html><head><style>td {mso-number-format:'\\@'}</style></head><body><table border=\"1\">\n"
        + "\n".join(lines)
        + "\n</table></body></html>\n"
    ).encode()
