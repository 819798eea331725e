"""Lists of items as PeopleSoft's query might leave them: each line is taken or refused, or the file is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alma_hook import campus, item_file
from alma_hook.campus import Campus
from alma_hook.errors import BadFile, SettingsError
from alma_hook.item_file import ItemFile
from alma_hook.ledger.items import Item
from alma_hook.money import amount

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
pattern = "PAYMENTS_*.csv"
columns = { payment_id = "P", emplid = "Emplid", reference = "R", amount = "A", paid_on = "D" }
[sis_to_alma.items]
pattern = "ITEMS_*.csv"
columns = { emplid = "Emplid", reference = "Reference", amount = "Amount", balance = "Balance" }
"""
HEAD = "Emplid,Item Nbr,Reference,Amount,Balance"


def load(folder: Path, text: str = SETTINGS) -> Campus:
    path = folder / "campus.toml"
    path.write_text(text)
    return campus.load(path)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Campus:
    return load(tmp_path_factory.mktemp("settings"))


def read(settings: Campus, *rows: str, end: str = "\r\n") -> ItemFile:
    assert settings.sis_to_alma.items is not None
    content = (end.join((HEAD, *rows)) + end).encode()
    return item_file.read("ITEMS_1.csv", content, settings, settings.sis_to_alma.items)


def test_an_item_is_read_by_its_headings(settings: Campus) -> None:
    file = read(settings, "012345678,000000000000004,ALMA138412345678,12.50,-2.25")

    assert file == ItemFile((Item("138412345678", "012345678", 1250, -225),), (), 1)


@pytest.mark.parametrize(
    ("row", "field", "said"),
    [
        ("012345678,1,ALMA138412345678,,0.00", "Amount", "not a plain amount"),
        ('012345678,1,ALMA138412345678,"1,000.00",0.00', "Amount", "not a plain amount"),
        ("012345678,1,ALMA138412345678,1.005,0.00", "Amount", "more than two decimals"),
        ("012345678,1,ALMA138412345678,1.00,x", "Balance", "not a plain amount"),
        (",1,ALMA138412345678,1.00,0.00", "Emplid", "is empty"),
        ("012345678,1,LOCKER 17,1.00,0.00", "Reference", "not a reference of ours"),
        ("012345678,1,,1.00,0.00", "Reference", "not a reference of ours"),
    ],
)
def test_a_line_that_can_not_be_read_is_refused(settings: Campus, row: str, field: str, said: str) -> None:
    file = read(settings, row, "012345678,2,ALMA138400000001,3.00,3.00")

    (line,) = file.refused
    assert (line.line_no, line.field) == (2, field)
    assert said in line.text
    assert [item.fee_id for item in file.items] == ["138400000001"]


def test_a_fee_with_a_line_that_can_not_be_read_is_left_out(settings: Campus) -> None:
    good, bad = "012345678,1,ALMA138412345678,3.00,3.00", "012345678,2,ALMA138412345678,x,3.00"

    for rows in ((good, bad), (bad, good)):
        file = read(settings, *rows)
        assert (file.items, len(file.refused), file.lines) == ((), 1, 2)


def test_a_file_cut_short_is_refused(settings: Campus) -> None:
    assert settings.sis_to_alma.items is not None
    content = f"{HEAD}\r\n012345678,1,ALMA1384123456".encode()

    with pytest.raises(BadFile, match="cut short"):
        item_file.read("ITEMS_1.csv", content, settings, settings.sis_to_alma.items)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(-(10**6), 10**6)), max_size=20))
def test_the_amounts_of_a_fee_are_added_up(settings: Campus, rows: list[tuple[int, int]]) -> None:
    file = read(settings, *(f"012345678,1,ALMA{fee},{amount(cents)},{amount(-cents)}" for fee, cents in rows))

    expected = {str(fee): sum(cents for each, cents in rows if each == fee) for fee, _ in rows}
    assert {item.fee_id: item.amount for item in file.items} == expected
    assert {item.fee_id: item.balance for item in file.items} == {f: -c for f, c in expected.items()}
    assert file.lines == len(rows)


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payments", "items"),
    [
        ("*.csv", "ITEMS_*.csv"),
        ("PAY_*.csv,*_1.csv", "ITEMS_*.csv"),
        ("ITEMS_?.csv", "ITEMS_*.csv"),
        ("ITEMS_[0-9].csv", "ITEMS_2.csv"),
        ("A*B", "*B"),
        ("LIST.csv", "LIST.csv"),
    ],
)
def test_patterns_that_may_mean_the_same_file_are_refused(tmp_path: Path, payments: str, items: str) -> None:
    text = SETTINGS.replace("PAYMENTS_*.csv", payments).replace('"ITEMS_*.csv"', f'"{items}"')

    with pytest.raises(SettingsError, match="may match both"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("payments", "items"), [("P_*.csv,Q_*.csv", "I_*.csv"), ("*.txt", "*.csv"), ("A?", "A")]
)
def test_patterns_that_mean_different_files_are_accepted(tmp_path: Path, payments: str, items: str) -> None:
    text = SETTINGS.replace("PAYMENTS_*.csv", payments).replace('"ITEMS_*.csv"', f'"{items}"')

    assert load(tmp_path, text).sis_to_alma.items is not None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('reference = "Reference", ', "", "columns: lacks reference"),
        ('balance = "Balance"', 'balance = "Amount"', "two meanings"),
        ('"ITEMS_*.csv"', '"ITEMS_*.csv"\nconfirm_days = 0', "must be 1 or more"),
        ('"ITEMS_*.csv"', '"ITEMS_*.csv"\nitem_type = "x"', "is not known here"),
    ],
)
def test_faults_of_the_section_are_named(tmp_path: Path, before: str, after: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(tmp_path, SETTINGS.replace(before, after))


@pytest.mark.parametrize(
    ("items", "chosen", "days"),
    [(True, "", None), (True, "credit_wait_days = 0", 0), (False, "", 0), (False, "credit_wait_days = 4", 4)],
)
def test_how_long_a_credit_waits(tmp_path: Path, items: bool, chosen: str, days: int | None) -> None:
    text = SETTINGS if items else SETTINGS.partition("[sis_to_alma.items]")[0]

    assert load(tmp_path, text.replace("[sfs]", f"[sfs]\n{chosen}")).credit_wait_days == days
