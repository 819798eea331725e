from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
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
def any_lines(draw: st.DrawFn) -> list[Line]:
    """Lines of one kind, most of them no wider than every shipped layout allows."""
    kind = draw(st.sampled_from(["charge", "credit"]))
    line = st.builds(
        Line,
        fee_id=st.from_regex(r"[0-9]{1,19}", fullmatch=True),
        kind=st.just(kind),
        amount=st.integers(1, 999_999) | st.integers(1, 9_999_999_999),
        emplid=st.from_regex(r"[0-9]{1,9}", fullmatch=True),
        item_type=st.from_regex(r"[0-9]{12}", fullmatch=True),
        term=st.from_regex(r"([0-9]{4})?", fullmatch=True),
        reference=texts,
        description=descriptions,
        account_type=st.from_regex(r"[A-Z]{3}", fullmatch=True),
        effective_date=days,
        due_date=days,
        reason=st.just("new"),
        credit_item=st.integers(0, 1) if kind == "credit" else st.just(0),
    )
    lines = draw(st.lists(line, min_size=1, max_size=8))
    return [line._replace(fee_id=f"{place:012d}") for place, line in enumerate(lines)]


def seen(layout: layouts.Layout, line: Line) -> dict[str, str]:
    """What must be read back of a line: its values by source, blank where the layout leaves them out for its kind."""
    values = {
        **{n: str(getattr(line, n)) for n in Line._fields},
        "amount": amount(line.amount),
        **CONSTANTS,
    }
    fields = {f.source: f for f in layout.detail.fields if f.source not in ("literal", "blank")}
    # A minus says that a line is a credit, a mark that it reverses a charge of its own item type.
    by_mark = "reversal" in fields
    values["reversal"] = "Y" if line.kind == "credit" and not (by_mark and line.credit_item) else "N"
    told = {
        source: values[source] if f.only in (None, f"{line.kind}s") else "" for source, f in fields.items()
    }
    return {**told, "reversal": values["reversal"]} if layout.marks_credits else told


CONSTANTS = {"business_unit": "CAMPS", "origin_id": "LIB01", "currency": "USD", "file_date": "2026-11-22"}


def declared(name: str) -> sfs_layout.Layout:
    return sfs_layout.read_layout(include("layouts") / f"{name}.toml")


def check_read_back(layout: layouts.Layout, kind: str, lines: list[Line]) -> bytes:
    content = charge_file.write(layout, golden.control(kind, lines), frame(lines))
    told, details = charge_file.read(layout, content)
    assert details == [seen(layout, line) for line in lines]
    total = amount(sum(line.amount for line in lines))
    known = {**CONSTANTS, "line_count": str(len(lines)), "control_total": total}
    assert {name: known[name] for name in told} == told
    return content


@pytest.mark.parametrize("name", SHIPPED)
@given(lines=any_lines())
@settings(max_examples=60, deadline=None)
def test_any_lines_that_fit_read_back_as_they_were(name: str, lines: list[Line]) -> None:
    layout = layouts.load(name)
    fitting = golden.lines_of(layout, lines)
    assume(fitting)
    check_read_back(layout, f"{lines[0].kind}s", fitting)


def check_other_reader(
    declared: sfs_layout.Layout, layout: layouts.Layout, content: bytes, lines: list[Line]
) -> None:
    """The simulated PeopleSoft reads the declaration by itself, and sees the same."""
    parsed = sfs_layout.parse(declared, content)
    total = sum(line.amount for line in lines)
    control = parsed.control
    below = control.total_negative_for_credits and lines[0].kind == "credit"
    assert control.line_count in (None, len(lines))
    assert control.total_cents in (None, -total if below else total)
    assert control.origin_id in (None, "LIB01")
    assert len(parsed.details) == len(lines)
    marked = any(f.source == "reversal" for f in layout.detail.fields)
    signed = any(f.source == "amount" and f.negative == "credits" for f in layout.detail.fields)
    for line, detail in zip(lines, parsed.details, strict=True):
        told = seen(layout, line)
        assert (detail.emplid, detail.item_type, detail.amount_cents) == (
            line.emplid,
            line.item_type,
            line.amount,
        )
        assert detail.reversal == (marked and told["reversal"] == "Y")
        assert detail.below_nought == (signed and line.kind == "credit")
        assert (detail.term, detail.reference, detail.description) == tuple(
            told.get(name, "") for name in ("term", "reference", "description")
        )
        day = told.get("effective_date")
        assert detail.effective_date == (date.fromisoformat(day) if day else None)


@pytest.mark.parametrize("name", SHIPPED)
@given(lines=any_lines())
@settings(max_examples=60, deadline=None)
def test_another_reader_of_the_declared_layout_sees_the_same(name: str, lines: list[Line]) -> None:
    layout = layouts.load(name)
    fitting = golden.lines_of(layout, lines)
    assume(fitting)
    content = golden.file(name, f"{lines[0].kind}s", fitting)
    check_other_reader(declared(name), layout, content, fitting)


@pytest.mark.parametrize("kind", golden.KINDS)
@pytest.mark.parametrize("name", SHIPPED)
def test_golden_file(name: str, kind: str) -> None:
    lines = golden.from_csv((golden.FOLDER / f"{kind}.csv").read_text())
    assert lines == golden.lines(kind)
    layout = layouts.load(name)
    fitting = golden.lines_of(layout, lines)
    content = (golden.FOLDER / f"{name}.{kind}.dat").read_bytes()
    assert golden.file(name, kind, fitting) == content
    assert check_read_back(layout, kind, fitting) == content
    check_other_reader(declared(name), layout, content, fitting)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("asu_oasis", 999_999_999),
        ("cornell_lib02", 99_999_999),
        ("humboldt_csv", 999_999),
        ("uta_csv", 999_999_999_99),
        ("default", 999_999_999_99),
        ("princeton_libfines", 999_999_999_99),
    ],
)
def test_the_widest_amount_of_each_layout_stands_in_its_golden_file(name: str, most: int) -> None:
    lines = golden.lines("charges")
    fitting = golden.lines_of(layouts.load(name), lines)
    assert max(line.amount for line in fitting) == most
    wrong = charge_file.misfits(layouts.load(name), frame(lines))
    assert set(wrong) == {line.fee_id for line in lines if line.amount > most}
    assert set(wrong.values()) <= {f"Amount is longer than its {limit} columns" for limit in (7, 9, 10)}


# -- a layout of one's own, by data alone --------------------------------------------------------------------


@st.composite
def own_layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Declarations of any kind that are allowed: the order, widths, sides, fills, signs and marks are drawn."""
    delimited = draw(st.booleans())
    sources = [
        "emplid", "item_type", "amount",
        *draw(st.lists(st.sampled_from([
            "reversal", "term", "effective_date", "due_date", "account_type", "reference", "description", "literal",
            "blank", "business_unit", "origin_id", "currency", "file_date",
        ]), unique=True)),
    ]  # fmt: skip
    negative = draw(st.booleans())
    widths = {
        "emplid": 11, "item_type": 12, "amount": 14, "term": 4, "account_type": 3, "reference": 30, "description": 30,
        "control_total": 16,
    }  # fmt: skip

    def field(source: str) -> dict[str, Any]:
        told: dict[str, Any] = {"source": source}
        width = widths.get(source, 10)
        if source == "literal":
            told |= {"value": "D1", "width": 2}
        elif source == "blank":
            told |= {} if delimited else {"width": draw(st.integers(1, 5))}
        elif source == "reversal":
            charge, credit = draw(st.sampled_from([("N", "Y"), ("", "Y"), ("C", ""), ("D", "CR")]))
            told |= {"charge": charge, "credit": credit, "width": 2}
        else:
            told["max_width" if delimited and draw(st.booleans()) else "width"] = width
        if source in ("effective_date", "due_date", "file_date"):
            if delimited and draw(st.booleans()):
                told = {"source": source}
            told["format"] = draw(st.sampled_from(list(layouts.DateFormat.__args__)))  # type: ignore[attr-defined]
        if source in ("amount", "control_total", "line_count"):
            side, fill = draw(st.sampled_from([("right", "0"), ("right", " "), ("left", " ")]))
            told |= {"align": side, "fill": fill}
            if source != "line_count":
                told["decimals"] = draw(st.sampled_from(["point", "implied"]))
            if (source == "amount" and negative) or (source == "control_total" and draw(st.booleans())):
                told |= {"negative": "credits", "sign": draw(st.sampled_from(["front", "end"]))}
        elif source not in ("literal", "blank", "reversal"):
            told["align"] = draw(st.sampled_from(["left", "right"]))
            if source in ("reference", "item_type"):
                told["fill"] = draw(st.sampled_from(" *_"))
        if source in ("due_date", "effective_date", "description"):
            told["only"] = draw(st.sampled_from(["charges", "credits"])) if draw(st.booleans()) else None
        if source in ("term", "reference"):
            told["optional"] = draw(st.booleans())
        if source == "due_date":
            told["optional"] = told["only"] is None or draw(st.booleans())
        return {name: value for name, value in told.items() if value is not None}

    def record(sources: list[str]) -> dict[str, Any]:
        fields = [field(source) for source in draw(st.permutations(sources))]
        if delimited:
            return {"fields": fields}
        at = 1
        for each in fields:
            at += draw(st.integers(0, 2))
            each["at"] = at
            at += each["width"]
        return {"fields": fields, **({"width": at + draw(st.integers(0, 3))} if draw(st.booleans()) else {})}

    controls = draw(st.permutations(["line_count", "control_total", "origin_id", "file_date", "literal"]))
    first, last = draw(st.integers(0, 3)), draw(st.integers(3, 5))
    told = {
        "name": "own", "title": "drawn", "status": "drawn", "source": "drawn",
        "encoding": draw(st.sampled_from(["ascii", "cp1252", "utf-8"])), "line_end": draw(st.sampled_from(["lf", "crlf"])),
        "detail": record(sources),
    }  # fmt: skip
    for name, of in (("header", controls[:first]), ("trailer", controls[last:])):
        if of:
            told[name] = record(of)
    if delimited:
        told |= {
            "form": "delimited",
            "delimiter": draw(st.sampled_from(",;|\t")),
            "quote": draw(st.sampled_from(["needed", "always", "never"])),
        }
    return told


@given(told=own_layouts(), lines=any_lines())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_layout_that_is_allowed_reads_back_what_it_wrote(told: dict[str, Any], lines: list[Line]) -> None:
    layout = layouts.Layout.model_validate(told)
    fitting = golden.lines_of(layout, lines)
    assume(fitting)
    content = check_read_back(layout, f"{lines[0].kind}s", fitting)
    check_other_reader(sfs_layout.declared_layout(told), layout, content, fitting)


OWN = """
name = "state_u"
title = "Semicolons, a heading, a trailer; implied decimals with the sign behind"
status = "made up"
source = "made up"
form = "delimited"
delimiter = ";"
line_end = "crlf"
[header]
fields = [
  { source = "literal", value = "ID" },
  { source = "literal", value = "CENTS" },
  { source = "literal", value = "TYPE" },
  { source = "literal", value = "REF" },
]
[detail]
fields = [
  { source = "emplid", max_width = 11 },
  { source = "amount", width = 10, decimals = "implied", negative = "credits", sign = "end" },
  { source = "item_type", max_width = 12 },
  { source = "reference", max_width = 30 },
]
[trailer]
fields = [
  { source = "line_count", width = 6 },
  { source = "control_total", max_width = 12, decimals = "implied" },
  { source = "blank" },
  { source = "blank" },
]
"""


def test_a_campus_adds_a_layout_by_data_alone(tmp_path: Path) -> None:
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "state_u.toml").write_text(OWN)
    layout = layouts.load("state_u", tmp_path)
    lines = [line._replace(kind="credit") for line in golden.lines("credits")[:2]]
    content = check_read_back(layout, "credits", lines)
    one, two = lines
    assert content.decode() == (
        "ID;CENTS;TYPE;REF\r\n"
        f"{one.emplid};000000001-;{one.item_type};{one.reference}\r\n"
        f"{two.emplid};000000099-;{two.item_type};{two.reference}\r\n"
        "000002;100;;\r\n"
    )
    check_other_reader(sfs_layout.read_layout(tmp_path / "layouts" / "state_u.toml"), layout, content, lines)


@pytest.mark.parametrize("credit_item", [0, 1])
def test_lines_and_total_of_a_file_of_credits_bear_the_same_sign_whichever_way_credits_are_marked(
    tmp_path: Path, credit_item: int
) -> None:
    (tmp_path / "layouts").mkdir()
    signed = OWN.replace(
        'max_width = 12, decimals = "implied"', 'width = 11, negative = "credits", sign = "front"'
    )
    (tmp_path / "layouts" / "state_u.toml").write_text(signed)
    layout = layouts.load("state_u", tmp_path)
    lines = [line._replace(credit_item=credit_item) for line in golden.lines("credits")[:2]]
    content = check_read_back(layout, "credits", lines)
    assert re.findall(r"[0-9]{9}-", content.decode()) == ["000000001-", "000000099-"]
    assert content.decode().splitlines()[-1] == "000002;-0000001.00;;"
    check_other_reader(sfs_layout.read_layout(tmp_path / "layouts" / "state_u.toml"), layout, content, lines)


@pytest.mark.parametrize(
    ("quote", "said"),
    [
        ("never", {"Reference holds the delimiter or a quote, and values are never quoted"}),
        ("needed", set()),
        ("always", set()),
    ],
)
def test_a_value_with_the_delimiter_is_quoted_or_named(quote: str, said: set[str]) -> None:
    layout = layouts.load("uta_csv").model_copy(update={"quote": quote})
    line = golden.lines("charges")[0]._replace(reference='one,"two"')
    assert set(charge_file.misfits(layout, frame([line])).values()) == said
    if not said:
        check_read_back(layout, "charges", [line])


def test_a_value_that_begins_with_its_filling_is_named() -> None:
    layout = layouts.load("cornell_lib02")
    fields = [
        f.model_copy(update={"align": "right", "fill": "0"}) if f.source in ("emplid", "item_type") else f
        for f in layout.detail.fields
    ]
    layout = layout.model_copy(update={"detail": layout.detail.model_copy(update={"fields": tuple(fields)})})
    line = golden.lines("charges")[0]._replace(emplid="012345678", item_type="300000000001")
    assert charge_file.misfits(layout, frame([line])) == {
        line.fee_id: "EMPLID begins with '0', with which it is filled"
    }
    check_read_back(layout, "charges", [line._replace(emplid="912345678")])


def test_the_columns_are_where_the_declaration_says() -> None:
    # The one file that is spelled out here, so that writer and declaration can't be wrong together.
    line = Line(
        fee_id="138412345678", kind="charge", amount=123456, emplid="012345678", item_type="300000000001",
        term="2268", reference="ALMA138412345678", description="Overdue fine", account_type="LIB",
        effective_date="2026-11-22", due_date="", reason="new", item_fee="138412345678",
    )  # fmt: skip
    assert golden.file("default", "charges", [line]).decode() == (
        "H00000000010000000001234.56LIB01USD11222026" + " " * 81 + "\n"
        "D012345678  3000000000010000000001234.56N226811222026        LIB"
        "ALMA138412345678              Overdue fine                  \n"
    )
    assert golden.file("princeton_libfines", "credits", [line._replace(kind="credit")]).decode() == (
        "0000000001 -000000001234.56 LIB01 \n"
        "012345678 300000000001 2268 000000001234.56 Y ALMA138412345678               112226 Overdue fine\n"
    )


def unfitting() -> list[tuple[str, str, str | int, str]]:
    """Of each shipped layout, field and value that it can't take, and what is said of it."""
    found: list[tuple[str, str, str | int, str]] = []
    for name in SHIPPED:
        for f in layouts.load(name).detail.fields:
            too_long = f"{f.label} is longer than its {f.limit} columns"
            if f.source in ("emplid", "item_type", "term", "reference", "description"):
                found.append((name, f.source, "1" * (f.limit + 1), too_long))
            if f.source == "amount":
                found.append((name, "amount", 10 ** (f.limit + 1), too_long))
            if (
                f.source in ("emplid", "item_type", "effective_date", "reference", "description")
                and not f.may_be_blank
            ):
                found.append((name, f.source, "", f"{f.label} is missing"))
            if f.source == "description":
                for text in ("B\u00fccher", "one\ntwo", "one\ttwo", "\x00"):
                    found.append((name, "description", text, f"{f.label} is not ascii text"))
    return found


@pytest.mark.parametrize(("name", "field", "value", "said"), unfitting())
def test_what_does_not_fit_is_named_and_nothing_is_written(
    name: str, field: str, value: str | int, said: str
) -> None:
    good, other = golden.lines("charges")[:2]
    bad = other._replace(**{field: value})
    with pytest.raises(BadFile) as caught:
        golden.file(name, "charges", [good, bad])
    assert [fault.where for fault in caught.value.faults if fault.where != "header"] == [f"fee {bad.fee_id}"]
    assert said in str(caught.value)
    assert good.fee_id not in str(caught.value)


@given(wrong=st.sampled_from(unfitting()), data=st.data(), lines=any_lines())
@settings(max_examples=150, deadline=None)
def test_one_misfit_never_holds_up_the_others(
    wrong: tuple[str, str, str | int, str], data: st.DataObject, lines: list[Line]
) -> None:
    name, field, value, said = wrong
    layout = layouts.load(name)
    lines = [line._replace(kind="charge") for line in golden.lines_of(layout, lines)]
    assume(lines)
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = lines[place]._replace(**{field: value})
    fitting, listed = fit(layout, lines)
    assert fitting == lines[:place] + lines[place + 1 :]
    assert [entry.fee_id for entry in listed] == [lines[place].fee_id]
    assert said in listed[0].detail
    assert abs(listed[0].amount) == lines[place].amount


def test_every_line_and_field_that_does_not_fit_is_named_at_once() -> None:
    lines = golden.lines("charges")[:3]
    bad = [lines[0]._replace(term="22681", emplid=""), lines[1], lines[2]._replace(description="x" * 31)]
    with pytest.raises(BadFile) as caught:
        golden.file("default", "charges", bad)
    assert {fault.where: fault.text for fault in caught.value.faults} == {
        f"fee {lines[0].fee_id}": "EMPLID is missing; Item term is longer than its 4 columns",
        f"fee {lines[2].fee_id}": "Description is longer than its 30 columns",
    }


def test_a_value_that_does_not_fit_stands_in_no_error() -> None:
    line = golden.lines("charges")[0]._replace(emplid="99988877766655")
    with pytest.raises(BadFile) as caught:
        golden.file("default", "charges", [line])
    assert "99988877766655" not in str(caught.value)


def test_a_total_too_wide_for_the_header_writes_nothing() -> None:
    line = golden.lines("charges")[0]
    lines = [line._replace(fee_id=str(n), amount=99_999_999_999_99) for n in range(11)]
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
        (lambda lines: [], "has no header"),
        (lambda lines: [lines[0].replace("0000000022", "00000000XY"), *lines[1:]], "not a number"),
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
        line._replace(fee_id=str(n), effective_date=(date(2026, 12, 30) + timedelta(days=n)).isoformat())
        for n in range(4)
    ]
    _, details = charge_file.read(layout, golden.file("princeton_libfines", "charges", lines))
    assert [detail["effective_date"] for detail in details] == [line.effective_date for line in lines]
