"""The page for the business office: it says what the settings say, and its example files are files of the layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from html import unescape
from pathlib import Path

import pytest
from lxml import html

from alma_hook import __main__ as command_line
from alma_hook import campus, layouts, packet
from alma_hook.errors import SettingsError
from alma_hook.resources import include
from simulator.demo import settings_text
from simulator.sfs_layout import parse, read_layout
from tests.bridge import SETTINGS
from tests.unit.test_confirmations import with_items
from tests.unit.test_without_reference import cornell, without

DAY = date(2026, 11, 23)
FOLDERS = {
    "inbound": "/in",
    "outbound": "/out",
    "archive": "/arc",
    "outbound_archive": "/out/arc",
    "sis_export": "/exp",
}


def made(tmp_path: Path, text: str) -> tuple[campus.Campus, html.HtmlElement]:
    file = tmp_path / "campus.toml"
    file.write_text(text)
    settings = campus.load(file)
    layout = layouts.load(settings.sfs.layout, settings.folder)
    return settings, html.document_fromstring(packet.page(settings, layout, DAY))


def of(change: Callable[[str], str] = lambda text: text) -> str:
    return change(SETTINGS.format(report_path="/shared/x", layout="default"))


def tables(page: html.HtmlElement) -> list[list[list[str]]]:
    return [
        [[cell.text_content().strip() for cell in row] for row in table.iter("tr")]
        for table in page.iter("table")
    ]


def text_of(page: html.HtmlElement) -> str:
    return re.sub(r"\\s+", " ", page.text_content())


@pytest.mark.parametrize("name", layouts.shipped())
def test_the_example_files_are_files_of_the_layout_as_its_loader_reads_them(
    name: str, tmp_path: Path
) -> None:
    """The simulated loader shares no code with what writes them."""
    facts = {"alma": {"institution": "01CAMPUS_INST", "report_path": "/shared/x"}, "folders": FOLDERS}
    settings, page = made(tmp_path, settings_text(facts, name))
    layout = layouts.load(name)
    files = {}
    for kind, block in zip(("charges", "credits"), page.iter("pre"), strict=True):
        lines = unescape(block.text_content()).splitlines()[2 if layout.fixed else 0 :]
        content = "".join(line + layout.newline for line in lines).encode(layout.encoding)
        files[kind] = parse(read_layout(include("layouts") / f"{name}.toml"), content)

    assert [detail.amount_cents for detail in files["charges"].details] == [1250, 2500]
    assert [detail.amount_cents for detail in files["credits"].details] == [400]
    assert {detail.emplid for file in files.values() for detail in file.details} == {"012345678"}
    (credit,) = files["credits"].details
    assert credit.reversal == layout.marks_credits
    assert credit.item_type in ("300000000001", *settings.credit_item_types.values())


def test_what_stands_in_each_column_is_what_the_docs_say(tmp_path: Path) -> None:
    _, page = made(tmp_path, of())
    header, detail, *_ = tables(page)
    layout = layouts.load("default")

    assert [row[1] for row in detail[1:]] == [f"{f.at}-{f.end}" for f in layout.detail.fields]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for name, place, source, _ in [*header[1:], *detail[1:]]:
        assert f"| {name} | {place} | {source} |" in readme.replace("`", ""), name


OWN = """
name = "own"
title = "Bars"
status = "made up"
source = "made up"
form = "delimited"
delimiter = "|"
[detail]
fields = [
  { source = "emplid", max_width = 11 },
  { source = "amount", max_width = 9, decimals = "implied", negative = "credits", name = "Amount" },
  { source = "item_type", max_width = 12 },
  { source = "due_date", format = "YYYY-MM-DD", optional = true },
]
"""


def with_own(tmp_path: Path, layout: str = OWN, change: Callable[[str], str] = lambda text: text) -> str:
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "own.toml").write_text(layout)
    due = "\n[first_charges]\ndue_in_days = 30\n"
    return of(lambda text: change(text).replace('layout = "default"', 'layout = "own"') + due)


def test_the_page_tells_of_no_more_than_the_layout_has(tmp_path: Path) -> None:
    _, page = made(tmp_path, with_own(tmp_path, change=without))
    charges, credits = (block.text_content().strip().splitlines() for block in page.iter("pre"))
    told = " ".join(page.text_content().split())

    assert charges[0] == "012345678|1250|300000000001|2026-12-23"
    assert credits == ["012345678|-400|300000000001|"]
    assert "A line holds the EMPLID, the amount, the item type and days. It never holds" in told
    assert "what the formula says is due, negative in a file of credits, in cents, without a point" in told
    for said in ("the same reference", "With the reference", "The description is of"):
        assert said not in told, said


def test_an_example_that_does_not_fit_is_the_layouts_fault(tmp_path: Path) -> None:
    narrow = OWN.replace("max_width = 11 }", 'max_width = 8, name = "Who" }')
    with pytest.raises(SettingsError) as caught:
        made(tmp_path, with_own(tmp_path, narrow, without))
    assert str(caught.value) == (
        "Not even the example of a file of charges fits the layout.\n  own.toml: Who is longer than its 8 columns"
    )


def test_the_mappings_and_the_query_are_those_of_the_settings(tmp_path: Path) -> None:
    settings, page = made(
        tmp_path,
        with_items(of())
        + "\n[descriptions]\nOVERDUEFINE = 'Overdue <fine> & more'\n[[terms]]\nfirst = 2026-08-20\nterm = '2267'\n",
    )
    rows = [row for table in tables(page) for row in table]

    for fee_type, item_type in settings.item_types.items():
        (row,) = [row for row in rows if row[0] == fee_type]
        assert row[2] == item_type
        assert row[4] == settings.description(fee_type)
    assert ["2026-08-20", "2267"] in rows
    assert {row[0] for row in rows} >= {*settings.sis_to_alma.columns.values(), "Item Amt", "Item Balance"}
    assert "Overdue <fine> & more" in text_of(page)


@pytest.mark.parametrize(
    ("change", "asked", "not_asked"),
    [
        (lambda text: text, "every library item", "reference of the item"),
        (with_items, "Does every output", "every library item"),
        (lambda text: cornell(without(text)), "reference of the item", "Does every output"),
    ],
)
def test_what_the_settings_leave_open_is_to_be_agreed_on(
    change: Callable[[str], str], asked: str, not_asked: str, tmp_path: Path
) -> None:
    _, page = made(tmp_path, of(change))
    (questions,) = [table for table in tables(page) if table[0][0] == "question"]
    told = " ".join(row[0] for row in questions)

    assert asked in told
    assert not_asked not in told
    assert all(now for _, now, _ in questions[1:])


def test_a_campus_of_its_own_kind_in_each_way_has_a_page(tmp_path: Path) -> None:
    def odd(text: str) -> str:
        text = text.replace(
            "[sfs]\n", '[sfs]\nmode = "direct"\nfixed_name = "fees_{kind}.dat"\ndone_file = "{file}.done"\n'
        )
        text = text.replace('paid_on = "Date Paid"\n', 'paid_on = "Date Paid"\nkind = "Type"\n')
        text = text.replace("[sis_to_alma]\n", '[sis_to_alma]\nwaivers_shown_by = "comment"\n')
        return text + (
            "[sis_to_alma.kinds]\n'P' = 'payment'\n'A' = 'list'\n'W' = 'waive:OTHER'\n"
            "[item_types_of.LAW]\nOVERDUEFINE = '300000000009'\n"
            "[first_charges]\nother_item_type = '300000000008'\ndue_in_days = 30\n"
        )

    _, page = made(tmp_path, of(odd))
    told = text_of(page)

    assert not re.search(r"[a-z][.][A-Z]", told), "sentences stand apart"
    for said in (
        "fees_charges.dat",
        "300000000009",
        "LAW",
        "lists it for a person",
        "It is waived in Alma too",
        "charged as 300000000008",
    ):
        assert said in told, said


def test_the_command_writes_a_new_file_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "campus.toml").write_text(of())
    output = tmp_path / "packet.html"
    words = ["packet", "--settings", str(tmp_path / "campus.toml"), "--output", str(output)]

    assert command_line.main(words) == 0
    first = output.read_text()
    assert "Library fees on the student account" in first
    assert "go through it" in capsys.readouterr().out
    assert command_line.main(words) == 1
    assert "is there already" in capsys.readouterr().err
    assert output.read_text() == first
