"""PeopleSoft's library items as they stand before the books are opened: one line an item, whoever has charged it.

The file's structure is ``query_output``'s affair. A line that can't be read makes the whole file a bad one: its item
would else be charged a second time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from alma_hook import query_output
from alma_hook.campus import Campus, Opening
from alma_hook.errors import BadFile, Fault
from alma_hook.query_output import LineError


@dataclass(frozen=True, slots=True)
class HeldItem:
    """One item in PeopleSoft. Cents: ``balance`` still to be paid, ``applied`` what pays it up to now.

    ``fee_id``: of a reference of ours; else ``None``.
    """

    line_no: int
    emplid: str
    item_type: str
    balance: int
    applied: int
    reference: str
    term: str
    fee_id: str | None


def read(name: str, content: bytes, campus: Campus, settings: Opening) -> tuple[HeldItem, ...]:
    """Read the file. Raises ``BadFile`` with every fault, of its structure or, where that is whole, of its lines."""
    columns: dict[str, str] = dict(settings.columns.items())
    items: list[HeldItem] = []
    faults: list[Fault] = []
    for line_no, values in query_output.rows(name, content, campus.sis_to_alma.delimiter, columns):
        found: list[LineError] = []
        numbers = {meaning: _cents(values, meaning, campus, found) for meaning in ("balance", "applied")}
        for meaning in ("emplid", "item_type", "reference", "term"):
            _check(values, meaning, found)
        if values["emplid"] and not any(error.field == "emplid" for error in found):
            _require_pattern(values["emplid"], campus, found)
        faults += [Fault(name, str(error), line=line_no, field=columns[error.field]) for error in found]
        if not found:
            reference = values.get("reference", "").strip()
            items.append(
                HeldItem(
                    line_no,
                    values["emplid"],
                    values["item_type"],
                    numbers["balance"],
                    numbers["applied"],
                    reference,
                    values.get("term", ""),
                    campus.fee_id_of(reference),
                )
            )
    if faults:
        raise BadFile("The file of PeopleSoft's items can't be taken in; nothing was opened.", faults)
    return tuple(items)


def _cents(values: Mapping[str, str], meaning: str, campus: Campus, found: list[LineError]) -> int:
    try:
        value = query_output.cents_of(values, meaning, campus.sis_to_alma.number_format)
        if value < 0:
            raise LineError(
                meaning, "is below nought: the query must show charges alone, no payments or credits"
            )
    except LineError as error:
        found.append(error)
        return 0
    return value


def _require_pattern(emplid: str, campus: Campus, found: list[LineError]) -> None:
    """One whose noughts a spreadsheet has taken is nobody's: nothing of that student would be held."""
    if re.fullmatch(campus.emplid.pattern, emplid, re.ASCII) is None:
        found.append(LineError("emplid", "is of another shape than emplid.pattern of the settings says"))


def _check(values: Mapping[str, str], meaning: str, found: list[LineError]) -> None:
    """Later lines about the item copy what stands here, so it has to be whole."""
    text = values.get(meaning, "")
    if meaning in ("emplid", "item_type") and not text:
        found.append(LineError(meaning, "is empty"))
    elif query_output.spoilt(text):
        found.append(LineError(meaning, "is none any more: a spreadsheet made a rounded number of it"))
    elif meaning == "item_type" and re.fullmatch(r"[0-9A-Za-z]{1,12}", text) is None:
        found.append(LineError(meaning, "must be 1 to 12 letters or digits"))
    elif meaning == "term" and re.fullmatch(r"[0-9A-Za-z]{0,4}", text) is None:
        found.append(LineError(meaning, "must be up to 4 letters or digits"))
    elif not text.isascii() or not (text.isprintable()):
        found.append(
            LineError(
                meaning, "must be plain ASCII: have it changed in PeopleSoft, as no credit could copy it"
            )
        )
