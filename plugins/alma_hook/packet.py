"""The business office's packet: one HTML page, made from a campus's settings, on what PeopleSoft gets and gives.

What stands in a file's columns is declared once, by the layout and here; the tables of the docs come from the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from alma_hook import charge_file, charges, layouts
from alma_hook.campus import WAIVE, Campus
from alma_hook.errors import BadFile, Fault, SettingsError
from alma_hook.ledger.batches import Line
from alma_hook.money import amount
from alma_hook.resources import include

#: Source of a field -> where what stands there comes from.
FROM = {
    "literal": "fixed",
    "blank": "nothing",
    "line_count": "number of lines in the file",
    "control_total": "sum of the lines' amounts",
    "origin_id": "`sfs.origin_id`",
    "business_unit": "`sfs.business_unit`",
    "currency": "`currency`",
    "file_date": "the day the file was planned",
    "emplid": "Alma user, by `emplid.source`",
    "item_type": "Alma fee type, by `item_types`",
    "amount": "what the formula says is due",
    "reversal": "the line's kind, by `sfs.credits_by`",
    "term": "the day, by `terms`; else blank",
    "effective_date": "the day the line was planned",
    "due_date": "the day, by `first_charges`; else blank",
    "account_type": "`sfs.account_type`",
    "reference": "`sfs.reference_prefix` + Alma fee id",
    "description": "Alma fee type, by `descriptions`",
}

#: Source of a field -> what a line holds by it, in the order in which it is told; what is of the library's own is not.
_HOLDS = {
    "emplid": "the EMPLID",
    "amount": "the amount",
    "item_type": "the item type",
    "effective_date": "days",
    "due_date": "days",
    "term": "the term",
    "account_type": "the account type",
    "description": "a fixed description of the fee type",
    "reference": "Alma's number of the fee as the reference",
}
_RECORDS = {"header": "Header", "detail": "Line", "trailer": "Trailer"}
_LINE_ENDS = {"lf": "LF", "crlf": "CR LF"}
#: Of nobody: nine digits that no person has, and a fee that is none.
_NOBODY, _FEE = "012345678", "1389888970001234"
_MEANS = {
    "payment_id": "PeopleSoft's id of the payment, the same in every later output",
    "emplid": "who was charged, with leading noughts",
    "reference": "REF1_DESCR of the charge, as it was sent",
    "amount": "what was paid, above 0",
    "paid_on": "the day of the payment",
    "kind": "what the line is",
    "applied": "what has been applied to the item up to now",
    "item": "the item's number",
    "balance": "the item's balance",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One kind of record of a layout: ``title`` with its length, and a row a field: name, place, from, example."""

    title: str
    place: str
    rows: Sequence[tuple[str, str, str, str]]


def records(layout: layouts.Layout, lines: Sequence[str]) -> Iterator[Record]:
    """Yield what stands where in a file of a layout. ``lines``: one example of each of its records."""
    for (kind, record), line in zip(layout.records.items(), lines, strict=True):
        length = f"{record.width} columns" if record.width else "ends with its last field"
        cells = (
            [line[(f.at or 1) - 1 : f.end] for f in record.fields]
            if layout.fixed
            else line.split(layout.delimiter)
        )
        rows = [
            (f.label, f"{f.at}-{f.end}" if layout.fixed else f"{place}", FROM[f.source] + _more(f), cell)
            for place, (f, cell) in enumerate(zip(record.fields, cells, strict=True), 1)
        ]
        title = f"{_RECORDS[kind]} ({length if layout.fixed else 'delimited'})"
        yield Record(title, "columns" if layout.fixed else "value", rows)


def line_end(layout: layouts.Layout) -> str:
    """How its lines end, as people call it."""
    return _LINE_ENDS[layout.line_end]


def _more(f: layouts.FieldLayout) -> str:
    """Say what else a field does than its source tells."""
    told = [f"as {f.format}"] if f.format else []
    if f.source == "amount" and f.negative == "never":
        told.append("never negative")
    if f.source == "reversal":
        marks = [f"`{mark}`" if mark else "blank" for mark in (f.charge, f.credit)]
        told.append(f"{marks[0]} in a charge, {marks[1]} in a credit that reverses it")
    if f.only is not None:
        told.append(f"in a file of {f.only} only")
    if f.negative == "credits":
        told.append("negative in a file of credits")
    if f.decimals == "implied":
        told.append("in cents, without a point")
    return "".join(f", {text}" for text in told)


def page(campus: Campus, layout: layouts.Layout, day: date) -> str:
    """Return the page as of a day. It holds nothing of a person and no secret."""
    environment = Environment(
        loader=FileSystemLoader(include("packet.html").parent),
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.filters["amount"] = amount
    charge = _example(campus, day)
    credit = charge._replace(
        kind="credit",
        amount=400,
        item_type=campus.credit_item_type(charge.item_type) or charge.item_type,
        credit_item=int(campus.sfs.credits_by == "item_type"),
        due_date="",
    )
    files = {
        "charges": _file(campus, layout, "charges", [charge, charge._replace(amount=2500)], day),
        "credits": _file(campus, layout, "credits", [credit], day),
    }
    return environment.get_template("packet.html").render(
        campus=campus,
        layout=layout,
        line_end=line_end(layout),
        records=list(records(layout, _one_of_each(files["charges"], layout))),
        files={kind: _under_ruler(lines, layout) for kind, lines in files.items()},
        names={
            kind: campus.sfs.sent_as(kind) or campus.sfs.name_of(kind, day).replace("{sequence}", "000012")
            for kind in files
        },
        holds=_and(_holds(layout)),
        describes=any(f.source == "description" for f in layout.detail.fields),
        item_types=list(_item_types(campus)),
        columns=_columns(campus.sis_to_alma.columns),
        item_columns=_columns(campus.sis_to_alma.items.columns) if campus.sis_to_alma.items else [],
        waived=[code for code, kind in campus.sis_to_alma.kinds.items() if kind.startswith(WAIVE)],
        open_questions=list(_open_questions(campus)),
        day=day,
    )


def write(campus: Campus, output: Path, day: date) -> None:
    """Write the page to a new file. Raises ``FileExistsError`` when there is one."""
    layout = layouts.load(campus.sfs.layout, campus.folder)
    text = page(campus, layout, day)
    with output.open("x", encoding="utf-8") as file:
        file.write(text)


def _code(text: str) -> Markup:
    """Let what stands in backticks be code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 it is escaped


def _example(campus: Campus, day: date) -> Line:
    fee_type, item_type = next(iter(campus.item_types.items()))
    return Line(
        fee_id=_FEE,
        kind="charge",
        amount=1250,
        emplid=_NOBODY,
        item_type=item_type,
        term=campus.term(day),
        reference=campus.reference(_FEE),
        description=campus.description(fee_type),
        account_type=campus.sfs.account_type,
        effective_date=day.isoformat(),
        due_date=campus.due_date(day),
        reason="new",
        item_fee=_FEE,
    )


def _file(campus: Campus, layout: layouts.Layout, kind: str, lines: Sequence[Line], day: date) -> list[str]:
    total = sum(line.amount for line in lines)
    control = charge_file.Control(
        kind, len(lines), total, campus.sfs.origin_id, campus.sfs.business_unit, campus.currency, day
    )
    try:
        content = charge_file.write(layout, control, charges.frame(lines))
    except BadFile as error:
        # The example is of one fee, and that is nobody's.
        said = sorted({(fault.field, text) for fault in error.faults for text in fault.text.split("; ")})
        faults = [Fault(f"{layout.name}.toml", text, field=field) for field, text in said]
        raise SettingsError(f"Not even the example of a file of {kind} fits the layout.", faults) from None
    return content.decode(layout.encoding).splitlines()


def _holds(layout: layouts.Layout) -> list[str]:
    """What a line of a layout holds, each thing once."""
    sources = {f.source for f in layout.detail.fields}
    return list(dict.fromkeys(words for source, words in _HOLDS.items() if source in sources))


def _and(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}"


def _one_of_each(lines: Sequence[str], layout: layouts.Layout) -> list[str]:
    """Return one line of each record: of two details the first."""
    place = list(layout.records).index("detail")
    return [*lines[: place + 1], *lines[place + 2 :]]


def _under_ruler(lines: Sequence[str], layout: layouts.Layout) -> str:
    return "\n".join(charge_file.under_ruler(lines) if layout.fixed else lines)


def _item_types(campus: Campus) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield fee type, library, item type of charges, of credits, and what students read."""
    of_all = [("", campus.item_types), *campus.item_types_of.items()]
    for owner, table in of_all:
        for fee_type, item_type in table.items():
            credit = campus.credit_item_type(item_type) or ""
            yield fee_type, owner, item_type, credit, campus.description(fee_type)


def _columns(columns: object) -> list[tuple[str, str]]:
    return [(heading, _MEANS[meaning]) for meaning, heading in dict(columns).items()]  # type: ignore[call-overload]


def _open_questions(campus: Campus) -> Iterator[tuple[str, str]]:
    """Yield what the settings leave to agree on, with what holds as they are."""
    back = campus.sis_to_alma
    if not campus.terms:
        yield "Which term does a charge carry?", "Blank: PeopleSoft or its loader has to find one."
    if campus.first_charges.due_in_days is None and campus.first_charges.due_on_day is None:
        yield "When is a charge due?", "No due date is sent."
    if back.items is None:
        yield (
            "Can a second query list every library item with its amount?",
            "No list is set up: a line that was rejected, or a file that was never loaded, is not noticed here.",
        )
    if not back.cumulative:
        yield (
            "Does every output list all payments?",
            "It need not: a payment that PeopleSoft takes back by leaving it out is not noticed.",
        )
    if "payment_id" not in back.columns and back.shape == "payments":
        yield (
            "Can the query show an id of each payment?",
            "Without one each day in a file must be complete, and never change its wording.",
        )
    if not back.names_fees:
        yield (
            "Can the query show the reference of the item that was paid?",
            "Without it a payment is a student's, and which fee it is for is decided by the library.",
        )
    if campus.first_charges.other_item_type is None:
        yield (
            "Which item type for a fee type that is not in the table?",
            "Such fees are listed and not charged.",
        )
    yield (
        "Who loads and posts the files, how often, and who tells the library which lines were rejected?",
        "A person, to be named below.",
    )
    yield "Which credits count as paid (aid, waivers, write-offs)?", "Those that the query shows."
    yield "How long are the files kept on the server, and who removes them?", "Nobody here removes any."
