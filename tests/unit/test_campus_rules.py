"""What a campus rules by its settings: who is charged, for what, until when, and what a credit looks like.

The witnesses are the simulated PeopleSoft's books and Alma's count of calls.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from alma_hook import campus as campuses
from alma_hook import confirmations, layouts, receivables
from alma_hook.errors import Fatal, SendingStopped, SettingsError
from alma_hook.ledger import exceptions
from alma_hook.repair import repair
from simulator.alma_records import Fee
from simulator.sfs_layout import read_layout
from tests.bridge import SETTINGS, Bridge
from tests.unit.test_applied import by_level

CREDIT_TYPE = "820000000001"
CREDITS = f"""
[credit_item_types]
300000000001 = "{CREDIT_TYPE}"
300000000002 = "{CREDIT_TYPE}"
300000000003 = "{CREDIT_TYPE}"
"""
ITEMS = """
[sis_to_alma.items]
pattern = "LIBRARY_APPLIED_*.csv"
columns = { emplid = "Emplid", reference = "Reference Nbr", amount = "Item Amt", balance = "Item Balance" }
complete = true
"""


def by_item_type(text: str) -> str:
    return text.replace("[sfs]", '[sfs]\ncredits_by = "item_type"') + CREDITS


def with_items(text: str) -> str:
    return (
        text.replace(
            'directory = "/sfs/outbound"', 'directory = "/sfs/outbound"\npattern = "LIBRARY_PAYMENTS_*.csv"'
        )
        + ITEMS
    )


def ruled(**rules: Any) -> Callable[[str], str]:
    """Settings with these rules of ``first_charges``."""
    told = "\n".join(f"{name} = {_toml(value)}" for name, value in rules.items())
    return lambda text: text.replace("[item_types]", f"[first_charges]\n{told}\n[item_types]")


def _toml(value: Any) -> str:
    return str(value) if isinstance(value, int | date) else repr(value).replace("'", '"')


def campus_of(tmp_path: Path, **given: Any) -> Bridge:
    return Bridge(tmp_path, **{"students": 4, "fees": 0, **given})


def rule(bridge: Bridge, **rules: Any) -> None:
    """From now on the settings say this."""
    told = campuses.FirstCharges(**rules)
    bridge.campus = bridge.campus.model_copy(update={"first_charges": told})


def run(bridge: Bridge, *, load: bool = True, days: float = 0, **how: Any) -> None:
    """The night's report, a run of alma_to_sis, and PeopleSoft's load."""
    bridge.far.clock.advance(days=days, seconds=60)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis(**how)
    if load:
        bridge.far.clock.advance(seconds=60)
        for result in bridge.far.load_inbound():
            assert result.loaded, result


def student_pays(bridge: Bridge, fee: Fee, cents: int) -> None:
    sfs = bridge.far.peoplesoft
    (item,) = [item for item in sfs.items.values() if item.reference == f"ALMA{fee.id}"]
    sfs.pay(item.item_nbr, cents)
    bridge.far.clock.advance(seconds=60)
    bridge.far.write_query_output()
    bridge.sis_to_alma()


def told(bridge: Bridge, fee: Fee) -> tuple[int, int]:
    """What PeopleSoft was charged and credited for a fee."""
    book = bridge.books().fees[fee.id]
    return book.charged_cents, book.credited_cents


def listed(bridge: Bridge) -> dict[str, int]:
    """How many are listed, by kind, with what the settings leave out."""
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        return {row["kind"]: int(row["n"]) for row in exceptions.totals(tx)}


def calls(bridge: Bridge) -> int:
    """How many calls so far asked for a user or a user's fees."""
    return sum("/users/" in call.target for call in bridge.far.api.calls)


def calls_for_an_account(rules: dict[str, Any]) -> int:
    """Its active fees; and the user, where the rules ask for the group."""
    return 2 if any("user_groups" in name for name in rules) else 1


@pytest.fixture
def small(tmp_path: Path) -> Bridge:
    return campus_of(tmp_path)


# -- credits with an item type of their own -------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path, ledger_url: str) -> Bridge:
    """A campus whose credits have an item type, and whose list of items tells what was loaded."""
    return campus_of(
        tmp_path,
        url=ledger_url,
        settings=lambda text: with_items(by_item_type(text)),
        credit_item_types=(CREDIT_TYPE,),
    )


def see(bridge: Bridge, days: float = 0) -> None:
    bridge.far.clock.advance(days=days, seconds=60)
    bridge.far.write_query_output(kind="applied")
    bridge.sis_to_alma()


def test_a_credit_item_pays_the_charge_that_it_lowers(apart: Bridge) -> None:
    waived, paid = (
        apart.far.alma.add_fee(student, cents)
        for student, cents in zip(apart.far.students, (1000, 800), strict=False)
    )
    run(apart)
    see(apart)
    apart.far.alma.waive_at_desk(waived.id, 300)
    run(apart, load=False)

    (file,) = apart.far.path("/sfs/inbound").glob("*.dat")
    line = file.read_bytes().splitlines()[1]
    assert (line[12:24], line[40:41]) == (CREDIT_TYPE.encode(), b"N")

    assert [result.kind for result in apart.far.load_inbound()] == ["credits"]
    student_pays(apart, waived, 700)
    student_pays(apart, paid, 500)
    see(apart)
    run(apart)
    assert (told(apart, waived), told(apart, paid)) == ((1000, 300), (800, 0))
    assert (apart.books().unequal, listed(apart), apart.balances()["unexplained"]) == ({}, {}, 0)
    with closing(apart.ledger("look")) as ledger, ledger.read() as tx:
        assert (
            tx.one(
                "SELECT COUNT(*) FROM line WHERE institution = :i AND confirmed_at IS NULL AND credit_item = 0"
            )
            == 0
        )


def test_a_charge_is_not_made_void_while_its_credit_item_lies_on_the_account(apart: Bridge) -> None:
    fee = apart.far.alma.add_fee(apart.far.students[0], 1000)
    apart.campus = apart.campus.model_copy(
        update={"sfs": apart.campus.sfs.model_copy(update={"credit_wait_days": 0})}
    )
    run(apart)
    apart.far.alma.waive_at_desk(fee.id, 300)
    run(apart)
    with (
        apart.working("out") as (ledger, lease),
        pytest.raises(Fatal, match="credits were sent for its fee after it"),
    ):
        confirmations.void(
            ledger, lease, "000001", 1, "asked", rejected=True, settings=apart.campus.sis_to_alma.items
        )


def test_a_credit_item_that_was_lost_is_not_taken_for_seen_and_made_void_once_the_office_says_so(
    apart: Bridge,
) -> None:
    fee = apart.far.alma.add_fee(apart.far.students[0], 1000)
    run(apart)
    see(apart)
    apart.far.alma.waive_at_desk(fee.id, 300)
    run(apart, load=False)
    for file in apart.far.path("/sfs/inbound").glob("*.dat"):
        file.unlink()
    for _ in range(5):
        see(apart, days=1)
        run(apart)

    def void(rejected: bool) -> int:
        with apart.working("out") as (ledger, lease):
            items = apart.campus.sis_to_alma.items
            return confirmations.void(ledger, lease, "000002", 1, "asked", rejected=rejected, settings=items)

    # A list of items shows the charge's amount whether the credit came or not.
    with pytest.raises(Fatal, match="shows no credits"):
        void(rejected=False)
    assert void(rejected=True) == 1
    run(apart)
    assert (told(apart, fee), apart.books().unequal, listed(apart)) == ((1000, 300), {}, {})


@pytest.mark.parametrize("credits_by", ["reversal", "item_type"])
def test_a_credit_below_nought_is_loaded_whichever_way_credits_are_marked(
    tmp_path: Path, credits_by: str
) -> None:
    def settings(text: str) -> str:
        return by_item_type(text) if credits_by == "item_type" else text

    bridge = campus_of(tmp_path, settings=settings, credit_item_types=(CREDIT_TYPE,))
    below = 'source = "control_total", negative = "credits"', 'source = "amount", negative = "credits"'
    told = (layouts.include("layouts") / "default.toml").read_text()
    for field in below:
        told = told.replace(field.split(",")[0], field)
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "default.toml").write_text(told)
    bridge.layout = layouts.load("default", tmp_path)
    bridge.far.peoplesoft.layout = read_layout(tmp_path / "layouts" / "default.toml")

    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    run(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 300)
    run(bridge, load=False)
    (file,) = bridge.far.path("/sfs/inbound").glob("*.dat")
    header, line = file.read_text().splitlines()
    assert (header[11:27], line[24:40]) == ("-000000000003.00",) * 2
    (result,) = bridge.far.load_inbound()
    assert (result.kind, result.posted, result.rejects) == ("credits", 1, ())
    student_pays(bridge, fee, 700)
    run(bridge)
    assert (bridge.books().unequal, listed(bridge)) == ({}, {})


@pytest.mark.parametrize("before", ["reversal", "item_type"])
def test_the_way_of_credits_may_change_while_charges_are_open(tmp_path: Path, before: str) -> None:
    bridge = campus_of(
        tmp_path, settings=lambda text: with_items(by_item_type(text)), credit_item_types=(CREDIT_TYPE,)
    )

    def ways(credits_by: str) -> None:
        sfs = bridge.campus.sfs.model_copy(update={"credits_by": credits_by})
        bridge.campus = bridge.campus.model_copy(update={"sfs": sfs})

    ways(before)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    run(bridge)
    see(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 300)
    run(bridge)
    see(bridge)
    ways("item_type" if before == "reversal" else "reversal")
    bridge.far.alma.waive_at_desk(fee.id, 200)
    run(bridge)
    see(bridge)
    run(bridge)

    assert told(bridge, fee) == (1000, 500)
    assert (bridge.books().unequal, listed(bridge)) == ({}, {})


def test_without_a_row_for_the_charge_sent_its_credit_is_listed(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=by_item_type, credit_item_types=(CREDIT_TYPE,))
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    run(bridge)
    rows = {name: row for name, row in bridge.campus.credit_item_types.items() if name != "300000000001"}
    bridge.campus = bridge.campus.model_copy(update={"credit_item_types": rows})
    bridge.far.alma.waive_at_desk(fee.id, 300)
    run(bridge)
    assert (told(bridge, fee), listed(bridge)) == ((1000, 0), {"item type without credit item type": 1})


@pytest.mark.parametrize("since", [True, False])
def test_an_archive_brings_credit_items_back_and_one_of_before_them_too(tmp_path: Path, since: bool) -> None:
    bridge = campus_of(
        tmp_path,
        settings=(lambda text: with_items(by_item_type(text))) if since else with_items,
        credit_item_types=(CREDIT_TYPE,) if since else (),
    )
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    run(bridge)
    see(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 300)
    run(bridge)
    see(bridge)
    for manifest in bridge.folder.path(bridge.campus.sfs.archive_directory).glob("*.manifest.csv"):
        rows = [row.rpartition(",") for row in manifest.read_text().splitlines()]
        assert rows[0][2] == "credit_item"
        if not since:
            manifest.write_text("".join(f"{row[0]}\n" for row in rows))
    Path(bridge.url.removeprefix("sqlite:///")).unlink()
    with closing(bridge.ledger("new")) as ledger:
        ledger.migrate()
        with ledger.lease("out", "repair") as out, ledger.lease("back", "repair") as back:
            repair(ledger, out, back, bridge.campus, bridge.folder, bridge.folder, bridge.api)
    see(bridge)
    run(bridge)
    assert told(bridge, fee) == (1000, 300)
    assert (bridge.books().unequal, listed(bridge)) == ({}, {})


# -- who is charged ---------------------------------------------------------------------------------------------


def made(bridge: Bridge, cents: int = 1000, *, student: int = 0, days_ago: float = 0, **of: Any) -> Fee:
    at = bridge.far.clock.now() - timedelta(days=days_ago)
    return bridge.far.alma.add_fee(bridge.far.students[student], cents, at=at, **of)


@pytest.mark.parametrize(
    ("rules", "out", "charged", "kind"),
    [
        ({"minimum": "5.00"}, {"cents": 499}, {"cents": 500}, "below the minimum"),
        ({"minimum_age_days": 30}, {"days_ago": 29}, {"days_ago": 30}, "too young"),
        ({"maximum_age_days": 365}, {"days_ago": 366}, {"days_ago": 365}, "too old"),
        ({"owners": ["MAIN"]}, {"owner": "LAW"}, {"owner": "MAIN"}, "owning library"),
        ({"owners_left_out": ["LAW"]}, {"owner": "LAW"}, {"owner": "MAIN"}, "owning library"),
        ({"user_groups": ["UNDERGRAD"]}, {"student": 4}, {"student": 0}, "user group"),
        ({"user_groups_left_out": ["GRADUATE"]}, {"student": 4}, {"student": 0}, "user group"),
        ({"fee_types_left_out": ["LOSTITEMPROCESSFEE"]}, {"type": "LOSTITEMPROCESSFEE"}, {}, "fee type"),
        ({"without_item_type": "leave_out"}, {"type": "LOCKERKEY"}, {}, "fee type"),
        ({"minimum_of_student": "10.00"}, {"cents": 999}, {"cents": 1000}, "student below the minimum"),
    ],
)
def test_what_the_settings_leave_out_is_not_charged_and_costs_no_calls(
    tmp_path: Path, rules: dict[str, Any], out: dict[str, Any], charged: dict[str, Any], kind: str
) -> None:
    bridge = campus_of(tmp_path, students=5, settings=ruled(**rules))
    left = made(bridge, **{"student": 1, **out})
    other = made(bridge, **charged)
    run(bridge)
    assert (told(bridge, left), told(bridge, other)[0]) == ((0, 0), other.balance_cents)
    assert listed(bridge) == {f"left out: {kind}": 1}
    # It waits for nobody: it is no exception to deal with, and the books are explained.
    assert (bridge.exceptions(), bridge.balances()["unexplained"]) == ({}, 0)

    asked = calls(bridge)
    run(bridge)
    assert calls(bridge) == asked
    run(bridge, method="open_fees")
    assert calls(bridge) - asked == calls_for_an_account(rules)  # that of the other fee

    # Once charged, it stays charged, whatever the settings leave out later.
    rule(bridge, other_item_type="300000000003")
    run(bridge)
    assert told(bridge, left) == (left.balance_cents, 0)
    rule(bridge, **rules)
    bridge.far.alma.waive_at_desk(left.id, 100)
    bridge.far.alma.raise_fee(other.id, 100)
    run(bridge)
    assert told(bridge, left)[1] == 100
    assert (bridge.books().unequal, listed(bridge)) == ({}, {})


def test_a_fee_is_charged_on_the_day_on_which_it_is_old_enough(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(minimum_age_days=3))
    fee = made(bridge)
    run(bridge)
    asked = calls(bridge)
    for _ in range(2):
        run(bridge, days=1)
        assert (told(bridge, fee), calls(bridge)) == ((0, 0), asked)
    run(bridge, days=1)
    assert (told(bridge, fee), listed(bridge)) == ((1000, 0), {})


def test_it_is_looked_at_again_when_its_balance_is_another(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(minimum="10.00"))
    fee = made(bridge, 900)
    run(bridge)
    bridge.far.alma.raise_fee(fee.id, 100)
    run(bridge)
    assert (told(bridge, fee), listed(bridge)) == ((1000, 0), {})


def test_the_student_is_charged_with_all_of_it_once_it_is_enough(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(minimum_of_student="10.00"))
    first = made(bridge, 600)
    staff = made(bridge, 500, type="LOCKERKEY")  # without item type it counts for nothing
    run(bridge)
    assert listed(bridge) == {"left out: student below the minimum": 1, "fee type without item type": 1}
    second = made(bridge, 400)
    run(bridge)
    assert [told(bridge, fee)[0] for fee in (first, second, staff)] == [600, 400, 0]
    # With something open already, a small one more is enough.
    third = made(bridge, 50)
    run(bridge)
    assert told(bridge, third)[0] == 50


def test_what_is_too_young_counts_for_no_students_sum_yet(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(minimum_of_student="10.00", minimum_age_days=3))
    first, second = made(bridge, 600, days_ago=4), made(bridge, 400, days_ago=1)
    run(bridge)
    assert [told(bridge, fee)[0] for fee in (first, second)] == [0, 0]
    run(bridge, days=2)
    assert [told(bridge, fee)[0] for fee in (first, second)] == [600, 400]


@pytest.mark.parametrize("method", ["sis_profile", "open_fees"])
def test_what_no_report_names_is_looked_at_again_within_a_week(tmp_path: Path, method: str) -> None:
    bridge = campus_of(tmp_path, settings=ruled(minimum="10.00"))
    fee = made(bridge, 900)
    run(bridge)
    bridge.far.alma.behaviour.fees_touch_users = False
    bridge.far.alma.raise_fee(fee.id, 5000)
    asked = calls(bridge)
    for _ in range(6):
        run(bridge, days=1, method=method)
    assert (told(bridge, fee), calls(bridge)) == ((0, 0), asked)
    run(bridge, days=1, method=method)
    assert (told(bridge, fee), listed(bridge)) == ((5900, 0), {})


def test_a_fee_that_a_repair_knows_as_charged_is_left_out_no_more(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path)
    fee = made(bridge, 3000)
    run(bridge)
    rule(bridge, minimum="10.00")
    Path(bridge.url.removeprefix("sqlite:///")).unlink()
    with closing(bridge.ledger("new")) as ledger:
        ledger.migrate()
    bridge.far.alma.waive_at_desk(fee.id, 2100)
    run(bridge, live=False, load=False)
    assert listed(bridge) == {"left out: below the minimum": 1}
    with (
        closing(bridge.ledger("repair")) as ledger,
        ledger.lease("out", "repair") as out,
        ledger.lease("back", "repair") as back,
    ):
        repair(ledger, out, back, bridge.campus, bridge.folder, bridge.folder, bridge.api)
    run(bridge)
    assert (told(bridge, fee), bridge.books().unequal, listed(bridge)) == ((3000, 2100), {}, {})


def test_what_is_in_dispute_counts_for_the_student_once_it_was_charged(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(minimum_of_student="10.00"))
    first = made(bridge, 1000)
    run(bridge)
    bridge.far.alma.dispute(first.id)
    second = made(bridge, 50)
    run(bridge)
    assert told(bridge, second) == (50, 0)


def test_an_emplid_that_changed_is_listed_whatever_the_rules_leave_out(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path)
    fee = made(bridge, 1000)
    run(bridge)
    bridge.far.alma.rekey_user(fee.user.primary_id, bridge.far.students[3].primary_id[:-1] + "9")
    bridge.far.alma.raise_fee(fee.id, 300)
    rule(bridge, minimum="5.00")
    run(bridge)
    assert listed(bridge) == {"EMPLID changed since the charge": 1}


def test_a_reading_that_goes_on_asks_nothing_twice_of_what_was_left_out(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(minimum="50.00"))
    for student in range(4):
        made(bridge, student=student)
    run(bridge)
    rule(bridge, minimum="40.00")
    asked = calls(bridge)
    for _ in range(3):
        with closing(bridge.ledger("one run")) as ledger, ledger.lease("out", "one run") as lease:
            bridge.read(ledger, lease)
    assert calls(bridge) - asked == 4


def test_a_fee_that_was_left_out_and_is_settled_is_off_the_list(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(owners=["MAIN"]))
    fee = made(bridge, owner="LAW")
    run(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 1000)
    run(bridge)
    assert (listed(bridge), bridge.books().unequal) == ({}, {})


def test_a_dispute_about_what_is_left_out_concerns_nobody_here(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(owners=["MAIN"]))
    bridge.far.alma.dispute(made(bridge, owner="LAW").id)
    bridge.far.alma.dispute(made(bridge, student=1).id)
    run(bridge)
    assert listed(bridge) == {"left out: owning library": 1, "in dispute": 1}


def test_people_who_are_not_in_peoplesoft_are_written_down_for_accounts_receivable(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(without_emplid="leave_out"))
    alma = bridge.far.alma
    guest = alma.add_user("guest.17", user_group="COMMUNITY", last_name="000017")
    fee = alma.add_fee(guest, 1250, at=bridge.far.clock.now())
    made(bridge)
    run(bridge)
    assert (listed(bridge), bridge.exceptions()) == ({"left out: not in PeopleSoft": 1}, {})

    output = tmp_path / "receivables.csv"
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        assert receivables.write(tx, output) == (1, 1250)
        with pytest.raises(Fatal, match="not there yet"):
            receivables.write(tx, output)
    heading, row = csv.reader(output.read_text().splitlines())
    assert (heading, row[:4], row[5]) == (
        [*receivables.HEADING],
        ["guest.17", fee.id, fee.type, "MAIN"],
        "12.50",
    )
    assert output.stat().st_mode & 0o777 == 0o600

    alma.waive_at_desk(fee.id, 1250)
    run(bridge)
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        assert receivables.write(tx, tmp_path / "later.csv") == (0, 0)


# -- for what, and until when -------------------------------------------------------------------------------------


def test_an_owners_own_row_comes_first_then_the_common_one_then_the_rest(tmp_path: Path) -> None:
    own = '[item_types_of.LAW]\nOVERDUEFINE = "300000000003"\n[first_charges]\nother_item_type = "300000000002"\n'
    bridge = campus_of(
        tmp_path, settings=lambda text: text.replace("[sis_to_alma]", f"{own}[sis_to_alma]", 1)
    )
    fees = [made(bridge), made(bridge, owner="LAW"), made(bridge, owner="LAW", type="LOCKERKEY")]
    run(bridge)
    types = {item.reference: item.item_type for item in bridge.far.peoplesoft.items.values()}
    assert [types[f"ALMA{fee.id}"] for fee in fees] == ["300000000001", "300000000003", "300000000002"]
    assert (bridge.books().unequal, listed(bridge)) == ({}, {})


@pytest.mark.parametrize(
    ("rules", "day", "due"),
    [
        ({}, date(2026, 11, 22), ""),
        ({"due_in_days": 30}, date(2026, 12, 22), "2027-01-21"),
        ({"due_in_days": 0}, date(2026, 12, 22), "2026-12-22"),
        ({"due_on_day": 25}, date(2026, 11, 25), "2026-12-25"),
        ({"due_on_day": 25}, date(2026, 11, 26), "2027-01-25"),
        ({"due_on_day": 25}, date(2026, 12, 1), "2027-01-25"),
        ({"due_on_day": 28}, date(2027, 1, 31), "2027-03-28"),
    ],
)
def test_due_dates(small: Bridge, rules: dict[str, Any], day: date, due: str) -> None:
    rule(small, **rules)
    assert small.campus.due_date(day) == due


def test_charges_are_due_and_credits_are_not(tmp_path: Path) -> None:
    bridge = campus_of(tmp_path, settings=ruled(due_in_days=30))
    fee = made(bridge)
    run(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 400)
    run(bridge)
    bridge.far.alma.raise_fee(fee.id, 200)
    run(bridge)
    due = (bridge.campus.today(bridge.far.clock.now()) + timedelta(days=30)).strftime("%m%d%Y").encode()
    files = sorted(bridge.far.path(bridge.far.folders.loaded).glob("*.dat"), key=lambda file: file.name[-10:])
    assert [file.read_bytes().splitlines()[1][53:61] for file in files] == [due, b" " * 8, due]


@pytest.mark.parametrize("rules", [{"user_groups_left_out": ["GRADUATE"]}, {"user_groups": ["UNDERGRAD"]}])
def test_a_rule_on_groups_that_begins_between_reading_and_planning_charges_nobody_by_guess(
    tmp_path: Path, rules: dict[str, Any]
) -> None:
    bridge = campus_of(tmp_path, students=5)
    graduate, other = made(bridge, 1000, student=4), made(bridge, 1000, student=0)
    bridge.far.clock.advance(seconds=60)
    bridge.far.refresh_analytics()
    with bridge.working("out") as (ledger, lease):
        for name, work in bridge.tasks_out("analytics_report"):
            if name == "plan":
                rule(bridge, **rules)
            work(ledger, lease)
    bridge.far.load_inbound()
    assert (told(bridge, graduate), told(bridge, other)) == ((0, 0), (0, 0))
    assert listed(bridge) == {"Alma does not tell the user's group": 2}

    run(bridge)

    assert (told(bridge, graduate), told(bridge, other)) == ((0, 0), (1000, 0))
    assert listed(bridge) == {"left out: user group": 1}


def test_credit_items_are_never_taken_for_payments_by_applied_amounts(tmp_path: Path) -> None:
    """They were sent before the first file of payments came, and the settings know nothing of them any more."""
    bridge = campus_of(tmp_path, settings=by_item_type, credit_item_types=(CREDIT_TYPE,))
    fee = made(bridge)
    run(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 300)
    run(bridge)
    bridge.file.write_text(by_level(SETTINGS.format(report_path=bridge.far.analytics.path, layout="default")))
    bridge.campus = campuses.load(bridge.file)
    bridge.far.clock.advance(days=1)
    bridge.far.write_query_output(kind="applied")

    with pytest.raises(SendingStopped, match="item type of their own"):
        bridge.sis_to_alma()

    assert [t.kind for t in fee.transactions] == ["WAIVE"]


def test_our_own_credits_are_no_payments(tmp_path: Path) -> None:
    kinds = f'kind = "Item Type"\n[sis_to_alma.kinds]\n{CREDIT_TYPE} = "payment"\n'
    with pytest.raises(SettingsError, match="our own credits would be posted"):
        campus_of(tmp_path, settings=lambda text: by_item_type(text.rstrip() + "\n" + kinds))


def test_a_query_that_shows_our_credits_too_is_read_by_the_item_type(tmp_path: Path) -> None:
    kinds = f"""kind = "Item Type"
[sis_to_alma.kinds]
800000000001 = "payment"
{CREDIT_TYPE} = "ignore"
"""
    bridge = campus_of(
        tmp_path,
        settings=lambda text: by_item_type(text.rstrip() + "\n" + kinds),
        credit_item_types=(CREDIT_TYPE,),
    )
    fee = made(bridge)
    run(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 300)
    run(bridge)
    emplid, day = fee.user.primary_id, f"{bridge.campus.today(bridge.far.clock.now()):%m/%d/%Y}"
    rows = [("1", "3.00", CREDIT_TYPE), ("2", "2.00", "800000000001"), ("3", "5.00", "810000000001")]
    text = "".join(f"{emplid},{n},{day},ALMA{fee.id},{cents},{kind}\r\n" for n, cents, kind in rows)
    head = "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount,Item Type\r\n"
    bridge.folder.put("/sfs/outbound/PAID.csv", (head + text).encode())

    bridge.sis_to_alma()

    assert [(t.kind, t.amount_cents) for t in fee.transactions] == [("WAIVE", 300), ("PAYMENT", 200)]
    assert listed(bridge) == {"payment line refused": 1}
