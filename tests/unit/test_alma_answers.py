"""What Alma answers, and what is made of it. Each test's Alma is a function of the request."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from alma_hook.alma import AlmaApi, Request
from alma_hook.alma_answers import Reply, error_of, user_of
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
)  # fmt: skip
from alma_hook.keys import external_id
from simulator.alma import AlmaModel
from simulator.alma_api import FULL_KEY, READ_KEY, ApiKey
from simulator.alma_api import AlmaApi as SimulatedAlma
from simulator.clock import Clock
from simulator.wire import ConnectionDropped
from simulator.wire import Request as Asked

USER = "061719993"
FEE: dict[str, Any] = {
    "id": "138412345678", "type": {"value": "OVERDUEFINE"}, "status": {"value": "ACTIVE"},
    "user_primary_id": {"value": USER}, "balance": 12.5, "original_amount": 20.0, "owner": {"value": "MAIN"},
    "creation_time": "2026-11-01T10:00:00.000Z",
}  # fmt: skip


def answering(*answers: Reply | Exception) -> tuple[AlmaApi, list[Request]]:
    """An Alma that gives these answers in turn, the last for ever, and the requests it was sent."""
    asked: list[Request] = []

    def send(request: Request) -> Reply:
        asked.append(request)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return AlmaApi(send, pause=lambda _: None), asked


def reply(status: int, body: str | bytes, **headers: str) -> Reply:
    return Reply(status, headers, body.encode() if isinstance(body, str) else body)


def fees_page(*fees: dict[str, Any], count: int | None = None, total: float | None = None) -> Reply:
    shown: dict[str, Any] = {
        "total_record_count": len(fees) if count is None else count,
        "total_sum": sum(fee["balance"] or 0 for fee in fees) if total is None else total,
        "currency": "USD",
    }
    if fees:
        shown["fee"] = list(fees)
    return reply(200, json.dumps(shown))


def error(code: str, message: str = "An error.", form: str = "json", status: int = 400) -> Reply:
    entry = {"errorCode": code, "errorMessage": message, "trackingId": "E01-0101010101-ABCDE-AWAE1"}
    body = {
        "json": json.dumps({"errorsExist": True, "errorList": {"error": [entry]}, "result": None}),
        "gateway_json": json.dumps(
            {"web_service_result": {"errorsExist": True, "errorList": {"error": entry}}}
        ),
        "xml": '<?xml version="1.0" encoding="UTF-8"?><web_service_result xmlns="http://com/exlibris/urm/general/xmlbeans">'
        f"<errorsExist>true</errorsExist><errorList><error><errorCode>{code}</errorCode><errorMessage>{message}"
        f"</errorMessage><trackingId>{entry['trackingId']}</trackingId></error></errorList></web_service_result>",
    }[form]
    return reply(status, body)


def failure(*answers: Reply | Exception, call: Callable[[AlmaApi], object] | None = None) -> AlmaHookError:
    """The error that a reading, or ``call``, ends with; never with the user's id in it."""
    api, _ = answering(*answers)
    with pytest.raises(AlmaHookError) as caught:
        (call or (lambda api: api.fees(USER)))(api)
    assert USER not in str(caught.value)
    assert not isinstance(caught.value.__cause__, AlmaHookError)
    return caught.value


def pay(api: AlmaApi) -> object:
    return api.pay(USER, "138412345678", 500, external_id("01CAMPUS_INST", "1"), "Paid", "ONLINE")


# -- errors in all their forms ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "gateway_json", "xml"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("401861", UserNotFound), ("401890", UserNotFound), ("401665", FeeNotFound), ("401651", FeeNotFound),
        ("UNAUTHORIZED", NotPermitted), ("INVALID_REQUEST", NotPermitted), ("DAILY_THRESHOLD", QuotaSpent),
        ("PER_SECOND_THRESHOLD", RateLimited), ("401666", Refused), ("402119", Refused),
    ],
)  # fmt: skip
def test_an_error_is_known_by_its_code_in_every_form_of_body(
    form: str, code: str, kind: type[AlmaHookError]
) -> None:
    caught = failure(error(code, f"User with identifier {USER} was not found.", form))
    assert type(caught) is kind
    assert caught.code == code
    assert caught.tracking_id == "E01-0101010101-ABCDE-AWAE1"
    assert code in str(caught)
    assert "E01-0101010101-ABCDE-AWAE1" in str(caught)


@pytest.mark.parametrize("form", ["json", "xml"])
def test_a_closed_fee_is_known_by_its_sentence(form: str) -> None:
    answer = error("401666", "Request failed: API does not support closed fees.", form)
    assert type(failure(answer, call=lambda api: api.fee(USER, "138412345678"))) is FeeClosed


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize(
    "body", ["", "Bad Request", "<html><body>Not Found</body></html>", "<html><br>", "{}", "[]", '{"errorList": 3}',
             '{"errorList": {"error": []}}', '{"errorList": {"error": [null]}}', "{", "<?xml version='1.0'?>", "\xff"],
)  # fmt: skip
def test_a_body_that_is_not_almas_is_the_wrong_address_or_key(status: int, body: str) -> None:
    caught = failure(reply(status, body))
    assert isinstance(caught, NotPermitted)
    assert "address" in str(caught)


@pytest.mark.parametrize(
    "body", ["", "Bad Gateway", "<html><body>Bad Gateway</body></html>", '{"errorsExist": true}']
)
def test_a_5xx_may_have_been_applied_when_it_was_to_change_something(body: str) -> None:
    assert type(failure(reply(502, body))) is Retriable
    assert type(failure(reply(502, body), call=pay)) is OutcomeUnknown
    assert type(failure(error("INTERNAL_SERVER_ERROR", status=500), call=pay)) is OutcomeUnknown


def test_an_error_in_an_answer_of_200_is_an_error() -> None:
    assert type(failure(error("401861", status=200))) is UserNotFound


def test_a_redirect_is_the_wrong_address() -> None:
    assert isinstance(failure(reply(302, "", location="https://alma.campus.invalid/login")), NotPermitted)


def test_a_429_without_a_known_body_is_the_per_second_limit() -> None:
    assert type(failure(reply(429, "Too many"))) is RateLimited


# -- answers of 200 that can't be read -----------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    ["", "<html><body>Please wait</body></html>", '{"fee": [', "[]", "null", '"text"', "\xff\xfe",
     '{"total_record_count": 0, "total_sum": 0} trailing'],
)  # fmt: skip
def test_an_unreadable_reading_is_tried_again_and_then_given_up(body: str) -> None:
    api, asked = answering(reply(200, body))
    with pytest.raises(Retriable):
        api.fees(USER)
    assert len(asked) == 4
    api, asked = answering(reply(200, body), fees_page(FEE))
    assert [fee.fee_id for fee in api.fees(USER)] == ["138412345678"]


@pytest.mark.parametrize(
    "body", ["", "<html></html>", "{", "[]", "{}", '{"id": "1"}', '{"id": 1, "balance": "x"}']
)
def test_an_unreadable_answer_to_a_payment_leaves_its_outcome_unknown(body: str) -> None:
    api, asked = answering(reply(200, body))
    with pytest.raises(OutcomeUnknown):
        pay(api)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (OutcomeUnknown("The connection broke off."), OutcomeUnknown),
        (Retriable("Never sent."), Retriable),
        (error("DAILY_THRESHOLD", status=429), QuotaSpent),
        (error("401666"), Refused),
        (reply(503, ""), OutcomeUnknown),
    ],
)
def test_a_payment_is_sent_once(answer: Reply | Exception, kind: type[AlmaHookError]) -> None:
    api, asked = answering(answer, reply(200, json.dumps(FEE)))
    with pytest.raises(kind):
        pay(api)
    assert len(asked) == 1


def test_a_payment_refused_by_the_per_second_limit_is_sent_again() -> None:
    api, asked = answering(error("PER_SECOND_THRESHOLD", status=429), reply(200, json.dumps(FEE)))
    pay(api)
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_a_reading_whose_connection_breaks_is_read_again() -> None:
    api, asked = answering(OutcomeUnknown("broke off"), Retriable("refused"), fees_page(FEE))
    assert len(api.fees(USER)) == 1
    assert len(asked) == 3


def test_a_day_without_calls_left_is_not_asked_again() -> None:
    api, asked = answering(error("DAILY_THRESHOLD", status=429))
    with pytest.raises(QuotaSpent):
        api.fees(USER)
    assert len(asked) == 1


# -- lists of fees -------------------------------------------------------------------------------------


def test_a_user_without_fees_has_no_fee_key() -> None:
    api, _ = answering(fees_page())
    assert api.fees(USER) == []


@pytest.mark.parametrize(
    "answer",
    [
        fees_page(FEE, count=2),
        fees_page(FEE, total=12.51),
        fees_page(count=1),
        fees_page(FEE, FEE),
        reply(200, json.dumps({"fee": [FEE]})),
        reply(200, json.dumps({"total_record_count": "many", "total_sum": 0})),
        reply(200, json.dumps({"total_record_count": 0, "total_sum": "1,00"})),
        reply(200, json.dumps({"total_record_count": 1, "total_sum": 12.5, "fee": ["138412345678"]})),
        reply(200, json.dumps({"total_record_count": 1, "total_sum": 12.5, "fee": {"id": 1}})),
        reply(200, json.dumps({"total_record_count": 1, "total_sum": 12.5, "fee": [None]})),
        reply(200, json.dumps({"total_record_count": 0, "total_sum": 0, "fee": 7})),
        fees_page({**FEE, "balance": 12.505}),
        fees_page({**FEE, "transaction": [{"type": {"value": "PAYMENT"}}]}),
        fees_page({**FEE, "transaction": ["PAYMENT"]}),
        fees_page({name: value for name, value in FEE.items() if name != "status"}),
        fees_page({name: value for name, value in FEE.items() if name != "original_amount"}),
        fees_page({**FEE, "creation_time": 10**20}),
    ],
)
def test_a_list_that_contradicts_itself_proves_nothing(answer: Reply) -> None:
    assert type(failure(answer)) is Inconsistent


def test_a_list_that_agrees_on_the_second_look_is_taken() -> None:
    api, _ = answering(fees_page(FEE, count=2), fees_page(FEE))
    assert [fee.balance for fee in api.fees(USER)] == [1250]


def test_amounts_are_read_digit_by_digit() -> None:
    # As a float 1.005 + ... would do; a number is taken as the text that it is.
    body = (
        '{"total_record_count": 1, "total_sum": 4095.10, "fee": [' + json.dumps({**FEE, "balance": 0})
    ).replace('"balance": 0', '"balance": 4095.10') + "]}"
    api, _ = answering(reply(200, body))
    assert api.fees(USER)[0].balance == 409510


def test_a_fee_keeps_what_the_formula_needs() -> None:
    ours = external_id("01CAMPUS_INST", "1")
    transactions = [
        {"type": {"value": "PAYMENT"}, "amount": 5.0, "external_transaction_id": ours, "transaction_time": 1404000000000},
        {"type": {"value": "PAYMENT"}, "amount": 2.5, "external_transaction_id": "24010000520"},
        {"type": {"value": "WAIVE"}, "amount": 0},
    ]  # fmt: skip
    api, _ = answering(fees_page({**FEE, "transaction": transactions, "owner": None}))
    (fee,) = api.fees(USER)
    assert (fee.original, fee.currency, fee.owner) == (2000, "USD", "")
    assert [(t.cents, t.external_id) for t in fee.own_payments()] == [(500, ours)]
    assert fee.transactions[0].at == "2014-06-29T00:00:00+00:00"


def test_only_a_closed_fee_may_have_no_balance() -> None:
    """Taken for nought, a missing balance would give a student's whole charge back."""
    missing = {**FEE, "balance": None}
    closed, _ = answering(fees_page({**missing, "status": {"value": "CLOSED"}}))
    assert closed.fees(USER, "CLOSED")[0].balance == 0
    active, _ = answering(fees_page(missing))
    with pytest.raises(Inconsistent):
        active.fees(USER)


@pytest.mark.parametrize("status", [200, 302, 408, 499])
def test_a_change_answered_by_something_else_than_alma_is_of_unknown_outcome(status: int) -> None:
    reply = Reply(status, {}, b"<html>busy</html>")
    assert isinstance(error_of(reply, changing=True), OutcomeUnknown)


def test_only_active_identifiers_count_and_two_of_one_kind_tell_nothing() -> None:
    entries = [
        {"id_type": {"value": "UNIV"}, "value": "012345678", "status": "ACTIVE"},
        {"id_type": {"value": "UNIV"}, "value": "900000001", "status": "INACTIVE"},
        {"id_type": {"value": "OLD"}, "value": "1"},
        {"id_type": {"value": "OLD"}, "value": "2"},
    ]
    user = user_of({"primary_id": USER, "user_identifier": entries})
    assert user.identifiers == {"UNIV": "012345678", "OLD": ""}


# -- against the simulated Alma ------------------------------------------------------------------------


@pytest.fixture
def model() -> AlmaModel:
    model = AlmaModel(clock=Clock(datetime(2026, 11, 22, 16, 0, tzinfo=UTC)))
    model.add_user(USER, identifiers={"BARCODE": "20000000000001", "SISID": "912345678"})
    return model


def talking_to(model: AlmaModel, key: ApiKey | None = FULL_KEY) -> AlmaApi:
    """A client of the simulated Alma. Without a key its own is not sent."""
    far = SimulatedAlma(model)
    far.limits.per_second = 10**9

    def send(request: Request) -> Reply:
        headers = {"Accept": request.accept, "Authorization": f"apikey {key.value if key else 'none'}"}
        try:
            answer = far.handle(
                Asked(
                    request.method, "/almaws/v1" + request.path, request.query, headers, request.body or b""
                )
            )
        except ConnectionDropped:
            raise OutcomeUnknown("The connection broke off.") from None
        return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.body)

    return AlmaApi(send, pause=lambda _: None)


def test_an_unknown_user_and_an_unknown_fee(model: AlmaModel) -> None:
    api = talking_to(model)
    with pytest.raises(UserNotFound) as user:
        api.fees("nobody@campus.invalid")
    with pytest.raises(UserNotFound):
        api.user("nobody@campus.invalid")
    with pytest.raises(FeeNotFound):
        api.fee(USER, "138412345678")
    with pytest.raises(FeeNotFound):
        api.pay(USER, "138412345678", 100, external_id("01CAMPUS_INST", "1"), "Paid", "ONLINE")
    assert "nobody" not in str(user.value)


def test_a_key_without_permission_is_refused_in_xml(model: AlmaModel) -> None:
    fee = model.add_fee(USER, 1000)
    api = talking_to(model, READ_KEY)
    assert len(api.fees(USER)) == 1
    with pytest.raises(NotPermitted, match="UNAUTHORIZED") as caught:
        api.pay(USER, fee.id, 100, external_id("01CAMPUS_INST", "1"), "Paid", "ONLINE")
    assert isinstance(caught.value, Fatal)
    with pytest.raises(NotPermitted):
        api.check_write()
    assert fee.balance_cents == 1000


def test_a_wrong_key(model: AlmaModel) -> None:
    with pytest.raises(NotPermitted, match="INVALID_REQUEST"):
        talking_to(model, None).institution()


def test_the_test_call_says_whose_key_it_is(model: AlmaModel) -> None:
    api = talking_to(model)
    assert api.institution() == "01CAMPUS_INST"
    api.check_write()


@pytest.mark.parametrize("body", ["<html><body>Library</body></html>", "<ok/>"])
def test_a_page_of_another_host_is_not_alma(body: str) -> None:
    assert isinstance(failure(reply(200, body), call=lambda api: api.institution()), NotPermitted)


@pytest.mark.parametrize("status", ["ACTIVE", "INDISPUTE", "EXPORTED", "CLOSED"])
def test_a_fee_stands_in_the_list_of_its_status_only(model: AlmaModel, status: str) -> None:
    fee = model.add_fee(USER, 1000)
    {
        "ACTIVE": lambda: None,
        "INDISPUTE": lambda: model.dispute(fee.id),
        "EXPORTED": lambda: model.export(fee.id),
        "CLOSED": lambda: model.pay_at_desk(fee.id),
    }[status]()
    api = talking_to(model)
    assert [(f.fee_id, f.status) for f in api.fees_in_every_status(USER)] == [(fee.id, status)]
    assert [f.fee_id for f in api.fees(USER, status)] == [fee.id]


def test_a_payment_is_in_almas_books_with_our_key(model: AlmaModel) -> None:
    fee, key = model.add_fee(USER, 1005), external_id("01CAMPUS_INST", "1")
    after = talking_to(model).pay(USER, fee.id, 1004, key, "Paid & thanked", "ONLINE")
    assert after.balance == fee.balance_cents == 1
    assert [(t.amount_cents, t.external_transaction_id, t.comment) for t in fee.transactions] == [
        (1004, key, "Paid & thanked")
    ]
    assert [(t.cents, t.external_id) for t in talking_to(model).fees(USER)[0].own_payments()] == [(1004, key)]


def test_the_other_changes_of_a_fee(model: AlmaModel) -> None:
    api = talking_to(model)
    made = api.create_fee(USER, "OVERDUEFINE", 1099, "MAIN", "made again")
    assert model.fee(made.fee_id).original_cents == 1099
    assert api.waive(USER, made.fee_id, 99, "GOODWILL", "").balance == 1000
    assert api.dispute(USER, made.fee_id, "").status == "INDISPUTE"
    assert api.restore(USER, made.fee_id, "").status == "ACTIVE"


@pytest.mark.parametrize(
    "user_id",
    ["a/b", "a b", "ü@campus.invalid", "50%", "?x=1", "#1", "..", "a+b", "staff.0007@campus.invalid"],
)
def test_a_primary_id_may_hold_anything(model: AlmaModel, user_id: str) -> None:
    model.add_user(user_id)
    fee = model.add_fee(user_id, 500)
    api = talking_to(model)
    assert [f.fee_id for f in api.fees(user_id)] == [fee.id]
    assert api.user(user_id).primary_id == user_id


def test_users_are_listed_page_by_page(model: AlmaModel) -> None:
    for number in range(230):
        model.add_user(f"{number:09d}", modified_at=datetime(2026, 11, 1 + number % 20, tzinfo=UTC))
    api = talking_to(model)
    assert sorted(api.user_ids()) == sorted([USER, *(f"{n:09d}" for n in range(230))])
    since = set(api.user_ids(date(2026, 11, 20)))
    assert since == {USER, *(f"{n:09d}" for n in range(230) if n % 20 == 19)}


def test_a_user_has_identifiers_by_their_type(model: AlmaModel) -> None:
    user = talking_to(model).user("20000000000001")
    assert user.primary_id == USER
    assert user.identifiers["SISID"] == "912345678"


@pytest.mark.parametrize(
    "body",
    ['{"user": [{"first_name": "Student"}], "total_record_count": 1}', '{"user": ["x"], "total_record_count": 1}',
     '{"user": 3}', '{"user": [{"primary_id": "1"}], "total_record_count": "many"}'],
)  # fmt: skip
def test_a_list_of_users_that_can_not_be_read(body: str) -> None:
    assert type(failure(reply(200, body), call=lambda api: list(api.user_ids()))) is Inconsistent


@pytest.mark.parametrize(
    "body",
    ["{}", '{"primary_id": "1", "user_identifier": ["x"]}', '{"primary_id": "1", "user_identifier": 3}'],
)
def test_a_user_that_can_not_be_read(body: str) -> None:
    assert type(failure(reply(200, body), call=lambda api: api.user(USER))) is Inconsistent
