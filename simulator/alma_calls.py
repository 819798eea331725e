"""Alma's calls, one method each: what the request asks, done on the model, shown as Alma shows it."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from html import escape

from simulator.alma import AlmaModel
from simulator.alma_payloads import XML_HEAD, Json, Payloads, to_json, to_xml
from simulator.alma_records import AlmaRefusal, Fee, User
from simulator.analytics import Analytics
from simulator.codes import CODE_TABLES, FEE_STATUSES, FEE_TYPES
from simulator.money import cents_of
from simulator.wire import Request, Response, json_response, xml_response

USER_FIELDS = {"primary_id", "first_name", "last_name", "email", "identifiers", "user_group", "ALL"}


class AlmaCalls:
    """Routes a request that has passed the gateway. Raises AlmaRefusal for Alma's own refusals."""

    def __init__(self, model: AlmaModel, analytics: Analytics) -> None:
        self.model = model
        self.analytics = analytics
        self.payloads = Payloads(model)

    def call(self, request: Request) -> Response:
        """Do one call and answer it."""
        segments = request.segments
        if segments[:2] != ["almaws", "v1"]:
            return xml_response(b"", 404)
        verb = request.method
        with self.model.lock:
            match segments[2:]:
                case ["users" | "conf" | "analytics", *rest] if rest in (["operation", "test"], ["test"]):
                    return self._test(verb)
                case ["users"] if verb == "GET":
                    return self._users(request)
                case ["users", user_id] if verb == "GET":
                    return self._user(request, user_id)
                case ["users", user_id, "fees"]:
                    return self._fees(request, user_id) if verb == "GET" else self._create(request, user_id)
                case ["users", user_id, "fees", "all"] if verb == "POST":
                    return self._pay_all(request, user_id)
                case ["users", user_id, "fees", fee_id]:
                    return (
                        self._fee(request, user_id, fee_id)
                        if verb == "GET"
                        else self._operate(request, user_id, fee_id)
                    )
                case ["conf", "utilities", "fee-transactions"] if verb == "GET":
                    return self._fee_transactions(request)
                case ["conf", "general"] if verb == "GET":
                    return self._general(request)
                case ["conf", "code-tables", name] if verb == "GET":
                    return self._code_table(request, name)
                case ["analytics", "reports"] if verb == "GET":
                    return self._report(request)
        return xml_response(b"", 404)

    # -- users ---------------------------------------------------------------------------------

    def _users(self, request: Request) -> Response:
        limit, offset = _number(request, "limit", 10, 100), _number(request, "offset", 0, None)
        since, query = request.query.get("modify_date_from"), request.query.get("q")
        if since is not None and query is not None:
            raise AlmaRefusal("402119", "General error: q and modify_date_from are mutually exclusive.")
        found = [user for user in self.model.users if not user.pseudo]
        if since is not None:
            day = _date(since, "4019990")
            found = [user for user in found if user.modified_at.date() >= day]
        if query is not None:
            matches = _user_query(query)
            found = [user for user in found if matches(user)]
        full = request.query.get("expand") == "full"
        shown: Json = {}
        if found[offset : offset + limit]:
            shown["user"] = [
                self.payloads.user(user, brief=not full) for user in found[offset : offset + limit]
            ]
        shown["total_record_count"] = len(found)
        return _answer(request, "users", shown)

    def _user(self, request: Request, user_id: str) -> Response:
        user = self._find_user(request, user_id)
        expand = request.query.get("expand", "none").split(",")
        brief = request.query.get("view") == "brief"
        return _answer(request, "user", self.payloads.user(user, brief=brief, with_fees="fees" in expand))

    def _find_user(self, request: Request, user_id: str) -> User:
        return self.model.user(user_id, request.query.get("user_id_type", "all_unique"))

    # -- fees ----------------------------------------------------------------------------------

    def _fees(self, request: Request, user_id: str) -> Response:
        status = request.query.get("status", "ACTIVE")
        if status not in FEE_STATUSES:
            raise AlmaRefusal("401666", f"The parameter status {status} is not valid.")
        user = self._find_user(request, user_id)
        return _answer(request, "fees", self.payloads.fees(self.model.fees_of(user, status)))

    def _find_fee(self, request: Request, user_id: str, fee_id: str) -> Fee:
        user = self._find_user(request, user_id)
        fee = self.model.fee(fee_id)
        if fee.user is not user:
            raise AlmaRefusal("401665", "Fine not found.")
        return fee

    def _fee(self, request: Request, user_id: str, fee_id: str) -> Response:
        fee = self._find_fee(request, user_id, fee_id)
        if fee.status == "CLOSED" and self.model.behaviour.closed_fee_by_id_refused:
            raise AlmaRefusal("402119", "Request failed: API does not support closed fees.")
        return _answer(request, "fee", self.payloads.fee(fee))

    def _operate(self, request: Request, user_id: str, fee_id: str) -> Response:
        fee = self._find_fee(request, user_id, fee_id)
        query = request.query
        comment = query.get("comment")
        match query.get("op"):
            case "pay":
                self.model.pay_by_api(
                    fee.id,
                    _amount(query.get("amount")),
                    method=query.get("method", ""),
                    external_transaction_id=query.get("external_transaction_id"),
                    comment=comment,
                )
            case "waive":
                self.model.waive_by_api(
                    fee.id, _amount(query.get("amount")), reason=query.get("reason", ""), comment=comment
                )
            case "dispute":
                self.model.dispute(fee.id, comment=comment)
            case "restore":
                self.model.restore(fee.id, comment=comment)
            case _:
                raise AlmaRefusal("401666", "Parameter is not valid: op")
        return _answer(request, "fee", self.payloads.fee(fee))

    def _pay_all(self, request: Request, user_id: str) -> Response:
        query = request.query
        user = self._find_user(request, user_id)
        if query.get("op") != "pay":
            raise AlmaRefusal("401666", "Parameter is not valid: op")
        # Alma does not say in which order it spreads the money; here it is oldest first.
        payable = [fee for fee in self.model.fees_of(user, "ACTIVE") if fee.balance_cents > 0]
        owed = sum(fee.balance_cents for fee in payable)
        left = owed if query.get("amount") == "ALL" else _amount(query.get("amount"))
        if left > owed:
            raise AlmaRefusal("401666", "Parameter is not valid: amount")
        for fee in payable:
            part = min(left, fee.balance_cents)
            if part > 0:
                self.model.pay_by_api(
                    fee.id,
                    part,
                    method=query.get("method", ""),
                    comment=query.get("comment"),
                    external_transaction_id=query.get("external_transaction_id"),
                )
            left -= part
        shown = self.payloads.fees(self.model.fees_of(user, "ACTIVE"))
        shown["currency"] = self.model.currency  # set here even when nothing is left, as recorded
        return _answer(request, "fees", shown)

    def _create(self, request: Request, user_id: str) -> Response:
        user = self._find_user(request, user_id)
        try:
            wanted = json.loads(request.body)
            kind, owner = (wanted.get("type") or {}).get("value"), (wanted.get("owner") or {}).get("value")
            amount = wanted.get("original_amount")
        except (ValueError, AttributeError):
            raise AlmaRefusal("402119", "General error: the body is not a fee.") from None
        if not kind:
            raise AlmaRefusal("4019991", "Fee type is required.")
        if kind not in FEE_TYPES:
            raise AlmaRefusal("4019992", "Fee type is invalid.")
        if amount is None:
            raise AlmaRefusal("4019994", "Original amount is required.")
        if not owner:
            raise AlmaRefusal("4019996", "Owner is required.")
        barcode = wanted.get("barcode")
        fee = self.model.add_fee(
            user,
            _amount(str(amount)),
            type=kind,
            owner=owner,
            title=wanted.get("title"),
            barcode=(barcode or {}).get("value"),
            comment=wanted.get("comment"),
        )
        return _answer(request, "fee", self.payloads.fee(fee))

    # -- configuration -------------------------------------------------------------------------

    def _fee_transactions(self, request: Request) -> Response:
        """Fees with payments or waivers in a window of at most 7 days; ``limit`` counts fees."""
        limit, offset = _number(request, "limit", 100, 100), _number(request, "offset", 0, None)
        query = request.query
        first = _date(
            query.get("transaction_from_date", self.model.clock.now().date().isoformat()), "40166411"
        )
        last = _date(query.get("transaction_to_date", first.isoformat()), "40166411")
        if last < first or last - first >= timedelta(days=7):
            raise AlmaRefusal("40166411", "Parameter value invalid: the window is longer than 7 days.")
        kinds = {"BOTH": {"PAYMENT", "WAIVE"}, "PAYMENT": {"PAYMENT"}, "WAIVE": {"WAIVE"}}.get(
            query.get("transaction_type", "BOTH")
        )
        if kinds is None:
            raise AlmaRefusal("40166419", "Parameter value invalid: transaction_type.")
        owner = query.get("owner")
        start = datetime(first.year, first.month, first.day, tzinfo=UTC)
        end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
        found = [
            fee
            for fee in self.model.fees.values()
            if owner in (None, fee.owner, self.model.institution)
            and any(t.kind in kinds and start <= t.at < end for t in fee.transactions)
        ]
        return _answer(request, "fees", self.payloads.fees(found[offset : offset + limit], len(found)))

    def _general(self, request: Request) -> Response:
        kind = self.model.environment
        return _answer(
            request,
            "general",
            {
                "institution": {"value": self.model.institution, "desc": "Simulated institution"},
                "environment_type": {"value": kind, "desc": kind.title()},
                "alma_url": "https://simulator.invalid",
            },
        )

    def _code_table(self, request: Request, name: str) -> Response:
        if name not in CODE_TABLES:
            raise AlmaRefusal("402119", f"General error: code table {name} was not found.")
        rows = [
            {"code": code, "description": label, "enabled": True} for code, label in CODE_TABLES[name].items()
        ]
        if request.wants_json:
            return json_response(to_json({"name": name, "row": rows}))
        return xml_response(to_xml("code_table", {"name": name, "rows": {"row": rows}}))

    def _test(self, verb: str) -> Response:
        detail = f" - institutionCode: {self.model.institution}" if verb == "GET" else ""
        return xml_response(XML_HEAD + f"<test>{verb} - OK{escape(detail)}</test>".encode())

    def _report(self, request: Request) -> Response:
        query = request.query
        body = self.analytics.page(
            query.get("path"),
            _number(request, "limit", 25, 1000),
            query.get("token"),
            query.get("col_names", "true") != "false",
        )
        if request.wants_json:
            # Alma's JSON form is a list of one element: the XML as text.
            return json_response(to_json({"anies": [body]}))
        return xml_response(body.encode())


def _answer(request: Request, root: str, shown: Json) -> Response:
    return json_response(to_json(shown)) if request.wants_json else xml_response(to_xml(root, shown))


def _amount(text: str | None) -> int:
    try:
        cents = cents_of(text or "")
    except ValueError:
        raise AlmaRefusal("401666", "Parameter is not valid: amount") from None
    return cents


def _number(request: Request, name: str, default: int, most: int | None) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or (most is not None and int(text) > most):
        raise AlmaRefusal("40166410", f"The parameter {name} is invalid.")
    return int(text)


def _date(text: str, code: str) -> date:
    try:
        return date.fromisoformat(text.rstrip("Z"))
    except ValueError:
        raise AlmaRefusal(code, "The date is invalid.") from None


def _user_query(query: str) -> Callable[[User], bool]:
    """The test that ``q=field~text`` means here: the text, case disregarded, within the field."""
    name, _, text = query.partition("~")
    if name not in USER_FIELDS:
        raise AlmaRefusal("402119", f"General error: the simulator does not search by {name}.")
    wanted = text.replace("_", " ").casefold()

    def matches(user: User) -> bool:
        texts = {
            "primary_id": [user.primary_id],
            "first_name": [user.first_name],
            "last_name": [user.last_name],
            "email": [user.email or ""],
            "identifiers": list(user.identifiers.values()),
            "user_group": [user.user_group],
        }
        looked_at = [value for values in texts.values() for value in values] if name == "ALL" else texts[name]
        return any(wanted in value.casefold() or text.casefold() in value.casefold() for value in looked_at)

    return matches
