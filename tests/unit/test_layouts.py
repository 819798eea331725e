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
    assert {"emplid", "item_type", "amount", "reversal", "term", "reference"} <= sources
    assert layout.header is not None
    assert {"line_count", "control_total", "origin_id"} <= {field.source for field in layout.header.fields}


def test_a_campus_brings_its_own_layout(tmp_path: Path) -> None:
    assert own(tmp_path, WHOLE).title == "A campus's own"


def test_a_campuss_own_goes_before_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "layouts").mkdir()
    shipped = (include("layouts") / "default.toml").read_text()
    (tmp_path / "layouts" / "default.toml").write_text(shipped.replace('"lf"', '"crlf"'))
    assert layouts.load("default", tmp_path).newline == "\r\n"
    assert layouts.load("default").newline == "\n"


def test_an_unknown_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"nowhere\.toml: not in the folder layouts .*default, princeton_libfines"
    ):
        layouts.load("nowhere", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE.replace("at = 12,", "at = 11,"), "Item type begins at 11, inside EMPLID"),
        (WHOLE.replace("at = 41,", "at = 14,"), "Reference begins at 14, inside Reversal"),
        (WHOLE.replace("width = 80", "width = 69"), "Reference ends beyond the width 69"),
        (WHOLE.replace("at = 1,", "at = 0,"), "must be 1 or more"),
        (WHOLE.replace('"reference"', '"fee_type"'), "detail.fields.4.source"),
        (WHOLE.replace('"reference"', '"control_total"'), "Reference can't stand in this record"),
        (WHOLE.replace("at = 24, width = 16,", "at = 24, max_width = 16,"), "only a text may go without width"),
        (WHOLE.replace("at = 1, width = 11,", "at = 1, max_width = 11,"), "only the last field"),
        (WHOLE.replace('source = "reference"', 'source = "due_date"'), "a date needs a format"),
        (WHOLE.replace('source = "reference"', 'source = "literal"'), "a literal needs a value"),
        (WHOLE.replace('source = "reversal"', 'source = "literal", value = "NO"'), "longer than its field"),
        (WHOLE.replace('name = "own"', 'encoding = "ebcdic"'), "encoding"),
        (WHOLE.replace('status = "not loaded anywhere"\n', ""), "status"),
        (WHOLE + "colour = 1\n", "colour"),
        (without("emplid"), "lacks emplid"),
        (without("amount"), "lacks amount"),
        # Without the mark a credit would be loaded as one more charge.
        (without("reversal"), "lacks reversal"),
        # Without it no payment finds its way back to its fee.
        (without("reference"), "lacks reference"),
        ("name = ", "not TOML"),
    ],
)  # fmt: skip
def test_a_layout_that_can_not_be_used_says_why(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        own(tmp_path, text)
    assert said in str(caught.value)
    assert "own.toml" in str(caught.value)


def test_all_faults_of_a_layout_are_named_at_once(tmp_path: Path) -> None:
    text = WHOLE.replace("at = 1,", "at = 0,").replace('"reference"', '"fee_type"').replace("title", "titel")
    with pytest.raises(SettingsError) as caught:
        own(tmp_path, text)
    assert {fault.field for fault in caught.value.faults} >= {
        "title", "titel", "detail.fields.0.at", "detail.fields.4.source",
    }  # fmt: skip


@pytest.mark.parametrize("name", layouts.shipped())
def test_every_column_is_declared_by_a_name_for_people(name: str) -> None:
    declared = tomllib.loads((include("layouts") / f"{name}.toml").read_text())
    for record in ("header", "detail"):
        names = [field["name"] for field in declared[record]["fields"]]
        assert all(names)
        assert len(set(names)) == len(names)
