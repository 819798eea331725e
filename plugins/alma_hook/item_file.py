"""PeopleSoft's list of library items: what each item comes to now, one line an item.

The file's structure is ``query_output``'s affair; here a line is either taken or refused with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alma_hook import query_output
from alma_hook.campus import Campus, Items
from alma_hook.ledger.items import Item
from alma_hook.query_output import LineError, RefusedLine


@dataclass(frozen=True, slots=True)
class ItemFile:
    """A list as read. ``items``: one a fee, the amounts of its lines added up. ``lines``: how many it holds."""

    items: tuple[Item, ...]
    refused: tuple[RefusedLine, ...]
    lines: int


def read(name: str, content: bytes, campus: Campus, settings: Items) -> ItemFile:
    """Read a list of items. Raises ``BadFile`` with every fault of its structure.

    A fee with a line that can't be taken is left out: the sum of its other lines would be wrong.
    """
    columns: dict[str, str] = dict(settings.columns.items())
    items: dict[str, Item] = {}
    refused: list[RefusedLine] = []
    doubtful: set[str | None] = set()
    rows = query_output.rows(name, content, campus.sis_to_alma.delimiter, columns)
    for line_no, values in rows:
        try:
            item = _item(values, campus)
        except LineError as error:
            refused.append(query_output.refused(line_no, values, columns, error))
            doubtful.add(campus.fee_id_of(values["reference"]))
            continue
        known = items.get(item.fee_id)
        items[item.fee_id] = item if known is None else _sum(known, item)
    kept = tuple(item for item in items.values() if item.fee_id not in doubtful)
    return ItemFile(kept, tuple(refused), len(rows))


def _item(values: Mapping[str, str], campus: Campus) -> Item:
    number_format = campus.sis_to_alma.number_format
    value = query_output.cents_of(values, "amount", number_format)
    balance = query_output.cents_of(values, "balance", number_format) if "balance" in values else None
    query_output.require_ids(values, "emplid")
    return Item(query_output.fee_of(values, campus), values["emplid"], value, balance)


def _sum(one: Item, other: Item) -> Item:
    """Two items of one fee; the newer one, further down, names the student."""
    both = None if one.balance is None or other.balance is None else one.balance + other.balance
    return Item(one.fee_id, other.emplid, one.amount + other.amount, both)
