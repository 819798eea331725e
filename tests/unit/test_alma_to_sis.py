"""What students owe in PeopleSoft after runs of alma_to_sis. Both far sides' own books are the witness."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from alma_hook import charges, layouts
from alma_hook.alma import AlmaApi, Request
from alma_hook.alma_answers import Reply
from alma_hook.errors import (
    AlmaHookError,
    Fatal,
    Inconsistent,
    LeaseTaken,
    NotPermitted,
    QuotaSpent,
    Retriable,
    SendingStopped,
)
from alma_hook.keys import external_id
from alma_hook.ledger import batches, exceptions, institutions
from alma_hook.ledger import fees as fee_entries
from alma_hook.ledger.store import LEASE_MINUTES
from alma_hook.resources import include
from simulator.alma_records import Fee
from simulator.demo import CREDIT_ITEM_TYPE, carries_reference, marks_credits
from simulator.sis_export import Packing
from tests.bridge import Bridge
from tests.conftest import MakeBridge

METHODS = ["analytics_report", "sis_profile", "open_fees", "all_users"]


def run(bridge: Bridge, method: str = "analytics_report", *, packing: Packing = "xml") -> Any:
    """A day passes, the far side refreshes, the DAG runs, PeopleSoft loads."""
    bridge.far.clock.advance(hours=12)
    bridge.far.refresh_analytics()
    if method == "sis_profile":
        bridge.far.write_sis_export(24 * 400, packing)
    counts = bridge.alma_to_sis(method)
    for result in bridge.far.load_inbound():
        assert result.loaded, result
    return counts


def assert_equal(bridge: Bridge) -> None:
    """Every fee is equal on both sides, or on the list."""
    assert bridge.unexplained() == {}
    assert bridge.books().foreign == {}
    assert bridge.balances()["unexplained"] == 0


def lines(bridge: Bridge) -> int:
    return len(bridge.far.peoplesoft.postings)


@pytest.fixture
def one(make_bridge: MakeBridge, ledger_url: str) -> tuple[Bridge, Fee]:
    """A campus, on each database, with one fee of 20.00 that PeopleSoft was told of."""
    bridge = make_bridge(url=ledger_url, fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    run(bridge)
    assert owed(bridge, fee) == 2000
    return bridge, fee


def owed(bridge: Bridge, fee: Fee) -> int:
    """What PeopleSoft shows as still to be paid for a fee."""
    return bridge.books().fees[fee.id].peoplesoft_cents


# -- every method --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_with_equal_books(bridge_on_both: Bridge, method: str) -> None:
    bridge = bridge_on_both
    if method == "open_fees":
        # It looks at what the ledger knows, so another method comes first.
        run(bridge)
        bridge.far.desk_payments(5)
        bridge.far.waives(5)
    run(bridge, method)
    disputed = str(bridge.far.oddities.disputed_fee)
    if method in ("sis_profile", "all_users"):
        # In dispute before anyone here had met it: it is in none of the lists that these methods read.
        assert disputed not in bridge.listed_fees()
        bridge.far.alma.restore(disputed)
        run(bridge, method)
        assert disputed not in bridge.books().unequal
    assert_equal(bridge)
    assert bridge.listed_fees() <= set(bridge.far.oddities.all)
    assert set(bridge.books().unequal) <= set(bridge.far.oddities.all)
    assert bridge.books().peoplesoft_cents > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeated_at_once_sends_nothing(make_bridge: MakeBridge, method: str) -> None:
    bridge = make_bridge()
    if method == "open_fees":
        run(bridge)
    run(bridge, method)
    sent, books = lines(bridge), bridge.books()
    for _ in range(2):
        counts = bridge.alma_to_sis(method)
        assert (counts.charges, counts.credits) == (0, 0)
        assert bridge.far.load_inbound() == []
    assert lines(bridge) == sent
    assert bridge.books() == books


@pytest.mark.parametrize("packing", ["xml", "zip", "tar.gz"])
def test_an_export_of_the_sis_profile_in_every_packing(make_bridge: MakeBridge, packing: Packing) -> None:
    bridge = make_bridge()
    bridge.far.alma.restore(str(bridge.far.oddities.disputed_fee))
    run(bridge, "sis_profile", packing=packing)
    assert_equal(bridge)
    assert bridge.books().peoplesoft_cents > 0


def of_layout(layout: str) -> dict[str, Any]:
    """What a campus with a shipped layout says of it, and its PeopleSoft, where lines lack a reference or a reversal's mark."""

    def settings(text: str) -> str:
        text = text.replace("[sfs]", '[sfs]\nbusiness_unit = "CAMPS"')
        if not carries_reference(layout):
            text = text.replace('reference = "Reference Number"\n', "")
            text = text.replace("[sis_to_alma]", '[sis_to_alma]\nwithout_reference = "hold"')
        if not marks_credits(layout):
            types = "".join(f'30000000000{n} = "{CREDIT_ITEM_TYPE}"\n' for n in (1, 2, 3))
            text = text.replace("[sfs]", '[sfs]\ncredits_by = "item_type"') + f"[credit_item_types]\n{types}"
        return text

    credit_item_types = () if marks_credits(layout) else (CREDIT_ITEM_TYPE,)
    return {"layout": layout, "settings": settings, "credit_item_types": credit_item_types}


@pytest.mark.parametrize("layout", sorted(file.stem for file in include("layouts").glob("*.toml")))
def test_every_shipped_layout_is_loaded_charges_and_credits(make_bridge: MakeBridge, layout: str) -> None:
    bridge = make_bridge(**of_layout(layout))
    run(bridge)
    bridge.far.waives(8)
    bridge.far.new_fees(4)
    run(bridge)
    assert len(bridge.far.peoplesoft.loads) == 3
    assert bridge.balances()["unexplained"] == 0
    if carries_reference(layout):
        assert_equal(bridge)
    # The witness where no item names its fee: what each student owes.
    owing: Counter[str] = Counter()
    for fee in bridge.far.alma.fees.values():
        if fee.id not in bridge.listed_fees():
            owing[fee.user.primary_id] += fee.balance_cents
    assert {k: v for k, v in bridge.far.peoplesoft.books().by_emplid.items() if v} == +owing


def test_only_a_charge_has_the_dates_that_are_a_charge_s_alone(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(**of_layout("asu_oasis"), fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    run(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 500)
    run(bridge)
    day = f"{bridge.campus.today(bridge.far.clock.now()):%m%d%Y}"
    loaded = bridge.far.path(bridge.far.folders.loaded)
    charge, credit = [file.read_text() for file in sorted(loaded.glob("*.dat"))]
    assert (charge[46:54], charge[62:65], credit[46:54], credit[62:65]) == (day, "   ", " " * 8, "Y  ")


def test_a_line_that_does_not_fit_the_layout_is_listed_and_holds_up_no_other(
    make_bridge: MakeBridge, tmp_path: Path
) -> None:
    """It is as the layout was narrowed when a charge was out: its credit copies it."""
    bridge = make_bridge(
        fees=0, settings=lambda text: text + '[descriptions]\nOVERDUEFINE = "Library overdue fine"\n'
    )
    wide, narrow = (bridge.far.alma.add_fee(student, 2000) for student in bridge.far.students[:2])
    narrow.type = "LOSTITEMPROCESSFEE"  # its description is the shorter one
    run(bridge)
    (tmp_path / "layouts").mkdir()
    text = (include("layouts") / "default.toml").read_text()
    text = text.replace('width = 30, source = "description"', 'width = 12, source = "description"')
    (tmp_path / "layouts" / "narrow.toml").write_text(text.replace("width = 124", "width = 106"))
    bridge.layout = layouts.load("narrow", tmp_path)
    for fee in (wide, narrow):
        bridge.far.alma.waive_at_desk(fee.id, 300)
    late = bridge.far.alma.add_fee(bridge.far.students[2], 700)

    bridge.far.clock.advance(hours=12)
    bridge.far.refresh_analytics()
    counts = bridge.alma_to_sis()

    assert (counts.charges, counts.credits, counts.credited) == (0, 1, 300)
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        listed = {row["fee_id"]: dict(row) for row in exceptions.open_items(tx)}
    assert {fee_id: (row["kind"], row["subject"], row["amount"]) for fee_id, row in listed.items()} == {
        wide.id: ("does not fit the layout", f"fee {wide.id}", -300),
        late.id: ("does not fit the layout", f"fee {late.id}", 700),
    }
    assert "Description" in listed[late.id]["detail"]


def test_the_business_unit_of_the_settings_stands_in_each_line(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(**of_layout("uta_csv"))
    run(bridge)
    (file,) = bridge.far.path(bridge.far.folders.loaded).glob("*.dat")
    assert {line.split(",")[0] for line in file.read_text().splitlines()} == {"CAMPS"}


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (layouts.load("asu_oasis"), "the settings now have asu_oasis"),
        (layouts.load("uta_csv").model_copy(update={"name": "default"}), "does not mark credits"),
    ],
    ids=["another", "another of its name"],
)
def test_what_was_planned_for_one_layout_is_written_in_no_other(
    make_bridge: MakeBridge, layout: layouts.Layout, told: str
) -> None:
    """Unmarked, a credit would be loaded as a charge."""
    bridge = make_bridge(fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    run(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 500)
    planned_for = bridge.layout
    with bridge.working("out") as (ledger, lease):
        for _, work in bridge.tasks_out("all_users")[:3]:
            work(ledger, lease)
        bridge.layout = layout
        with pytest.raises(Fatal, match=told):
            bridge.write(ledger, lease)
    bridge.layout = planned_for
    run(bridge, "all_users")
    assert owed(bridge, fee) == 1500
    assert_equal(bridge)


def test_a_worker_overtaken_before_it_writes_leaves_the_file_to_the_other(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    with bridge.working("out") as (ledger, lease):
        for _, work in bridge.tasks_out("all_users")[:3]:
            work(ledger, lease)
        bridge.far.clock.advance(seconds=60 * LEASE_MINUTES + 60)
        with bridge.working("out"):
            pass
        with pytest.raises(LeaseTaken):
            bridge.write(ledger, lease)
        with ledger.read() as tx:
            assert [row["state"] for row in batches.in_states(tx, "planned", "written")] == ["planned"]


@pytest.mark.parametrize("seed", range(3))
def test_a_week_of_everything(make_bridge: MakeBridge, seed: int) -> None:
    bridge = make_bridge(seed=seed)
    far = bridge.far
    for day in range(7):
        far.new_fees(4)
        far.desk_payments(2)
        far.waives(2)
        far.students_pay(0.2)
        run(bridge, METHODS[day % 4])
        far.write_query_output()
        bridge.sis_to_alma()
        # Fees that the ledger has not met yet are no matter of open_fees.
        assert bridge.unexplained() == {} or METHODS[day % 4] == "open_fees"
    run(bridge)
    far.write_query_output()
    bridge.sis_to_alma()
    run(bridge)
    assert_equal(bridge)


# -- what happens to a fee -----------------------------------------------------------------------------


@pytest.mark.parametrize("cents", [500, 1999, 2000])
@pytest.mark.parametrize("act", ["pay_at_desk", "waive_at_desk"])
def test_what_is_paid_or_waived_in_the_library_is_credited(
    one: tuple[Bridge, Fee], act: str, cents: int
) -> None:
    bridge, fee = one
    getattr(bridge.far.alma, act)(fee.id, cents)
    run(bridge)
    assert owed(bridge, fee) == 2000 - cents
    assert bridge.far.peoplesoft.loads[-1].kind == "credits"
    assert_equal(bridge)


def test_a_fee_that_was_raised_is_charged_the_difference(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.far.alma.raise_fee(fee.id, 750)
    run(bridge)
    assert owed(bridge, fee) == 2750
    assert [posting.cents for posting in bridge.far.peoplesoft.postings] == [2000, 750]


def test_up_and_down_and_up_again(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    for act in (
        lambda: bridge.far.alma.waive_at_desk(fee.id, 800),
        lambda: bridge.far.alma.raise_fee(fee.id, 300),
        lambda: bridge.far.alma.pay_at_desk(fee.id, 1000),
        lambda: bridge.far.alma.raise_fee(fee.id, 1),
    ):
        act()
        run(bridge)
        assert owed(bridge, fee) == fee.balance_cents
    assert_equal(bridge)


def test_a_dispute_holds_and_a_restored_fee_goes_on(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.far.alma.dispute(fee.id)
    before = lines(bridge)
    run(bridge, "open_fees")
    assert lines(bridge) == before
    assert bridge.exceptions() == {f"fee {fee.id}": "in dispute"}
    bridge.far.alma.restore(fee.id)
    bridge.far.alma.waive_at_desk(fee.id, 1500)
    run(bridge)
    assert bridge.exceptions() == {}
    assert owed(bridge, fee) == 500


def test_a_disputed_new_fee_is_charged_once_it_is_restored(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    bridge.far.alma.dispute(fee.id)
    run(bridge)
    assert lines(bridge) == 0
    bridge.far.alma.restore(fee.id)
    run(bridge)
    assert owed(bridge, fee) == 2000
    assert bridge.exceptions() == {}


def test_a_lost_item_returned_unpaid_is_credited(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    assert bridge.far.alma.return_lost_item(fee.id) is None
    run(bridge)
    assert owed(bridge, fee) == 0
    assert_equal(bridge)


def test_a_lost_item_returned_after_it_was_paid_is_a_credit_for_a_person(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}")
    bridge.far.write_query_output()
    bridge.sis_to_alma()
    assert fee.status == "CLOSED"
    credit = bridge.far.alma.return_lost_item(fee.id)
    assert credit is not None
    before = lines(bridge)
    run(bridge)
    assert lines(bridge) == before
    assert bridge.exceptions() == {f"fee {credit.id}": "credit in Alma"}
    assert_equal(bridge)


def test_a_fee_closed_in_alma_is_found_in_the_list_of_closed_ones(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.far.alma.pay_at_desk(fee.id)
    assert fee.status == "CLOSED"
    run(bridge, "open_fees")
    assert owed(bridge, fee) == 0
    assert_equal(bridge)


def test_a_fee_that_almas_bursar_profile_takes_is_held(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.far.alma.waive_at_desk(fee.id, 100)
    bridge.far.alma.export(fee.id)
    before = lines(bridge)
    run(bridge)
    assert lines(bridge) == before
    assert bridge.exceptions() == {f"fee {fee.id}": "transferred by Alma's bursar profile"}


def test_a_user_with_a_new_primary_id_is_held_while_the_old_one_owes(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    old = fee.user.primary_id
    bridge.far.alma.rekey_user(old, "999999999")
    before = lines(bridge)
    run(bridge)
    run(bridge)
    assert lines(bridge) == before
    assert owed(bridge, fee) == 2000
    # While nothing changes on the fee there is nothing to decide; once something does, a person has to.
    bridge.far.alma.waive_at_desk(fee.id, 500)
    run(bridge)
    run(bridge)
    assert lines(bridge) == before
    assert bridge.exceptions() == {f"fee {fee.id}": "EMPLID changed since the charge"}
    assert all(old not in text and "999999999" not in text for text in details(bridge))


def test_a_purged_user_is_never_a_credit(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.far.alma.purge_user(fee.user.primary_id)
    before = lines(bridge)
    for method in METHODS:
        run(bridge, method)
    assert lines(bridge) == before
    assert owed(bridge, fee) == 2000
    assert bridge.exceptions() == {f"fee {fee.id}": "user not found in Alma"}


def test_a_fee_found_nowhere_is_never_a_credit(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    del bridge.far.alma.fees[fee.id]
    bridge.far.alma._fees_of.clear()
    before = lines(bridge)
    for method in METHODS:
        run(bridge, method)
    assert lines(bridge) == before
    assert bridge.exceptions() == {f"fee {fee.id}": "fee not found in Alma"}


def test_a_purged_user_whom_peoplesoft_never_charged_is_nobodys_task(
    make_bridge: MakeBridge, ledger_url: str
) -> None:
    bridge = make_bridge(url=ledger_url, fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000, type="LOCKERKEY")
    run(bridge)
    assert bridge.exceptions() == {f"fee {fee.id}": "fee type without item type"}
    bridge.far.alma.purge_user(fee.user.primary_id)
    run(bridge)
    assert (bridge.exceptions(), bridge.balances()["unexplained"]) == ({}, 0)
    calls = bridge.far.api.call_count()
    run(bridge, "open_fees")
    assert bridge.far.api.call_count() == calls


# -- what the report leaves out ------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [0, 5])
def test_a_report_cut_short_makes_no_credit(make_bridge: MakeBridge, shown: int) -> None:
    bridge = make_bridge()
    run(bridge)
    books = bridge.books()
    bridge.far.analytics.traps.cut_short_to = shown
    run(bridge)
    assert bridge.books() == books
    assert bridge.listed_fees() == set(bridge.far.oddities.all)


def test_a_balance_that_moved_since_the_report_counts_as_it_is_now(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    bridge.far.refresh_analytics()
    bridge.far.alma.waive_at_desk(fee.id, 1500)
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    assert owed(bridge, fee) == 500


# -- what can't be charged -----------------------------------------------------------------------------


def test_an_unmapped_type_waits_until_the_settings_name_it(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000, type="LOCKERKEY")
    run(bridge)
    assert lines(bridge) == 0
    assert bridge.exceptions() == {f"fee {fee.id}": "fee type without item type"}
    assert any("LOCKERKEY" in text for text in details(bridge))
    bridge.campus = bridge.campus.model_copy(
        update={"item_types": {**bridge.campus.item_types, "LOCKERKEY": "300000000003"}}
    )
    run(bridge)
    assert owed(bridge, fee) == 2000
    assert bridge.exceptions() == {}


def test_a_type_that_the_settings_drop_is_still_credited(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.campus = bridge.campus.model_copy(update={"item_types": {}})
    bridge.far.alma.waive_at_desk(fee.id, 500)
    run(bridge)
    assert owed(bridge, fee) == 1500


def test_a_fee_in_another_currency_is_listed(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    bridge.far.alma.currency = "EUR"
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    run(bridge)
    assert lines(bridge) == 0
    assert bridge.exceptions() == {f"fee {fee.id}": "other currency"}


def test_an_emplid_of_the_wrong_shape_is_listed(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    user = bridge.far.alma.add_user("staff.0001@campus.invalid")
    fee = bridge.far.alma.add_fee(user, 2000)
    run(bridge)
    assert lines(bridge) == 0
    assert bridge.exceptions() == {f"fee {fee.id}": "EMPLID of another shape"}
    assert all(user.primary_id not in text for text in details(bridge))


def by_identifier(settings: str) -> str:
    return settings.replace("[sfs]", '[emplid]\nsource = "identifier:SISID"\n[sfs]')


def test_an_emplid_among_the_identifiers(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0, settings=by_identifier)
    alma = bridge.far.alma
    emplids = {"with": "912345670", "shape": "91234567", "without": None}
    made = {
        name: alma.add_fee(
            alma.add_user(f"net-{name}", identifiers={"SISID": emplid} if emplid else {}), 2000
        )
        for name, emplid in emplids.items()
    }
    bridge.far.peoplesoft.emplids.add("912345670")
    run(bridge)
    assert [item.emplid for item in bridge.far.peoplesoft.items.values()] == ["912345670"]
    assert owed(bridge, made["with"]) == 2000
    assert bridge.exceptions() == {
        f"fee {made['shape'].id}": "EMPLID of another shape",
        f"fee {made['without'].id}": "no EMPLID",
    }
    # A student who is given his EMPLID is charged by the next run.
    made["without"].user.identifiers["SISID"] = "912345671"
    bridge.far.peoplesoft.emplids.add("912345671")
    run(bridge)
    assert owed(bridge, made["without"]) == 2000


def test_a_description_never_tells_what_was_borrowed(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    fee = bridge.far.alma.add_fee(
        bridge.far.students[0], 2000, title="Title 00001 /", comment="Due: 11/01/2026"
    )
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    for file in bridge.folder.root.rglob("*.dat"):
        assert b"Title" not in file.read_bytes()
        assert b"Due" not in file.read_bytes()
    bridge.far.load_inbound()
    assert owed(bridge, fee) == 2000


def details(bridge: Bridge) -> list[str]:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        found = [
            str(row["detail"]) for row in tx.rows("SELECT detail FROM exception_item WHERE institution = :i")
        ]
        found += [str(row["detail"]) for row in tx.rows("SELECT detail FROM event WHERE institution = :i")]
    ledger.close()
    return found


# -- readings that are no evidence ---------------------------------------------------------------------


def test_a_list_that_contradicts_itself_sends_nothing(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.far.alma.waive_at_desk(fee.id, 500)
    bridge.far.faults.add_http("partial_list", path="/fees", times=None)
    before = lines(bridge)
    run(bridge)
    assert lines(bridge) == before
    assert bridge.exceptions() == {
        f"fee {fee.id}": "inconsistent reading",
        "accounts": "accounts could not be read",
    }
    bridge.far.faults.clear()
    run(bridge)
    assert owed(bridge, fee) == 1500
    assert bridge.exceptions() == {}


@pytest.mark.parametrize("method", ["sis_profile", "open_fees", "all_users"])
def test_what_is_listed_is_looked_for_until_it_is_settled(
    make_bridge: MakeBridge, ledger_url: str, method: str
) -> None:
    """A run that read the fee at nought and died before its plan must not leave the list as it was."""
    bridge = make_bridge(url=ledger_url, fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000, type="LOCKERKEY")
    run(bridge)
    assert bridge.exceptions() == {f"fee {fee.id}": "fee type without item type"}
    bridge.far.alma.pay_at_desk(fee.id)
    with bridge.working("out") as (ledger, lease):
        bridge.retrieve("open_fees", ledger, lease, True)
        bridge.read(ledger, lease)
    run(bridge, method)
    assert bridge.exceptions() == {}


def test_a_fee_that_could_not_be_read_is_looked_for_in_every_status(
    make_bridge: MakeBridge, ledger_url: str
) -> None:
    bridge = make_bridge(url=ledger_url, fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    bridge.far.alma.dispute(fee.id)
    bridge.far.faults.add_http("refuse", path="/fees")
    run(bridge)
    assert bridge.exceptions() == {
        f"fee {fee.id}": "reading refused by Alma, code 402119",
        "accounts": "accounts could not be read",
    }
    run(bridge, "open_fees")
    assert bridge.exceptions() == {f"fee {fee.id}": "in dispute"}


def test_a_new_fee_of_an_account_that_could_not_be_read_is_not_forgotten(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    bridge.far.alma.add_user("1")
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    bridge.far.faults.add_http("partial_list", path="/fees", times=None)
    run(bridge, "sis_profile")
    bridge.far.faults.clear()
    bridge.alma_to_sis("open_fees")
    bridge.far.load_inbound()
    assert owed(bridge, fee) == 2000


@pytest.mark.parametrize(
    "kind", ["refuse", "fail_before", "fail_after", "drop_before", "drop_after", "broken_body"]
)
def test_one_account_that_can_not_be_read_holds_up_no_other(make_bridge: MakeBridge, kind: Any) -> None:
    bridge = make_bridge(fees=0)
    first, second = (bridge.far.alma.add_fee(student, 2000) for student in bridge.far.students[:2])
    bridge.far.faults.add_http(kind, path=f"/users/{first.user.primary_id}/fees", times=None)
    run(bridge)
    assert (owed(bridge, first), owed(bridge, second)) == (0, 2000)
    bridge.far.faults.clear()
    run(bridge)
    assert owed(bridge, first) == 2000
    assert_equal(bridge)


def test_a_fee_that_moves_between_two_lists_while_it_is_read(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    other = bridge.far.alma.add_fee(fee.user, 300)
    run(bridge)
    # That this one is closed makes all four lists be read.
    bridge.far.alma.pay_at_desk(other.id)
    bridge.far.alma.waive_at_desk(fee.id, 500)

    def before_call(request: Any) -> None:
        if "status=INDISPUTE" in request.readable and fee.status == "ACTIVE":
            bridge.far.alma.dispute(fee.id)

    bridge.far.api.before_call = before_call
    run(bridge, "open_fees")
    # Seen in two lists, it was read again: in dispute, and held.
    assert (owed(bridge, fee), owed(bridge, other)) == (2000, 0)
    assert bridge.exceptions() == {f"fee {fee.id}": "in dispute"}


def test_a_reading_that_the_books_have_overtaken_is_not_planned(one: tuple[Bridge, Fee]) -> None:
    """A payment is posted after the account was read: the reading knows nothing of it."""
    bridge, fee = one
    bridge.far.alma.waive_at_desk(fee.id, 500)
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 700)
    bridge.far.write_query_output()
    before = lines(bridge)
    with bridge.working("out") as (ledger, lease):
        bridge.retrieve("open_fees", ledger, lease, True)
        bridge.read(ledger, lease)
        bridge.sis_to_alma()
        counts = charges.plan(
            ledger, lease, bridge.campus, bridge.layout, bridge.folder.target, True, bridge.marks
        )
    assert (counts.stale, counts.charges, counts.credits) == (1, 0, 0)
    assert lines(bridge) == before
    run(bridge, "open_fees")
    assert fee.balance_cents == 800
    assert owed(bridge, fee) == 800
    assert_equal(bridge)


def test_what_is_left_to_the_next_run_is_read_by_it_though_nothing_names_it(make_bridge: MakeBridge) -> None:
    """Their books changed after they were read; Alma names no fee as paid or waived."""
    bridge = make_bridge(students=4, fees=0, settings=by_transactions)
    fees = [bridge.far.alma.add_fee(student, 1000) for student in bridge.far.students]
    run(bridge)
    for fee in fees:
        bridge.far.alma.raise_fee(fee.id, 500)
    stale = sorted(fees, key=lambda fee: fee.id)[:2]
    with bridge.working("out") as (ledger, lease):
        for name, work in bridge.tasks_out("all_users"):
            if name == "plan":
                with ledger.write(lease) as tx:
                    fee_entries.touch(tx, [fee.id for fee in stale])
            counts = work(ledger, lease)
            if name == "plan":
                assert (counts.stale, counts.charges) == (2, 2)
    bridge.far.load_inbound()
    run(bridge, "open_fees")
    assert [owed(bridge, fee) for fee in fees] == [1500] * 4


def test_what_was_under_way_is_read_by_the_next_run_though_nothing_names_it(make_bridge: MakeBridge) -> None:
    """Raised while a file of it is in doubt; then a person says that PeopleSoft has the file."""
    bridge = make_bridge(students=3, fees=0, settings=by_transactions)
    fees = [bridge.far.alma.add_fee(student, 1000) for student in bridge.far.students]
    bridge.folder.before = lambda action, path: _lost(bridge, action, path)
    with suppress(Retriable):
        run(bridge)
    bridge.folder.before = lambda _action, _path: None
    run(bridge, "all_users")
    assert set(bridge.exceptions().values()) == {"batch unconfirmed"}
    for fee in fees:
        bridge.far.alma.raise_fee(fee.id, 500)
    assert run(bridge, "all_users").busy == 3
    with bridge.working("out") as (ledger, lease), ledger.write(lease) as tx:
        batches.deliver(tx, "000001", "unconfirmed")
    assert run(bridge, "open_fees").charged == 3 * 500


def _lost(bridge: Bridge, action: str, path: str) -> None:
    """The file is gone when the far side has just acknowledged it."""
    if action == "written" and path.startswith("/sfs/inbound"):
        bridge.folder.path(path).unlink()


def by_transactions(text: str) -> str:
    return text.replace("[alma_to_sis]", "[alma_to_sis]\nfee_transactions = true")


def test_a_payment_posted_while_an_account_is_read_is_not_hidden_by_the_reading(
    one: tuple[Bridge, Fee],
) -> None:
    """Alma's answer is from before the posting and is stored after it."""
    bridge, fee = one
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 700)
    bridge.far.write_query_output()
    posted = []

    def send(request: Request) -> Reply:
        reply = bridge.send(request)
        if request.path.endswith("/fees") and not posted:
            posted.append(request)
            bridge.sis_to_alma()
        return reply

    bridge.api = AlmaApi(send, pause=lambda _: None)
    counts = bridge.alma_to_sis("open_fees")
    assert (fee.balance_cents, owed(bridge, fee)) == (1300, 1300)
    assert (counts.stale, counts.charges, counts.credits) == (1, 0, 0)
    assert_equal(bridge)
    run(bridge, "open_fees")
    assert_equal(bridge)


# -- when everything stops -----------------------------------------------------------------------------


def test_payments_of_ours_that_the_ledger_never_made_stop_all_sending(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    fee = next(f for f in bridge.far.alma.fees.values() if f.status == "ACTIVE" and f.balance_cents > 100)
    bridge.far.alma.pay_by_api(
        fee.id, 100, method="ONLINE", external_transaction_id=external_id("01CAMPUS_INST", "1")
    )
    bridge.far.refresh_analytics()
    with pytest.raises(SendingStopped, match="does not know") as caught:
        bridge.alma_to_sis()
    assert fee.id in str(caught.value)
    assert fee.user.primary_id not in str(caught.value)
    assert bridge.far.load_inbound() == []
    assert bridge.books().peoplesoft_cents == 0


def test_a_desk_receipt_is_not_taken_for_a_payment_of_ours(one: tuple[Bridge, Fee]) -> None:
    bridge, fee = one
    bridge.far.alma.pay_by_api(fee.id, 100, method="ONLINE", external_transaction_id="SFS0000000000000")
    run(bridge)
    assert owed(bridge, fee) == 1900


def test_a_ledger_that_was_never_opened_does_not_send(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    ledger = bridge.ledger()
    with ledger.write() as tx:
        institutions.require_opened(tx)
        tx.run("UPDATE institution SET opened_at = NULL WHERE institution = :i")
    with ledger.read() as tx, pytest.raises(SendingStopped, match="never opened"):
        institutions.require_opened(tx)
    ledger.close()


def test_the_end_of_the_days_calls_keeps_what_was_read(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(students=400, fees=120)
    bridge.far.limits.per_day = bridge.far.limits.used + 80
    with pytest.raises(QuotaSpent) as caught:
        run(bridge)
    assert not isinstance(caught.value, Fatal)
    assert lines(bridge) == 0
    bridge.far.limits.per_day = 10**6
    run(bridge)
    assert_equal(bridge)


def test_a_key_without_permission_stops_the_run(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    bridge.far.faults.add_http(
        "refuse", path="/fees", times=None, status=400, code="UNAUTHORIZED", form="xml",
        message="API-key not defined or not configured to allow this API.",
    )  # fmt: skip
    with pytest.raises(NotPermitted):
        run(bridge)
    assert lines(bridge) == 0


@pytest.mark.parametrize("form", ["html", "text", "empty"])
def test_an_alma_that_is_down_stops_the_run(make_bridge: MakeBridge, form: Any) -> None:
    bridge = make_bridge()
    bridge.far.faults.add_http("fail_before", path="/fees", times=None, status=503, form=form)
    with pytest.raises(AlmaHookError) as caught:
        run(bridge)
    assert not any(student.primary_id in str(caught.value) for student in bridge.far.students)
    bridge.far.faults.clear()
    run(bridge)
    assert_equal(bridge)


# -- rehearsals ----------------------------------------------------------------------------------------


def snapshot(bridge: Bridge) -> dict[str, list[tuple[Any, ...]]]:
    """All of the ledger that live runs go by."""
    queries = {
        "lines": "SELECT * FROM line WHERE institution = :i AND state <> 'preview' ORDER BY batch_id, line_no",
        "batches": "SELECT * FROM batch WHERE institution = :i AND state <> 'preview' ORDER BY batch_id",
        "accounts": "SELECT * FROM account_to_read WHERE institution = :i AND live = 1 ORDER BY user_id",
        "exports": "SELECT * FROM export_file WHERE institution = :i AND live = 1 ORDER BY name",
        "positions": "SELECT fee_id, charged, credited, pending, received, posted FROM fee_position "
        "WHERE institution = :i AND (charged <> 0 OR pending <> 0) ORDER BY fee_id",
        "numbers": "SELECT last_batch, last_payment FROM institution WHERE institution = :i",
    }
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        found = {name: [tuple(row.values()) for row in tx.rows(sql)] for name, sql in queries.items()}
    ledger.close()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_changes_nothing_that_is_live(bridge_on_both: Bridge, method: str) -> None:
    bridge = bridge_on_both
    run(bridge)
    bridge.far.new_fees(5)
    bridge.far.waives(5)
    bridge.far.refresh_analytics()
    if method == "sis_profile":
        bridge.far.write_sis_export(24 * 400)
    before, books = snapshot(bridge), bridge.books()
    files = sorted(bridge.folder.root.rglob("*"))

    counts = bridge.alma_to_sis(method, live=False)

    assert counts.credits > 0
    assert snapshot(bridge) == before
    assert bridge.books() == books
    assert sorted(bridge.folder.root.rglob("*")) == files


def test_a_live_run_after_a_dry_one_sends_all_of_it(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    dry = bridge.alma_to_sis(live=False)
    live = bridge.alma_to_sis()
    assert (dry.charges, dry.charged, dry.credits) == (live.charges, live.charged, live.credits)
    assert live.charges > 0
    bridge.far.load_inbound()
    assert_equal(bridge)


@pytest.mark.parametrize("layout", ["default", "princeton_libfines"])
def test_peoplesoft_refuses_a_dry_runs_file(make_bridge: MakeBridge, layout: str) -> None:
    bridge = make_bridge(layout=layout)
    bridge.alma_to_sis(live=False)
    bridge.alma_to_sis(live=True)
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows("SELECT * FROM batch WHERE institution = :i ORDER BY batch_id")
        content = {row["batch_id"]: batches.content(tx, row["batch_id"]) for row in rows}
    ledger.close()
    assert list(content) == ["000001", "P000001"]
    assert content["P000001"].startswith(b"DRY RUN")
    assert content["P000001"].split(b"\n", 1)[1] == content["000001"]
    result = bridge.far.peoplesoft.load("alma_charges_P000001.dat", content["P000001"])
    assert result.error is not None
    assert result.posted == 0


def test_numbers_of_files_have_no_gap_after_a_dry_run(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    for _ in range(3):
        bridge.alma_to_sis(live=False)
        bridge.far.new_fees(1)
        run(bridge)
    assert [result.file_name for result in bridge.far.peoplesoft.loads] == [
        "alma_charges_000001.dat", "alma_charges_000002.dat", "alma_charges_000003.dat",
    ]  # fmt: skip


# -- what a plan comes to ------------------------------------------------------------------------------


def test_a_plan_counts_each_fee_once_and_the_cents_that_leave(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    alma, students = bridge.far.alma, bridge.far.students
    lowered, raised, paid = [alma.add_fee(students[n], 2000) for n in range(3)]
    run(bridge)
    alma.waive_at_desk(lowered.id, 300)
    alma.raise_fee(raised.id, 250)
    alma.add_fee(students[3], 400)
    alma.add_fee(students[4], 501)
    alma.add_fee(students[5], 700, type="LOCKERKEY")
    bridge.far.peoplesoft.pay(f"ALMA{paid.id}", 900)
    bridge.far.faults.add_http("drop_after", method="POST")
    bridge.far.write_query_output()
    bridge.sis_to_alma()

    assert run(bridge) == charges.PlanCounts(
        read=6, charges=3, credits=1, charged=250 + 400 + 501, credited=300, listed=1, stale=0, busy=1,
        held_lines=0, batches=["000002", "000003"], held=[],
    )  # fmt: skip
    assert owed(bridge, lowered) == 1700
    bridge.sis_to_alma()
    run(bridge)
    assert_equal(bridge)


@pytest.mark.parametrize(("seconds", "counts"), [(0, (1, 0)), (1, (0, 1))])
def test_a_reading_is_good_for_six_hours(
    make_bridge: MakeBridge, seconds: int, counts: tuple[int, int]
) -> None:
    """A plan that is cleared days later must not send what Alma showed then."""
    bridge = make_bridge(fees=0)
    bridge.far.clock.set(bridge.far.clock.now())  # it stands still
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.far.refresh_analytics()
    with bridge.working("out") as (ledger, lease):
        bridge.retrieve("analytics_report", ledger, lease, True)
        bridge.read(ledger, lease)
        bridge.far.clock.advance(hours=6, seconds=seconds)
        planned = bridge.plan(ledger, lease)
    assert (planned.charges, planned.stale) == counts
    run(bridge, "open_fees")  # which looks at no account but those that are left from before
    run(bridge)
    assert owed(bridge, fee) == 1000


def test_a_file_is_named_by_its_kind_its_day_and_its_number(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(
        fees=0,
        settings=lambda text: text.replace("[sfs]", '[sfs]\nfile_name = "lib_{kind}_{date}_{sequence}.dat"'),
    )
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    run(bridge)
    bridge.far.alma.waive_at_desk(fee.id, 300)
    bridge.far.alma.add_fee(bridge.far.students[1], 500)
    run(bridge)

    day = bridge.campus.today(bridge.far.clock.now()).strftime("%Y%m%d")
    assert [result.file_name for result in bridge.far.peoplesoft.loads][1:] == [
        f"lib_charges_{day}_000002.dat", f"lib_credits_{day}_000003.dat",
    ]  # fmt: skip
    with bridge.working("out") as (ledger, _), ledger.read() as tx:
        (charge, credit) = batches.in_states(tx, "delivered")[1:]
    for row in (charge, credit):
        assert (row["layout"], row["target"], row["directory"]) == (
            "default",
            bridge.folder.target,
            "/sfs/inbound",
        )


@pytest.mark.parametrize("step", ["plan", "write"])
def test_a_worker_that_was_overtaken_plans_and_writes_nothing(make_bridge: MakeBridge, step: str) -> None:
    bridge = make_bridge(fees=0)
    bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.far.refresh_analytics()
    with bridge.working("out") as (ledger, lease):
        for name, work in bridge.tasks_out("analytics_report"):
            if name == step:
                bridge.far.clock.advance(seconds=60 * (LEASE_MINUTES + 1))
                with bridge.working("out"):
                    before = snapshot(bridge)
                with pytest.raises(LeaseTaken):
                    work(ledger, lease)
                break
            work(ledger, lease)
    assert snapshot(bridge) == before


# -- what is read again, and what can't be --------------------------------------------------------------


def test_an_export_of_a_fixed_name_that_was_written_again_is_news(make_bridge: MakeBridge) -> None:
    """Its bytes are the same, as the same student was modified once more."""
    small = make_bridge(students=4, fees=0)
    student = small.far.students[0]
    path = small.far.path("/alma/sis_export/users.xml")

    def night() -> None:
        small.far.clock.advance(hours=24)
        path.write_text(f"<users><user><primary_id>{student.primary_id}</primary_id></user></users>")
        now = small.seconds()
        os.utime(path, (now, now))
        small.alma_to_sis("sis_profile")
        small.far.load_inbound()

    first = small.far.alma.add_fee(student, 5000)
    night()
    small.far.alma.waive_at_desk(first.id, 5000)
    night()
    assert small.books().unequal == {}
    small.far.alma.add_fee(student, 3000)

    night()

    assert small.books().unequal == {}


def test_an_account_that_can_not_be_read_is_listed_though_no_fee_of_it_is_known(
    make_bridge: MakeBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_bridge(students=4, fees=0)
    student, other = small.far.students[:2]
    small.far.alma.add_fee(student, 5000)
    small.far.alma.add_fee(other, 3000)
    plain = small.api.fees

    def fees(user_id: str, *status: Any) -> Any:
        if user_id == student.primary_id:
            raise Inconsistent("Alma's lists contradict themselves.")
        return plain(user_id, *status)

    monkeypatch.setattr(small.api, "fees", fees)
    small.far.write_sis_export()
    small.alma_to_sis("sis_profile")
    small.far.load_inbound()
    assert small.exceptions() == {"accounts": "accounts could not be read"}

    monkeypatch.undo()
    small.far.clock.advance(hours=12)
    small.alma_to_sis("sis_profile")
    small.far.load_inbound()
    assert (small.exceptions(), small.books().unequal) == ({}, {})
