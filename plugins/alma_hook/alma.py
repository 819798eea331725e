"""Alma's REST API for fees: what is called, and what may be called again.

Knows nothing of Airflow or sockets: a ``Send`` function carries each request. Source of paths and
parameters: Ex Libris' OpenAPI files for users, conf and analytics. A list of fees covers one status
only, and nothing in the API tells a payment made twice from two payments.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

from alma_hook.alma_answers import (
    Fee,
    Reply,
    User,
    changed_fee,
    entries_of,
    error_of,
    fee_of,
    fees_of,
    json_of,
    record_count,
    user_of,
    xml_of,
)
from alma_hook.errors import Inconsistent, NotPermitted, OutcomeUnknown, QuotaSpent, RateLimited, Retriable
from alma_hook.money import amount

T = TypeVar("T")
STATUSES = ("ACTIVE", "INDISPUTE", "EXPORTED", "CLOSED")
Operation = Literal["pay", "waive", "dispute", "restore"]

_READ_ATTEMPTS = 4
_LOOKS = 3


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


class Send(Protocol):
    """Carries a request. Raises ``Retriable`` when it surely did not arrive, else ``OutcomeUnknown``."""

    def __call__(self, request: Request, /) -> Reply:
        """Return the answer, whatever its status."""
        ...


class FeeLists(Protocol):
    """The call that finding fees needs."""

    def fees(self, user_id: str, status: str = "ACTIVE") -> list[Fee]:
        """Return a user's fees in one status."""
        ...


def look_up(
    source: FeeLists,
    user_id: str,
    wanted: frozenset[str],
    *,
    paid_by_us: bool = False,
    open_ones: bool = False,
) -> dict[str, Fee]:
    """Return a user's active fees and, from as many other statuses as it takes, the wanted ones.

    ``paid_by_us``: and every fee that bears a payment of ours, for which all statuses are read. ``open_ones``: and
    those in dispute or transferred.

    A fee seen in two lists moved between the calls, so all are read again; raises ``Inconsistent``
    when that goes on.
    """
    for _ in range(_LOOKS):
        seen = _look_once(source, user_id, wanted, paid_by_us, open_ones)
        if seen is not None:
            return seen
    raise Inconsistent("Fees moved from one list to another while they were read.")


def _look_once(
    source: FeeLists, user_id: str, wanted: frozenset[str], paid_by_us: bool, open_ones: bool
) -> dict[str, Fee] | None:
    seen: dict[str, Fee] = {}
    whole = STATUSES[:-1] if open_ones else STATUSES[:1]
    for status in STATUSES:
        if status not in whole and wanted <= seen.keys() and not paid_by_us:
            break
        for fee in source.fees(user_id, status):
            if fee.fee_id in seen:
                return None
            # Of the other lists only what is looked for matters: old closed fees are not ours.
            if status in whole or fee.fee_id in wanted or (paid_by_us and fee.own_payments()):
                seen[fee.fee_id] = fee
    return seen


class AlmaApi:
    """The calls this package makes. ``pause`` waits a number of seconds."""

    def __init__(
        self,
        send: Send,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._send = send
        self._pause = pause

    # -- fees -----------------------------------------------------------------------------------

    def fees(self, user_id: str, status: str = "ACTIVE") -> list[Fee]:
        """Return a user's fees in one status.

        Raises ``Inconsistent`` when the list's own count or sum disagrees with the fees received.
        """
        path = f"/users/{_segment(user_id)}/fees"
        query = {"status": status, "user_id_type": "all_unique"}
        return self._reading(Request("GET", path, query), lambda body: fees_of(json_of(body)))

    def fees_in_every_status(self, user_id: str) -> list[Fee]:
        """Return a user's fees of all four statuses, one call each."""
        return [fee for status in STATUSES for fee in self.fees(user_id, status)]

    def fee(self, user_id: str, fee_id: str) -> Fee:
        """Return one fee. Alma may refuse closed ones (``FeeClosed``), lists are surer."""
        return fee_of(self._read(f"/users/{_segment(user_id)}/fees/{_segment(fee_id)}", {}), None)

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

    def waive(
        self,
        user_id: str,
        fee_id: str,
        value: int,
        reason: str,
        comment: str,
        send_before: float | None = None,
    ) -> Fee:
        """Waive ``value`` cents, as `pay` pays them; ``reason`` is a code of Alma's table FineFeeTransactionReason."""
        query = {"amount": amount(value), "reason": reason, "comment": comment}
        return self._change_fee(user_id, fee_id, "waive", query, send_before)

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
        return changed_fee(self._write(Request("POST", path, body=body.encode())))

    def _change_fee(
        self,
        user_id: str,
        fee_id: str,
        op: Operation,
        query: Mapping[str, str],
        send_before: float | None = None,
    ) -> Fee:
        path = f"/users/{_segment(user_id)}/fees/{_segment(fee_id)}"
        return changed_fee(self._write(Request("POST", path, {"op": op, **query}, send_before=send_before)))

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
            fees = [fee_of(entry, page.get("currency")) for entry in entries_of(page, "fee")]
            yield from fees
            offset += len(fees)
            if not fees or offset >= record_count(page):
                return

    # -- users ----------------------------------------------------------------------------------

    def user(self, user_id: str) -> User:
        """Return one user's group and identifiers."""
        return user_of(self._read(f"/users/{_segment(user_id)}", {"view": "full"}))

    def user_ids(self, modified_since: date | None = None) -> Iterator[str]:
        """Yield primary ids, of all users or of those modified on or after a day, 100 a call."""
        window = {"modify_date_from": modified_since.isoformat()} if modified_since else {}
        offset = 0
        while True:
            page = self._read("/users", {**window, "limit": "100", "offset": str(offset)})
            users = entries_of(page, "user")
            try:
                ids = [str(entry["primary_id"]) for entry in users]
            except (KeyError, TypeError) as error:
                raise Inconsistent(
                    f"A user came without a usable primary id ({type(error).__name__})."
                ) from None
            yield from ids
            offset += len(users)
            if not users or offset >= record_count(page):
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
        text = self._reading(request, lambda body: str(xml_of(body).xpath("string()")))
        if "institutionCode:" not in text:
            raise NotPermitted("The test call was answered by something that is not Alma's API gateway.")
        return text.rpartition("institutionCode:")[2].strip()

    def environment(self) -> str:
        """Return which Alma answers, ``PRODUCTION`` or ``SANDBOX``. Needs the Configuration area."""
        kind = self._read("/conf/general", {}).get("environment_type")
        return str((kind.get("value") if isinstance(kind, Mapping) else kind) or "unnamed")

    def check_write(self) -> None:
        """Raise ``NotPermitted`` when the key may not write users and fees."""
        self._once(Request("POST", "/users/operation/test", accept="application/xml"))

    def code_table(self, name: str) -> Mapping[str, str]:
        """Return a code table's codes and descriptions. Needs the Configuration area."""
        rows = self._read(f"/conf/code-tables/{_segment(name)}", {}).get("row") or []
        return {str(row["code"]): str(row.get("description") or "") for row in rows}

    # -- one way in and out ---------------------------------------------------------------------

    def _read(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        return self._reading(Request("GET", path, query), json_of)

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
        if reply.status >= 300 or b"errorsExist" in reply.body[:400]:
            raise error_of(reply, request.method != "GET")
        return reply


def _segment(text: str) -> str:
    return quote(text, safe="")
