from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alma_hook import analytics
from alma_hook.errors import AlmaHookError, BadFile, NotReady, Retriable
from alma_hook.ledger import fees
from simulator.alma_api import FULL_KEY
from simulator.analytics import COLUMNS
from tests.bridge import Bridge
from tests.conftest import MakeBridge

PATH = "/shared/Campus/Reports/Fees for PeopleSoft"
USER = "061719993"


def accounts(bridge: Bridge) -> list[str]:
    """The accounts on the list of those to be read."""
    ledger = bridge.ledger()
    with ledger.read() as tx:
        found = fees.accounts_left(tx, True)
    ledger.close()
    return found


def take_in(bridge: Bridge) -> analytics.ReportCounts:
    with bridge.working("out") as (ledger, lease):
        return analytics.take_in(bridge.api, ledger, lease, bridge.campus, True, lambda _: None)


def failing(bridge: Bridge, kind: type[AlmaHookError]) -> str:
    """Take a report in in vain; nothing of it may be listed, and no student be named."""
    with pytest.raises(kind) as caught:
        take_in(bridge)
    text = str(caught.value)
    assert accounts(bridge) == []
    assert not any(student.primary_id in text for student in bridge.far.students)
    return text


def open_accounts(bridge: Bridge) -> list[str]:
    return sorted({fee.user.primary_id for fee in bridge.far.alma.fees.values() if fee.status != "CLOSED"})


# -- whole reports -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_rows", [1, 7, 25, 1000])
def test_a_report_names_every_account_whatever_its_pages(make_bridge: MakeBridge, page_rows: int) -> None:
    bridge = make_bridge()
    bridge.far.analytics.traps.page_rows = page_rows
    counts = take_in(bridge)
    assert accounts(bridge) == open_accounts(bridge)
    assert (counts.rows, counts.fees, counts.accounts) == (30, 30, len(open_accounts(bridge)))


@pytest.mark.parametrize(
    "traps",
    [
        {"still_loading": 3},
        {"still_loading_later": 3, "page_rows": 10},
        {"still_loading": 2, "still_loading_later": 2, "page_rows": 10},
        {"repeat_token": True, "page_rows": 10},
        {"repeated_rows": True},
        {"null_headings": {"Remaining Amount"}},
        {"missing_headings": {"Fine Fee Type", "Currency"}},
    ],
)
def test_what_alma_is_known_to_do_does_not_matter(make_bridge: MakeBridge, traps: dict[str, object]) -> None:
    bridge = make_bridge()
    for name, value in traps.items():
        setattr(bridge.far.analytics.traps, name, value)
    bridge.far.refresh_analytics()
    take_in(bridge)
    assert accounts(bridge) == open_accounts(bridge)


def test_a_report_without_rows_names_nobody(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    counts = take_in(bridge)
    assert (counts.rows, counts.fees, counts.accounts) == (0, 0, 0)


def test_columns_are_known_by_their_headings(
    make_bridge: MakeBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = make_bridge()
    monkeypatch.setattr("simulator.analytics.COLUMNS", COLUMNS[::-1])
    take_in(bridge)
    assert accounts(bridge) == open_accounts(bridge)


def test_fees_that_agree_with_the_ledger_are_not_read(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.alma.restore(str(bridge.far.oddities.disputed_fee))
    bridge.alma_to_sis()
    odd = {str(bridge.far.oddities.staff_fee), str(bridge.far.oddities.unmapped_fee),
           str(bridge.far.oddities.credit_fee)}  # fmt: skip
    bridge.far.clock.advance(days=1)
    bridge.far.refresh_analytics()
    take_in(bridge)
    assert accounts(bridge) == sorted({bridge.far.alma.fees[fee_id].user.primary_id for fee_id in odd})


def test_a_fee_that_the_report_shows_no_more_is_looked_at(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    fee_id = next(fee_id for fee_id, book in bridge.books().fees.items() if book.charged_cents)
    bridge.far.alma.waive_at_desk(fee_id)
    bridge.far.refresh_analytics()
    take_in(bridge)
    assert bridge.far.alma.fees[fee_id].user.primary_id in accounts(bridge)


# -- reports that can't be taken in --------------------------------------------------------------------


def test_every_missing_heading_is_named(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.analytics.traps.missing_headings = {"Primary Identifier", "Remaining Amount"}
    text = failing(bridge, BadFile)
    assert "Primary Identifier: no column" in text
    assert "Remaining Amount: no column" in text
    assert "Fine Fee Id" not in text


def test_a_report_that_never_finishes_loading(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.analytics.traps.still_loading = 100
    assert "still computing" in failing(bridge, NotReady)


@pytest.mark.parametrize(("trap", "kind"), [("not_shared", AlmaHookError), ("down", Retriable)])
def test_a_report_that_alma_does_not_give(
    make_bridge: MakeBridge, trap: str, kind: type[AlmaHookError]
) -> None:
    bridge = make_bridge()
    setattr(bridge.far.analytics.traps, trap, True)
    failing(bridge, kind)


def test_a_report_of_another_name(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.analytics.path = "/shared/Campus/Reports/Another"
    failing(bridge, AlmaHookError)


def test_a_report_without_headings(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.analytics.traps.no_schema = True
    assert "no column with this heading" in failing(bridge, BadFile)


def test_a_report_that_ends_before_it_is_finished(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.analytics.traps.page_rows = 10
    bridge.far.faults.add_http(
        "refuse", path="analytics.*token=", skip=1, status=500, code="420033", message="No more rows to fetch"
    )
    assert "420033" in failing(bridge, Retriable)


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "broken_body", "fail_before", "fail_after"])
@pytest.mark.parametrize("page", [0, 1, 2])
def test_a_lost_page_is_a_lost_report_and_the_next_attempt_reads_it_whole(
    make_bridge: MakeBridge, kind: str, page: int
) -> None:
    bridge = make_bridge()
    bridge.far.analytics.traps.page_rows = 10
    bridge.far.faults.add_http(kind, path="analytics", skip=page, body="truncated")  # type: ignore[arg-type]
    failing(bridge, AlmaHookError)
    assert take_in(bridge).rows == 30
    assert accounts(bridge) == open_accounts(bridge)


@pytest.mark.parametrize("kind", ["drop_before", "broken_body", "fail_before"])
def test_a_lost_page_is_worth_another_attempt(make_bridge: MakeBridge, kind: str) -> None:
    bridge = make_bridge()
    bridge.far.faults.add_http(kind, path="analytics", body="truncated")  # type: ignore[arg-type]
    failing(bridge, Retriable)


def test_the_first_half_of_a_lost_report_is_forgotten(make_bridge: MakeBridge) -> None:
    """A fee that was closed between two attempts must not be named by the first one's pages."""
    bridge = make_bridge()
    bridge.far.analytics.traps.page_rows = 10
    bridge.far.faults.add_http("drop_before", path="analytics.*token=")
    with bridge.working("out") as (ledger, lease):
        with pytest.raises(AlmaHookError):
            analytics.take_in(bridge.api, ledger, lease, bridge.campus, True, lambda _: None)
        bridge.far.analytics.rows = []
        counts = analytics.take_in(bridge.api, ledger, lease, bridge.campus, True, lambda _: None)
    assert (counts.fees, counts.accounts) == (0, 0)


def test_every_row_that_can_not_be_read_is_named(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    rows = bridge.far.analytics.rows
    rows[1]["Fine Fee Id"] = "1.38412E+17"
    rows[4]["Primary Identifier"] = ""
    rows[8]["Remaining Amount"] = "twelve"
    rows[9]["Remaining Amount"] = "1.005"
    text = failing(bridge, BadFile)
    assert "line 2, Fine Fee Id: is not a fee id" in text
    assert "line 5, Primary Identifier: is empty" in text
    assert "line 9, Remaining Amount: not a plain amount" in text
    assert "line 10, Remaining Amount: more than two decimals" in text
    assert "twelve" not in text


def test_rows_that_can_not_be_read_are_named_on_every_page(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.analytics.traps.page_rows = 10
    bridge.far.analytics.rows[1]["Fine Fee Id"] = "x"
    bridge.far.analytics.rows[21]["Fine Fee Id"] = "x"
    text = failing(bridge, BadFile)
    assert "line 2, " in text
    assert "line 22, " in text


@pytest.mark.parametrize(("days", "taken"), [(0, True), (1.9, True), (2.1, False), (30, False)])
def test_a_report_older_than_the_settings_allow_is_refused(
    make_bridge: MakeBridge, days: float, taken: bool
) -> None:
    bridge = make_bridge()
    bridge.far.clock.advance(timedelta(days=days))
    if taken:
        take_in(bridge)
        assert accounts(bridge) == open_accounts(bridge)
    else:
        assert "hours old, more than the 48 allowed" in failing(bridge, BadFile)


def test_a_report_without_a_readable_time_is_refused(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    for row in bridge.far.analytics.rows:
        row["Data Updated As Of"] = "yesterday"
    assert "is not a time" in failing(bridge, BadFile)


# -- page by page --------------------------------------------------------------------------------------

ROWSET = "urn:schemas-microsoft-com:xml-analysis:rowset"


def page(rows: str, *, finished: bool, token: str = "", schema: bool = True) -> bytes:
    columns = "".join(
        f'<xsd:element name="Column{n}" saw-sql:columnHeading="{heading}"/>'
        for n, heading in enumerate(analytics.HEADINGS, 1)
    )
    shown = (
        f'<xsd:schema xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:saw-sql="urn:saw-sql">{columns}</xsd:schema>'
        if schema
        else ""
    )
    return (
        f"<report><QueryResult>{f'<ResumptionToken>{token}</ResumptionToken>' if token else ''}"
        f'<IsFinished>{str(finished).lower()}</IsFinished><ResultXml><rowset xmlns="{ROWSET}">{shown}{rows}</rowset>'
        "</ResultXml></QueryResult></report>"
    ).encode()


def row(fee_id: str = "138412345678", user_id: str = USER, left: str = "12.5") -> str:
    return f"<Row><Column1>{fee_id}</Column1><Column2>{user_id}</Column2><Column3>{left}</Column3></Row>"


class Pages:
    def __init__(self, *bodies: bytes) -> None:
        self.bodies = list(bodies)

    def analytics_page(self, query: Mapping[str, str]) -> bytes:
        return self.bodies.pop(0)


def read(*bodies: bytes) -> list[tuple[str, ...]]:
    return [r for p in analytics.pages(Pages(*bodies), PATH, analytics.HEADINGS, lambda _: None) for r in p]


def test_a_page_that_promises_more_without_a_token() -> None:
    with pytest.raises(Retriable, match="no token"):
        read(page(row(), finished=False))


def test_one_page_needs_no_token() -> None:
    assert read(page(row(), finished=True)) == [("138412345678", USER, "12.5", "")]


@pytest.mark.parametrize("length", [0, 1, 30, -1, -40])
def test_a_page_cut_short_in_mid_xml(length: int) -> None:
    whole = page(row(), finished=True)
    with pytest.raises(Retriable) as caught:
        read(whole[:length])
    assert USER not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [b"<html><body>Please wait</body></html>", b"not xml", b"<report/>", b'{"report": 1}',
     b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/hostname">]><report>&x;</report>'],
)  # fmt: skip
def test_an_answer_that_is_no_report(body: bytes) -> None:
    with pytest.raises(Retriable):
        read(body)


def test_entities_are_not_resolved() -> None:
    body = page(row(fee_id="&x;"), finished=True)
    declared = b'<!DOCTYPE report [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + body
    with pytest.raises((Retriable, BadFile)):
        analytics.fee_rows(read(declared), "report", 1)


def test_a_wrong_key_gets_no_report(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.api.keys.pop(FULL_KEY.value)
    assert "API key" in failing(bridge, AlmaHookError)


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("123"), st.sampled_from(["", "a", "b&amp;c"])), max_size=5),
        max_size=5,
    )
)
def test_rows_of_whatever_cells_are_those_of_a_plain_loop(rows: list[list[tuple[str, str]]]) -> None:
    """Cells that are missing, empty, doubled or in another order; of doubled ones the last."""
    cells = "".join(
        f"<Row>{''.join(f'<Column{n}>{text}</Column{n}>' for n, text in row)}</Row>" for row in rows
    )
    body = (
        "<report><QueryResult><IsFinished>true</IsFinished><ResultXml>"
        f'<rowset xmlns="urn:schemas-microsoft-com:xml-analysis:rowset">{cells}</rowset>'
        "</ResultXml></QueryResult></report>"
    )
    plain = [{n: text.replace("&amp;", "&") for n, text in row} for row in rows]
    assert list(analytics._Page(body.encode()).rows(["Column1", "Column3"])) == [
        (row.get("1", ""), row.get("3", "")) for row in plain
    ]
