"""PeopleSoft's applied amounts: what has been applied to each library item up to now, one line an item.

The file's structure is ``query_output``'s affair; here a line is either taken or refused with its reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from alma_hook import query_output
from alma_hook.campus import Campus
from alma_hook.ledger.applied import Applied
from alma_hook.query_output import LineError, RefusedLine


@dataclass(frozen=True, slots=True)
class AppliedFile:
    """A file as read. ``items``: one a fee and EMPLID, the amounts of its items added up. ``lines``: how many it holds.

    ``unclear``: fees with a line that can't be taken; nothing is known of them. ``blind``: such a line may be
    about any fee.
    """

    items: tuple[Applied, ...]
    refused: tuple[RefusedLine, ...]
    unclear: frozenset[str]
    blind: bool
    lines: int


def read(name: str, content: bytes, campus: Campus) -> AppliedFile:
    """Read a file of applied amounts. Raises ``BadFile`` with every fault of its structure."""
    settings = campus.sis_to_alma
    columns: dict[str, str] = dict(settings.columns.items())
    items: dict[tuple[str, str], Applied] = {}
    numbers: set[tuple[str, str | None]] = set()
    refused: list[RefusedLine] = []
    unclear: set[str] = set()
    blind = False
    rows = query_output.rows(name, content, settings.delimiter, columns)
    for line_no, values in rows:
        try:
            item = _item(values, line_no, campus)
            _require_another(item, values.get("item"), numbers)
            known = items.get((item.fee_id, item.emplid))
            if known is not None:
                item = replace(item, cents=known.cents + item.cents)
            numbers.add((item.fee_id, values.get("item")))
            items[item.fee_id, item.emplid] = item
        except LineError as error:
            refused.append(query_output.refused(line_no, values, columns, error))
            fee_id = campus.fee_id_of(values["reference"])
            if fee_id is not None:
                unclear.add(fee_id)
            elif not query_output.of_others(values["reference"], campus):
                blind = True
    kept = tuple(item for item in items.values() if item.fee_id not in unclear)
    return AppliedFile(kept, tuple(refused), frozenset(unclear), blind, len(rows))


def _item(values: Mapping[str, str], line_no: int, campus: Campus) -> Applied:
    value = query_output.cents_of(values, "applied", campus.sis_to_alma.number_format)
    if value < 0:
        raise LineError("applied", "is negative, and nobody can have paid less than nothing")
    query_output.require_ids(values, "emplid")
    if "item" in values:
        query_output.require_key(values, "item")
    return Applied(query_output.fee_of(values, campus), values["emplid"], value, line_no)


def _require_another(item: Applied, number: str | None, numbers: Collection[tuple[str, str | None]]) -> None:
    """Refuse a line that may be one before it once more; without the items' ids every second one of a fee may be."""
    if (item.fee_id, number) not in numbers:
        return
    if number is None:
        raise LineError(
            "reference", "stands in a line before; with two items of one fee the query must give their ids"
        )
    raise LineError("item", "stands in a line before, so what is applied to it can't be told")
