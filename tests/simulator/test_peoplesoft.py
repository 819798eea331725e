"""PeopleSoft's side: what a file does to a student's account, and what the query says about it."""

import csv
import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.clock import Clock
from simulator.peoplesoft import PeopleSoftModel
from simulator.query_output import SERVICE, Region

LAYOUTS = Path(__file__).resolve().parents[2] / "include" / "layouts"
FileOf = Callable[..., bytes]
NOW = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)


@pytest.fixture
def sfs() -> PeopleSoftModel:
    """A business unit that knows two students."""
    return PeopleSoftModel(
        LAYOUTS / "default.toml",
        Clock(NOW),
        emplids={"000123456", "900000001"},
        item_types={"300000000001"},
    )


def test_charge_makes_an_item_per_reference(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    result = sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1"), ("000123456", 250, "ALMA2")]))
    assert (result.loaded, result.kind, result.posted, result.total_cents) == (True, "charges", 2, 1250)
    assert sfs.books().by_reference == {"ALMA1": 1000, "ALMA2": 250}
    assert sfs.books().by_emplid == {"000123456": 1250}


def test_reversal_lowers_the_item_and_keeps_its_original(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    sfs.load("b.dat", default_file([("000123456", 300, "ALMA1")], reversal=True))
    item = sfs.item_by_reference("ALMA1")
    assert (item.amount_cents, item.original_cents, item.balance_cents) == (700, 1000, 700)


def test_a_file_sent_twice_is_posted_twice(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    content = default_file([("000123456", 1000, "ALMA1")])
    sfs.load("a.dat", content)
    sfs.load("a.dat", content)
    assert sfs.books().by_reference == {"ALMA1": 2000}
    assert sfs.books().charged == {"ALMA1": 2000}


def test_a_credit_sent_twice_drives_the_item_below_nought(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    credit = default_file([("000123456", 1000, "ALMA1")], reversal=True)
    sfs.load("b.dat", credit)
    sfs.load("b.dat", credit)
    assert sfs.books().by_reference == {"ALMA1": -1000}


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("a.txt", lambda b: b, "extension"),
        ("a.dat", lambda b: b.replace(b"H0000000002", b"H0000000003"), "control count"),
        ("a.dat", lambda b: b.replace(b"0000000000012.50", b"0000000000012.51", 1), "control total"),
        ("a.dat", lambda b: b.replace(b"LIB01", b"LIB02"), "origin"),
        ("a.dat", lambda b: b.replace(b"USD", b"EUR"), "currency"),
        ("a.dat", lambda b: b[:-1], "not complete"),
        ("a.dat", lambda b: b.replace(b"Library fee ", b"Library fee"), "columns"),
        ("a.dat", lambda b: b.replace(b"11222026        LIB", b"13222026        LIB"), "date"),
        ("a.dat", lambda b: b.replace(b"0000000000010.00", b"0000000000010,00"), "amount"),
        ("a.dat", lambda b: b.replace(b"\n", b"\r\n"), "line ends"),
        ("a.dat", lambda b: b.replace(b"Library fee ", "Gebühr xxxx ".encode()), "ascii"),
        ("a.dat", lambda b: b.replace(b"N    1122", b"Y    1122", 1), "one group"),
        ("a.dat", lambda b: b[:125], "no detail"),
        ("a.dat", lambda b: b"", "complete"),
    ],
)
def test_a_faulty_file_posts_nothing(
    sfs: PeopleSoftModel, name: str, change: Callable[[bytes], bytes], error: str, default_file: FileOf
) -> None:
    content = default_file([("000123456", 1000, "ALMA1"), ("900000001", 250, "ALMA2")])
    result = sfs.load(name, change(content))
    assert error in (result.error or "")
    assert sfs.items == {}


def test_a_bad_line_is_left_out_and_named(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    result = sfs.load("a.dat", default_file([("123456", 1000, "ALMA1"), ("900000001", 250, "ALMA2")]))
    assert [(reject.line_number, reject.reason) for reject in result.rejects] == [(2, "EMPLID unknown")]
    assert not result.loaded
    assert sfs.books().by_reference == {"ALMA2": 250}


def test_a_reversal_without_its_charge_is_refused(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    result = sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")], reversal=True))
    assert [reject.reason for reject in result.rejects] == ["no charge to reverse"]


def test_princeton_layout_reads_back_with_negative_total_of_credits(princeton_file: FileOf) -> None:
    sfs = PeopleSoftModel(LAYOUTS / "princeton_libfines.toml", Clock(NOW))
    assert sfs.load("libfines.dat", princeton_file([("000123456", 1050, "ALMA1")])).loaded
    assert sfs.load("libfines.dat", princeton_file([("000123456", 50, "ALMA1")], reversal=True)).loaded
    assert sfs.books().by_reference == {"ALMA1": 1000}


def test_payment_in_part_in_full_and_too_much(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    sfs.pay("ALMA1", 400)
    assert sfs.books().by_reference["ALMA1"] == 600
    sfs.pay("ALMA1", 700)
    books = sfs.books()
    assert books.by_reference["ALMA1"] == 0
    assert books.unapplied == {"000123456": 100}
    assert books.paid == {"ALMA1": 1100}
    assert books.by_emplid == {"000123456": -100}


def test_payment_on_the_account_takes_the_oldest_items_first(
    sfs: PeopleSoftModel, default_file: FileOf
) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1"), ("000123456", 500, "ALMA2")]))
    made = sfs.pay("000123456", 1200)
    assert [(payment.reference, payment.amount_cents) for payment in made] == [
        ("ALMA1", 1000),
        ("ALMA2", 200),
    ]
    assert sfs.books().by_reference == {"ALMA1": 0, "ALMA2": 300}


def test_one_payment_over_several_items(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1"), ("000123456", 500, "ALMA2")]))
    first, second = sfs.pay("000123456", one_payment=True)
    assert first.payment_id == second.payment_id
    assert sfs.books().by_reference == {"ALMA1": 0, "ALMA2": 0}
    rows = _rows(sfs.query_output())
    assert [row["Payment ID"] for row in rows] == [first.payment_id] * 2
    assert [(row["Reference Number"], row["Paid Amount"]) for row in rows] == [
        ("ALMA1", "10.00"),
        ("ALMA2", "5.00"),
    ]


def test_a_bounced_payment_opens_the_item_and_leaves_the_query(
    sfs: PeopleSoftModel, default_file: FileOf
) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    (payment,) = sfs.pay("ALMA1", 1000)
    sfs.bounce(payment.payment_id)
    assert sfs.books().by_reference == {"ALMA1": 1000}
    assert len(_rows(sfs.query_output())) == 0
    assert [row["Paid Amount"] for row in _rows(sfs.query_output(bounced="zero"))] == ["0.00"]
    assert [row["Paid Amount"] for row in _rows(sfs.query_output(bounced="negative"))] == ["10.00", "-10.00"]


def test_a_credit_after_the_payment_frees_the_money(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    sfs.pay("ALMA1", 1000)
    sfs.load("b.dat", default_file([("000123456", 400, "ALMA1")], reversal=True))
    item = sfs.item_by_reference("ALMA1")
    assert (item.amount_cents, item.applied_cents, item.balance_cents) == (600, 600, 0)
    assert sfs.books().unapplied == {"000123456": 400}


def test_reversing_a_group_undoes_its_charges(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    result = sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    assert sfs.reverse_group(result.group_id or "") == 1
    item = sfs.item_by_reference("ALMA1")
    assert (item.amount_cents, item.original_cents) == (0, 1000)
    assert sfs.reverse_group(result.group_id or "") == 0


def test_credit_item_types_pay_the_charge_they_name(default_file: FileOf) -> None:
    sfs = PeopleSoftModel(LAYOUTS / "default.toml", Clock(NOW), credit_item_types={"820000000001"})
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    sfs.load("b.dat", default_file([("000123456", 400, "ALMA1")], item_type="820000000001"))
    item = sfs.item_by_reference("ALMA1")
    assert (item.amount_cents, item.applied_cents, item.balance_cents) == (1000, 400, 600)
    assert _rows(sfs.query_output()) == []
    assert sfs.books().credited == {"ALMA1": 400}


def test_without_references_fees_fall_on_one_item(default_file: FileOf) -> None:
    sfs = PeopleSoftModel(LAYOUTS / "default.toml", Clock(NOW), reference_separates_items=False)
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1"), ("000123456", 500, "ALMA2")]))
    assert [item.amount_cents for item in sfs.items.values()] == [1500]


def test_reapplying_moves_money_between_items(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1"), ("000123456", 500, "ALMA2")]))
    sfs.pay("ALMA1", 500)
    sfs.reapply("000123456")
    assert sfs.books().by_reference == {"ALMA1": 1000, "ALMA2": 0}


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["charge", "credit", "pay", "account", "bounce", "reapply", "reverse"]),
        st.integers(1, 900),
    ),
    max_size=20,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTS)
def test_money_is_neither_made_nor_lost(default_file: FileOf, acts: list[tuple[str, int]]) -> None:
    sfs = PeopleSoftModel(LAYOUTS / "default.toml", Clock(NOW))
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1"), ("000123456", 700, "ALMA2")]))
    billed, received = 1700, 0
    for name, cents in acts:
        reference = f"ALMA{cents % 2 + 1}"
        held = [payment for payment in sfs.payments.values() if payment.amount_cents >= cents]
        match name:
            case "charge" | "credit":
                sign = 1 if name == "charge" else -1
                line = [("000123456", cents, reference)]
                assert sfs.load("b.dat", default_file(line, reversal=sign < 0)).loaded
                billed += sign * cents
            case "pay" | "account":
                sfs.pay(reference if name == "pay" else "000123456", cents)
                received += cents
            case "bounce" if held:
                sfs.bounce(held[0].payment_id, cents)
                received -= cents
            case "reapply":
                sfs.reapply("000123456")
            case "reverse":
                last = sfs.postings[-1]
                group = [
                    each for each in sfs.postings if each.group_id == last.group_id and not each.reversed
                ]
                billed -= sum(each.cents for each in group)
                sfs.reverse_group(last.group_id)
        books = sfs.books()
        assert books.by_emplid == {"000123456": billed - received}
        assert all(payment.unapplied_cents >= 0 for payment in sfs.payments.values())
        for item in sfs.items.values():
            parts = [part for payment in sfs.payments.values() for part in payment.applications]
            applied = sum(part.cents for part in parts if part.item_nbr == item.item_nbr)
            assert item.applied_cents == applied >= 0


def test_query_output_as_csv(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    (payment,) = sfs.pay("ALMA1", 1000)
    assert (
        sfs.query_output()
        == (
            "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount,Item Type\r\n"
            f"000123456,{payment.payment_id},11/22/2026,ALMA1,10.00,300000000001\r\n"
        ).encode()
    )


def test_query_output_that_is_not_cumulative_shows_a_payment_once(
    sfs: PeopleSoftModel, default_file: FileOf
) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    sfs.pay("ALMA1", 300)
    assert len(_rows(sfs.query_output(cumulative=False))) == 1
    sfs.pay("ALMA1", 300)
    assert len(_rows(sfs.query_output(cumulative=False))) == 1
    assert len(_rows(sfs.query_output())) == 2


def test_query_output_since_a_day(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 2000, "ALMA1")]))
    sfs.pay("ALMA1", 700)
    sfs.clock.advance(days=1)
    sfs.pay("ALMA1", 300)
    shown = sfs.query_output(since=sfs.clock.now().date()).decode()
    assert ("3.00" in shown, "7.00" in shown) == (True, False)
    assert "7.00" in sfs.query_output().decode()


def test_query_output_as_xml_and_as_html(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    sfs.pay("ALMA1", 1000)
    root = ET.fromstring(sfs.query_output("xml"))
    assert root.get("numrows") == "1"
    assert root.findtext("row/PAYMENT_AMT") == "10.00"
    assert root.findtext("row/EMPLID") == "000123456"
    table = ET.fromstring(sfs.query_output("xls-html")).findall(".//tr")
    assert [cell.text for cell in table[0]] == ["ALMA_LIBRARY_PAYMENTS", "1"]
    assert [cell.text for cell in table[2]][3] == "ALMA1"


def test_query_output_of_the_web_service_and_of_a_spreadsheet(
    sfs: PeopleSoftModel, default_file: FileOf
) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    assert ET.fromstring(sfs.query_output("xml")).attrib["numrows"] == "0"
    sfs.pay("ALMA1", 1000)
    assert sfs.query_output("txt") == sfs.query_output()
    envelope = ET.fromstring(sfs.query_output("xml-service"))
    assert envelope.findtext(f".//{{{SERVICE}}}row/{{{SERVICE}}}REF1_DESCR") == "ALMA1"
    first, *rest = sfs.query_output("xls-html-as-csv").splitlines(keepends=True)
    assert first == b"ALMA_LIBRARY_PAYMENTS,1,,,,\r\n"
    assert b"".join(rest) == sfs.query_output()


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ("1234.56", ["1234.56", "-1234.56", "-0.05"]),
        ("(1,234.56)", ["1,234.56", "(1,234.56)", "(0.05)"]),
        ("1.234,56-", ["1.234,56", "1.234,56-", "0,05-"]),
    ],
)
def test_days_and_amounts_as_a_user_s_region_has_them(
    numbers: str, written: list[str], sfs: PeopleSoftModel, default_file: FileOf
) -> None:
    sfs.region = Region("%d.%m.%Y", numbers)
    assert [sfs.region.amount(cents) for cents in (123456, -123456, -5)] == written
    sfs.load("a.dat", default_file([("000123456", 123456, "ALMA1")]))
    sfs.pay("ALMA1", 123456)
    (row,) = _rows(sfs.query_output())
    assert (row["Paid Amount"], row["Date Paid"]) == (written[0], f"{sfs.clock.now():%d.%m.%Y}")


def test_applied_output_is_one_row_an_item(sfs: PeopleSoftModel, default_file: FileOf) -> None:
    sfs.load("a.dat", default_file([("000123456", 1000, "ALMA1")]))
    sfs.pay("ALMA1", 400)
    (row,) = _rows(sfs.applied_output())
    assert (row["Item Amt"], row["Applied Amt"], row["Item Balance"]) == ("10.00", "4.00", "6.00")
    assert (row["Business Unit"], row["Reference Nbr"]) == ("CAMPS", "ALMA1")


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))
