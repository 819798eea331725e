"""The Analytics report: how old it is, how it is paged, and its switchable traps."""

import json
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import pytest

from simulator.alma import AlmaModel
from simulator.alma_api import FULL_KEY, AlmaApi
from simulator.analytics import HEADINGS, REPORT_PATH
from simulator.clock import Clock
from simulator.limits import Limits
from simulator.wire import Request, Response

ROWSET = "{urn:schemas-microsoft-com:xml-analysis:rowset}"
SAW = "{urn:saw-sql}columnHeading"
XSD_ELEMENT = "{http://www.w3.org/2001/XMLSchema}element"


@pytest.fixture
def api() -> AlmaApi:
    """60 open fees of one student, snapshot taken."""
    model = AlmaModel(clock=Clock(datetime(2026, 11, 22, 16, 0, tzinfo=UTC)))
    model.add_user("000123456")
    api = AlmaApi(model, limits=Limits(per_second=10_000))
    for number in range(60):
        model.add_fee("000123456", 100 + number * 25)
    api.analytics.refresh()
    return api


def ask(api: AlmaApi, accept: str = "application/xml", **query: str) -> Response:
    headers = {"Authorization": f"apikey {FULL_KEY.value}", "Accept": accept}
    return api.handle(Request("GET", "/almaws/v1/analytics/reports", query, headers))


def page(response: Response) -> tuple[str | None, str, list[dict[str, str]], list[str]]:
    """Token, IsFinished, rows by column name, headings of an answer."""
    assert response.status == 200, response.body
    root = ET.fromstring(response.body)
    rows = [
        {cell.tag.removeprefix(ROWSET): cell.text or "" for cell in row} for row in root.iter(f"{ROWSET}Row")
    ]
    headings = [element.get(SAW) or "" for element in root.iter(XSD_ELEMENT)]
    return root.findtext(".//ResumptionToken"), root.findtext(".//IsFinished") or "", rows, headings


def test_one_page_has_no_token(api: AlmaApi) -> None:
    token, finished, rows, headings = page(ask(api, path=REPORT_PATH, limit="1000"))
    assert (token, finished, len(rows)) == (None, "true", 60)
    assert headings == ["0", *HEADINGS]
    fee = next(iter(api.model.fees.values()))
    assert rows[0] == {
        "Column0": "0",
        "Column1": fee.id,
        "Column2": "000123456",
        "Column3": "Overdue fine",
        "Column4": "Active",
        "Column5": "1",
        "Column6": "1",
        "Column7": "USD",
        "Column8": "2026-11-22T16:00:00",
        "Column9": "2026-11-22T16:00:00",
    }
    assert rows[2]["Column5"] == "1.5"


def test_token_and_headings_on_the_first_page_only(api: AlmaApi) -> None:
    token, finished, rows, headings = page(ask(api, path=REPORT_PATH, limit="25"))
    assert (finished, len(rows), headings[0]) == ("false", 25, "0")
    assert token is not None
    assert len(token) == 128
    second = page(ask(api, token=token, limit="25"))
    assert (second[0], second[1], len(second[2]), second[3]) == (None, "false", 25, [])
    third = page(ask(api, token=token, path=REPORT_PATH, limit="25"))
    assert (third[1], len(third[2])) == ("true", 10)
    past = ask(api, token=token, limit="25")
    assert past.status == 500
    assert b"420033" in past.body


def test_limit_goes_up_to_the_next_25(api: AlmaApi) -> None:
    assert len(page(ask(api, path=REPORT_PATH, limit="30"))[2]) == 50
    assert len(page(ask(api, path=REPORT_PATH))[2]) == 25


def test_wrong_path_and_unshared_folder(api: AlmaApi) -> None:
    wrong = ask(api, path="/shared/Elsewhere")
    assert wrong.status == 500
    assert b"INTERNAL_SERVER_ERROR" in wrong.body
    api.analytics.traps.not_shared = True
    closed = ask(api, path=REPORT_PATH)
    assert closed.status == 400
    assert b"<errorCode>500</errorCode>" in closed.body


def test_still_loading_has_an_empty_result_and_the_token(api: AlmaApi) -> None:
    api.analytics.traps.still_loading = 2
    token, finished, rows, _ = page(ask(api, path=REPORT_PATH, limit="1000"))
    assert (finished, rows) == ("false", [])
    assert token is not None
    assert page(ask(api, token=token, limit="1000"))[:3] == (None, "false", [])
    last = page(ask(api, token=token, limit="1000"))
    assert (last[1], len(last[2]), len(last[3])) == ("true", 60, 10)


def test_the_report_is_as_old_as_its_refresh(api: AlmaApi) -> None:
    fee = next(iter(api.model.fees.values()))
    api.model.pay_at_desk(fee.id)
    api.model.add_fee("000123456", 100)
    assert len(page(ask(api, path=REPORT_PATH, limit="1000"))[2]) == 60
    api.model.clock.advance(days=1)
    api.analytics.refresh()
    rows = page(ask(api, path=REPORT_PATH, limit="1000"))[2]
    assert fee.id not in [row["Column1"] for row in rows]
    assert rows[0]["Column9"] == "2026-11-23T16:00:00"


def test_disputed_fees_are_in_and_exported_ones_are_not(api: AlmaApi) -> None:
    disputed, exported, *_ = api.model.fees.values()
    api.model.dispute(disputed.id)
    api.model.export(exported.id)
    api.analytics.refresh()
    shown = {row["Column1"]: row["Column4"] for row in page(ask(api, path=REPORT_PATH, limit="1000"))[2]}
    assert shown[disputed.id] == "In Dispute"
    assert exported.id not in shown


def test_traps(api: AlmaApi) -> None:
    traps, fee = api.analytics.traps, next(iter(api.model.fees.values()))
    api.model.pay_at_desk(fee.id, 10)
    api.model.pay_at_desk(fee.id, 10)
    traps.repeated_rows = True
    api.analytics.refresh()
    ids = [row["Column1"] for row in page(ask(api, path=REPORT_PATH, limit="1000"))[2]]
    assert ids.count(fee.id) == 2
    traps.missing_headings = {"Currency"}
    traps.null_headings = {"Remaining Amount"}
    traps.cut_short_to = 30
    _, finished, rows, headings = page(ask(api, path=REPORT_PATH, limit="1000"))
    assert (finished, len(rows), "Currency" in headings) == ("true", 30, False)
    assert ["Column5" in row for row in rows[:4]] == [True, False, True, True]
    assert page(ask(api, path=REPORT_PATH, limit="1000", col_names="false"))[3][1] == ""


def test_json_holds_the_xml_as_text(api: AlmaApi) -> None:
    shown = json.loads(ask(api, "application/json", path=REPORT_PATH, limit="1000").body)
    (text,) = shown["anies"]
    assert text.startswith("<?xml")
    assert text.count("<Row>") == 60
