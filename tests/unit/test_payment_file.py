"""Payment files as PeopleSoft's query might leave them: each line is taken or refused, or the file is."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alma_hook import campus, payment_file
from alma_hook.campus import Campus
from alma_hook.errors import BadFile, SettingsError

SETTINGS = """
institution = "01CAMPUS_INST"
[alma_to_sis]
method = "all_users"
[sfs]
business_unit = "CAMPS"
origin_id = "LIB01"
directory = "/sfs/inbound"
[item_types]
OVERDUEFINE = "300000000001"
[sis_to_alma]
directory = "/sfs/outbound"
[sis_to_alma.columns]
payment_id = "Payment ID"
emplid = "Emplid"
reference = "Reference Number"
amount = "Paid Amount"
paid_on = "Date Paid"
"""
HEAD = "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount"
# Digits to Unicode, but not to PeopleSoft.
WIDE = "\N{FULLWIDTH DIGIT ONE}"
ROW = "000123456,000000000017,11/22/2026,ALMA123456789012345678,12.50"
NAME = "LIBRARY_PAYMENTS.csv"

Make = Callable[[str], Campus]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def of(text: str) -> Campus:
        path = tmp_path_factory.mktemp("settings") / "campus.toml"
        path.write_text(text)
        return campus.load(path)

    return of


@pytest.fixture(scope="module")
def with_ids(make: Make) -> Campus:
    return make(SETTINGS)


@pytest.fixture(scope="module")
def without_ids(make: Make) -> Campus:
    whole_days = SETTINGS.replace("[sis_to_alma]\n", "[sis_to_alma]\ncomplete_days = true\n")
    return make(whole_days.replace('payment_id = "Payment ID"\n', ""))


def lines(*rows: str, head: str = HEAD, end: str = "\n") -> bytes:
    return "".join(row + end for row in (head, *rows)).encode()


def row(
    emplid: str = "000123456",
    payment_id: str = "000000000017",
    day: str = "11/22/2026",
    reference: str = "ALMA123456789012345678",
    amount: str = "12.50",
) -> str:
    return ",".join((emplid, payment_id, day, reference, amount))


def refused(content: bytes, settings: Campus) -> tuple[int, str, str]:
    """The one refused line of a file: its number, the column's heading and the reason."""
    file = payment_file.read(NAME, content, settings)
    (line,) = file.refused
    assert not file.payments
    return line.line_no, line.field, line.text


def faults(content: bytes, settings: Campus) -> list[tuple[int, str, str]]:
    """The faults of a file that is refused as a whole: line, field, reason."""
    with pytest.raises(BadFile) as caught:
        payment_file.read(NAME, content, settings)
    assert {fault.where for fault in caught.value.faults} == {NAME}
    assert all(str(fault) in str(caught.value) for fault in caught.value.faults)
    return [(fault.line, fault.field, fault.text) for fault in caught.value.faults]


# -- whatever comes -----------------------------------------------------------------------------------


def check_whole(content: bytes, settings: Campus, rows: int | None = None) -> None:
    try:
        file = payment_file.read(NAME, content, settings)
    except BadFile as error:
        named = error.faults
    else:
        named = ()
        check_lines(file, settings, rows)
    assert all(fault.where == NAME and fault.text and fault.line >= 0 for fault in named)


def check_lines(file: payment_file.PaymentFile, settings: Campus, rows: int | None) -> None:
    assert file.lines == len(file.payments) + len(file.refused)
    if rows is not None:
        assert file.lines == rows
    assert all(payment.amount > 0 for payment in file.payments)
    keys = [payment.payment_key for payment in file.payments]
    assert "Payment ID" in settings.sis_to_alma.columns.values() or len(set(keys)) == len(keys)
    assert all(line.text and line.line_no > 1 for line in file.refused)


@given(content=st.binary(max_size=300))
@example(content=b"\xef\xbb\xbf\n")
@example(content=b",\n")
@example(content=b"\xa0\r\n")
@example(content=b"\x0b\n")
@example(content=b'"')
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes, with_ids: Campus) -> None:
    check_whole(content, with_ids)


@given(text=st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_text_under_the_heading_is_read_or_refused(text: str, without_ids: Campus) -> None:
    check_whole(f"{HEAD}\n{text}\n".encode(), without_ids)


cell = st.text(st.characters(exclude_characters=',"\r\n', exclude_categories=("Cs",)), max_size=12)
near = st.one_of(
    cell,
    st.sampled_from(["", "12.50", "-1", "0", "0.00", "1.005", "1,5", "1e3", "007.20", "99999999999"]),
    st.sampled_from(["11/22/2026", "2026-11-22", "13/01/2026", "02/29/2027", "02/29/2028"]),
    st.sampled_from(["ALMA1", "ALMA123456789012345678", "alma1", "ALMA", f"ALMA{WIDE}"]),
)


@given(rows=st.lists(st.tuples(near, near, near, near, near), max_size=6), keyed=st.booleans())
@settings(max_examples=200, deadline=None)
def test_each_row_is_taken_or_refused(
    rows: list[tuple[str, ...]], keyed: bool, with_ids: Campus, without_ids: Campus
) -> None:
    marked = [("0" + first, *rest) for first, *rest in rows]  # no row may be blank: those carry nothing
    quoted = [
        ",".join('"' + value.replace('"', '""') + '"' if "," in value else value for value in r)
        for r in marked
    ]
    check_whole(lines(*quoted), with_ids if keyed else without_ids, rows=len(rows))


# -- the shape of a file ------------------------------------------------------------------------------


def test_a_line_as_it_should_be(with_ids: Campus) -> None:
    (payment,) = payment_file.read(NAME, lines(ROW), with_ids).payments

    assert payment.payment_key == "id:17:123456789012345678"
    assert (payment.fee_id, payment.emplid) == ("123456789012345678", "000123456")
    assert (payment.amount, payment.paid_on, payment.line_no) == (1250, "2026-11-22", 2)
    assert re.fullmatch(r"SFS[0-9A-Z]{13}", payment.external_id)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"  \r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", b",,,,\n"]
)
def test_an_empty_file_is_refused(content: bytes, with_ids: Campus) -> None:
    ((line, _, text),) = faults(content, with_ids)
    assert (line, "empty" in text) == (0, True)


def test_a_heading_alone_is_a_file_without_payments(with_ids: Campus) -> None:
    assert payment_file.read(NAME, lines(), with_ids) == payment_file.PaymentFile((), ())


@pytest.mark.parametrize("cut", [1, 4, 30])
def test_a_file_cut_short_is_refused_with_the_line(cut: int, with_ids: Campus) -> None:
    ((line, _, text),) = faults(lines(ROW, row(payment_id="18"))[:-cut], with_ids)
    assert (line, "cut short" in text) == (3, True)


def test_a_broken_last_line_is_refused_with_its_number(with_ids: Campus) -> None:
    ((line, _, text),) = faults(lines(ROW, "000123457,0000000"), with_ids)
    assert (line, "2 fields" in text) == (3, True)


def test_a_quote_that_never_closes_is_refused(with_ids: Campus) -> None:
    ((line, _, text),) = faults(lines(ROW, row(emplid='"000123457')), with_ids)
    assert (line >= 3, "CSV" in text) == (True, True)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark_change_nothing(end: str, mark: bytes, with_ids: Campus) -> None:
    rows = (ROW, row(payment_id="000000000018"))
    found = payment_file.read(NAME, mark + lines(*rows, end=end), with_ids)
    assert found == payment_file.read(NAME, lines(*rows), with_ids)
    assert [payment.line_no for payment in found.payments] == [2, 3]


def test_a_windows_code_page_is_read(with_ids: Campus) -> None:
    content = f"{HEAD},Name\n{ROW},Straße\n".encode("cp1252")
    assert len(payment_file.read(NAME, content, with_ids).payments) == 1


def test_bytes_that_are_no_text_are_refused(with_ids: Campus) -> None:
    ((_, _, text),) = faults(lines(ROW) + b"\x81\xff\n", with_ids)
    assert "UTF-8" in text


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-32"])
def test_wide_encodings_are_refused(encoding: str, with_ids: Campus) -> None:
    ((_, _, text),) = faults(lines(ROW).decode().encode(encoding), with_ids)
    assert "UTF-16 with its mark" in text


def test_columns_of_no_concern_and_another_order_do_not_matter(with_ids: Campus) -> None:
    content = (
        b"Item Type,Paid Amount,Emplid,Career,Reference Number,Date Paid,Payment ID\n"
        b"300000000001,12.50,000123456,UGRD,ALMA123456789012345678,11/22/2026,000000000017\n"
    )
    assert payment_file.read(NAME, content, with_ids) == payment_file.read(NAME, lines(ROW), with_ids)


def test_a_missing_column_is_refused(with_ids: Campus) -> None:
    head = HEAD.replace("Paid Amount", "Amount")
    ((line, field, text),) = faults(lines(ROW, head=head), with_ids)
    assert (line, field, "no such heading" in text) == (1, "Paid Amount", True)


def test_a_doubled_heading_is_refused(with_ids: Campus) -> None:
    ((line, field, text),) = faults(lines(ROW + ",1.00", head=HEAD + ",Paid Amount"), with_ids)
    assert (line, field, "twice" in text) == (1, "Paid Amount", True)


def test_a_doubled_heading_of_no_concern_does_not_matter(with_ids: Campus) -> None:
    content = lines(ROW + ",a,b", head=HEAD + ",Note,Note")
    assert len(payment_file.read(NAME, content, with_ids).payments) == 1


def test_blank_lines_carry_nothing(with_ids: Campus) -> None:
    file = payment_file.read(NAME, lines(ROW, "", " , , , , ", row(payment_id="18")), with_ids)
    assert [(p.line_no, p.amount) for p in file.payments] == [(2, 1250), (5, 1250)]


def test_every_fault_of_structure_is_named_at_once(with_ids: Campus) -> None:
    head = HEAD.replace("Emplid", "Student").replace("Date Paid", "Paid Amount")
    found = faults(lines(ROW, "short,line", ROW, ROW + ",more", head=head), with_ids)
    assert [(line, field) for line, field, _ in found] == [
        (1, "Emplid"), (1, "Paid Amount"), (1, "Date Paid"), (3, ""), (5, ""),
    ]  # fmt: skip


def test_no_refusal_quotes_what_a_line_holds(with_ids: Campus) -> None:
    bad = row(emplid="098765432", reference="098765432", amount="0987.65.432", day="098765432")
    file = payment_file.read(NAME, lines(bad, row(emplid="098765432", reference="098765432")), with_ids)
    assert len(file.refused) == 2
    assert "098765432" not in str(file.refused)
    with pytest.raises(BadFile) as caught:
        payment_file.read(NAME, lines("098765432,"), with_ids)
    assert "098765432" not in str(caught.value)


# -- the meaning of a line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        ("-12.50", "negative"),
        ("-0.01", "negative"),
        ("0", "nought"),
        ("0.00", "nought"),
        ("-0.00", "nought"),
        ("12.505", "two decimals"),
        ('"1,250.00"', "plain amount"),
        ("1 250.00", "plain amount"),
        ('"12,50"', "plain amount"),
        ("$12.50", "plain amount"),
        ("(12.50)", "plain amount"),
        ("1E3", "plain amount"),
        ("NaN", "plain amount"),
        ("", "plain amount"),
        ("12.50 CR", "plain amount"),
        ("99999999999.00", "plain amount"),
    ],
)
def test_an_amount_that_is_none(amount: str, reason: str, with_ids: Campus) -> None:
    line, field, text = refused(lines(row(amount=amount)), with_ids)
    assert (line, field) == (2, "Paid Amount")
    assert reason in text


@pytest.mark.parametrize(
    ("amount", "cents"),
    [
        ("12.5", 1250),
        ("12", 1200),
        ("012.50", 1250),
        (" 12.50 ", 1250),
        ("12.500", 1250),
        ("0.01", 1),
        ("+3", 300),
    ],
)
def test_amounts_to_the_cent(amount: str, cents: int, with_ids: Campus) -> None:
    (payment,) = payment_file.read(NAME, lines(row(amount=amount)), with_ids).payments
    assert payment.amount == cents


@pytest.mark.parametrize(
    "reference",
    ["", "ALMA", "LATEFEE", "alma123", "ALMA12A", "XALMA12", "ALMA-12", "ALMA 12", f"ALMA{WIDE}", "12"],
)
def test_a_reference_that_is_not_ours(reference: str, with_ids: Campus) -> None:
    line, field, text = refused(lines(row(reference=reference)), with_ids)
    assert (line, field) == (2, "Reference Number")
    assert "not a reference of ours" in text


@pytest.mark.parametrize(
    "day", ["", "2026-11-22", "22/11/2026", "11/31/2026", "11/22/26", "today", "11/22/2026 10:00"]
)
def test_a_date_that_is_none(day: str, with_ids: Campus) -> None:
    line, field, text = refused(lines(row(day=day)), with_ids)
    assert (line, field, "not a date as %m/%d/%Y" in text) == (2, "Date Paid", True)


@pytest.mark.parametrize(("column", "heading"), [("emplid", "Emplid"), ("payment_id", "Payment ID")])
def test_an_empty_id(column: str, heading: str, with_ids: Campus) -> None:
    line, field, text = refused(lines(row(**{column: " "})), with_ids)
    assert (line, field, text) == (2, heading, "is empty")


def test_leading_noughts_belong_to_an_emplid_and_not_to_a_payment_id(with_ids: Campus) -> None:
    """PAYMENT_ID_NBR is a number in PeopleSoft: an export may lose its noughts, and it is the same payment."""
    content = lines(row(emplid="000000001", payment_id="000000000001"))
    (first,) = payment_file.read(NAME, content, with_ids).payments
    (second,) = payment_file.read(NAME, lines(row(emplid="1", payment_id="1")), with_ids).payments
    assert (first.emplid, second.emplid) == ("000000001", "1")
    assert first.payment_key == second.payment_key


def test_a_line_without_id_is_known_by_its_meaning(make: Make, without_ids: Campus) -> None:
    """However the amount or the day is written, it is the same payment."""
    other = without_ids.model_copy(
        update={"sis_to_alma": without_ids.sis_to_alma.model_copy(update={"date_format": "%Y-%m-%d"})}
    )
    (first,) = payment_file.read(NAME, lines(row(amount="3.00")), without_ids).payments
    (again,) = payment_file.read(NAME, lines(row(amount="3", day="2026-11-22")), other).payments
    assert first.payment_key == again.payment_key


@pytest.mark.parametrize(
    "fee", ["123456789012345678", "999999999999999999", "100000000000000001", "9007199254740993"]
)
def test_long_fee_ids_are_exact(fee: str, with_ids: Campus) -> None:
    (payment,) = payment_file.read(NAME, lines(row(reference=f"ALMA{fee}")), with_ids).payments
    assert payment.fee_id == fee


def test_one_payment_on_two_items_is_two(with_ids: Campus) -> None:
    content = lines(row(reference="ALMA1"), row(reference="ALMA2"))
    first, second = payment_file.read(NAME, content, with_ids).payments
    assert first.payment_key != second.payment_key
    assert first.external_id != second.external_id


def test_good_lines_are_taken_beside_refused_ones_of_every_kind(with_ids: Campus) -> None:
    content = lines(
        ROW,
        row(payment_id="2", amount="-1.00"),
        row(payment_id="3", day="tomorrow"),
        row(payment_id="4", reference="PARKING"),
        row(payment_id="5", emplid=""),
        row(payment_id=""),
        row(payment_id="7", amount="1.005", day="x", reference="x", emplid=""),
        row(payment_id="8"),
    )
    file = payment_file.read(NAME, content, with_ids)
    assert [payment.line_no for payment in file.payments] == [2, 9]
    assert [(line.line_no, line.field) for line in file.refused] == [
        (3, "Paid Amount"), (4, "Date Paid"), (5, "Reference Number"), (6, "Emplid"), (7, "Payment ID"), (8, "Paid Amount"),
    ]  # fmt: skip
    assert len({line.digest for line in file.refused}) == 6


# -- lines without a payment id -----------------------------------------------------------------------


def test_equal_lines_without_ids_are_counted(without_ids: Campus) -> None:
    file = payment_file.read(NAME, lines(ROW, ROW, row(amount="3.00"), ROW), without_ids)
    keys = [payment.payment_key for payment in file.payments]
    assert len(set(keys)) == 4
    assert [key.rpartition(":")[2] for key in keys] == ["1", "2", "1", "3"]


def test_a_line_is_known_again_in_a_later_cumulative_file(without_ids: Campus) -> None:
    before = payment_file.read(NAME, lines(ROW, ROW), without_ids).payments
    later = lines(row(amount="3.00"), ROW, row(emplid="000123999"), ROW, ROW, end="\r\n")
    after = payment_file.read("LATER.csv", later, without_ids).payments
    keys = {payment.payment_key for payment in after}
    assert {payment.payment_key for payment in before} < keys
    assert len(keys) == 5


def test_columns_of_no_concern_do_not_make_another_payment(without_ids: Campus) -> None:
    (before,) = payment_file.read(NAME, lines(ROW), without_ids).payments
    (after,) = payment_file.read(NAME, lines(ROW + ",new note", head=HEAD + ",Note"), without_ids).payments
    assert before.payment_key == after.payment_key


def test_a_refused_line_is_known_again_wherever_it_stands(with_ids: Campus) -> None:
    bad = row(amount="-1.00")
    (first,) = payment_file.read(NAME, lines(bad), with_ids).refused
    (again,) = payment_file.read(NAME, lines(ROW, ROW, bad), with_ids).refused
    assert (first.digest, first.line_no, again.line_no) == (again.digest, 2, 4)


def test_keys_differ_between_institutions(with_ids: Campus, make: Make) -> None:
    elsewhere = make(SETTINGS.replace("01CAMPUS_INST", "01ELSEWHERE_INST"))
    (here,) = payment_file.read(NAME, lines(ROW), with_ids).payments
    (there,) = payment_file.read(NAME, lines(ROW), elsewhere).payments
    assert here.payment_key == there.payment_key
    assert here.external_id != there.external_id


@pytest.mark.parametrize(
    ("delimiter", "format_", "day"), [(";", "%d.%m.%Y", "22.11.2026"), ("\t", "%Y-%m-%d", "2026-11-22")]
)
def test_another_delimiter_and_date_format(delimiter: str, format_: str, day: str, make: Make) -> None:
    text = SETTINGS.replace(
        "[sis_to_alma.columns]",
        f'delimiter = {delimiter!r}\ndate_format = "{format_}"\n[sis_to_alma.columns]',
    ).replace(repr("\t"), '"\\t"')
    content = lines(row(day=day)).replace(b",", delimiter.encode())
    (payment,) = payment_file.read(NAME, content, make(text)).payments
    assert (payment.paid_on, payment.amount) == ("2026-11-22", 1250)


# -- lines that are no payments -------------------------------------------------------------------------

KINDS = SETTINGS + 'kind = "Item Type"\n[sis_to_alma.kinds]\nP = "payment"\nC = "ignore"\nW = "list"\n'


def of_kinds(make: Make, *kinds: str) -> payment_file.PaymentFile:
    rows = [ROW.replace("000000000017", f"{n:012d}") + f",{kind}" for n, kind in enumerate(kinds, 17)]
    return payment_file.read(NAME, "\n".join([f"{HEAD},Item Type", *rows, ""]).encode(), make(KINDS))


def test_what_is_no_payment_is_left_out_or_listed_as_the_settings_say(make: Make) -> None:
    file = of_kinds(make, "P", "C", "W", "", "p", "P")
    assert [payment.line_no for payment in file.payments] == [2, 7]
    assert [(line.line_no, line.field) for line in file.refused] == [(n, "Item Type") for n in (4, 5, 6)]
    assert "no payment" in file.refused[0].text
    assert "not in sis_to_alma.kinds" in file.refused[1].text
    assert file.lines == 5


def test_a_line_that_is_surely_no_payment_hides_none_and_one_of_unknown_kind_may(make: Make) -> None:
    assert of_kinds(make, "P", "W", "C").unclear == frozenset()
    unknown = of_kinds(make, "P", "?")
    assert (len(unknown.unclear), unknown.blind) == (1, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SETTINGS + 'kind = "Item Type"\n', "say here of each of its values"),
        (SETTINGS + 'kind = "Item Type"\n[sis_to_alma.kinds]\nW = "list"\n', 'which is "payment"'),
        (SETTINGS + '[sis_to_alma.kinds]\nP = "payment"\n', "needs columns.kind"),
        (KINDS.replace('"list"', '"waiver"'), "sis_to_alma.kinds"),
        (
            KINDS.replace('"list"', '"reversal"')
            .replace('payment_id = "Payment ID"\n', "")
            .replace("[sis_to_alma.columns]", "complete_days = true\n[sis_to_alma.columns]"),
            "names by columns.payment_id",
        ),
    ],
)
def test_kinds_that_can_not_be_meant_are_faults(make: Make, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make(text)
