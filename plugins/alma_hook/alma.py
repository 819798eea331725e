"""Alma's REST API for fees: what is called, how answers are read, what an error means.

Knows nothing of Airflow or sockets: a ``Send`` function carries each request. Sources: Ex Libris'
OpenAPI files for users, conf and analytics, and recorded answers in public repositories. Four
traps shape this module: errors come as HTTP 400 in four body forms, a user without fees has no
``fee`` key at all, a list covers one status only, and an answer of 200 may carry a broken body
although the write was applied.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

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

T = TypeVar("T")
STATUSES = ("ACTIVE", "INDISPUTE", "EXPORTED", "CLOSED")
Operation = Literal["pay", "waive", "dispute", "restore"]

_USER_NOT_FOUND = {"401861", "401890"}
_FEE_NOT_FOUND = {"401665"}
_IDENTIFIER_NOT_FOUND = {"401651"}  # Alma's words are "Identifier not found", of the user or the fee
_NOT_PERMITTED = {"UNAUTHORIZED", "INVALID_REQUEST", "FORBIDDEN"}
_READ_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Request:
    """One call: ``path`` below ``/almaws/v1``, already percent-encoded.

    ``send_before``: not sent once the monotonic clock has passed it.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    accept: str = "application/json"
    send_before: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it came over the wire; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Send(Protocol):
    """Carries a request. Raises ``Retriable`` when it surely did not arrive, else ``OutcomeUnknown``."""

    def __call__(self, request: Request, /) -> Reply:
        """Return the answer, whatever its status."""
        ...


@dataclass(frozen=True, slots=True)
class Transaction:
    """A payment, waiver or other movement on a fee; ``cents`` as Alma gives it."""

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


@dataclass(frozen=True, slots=True)
class User:
    """As much of a user as fees need. ``identifiers`` maps identifier type to value."""

    primary_id: str
    group: str
    identifiers: Mapping[str, str]


class AlmaApi:
    """The calls this package makes.

    ``on_quota`` is told ``X-Exl-Api-Remaining`` of each answer; ``pause`` waits a number of seconds.
    """

    def __init__(
        self,
        send: Send,
        *,
        pause: Callable[[float], None] = time.sleep,
        on_quota: Callable[[int], None] | None = None,
    ) -> None:
        self._send = send
        self._pause = pause
        self._on_quota = on_quota

    # -- fees -----------------------------------------------------------------------------------

    def fees(self, user_id: str, status: str = "ACTIVE") -> list[Fee]:
        """Return a user's fees in one status.

        Raises ``Inconsistent`` when the list's own count or sum disagrees with the fees received.
        """
        path = f"/users/{_segment(user_id)}/fees"
        query = {"status": status, "user_id_type": "all_unique"}
        return self._reading(Request("GET", path, query), lambda body: _fees_list(_json(body)))

    def fees_in_every_status(self, user_id: str) -> list[Fee]:
        """Return a user's fees of all four statuses, one call each."""
        return [fee for status in STATUSES for fee in self.fees(user_id, status)]

    def fee(self, user_id: str, fee_id: str) -> Fee:
        """Return one fee. Alma may refuse closed ones (``FeeClosed``), lists are surer."""
        return _fee(self._read(f"/users/{_segment(user_id)}/fees/{_segment(fee_id)}", {}), None)

    def pay(
        self,
        user_id: str,
        fee_id: str,
        value: int,
        external_id: str,
        comment: str,
        method: str,
        send_before: float | None = None,
    ) -> Fee:
        """Pay ``value`` cents on a fee and return it as it stands then.

        Never repeated here, but for a refusal by the per-second limit, which Alma makes before it
        looks at the call. Raises ``Refused`` when Alma refused it, ``Retriable`` when it surely was not
        applied, ``OutcomeUnknown`` when it may have been.
        """
        query = {"amount": amount(value), "method": method, "external_transaction_id": external_id}
        return self._change_fee(user_id, fee_id, "pay", {**query, "comment": comment}, send_before)

    def waive(self, user_id: str, fee_id: str, value: int, reason: str, comment: str) -> Fee:
        """Waive ``value`` cents; ``reason`` is a code of Alma's table FineFeeTransactionReason."""
        query = {"amount": amount(value), "reason": reason, "comment": comment}
        return self._change_fee(user_id, fee_id, "waive", query)

    def dispute(self, user_id: str, fee_id: str, comment: str) -> Fee:
        """Put a fee in dispute."""
        return self._change_fee(user_id, fee_id, "dispute", {"comment": comment})

    def restore(self, user_id: str, fee_id: str, comment: str) -> Fee:
        """Make a disputed fee active again."""
        return self._change_fee(user_id, fee_id, "restore", {"comment": comment})

    def create_fee(self, user_id: str, fee_type: str, value: int, owner: str, comment: str) -> Fee:
        """Create a fee of ``value`` cents, owned by the library (or institution) ``owner``."""
        # Alma wants JSON numbers; the digits are written as they are, past any float.
        body = json.dumps(
            {"type": {"value": fee_type}, "owner": {"value": owner}, "comment": comment, "original_amount": 0}
        ).replace('"original_amount": 0', f'"original_amount": {amount(value)}')
        path = f"/users/{_segment(user_id)}/fees"
        return _changed(self._write(Request("POST", path, body=body.encode())))

    def _change_fee(
        self,
        user_id: str,
        fee_id: str,
        op: Operation,
        query: Mapping[str, str],
        send_before: float | None = None,
    ) -> Fee:
        path = f"/users/{_segment(user_id)}/fees/{_segment(fee_id)}"
        return _changed(self._write(Request("POST", path, {"op": op, **query}, send_before=send_before)))

    def fee_transactions(self, first: date, last: date) -> Iterator[Fee]:
        """Yield the fees paid or waived from ``first`` to ``last`` (at most seven days), 100 a call.

        Needs the Configuration area on the key.
        """
        window = {"transaction_from_date": first.isoformat(), "transaction_to_date": last.isoformat()}
        offset = 0
        while True:
            page = self._read(
                "/conf/utilities/fee-transactions", {**window, "limit": "100", "offset": str(offset)}
            )
            fees = [_fee(entry, page.get("currency")) for entry in _entries(page, "fee")]
            yield from fees
            offset += len(fees)
            if not fees or offset >= _count(page):
                return

    # -- users ----------------------------------------------------------------------------------

    def user(self, user_id: str) -> User:
        """Return one user's group and identifiers."""
        return _user(self._read(f"/users/{_segment(user_id)}", {"view": "full"}))

    def user_ids(self, modified_since: date | None = None) -> Iterator[str]:
        """Yield primary ids, of all users or of those modified on or after a day, 100 a call."""
        window = {"modify_date_from": modified_since.isoformat()} if modified_since else {}
        offset = 0
        while True:
            page = self._read("/users", {**window, "limit": "100", "offset": str(offset)})
            users = _entries(page, "user")
            try:
                ids = [str(entry["primary_id"]) for entry in users]
            except (KeyError, TypeError) as error:
                raise Inconsistent(
                    f"A user came without a usable primary id ({type(error).__name__})."
                ) from None
            yield from ids
            offset += len(users)
            if not users or offset >= _count(page):
                return

    # -- the rest -------------------------------------------------------------------------------

    def analytics_page(self, query: Mapping[str, str]) -> bytes:
        """Return one page of a report as XML. Not repeated: a lost page can't be asked for again."""
        try:
            return self._once(Request("GET", "/analytics/reports", query, accept="application/xml")).body
        except OutcomeUnknown as error:
            raise Retriable(str(error)) from None

    def institution(self) -> str:
        """Return the institution code that the key belongs to, by the users test call."""
        request = Request("GET", "/users/operation/test", accept="application/xml")
        text = self._reading(request, lambda body: str(_xml(body).xpath("string()")))
        if "institutionCode:" not in text:
            raise NotPermitted("The test call was answered by something that is not Alma's API gateway.")
        return text.rpartition("institutionCode:")[2].strip()

    def check_write(self) -> None:
        """Raise ``NotPermitted`` when the key may not write users and fees."""
        self._once(Request("POST", "/users/operation/test", accept="application/xml"))

    def code_table(self, name: str) -> Mapping[str, str]:
        """Return a code table's codes and descriptions. Needs the Configuration area."""
        rows = self._read(f"/conf/code-tables/{_segment(name)}", {}).get("row") or []
        return {str(row["code"]): str(row.get("description") or "") for row in rows}

    # -- one way in and out ---------------------------------------------------------------------

    def _read(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        return self._reading(Request("GET", path, query), _json)

    def _reading(self, request: Request, parse: Callable[[bytes], T]) -> T:
        """A GET changes nothing, so every passing fault is worth another attempt."""
        for attempt in range(1, _READ_ATTEMPTS):
            try:
                return parse(self._once(request).body)
            except QuotaSpent:
                raise
            except (Retriable, OutcomeUnknown):
                self._pause(0.5 * 2 ** (attempt - 1))
        try:
            return parse(self._once(request).body)
        except OutcomeUnknown as error:
            raise Retriable(str(error)) from None

    def _write(self, request: Request) -> Reply:
        for attempt in range(1, _READ_ATTEMPTS + 1):
            try:
                return self._once(request)
            except RateLimited:
                if attempt == _READ_ATTEMPTS:
                    raise
                self._pause(1.0 * attempt)
        raise AssertionError("unreachable")

    def _once(self, request: Request) -> Reply:
        reply = self._send(request)
        remaining = reply.headers.get("x-exl-api-remaining", "")
        if self._on_quota is not None and remaining.isdecimal():
            self._on_quota(int(remaining))
        if reply.status >= 300 or b"errorsExist" in reply.body[:400]:
            raise error_of(reply, request.method != "GET")
        return reply


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
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None, "", None
    elif text.startswith(b"<"):
        try:
            root = _xml(text)
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


def _segment(text: str) -> str:
    return quote(text, safe="")


def _xml(body: bytes) -> Any:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(body, parser)
    except etree.XMLSyntaxError:
        raise Retriable("The answer is not well-formed XML.") from None


def _json(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body, parse_float=Decimal)
    except ValueError:
        raise Retriable(
            "Alma answered 200 with a body that is not JSON. If it stays so, the connection's address is "
            "not the API gateway."
        ) from None
    if not isinstance(data, dict):
        raise Retriable("Alma answered 200 with JSON of another shape.")
    return data


def _count(page: Mapping[str, Any]) -> int:
    try:
        return int(page.get("total_record_count") or 0)
    except (TypeError, ValueError):
        raise Inconsistent("A list came without a usable count.") from None


def _entries(page: Mapping[str, Any], name: str) -> list[Any]:
    entries = page.get(name) or []
    if not isinstance(entries, list):
        raise Inconsistent("A list came in another shape.")
    return entries


def _fees_list(page: Mapping[str, Any]) -> list[Fee]:
    fees = [_fee(entry, page.get("currency")) for entry in _entries(page, "fee")]
    try:
        count, total = int(page["total_record_count"]), cents(page.get("total_sum") or 0)
    except (KeyError, TypeError, ValueError):
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


def _changed(reply: Reply) -> Fee:
    try:
        return _fee(_json(reply.body), None)
    except (Retriable, Inconsistent):
        raise OutcomeUnknown(
            "Alma answered 200 with a body that can't be read; the change may have been applied."
        ) from None


def _code(value: Any) -> str:
    return str((value.get("value") if isinstance(value, Mapping) else value) or "")


def _fee(entry: Mapping[str, Any], currency: str | None) -> Fee:
    try:
        return Fee(
            fee_id=str(entry["id"]),
            user_id=_code(entry["user_primary_id"]),
            type=_code(entry["type"]),
            status=_code(entry["status"]),
            balance=cents(entry["balance"] if entry["balance"] is not None else 0),
            original=cents(entry["original_amount"]),
            owner=_code(entry.get("owner")),
            created_at=_instant(entry.get("creation_time")),
            transactions=tuple(_transaction(t) for t in entry.get("transaction") or ()),
            currency=currency,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OSError, OverflowError) as error:
        raise Inconsistent(f"A fee came without a usable field ({type(error).__name__}).") from None


def _transaction(entry: Mapping[str, Any]) -> Transaction:
    external = entry.get("external_transaction_id")
    return Transaction(
        type=_code(entry.get("type")),
        cents=cents(entry["amount"]),
        external_id=str(external) if external not in (None, "") else None,
        at=_instant(entry.get("transaction_time")),
    )


def _instant(value: Any) -> str | None:
    """Alma writes ISO-8601 UTC; recordings of 2014 have milliseconds since 1970."""
    if isinstance(value, int):
        return datetime.fromtimestamp(value // 1000, UTC).isoformat(timespec="seconds")
    return str(value) if value else None


def _user(entry: Mapping[str, Any]) -> User:
    try:
        return User(
            primary_id=str(entry["primary_id"]),
            group=_code(entry.get("user_group")),
            identifiers={
                _code(i.get("id_type")): str(i.get("value") or "") for i in entry.get("user_identifier") or ()
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Inconsistent(f"A user came without a usable field ({type(error).__name__}).") from None
