from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alma_hook import charge_file, layouts
from alma_hook.charges import fit, frame
from alma_hook.errors import BadFile
from alma_hook.ledger.batches import Line
from alma_hook.money import amount
from alma_hook.resources import include
from simulator import sfs_layout
from tests import golden

SHIPPED = layouts.shipped()
PRINTABLE = [chr(code) for code in range(33, 127)]

texts = st.text(PRINTABLE, min_size=1, max_size=30)
descriptions = st.builds(lambda words: " ".join(words)[:30].strip(), st.lists(texts, min_size=1, max_size=3))
days = st.dates(date(2000, 1, 1), date(2068, 12, 31)).map(date.isoformat)


@st.composite
def fitting_lines(draw: st.DrawFn) -> list[Line]:
    """Lines of one kind, at most as wide as every shipped layout allows."""
    kind = draw(st.sampled_from(["charge", "credit"]))
    line = st.builds(
        Line,
        fee_id=st.from_regex(r"[0-9]{1,19}", fullmatch=True),
        kind=st.just(kind),
        amount=st.integers(1, 9_999_999_999),
        emplid=st.from_regex(r"[0-9]{1,9}", fullmatch=True),
        item_type=st.from_regex(r"[0-9]{12}", fullmatch=True),
        term=st.from_regex(r"([0-9]{4})?", fullmatch=True),
        reference=texts,
        description=descriptions,
        account_type=st.from_regex(r"[A-Z]{0,3}", fullmatch=True),
        effective_date=days,
        due_date=st.just("") | days,
        reason=st.just("new"),
    )
    return draw(st.lists(line, min_size=1, max_size=8))


def declared(name: str) -> sfs_layout.Layout:
    return sfs_layout.read_layout(include("layouts") / f"{name}.toml")


@pytest.mark.parametrize("name", SHIPPED)
@given(lines=fitting_lines())
@settings(max_examples=60, deadline=None)
def test_any_lines_that_fit_read_back_as_they_were(name: str, lines: list[Line]) -> None:
    layout = layouts.load(name)
    content = golden.file(name, f"{lines[0].kind}s", lines)
    header, details = charge_file.read(layout, content)

    assert int(header["line_count"]) == len(lines)
    for line, detail in zip(lines, details, strict=True):
        values = {**{n: str(getattr(line, n)) for n in Line.__slots__}, "amount": amount(line.amount)}
        values["reversal"] = "Y" if line.kind == "credit" else "N"
        assert detail == {
            f.source: f.value if f.source == "literal" else values[f.source] for f in layout.detail.fields
        }


@pytest.mark.parametrize("name", SHIPPED)
@given(lines=fitting_lines())
@settings(max_examples=60, deadline=None)
def test_another_reader_of_the_declared_layout_sees_the_same(name: str, lines: list[Line]) -> None:
    parsed = sfs_layout.parse(declared(name), golden.file(name, f"{lines[0].kind}s", lines))

    total = sum(line.amount for line in lines)
    assert parsed.control.line_count == len(lines)
    credits_below_nought = parsed.control.total_negative_for_credits and lines[0].kind == "credit"
    assert parsed.control.total_cents == (-total if credits_below_nought else total)
    assert parsed.control.origin_id == "LIB01"
    for line, detail in zip(lines, parsed.details, strict=True):
        assert (detail.emplid, detail.item_type, detail.amount_cents) == (
            line.emplid,
            line.item_type,
            line.amount,
        )
        assert (detail.term, detail.reference, detail.description) == (
            line.term,
            line.reference,
            line.description,
        )
        assert detail.reversal == (line.kind == "credit")
        assert detail.effective_date == date.fromisoformat(line.effective_date)


@pytest.mark.parametrize("kind", golden.KINDS)
@pytest.mark.parametrize("name", SHIPPED)
def test_golden_file(name: str, kind: str) -> None:
    lines = golden.from_csv((golden.FOLDER / f"{kind}.csv").read_text())
    assert lines == golden.lines(kind)
    content = (golden.FOLDER / f"{name}.{kind}.dat").read_bytes()
    assert golden.file(name, kind, lines) == content
    assert len(sfs_layout.parse(declared(name), content).details) == len(lines)


def test_the_columns_are_where_the_declaration_says() -> None:
    # The one file that is spelled out here, so that writer and declaration can't be wrong together.
    line = Line(
        fee_id="138412345678", kind="charge", amount=123456, emplid="012345678", item_type="300000000001",
        term="2268", reference="ALMA138412345678", description="Overdue fine", account_type="LIB",
        effective_date="2026-11-22", due_date="", reason="new",
    )  # fmt: skip
    assert golden.file("default", "charges", [line]).decode() == (
        "H00000000010000000001234.56LIB01USD11222026" + " " * 81 + "\n"
        "D012345678  3000000000010000000001234.56N226811222026        LIB"
        "ALMA138412345678              Overdue fine                  \n"
    )
    assert golden.file("princeton_libfines", "credits", [replace(line, kind="credit")]).decode() == (
        "0000000001 -000000001234.56 LIB01 \n"
        "012345678 300000000001 2268 000000001234.56 Y ALMA138412345678               112226 Overdue fine\n"
    )


TOO_WIDE = [
    ("emplid", "1" * 12, "EMPLID is longer than its"),
    ("item_type", "3" * 13, "Item type is longer than its 12 columns"),
    ("term", "22681", "Item term is longer than its 4 columns"),
    ("reference", "A" * 31, "Reference (REF1_DESCR) is longer than its 30 columns"),
    ("description", "x" * 31, "Description is longer than its 30 columns"),
    ("amount", 10**16, "Amount is longer than its"),
    ("emplid", "", "EMPLID is missing"),
    ("item_type", "", "Item type is missing"),
    ("effective_date", "", "Effective date is missing"),
    ("reference", "", "Reference (REF1_DESCR) is missing"),
    ("description", "Bücher", "Description is not ascii text"),
    ("description", "one\ntwo", "Description is not ascii text"),
    ("description", "one\ttwo", "Description is not ascii text"),
    ("description", "\x00", "Description is not ascii text"),
]


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(("field", "value", "said"), TOO_WIDE)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    name: str, field: str, value: str | int, said: str
) -> None:
    good, other = golden.lines("charges")[:2]
    bad = replace(other, **{field: value})
    with pytest.raises(BadFile) as caught:
        golden.file(name, "charges", [good, bad])
    assert [fault.where for fault in caught.value.faults if fault.where != "header"] == [f"fee {bad.fee_id}"]
    assert said in str(caught.value)
    assert good.fee_id not in str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
@given(data=st.data(), lines=fitting_lines())
@settings(max_examples=40, deadline=None)
def test_one_misfit_never_holds_up_the_others(name: str, data: st.DataObject, lines: list[Line]) -> None:
    lines = [replace(line, fee_id=f"{place:012d}") for place, line in enumerate(lines)]
    place = data.draw(st.integers(0, len(lines) - 1))
    field, value, said = data.draw(st.sampled_from(TOO_WIDE))
    lines[place] = replace(lines[place], **{field: value})
    fitting, listed = fit(layouts.load(name), lines)
    assert fitting == lines[:place] + lines[place + 1 :]
    assert [entry.fee_id for entry in listed] == [lines[place].fee_id]
    assert said in listed[0].detail
    assert abs(listed[0].amount) == lines[place].amount


def test_every_line_and_field_that_does_not_fit_is_named_at_once() -> None:
    lines = golden.lines("charges")[:3]
    bad = [replace(lines[0], term="22681", emplid=""), lines[1], replace(lines[2], description="x" * 31)]
    with pytest.raises(BadFile) as caught:
        golden.file("default", "charges", bad)
    assert {fault.where: fault.text for fault in caught.value.faults} == {
        f"fee {lines[0].fee_id}": "EMPLID is missing; Item term is longer than its 4 columns",
        f"fee {lines[2].fee_id}": "Description is longer than its 30 columns",
    }


def test_a_value_that_does_not_fit_stands_in_no_error() -> None:
    line = replace(golden.lines("charges")[0], emplid="99988877766655")
    with pytest.raises(BadFile) as caught:
        golden.file("default", "charges", [line])
    assert "99988877766655" not in str(caught.value)


def test_a_total_too_wide_for_the_header_writes_nothing() -> None:
    line = golden.lines("charges")[0]
    lines = [replace(line, fee_id=str(n), amount=99_999_999_999_99) for n in range(11)]
    with pytest.raises(BadFile, match="header, Control total: does not fit its 16 columns"):
        charge_file.write(
            layouts.load("default"), replace(golden.control("charges", lines), total=10**16), frame(lines)
        )


def good_file(name: str = "default") -> list[str]:
    return (golden.FOLDER / f"{name}.charges.dat").read_text("ascii").splitlines(keepends=True)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: lines[:-1], "the control count is not the number of lines"),
        (lambda lines: [*lines, lines[-1]], "the control count is not the number of lines"),
        (lambda lines: [lines[0], lines[1], lines[1], *lines[3:]], "the control total is not the sum"),
        (lambda lines: [*lines[:-1], lines[-1].rstrip("\n")], "the last line has no line end"),
        (lambda lines: [*lines[:-1], lines[-1][:50] + "\n"], "has 50 columns, not 124"),
        (lambda lines: lines[1:], "is not 'H'"),
        (lambda lines: [], "has 0 columns"),
        (lambda lines: [lines[0].replace("0000000016", "00000000XY"), *lines[1:]], "not a number"),
        (lambda lines: [lines[0], lines[1].replace("11012026", "13012026"), *lines[2:]], "not a day as MMDDYYYY"),
        (lambda lines: [lines[0], lines[1].replace(".01N", "x01N"), *lines[2:]], "line 2, Amount"),
        (lambda lines: [lines[0], lines[1].replace("Overdue", "Ov\xe9rdue"), *lines[2:]], "not ascii text"),
    ],
)  # fmt: skip
def test_a_damaged_file_does_not_pass(damage: object, said: str) -> None:
    content = "".join(damage(good_file())).encode("latin-1")  # type: ignore[operator]
    with pytest.raises(BadFile) as caught:
        charge_file.read(layouts.load("default"), content)
    assert said in str(caught.value)


@given(place=st.integers(0, 10**6), wrong=st.sampled_from("0123456789. YN"))
@settings(max_examples=200, deadline=None)
def test_no_single_wrong_character_changes_the_sum_unseen(place: int, wrong: str) -> None:
    text = "".join(good_file())
    place %= len(text)
    content = (text[:place] + wrong + text[place + 1 :]).encode()
    before = sum(line.amount for line in golden.lines("charges"))
    try:
        _, details = charge_file.read(layouts.load("default"), content)
    except BadFile:
        return
    assert sum(int(re.sub(r"\D", "", detail["amount"])) for detail in details) == before


def test_days_keep_their_order_in_every_format() -> None:
    layout = layouts.load("princeton_libfines")
    line = golden.lines("charges")[0]
    lines = [
        replace(line, fee_id=str(n), effective_date=(date(2026, 12, 30) + timedelta(days=n)).isoformat())
        for n in range(4)
    ]
    _, details = charge_file.read(layout, golden.file("princeton_libfines", "charges", lines))
    assert [detail["effective_date"] for detail in details] == [line.effective_date for line in lines]
