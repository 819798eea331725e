"""Alma's books and its REST answers, asked in-process."""

import json
import random
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.alma import AlmaModel
from simulator.alma_api import FULL_KEY, READ_KEY, USERS_ONLY_KEY, AlmaApi
from simulator.alma_records import AlmaRefusal
from simulator.clock import Clock
from simulator.faults import Faults
from simulator.limits import Limits
from simulator.wire import ConnectionDropped, Request, Response

NOW = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
USERS = "/almaws/v1/users"


class Client:
    """Asks an AlmaApi for JSON."""

    def __init__(self, api: AlmaApi, key: str = FULL_KEY.value, accept: str = "application/json") -> None:
        self.api = api
        self.headers = {"Authorization": f"apikey {key}", "Accept": accept}

    def raw(self, method: str, target: str, body: bytes = b"") -> Response:
        """The whole answer."""
        return self.api.handle(Request.of(method, target, self.headers, body))

    def get(self, target: str) -> Any:
        """The JSON of a GET that succeeds."""
        return self._json(self.raw("GET", target))

    def post(self, target: str, body: bytes = b"") -> Any:
        """The JSON of a POST that succeeds."""
        return self._json(self.raw("POST", target, body))

    def refused(self, method: str, target: str) -> tuple[int, str, str]:
        """Status, code and message of a refusal."""
        response = self.raw(method, target)
        error = json.loads(response.body)["errorList"]["error"][0]
        return response.status, error["errorCode"], error["errorMessage"]

    @staticmethod
    def _json(response: Response) -> Any:
        assert response.status == 200, response.body
        return json.loads(response.body)


@pytest.fixture
def api() -> AlmaApi:
    """One student, 000123456, without fees."""
    model = AlmaModel(clock=Clock(NOW), rng=random.Random(5))
    model.add_user("000123456", identifiers={"BARCODE": "20000000000001"})
    return AlmaApi(model, Faults(), Limits(per_second=10_000))


@pytest.fixture
def client(api: AlmaApi) -> Client:
    return Client(api)


def test_no_fees_means_no_fee_key(client: Client) -> None:
    assert client.get(f"{USERS}/000123456/fees") == {
        "total_record_count": 0,
        "total_sum": 0,
        "currency": None,
    }


def test_fee_list_shows_codes_numbers_and_nulls(api: AlmaApi, client: Client) -> None:
    fee = api.model.add_fee("000123456", 1050)
    api.model.pay_at_desk(fee.id, 50)
    shown = client.get(f"{USERS}/000123456/fees")
    assert (shown["total_record_count"], shown["total_sum"], shown["currency"]) == (1, 10.0, "USD")
    (one,) = shown["fee"]
    assert one["type"] == {"value": "OVERDUEFINE", "desc": "Overdue fine"}
    assert (one["balance"], one["original_amount"], one["comment"], one["barcode"]) == (
        10.0,
        10.5,
        None,
        None,
    )
    assert one["creation_time"] == "2026-11-22T16:00:00.000Z"
    (transaction,) = one["transaction"]
    assert transaction["external_transaction_id"] == "24010000521"
    assert transaction["received_by"]["value"] == "Circulation"


def test_fees_come_one_status_a_call(api: AlmaApi, client: Client) -> None:
    kept, disputed, exported, closed = (api.model.add_fee("000123456", 100) for _ in range(4))
    api.model.dispute(disputed.id)
    api.model.export(exported.id)
    api.model.waive_at_desk(closed.id)
    for status, fee in (
        ("ACTIVE", kept),
        ("INDISPUTE", disputed),
        ("EXPORTED", exported),
        ("CLOSED", closed),
    ):
        shown = client.get(f"{USERS}/000123456/fees?status={status}")
        assert [one["id"] for one in shown["fee"]] == [fee.id]
    assert client.refused("GET", f"{USERS}/000123456/fees?status=OPEN")[1] == "401666"


def test_pay_posts_and_closes_at_nought(api: AlmaApi, client: Client) -> None:
    fee = api.model.add_fee("000123456", 1000)
    target = f"{USERS}/000123456/fees/{fee.id}?op=pay&method=ONLINE&external_transaction_id=X1&amount="
    assert client.post(target + "4.00")["balance"] == 6.0
    paid = client.post(target + "6.0")
    assert (paid["status"]["value"], paid["balance"]) == ("CLOSED", 0.0)
    assert paid["transaction"][0]["created_by"] == "Ex Libris"
    assert paid["transaction"][0]["received_by"]["value"] == "Not At Desk"


def test_the_same_external_id_pays_twice(api: AlmaApi, client: Client) -> None:
    fee = api.model.add_fee("000123456", 1000)
    target = f"{USERS}/000123456/fees/{fee.id}?op=pay&method=ONLINE&external_transaction_id=X1&amount=4"
    client.post(target)
    assert client.post(target)["balance"] == 2.0


@pytest.mark.parametrize("amount", ["0", "-1", "10.01", "abc", "", "1.005", "1e1", "1,00"])
def test_bad_amounts_are_refused_and_nothing_changes(api: AlmaApi, client: Client, amount: str) -> None:
    fee = api.model.add_fee("000123456", 1000)
    target = f"{USERS}/000123456/fees/{fee.id}?op=pay&method=ONLINE&amount={amount}"
    assert client.refused("POST", target)[:2] == (400, "401666")
    assert fee.balance_cents == 1000


def test_bad_method_reason_and_operation_are_refused(api: AlmaApi, client: Client) -> None:
    fee = api.model.add_fee("000123456", 1000)
    base = f"{USERS}/000123456/fees/{fee.id}?amount=1.00"
    for rest in ("&op=pay&method=WIRE", "&op=pay", "&op=waive", "&op=refund", ""):
        assert client.refused("POST", base + rest)[1] == "401666"


def test_waive_dispute_and_restore(api: AlmaApi, client: Client) -> None:
    fee = api.model.add_fee("000123456", 1000)
    base = f"{USERS}/000123456/fees/{fee.id}"
    waived = client.post(f"{base}?op=waive&amount=4.00&reason=OTHER&comment=K1")
    assert (waived["balance"], waived["transaction"][0]["comment"]) == (6.0, "K1")
    assert client.post(f"{base}?op=dispute")["status"]["value"] == "INDISPUTE"
    assert client.refused("POST", f"{base}?op=pay&method=ONLINE&amount=1.00")[1] == "401666"
    assert client.post(f"{base}?op=restore")["status"]["value"] == "ACTIVE"


def test_closed_fee_is_refused_by_id_but_listed(api: AlmaApi, client: Client) -> None:
    fee = api.model.add_fee("000123456", 1000)
    api.model.pay_at_desk(fee.id)
    status, _, message = client.refused("GET", f"{USERS}/000123456/fees/{fee.id}")
    assert (status, message) == (400, "Request failed: API does not support closed fees.")
    api.model.behaviour.closed_fee_by_id_refused = False
    assert client.get(f"{USERS}/000123456/fees/{fee.id}")["balance"] == 0.0


def test_unknown_user_and_unknown_fee(api: AlmaApi, client: Client) -> None:
    api.model.add_user("000000002")
    foreign = api.model.add_fee("000000002", 100)
    assert client.refused("GET", f"{USERS}/999999999/fees")[:2] == (400, "401861")
    assert client.refused("GET", f"{USERS}/000123456/fees/12345")[:2] == (400, "401665")
    assert client.refused("GET", f"{USERS}/000123456/fees/{foreign.id}")[:2] == (400, "401665")


def test_user_ids_are_decoded_and_disregard_case(api: AlmaApi, client: Client) -> None:
    api.model.add_user("Staff/7 a@campus.invalid")
    shown = client.get(f"{USERS}/staff%2F7%20A%40campus.invalid?expand=fees")
    assert shown["primary_id"] == "Staff/7 a@campus.invalid"
    assert client.get(f"{USERS}/20000000000001")["primary_id"] == "000123456"


def test_rekeyed_and_purged_users(api: AlmaApi, client: Client) -> None:
    fee = api.model.add_fee("000123456", 100)
    api.model.rekey_user("000123456", "900000009")
    assert client.refused("GET", f"{USERS}/000123456/fees")[1] == "401861"
    assert client.get(f"{USERS}/900000009/fees")["fee"][0]["id"] == fee.id
    api.model.purge_user("900000009")
    assert client.refused("GET", f"{USERS}/900000009/fees")[1] == "401861"


def test_user_balance_nets_credits(api: AlmaApi, client: Client) -> None:
    api.model.add_fee("000123456", 1000)
    credit = api.model.give_credit("000123456", 400)
    assert client.get(f"{USERS}/000123456")["fees"] is None
    assert client.get(f"{USERS}/000123456?expand=fees")["fees"]["value"] == 6.0
    assert (
        client.refused("POST", f"{USERS}/000123456/fees/{credit.id}?op=pay&method=ONLINE&amount=1")[1]
        == "401666"
    )
    closed = client.post(f"{USERS}/000123456/fees/{credit.id}?op=waive&reason=OTHER&amount=4.00")
    assert (closed["status"]["value"], closed["balance"]) == ("CLOSED", 0.0)


def test_lost_item_returned_after_payment_leaves_a_credit(api: AlmaApi) -> None:
    fee = api.model.add_fee("000123456", 1000, type="LOSTITEMREPLACEMENTFEE")
    api.model.pay_at_desk(fee.id, 600)
    credit = api.model.return_lost_item(fee.id)
    assert fee.status == "CLOSED"
    assert credit is not None
    assert credit.balance_cents == -600
    api.model.use_credit(credit.id)
    assert credit.status == "CLOSED"


def test_pay_all_spreads_over_active_fees(api: AlmaApi, client: Client) -> None:
    first, second = api.model.add_fee("000123456", 300), api.model.add_fee("000123456", 500)
    left = client.post(f"{USERS}/000123456/fees/all?op=pay&method=CASH&amount=4.00")
    assert (first.balance_cents, second.balance_cents, left["total_sum"]) == (0, 400, 4.0)
    left = client.post(f"{USERS}/000123456/fees/all?op=pay&method=CASH&amount=ALL")
    assert left == {"total_record_count": 0, "total_sum": 0, "currency": "USD"}


def test_create_fee(client: Client) -> None:
    body = {"type": {"value": "OTHER"}, "original_amount": 20.0, "owner": {"value": "MAIN"}, "barcode": None}
    made = client.post(f"{USERS}/000123456/fees", json.dumps(body).encode())
    assert (made["balance"], made["status"]["value"]) == (20.0, "ACTIVE")
    response = client.raw("POST", f"{USERS}/000123456/fees", b'{"type": {"value": "OTHER"}}')
    assert b"4019994" in response.body


def test_users_by_page_and_by_modification(api: AlmaApi, client: Client) -> None:
    for number in range(12):
        api.model.add_user(f"{number:09d}", modified_at=datetime(2026, 1, 1, tzinfo=UTC))
    first, rest = client.get(USERS), client.get(f"{USERS}?offset=10&limit=100")
    assert (len(first["user"]), len(rest["user"]), first["total_record_count"]) == (10, 3, 13)
    assert client.get(f"{USERS}?modify_date_from=2026-11-22")["total_record_count"] == 1
    api.model.add_fee("000000003", 100)
    assert client.get(f"{USERS}?modify_date_from=2026-11-22")["total_record_count"] == 2
    assert client.get(f"{USERS}?q=primary_id~000000003")["user"][0]["primary_id"] == "000000003"
    assert client.refused("GET", f"{USERS}?q=primary_id~1&modify_date_from=2026-11-22")[0] == 400
    assert client.refused("GET", f"{USERS}?limit=101")[1] == "40166410"


def test_fee_transactions_in_a_window(api: AlmaApi, client: Client) -> None:
    paid, waived, _ = (api.model.add_fee("000123456", 100) for _ in range(3))
    api.model.pay_at_desk(paid.id)
    api.model.clock.advance(days=2)
    api.model.waive_at_desk(waived.id, 50)
    path = "/almaws/v1/conf/utilities/fee-transactions"
    client = Client(api)
    assert [fee["id"] for fee in client.get(path)["fee"]] == [waived.id]
    window = f"{path}?transaction_from_date=2026-11-22&transaction_to_date=2026-11-24"
    assert {fee["id"] for fee in client.get(window)["fee"]} == {paid.id, waived.id}
    page = client.get(f"{window}&limit=1&offset=1")
    assert (len(page["fee"]), page["total_record_count"]) == (1, 2)
    too_long = f"{path}?transaction_from_date=2026-11-01&transaction_to_date=2026-11-24"
    assert client.refused("GET", too_long)[1] == "40166411"


def test_keys_and_their_permissions(api: AlmaApi) -> None:
    assert Client(api, "wrong").raw("GET", f"{USERS}/000123456").status == 403
    refused = Client(api, READ_KEY.value).raw("POST", f"{USERS}/000123456/fees/1?op=pay")
    assert refused.status == 400
    assert refused.headers["Content-Type"].startswith("application/xml")
    assert b"<errorCode>UNAUTHORIZED</errorCode>" in refused.body
    assert Client(api, USERS_ONLY_KEY.value).raw("GET", "/almaws/v1/conf/general").status == 400
    by_query = Request.of("GET", f"{USERS}/000123456?apikey={READ_KEY.value}")
    assert api.handle(by_query).status == 200
    assert all("apikey" not in call.target for call in api.calls)


def test_connection_tests(client: Client) -> None:
    test = client.raw("GET", f"{USERS}/operation/test")
    assert ET.fromstring(test.body).text == "GET - OK - institutionCode: 01CAMPUS_INST"
    assert ET.fromstring(client.raw("POST", f"{USERS}/operation/test").body).text == "POST - OK"
    assert client.get("/almaws/v1/conf/general")["institution"]["value"] == "01CAMPUS_INST"
    reasons = client.get("/almaws/v1/conf/code-tables/FineFeeTransactionReason")
    assert "OTHER" in [row["code"] for row in reasons["row"]]


def test_xml_when_json_is_not_asked_for(api: AlmaApi) -> None:
    fee = api.model.add_fee("000123456", 1050)
    api.model.pay_at_desk(fee.id, 50)
    root = ET.fromstring(Client(api, accept="*/*").raw("GET", f"{USERS}/000123456/fees").body)
    assert dict(root.attrib) == {"total_record_count": "1", "total_sum": "10.0", "currency": "USD"}
    (shown,) = root
    assert (shown.findtext("id"), shown.findtext("balance")) == (fee.id, "10.0")
    assert shown.find("type").attrib == {"desc": "Overdue fine"}  # type: ignore[union-attr]
    assert shown.findtext("transactions/transaction/amount") == "0.5"
    assert shown.find("comment") is None
    empty = ET.fromstring(Client(api, accept="*/*").raw("GET", f"{USERS}/000123456/fees?status=CLOSED").body)
    assert (empty.get("total_record_count"), list(empty)) == ("0", [])
    by_format = Client(api, accept="*/*").raw("GET", f"{USERS}/000123456/fees?format=json")
    assert json.loads(by_format.body)["total_record_count"] == 1


def test_per_second_limit_is_a_sliding_window(api: AlmaApi) -> None:
    at = [0.0]
    api.limits = Limits(per_second=3, clock=api.model.clock, monotonic=lambda: at[0])
    client = Client(api)

    def call() -> int:
        return client.raw("GET", f"{USERS}/operation/test").status

    assert [call() for _ in range(4)] == [200, 200, 200, 429]
    at[0] = 0.99
    assert call() == 429
    at[0] = 1.0
    assert call() == 200
    refused = [client.raw("GET", f"{USERS}/operation/test") for _ in range(3)][-1]
    assert (
        json.loads(refused.body)["web_service_result"]["errorList"]["error"]["errorCode"]
        == "PER_SECOND_THRESHOLD"
    )


def test_daily_limit_counts_down_and_resets(api: AlmaApi) -> None:
    api.limits = Limits(per_second=100, per_day=2, clock=api.model.clock)
    client = Client(api)
    left = [client.raw("GET", f"{USERS}/operation/test") for _ in range(3)]
    assert [response.headers["X-Exl-Api-Remaining"] for response in left] == ["1", "0", "0"]
    assert b"DAILY_THRESHOLD" in left[2].body
    api.model.clock.advance(days=1)
    assert client.raw("GET", f"{USERS}/operation/test").status == 200


@pytest.mark.parametrize(
    ("kind", "applied"),
    [
        ("refuse", False),
        ("fail_before", False),
        ("fail_after", True),
        ("drop_before", False),
        ("drop_after", True),
        ("broken_body", True),
        ("out_of_quota", False),
        ("delay_after", True),
    ],
)
def test_faults_apply_or_do_not(api: AlmaApi, client: Client, kind: Any, applied: bool) -> None:
    fee = api.model.add_fee("000123456", 1000)
    rule = api.faults.add_http(kind, method="POST", path="op=pay")
    target = f"{USERS}/000123456/fees/{fee.id}?op=pay&method=ONLINE&amount=4.00"
    if kind.startswith("drop"):
        with pytest.raises(ConnectionDropped):
            client.raw("POST", target)
    else:
        response = client.raw("POST", target)
        assert response.status == {
            "refuse": 400,
            "broken_body": 200,
            "out_of_quota": 429,
            "delay_after": 200,
        }.get(kind, 500)
    assert fee.balance_cents == (600 if applied else 1000)
    assert rule.fired == 1
    assert client.raw("POST", target).status == 200


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize(("kind", "then"), [("meanwhile_before", 1000), ("meanwhile_after", 600)])
def test_something_may_happen_in_the_middle_of_a_call(
    api: AlmaApi, client: Client, kind: Any, then: int, goes_on: bool
) -> None:
    fee = api.model.add_fee("000123456", 1000)
    seen: list[int] = []

    def meanwhile() -> bool:
        seen.append(fee.balance_cents)
        return goes_on

    api.faults.add_http(kind, method="POST", meanwhile=meanwhile)
    target = f"{USERS}/000123456/fees/{fee.id}?op=pay&method=ONLINE&amount=4.00"
    if goes_on:
        assert client.raw("POST", target).status == 200
    else:
        with pytest.raises(ConnectionDropped):
            client.raw("POST", target)
    assert (seen, fee.balance_cents) == ([then], 600 if goes_on else then)
    assert "meanwhile" not in api.faults.http[0].shown()
    with pytest.raises(ValueError, match="meanwhile"):
        api.faults.add_http("refuse", meanwhile=meanwhile)


def test_partial_list_does_not_agree_with_its_totals(api: AlmaApi, client: Client) -> None:
    api.model.add_fee("000123456", 100)
    api.model.add_fee("000123456", 200)
    api.faults.add_http("partial_list", path="/fees")
    shown = client.get(f"{USERS}/000123456/fees")
    assert (len(shown["fee"]), shown["total_record_count"], shown["total_sum"]) == (1, 2, 3.0)


def test_delay_waits_the_given_seconds(api: AlmaApi) -> None:
    waited: list[float] = []
    slow = AlmaApi(api.model, limits=api.limits, sleep=waited.append)
    slow.faults.add_http("delay_before", seconds=2.5)
    Client(slow).get(f"{USERS}/000123456")
    assert waited == [2.5]


def test_something_may_happen_between_two_calls(api: AlmaApi, client: Client) -> None:
    fee = api.model.add_fee("000123456", 1000)

    def desk_is_quicker(request: Request) -> None:
        if request.method == "POST":
            api.model.pay_at_desk(fee.id, 700)

    api.before_call = desk_is_quicker
    client.get(f"{USERS}/000123456/fees")
    target = f"{USERS}/000123456/fees/{fee.id}?op=pay&method=ONLINE&amount=10.00"
    assert client.refused("POST", target)[1] == "401666"
    assert fee.balance_cents == 300


def test_every_error_form_can_be_had(api: AlmaApi, client: Client) -> None:
    forms: list[Any] = ["json", "gateway_json", "xml", "html", "text", "empty"]
    bodies = []
    for form in forms:
        api.faults.add_http("refuse", status=503, code="GENERAL_ERROR", message="later", form=form)
        response = client.raw("GET", f"{USERS}/000123456")
        assert response.status == 503
        bodies.append(response.body)
    assert json.loads(bodies[0])["errorList"]["error"][0]["errorCode"] == "GENERAL_ERROR"
    assert json.loads(bodies[1])["web_service_result"]["errorList"]["error"]["errorCode"] == "GENERAL_ERROR"
    assert ET.fromstring(bodies[2]).tag == "{http://com/exlibris/urm/general/xmlbeans}web_service_result"
    assert (bodies[3][:6], bodies[4], bodies[5]) == (b"<html>", b"later", b"")


def test_probability_is_seeded(api: AlmaApi) -> None:
    def firings(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add_http("refuse", times=None, probability=0.5)
        return [faults.due_http("GET", "/x") is not None for _ in range(50)]

    assert firings(1) == firings(1) != firings(2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pay", "waive", "raise", "api", "dispute", "restore", "export"]),
            st.integers(-5, 700),
        ),
        max_size=15,
    )
)
def test_balance_is_always_original_less_transactions(acts: list[tuple[str, int]]) -> None:
    model = AlmaModel(clock=Clock(NOW))
    model.add_user("000123456")
    fee = model.add_fee("000123456", 1000)
    for name, cents in acts:
        try:
            match name:
                case "pay":
                    model.pay_at_desk(fee.id, cents)
                case "waive":
                    model.waive_at_desk(fee.id, cents)
                case "raise":
                    model.raise_fee(fee.id, abs(cents))
                case "api":
                    model.pay_by_api(fee.id, cents, method="ONLINE")
                case "export":
                    model.export(fee.id)
                case _:
                    getattr(model, name)(fee.id)
        except AlmaRefusal:
            pass
        assert fee.balance_cents == fee.original_cents - fee.paid_cents >= 0
        assert (fee.status == "CLOSED") == (fee.balance_cents == 0)
