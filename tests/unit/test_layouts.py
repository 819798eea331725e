from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from alma_hook import layouts
from alma_hook.errors import SettingsError
from alma_hook.resources import include

WHOLE = """
name = "own"
title = "A campus's own"
status = "not loaded anywhere"
source = "generated"
[detail]
width = 80
fields = [
  { at = 1, width = 11, source = "emplid", name = "EMPLID" },
  { at = 12, width = 12, source = "item_type", name = "Item type" },
  { at = 24, width = 16, source = "amount", name = "Amount" },
  { at = 40, width = 1, source = "reversal", name = "Reversal" },
  { at = 41, width = 30, source = "reference", name = "Reference" },
]
"""


def own(folder: Path, text: str) -> layouts.Layout:
    (folder / "layouts").mkdir(exist_ok=True)
    (folder / "layouts" / "own.toml").write_text(text)
    return layouts.load("own", folder)


def without(field: str) -> str:
    return "".join(line for line in WHOLE.splitlines(keepends=True) if f'"{field}"' not in line)


@pytest.mark.parametrize("name", layouts.shipped())
def test_a_shipped_layout_is_whole_and_says_where_it_is_from(name: str) -> None:
    layout = layouts.load(name)
    assert layout.name == name
    assert layout.status
    assert layout.source
    sources = {field.source for field in layout.detail.fields}
    assert {"emplid", "item_type", "amount"} <= sources
    assert "barcode" not in {field.name.lower() for field in layout.detail.fields}


@pytest.mark.parametrize(
    ("name", "marks", "carries", "by_type"),
    [
        ("default", True, True, True),
        ("princeton_libfines", True, True, False),
        ("cornell_lib02", False, False, False),
        ("asu_oasis", True, True, False),
        ("humboldt_csv", False, False, False),
        ("uta_csv", False, True, False),
    ],
)
def test_what_a_shipped_layout_can_tell(name: str, marks: bool, carries: bool, by_type: bool) -> None:
    layout = layouts.load(name)
    assert (layout.marks_credits, layout.carries_reference) == (marks, carries)
    assert (layout.record_type is not None) == by_type


def test_a_campus_brings_its_own_layout(tmp_path: Path) -> None:
    assert own(tmp_path, WHOLE).title == "A campus's own"


def test_a_campuss_own_goes_before_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "layouts").mkdir()
    shipped = (include("layouts") / "default.toml").read_text()
    (tmp_path / "layouts" / "default.toml").write_text(shipped.replace('"lf"', '"crlf"'))
    assert layouts.load("default", tmp_path).newline == "\r\n"
    assert layouts.load("default").newline == "\n"


def test_an_unknown_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: not in the folder layouts .*default, .*uta_csv"):
        layouts.load("nowhere", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE.replace("at = 12,", "at = 11,"), "Item type begins at 11, inside EMPLID"),
        (WHOLE.replace("at = 41,", "at = 14,"), "Reference begins at 14, inside Reversal"),
        (WHOLE.replace("width = 80", "width = 69"), "Reference ends beyond the width 69"),
        (WHOLE.replace("at = 1,", "at = 0,"), "must be 1 or more"),
        (WHOLE.replace('"reference"', '"fee_type"'), "detail.fields[5, Reference].source"),
        (WHOLE.replace('"reference"', '"control_total"'), "Reference can't stand in this record"),
        (WHOLE.replace("at = 24, width = 16,", "at = 24, max_width = 16,"), "only the last field may go without"),
        (WHOLE.replace("at = 1, width = 11,", "at = 1, max_width = 11,"), "only the last field"),
        (WHOLE.replace('source = "reference"', 'source = "due_date"'), "a date needs a format"),
        (WHOLE.replace('source = "reference"', 'source = "literal"'), "a literal needs a value"),
        (WHOLE.replace('source = "reversal"', 'source = "literal", value = "NO"'), "longer than its field"),
        (WHOLE.replace('name = "own"', 'encoding = "ebcdic"'), "encoding"),
        (WHOLE.replace('status = "not loaded anywhere"\n', ""), "status"),
        (WHOLE + "colour = 1\n", "colour"),
        (without("emplid"), "lacks emplid"),
        (without("amount"), "lacks amount"),
        (WHOLE.replace("at = 1, ", ""), "detail: EMPLID has no place (at)"),
        (WHOLE.replace('source = "reference"', 'source = "emplid"'), "emplid stands there twice"),
        (WHOLE.replace('source = "amount"', 'source = "amount", only = "charges"'), "lines of both kinds"),
        (WHOLE.replace('source = "reference"', 'source = "reference", only = "charges"'), "lines of both kinds"),
        (WHOLE.replace('source = "amount"', 'source = "amount", optional = true'), "can't be left out"),
        (WHOLE.replace('source = "reversal"', 'source = "reversal", credit = "N"'), "the same mark"),
        (WHOLE.replace('source = "reversal"', 'source = "reversal", credit = "YES"'), "the mark is longer"),
        (WHOLE.replace('source = "amount"', 'source = "amount", fill = "*"'), "filled with 0 or a blank"),
        (WHOLE.replace('source = "amount"', 'source = "amount", align = "left"'), "would make another of it"),
        (WHOLE + "[header]\nfields = [{ at = 1, width = 4, source = 'literal', value = 'H', only = 'charges' }]", "neither kind"),
        (WHOLE + "[trailer]\nfields = [{ at = 1, width = 4, source = 'emplid' }]", "trailer: emplid can't stand in this record"),
        (
            WHOLE + "[header]\nfields = [{ at = 1, width = 9, source = 'line_count' }]\n"
            "[trailer]\nfields = [{ at = 1, width = 9, source = 'line_count' }]",
            "line_count stands in header and trailer more than once",
        ),
        ('form = "delimited"\n' + WHOLE, "detail: EMPLID has a place (at)"),
        ('form = "delimited"\ndelimiter = "-"\n' + WHOLE, "the delimiter may be part of a value"),
        (WHOLE.replace("width = 30,", "width = 6,").replace('"reference"', '"due_date", format = "MMDDYYYY"'), "needs 8 columns"),
        (WHOLE.replace('"reference"', '"due_date", format = "MMDDYYYY", fill = "0"'), "a date is filled with blanks"),
        (WHOLE.replace('source = "emplid"', 'source = "emplid", format = "MMDDYY"'), "format says nothing of this source"),
        (WHOLE.replace('source = "emplid"', 'source = "emplid", decimals = "implied"'), "decimals says nothing"),
        (WHOLE.replace('source = "amount"', 'source = "amount", value = "1.00", credit = "Y"'),
         "credit says nothing of this source; value says nothing of this source"),
        (WHOLE.replace('"reference"', '"due_date", format = "MMDDYYYY"'), "a credit has no due date: say optional = true"),
        (WHOLE.replace('name = "EMPLID"', 'fill = "xx"'), "detail.fields[1, emplid].fill: must be one character"),
        (
            'form = "delimited"\ndelimiter = "/"\nquote = "never"\n'
            + WHOLE.replace('"reference"', '"effective_date", format = "MM/DD/YYYY"'),
            "the delimiter stands in its dates",
        ),
        ("name = ", "not TOML"),
    ],
)  # fmt: skip
def test_a_layout_that_can_not_be_used_says_why(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        own(tmp_path, text)
    assert said in str(caught.value)
    assert "own.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WHOLE.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (WHOLE.replace("A campus's", "Gebühren:").encode("cp1252"), "is not UTF-8 text (line 3 holds"),
    ],
)
def test_a_layout_in_another_encoding_says_so(tmp_path: Path, content: bytes, said: str) -> None:
    own(tmp_path, WHOLE)
    (tmp_path / "layouts" / "own.toml").write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())
    assert layouts.load("own", tmp_path).name == "own"
    (tmp_path / "layouts" / "own.toml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        layouts.load("own", tmp_path)
    assert f"own.toml: {said}" in str(caught.value)


def test_all_faults_of_a_layout_are_named_at_once(tmp_path: Path) -> None:
    text = WHOLE.replace("at = 1,", "at = 0,").replace('"reference"', '"fee_type"').replace("title", "titel")
    with pytest.raises(SettingsError) as caught:
        own(tmp_path, text)
    assert {fault.field for fault in caught.value.faults} >= {
        "title", "titel", "detail.fields[1, EMPLID].at", "detail.fields[5, Reference].source",
    }  # fmt: skip


@pytest.mark.parametrize("name", layouts.shipped())
def test_every_column_is_declared_by_a_name_for_people(name: str) -> None:
    declared = tomllib.loads((include("layouts") / f"{name}.toml").read_text())
    for record in declared.keys() & {"header", "detail", "trailer"}:
        names = [field["name"] for field in declared[record]["fields"]]
        assert all(names)
        assert len(set(names)) == len(names)
