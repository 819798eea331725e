from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alma_hook import campus
from alma_hook.campus import TermRow
from alma_hook.charges import (
    BEFORE_THE_START,
    GROUP_LEFT_OUT,
    OWNER_LEFT_OUT,
    TOO_LITTLE,
    TOO_OLD,
    TOO_YOUNG,
    Position,
    _waiting,
    decide,
    made_on_day,
    of_students,
    seen_of,
    with_waivers,
)
from alma_hook.errors import SendingStopped
from alma_hook.fees import USER_GONE
from alma_hook.ledger import exceptions, items
from alma_hook.ledger.batches import Line
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.shadow import Seen
from alma_hook.resources import include
from tests.conftest import MakeBridge

CAMPUS = campus.load(include("campus.toml"))
DAY = date(2026, 11, 22)
KEYS = ["SFS3R4SNKJLYN6M7", "SFSG562FY54FFJO5"]

CHARGE = Line(
    fee_id="138412345678", kind="charge", amount=1000, emplid="012345678", item_type="300000000001", term="2262",
    reference="ALMA138412345678", description="Overdue fine", account_type="LIB", effective_date="2026-02-01",
    due_date="", reason="new", item_fee="138412345678",
)  # fmt: skip
NEW = Position(
    fee_id="138412345678", status="ACTIVE", type="OVERDUEFINE", currency="USD", emplid="012345678", original=1000,
    balance=1000, own=(), charged=0, credited=0, posted={}, reason="fee", problem=None, sent=None,
)  # fmt: skip
CHARGED = replace(NEW, charged=1000, sent=CHARGE)


def paid(position: Position, *values: int) -> Position:
    """The fee after payments of ours that Alma shows and the ledger knows; the balance falls with them."""
    own = tuple(zip(KEYS, values, strict=False))
    return replace(position, own=own, posted=dict(own), balance=position.balance - sum(values))


def test_a_new_fee_is_charged_as_the_settings_say_today() -> None:
    assert decide(NEW, CAMPUS, DAY) == Line(
        fee_id="138412345678", kind="charge", amount=1000, emplid="012345678", item_type="300000000001", term="",
        reference="ALMA138412345678", description="Library fee", account_type="LIB", effective_date="2026-11-22",
        due_date="", reason="new", item_fee="138412345678",
    )  # fmt: skip


def test_a_new_fee_is_charged_to_the_days_term_under_its_types_own_words() -> None:
    terms = (TermRow(first=date(2026, 8, 20), term="2268"), TermRow(first=date(2026, 11, 23), term="2272"))
    settings = CAMPUS.model_copy(update={"terms": terms, "descriptions": {"OVERDUEFINE": "Overdue fine"}})
    line = decide(NEW, settings, DAY)
    assert isinstance(line, Line)
    assert (line.term, line.description) == ("2268", "Overdue fine")


@pytest.mark.parametrize(
    "position",
    [
        replace(NEW, balance=0, status="CLOSED"),
        CHARGED,
        paid(CHARGED, 400),
        paid(CHARGED, 400, 600),
        replace(CHARGED, balance=0, status="CLOSED", credited=1000),
        replace(paid(CHARGED, 400), balance=500, credited=100),
        # Held fees on which there is nothing to do are no news.
        replace(CHARGED, status="EXPORTED"),
        replace(CHARGED, emplid="087654321"),
        replace(NEW, balance=0, type="LOCKERKEY"),
    ],
)
def test_books_that_agree_need_no_line(position: Position) -> None:
    assert decide(position, CAMPUS, DAY) is None


@pytest.mark.parametrize(
    ("position", "kind", "amount"),
    [
        (replace(CHARGED, balance=300), "credit", 700),  # waived or paid at the desk
        (replace(CHARGED, balance=0, status="CLOSED"), "credit", 1000),
        (replace(CHARGED, balance=1500, original=1500), "charge", 500),  # raised
        (replace(paid(CHARGED, 400), balance=100), "credit", 500),
        (replace(paid(CHARGED, 400), balance=1600, original=2000), "charge", 1000),
        (replace(CHARGED, balance=300, credited=700), None, 0),
        (replace(CHARGED, balance=300, credited=200), "credit", 500),
        (replace(CHARGED, balance=0, credited=300, status="CLOSED"), "credit", 700),  # all that is left
        # What holds a credit holds no charge, and the other way round.
        (replace(CHARGED, balance=1500, original=1500, waits=True), "charge", 500),
        (replace(CHARGED, balance=1500, original=1500, taken_back=True), "charge", 500),
        (replace(CHARGED, balance=300, above=True), "credit", 700),
        (replace(CHARGED, balance=300, taken_back=True), "credit", 700),
    ],
)
def test_the_difference_is_sent_whatever_its_cause(position: Position, kind: str | None, amount: int) -> None:
    line = decide(position, CAMPUS, DAY)
    assert (line and (line.kind, line.amount)) == (kind and (kind, amount))  # type: ignore[union-attr]


def test_a_credit_copies_the_charge_it_reduces_whatever_the_settings_say_now() -> None:
    changed = replace(CHARGED, balance=300, type="LOCKERKEY", reason="waived")
    assert decide(changed, CAMPUS, DAY) == CHARGE._replace(
        kind="credit", amount=700, effective_date="2026-11-22", reason="waived"
    )


def test_a_second_charge_copies_the_first() -> None:
    line = decide(replace(CHARGED, balance=1200, original=1200), CAMPUS, DAY)
    assert line == CHARGE._replace(amount=200, effective_date="2026-11-22", reason="raised")


@pytest.mark.parametrize(
    ("position", "kind"),
    [
        (replace(NEW, problem="fee not found in Alma"), "fee not found in Alma"),
        (replace(CHARGED, problem="inconsistent reading", balance=0), "inconsistent reading"),
        (replace(CHARGED, posted={KEYS[0]: 100}), "payments in Alma differ from those posted"),
        (replace(CHARGED, own=((KEYS[0], 100),), balance=900), "payments in Alma differ from those posted"),
        (
            replace(CHARGED, own=((KEYS[0], 100),) * 2, posted={KEYS[0]: 100}, balance=800),
            "payments in Alma differ from those posted",  # applied twice
        ),
        (replace(paid(CHARGED, 100), posted={KEYS[0]: 90}), "payments in Alma differ from those posted"),
        (replace(NEW, status="INDISPUTE"), "in dispute"),
        (replace(CHARGED, status="INDISPUTE"), "in dispute"),
        (replace(CHARGED, status="EXPORTED", balance=0), "transferred by Alma's bursar profile"),
        (replace(NEW, type="CREDIT", balance=-500, original=-500), "credit in Alma"),
        (replace(NEW, balance=1001), "balance above the original amount"),
        (replace(paid(CHARGED, 400), balance=700), "balance above the original amount"),
        (replace(NEW, currency="EUR"), "other currency"),
        (replace(CHARGED, currency="EUR", balance=500), "other currency"),
        (replace(CHARGED, emplid="087654321", balance=0), "EMPLID changed since the charge"),
        (replace(CHARGED, balance=-1), "credit above what was charged"),
        (replace(NEW, balance=-1), "credit above what was charged"),
        (replace(CHARGED, credited=300, balance=-1), "credit above what was charged"),
        (replace(CHARGED, balance=300, waits=True), items.CREDIT_WAITS),
        (
            replace(CHARGED, balance=1001, original=1001, above=True),
            "charge waits while its item in PeopleSoft is above what it was told",
        ),
        (replace(NEW, balance=1, original=1, paid=True), "paid in PeopleSoft and never charged"),
        (replace(NEW, balance=0, paid=True, status="INDISPUTE"), "in dispute"),
        (
            replace(CHARGED, balance=1001, original=1001, given_up_and_paid=True),
            "paid in PeopleSoft after its charge was given up",
        ),
        (replace(CHARGED, given_up_and_paid=True, status="INDISPUTE"), "in dispute"),
        (replace(NEW, type="LOCKERKEY"), "fee type without item type"),
        (replace(NEW, emplid=""), "no EMPLID"),
        (replace(NEW, emplid="staff.0007"), "EMPLID of another shape"),
        (replace(NEW, emplid="0123456789"), "EMPLID of another shape"),
        (
            replace(NEW, emplid="\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19"),
            "EMPLID of another shape",
        ),
        (replace(NEW, emplid="012345678\n"), "EMPLID of another shape"),
    ],
)
def test_what_is_held_is_listed_and_not_sent(position: Position, kind: str) -> None:
    listed = decide(position, CAMPUS, DAY)
    assert isinstance(listed, Listed)
    assert listed.kind == kind
    assert listed.fee_id == position.fee_id
    assert listed.amount == position.due
    assert not position.emplid or position.emplid not in listed.detail


@pytest.mark.parametrize("change", [{"type": "LOCKERKEY"}, {"currency": None}])
def test_filters_never_hold_back_a_credit(change: dict[str, str]) -> None:
    line = decide(replace(CHARGED, balance=0, status="CLOSED", **change), CAMPUS, DAY)
    assert isinstance(line, Line)
    assert (line.kind, line.amount) == ("credit", 1000)


def test_an_emplid_that_changed_after_all_was_settled_is_no_obstacle_to_a_new_charge() -> None:
    settled = replace(paid(CHARGED, 700), credited=300, emplid="087654321", balance=50)
    assert decide(settled, CAMPUS, DAY) == CHARGE._replace(
        amount=50, emplid="087654321", term="", description="Library fee", effective_date="2026-11-22"
    )


def test_what_is_listed_tells_both_sides_amounts() -> None:
    disputed = replace(CHARGED, status="INDISPUTE", balance=600, charged=1200, credited=150)
    assert decide(disputed, CAMPUS, DAY) == Listed(
        "in dispute",
        "fee 138412345678",
        -450,
        "Alma 6.00 in INDISPUTE; PeopleSoft was told 10.50",
        fee_id="138412345678",
    )
    assert decide(replace(NEW, type="LOCKERKEY"), CAMPUS, DAY) == Listed(
        "fee type without item type",
        "fee 138412345678",
        1000,
        "Alma 10.00 in ACTIVE; PeopleSoft was told 0.00; give LOCKERKEY an item type in the settings",
        fee_id="138412345678",
    )


readings = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.sampled_from(["ACTIVE", "CLOSED", "INDISPUTE"])),
    min_size=1, max_size=12,
)  # fmt: skip


@given(readings, st.lists(st.integers(1, 500), max_size=2))
def test_whatever_alma_shows_peoplesoft_is_never_told_more_than_one_reading_held(
    seen: list[tuple[int, int, str]], payments: list[int]
) -> None:
    own = tuple(zip(KEYS, payments, strict=False))
    position = replace(NEW, own=own, posted=dict(own))
    most = 0
    for balance, original, status in seen:
        position = replace(position, balance=balance, original=original, status=status)
        most = max(most, position.balance + position.own_paid)
        line = decide(position, CAMPUS, DAY)
        if isinstance(line, Line):
            assert line.amount > 0
            if line.kind == "charge":
                position = replace(
                    position, charged=position.charged + line.amount, sent=position.sent or line
                )
            else:
                position = replace(position, credited=position.credited + line.amount)
            # What was told is now what is so, and the same reading once more tells nothing.
            assert position.due == 0
            again = decide(position, CAMPUS, DAY)
            assert again is None or isinstance(again, Listed)
        assert 0 <= position.credited <= position.charged
        assert position.charged - position.credited <= most
        assert position.sent is None or position.charged > 0


@given(readings)
def test_readings_that_end_where_they_began_end_with_the_same_books(seen: list[tuple[int, int, str]]) -> None:
    position = NEW
    for balance in (1000, *(min(balance, 1000) for balance, _, _ in seen), 1000):
        position = replace(position, balance=balance)
        line = decide(position, CAMPUS, DAY)
        if isinstance(line, Line):
            charged, credited = (line.amount, 0) if line.kind == "charge" else (0, line.amount)
            position = replace(
                position,
                charged=position.charged + charged,
                credited=position.credited + credited,
                sent=position.sent or line,
            )
    assert position.charged - position.credited == 1000


# -- fees made anew, for which an older item stands ---------------------------------------------------------


@given(
    carried=st.integers(1, 3000),
    seen=st.lists(
        st.tuples(st.integers(0, 3000), st.sampled_from(["ACTIVE", "CLOSED"])), min_size=1, max_size=8
    ),
    payments=st.lists(st.integers(1, 300), max_size=2),
)
def test_an_older_item_counts_as_charged(
    carried: int, seen: list[tuple[int, str]], payments: list[int]
) -> None:
    """PeopleSoft's item stands at what was carried; lines bring it to Alma's balance, and never beyond."""
    own = tuple(zip(KEYS, payments, strict=False))
    older = CHARGE._replace(reference="ALMA138400000000")
    position = replace(NEW, charged=carried, sent=older, own=own, posted=dict(own), original=6000)
    item = carried - position.own_paid
    for balance, status in seen:
        position = replace(position, balance=balance, status=status)
        agreed = balance == item
        line = decide(position, CAMPUS, DAY)
        if agreed:
            assert line is None
        if not isinstance(line, Line):
            continue
        assert (line.reference, line.emplid, line.term) == (older.reference, older.emplid, older.term)
        if line.kind == "charge":
            position, item = replace(position, charged=position.charged + line.amount), item + line.amount
        else:
            position, item = replace(position, credited=position.credited + line.amount), item - line.amount
        assert item == balance
        assert decide(position, CAMPUS, DAY) is None
        assert position.charged - position.credited >= 0


def test_new_fees_wait_while_a_payment_is_taken_back_and_others_do_not() -> None:
    waiting = decide(replace(NEW, taken_back=True), CAMPUS, DAY)
    assert isinstance(waiting, Listed)
    assert waiting.kind == "payment taken back, new fees wait"
    for balance in (300, 1200):
        line = decide(replace(CHARGED, balance=balance, original=1200, taken_back=True), CAMPUS, DAY)
        assert isinstance(line, Line)


def test_what_we_paid_and_never_charged_is_held() -> None:
    """As after a loss of the ledger: by the formula alone it would be charged."""
    kind = decide(
        replace(NEW, balance=0, status="CLOSED", own=((KEYS[0], 1000),), posted={KEYS[0]: 1000}), CAMPUS, DAY
    )
    assert isinstance(kind, Listed)
    assert kind.kind == "paid by us and never charged"


def test_credits_may_be_left_out_of_the_list() -> None:
    credit = replace(NEW, type="CREDIT", balance=-500, original=-500)
    assert isinstance(decide(credit, CAMPUS, DAY), Listed)
    ignoring = CAMPUS.model_copy(
        update={"alma_to_sis": CAMPUS.alma_to_sis.model_copy(update={"credits": "ignore"})}
    )
    assert decide(credit, ignoring, DAY) is None


# -- what a plan makes of its readings --------------------------------------------------------------


def test_a_plan_refuses_when_alma_shows_payments_of_ours_that_the_ledger_never_made(
    make_bridge: MakeBridge,
) -> None:
    bridge = make_bridge(fees=0)
    student = bridge.far.students[0]
    fee = bridge.far.alma.add_fee(student, 2000)
    bridge.far.alma.pay_by_api(fee.id, 500, method="ONLINE", external_transaction_id=KEYS[0])
    bridge.far.refresh_analytics()
    with pytest.raises(SendingStopped) as caught:
        bridge.alma_to_sis()
    assert fee.id in str(caught.value)
    assert student.primary_id not in str(caught.value)
    assert bridge.far.load_inbound() == []


def test_a_file_is_dated_by_the_campuss_day(tmp_path: Path, make_bridge: MakeBridge) -> None:
    from datetime import UTC, datetime

    from simulator.clock import Clock

    # Seven in the evening of the 22nd in California.
    bridge = make_bridge(fees=0, clock=Clock(datetime(2026, 11, 23, 3, 0, tzinfo=UTC)))
    bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    (file,) = bridge.folder.path("/sfs/inbound").iterdir()
    text = file.read_text()
    assert text.splitlines()[0][35:43] == "11222026"
    assert text.splitlines()[1][45:53] == "11222026"
    assert bridge.far.load_inbound()[0].loaded


@pytest.mark.parametrize(
    ("charged", "credited", "posted", "listed"),
    [(0, 0, {}, False), (1000, 400, {"k": 600}, False), (1000, 400, {"k": 500}, True), (1000, 0, {}, True)],
)
def test_a_gone_users_fee_is_listed_while_peoplesoft_has_something_of_it(
    charged: int, credited: int, posted: dict[str, int], listed: bool
) -> None:
    position = replace(
        CHARGED, problem=USER_GONE, charged=charged, credited=credited, posted=posted, balance=50
    )
    held = decide(position, CAMPUS, DAY)
    assert (held and held.kind) == (USER_GONE if listed else None)  # type: ignore[union-attr]


def test_another_alphabets_digits_are_no_emplid_whatever_the_pattern() -> None:
    emplid = CAMPUS.emplid.model_copy(update={"pattern": r"\d{9}"})
    held = decide(
        replace(NEW, emplid="\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19"),
        CAMPUS.model_copy(update={"emplid": emplid}),
        DAY,
    )
    assert isinstance(held, Listed)
    assert held.kind == "EMPLID of another shape"


def test_a_cent_owed_under_a_new_emplid_is_a_first_charge_too() -> None:
    settled = replace(CHARGED, credited=1000, emplid="087654321", balance=1)
    line = decide(settled, CAMPUS, DAY)
    assert isinstance(line, Line)
    assert (line.kind, line.amount, line.emplid, line.reason) == ("charge", 1, "087654321", "new")


def ruled(**rules: object) -> campus.Campus:
    return CAMPUS.model_copy(update={"first_charges": campus.FirstCharges(**rules)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("position", "rules", "kind"),
    [
        (replace(NEW, balance=1, original=1), {"minimum": "0.02"}, TOO_LITTLE),
        # Nothing is open under the EMPLID of before, by a payment or by a credit: a first charge again.
        (
            replace(paid(CHARGED, 1000), emplid="087654321", balance=50, original=1050),
            {"minimum": "0.51"},
            TOO_LITTLE,
        ),
        (replace(CHARGED, credited=1000, emplid="087654321", balance=50), {"minimum": "0.51"}, TOO_LITTLE),
        # Of what needs no line nothing is left out.
        (replace(NEW, balance=0, status="INDISPUTE"), {"minimum": "0.02"}, "in dispute"),
    ],
)
def test_a_rule_leaves_out_first_charges_alone(
    position: Position, rules: dict[str, object], kind: str
) -> None:
    held = decide(position, ruled(**rules), DAY)
    assert isinstance(held, Listed)
    assert held.kind == kind


@pytest.mark.parametrize(
    ("rules", "about", "kind"),
    [
        ({"owners_left_out": ["LAW"]}, {"owner": "LAW"}, OWNER_LEFT_OUT),
        ({"owners_left_out": ["LAW"]}, {"owner": "MAIN"}, None),
        ({"owners": ["MAIN"]}, {"owner": "LAW"}, OWNER_LEFT_OUT),
        ({"owners": ["MAIN"]}, {"owner": "MAIN"}, None),
        ({"user_groups_left_out": ["STAFF"]}, {"user_group": "STAFF"}, GROUP_LEFT_OUT),
        ({"user_groups_left_out": ["STAFF"]}, {"user_group": "GRADUATE"}, None),
        ({"user_groups": ["GRADUATE"]}, {"user_group": "STAFF"}, GROUP_LEFT_OUT),
        ({"user_groups": ["GRADUATE"]}, {"user_group": "GRADUATE"}, None),
        ({"user_groups": ["GRADUATE"]}, {"user_group": None}, "Alma does not tell the user's group"),
        ({"minimum": "10.00"}, {}, None),
        ({"minimum": "10.01"}, {}, TOO_LITTLE),
        ({"since": "2026-11-20"}, {"made_at": "2026-11-20T20:00:00Z"}, None),
        ({"since": "2026-11-20"}, {"made_at": "2026-11-19T20:00:00Z"}, BEFORE_THE_START),
        ({"minimum_age_days": 2}, {"made_at": "2026-11-20T20:00:00Z"}, None),
        ({"minimum_age_days": 2}, {"made_at": "2026-11-21T20:00:00Z"}, TOO_YOUNG),
        ({"minimum_age_days": 2}, {"made_at": None}, "Alma does not tell when it was made"),
        ({"maximum_age_days": 2}, {"made_at": "2026-11-20T20:00:00Z"}, None),
        ({"maximum_age_days": 2}, {"made_at": "2026-11-19T20:00:00Z"}, TOO_OLD),
    ],
)
def test_a_rule_ends_where_the_settings_say(
    rules: dict[str, object], about: dict[str, Any], kind: str | None
) -> None:
    line = decide(replace(NEW, **about), ruled(**rules), DAY)
    if kind is None:
        assert isinstance(line, Line)
    else:
        assert isinstance(line, Listed)
        assert line.kind == kind


def test_a_credit_without_an_item_type_of_its_own_is_held_where_credits_need_one() -> None:
    settings = CAMPUS.model_copy(
        update={
            "sfs": CAMPUS.sfs.model_copy(update={"credits_by": "item_type"}),
            "credit_item_types": {"300000000002": "400000000002"},
        }
    )
    held = decide(replace(CHARGED, balance=300), settings, DAY)
    assert isinstance(held, Listed)
    assert held.kind == "item type without credit item type"
    assert isinstance(decide(NEW, settings, DAY), Line)


def test_what_can_not_be_charged_does_not_count_for_a_students_minimum() -> None:
    of_one = [
        replace(NEW, balance=400, original=400),
        replace(NEW, fee_id="2", problem="inconsistent reading"),
        replace(NEW, fee_id="3", type="CREDIT", balance=-700, original=700),
    ]
    assert of_students(of_one, ruled(minimum_of_student="10.00"), DAY) == {"012345678": 400}


@pytest.mark.parametrize(
    ("shown", "waived", "others_waived", "counts"),
    [
        ([("A", 100)], {"B": 50}, 50, (("A", 100), ("B", 50))),
        ([("A", 100)], {"B": 50, "C": 1}, 50, (("A", 100),)),
        ([("A", 100)], {"A": 100, "B": 50}, 60, (("A", 100), ("B", 50))),
        ([("A", 100)], {"A": 100}, 0, (("A", 100),)),
    ],
)
def test_a_waiver_without_our_key_counts_where_alma_shows_as_much_waived(
    shown: list[tuple[str, int]],
    waived: dict[str, int],
    others_waived: int,
    counts: tuple[tuple[str, int], ...],
) -> None:
    assert with_waivers(shown, waived, others_waived) == counts


def test_a_credit_waits_for_as_many_days_as_the_settings_say() -> None:
    def waiting(days: int | None) -> frozenset[str]:
        settings = CAMPUS.sfs.model_copy(update={"credit_wait_days": days})
        unseen = {
            "fresh": "2026-11-20T08:00:00.001Z",
            "old": "2026-11-20T08:00:00.000Z",
            "ancient": "2026-11-01T08:00:00.000Z",
        }
        return _waiting(unseen, CAMPUS.model_copy(update={"sfs": settings}), "2026-11-22T08:00:00.000Z")

    assert waiting(2) == {"fresh"}
    assert waiting(21) == {"fresh", "old"}
    assert waiting(22) == {"fresh", "old", "ancient"}


# -- the day on which a fee was made ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made_at", "day"),
    [
        ("2026-11-22T09:00:00+02:00", date(2026, 11, 21)),
        ("2026-11-22T07:59:59Z", date(2026, 11, 21)),
        ("2026-11-22T08:00:00Z", date(2026, 11, 22)),
        # Without a zone it is UTC, wherever the worker stands.
        ("2026-11-22T07:59:59", date(2026, 11, 21)),
        ("2026-11-22T09:00:00", date(2026, 11, 22)),
        ("yesterday", None),
        (None, None),
    ],
)
def test_the_day_on_which_a_fee_was_made_is_the_campus_s(
    made_at: str | None, day: date | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert made_on_day(replace(NEW, made_at=made_at), CAMPUS) == day
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_students_sum_is_of_what_is_charged_and_of_what_may_be() -> None:
    settings = ruled(minimum_of_student="10.00", minimum_age_days=3, maximum_age_days=400)
    new = replace(NEW, made_at="2026-11-01T10:00:00Z")
    left_out = replace(NEW, made_at="2026-11-21T10:00:00Z")  # one day old
    grown_old = replace(CHARGED, made_at="2025-01-01T10:00:00Z")
    unread = replace(new, problem=USER_GONE)
    credit = replace(new, type="CREDIT", balance=-700)
    other = replace(new, emplid="087654321", balance=30)

    assert of_students([unread, credit, new, left_out, other], settings, DAY) == {
        "012345678": 1000,
        "087654321": 30,
    }
    # What was charged counts while it is open, however old it is by now.
    assert of_students([grown_old, new], settings, DAY) == {"012345678": 2000}
    assert of_students([replace(grown_old, status="INDISPUTE"), new], settings, DAY) == {"012345678": 2000}
    assert of_students([replace(grown_old, status="EXPORTED"), new], settings, DAY) == {"012345678": 1000}


def test_an_item_type_of_the_owning_library_alone_is_enough() -> None:
    settings = CAMPUS.model_copy(update={"item_types_of": {"LAW": {"LOCKERKEY": "300000000009"}}})
    line = decide(replace(NEW, type="LOCKERKEY", owner="LAW"), settings, DAY)
    assert isinstance(line, Line)
    assert line.item_type == "300000000009"
    held = decide(replace(NEW, type="LOCKERKEY", owner="MAIN"), settings, DAY)
    assert isinstance(held, Listed)
    assert held.kind == "fee type without item type"


@pytest.mark.parametrize(
    ("posted", "problem", "told"),
    [
        ({KEYS[0]: 70}, None, None),
        ({}, None, exceptions.OTHER_PAYMENTS),
        ({KEYS[0]: 70}, "fee not found in Alma", "fee not found in Alma"),
        ({}, "fee not found in Alma", "fee not found in Alma"),
    ],
)
def test_what_a_dry_run_keeps_of_a_fee(posted: dict[str, int], problem: str | None, told: str | None) -> None:
    position = replace(
        CHARGED, status="INDISPUTE", type="LOSTITEM", currency="CAD", emplid="012345679", original=1100, balance=900,
        own=((KEYS[0], 70),), charged=1000, credited=30, posted=posted, reason="waived", problem=problem, owner="LAW",
        made_at="2026-11-20T10:00:00Z", user_group="GRAD", taken_back=True,
    )  # fmt: skip
    assert seen_of(position, 44) == Seen(
        fee_id="138412345678", emplid="012345679", status="INDISPUTE", type="LOSTITEM", currency="CAD", original=1100,
        balance=900, told=970, own_paid=70, others_paid=44, reason="waived", problem=told, taken_back=1, owner="LAW",
        made_at="2026-11-20T10:00:00Z", user_group="GRAD",
    )  # fmt: skip
