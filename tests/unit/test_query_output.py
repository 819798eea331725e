"""PeopleSoft's output in each of its forms: whatever comes, a row is taken or refused, or the file is, with a reason.

The files are written by the simulator, which shares no code with what reads them.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alma_hook import applied_file, campus, item_file, payment_file, query_forms
from alma_hook.campus import Campus
from alma_hook.errors import BadFile, SettingsError
from alma_hook.query_output import RefusedLine
from simulator.query_output import APPLIED_HEADINGS, PAYMENT_HEADINGS, Format, Table, render

FORMS: tuple[Format, ...] = get_args(Format)
SPREADSHEET: tuple[Format, ...] = ("xls-html", "xls-html-as-csv")
COUNTED: tuple[Format, ...] = ("xml", "xml-service", *SPREADSHEET)
XML: tuple[Format, ...] = ("xml", "xml-service")
SHAPES = ("payments", "payments without ids", "applied", "items")
NAME = "LIBRARY.out"
SECRET = "098765432"

SETTINGS = """
institution = "01CAMPUS_INST"
[alma_to_sis]
method = "all_users"
[sfs]
origin_id = "LIB01"
directory = "/sfs/inbound"
[item_types]
OVERDUEFINE = "300000000001"
[sis_to_alma]
directory = "/sfs/outbound"
pattern = "PAYMENTS_*"
"""
#: Shape -> what else stands in the settings, with the headings or the fields in their places.
MORE = {
    "payments": """[sis_to_alma.columns]
payment_id = "{Payment ID}"
emplid = "{Emplid}"
reference = "{Reference Number}"
amount = "{Paid Amount}"
paid_on = "{Date Paid}"
""",
    "applied": """shape = "applied"
cumulative = true
[sis_to_alma.columns]
emplid = "{Emplid}"
reference = "{Reference Nbr}"
applied = "{Applied Amt}"
item = "{Item Nbr}"
""",
}
MORE["payments without ids"] = "complete_days = true\n" + MORE["payments"].replace(
    'payment_id = "{Payment ID}"\n', ""
)
MORE["items"] = (
    MORE["payments"]
    + """[sis_to_alma.items]
pattern = "ITEMS_*"
[sis_to_alma.items.columns]
emplid = "{Emplid}"
reference = "{Reference Nbr}"
amount = "{Item Amt}"
balance = "{Item Balance}"
"""
)
HEADINGS = {**PAYMENT_HEADINGS, **APPLIED_HEADINGS}


@dataclass(frozen=True)
class Read:
    """What a file came to: what was taken, without the rows' numbers, the refused lines, and how many rows it has."""

    taken: tuple[object, ...]
    refused: tuple[RefusedLine, ...]
    lines: int
    numbers: tuple[int, ...] = ()
    unclear: frozenset[str] = frozenset()


Reader = Callable[[str, bytes, bool], Read]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Campus]:
    def of(text: str) -> Campus:
        path = tmp_path_factory.mktemp("settings") / "campus.toml"
        path.write_text(text)
        return campus.load(path)

    return of


@pytest.fixture(scope="module")
def read(load: Callable[[str], Campus]) -> Reader:
    """``read(shape, content, by_field)``: read a file of a shape, columns named by PeopleSoft's fields or by headings."""
    known = {
        (shape, by_field): load(_settings(shape, by_field)) for shape in SHAPES for by_field in (False, True)
    }

    def of(shape: str, content: bytes, by_field: bool = False) -> Read:
        return _read(shape, content, known[shape, by_field])

    return of


def _settings(shape: str, by_field: bool, more: str = "") -> str:
    text = SETTINGS + more + MORE[shape]
    for heading, field in HEADINGS.items():
        text = text.replace(f"{{{heading}}}", field if by_field else heading)
    return text


def _read(shape: str, content: bytes, of: Campus) -> Read:
    if shape == "applied":
        levels = applied_file.read(NAME, content, of)
        taken = tuple(replace(item, line_no=0) for item in levels.items)
        return Read(taken, levels.refused, levels.lines, unclear=levels.unclear)
    if shape == "items":
        assert of.sis_to_alma.items is not None
        items = item_file.read(NAME, content, of, of.sis_to_alma.items)
        return Read(items.items, items.refused, items.lines)
    file = payment_file.read(NAME, content, of)
    assert file.lines == len(file.payments) + len(file.refused)
    numbers = tuple(payment.line_no for payment in file.payments)
    return Read(
        tuple(replace(payment, line_no=0) for payment in file.payments), file.refused, file.lines, numbers
    )


def table(shape: str, *rows: tuple[str, ...]) -> Table:
    return Table(APPLIED_HEADINGS if shape in ("applied", "items") else PAYMENT_HEADINGS, list(rows))


def good(shape: str, place: int, cents: str = "12.50") -> tuple[str, ...]:
    """A row as it should be, of another fee for each place."""
    if shape in ("applied", "items"):
        return (
            "CAMPS",
            SECRET,
            f"{place:015d}",
            "300000000001",
            "2267",
            f"ALMA{place}",
            cents,
            cents,
            "0.00",
        )
    return (SECRET, f"{place:012d}", "11/22/2026", f"ALMA{place}", cents, "300000000001")


def file(shape: str, form: Format, rows: int = 3) -> bytes:
    return render(table(shape, *(good(shape, n) for n in range(1, rows + 1))), form, "LIBRARY_QUERY")


def faults(read: Reader, shape: str, content: bytes, by_field: bool = False) -> list[tuple[int, str, str]]:
    """The faults of a file that is refused as a whole: line, field, reason."""
    with pytest.raises(BadFile) as caught:
        read(shape, content, by_field)
    assert SECRET not in str(caught.value)
    return [(fault.line, fault.field, fault.text) for fault in caught.value.faults]


# -- each form ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(form: Format, shape: str, read: Reader) -> None:
    rows = [good(shape, 1), good(shape, 2, "x"), good(shape, 3)]
    by_csv = read(shape, render(table(shape, *rows), "csv", "Q"), False)
    found = read(shape, render(table(shape, *rows), form, "Q"), form in XML)

    assert (found.taken, found.lines) == (by_csv.taken, 3)
    assert [(line.text, line.digest) for line in found.refused] == [
        (line.text, line.digest) for line in by_csv.refused
    ]
    assert len(found.refused) == 1
    first = {"xml": 1, "xml-service": 1, "xls-html": 3, "xls-html-as-csv": 3}.get(form, 2)
    assert found.refused[0].line_no == first + 1
    assert found.numbers in ((), (first, first + 2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_a_query_without_rows_is_a_complete_file(form: Format, shape: str, read: Reader) -> None:
    assert read(shape, file(shape, form, rows=0), form in XML) == Read((), (), 0)


@pytest.mark.parametrize("form", COUNTED)
@pytest.mark.parametrize("number", ["2", "4", "30"])
def test_the_number_of_rows_must_be_the_file_s_own(form: Format, number: str, read: Reader) -> None:
    content = file("payments", form)
    changed = (
        content.replace(b'numrows="3"', b'numrows="%b"' % number.encode())
        .replace(b"<td>3</td>", b"<td>%b</td>" % number.encode())
        .replace(b"QUERY,3", b"QUERY,%b" % number.encode())
    )
    assert changed != content

    ((line, _, text),) = faults(read, "payments", changed, form in XML)
    assert (line, text.startswith(f"says that it has {number} rows and has 3")) == (0, True)


@pytest.mark.parametrize("form", ["xml", "xml-service", "xls-html"])
def test_wherever_it_is_cut_it_is_refused_or_whole(form: Format, read: Reader) -> None:
    content = file("payments", form)
    whole = read("payments", content, form in XML)
    kept = 0
    for length in range(len(content)):
        try:
            assert read("payments", content[:length], form in XML) == whole
            kept += 1
        except BadFile as error:
            assert all(fault.text for fault in error.faults)
    # Only what stands behind the table may be lacking.
    assert kept <= len("\n</body></html>\n")


@pytest.mark.parametrize("form", ["csv", "xls-html-as-csv"])
def test_wherever_a_csv_is_cut_it_is_refused_or_ends_with_a_line(form: Format, read: Reader) -> None:
    content = file("payments", form)
    for length in range(len(content)):
        try:
            found = read("payments", content[:length], False)
        except BadFile:
            continue
        assert content[length - 1 : length] in (b"\r", b"\n")
        assert found.lines == content[:length].count(b"ALMA")
        assert form == "csv" or found.lines == 3


@pytest.mark.parametrize("form", FORMS)
def test_columns_named_in_another_way_are_missing(form: Format, read: Reader) -> None:
    found = faults(read, "payments", file("payments", form), form not in XML)

    assert len(found) == 5
    assert all("no such heading" in text or "no row has such a field" in text for _, _, text in found)


@pytest.mark.parametrize("form", FORMS)
def test_a_byte_order_mark_changes_nothing(form: Format, read: Reader) -> None:
    content = file("payments", form)
    assert read("payments", codecs.BOM_UTF8 + content, form in XML) == read("payments", content, form in XML)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize("form", FORMS)
def test_utf_16_with_its_mark_says_the_same_and_is_refused_where_it_is_cut(
    form: Format, mark: bytes, read: Reader
) -> None:
    content = file("payments", form)
    whole = read("payments", content, form in XML)
    text = content.decode().replace("UTF-8", "UTF-16").replace("utf-8", "utf-16")
    wide = mark + text.encode("utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be")
    assert read("payments", wide, form in XML) == whole
    for length in range(len(wide) - 200, len(wide)):
        try:
            found = read("payments", wide[:length], form in XML)
        except BadFile:
            continue
        # As in one byte a character: a whole line of CSV, or what stands behind the table.
        assert length % 2 == 0
        assert found == whole or (
            form in ("csv", "txt") and wide[:length].decode("utf-16")[-1:] in ("\r", "\n")
        )


def test_rows_are_seen_in_utf_16_too() -> None:
    content = file("payments", "csv").decode()
    assert query_forms.holds_rows(content.encode("utf-16"))
    assert not query_forms.holds_rows(content.partition("\n")[0].encode("utf-16"))


# -- HTML that is called Excel ----------------------------------------------------------------------------

ROW = f"<td>{SECRET}</td><td>1</td><td>11/22/2026</td><td>ALMA1</td><td>12.50</td>"
HEAD = "<td>Emplid</td><td>Payment ID</td><td>Date Paid</td><td>Reference Number</td><td>Paid Amount</td>"


def sheet(*rows: str, count: str = "<td>Q</td><td>1</td>", head: str = HEAD) -> bytes:
    lines = "\n".join(f"<tr>{row}</tr>" for row in (count, head, *rows))
    return f"<html><body><table>\n{lines}\n</table></body></html>".encode()


@pytest.mark.parametrize(
    "row",
    [
        ROW.replace("<td>", '<td class="x">').replace("</td>", "\n </td>"),
        ROW.replace("12.50", "<font color=red><b>12.50</b></font>"),
        ROW.replace("12.50", "&nbsp;12&#46;50&#xa0;"),
        ROW.replace("12.50", "12.50<br>"),
        ROW.replace("12.50", "12.50<!-- a note -->"),
        ROW.replace("<td>", "<th>").replace("</td>", "</th>"),
        ROW.replace("</td>", ""),
        ROW.upper(),
        ROW + "</tr><tr></tr><tr><td> </td><td>&nbsp;</td>",
    ],
)
def test_cells_however_they_are_dressed(row: str, read: Reader) -> None:
    assert read("payments", sheet(row), False).taken == read("payments", sheet(ROW), False).taken


def test_the_text_of_a_cell_is_unescaped_once(read: Reader) -> None:
    head = HEAD.replace("Date Paid", "Date\n  &#80;aid")
    found = read("payments", sheet(ROW.replace(SECRET, "A&amp;lt;1"), head=head), False)
    assert found.taken[0].emplid == "A&lt;1"  # type: ignore[attr-defined]


@pytest.mark.parametrize("inside", ["12<br>.50", "1<b>2.50</b>", "<p>12.50</p><p>3.00</p>", "12<!-- -->.50"])
def test_two_parts_of_a_cell_never_grow_together(inside: str, read: Reader) -> None:
    (line,) = read("payments", sheet(ROW.replace("12.50", inside)), False).refused
    assert (line.line_no, line.field) == (3, "Paid Amount")


def test_tables_one_below_the_other_are_one_sheet(read: Reader) -> None:
    content = sheet(ROW).replace(b"</tr>\n", b"</tr></table>\n<table>", 1)
    assert content != sheet(ROW)
    assert read("payments", content, False) == read("payments", sheet(ROW), False)


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (sheet(ROW, count=""), 0, "no first row"),
        (sheet(ROW, count="<td>Q</td><td>one</td>"), 0, "no first row"),
        (sheet(ROW, count="<td>Q</td><td>1</td><td>more</td>"), 0, "no first row"),
        (sheet(ROW, count="<td>Q</td><td>1,0</td>"), 0, "no first row"),
        (b"<html><body>Please sign in</body></html>", 0, "no first row"),
        (sheet(head=""), 0, "empty"),
        (sheet(ROW.replace("<td>1</td>", "<td>1<table></table></td>")), 3, "table inside a table"),
        (sheet(ROW.replace("<td>1</td>", '<td colspan="2">1</td>')), 3, "over several"),
        (sheet(ROW.replace("<td>1</td>", "<td rowspan=3>1</td>")), 3, "over several"),
        (sheet(ROW.replace("<td>1</td>", "1")), 3, "outside of the cells"),
        (sheet(ROW).replace(b"</table>", b""), 0, "not closed"),
        (sheet(ROW) + b"<tr><td>1</td></tr>", 3, "row outside of a table"),
        (sheet(ROW).replace(b"</body>", b"<table><td>1</td></table>"), 3, "cell outside of a row"),
        # Which fault it is depends on Python's version.
        (sheet(ROW).replace(b"<tr>", b"<![nonsense[<tr>"), 0, ""),
        (sheet(ROW + "<td>more</td>"), 3, "6 fields, the heading 5"),
    ],
)
def test_a_sheet_that_is_none(content: bytes, line: int, said: str, read: Reader) -> None:
    found = faults(read, "payments", content)
    assert any(said in text and number >= line for number, _, text in found), found


def test_the_query_s_name_may_stand_over_several_columns(read: Reader) -> None:
    count = '<td colspan="4">Q</td><td>1</td>'
    assert read("payments", sheet(ROW, count=count), False).lines == 1


@pytest.mark.parametrize("count", ["1,003", "1.003", "1003"])
def test_the_number_of_rows_may_have_a_mark_for_thousands(count: str, read: Reader) -> None:
    rows = [ROW.replace("ALMA1", f"ALMA{n}") for n in range(1003)]
    assert read("payments", sheet(*rows, count=f"<td>Q</td><td>{count}</td>"), False).lines == 1003


# -- XML --------------------------------------------------------------------------------------------------

FIELDS = (
    f"<EMPLID>{SECRET}</EMPLID><PAYMENT_ID_NBR>1</PAYMENT_ID_NBR><POSTED_DATE>11/22/2026</POSTED_DATE>"
    "<REF1_DESCR>ALMA1</REF1_DESCR><PAYMENT_AMT>12.50</PAYMENT_AMT>"
)


def xml(*rows: str, count: str = "1", head: str = "<?xml version='1.0'?>\n") -> bytes:
    inner = "".join(f'<row rownumber="{number}">{row}</row>\n' for number, row in enumerate(rows, start=1))
    return f'{head}<query numrows="{count}" queryname="Q">\n{inner}</query>\n'.encode()


@pytest.mark.parametrize(
    "content",
    [
        xml(FIELDS, head=""),
        xml(FIELDS, head="\r\n <?xml version='1.0' encoding='ISO-8859-1'?>"),
        xml(FIELDS.replace("12.50", " 12.50\n")),
        xml(FIELDS.replace("12.50", "12<!-- a note -->.50")),
        xml(FIELDS.replace("12.50", "<![CDATA[12.50]]>")),
        xml(FIELDS + "<DESCR>Stra&#223;e &amp; more</DESCR>"),
        xml(FIELDS).replace(b' rownumber="1"', b""),
        xml(FIELDS).replace(b"<query ", b"<q:query xmlns:q='urn:a' ").replace(b"</query", b"</q:query"),
    ],
)
def test_xml_however_it_is_dressed(content: bytes, read: Reader) -> None:
    assert read("payments", content, True) == read("payments", xml(FIELDS), True)


def test_a_field_that_a_row_lacks_is_empty(read: Reader) -> None:
    other = FIELDS.replace(f"<EMPLID>{SECRET}</EMPLID>", "").replace(">1<", ">2<")
    found = read("payments", xml(FIELDS, other, count="2"), True)
    assert [(line.line_no, line.field, line.text) for line in found.refused] == [(2, "EMPLID", "is empty")]


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (xml(FIELDS, FIELDS, count="2").replace(b'"2">', b'"3">'), 2, "not numbered in order"),
        (xml(FIELDS, count=""), 0, "numrows"),
        (xml(FIELDS).replace(b"numrows", b"rows"), 0, "numrows"),
        (xml(FIELDS, count="-1"), 0, "numrows"),
        (xml(FIELDS + "<EMPLID>1</EMPLID>"), 1, "twice in one row"),
        (xml(FIELDS.replace("12.50", "<b>12.50</b>")), 1, "elements inside a field"),
        (xml(FIELDS + "12.50"), 1, "text outside of the fields"),
        (xml("12.50" + FIELDS), 1, "text outside of the fields"),
        (xml(FIELDS).replace(b"</row>", b"</row>12.50"), 0, "text outside of the fields"),
        (xml(FIELDS).replace(b"</row>", b"</row><more/>"), 0, "else than rows"),
        (b"<a>" + xml(FIELDS, head="") * 2 + b"</a>", 0, "more than one <query>"),
        (xml(FIELDS) + b"more", 0, "not well-formed"),
        (b"<webRowSet><data><currentRow/></data></webRowSet>", 0, "without <query>"),
        (b"<", 0, "not well-formed"),
        (xml(FIELDS).replace(b"12.50", b"\xfc"), 0, "not well-formed"),
        (xml(FIELDS.replace("12.50", "&amount;")), 0, "not well-formed"),
    ],
)
def test_xml_that_query_does_not_write(content: bytes, line: int, said: str, read: Reader) -> None:
    found = faults(read, "payments", content, True)
    assert any(said in text and number == line for number, _, text in found), found


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE query [<!ENTITY a "12.50">]>',
        '<!DOCTYPE query [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE query SYSTEM "http://127.0.0.1:9/query.dtd">',
    ],
)
def test_no_entity_is_ever_resolved(declared: str, read: Reader) -> None:
    content = xml(FIELDS.replace("12.50", "&a;"), head=f"<?xml version='1.0'?>{declared}")
    ((_, _, text),) = faults(read, "payments", content, True)
    assert "document type" in text or "not well-formed" in text


# -- ids that a spreadsheet has spoilt --------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoilt", ["1.23457E+11", "1E+12", "1,23457E+11", "1.2e+9", "140708048.0", "140708048,00"]
)
def test_a_rounded_id_is_none(spoilt: str, read: Reader) -> None:
    first, second = (list(good("payments", 1)) for _ in range(2))
    first[1] = second[1] = spoilt
    found = read("payments", render(table("payments", tuple(first), tuple(second)), "csv", "Q"), False)

    assert found.taken == ()
    assert [(line.field, "spreadsheet" in line.text) for line in found.refused] == [("Payment ID", True)] * 2


def test_a_line_with_a_rounded_id_may_be_about_any_payment(load: Callable[[str], Campus]) -> None:
    row = list(good("payments", 1))
    row[1] = "1.23457E+11"
    content = render(table("payments", tuple(row)), "csv", "Q")
    found = payment_file.read(NAME, content, load(_settings("payments", False)))
    assert (found.blind, found.unclear) == (True, frozenset())


@pytest.mark.parametrize("kind", ["payments", "applied"])
def test_a_rounded_reference_may_be_any_fee_s(kind: str, load: Callable[[str], Campus]) -> None:
    of = load(_settings(kind, False).replace("origin_id", 'reference_prefix = ""\norigin_id'))
    row = tuple("1.38991E+17" if value == "ALMA1" else value for value in good(kind, 1))
    parser = applied_file.read if kind == "applied" else payment_file.read
    assert parser(NAME, render(table(kind, row), "csv", "Q"), of).blind


# -- amounts as a region writes them ----------------------------------------------------------------------


@pytest.mark.parametrize(("written", "cents"), [("1.234,50", 123450), ("1234,5", 123450), ("3", 300)])
@pytest.mark.parametrize("form", FORMS)
def test_another_number_format(
    form: Format, written: str, cents: int, load: Callable[[str], Campus], read: Reader
) -> None:
    of = load(_settings("payments", form in XML, 'number_format = "1.234,56"\n'))
    content = render(table("payments", good("payments", 1, written)), form, "Q")

    (payment,) = _read("payments", content, of).taken
    assert payment.amount == cents  # type: ignore[attr-defined]
    assert bool(read("payments", content, form in XML).refused) == ("," in written)


def test_only_a_comma_before_the_cents_makes_other_payments(load: Callable[[str], Campus]) -> None:
    """The ledger of a campus that keeps its settings, or needs marks for thousands only, stays as it is."""
    kept = load(_settings("payments without ids", False)).payment_identity
    assert kept.endswith("dates as %m/%d/%Y, references that begin with 'ALMA'")
    for number_format, same in (("(1,234.56)", True), ("1234.56-", True), ("1.234,56", False)):
        more = f'number_format = "{number_format}"\n'
        assert (load(_settings("payments without ids", False, more)).payment_identity == kept) == same
        assert load(_settings("payments", False, more)).payment_identity.startswith("column 'Payment ID'")


def test_a_number_format_of_one_s_own_is_refused(load: Callable[[str], Campus]) -> None:
    with pytest.raises(SettingsError, match=r"number_format: must be '1234\.56'"):
        load(_settings("payments", False, 'number_format = "1 234.56"\n'))


# -- whatever comes -----------------------------------------------------------------------------------------


def survives(read: Reader, content: bytes) -> None:
    """Every parser gives rows, or an error whose faults say where and why."""
    for shape in SHAPES:
        for by_field in (False, True):
            try:
                found = read(shape, content, by_field)
            except BadFile as error:
                assert error.faults
                assert all(fault.where == NAME and fault.text and fault.line >= 0 for fault in error.faults)
                assert SECRET not in str(error)
                continue
            assert len(found.refused) <= found.lines
            assert all(line.text and line.field and line.line_no > 0 for line in found.refused)
            assert SECRET not in str(found.refused)


@given(content=st.binary(max_size=300))
@example(content=b"<")
@example(content=b"<table")
@example(content=b"<table>\x00")
@example(content=b"<!DOCTYPE html")
@example(content=b"<html><![")
@example(content=b"<html><!doctype [<!")
@example(content=b"<?xml version='1.0' encoding='none'?><query/>")
@example(content=b"\xef\xbb\xbf")
@settings(max_examples=100)
def test_any_bytes(content: bytes, read: Reader) -> None:
    survives(read, content)


MARKS = (
    "<",
    "</",
    "<!",
    "<![",
    "]]>",
    "<?",
    ">",
    "&",
    ";",
    "&#",
    '"',
    "'",
    ",",
    "\t",
    "\n",
    "\r",
    "=",
    "-->",
)
TAGS = (
    "<table>",
    "</table>",
    "<tr>",
    "</tr>",
    "<td>",
    "<th colspan=2>",
    "<query numrows='1'>",
    "</query>",
    "<row>",
)
pieces = st.one_of(st.sampled_from((*MARKS, *TAGS, "Q", "1", "Emplid", "EMPLID")), st.text(max_size=8))


@given(
    start=st.sampled_from(["", "<html>", "<table>", "<query numrows='0'>"]),
    parts=st.lists(pieces, max_size=30),
)
@settings(max_examples=200)
def test_any_text(start: str, parts: list[str], read: Reader) -> None:
    survives(read, (start + "".join(parts)).encode("utf-8", "surrogatepass"))


@given(
    form=st.sampled_from(FORMS),
    shape=st.sampled_from(SHAPES),
    at=st.floats(0, 1, exclude_max=True),
    gone=st.integers(0, 40),
    put=st.one_of(st.binary(max_size=6), pieces.map(lambda text: text.encode("utf-8", "surrogatepass"))),
)
@settings(max_examples=300)
def test_any_damage(form: Format, shape: str, at: float, gone: int, put: bytes, read: Reader) -> None:
    content = file(shape, form)
    place = int(at * len(content))
    survives(read, content[:place] + put + content[place + gone :])


#: What XML can hold, and no blank that HTML would not keep.
cell = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), max_codepoint=0xFFFD), max_size=8
)
amounts = st.one_of(
    cell, st.sampled_from(["", "12.50", "-1", "0.00", "1.005", "1,5", "1e3", "007.20", "99999999999"])
)
references = st.one_of(cell, st.sampled_from(["", "ALMA1", "ALMA2", "ALMA3", "alma1", "ALMA"]))
ids = st.one_of(cell, st.sampled_from(["", "1", "01", "2", "1.23457E+11"]))
days = st.one_of(cell, st.sampled_from(["", "11/22/2026", "2026-11-22", "02/29/2027", "1/1/58"]))


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, Table]:
    shape = draw(st.sampled_from(SHAPES))
    if shape in ("applied", "items"):
        row = st.tuples(st.just("CAMPS"), ids, ids, cell, cell, references, amounts, amounts, amounts)
    else:
        row = st.tuples(ids, ids, days, references, amounts, st.just("300000000001"))
    return shape, table(shape, *draw(st.lists(row, max_size=8)))


@given(drawn=tables(), form=st.sampled_from(FORMS))
@settings(max_examples=300)
def test_rows_in_are_rows_taken_and_rows_refused(
    drawn: tuple[str, Table], form: Format, read: Reader
) -> None:
    """Each row by itself is the witness of what the whole file has to do with it."""
    shape, whole = drawn
    found = read(shape, render(whole, form, "Q"), form in XML)
    alone = [read(shape, render(Table(whole.headings, [row]), "csv", "Q"), False) for row in whole.rows]

    assert found.lines == len(whole.rows)
    refused = Counter(line.digest for one in alone for line in one.refused)
    # Of applied amounts a row may be refused for one before it, too.
    assert refused <= Counter(line.digest for line in found.refused)
    if shape.startswith("payments"):
        assert len(found.taken) + len(found.refused) == len(whole.rows)
        assert refused == Counter(line.digest for line in found.refused)
    else:
        hidden = set(found.unclear) | {
            _fee(row[5]) for row, one in zip(whole.rows, alone, strict=True) if one.refused
        }
        kept = [one.taken[0] for one in alone if one.taken and one.taken[0].fee_id not in hidden]  # type: ignore[attr-defined]
        assert _sums(found.taken) == _sums(kept)


def _fee(reference: str) -> str:
    return reference.removeprefix("ALMA")


def _sums(entries: object) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for entry in entries:  # type: ignore[attr-defined]
        sums[entry.fee_id] += entry.cents if hasattr(entry, "cents") else entry.amount
    return dict(sums)


@pytest.mark.parametrize("form", FORMS)
def test_only_what_goes_beyond_the_headings_tells_one_file_from_the_next(form: Format) -> None:
    table = Table({"A": "A", "B": "B"}, [(f"first{n}", f"last{n}") for n in range(4)])
    content = render(table, form, "LIBRARY")

    assert not query_forms.holds_rows(b"")
    assert not query_forms.holds_rows(content[: content.index(b"first0")])
    assert query_forms.holds_rows(content[: content.index(b"last3")])
