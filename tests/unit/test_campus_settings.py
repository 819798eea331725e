from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from alma_hook import campus, layouts
from alma_hook.errors import Fatal, SettingsError
from alma_hook.resources import include

SHORTEST = """
institution = "01CAMPUS_INST"
[alma_to_sis]
report_path = "/shared/Campus/Reports/Fees for PeopleSoft"
[sfs]
business_unit = "CAMPS"
origin_id = "LIB01"
directory = "/sfs/inbound"
[item_types]
OVERDUEFINE = "300000000001"
[sis_to_alma]
directory = "/sfs/outbound"
complete_days = true
columns = { emplid = "Emplid", reference = "Reference Number", amount = "Paid Amount", paid_on = "Date Paid" }
"""


def load(folder: Path, text: str) -> campus.Campus:
    file = folder / "campus.toml"
    file.write_text(text, encoding="utf-8")
    return campus.load(file)


def faults(folder: Path, text: str) -> dict[str, str]:
    """The faults of settings: key -> what is said of it."""
    with pytest.raises(SettingsError) as caught:
        load(folder, text)
    assert isinstance(caught.value, Fatal)
    for fault in caught.value.faults:
        assert str(fault) in str(caught.value)
    return {fault.field: fault.text for fault in caught.value.faults}


def changed(*pairs: tuple[str, str]) -> str:
    text = SHORTEST
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    return text


def test_the_shipped_settings_are_whole_short_and_not_live() -> None:
    file = include("campus.toml")
    settings = campus.load(file)
    assert not settings.live
    assert layouts.load(settings.sfs.layout, settings.folder).name == settings.sfs.layout
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) <= 40


def test_what_is_not_answered_has_a_default(tmp_path: Path) -> None:
    settings = load(tmp_path, SHORTEST)
    assert not settings.live
    assert settings.connections.alma == "alma_default"
    assert settings.alma_to_sis.schedule == "0 8,20 * * *"
    assert settings.alma_to_sis.intraday_schedule is None
    assert settings.emplid.source == "primary_id"
    assert settings.folder == tmp_path


def test_the_brakes_amounts_are_cents(tmp_path: Path) -> None:
    text = changed(("[sfs]", '[brake]\nmax_total = "25000.07"\nmax_line = "0.29"\n[sfs]'))
    brake = load(tmp_path, text).brake
    assert (brake.max_total, brake.max_line) == (2_500_007, 29)
    assert load(tmp_path, SHORTEST).brake == campus.Brake(
        max_lines=2000, max_total="100000.00", max_line="2000.00", max_drop=50, approval_hours=24
    )  # type: ignore[arg-type]


def test_nothing_goes_unless_the_settings_say_when(tmp_path: Path) -> None:
    days = ("sent_file_days", "payment_file_days", "dry_run_days", "uncharged_fee_days")
    kept = load(tmp_path, SHORTEST).retention
    assert [getattr(kept, name) for name in days] == [0, 0, 0, 0]
    said = [f"{name} = {least}" for name, least in zip(days, (60, 60, 30, 180), strict=True)]
    least = load(tmp_path, changed(("[sfs]", "\n".join(["[retention]", *said, "[sfs]"])))).retention
    assert [getattr(least, name) for name in days] == [60, 60, 30, 180]


def test_every_fault_is_named_at_once_with_its_key(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        changed(
            ('institution = "01CAMPUS_INST"', 'institution = "no blanks"\ntimezone = "Atlantis/Capital"\nlife = true'),
            ('business_unit = "CAMPS"', 'business_unit = "CAMPUS"'),
            ('directory = "/sfs/inbound"', 'directory = "sfs/inbound"\nread_back = "md5"'),
            ('"300000000001"', '"3000000000012"'),
            ('emplid = "Emplid", ', ""),
        ),
    )  # fmt: skip
    assert set(found) == {
        "institution", "timezone", "life", "sfs.business_unit", "sfs.directory", "sfs.read_back",
        "item_types.OVERDUEFINE", "sis_to_alma.columns",
    }  # fmt: skip
    assert found["timezone"] == "not a time zone name such as America/Los_Angeles"
    assert found["sfs.directory"] == "must be an absolute path on the SFTP server"
    assert "emplid" in found["sis_to_alma.columns"]


def test_every_missing_answer_is_named(tmp_path: Path) -> None:
    assert set(faults(tmp_path, "")) == {"institution", "alma_to_sis", "sfs", "item_types", "sis_to_alma"}


@pytest.mark.parametrize(
    ("before", "after", "key", "said"),
    [
        ('report_path = "/shared/Campus/Reports/Fees for PeopleSoft"', "", "alma_to_sis.report_path", "full path in Alma"),
        ("[alma_to_sis]", '[alma_to_sis]\nmethod = "guess"', "alma_to_sis.method", "analytics_report"),
        ("[alma_to_sis]", "[alma_to_sis]\nworkers = 0", "alma_to_sis.workers", "must be 1 or more"),
        ("[sfs]", '[sfs]\nfile_name = "libfines.dat"', "sfs.file_name", "{kind} and {sequence}"),
        ("[sfs]", '[sfs]\nfile_name = "{kind}_{sequence}_{place}.dat"', "sfs.file_name", "place"),
        ("[sfs]", '[sfs]\nfile_name = "{kind}_{sequence}.txt"', "sfs.file_name", "must end in .dat"),
        ("[sfs]", '[sfs]\nfile_name = "../{kind}_{sequence}.dat"', "sfs.file_name", "without a folder"),
        ("[sfs]", "[retention]\nsent_file_days = 59\n[sfs]", "retention.sent_file_days",
         "must be 0 (all is kept) or at least 60: by its file a line is looked up that has to be made void"),
        ("[sfs]", "[retention]\npayment_file_days = -1\n[sfs]", "retention.payment_file_days", "at least 60: in it"),
        ("[sfs]", "[retention]\ndry_run_days = 29\n[sfs]", "retention.dry_run_days", "at least 30: they are compared"),
        ("[sfs]", "[retention]\nuncharged_fee_days = 1\n[sfs]", "retention.uncharged_fee_days", "at least 180: until"),
        ("[sfs]", '[sfs]\nlayout = "../other"', "sfs.layout", "small letters, digits or _"),
        ("[sfs]", '[emplid]\npattern = "[0-9"\n[sfs]', "emplid.pattern", "not a regular expression"),
        ("[sfs]", '[emplid]\nsource = "barcode"\n[sfs]', "emplid.source", "primary_id or identifier:"),
        ("[sfs]", '[descriptions]\nOVERDUEFINE = "Bücher"\n[sfs]', "descriptions.OVERDUEFINE", "plain ASCII"),
        ("[sfs]", '[descriptions]\nOVERDUEFINE = "a\\nb"\n[sfs]', "descriptions.OVERDUEFINE", "one line"),
        ("[sfs]", "[brake]\nmax_total = 25000.00\n[sfs]", "brake.max_total", "amount in quotes"),
        ("[sfs]", "[brake]\nmax_line = 2000\n[sfs]", "brake.max_line", 'such as "25000.00"'),
        ("[sfs]", '[brake]\nmax_line = "2,000.00"\n[sfs]', "brake.max_line", "not a plain amount"),
        ("[sfs]", '[brake]\nmax_line = "20.005"\n[sfs]', "brake.max_line", "two decimals"),
        ("[sfs]", '[brake]\nmax_line = "-1.00"\n[sfs]', "brake.max_line", "must be 0 or more"),
        ("[sfs]", "[brake]\nmax_drop = 101\n[sfs]", "brake.max_drop", "must be 100 or less"),
        ("[sfs]", "[brake]\napproval_hours = 0\n[sfs]", "brake.approval_hours", "must be 1 or more"),
        ("[sfs]", '[[terms]]\nfirst = 2026-08-20\nterm = "20268"\n[sfs]', "terms[1].term", "must be up to 4 letters or digits"),
        ("[sfs]", '[sfs]\nlayout = "uta_csv"', "sfs", "does not mark credits"),
        ("[sfs]", '[sfs]\nlayout = "humboldt_csv"', "sfs", "does not mark credits"),
        (
            '[sfs]\nbusiness_unit = "CAMPS"', '[sfs]\nlayout = "uta_csv"\ncredits_by = "item_type"',
            "sfs", "business_unit is needed by the layout",
        ),
        ("[sfs]", '[sfs]\nfixed_name = "libfines.txt"', "sfs.fixed_name", "must end in .dat"),
        ("[sfs]", '[sfs]\nfixed_name = "lib{date}.dat"', "sfs.fixed_name", "lib"),
        ("[sfs]", '[sfs]\nread_back = "size"\nfixed_name = "libfines.dat"', "sfs.fixed_name", "read_back"),
        ("[sfs]", '[sfs]\ndone_file = "done"', "sfs.done_file", "needs {file}"),
        ("[sfs]", '[sfs]\ndone_file = "{file}.dat"', "sfs.done_file", ".dat would be loaded"),
        ("[item_types]", "[first_charges]\nminimum = 5\n[item_types]", "first_charges.minimum", "in quotes"),
        (
            "[item_types]", "[first_charges]\nminimum_age_days = 30\nmaximum_age_days = 29\n[item_types]",
            "first_charges.maximum_age_days", "no fee would ever be charged",
        ),
        (
            "[item_types]", "[first_charges]\ndue_in_days = 9\ndue_on_day = 25\n[item_types]",
            "first_charges.due_on_day", "keep one",
        ),
        ("[item_types]", "[first_charges]\ndue_on_day = 29\n[item_types]", "first_charges.due_on_day", "28"),
        ("[item_types]", '[credit_item_types]\n300000000001 = "820000000001"\n[item_types]', "credit_item_types", "of no use"),
        ("[sfs]", '[sfs]\ncredits_by = "item_type"', "credit_item_types", "lacks a row for 300000000001"),
        (
            "[sfs]", '[credit_item_types]\n300000000001 = "300000000001"\n[sfs]\ncredits_by = "item_type"',
            "credit_item_types", "gives credits the item type of charges",
        ),
        ("[item_types]", '[item_types]\nLOST = "3-1"', "item_types.LOST", "must be 1 to 12 letters or digits"),
        ('amount = "Paid Amount"', 'amount = "Emplid"', "sis_to_alma.columns", "two meanings"),
        ('amount = "Paid Amount"', 'paid = "Paid Amount"', "sis_to_alma.columns", "not paid"),
        ("complete_days = true", "", "sis_to_alma.columns", "payment_id"),
        ("[sfs]", '[sfs]\narchive_directory = "/sfs/inbound/"', "sfs.archive_directory", "archived copy"),
        ("[sis_to_alma]", '[sis_to_alma]\narchive_directory = "/sfs/outbound"', "sis_to_alma.archive_directory", "found again"),
        ("[sis_to_alma]", "[sis_to_alma]\nquiet_minutes = 0", "sis_to_alma.quiet_minutes", "must be 2 or more"),
        ("[sfs]", '[sfs]\nlayout = "nowhere"', "sfs.layout", "nowhere.toml: not in the folder layouts beside"),
        ('OVERDUEFINE = "300000000001"', "", "item_types", "must have at least one row"),
        ("[alma_to_sis]", '[alma_to_sis]\nschedule = "0 8,20 * *"', "alma_to_sis.schedule", "five fields"),
        ("[alma_to_sis]", '[alma_to_sis]\nschedule = "0 0 8 * * *"', "alma_to_sis.schedule", "five fields"),
        ("[alma_to_sis]", '[alma_to_sis]\nintraday_schedule = "61 * * * *"', "alma_to_sis.intraday_schedule", "cron"),
        ("[sis_to_alma]", '[sis_to_alma]\nschedule = "0 0 31 2 *"', "sis_to_alma.schedule", "cron"),
        ("[sis_to_alma]", '[sis_to_alma]\ndate_format = "MM/DD/YYYY"', "sis_to_alma.date_format", "such as %m/%d/%Y"),
        ("[sis_to_alma]", '[sis_to_alma]\ndate_format = "%m/%d"', "sis_to_alma.date_format", "day, month and year"),
        ("[sis_to_alma]", '[sis_to_alma]\ndate_format = "%d/%d/%Y"', "sis_to_alma.date_format", "day, month and year"),
        ("[sis_to_alma]", '[sis_to_alma]\ndelimiter = ";;"', "sis_to_alma.delimiter", "one character"),
        # What pydantic says of these speaks of validation, and of Python.
        ('origin_id = "LIB01"', "", "sfs.origin_id", "is missing, and has no default"),
        ("[sfs]", "[sfs]\norigin = 1", "sfs.origin", "is not known here"),
        ('origin_id = "LIB01"', "origin_id = 1", "sfs.origin_id", "must be a text, in quotes"),
        ("[alma_to_sis]", '[alma_to_sis]\nworkers = "many"', "alma_to_sis.workers", "must be a whole number"),
        ("[alma_to_sis]", "[alma_to_sis]\nworkers = 1.5", "alma_to_sis.workers", "must be a whole number"),
        ("[alma_to_sis]", "[alma_to_sis]\nworkers = []", "alma_to_sis.workers", "must be a whole number"),
        ("[alma_to_sis]", "[alma_to_sis]\nworkers = 257", "alma_to_sis.workers", "must be 256 or less"),
        ("[alma_to_sis]", '[alma_to_sis]\nfee_transactions = "x"', "alma_to_sis.fee_transactions", "must be true or"),
        ("[alma_to_sis]", "[alma_to_sis]\nfee_transactions = []", "alma_to_sis.fee_transactions", "must be true or"),
        ("[sfs]", '[sfs]\nmode = "move"', "sfs.mode", "must be 'rename' or 'direct'"),
        ("[sfs]", '[connections]\nalma = ""\n[sfs]', "connections.alma", "must not be empty"),
        ("[sfs]", '[[terms]]\nfirst = "soon"\nterm = "2267"\n[sfs]', "terms[1].first", "must be a day"),
        ("[sfs]", '[[terms]]\nfirst = 2026-08-20T07:00:00\nterm = "2267"\n[sfs]', "terms[1].first", "must be a day"),
        ("[sfs]", '[[terms]]\nfirst = true\nterm = "2267"\n[sfs]', "terms[1].first", "must be a day"),
        ('institution = "01CAMPUS_INST"', 'institution = "01CAMPUS_INST"\nterms = 1', "terms", "a list in brackets"),
        ('institution = "01CAMPUS_INST"', 'institution = "01CAMPUS_INST"\ndescriptions = 1', "descriptions", "a section"),
        ("[item_types]", '[first_charges]\nowners = "LAW"\n[item_types]', "first_charges.owners", "a list in brackets"),
        ('institution = "01CAMPUS_INST"', 'institution = "01CAMPUS_INST"\nemplid = 1', "emplid", "a section"),
    ],
)  # fmt: skip
def test_one_fault(tmp_path: Path, before: str, after: str, key: str, said: str) -> None:
    found = faults(tmp_path, changed((before, after)))
    assert key in found
    assert said in found[key]


def test_one_fault_of_a_section_hides_no_other(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        changed(
            ('report_path = "/shared/Campus/Reports/Fees for PeopleSoft"', "workers = 0"),
            ("[sfs]", '[sfs]\narchive_directory = "/sfs/inbound"\nfile_name = "{name}.txt"\nmode = "move"'),
            ("complete_days = true", 'archive_directory = "/sfs/outbound"\nquiet_minutes = 0'),
            ('amount = "Paid Amount"', 'paid = "Emplid"'),
        ),
    )
    assert set(found) == {
        "alma_to_sis.report_path", "alma_to_sis.workers", "sfs.archive_directory", "sfs.file_name", "sfs.mode",
        "sis_to_alma.archive_directory", "sis_to_alma.quiet_minutes", "sis_to_alma.columns",
    }  # fmt: skip
    for said in ("knows {kind}", "needs {kind}", "must end in .dat"):
        assert said in found["sfs.file_name"]
    columns = found["sis_to_alma.columns"]
    assert columns.startswith("lacks amount; ")
    for said in ("not paid", "lacks payment_id", "two meanings"):
        assert said in columns


@pytest.mark.parametrize("schedule", ["0 8,20 * * *", "*/30 6-22 * * mon-fri", "@daily"])
@pytest.mark.parametrize("date_format", ["%Y-%m-%d", "%d-%b-%y", "%m/%d/%Y %H:%M:%S"])
def test_what_airflow_and_python_understand_is_taken(tmp_path: Path, schedule: str, date_format: str) -> None:
    text = changed(
        ("[alma_to_sis]", f'[alma_to_sis]\nschedule = "{schedule}"'),
        ("[sis_to_alma]", f'[sis_to_alma]\ndate_format = "{date_format}"'),
    )
    assert load(tmp_path, text).alma_to_sis.schedule == schedule


def test_a_layout_of_the_campus_s_own_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "own.toml").write_text('name = "own"')
    text = changed(("[sfs]", '[sfs]\nlayout = "own"'))
    assert "own.toml, detail: is missing" in faults(tmp_path, text)["sfs.layout"]
    (tmp_path / "layouts" / "own.toml").write_text((include("layouts") / "default.toml").read_text())
    assert load(tmp_path, text).sfs.layout == "own"


NARROW = """
name = "own"
title = "Narrow"
status = "made up"
source = "made up"
form = "delimited"
delimiter = "|"
quote = "never"
[detail]
fields = [
  { source = "emplid", max_width = 11 }, { source = "item_type", max_width = 11, name = "Item type" },
  { source = "amount", max_width = 12 }, { source = "reversal" }, { source = "currency", max_width = 2, name = "Money" },
  { source = "account_type", max_width = 3, name = "Account" }, { source = "term", max_width = 3, name = "Term" },
  { source = "description", max_width = 10, name = "Text" }, { source = "reference", max_width = 30 },
]
"""


def narrow(folder: Path, told: str = NARROW) -> None:
    (folder / "layouts").mkdir(exist_ok=True)
    (folder / "layouts" / "own.toml").write_text(told)


def test_what_fits_no_line_of_the_layout_is_a_fault_of_its_key(tmp_path: Path) -> None:
    narrow(tmp_path, NARROW.replace("max_width = 2,", "max_width = 3,"))
    text = changed(
        ("[sfs]", '[sfs]\nlayout = "own"\naccount_type = "LIB"'),
        ("[item_types]", '[item_types]\nSHORT = "30000000001"\nLOST = "300000000002"'),
        (
            "[sis_to_alma]",
            '[item_types_of.LAW]\nLOST = "300000000003"\n[first_charges]\nother_item_type = "300000000004"\n'
            '[descriptions]\nLOST = "Eleven of 11"\nSHORT = "a|b"\n[[terms]]\nfirst = 2026-08-20\nterm = "2267"\n'
            "[sis_to_alma]\nlife = 1",
        ),
    )
    wide = "as the layout's Item type it is longer than its 11 columns"
    assert faults(tmp_path, text) == {
        "item_types": f"LOST, OVERDUEFINE: {wide}",
        "item_types_of": f"LAW.LOST: {wide}",
        "first_charges": f"other_item_type: {wide}",
        "descriptions": "LOST: as the layout's Text it is longer than its 10 columns; SHORT: as the layout's Text it "
        "holds the delimiter or a quote, and values are never quoted",
        "terms": "term 2267: as the layout's Term it is longer than its 3 columns",
        "sis_to_alma.life": "is not known here: misspelt, or in the wrong section?",
    }


def test_what_students_read_of_other_fee_types_has_to_fit_too(tmp_path: Path) -> None:
    narrow(tmp_path, NARROW.replace("max_width = 2,", "max_width = 3,").replace("= 11, name", "= 12, name"))
    text = changed(
        ("[sfs]", '[sfs]\nlayout = "own"\naccount_type = "LIB"'),
        (
            "[item_types]",
            '[first_charges]\nother_item_type = "1"\n[descriptions]\nLOST = "Lost"\n[item_types]\nLOST = "2"',
        ),
        ("[sis_to_alma]", '[[terms]]\nfirst = 2026-08-20\nterm = "227"\n[sis_to_alma]'),
    )
    assert faults(tmp_path, text) == {
        "descriptions": "'Library fee' for OVERDUEFINE: as the layout's Text it is longer than its 10 columns"
    }


def test_a_credits_item_type_has_to_fit_too(tmp_path: Path) -> None:
    text = NARROW.replace("max_width = 2,", "max_width = 3,").replace("max_width = 10", "max_width = 30")
    narrow(tmp_path, text.replace('"term", max', '"term", optional = true, max'))
    settings = changed(
        ("[sfs]", '[sfs]\nlayout = "own"\naccount_type = "LIB"\ncredits_by = "item_type"'),
        ("300000000001", "1"),
        ("[item_types]", '[credit_item_types]\n1 = "820000000001"\n[item_types]'),
    )
    assert faults(tmp_path, settings) == {
        "credit_item_types": "1: as the layout's Item type it is longer than its 11 columns"
    }


def test_what_the_layout_needs_in_each_line_and_the_settings_lack(tmp_path: Path) -> None:
    narrow(tmp_path, NARROW.replace("max_width = 10", "max_width = 30"))
    found = faults(tmp_path, changed(("[sfs]", '[sfs]\nlayout = "own"'), ("300000000001", "1")))
    assert found == {"sfs": "account_type is needed by the layout, as its Account"}
    found = faults(
        tmp_path, changed(("[sfs]", '[sfs]\nlayout = "own"\naccount_type = "LIB"'), ("300000000001", "1"))
    )
    assert found == {"sfs": "currency has more than the 2 columns of the layout's Money"}
    narrow(
        tmp_path,
        NARROW.replace("max_width = 10", "max_width = 30").replace("max_width = 2,", "max_width = 3,"),
    )
    found = faults(
        tmp_path, changed(("[sfs]", '[sfs]\nlayout = "own"\naccount_type = "LIB"'), ("300000000001", "1"))
    )
    assert found == {"terms": "no row: as the layout's Term it is missing"}


def test_two_terms_do_not_begin_on_one_day(tmp_path: Path) -> None:
    rows = '[[terms]]\nfirst = 2026-08-20\nterm = "2272"\n[[terms]]\nfirst = 2026-08-20\nterm = "2268"\n'
    assert (
        "two rows of one day" in faults(tmp_path, changed(("[item_types]", f"{rows}[item_types]")))["terms"]
    )


def test_settings_that_are_no_toml_name_the_place(tmp_path: Path) -> None:
    assert "line 2" in " ".join(faults(tmp_path, 'institution = "01CAMPUS_INST"\nlive = yes').values())


def test_settings_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "campus.toml"
    file.write_bytes(SHORTEST.replace("Emplid", "Matrikel für").encode("cp1252"))
    with pytest.raises(
        SettingsError, match=r"campus\.toml: is not UTF-8 text \(line 14 holds .*\): save it as UTF-8"
    ):
        campus.load(file)
    file.write_bytes(SHORTEST.encode("utf-16"))
    with pytest.raises(SettingsError, match=r"campus\.toml: is UTF-16 text: save it as UTF-8"):
        campus.load(file)


def test_a_byte_order_mark_of_an_editor_is_passed_over(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + SHORTEST).institution == "01CAMPUS_INST"


def test_missing_settings_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"campus\.toml: No such file"):
        campus.load(tmp_path / "campus.toml")


def test_a_value_never_stands_in_the_fault(tmp_path: Path) -> None:
    # A key pasted into the wrong file must not end in a log.
    secret = "l7xx0000000000000000000000000000"
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, changed(("[sfs]", f'[sfs]\napi_key = "{secret}"\nread_back = "{secret}"')))
    assert secret not in str(caught.value)


def test_the_environment_names_the_settings_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = tmp_path / "home" / "include" / "campus.toml"
    named = tmp_path / "elsewhere.toml"
    for file in (beside, named):
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(SHORTEST)
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)
    monkeypatch.delenv(campus.SETTINGS_VARIABLE, raising=False)
    assert campus.find(tmp_path / "home" / "dags") == beside
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    assert campus.find() == beside
    monkeypatch.setenv(campus.SETTINGS_VARIABLE, str(named))
    assert campus.find(tmp_path / "home" / "dags") == named
    named.unlink()
    with pytest.raises(SettingsError) as caught:
        campus.find(tmp_path / "home" / "dags")
    assert str(named) in str(caught.value)
    assert str(beside) not in str(caught.value)


def test_a_search_in_vain_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)
    monkeypatch.delenv(campus.SETTINGS_VARIABLE, raising=False)
    with pytest.raises(SettingsError) as caught:
        campus.find(tmp_path / "dags")
    assert str(tmp_path / "include" / "campus.toml") in str(caught.value)
    assert "python -m alma_hook init" in str(caught.value)


def test_the_term_is_that_of_the_last_row_begun(tmp_path: Path) -> None:
    rows = '[[terms]]\nfirst = 2027-01-04\nterm = "2272"\n[[terms]]\nfirst = 2026-08-20\nterm = "2268"\n'
    settings = load(tmp_path, changed(("[item_types]", f"{rows}[item_types]")))
    assert [
        settings.term(day)
        for day in (date(2026, 8, 19), date(2026, 8, 20), date(2027, 1, 3), date(2027, 1, 4), date(2030, 1, 1))
    ] == ["", "2268", "2268", "2272", "2272"]  # fmt: skip


def test_the_day_is_the_campuss_own(tmp_path: Path) -> None:
    settings = load(tmp_path, SHORTEST)
    assert settings.today(datetime(2026, 11, 2, 7, 59, tzinfo=UTC)) == date(2026, 11, 1)
    assert settings.today(datetime(2026, 11, 2, 8, 0, tzinfo=UTC)) == date(2026, 11, 2)


@pytest.mark.parametrize(
    ("reference", "fee_id"),
    [
        ("ALMA138412345678", "138412345678"), ("ALMA138412345678   ", "138412345678"), ("138412345678", None),
        ("ALMA", None), ("ALMA13841x", None), ("alma138412345678", None), ("ALMA\uff11\uff13", None), ("", None),
    ],
)  # fmt: skip
def test_a_reference_tells_its_fee(tmp_path: Path, reference: str, fee_id: str | None) -> None:
    settings = load(tmp_path, SHORTEST)
    assert settings.fee_id_of(reference) == fee_id
    assert settings.fee_id_of(settings.reference("138412345678")) == "138412345678"


def test_the_shortest_settings_have_twelve_answers_at_most() -> None:
    def answers(value: object) -> int:
        return sum(map(answers, value.values())) if isinstance(value, dict) else 1

    assert answers(tomllib.loads(SHORTEST)) <= 12


@pytest.mark.parametrize("value", ['"yes"', "1", '"true"'])
def test_whether_a_campus_is_live_is_said_without_quotes(tmp_path: Path, value: str) -> None:
    """What may move money is taken for no more than it says."""
    assert faults(tmp_path, f"live = {value}\n{SHORTEST}")["live"] == "must be true or false, without quotes"
