"""Applied amounts as PeopleSoft's query might leave them: each line is taken or refused, or the file is."""

from __future__ import annotations

from pathlib import Path

import pytest

from alma_hook import applied_file, campus
from alma_hook.applied_file import AppliedFile
from alma_hook.campus import Campus
from alma_hook.errors import BadFile, SettingsError
from alma_hook.ledger.applied import Applied

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
shape = "applied"
directory = "/sfs/outbound"
pattern = "ITEMS_*.csv"
cumulative = true
columns = { emplid = "Emplid", reference = "Reference", applied = "Applied", item = "Item Nbr" }
"""
FEE = "138412345678"
OTHER = "012345678,9,ALMA138400000001,3.00"


def load(folder: Path, text: str = SETTINGS) -> Campus:
    path = folder / "campus.toml"
    path.write_text(text)
    return campus.load(path)


@pytest.fixture(scope="module")
def with_items(tmp_path_factory: pytest.TempPathFactory) -> Campus:
    return load(tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def without_items(tmp_path_factory: pytest.TempPathFactory) -> Campus:
    return load(tmp_path_factory.mktemp("settings"), SETTINGS.replace(', item = "Item Nbr"', ""))


def read(settings: Campus, *rows: str) -> AppliedFile:
    content = ("\r\n".join(("Emplid,Item Nbr,Reference,Applied", *rows)) + "\r\n").encode()
    return applied_file.read("ITEMS_1.csv", content, settings)


def test_an_item_is_read_by_its_headings(with_items: Campus) -> None:
    file = read(with_items, f"012345678,000004,ALMA{FEE},12.50", "012345678,000005,ALMA138400000001,0.00")

    assert file.items == (Applied(FEE, "012345678", 1250, 2), Applied("138400000001", "012345678", 0, 3))
    assert (file.refused, file.unclear, file.blind, file.lines) == ((), frozenset(), False, 2)


@pytest.mark.parametrize(
    ("row", "field", "said", "unclear", "blind"),
    [
        (f"012345678,1,ALMA{FEE},", "Applied", "not a plain amount", {FEE}, False),
        (f"012345678,1,ALMA{FEE},1.005", "Applied", "more than two decimals", {FEE}, False),
        (f"012345678,1,ALMA{FEE},-1.00", "Applied", "is negative", {FEE}, False),
        (f",1,ALMA{FEE},1.00", "Emplid", "is empty", {FEE}, False),
        (f"012345678,,ALMA{FEE},1.00", "Item Nbr", "is empty", {FEE}, False),
        ("012345678,1,LOCKER 17,1.00", "Reference", "not a reference of ours", set(), False),
        ("012345678,1,,1.00", "Reference", "not a reference of ours", set(), True),
    ],
)
def test_a_line_that_can_not_be_read_is_refused(
    with_items: Campus, row: str, field: str, said: str, unclear: set[str], blind: bool
) -> None:
    file = read(with_items, row, OTHER)

    (line,) = file.refused
    assert (line.line_no, line.field) == (2, field)
    assert said in line.text
    assert [item.fee_id for item in file.items] == ["138400000001"]
    assert (file.unclear, file.blind, file.lines) == (unclear, blind, 2)


def test_two_items_of_one_fee_are_added_up(with_items: Campus) -> None:
    file = read(
        with_items,
        f"012345678,1,ALMA{FEE},3.00",
        f"012345678,2,ALMA{FEE},4.00",
        f"012345678,3,ALMA{FEE},1.00",
    )

    assert file.items == (Applied(FEE, "012345678", 800, 4),)


def test_items_of_one_fee_under_two_emplids_stay_apart(with_items: Campus) -> None:
    file = read(
        with_items,
        f"012345678,1,ALMA{FEE},3.00",
        f"012345679,2,ALMA{FEE},4.00",
        f"012345678,3,ALMA{FEE},1.00",
    )

    assert file.items == (Applied(FEE, "012345678", 400, 4), Applied(FEE, "012345679", 400, 3))


@pytest.mark.parametrize(
    ("second", "field", "said"),
    [
        (f"012345678,1,ALMA{FEE},3.00", "Item Nbr", "stands in a line before"),
        (f"012345678,1,ALMA{FEE},4.00", "Item Nbr", "stands in a line before"),
    ],
)
def test_what_contradicts_a_line_before_leaves_the_fee_out(
    with_items: Campus, second: str, field: str, said: str
) -> None:
    file = read(with_items, f"012345678,1,ALMA{FEE},3.00", second, OTHER)

    assert [(line.line_no, line.field) for line in file.refused] == [(3, field)]
    assert said in file.refused[0].text
    assert ([item.fee_id for item in file.items], file.unclear) == (["138400000001"], {FEE})


def test_without_their_ids_two_items_of_one_fee_can_not_be_told_apart(without_items: Campus) -> None:
    file = read(without_items, f"012345678,1,ALMA{FEE},3.00", f"012345678,2,ALMA{FEE},4.00", OTHER)

    assert "must give their ids" in file.refused[0].text
    assert ([item.fee_id for item in file.items], file.unclear) == (["138400000001"], {FEE})


def test_a_file_cut_short_is_refused(with_items: Campus) -> None:
    content = f"Emplid,Item Nbr,Reference,Applied\r\n012345678,1,ALMA{FEE}".encode()

    with pytest.raises(BadFile, match="cut short"):
        applied_file.read("ITEMS_1.csv", content, with_items)


# -- settings --------------------------------------------------------------------------------------------

ITEMS = """
[sis_to_alma.items]
pattern = "{}"
columns = {{ emplid = "Emplid", reference = "Reference", amount = "Amount" }}
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("cumulative = true\n", "", r'cumulative: must be true with shape = "applied"'),
        ('applied = "Applied"', 'amount = "Applied"', r"columns: lacks applied; knows .* not amount"),
        ('item = "Item Nbr"', 'payment_id = "Item Nbr"', r"columns: knows .* not payment_id"),
        ('shape = "applied"', 'shape = "both"', r"shape: must be 'payments' or 'applied'"),
        ('shape = "applied"', 'shape = "payments"', r"columns: lacks amount, paid_on; knows .* not applied, item"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_together_are_refused(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    assert before in SETTINGS
    with pytest.raises(SettingsError, match=said):
        load(tmp_path, SETTINGS.replace(before, after))


def test_one_file_may_be_both_the_list_of_items_and_the_applied_amounts(tmp_path: Path) -> None:
    both = load(tmp_path, SETTINGS + ITEMS.format("ITEMS_*.csv")).sis_to_alma
    assert (both.one_list, both.patterns) == (True, {"items": "ITEMS_*.csv"})

    apart = load(tmp_path, SETTINGS + ITEMS.format("ALL_*.csv")).sis_to_alma
    assert (apart.one_list, apart.patterns) == (False, {"payments": "ITEMS_*.csv", "items": "ALL_*.csv"})

    with pytest.raises(SettingsError, match="may match both"):
        load(tmp_path, SETTINGS + ITEMS.format("ITEMS_1*.csv"))
