"""Alma's answers: what a body means, as a fee, a user or an error.

Sources: Ex Libris' OpenAPI files and recorded answers in public repositories. Errors come as HTTP 400
in four forms of body, a user without fees has no ``fee`` key at all, and an answer of 200 may carry a
broken body although the change was applied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from lxml import etree

from alma_hook import keys
from alma_hook.errors import (
    AlmaHookError,
    Fatal,
    FeeClosed,
    FeeNotFound,
    Inconsistent,
    NotPermitted,
    OutcomeUnknown,
    QuotaSpent,
    RateLimited,
    Refused,
    Retriable,
    UserNotFound,
)
from alma_hook.money import amount, cents

_USER_NOT_FOUND = {"401861", "401890"}
_FEE_NOT_FOUND = {"401665"}
_IDENTIFIER_NOT_FOUND = {"401651"}  # Alma's words are "Identifier not found", of the user or the fee
_NOT_PERMITTED = {"UNAUTHORIZED", "INVALID_REQUEST", "FORBIDDEN"}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it came over the wire; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Transaction:
    """A payment, waiver or other movement on a fee; ``cents`` as Alma gives it.

    ``external_id``: our key stands there, that of a waiver, which has no such field, in its comment.
    """

    type: str
    cents: int
    external_id: str | None
    at: str | None


@dataclass(frozen=True, slots=True)
class Fee:
    """A fee as one answer showed it. Amounts in cents; a CREDIT fee's are negative."""

    fee_id: str
    user_id: str
    type: str
    status: str
    balance: int
    original: int
    owner: str
    created_at: str | None
    transactions: tuple[Transaction, ...]
    currency: str | None = None

    def own_payments(self) -> tuple[Transaction, ...]:
        """The payments on it that carry our key."""
        return tuple(t for t in self.transactions if keys.is_ours(t.external_id))

    def of_others(self) -> tuple[Transaction, ...]:
        """All that was done on it by others than us."""
        return tuple(t for t in self.transactions if not keys.is_ours(t.external_id))


@dataclass(frozen=True, slots=True)
class User:
    """As much of a user as fees need. ``identifiers`` maps identifier type to value."""

    primary_id: str
    group: str
    identifiers: Mapping[str, str]


def error_of(reply: Reply, changing: bool) -> AlmaHookError:
    """Return the error an answer means; ``changing`` says whether the call was to change something.

    Understands all forms of body: JSON with a list, the gateway's JSON with an object, XML, and
    anything else (empty, text, a web page).
    """
    code, message, tracking = _error_body(reply.body)
    marks: dict[str, Any] = {"code": code, "tracking_id": tracking}
    status = reply.status
    if code == "DAILY_THRESHOLD":
        return QuotaSpent("The institution's daily allowance of API calls is spent.", **marks)
    if status == 429 or code == "PER_SECOND_THRESHOLD":
        return RateLimited("Alma refused the call: too many in this second.", **marks)
    if code in _NOT_PERMITTED or status in (401, 403):
        return NotPermitted(
            "The API key is wrong or lacks a permission: it needs Users read/write, Analytics read, and "
            "Configuration read for changed fees. Check the key and the address of the connection.",
            **marks,
        )
    if code in _USER_NOT_FOUND:
        return UserNotFound("Alma has no such user.", **marks)
    if code in _FEE_NOT_FOUND or code in _IDENTIFIER_NOT_FOUND:
        return FeeNotFound("Alma has no such fee for this user.", **marks)
    if status >= 500:
        kind = OutcomeUnknown if changing else Retriable
        return kind(f"Alma answered HTTP {status}.", **marks)
    if code is None and changing and status not in (404, 405):
        return OutcomeUnknown(
            f"HTTP {status} with a body that is not Alma's; the change may have been applied."
        )
    if code is None:
        # Not Alma's gateway at all: the institution's own address, or a proxy's page.
        return NotPermitted(
            f"HTTP {status} with a body that is not Alma's. The connection's address must be the API "
            "gateway, such as https://api-na.hosted.exlibrisgroup.com",
            **marks,
        )
    if "closed fee" in message.lower():
        return FeeClosed("Alma does not give this fee alone: it is closed.", **marks)
    return Refused(f"Alma refused the call with HTTP {status}.", **marks)


def _error_body(body: bytes) -> tuple[str | None, str, str | None]:
    text = body.strip()
    entry: Any = None
    if text.startswith(b"{"):
        try:
            data = json.loads(text)
            data = data.get("web_service_result", data)
            entry = data["errorList"]["error"]
            entry = entry[0] if isinstance(entry, list) else entry
            code, message, tracking = (entry.get(k) for k in ("errorCode", "errorMessage", "trackingId"))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return None, "", None
    elif text.startswith(b"<"):
        try:
            root = xml_of(text)
        except (Retriable, Fatal):
            return None, "", None
        code, message, tracking = (
            root.xpath(f"string(//*[local-name()='{name}'])")
            for name in ("errorCode", "errorMessage", "trackingId")
        )
    else:
        return None, "", None
    return (
        (str(code).strip() or None) if code is not None else None,
        str(message or ""),
        str(tracking or "") or None,
    )


def xml_of(body: bytes) -> Any:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(body, parser)
    except etree.XMLSyntaxError:
        raise Retriable("The answer is not well-formed XML.") from None


def json_of(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise Retriable(
            "Alma answered 200 with a body that is not JSON. If it stays so, the connection's address is "
            "not the API gateway."
        ) from None
    if not isinstance(data, dict):
        raise Retriable("Alma answered 200 with JSON of another shape.")
    return data


def record_count(page: Mapping[str, Any]) -> int:
    try:
        return int(page.get("total_record_count") or 0)
    except (TypeError, ValueError, OverflowError):
        raise Inconsistent("A list came without a usable count.") from None


def entries_of(page: Mapping[str, Any], name: str) -> list[Any]:
    entries = page.get(name) or []
    if not isinstance(entries, list):
        raise Inconsistent("A list came in another shape.")
    return entries


def fees_of(page: Mapping[str, Any]) -> list[Fee]:
    fees = [fee_of(entry, page.get("currency")) for entry in entries_of(page, "fee")]
    try:
        count, total = int(page["total_record_count"]), cents(page.get("total_sum") or 0)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Inconsistent("A list of fees came without a usable count and sum.") from None
    # A closed list's sum is not documented; its balances are zero, so the same rule holds.
    if count != len(fees) or total != sum(fee.balance for fee in fees):
        raise Inconsistent(
            f"A list of fees contradicts itself: it names {count} and {amount(total)}, and holds "
            f"{len(fees)} and {amount(sum(fee.balance for fee in fees))}."
        )
    if len({fee.fee_id for fee in fees}) != len(fees):
        raise Inconsistent("A list of fees names one fee twice.")
    return fees


def changed_fee(reply: Reply) -> Fee:
    try:
        return fee_of(json_of(reply.body), None)
    except (Retriable, Inconsistent):
        raise OutcomeUnknown(
            "Alma answered 200 with a body that can't be read; the change may have been applied."
        ) from None


def _code(value: Any) -> str:
    return str((value.get("value") if isinstance(value, Mapping) else value) or "")


def fee_of(entry: Mapping[str, Any], currency: str | None) -> Fee:
    try:
        return Fee(
            fee_id=str(entry["id"]),
            user_id=_code(entry["user_primary_id"]),
            type=_code(entry["type"]),
            status=_code(entry["status"]),
            balance=_balance(entry),
            original=cents(entry["original_amount"]),
            owner=_code(entry.get("owner")),
            created_at=_instant(entry.get("creation_time")),
            transactions=tuple(_transaction(t) for t in entry.get("transaction") or ()),
            currency=currency,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OSError, OverflowError) as error:
        raise Inconsistent(f"A fee came without a usable field ({type(error).__name__}).") from None


def _balance(entry: Mapping[str, Any]) -> int:
    """Only of a closed fee may a missing balance mean nought."""
    if entry["balance"] is None and _code(entry["status"]) == "CLOSED":
        return 0
    return cents(entry["balance"])


def _transaction(entry: Mapping[str, Any]) -> Transaction:
    external, kind = entry.get("external_transaction_id"), _code(entry.get("type"))
    key = str(external) if external not in (None, "") else None
    if kind != "PAYMENT" and not keys.is_ours(key) and isinstance(entry.get("comment"), str):
        key = keys.in_text(entry["comment"]) or key
    return Transaction(
        type=kind,
        cents=cents(entry["amount"]),
        external_id=key,
        at=_instant(entry.get("transaction_time")),
    )


def _instant(value: Any) -> str | None:
    """Alma writes ISO-8601 UTC; recordings of 2014 have milliseconds since 1970."""
    if isinstance(value, int):
        return datetime.fromtimestamp(value // 1000, UTC).isoformat(timespec="seconds")
    return str(value) if value else None


def user_of(entry: Mapping[str, Any]) -> User:
    try:
        return User(
            primary_id=str(entry["primary_id"]),
            group=_code(entry.get("user_group")),
            identifiers=_identifiers(entry.get("user_identifier") or ()),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Inconsistent(f"A user came without a usable field ({type(error).__name__}).") from None


def _identifiers(entries: Any) -> dict[str, str]:
    """Only active ones; of two different values of one type neither can be told to be the right one."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        if str(entry.get("status") or "ACTIVE").upper() == "ACTIVE":
            found.setdefault(_code(entry.get("id_type")), set()).add(str(entry.get("value") or ""))
    return {kind: values.pop() if len(values) == 1 else "" for kind, values in found.items()}
