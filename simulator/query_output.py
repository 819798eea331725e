"""PeopleSoft Query's output files: CSV, XML (XMLP) and the HTML table that Query calls Excel."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Literal

from simulator.money import text_of
from simulator.peoplesoft_records import Item, Payment

Format = Literal["csv", "xml", "xls-html"]
EXTENSIONS: dict[str, str] = {"csv": ".csv", "xml": ".xml", "xls-html": ".xls"}

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
class Table:
    """Rows of text under headings; ``headings`` maps a heading to its field name."""

    headings: dict[str, str]
    rows: list[tuple[str, ...]]


def payment_rows(payments: Iterable[Payment], date_format: str, bounced: str) -> Table:
    """One row a payment: amounts 0.00, ids with their leading noughts, days in UTC.

    ``bounced`` says how a payment taken back looks: omit, zero, or negative (a second row).
    """
    rows: list[tuple[str, ...]] = []
    for payment in payments:

        def row(cents: int, payment: Payment = payment) -> tuple[str, ...]:
            return (
                payment.emplid,
                payment.payment_id,
                payment.at.strftime(date_format),
                payment.reference,
                text_of(cents),
                payment.item_type,
            )

        if bounced == "negative" and payment.bounced_cents:
            rows += [row(payment.amount_cents + payment.bounced_cents), row(-payment.bounced_cents)]
        elif payment.amount_cents or bounced == "zero":
            rows.append(row(payment.amount_cents))
    return Table(PAYMENT_HEADINGS, rows)


def applied_rows(items: Iterable[Item], business_unit: str) -> Table:
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
                text_of(item.amount_cents),
                text_of(item.applied_cents),
                text_of(item.balance_cents),
            )
            for item in items
        ],
    )


def render(table: Table, format: Format, query_name: str) -> bytes:
    """The table as a file's bytes. Raises ValueError for an unknown format."""
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")  # quotes only where a value needs them
        writer.writerow(table.headings)
        writer.writerows(table.rows)
        return text.getvalue().encode("utf-8")
    if format == "xml":
        return _xml(table, query_name)
    if format == "xls-html":
        return _html(table, query_name)
    raise ValueError(f"unknown format: {format}")


def _xml(table: Table, query_name: str) -> bytes:
    parts = [
        "<?xml version='1.0'?>",
        (
            f'<query numrows="{len(table.rows)}" queryname="{escape(query_name)}" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="">'
        ),
    ]
    for number, row in enumerate(table.rows, start=1):
        cells = "".join(
            f"<{name}>{escape(value)}</{name}>"
            for name, value in zip(table.headings.values(), row, strict=True)
        )
        parts.append(f'<row rownumber="{number}">{cells}</row>')
    return "\n".join([*parts, "</query>", ""]).encode()


def _html(table: Table, query_name: str) -> bytes:
    def row(cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"

    lines = [
        row([query_name, str(len(table.rows))]),
        row(table.headings),
        *(row(cells) for cells in table.rows),
    ]
    return ("<html><body><table>\n" + "\n".join(lines) + "\n</table></body></html>\n").encode()
