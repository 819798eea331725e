"""How Alma writes its records down, as JSON and as XML, after recorded answers."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from simulator.alma import AlmaModel
from simulator.alma_records import Fee, Transaction, User
from simulator.codes import (
    FEE_STATUSES,
    FEE_TYPES,
    IDENTIFIER_TYPES,
    LIBRARIES,
    PAYMENT_METHODS,
    TRANSACTION_TYPES,
    USER_GROUPS,
)
from simulator.money import number_of

Json = dict[str, Any]
XML_HEAD = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
# JSON flattens a wrapped list to its singular key; XML keeps the wrapper.
_WRAPPERS = {"transaction": "transactions", "user_identifier": "user_identifiers"}
# These stand as attributes of the enclosing element in XML.
_ATTRIBUTES = {"total_record_count", "total_sum", "currency", "link"}


def timestamp(at: datetime) -> str:
    """``2026-06-28T17:44:16.104Z``: UTC with milliseconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def coded(code: str, labels: Mapping[str, str]) -> Json:
    """A coded value with its label."""
    return {"value": code, "desc": labels.get(code, code)}


class Payloads:
    """Alma's records as JSON objects. ``base_url`` is what links begin with (no trailing slash)."""

    def __init__(self, model: AlmaModel, base_url: str = "https://api-na.hosted.exlibrisgroup.com") -> None:
        self.model = model
        self.base_url = base_url

    def user_link(self, user: User) -> str:
        """The user's link; ``/users/-`` for a user without a primary id."""
        return f"{self.base_url}/almaws/v1/users/" + (
            "-" if user.pseudo else quote(user.primary_id, safe="@")
        )

    def fee(self, fee: Fee) -> Json:
        """rest_fee: amounts as numbers, nulls explicit, no ``transaction`` key while there is none."""
        link = self.user_link(fee.user)
        shown: Json = {
            "id": fee.id,
            "type": coded(fee.type, FEE_TYPES),
            "status": coded(fee.status, FEE_STATUSES),
            "user_primary_id": {"value": fee.user.primary_id, "link": link},
            "balance": number_of(fee.balance_cents),
            "remaining_vat_amount": 0.0,
            "original_amount": number_of(fee.original_cents),
            "original_vat_amount": 0.0,
            "creation_time": timestamp(fee.creation_time),
            "status_time": timestamp(fee.status_time),
            "comment": fee.comment,
            "owner": coded(fee.owner, LIBRARIES),
            "title": fee.title,
            "barcode": None
            if fee.barcode is None
            else {
                "value": fee.barcode,
                "link": f"{self.base_url}/almaws/v1/items?item_barcode={fee.barcode}",
            },
        }
        if fee.bursar_transaction_id is not None:
            shown["bursar_transaction_id"] = fee.bursar_transaction_id
        if fee.transactions:
            shown["transaction"] = [self.transaction(transaction) for transaction in fee.transactions]
        shown["link"] = f"{link}/fees/{fee.id}"
        return shown

    def transaction(self, transaction: Transaction) -> Json:
        """One transaction; only the keys it has."""
        shown: Json = {
            "type": coded(transaction.kind, TRANSACTION_TYPES),
            "amount": number_of(transaction.amount_cents),
            "vat_amount": 0.0,
            "created_by": transaction.created_by,
            "transaction_time": timestamp(transaction.at),
        }
        if self.model.behaviour.transaction_ids:
            shown["transaction_id"] = transaction.id
        if transaction.reason is not None:
            shown["reason"] = transaction.reason
        if transaction.comment is not None and (
            transaction.kind != "WAIVE" or self.model.behaviour.waive_comment_returned
        ):
            shown["comment"] = transaction.comment
        if transaction.external_transaction_id is not None:
            shown["external_transaction_id"] = transaction.external_transaction_id
        if transaction.received_by is not None:
            shown["received_by"] = {"value": transaction.received_by, "desc": transaction.received_by_label}
        if transaction.method is not None:
            shown["payment_method"] = coded(transaction.method, PAYMENT_METHODS)
        return shown

    def fees(self, fees: Sequence[Fee], total: int | None = None) -> Json:
        """rest_fees. Without fees there is no ``fee`` key at all and the currency is null, as recorded.

        ``total``: the count to show when ``fees`` is one page of more.
        """
        count = len(fees) if total is None else total
        if not fees:
            return {"total_record_count": count, "total_sum": 0, "currency": None}
        return {
            "fee": [self.fee(fee) for fee in fees],
            "total_record_count": count,
            "total_sum": number_of(sum(fee.balance_cents for fee in fees)),
            "currency": self.model.currency,
        }

    def user(self, user: User, *, brief: bool = False, with_fees: bool = False) -> Json:
        """rest_user. ``fees`` is null unless expanded, then the active balance with its link."""
        shown: Json = {
            "primary_id": user.primary_id,
            "first_name": user.first_name,
            "last_name": user.last_name,
            "status": {"value": "ACTIVE", "desc": "Active"},
            "link": self.user_link(user),
        }
        if brief:
            return shown
        active = sum(fee.balance_cents for fee in self.model.fees_of(user, "ACTIVE"))
        return {
            "record_type": {"value": "PUBLIC", "desc": "Public"},
            "primary_id": user.primary_id,
            "first_name": user.first_name,
            "middle_name": "",
            "last_name": user.last_name,
            "full_name": f"{user.first_name} {user.last_name}",
            "user_group": coded(user.user_group, USER_GROUPS),
            "account_type": {"value": "EXTERNAL", "desc": "External"},
            "status": {"value": "ACTIVE", "desc": "Active"},
            "created_date": user.created_at.strftime("%Y-%m-%dZ"),
            "last_modified_date": timestamp(user.modified_at),
            "fees": {"value": number_of(active), "link": f"{self.user_link(user)}/fees"}
            if with_fees
            else None,
            "user_identifier": [
                {"value": value, "id_type": coded(kind, IDENTIFIER_TYPES), "note": None, "status": "ACTIVE"}
                for kind, value in user.identifiers.items()
            ],
            "link": self.user_link(user),
        }


def to_json(shown: Json) -> bytes:
    """The JSON body of a record."""
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()


def to_xml(root: str, shown: Json) -> bytes:
    """The XML body of a record: nulls absent, ``desc`` and ``link`` as attributes, lists wrapped."""
    body: bytes = ET.tostring(element(root, shown), encoding="utf-8", xml_declaration=False)
    return XML_HEAD + body


def element(tag: str, shown: Any) -> ET.Element:
    """One record as an XML element."""
    made = ET.Element(tag)
    if isinstance(shown, dict) and "value" in shown and not isinstance(shown.get("id_type"), dict):
        for name, value in shown.items():
            if name != "value" and value is not None:
                made.set(name, _text(value))
        made.text = _text(shown["value"])
    elif isinstance(shown, dict):
        for name, value in shown.items():
            if name in _ATTRIBUTES:
                if value is not None:
                    made.set(name, _text(value))
            elif isinstance(value, list):
                parent = ET.SubElement(made, _WRAPPERS[name]) if name in _WRAPPERS else made
                parent.extend(element(name, item) for item in value)
            elif value is not None:
                made.append(element(name, value))
    else:
        made.text = _text(shown)
    return made


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
