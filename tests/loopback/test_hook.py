"""AlmaHook over real HTTP: what Alma's gateway receives, and what each failure of the line means."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest

from alma_hook.alma import AlmaApi
from alma_hook.alma_answers import Fee
from alma_hook.analytics import pages
from alma_hook.errors import (
    AlmaHookError,
    FeeNotFound,
    NotPermitted,
    OutcomeUnknown,
    QuotaSpent,
    RateLimited,
    Refused,
    Retriable,
    SettingsError,
    UserNotFound,
)
from alma_hook.hook import AlmaHook
from simulator.alma_api import FULL_KEY, READ_KEY, USERS_ONLY_KEY
from simulator.alma_http import AlmaServer
from simulator.campus import Campus
from tests.loopback.conftest import Connect, Recorder, answering

MARKED = "PATRON-000000042"  # stands in bodies of errors, and nowhere else may it stand


_opened: list[AlmaHook] = []


def open_hook(*conn_id: str, **options: int) -> AlmaHook:
    _opened.append(AlmaHook(*conn_id, **options))
    return _opened[-1]


@pytest.fixture(autouse=True)
def _sockets_given_back() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def user(campus: Campus, number: int = 0) -> str:
    return campus.students[number].primary_id


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pay(api: AlmaApi, campus: Campus, fee_id: str, cents: int = 400, **options: Any) -> Fee:
    return api.pay(user(campus), fee_id, cents, "SFS0000000000000", "a comment & more", "ONLINE", **options)


# -- the calls ----------------------------------------------------------------------------------------


def test_every_call_of_the_hook_works(alma: AlmaServer, campus: Campus) -> None:
    """What a DAG author gets from ``open_hook().get_conn()``, one story through all of it."""
    api = open_hook().get_conn()
    me = user(campus)

    made = api.create_fee(me, "OVERDUEFINE", 1905, "MAIN", "Returned late & wet")
    assert (made.balance, made.status, made.type) == (1905, "ACTIVE", "OVERDUEFINE")
    assert campus.alma.fee(made.fee_id).original_cents == 1905
    assert api.fee(me, made.fee_id) == made

    assert api.dispute(me, made.fee_id, "says it was rain").status == "INDISPUTE"
    assert [fee.fee_id for fee in api.fees(me, "INDISPUTE")] == [made.fee_id]
    assert api.restore(me, made.fee_id, "was not").status == "ACTIVE"

    waived = api.waive(me, made.fee_id, 5, "GOODWILL", "the five cents")
    assert waived.balance == 1900
    paid = pay(api, campus, made.fee_id, 900)
    assert (paid.balance, paid.own_payments()) == (1000, ())  # no mark of ours: its check character is wrong
    transactions = campus.alma.fee(made.fee_id).transactions
    assert [(t.kind, t.amount_cents, t.external_transaction_id) for t in transactions] == [
        ("WAIVE", 5, None),
        ("PAYMENT", 900, "SFS0000000000000"),
    ]
    assert transactions[1].comment == "a comment & more"

    pay(api, campus, made.fee_id, 1000)
    assert api.fees(me) == []
    assert [fee.balance for fee in api.fees(me, "CLOSED")] == [0]
    assert [fee.fee_id for fee in api.fees_in_every_status(me)] == [made.fee_id]

    today = campus.clock.now().date()
    assert [f.fee_id for f in api.fee_transactions(today - timedelta(days=1), today)] == [made.fee_id]
    assert api.user(me).identifiers["BARCODE"] == campus.students[0].identifiers["BARCODE"]
    assert set(api.user_ids()) == {student.primary_id for student in campus.students}
    assert me in set(api.user_ids(modified_since=today))
    assert api.institution() == "01CAMPUS_INST"
    api.check_write()
    assert "GOODWILL" in api.code_table("FineFeeTransactionReason")


def test_a_report_of_many_pages(alma: AlmaServer, campus: Campus) -> None:
    fees = [campus.alma.add_fee(campus.students[n % 6], 500 + n) for n in range(60)]
    campus.refresh_analytics()
    headings = ("Remaining Amount", "Fine Fee Id")

    found = list(pages(open_hook().get_conn(), campus.analytics.path, headings, time.sleep, page_rows=25))

    assert [len(page) for page in found] == [25, 25, 10]
    assert [fee_id for page in found for _, fee_id in page] == [fee.id for fee in fees]


def test_lists_of_users_are_paged(alma: AlmaServer, campus: Campus, recorder: Recorder) -> None:
    for number in range(240):
        campus.alma.add_user(f"8{number:08d}")

    assert len(set(open_hook().get_conn().user_ids())) == 246
    assert [request.query["offset"] for request in recorder.requests] == ["0", "100", "200"]


@pytest.mark.parametrize(
    "user_id",
    ["a b", "a/b", "a?b=c&d", "a%2Fb", "a+b@c.edu", "jos\u00e9", "\u5b66\u751f 1", "a#b", "a;b"],
)
def test_user_ids_are_one_segment_of_the_path(user_id: str, alma: AlmaServer, campus: Campus) -> None:
    fee = campus.alma.add_fee(campus.alma.add_user(user_id), 700)
    api = open_hook().get_conn()

    assert [found.fee_id for found in api.fees(user_id)] == [fee.id]
    api.pay(user_id, fee.id, 300, "SFS1", "a=b&c d/\u00e9", "ONLINE")

    assert fee.balance_cents == 400
    assert fee.transactions[0].comment == "a=b&c d/\u00e9"
    assert api.user(user_id).primary_id == user_id


# -- what leaves --------------------------------------------------------------------------------------


def test_the_key_is_in_one_header_and_nothing_of_the_extra_is(
    alma: AlmaServer, campus: Campus, recorder: Recorder, connect: Connect
) -> None:
    connect(
        "alma_default",
        conn_type="alma",
        host=alma.url,
        password=FULL_KEY.value,
        login="nobody",
        extra={
            "requests_per_second": 50, "timeout": 5, "write": True, "anything": "at all",
            "X-Secret": "s3cret-value", "Authorization": "Basic abc", "trust_env": False,
        },
    )  # fmt: skip
    fee = campus.alma.add_fee(user(campus), 1000)
    api = open_hook().get_conn()
    api.fees(user(campus))
    pay(api, campus, fee.id)

    for request in recorder.requests:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers["authorization"] == f"apikey {FULL_KEY.value}"
        assert set(headers) <= {
            "host", "user-agent", "accept", "accept-encoding", "connection", "authorization", "content-length", "content-type",
        }  # fmt: skip
        assert FULL_KEY.value not in request.path + str(dict(request.query))
        assert "apikey" not in request.query
    assert len(recorder.requests) == 2


def test_an_address_without_scheme_is_https(connect: Connect, at_once: None) -> None:
    connect("alma_default", conn_type="alma", host="127.0.0.1", port=closed_port(), password="x")
    with pytest.raises(Retriable, match="can't be reached"):
        open_hook().get_conn().institution()


def test_the_connection_is_fetched_once(alma: AlmaServer, campus: Campus, connect: Connect) -> None:
    hook = open_hook()
    hook.get_conn().institution()
    connect("alma_default", conn_type="alma", host="http://127.0.0.1:1", password="another")

    assert hook.get_conn().institution() == "01CAMPUS_INST"
    assert hook.get_conn() is hook.get_conn()


@pytest.mark.parametrize("missing", ["host", "password"])
def test_a_connection_that_lacks_something(missing: str, alma: AlmaServer, connect: Connect) -> None:
    fields = {"conn_type": "alma", "host": alma.url, "password": FULL_KEY.value}
    connect("alma_default", **{name: value for name, value in fields.items() if name != missing})
    with pytest.raises(NotPermitted, match="alma_default lacks"):
        open_hook().get_conn()


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("http://127.0.0.1:8080", 8080, "its port stands in host and in port"),
        ("127.0.0.1:8080", 443, "its port stands in host and in port"),
        ("https://127.0.0.1:http", None, "host is no address"),
        ("ftp://127.0.0.1", None, "host is no address"),
        ("https://[::1", None, "host is no address"),
        ("api-na.hosted .exlibrisgroup.com", None, "host is no address"),
    ],
)
def test_an_address_that_is_none_is_told(host: str, port: int | None, said: str, connect: Connect) -> None:
    connect("alma_default", conn_type="alma", host=host, port=port, password=FULL_KEY.value)
    with pytest.raises(SettingsError) as caught:
        open_hook().get_conn()
    assert f"connection, alma_default: {said}" in str(caught.value)


def test_no_such_connection() -> None:
    with pytest.raises(SettingsError, match="no_such_connection: create it"):
        open_hook("no_such_connection").get_conn()


# -- what comes back badly ----------------------------------------------------------------------------

READ = ("reading", lambda api, campus, fee: api.fees(user(campus)))
CHANGE = ("changing", lambda api, campus, fee: pay(api, campus, fee))
EXPECTED: list[tuple[dict[str, Any], type[AlmaHookError], type[AlmaHookError]]] = [
    ({"status": 500}, Retriable, OutcomeUnknown),
    ({"status": 503, "form": "html"}, Retriable, OutcomeUnknown),
    ({"status": 502, "form": "empty"}, Retriable, OutcomeUnknown),
    ({"status": 400, "code": "402119"}, Refused, Refused),
    ({"status": 400, "code": "401666", "form": "xml"}, Refused, Refused),
    ({"status": 400, "code": "401861"}, UserNotFound, UserNotFound),
    ({"status": 400, "code": "401665"}, FeeNotFound, FeeNotFound),
    ({"status": 400, "code": "UNAUTHORIZED", "form": "xml"}, NotPermitted, NotPermitted),
    ({"status": 403, "code": "INVALID_REQUEST", "form": "gateway_json"}, NotPermitted, NotPermitted),
    ({"status": 404, "form": "html"}, NotPermitted, NotPermitted),
    ({"status": 429, "code": "PER_SECOND_THRESHOLD", "form": "gateway_json"}, RateLimited, RateLimited),
    ({"status": 429, "code": "DAILY_THRESHOLD", "form": "gateway_json"}, QuotaSpent, QuotaSpent),
]


@pytest.mark.parametrize(("fault", "reading", "changing"), EXPECTED)
@pytest.mark.parametrize(("which", "call"), [READ, CHANGE])
def test_an_error_answer_says_what_to_do_and_no_name(
    fault: dict[str, Any],
    reading: type[AlmaHookError],
    changing: type[AlmaHookError],
    which: str,
    call: Callable[..., Any],
    alma: AlmaServer,
    campus: Campus,
    at_once: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fee = campus.alma.add_fee(user(campus), 1000)
    campus.faults.add_http(
        "refuse", times=None, message=f"User with identifier {MARKED} was not found.", **fault
    )

    with caplog.at_level(logging.DEBUG), pytest.raises(AlmaHookError) as caught:
        call(open_hook().get_conn(), campus, fee.id)

    assert type(caught.value) is (reading if which == "reading" else changing)
    assert MARKED not in str(caught.value) + repr(caught.value.__context__) + caplog.text
    assert fee.balance_cents == 1000


@pytest.mark.parametrize("kind", ["fail_before", "fail_after", "drop_before", "drop_after", "broken_body"])
def test_a_posting_is_never_repeated(kind: str, alma: AlmaServer, campus: Campus, recorder: Recorder) -> None:
    fee = campus.alma.add_fee(user(campus), 1000)
    campus.faults.add_http(kind, method="POST")  # type: ignore[arg-type]
    api = open_hook().get_conn()
    api.fees(user(campus))  # so that the posting goes over a line kept open

    with pytest.raises(OutcomeUnknown):
        pay(api, campus, fee.id)

    assert len(recorder.sent("POST")) == 1
    assert len(fee.transactions) == (kind in ("fail_after", "drop_after", "broken_body"))


def test_a_refusal_by_the_limit_of_calls_a_second_is_repeated(
    alma: AlmaServer, campus: Campus, recorder: Recorder, at_once: None
) -> None:
    fee = campus.alma.add_fee(user(campus), 1000)
    campus.faults.add_http("refuse", method="POST", times=2, status=429, code="PER_SECOND_THRESHOLD")

    assert pay(open_hook().get_conn(), campus, fee.id).balance == 600

    assert (len(recorder.sent("POST")), len(fee.transactions)) == (3, 1)


@pytest.mark.parametrize("kind", ["fail_before", "drop_before", "drop_after", "broken_body"])
def test_a_reading_is_repeated(
    kind: str, alma: AlmaServer, campus: Campus, recorder: Recorder, at_once: None
) -> None:
    fee = campus.alma.add_fee(user(campus), 1000)
    campus.faults.add_http(kind, method="GET", times=2)  # type: ignore[arg-type]

    assert [found.fee_id for found in open_hook().get_conn().fees(user(campus))] == [fee.id]
    assert len(recorder.requests) == 3


def test_an_answer_that_does_not_come_in_time(alma: AlmaServer, campus: Campus, connect: Connect) -> None:
    connect("alma_default", conn_type="alma", host=alma.url, password=FULL_KEY.value, extra={"timeout": 0.3})
    fee = campus.alma.add_fee(user(campus), 1000)
    campus.faults.add_http("delay_after", method="POST", seconds=1.0)

    began = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        pay(open_hook().get_conn(), campus, fee.id)

    assert time.monotonic() - began < 0.9
    assert [t.amount_cents for t in fee.transactions] == [400]


def test_a_posting_that_never_connected_may_be_made_again(connect: Connect, campus: Campus) -> None:
    connect("alma_default", conn_type="alma", host=f"http://127.0.0.1:{closed_port()}", password="x")
    with pytest.raises(Retriable, match="nothing was sent"):
        pay(open_hook().get_conn(), campus, "1")


def test_a_posting_whose_time_is_over_is_not_sent(
    alma: AlmaServer, campus: Campus, recorder: Recorder
) -> None:
    fee = campus.alma.add_fee(user(campus), 1000)
    with pytest.raises(Retriable, match="not sent"):
        pay(open_hook().get_conn(), campus, fee.id, send_before=time.monotonic() - 0.001)
    assert recorder.requests == []


def test_a_posting_that_waits_for_its_turn_too_long_is_not_sent(
    alma: AlmaServer, campus: Campus, recorder: Recorder, connect: Connect
) -> None:
    connect(
        "alma_default",
        conn_type="alma",
        host=alma.url,
        password=FULL_KEY.value,
        extra={"requests_per_second": 2},
    )
    fee = campus.alma.add_fee(user(campus), 1000)
    api = open_hook().get_conn()
    api.fees(user(campus))
    with pytest.raises(Retriable, match="not sent"):
        pay(api, campus, fee.id, send_before=time.monotonic() + 0.2)
    assert recorder.sent("POST") == []


def test_an_unfinished_answer_is_unclear() -> None:
    """The head promises more than comes before the line is cut."""
    api_head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            line, _ = server.accept()
            with line:
                line.recv(65536)
                line.sendall(api_head)

        pool.submit(answer)
        with pytest.MonkeyPatch.context() as patch:
            fields = {
                "conn_type": "alma",
                "host": f"http://127.0.0.1:{server.getsockname()[1]}",
                "password": "x",
            }
            patch.setenv("AIRFLOW_CONN_ALMA_DEFAULT", json.dumps(fields))
            with pytest.raises(OutcomeUnknown):
                open_hook().get_conn().pay("u", "1", 100, "SFS1", "", "ONLINE")


def test_a_redirect_is_not_followed(connect: Connect) -> None:
    """A key must not go to another host because an answer says so."""
    with answering(302, b"") as url:
        connect("alma_default", conn_type="alma", host=url, password="x")
        with pytest.raises(OutcomeUnknown):
            open_hook().get_conn().pay("u", "1", 100, "SFS1", "", "ONLINE")


# -- Test connection ----------------------------------------------------------------------------------


def test_connection_with_a_key_that_may_write(alma: AlmaServer) -> None:
    assert open_hook().test_connection() == (True, "Alma answers for 01CAMPUS_INST, reading and writing")


def test_connection_with_a_key_that_may_read_only(alma: AlmaServer, connect: Connect) -> None:
    fields = {"conn_type": "alma", "host": alma.url, "password": READ_KEY.value}
    connect("alma_default", **fields)
    works, message = open_hook().test_connection()
    assert (works, "Alma answers for 01CAMPUS_INST, but the key may not write" in message) == (False, True)

    connect("alma_default", **fields, extra={"write": False})
    assert open_hook().test_connection() == (True, "Alma answers for 01CAMPUS_INST, reading")


def test_connection_with_a_wrong_key(alma: AlmaServer, connect: Connect) -> None:
    connect("alma_default", conn_type="alma", host=alma.url, password="wrong-key-value")
    works, message = open_hook().test_connection()
    assert (works, "API key is wrong" in message) == (False, True)
    assert "wrong-key-value" not in message


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("page", [b"<html><body>Library catalogue</body></html>", b"<html><br>"])
def test_connection_to_something_else(status: int, page: bytes, connect: Connect, at_once: None) -> None:
    with answering(status, page) as url:
        connect("alma_default", conn_type="alma", host=url, password="x")
        works, message = open_hook().test_connection()
    assert (works, "gateway" in message) == (False, True)


def test_connection_to_nothing(connect: Connect, at_once: None) -> None:
    connect("alma_default", conn_type="alma", host=f"http://127.0.0.1:{closed_port()}", password="x")
    works, message = open_hook().test_connection()
    assert (works, "can't be reached" in message) == (False, True)
    assert "gateway's address" in message


def test_connection_that_is_not_there() -> None:
    works, message = open_hook("no_such_connection").test_connection()
    assert (works, "no_such_connection" in message) == (False, True)


@pytest.mark.parametrize(
    "extra", [{"requests_per_second": "many"}, {"timeout": "long"}, {"requests_per_second": -1}]
)
def test_connection_with_an_extra_that_is_no_number(
    extra: dict[str, Any], alma: AlmaServer, connect: Connect
) -> None:
    connect("alma_default", conn_type="alma", host=alma.url, password=FULL_KEY.value, extra=extra)
    works, message = open_hook().test_connection()
    assert (works, next(iter(extra)) in message) == (False, True)


# -- limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [5, 20])
def test_the_rate_is_never_exceeded(rate: int, alma: AlmaServer, campus: Campus, connect: Connect) -> None:
    connect(
        "alma_default",
        conn_type="alma",
        host=alma.url,
        password=FULL_KEY.value,
        extra={"requests_per_second": rate},
    )
    api = open_hook(workers=8).get_conn()
    calls = rate * 2

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(api.fees, [user(campus, n % 6) for n in range(calls)]))
    took = time.monotonic() - began

    # One more than the rate: a call may be a moment late, and the next is not held back for it.
    assert campus.limits.peak <= rate + 1
    assert took < calls / rate + 1.0  # and the rate is used


def test_the_reserve_of_daily_calls_is_left(alma: AlmaServer, campus: Campus, recorder: Recorder) -> None:
    campus.limits.remaining = 25
    fee = campus.alma.add_fee(user(campus), 1000)
    hook = open_hook(reserve=20)
    api = hook.get_conn()

    for _ in range(5):
        api.fees(user(campus))
    with pytest.raises(QuotaSpent, match="20 are kept"):
        api.fees(user(campus))
    with pytest.raises(QuotaSpent):
        pay(api, campus, fee.id)

    assert (campus.limits.remaining, hook.remaining, len(recorder.requests)) == (20, 20, 5)
    assert fee.transactions == []


def test_the_days_calls_are_spent(alma: AlmaServer, campus: Campus, recorder: Recorder) -> None:
    campus.limits.remaining = 1
    api = open_hook().get_conn()
    api.fees(user(campus))
    with pytest.raises(QuotaSpent):
        api.fees(user(campus))
    assert len(recorder.requests) <= 2


def test_a_key_for_users_alone_does_the_money_and_no_more(
    alma: AlmaServer, campus: Campus, connect: Connect
) -> None:
    connect("alma_default", conn_type="alma", host=alma.url, password=USERS_ONLY_KEY.value)
    fee = campus.alma.add_fee(user(campus), 1000)
    api = open_hook().get_conn()

    assert pay(api, campus, fee.id).balance == 600
    with pytest.raises(NotPermitted, match="Configuration"):
        api.code_table("FineFeeTransactionReason")


def test_the_reserve_is_left_whole_with_many_calls_under_way(alma: AlmaServer, campus: Campus) -> None:
    campus.limits.remaining = 61
    hook = open_hook(reserve=40, workers=16)
    api = hook.get_conn()
    api.fees(user(campus))  # tells how many are left, as the first call of a task does
    together = Barrier(16)

    def read(number: int) -> None:
        if number < 16:
            together.wait(5)
        with suppress(QuotaSpent):
            api.fees(user(campus, number % 6))

    campus.faults.add_http("delay_before", times=None, seconds=0.2)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(read, range(200)))
    assert campus.limits.remaining >= 40
    # And what is not kept is used, but for what was under way at the end.
    assert campus.limits.remaining <= 40 + 16


def test_a_rate_needs_no_more_calls_under_way_than_leave_in_some_seconds(
    alma: AlmaServer, connect: Connect
) -> None:
    connect(
        "alma_default",
        conn_type="alma",
        host=alma.url,
        password=FULL_KEY.value,
        extra={"requests_per_second": 10},
    )
    hook = open_hook(workers=128)
    hook.get_conn()
    assert hook.workers == 25


def test_a_refusal_holds_the_next_calls_back(alma: AlmaServer, campus: Campus, at_once: None) -> None:
    campus.faults.add_http("rate_limited", times=1)
    api = open_hook().get_conn()
    began = time.monotonic()
    api.fees(user(campus))
    assert time.monotonic() - began >= 1.0


def test_a_limit_of_a_minute_is_a_number_too(alma: AlmaServer, connect: Connect) -> None:
    for told, works in ((600, True), ("many", False), (-1, False)):
        connect("alma_default", conn_type="alma", host=alma.url, password=FULL_KEY.value,
                extra={"requests_per_minute": told})  # fmt: skip
        assert open_hook().test_connection()[0] is works
