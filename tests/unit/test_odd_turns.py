"""Odd turns that fees and payments take, each of which should leave both sides equal. The simulated campus is the witness."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from alma_hook import campus, layouts, watch
from alma_hook.errors import AlmaHookError, Retriable, SendingStopped
from alma_hook.ledger import Ledger, batches, exceptions
from simulator.alma_records import Fee
from tests.bridge import Bridge
from tests.unit import test_applied, test_reversals, test_without_reference
from tests.unit.test_campus_rules import CREDIT_TYPE, by_item_type
from tests.unit.test_confirmations import void
from tests.unit.test_guard import lose, repaired
from tests.unit.test_older_copies import SHAPES, in_all, person, wait
from tests.unit.test_reversals import (
    applied,
    charged,
    cumulative,
    equalise,
    kinds,
    listed,
    night,
    pay,
    resolve,
)
from tests.unit.test_without_reference import oldest, without


def test_a_payment_settled_by_a_credit_is_there_again_when_its_fee_asks_for_more(tmp_path: Path) -> None:
    """Paid at the desk and in PeopleSoft; the credit explains it. Then the fee is raised: PeopleSoft's money pays that."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    pay(bridge, fee)
    bridge.far.alma.pay_at_desk(fee.id)
    night(bridge)
    assert kinds(bridge) == ["fee already settled in Alma"]
    equalise(bridge)
    assert kinds(bridge) == []
    test_applied.raised(bridge, fee, 1000)
    for _ in range(2):
        equalise(bridge)
        night(bridge)

    # PeopleSoft's own applier takes what lay on the account.
    bridge.far.peoplesoft.reapply(bridge.far.students[0].primary_id)
    night(bridge)

    assert bridge.unexplained() == {}, (applied(fee), bridge.balances())
    assert bridge.balances()["unexplained"] == 0


def test_a_rest_that_a_person_has_settled_and_a_fee_raised_later(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    pay(bridge, fee, 1500)
    night(bridge)
    ((exception_id, _, _),) = listed(bridge, "paid more than Alma's balance")
    resolve(bridge, exception_id)  # given back
    test_applied.raised(bridge, fee, 500)
    for _ in range(2):
        equalise(bridge)
        night(bridge)

    assert bridge.balances()["unexplained"] == 0, (kinds(bridge), bridge.balances())


def test_a_payment_that_a_person_has_settled_leaves_nothing_unexplained(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    pay(bridge, fee)
    bridge.far.alma.dispute(fee.id)
    night(bridge)
    ((exception_id, _, _),) = listed(bridge, "fee is INDISPUTE in Alma")
    resolve(bridge, exception_id)
    bridge.far.alma.restore(fee.id)
    for _ in range(2):
        equalise(bridge)
        night(bridge)

    assert bridge.balances()["unexplained"] == 0, (kinds(bridge), bridge.balances())


def test_a_part_taken_back_after_what_was_taken_back_of_its_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lower before it was given to a fee, in part, and lower once more after that."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=without)
    (fee,) = test_without_reference.charged(bridge, 1000)
    paid = test_without_reference.pays(bridge, 1500)
    test_without_reference.night(bridge)
    bridge.far.peoplesoft.bounce(paid, 300)
    for _ in range(2):
        test_without_reference.night(bridge)
    number = str(test_without_reference.number(bridge))
    assert person(bridge, monkeypatch, "assign", number, fee.id) == 0
    test_without_reference.night(bridge)
    assert applied(fee) == [[1000]]
    bridge.far.peoplesoft.bounce(paid, 400)
    for _ in range(2):
        test_without_reference.night(bridge)

    assert kinds(bridge) == ["payment taken back in PeopleSoft"]
    assert [cents for _, cents, _ in listed(bridge)] == [200]


def test_a_layout_changed_between_plan_and_write(tmp_path: Path) -> None:
    """Credits planned as reversals, and a layout by then that does not mark them."""
    bridge = Bridge(tmp_path, students=2, fees=0)
    (fee,) = charged(bridge, 1000)
    bridge.far.alma.waive_at_desk(fee.id, 400)
    text = bridge.file.read_text()
    with bridge.working("out") as (ledger, lease), suppress(AlmaHookError):
        for name, work in bridge.tasks_out("all_users"):
            work(ledger, lease)
            if name == "plan":
                bridge.file.write_text(test_without_reference.cornell(without(text)))
                bridge.campus = campus.load(bridge.file)
                bridge.layout = layouts.load("cornell_lib02")
    files = {file.name: file.read_bytes() for file in bridge.folder.path("/sfs/inbound").glob("*credits*")}

    assert files == {}


def test_a_payment_lower_once_and_given_to_a_fee_in_part_is_lower_again(
    tmp_path: Path, ledger_url: str
) -> None:
    """The same without a person: paid before there was a fee, taken back in part, then a fee comes."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=oldest, url=ledger_url)
    (first,) = test_without_reference.charged(bridge, 100)
    paid = test_without_reference.pays(bridge, 1500)
    test_without_reference.night(bridge)
    bridge.far.peoplesoft.bounce(paid, 300)
    test_without_reference.night(bridge)
    (second,) = test_without_reference.charged(bridge, 1000)
    test_without_reference.night(bridge)
    bridge.far.peoplesoft.bounce(paid, 500)
    for _ in range(2):
        test_without_reference.night(bridge)

    assert applied(first) == [[100]], applied(second)


def raw(bridge: Bridge, name: str, *rows: tuple[str, str, str]) -> None:
    """A file of (EMPLID, payment id, amount)."""
    bridge.far.clock.advance(hours=24)
    day = f"{bridge.far.clock.now():%m/%d/%Y}"
    lines = [f"{emplid},{number},{day},{cents}" for emplid, number, cents in rows]
    path = bridge.far.path(f"/sfs/outbound/{name}.csv")
    path.write_text("\n".join(["Emplid,Payment ID,Date Paid,Paid Amount", *lines]) + "\n")
    bridge.folder.put(f"/sfs/outbound/{name}.csv", path.read_bytes())
    bridge.sis_to_alma()


def test_one_payment_id_of_two_students_is_two_payments_or_listed(tmp_path: Path) -> None:
    """No line names a fee, files of one day each, and PeopleSoft counts its payments for each student."""
    bridge = Bridge(
        tmp_path, students=2, fees=0, settings=lambda text: without(text, "oldest_first", more="")
    )
    (mine,) = test_without_reference.charged(bridge, 500)
    (yours,) = test_without_reference.charged(bridge, 500, student=1)
    one, two = (student.primary_id for student in bridge.far.students[:2])
    raw(bridge, "one", (one, "17", "5.00"))
    raw(bridge, "two", (two, "17", "5.00"))

    assert (applied(mine, yours), kinds(bridge)) in [
        ([[500], [500]], []),
        ([[500], []], ["payment id twice"]),
    ]


def test_a_raise_made_void_wrongly_and_paid_is_not_charged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a batch given up wrongly, the payment shows that PeopleSoft has it."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    bridge.far.alma.raise_fee(fee.id, 500)
    equalise(bridge)
    void(bridge, "000002", 1, rejected=True)
    pay(bridge, fee, 1500)
    night(bridge)
    assert applied(fee) == [[1500]]
    equalise(bridge)

    assert in_all(bridge, fee) == [(1500, 0)]


def test_a_credit_that_explained_a_payment_is_made_void_and_the_fee_is_raised(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    pay(bridge, fee)
    bridge.far.alma.pay_at_desk(fee.id)
    night(bridge)
    bridge.far.clock.advance(seconds=60)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    for file in bridge.far.path("/sfs/inbound").glob("*credits*"):
        file.unlink()  # rejected
    assert kinds(bridge) == []
    void(bridge, "000002", 1, rejected=True)
    test_applied.raised(bridge, fee, 1000)
    for _ in range(3):
        equalise(bridge)
        night(bridge)

    assert (bridge.unexplained(), bridge.balances()["unexplained"]) == ({}, 0), (
        applied(fee),
        in_all(bridge, fee),
    )


def test_two_campuses_on_one_ledger(tmp_path: Path, ledger_url: str) -> None:
    one = Bridge(tmp_path / "one", students=3, fees=0, settings=cumulative, url=ledger_url)
    two = Bridge(
        tmp_path / "two", students=3, fees=0, url=ledger_url,
        settings=lambda text: cumulative(text).replace("01CAMPUS_INST", "02CAMPUS_INST"),
    )  # fmt: skip
    fees = [charged(bridge, 1000, 500) for bridge in (one, two)]
    for bridge, of_one in zip((one, two), fees, strict=True):
        pay(bridge, of_one[0], 300)
    night(one)
    night(two)
    two.far.alma.waive_at_desk(fees[1][1].id, 200)
    for bridge in (one, two):
        night(bridge)
        equalise(bridge)
        test_reversals.equal(bridge)
    assert applied(*fees[0], *fees[1]) == [[300], [], [300], []]
    lost_payment = pay(one, fees[0][1], 100)
    night(one)
    one.far.peoplesoft.bounce(lost_payment.payment_id)
    night(one)
    night(one)
    assert len(kinds(one)) == 1
    test_reversals.equal(two)


def test_a_first_charge_made_void_wrongly_and_paid_can_be_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    void(bridge, "000001", 1, rejected=True)
    pay(bridge, fee)
    night(bridge)
    equalise(bridge)
    assert in_all(bridge, fee) == [(1000, 0)]
    assert "paid in PeopleSoft and never charged" in kinds(bridge)
    assert person(bridge, monkeypatch, "mark-delivered", "000001", "--line", "2") == 1
    assert person(bridge, monkeypatch, "mark-delivered", "000001", "--line", "1") == 0
    assert person(bridge, monkeypatch, "mark-delivered", "000001", "--line", "1") == 1
    for _ in range(2):
        equalise(bridge)
        night(bridge)

    assert (in_all(bridge, fee), applied(fee), kinds(bridge)) == ([(1000, 0)], [[1000]], [])
    lose(bridge, opened=False)
    repaired(bridge)
    for _ in range(2):
        wait(bridge)
        equalise(bridge)
        night(bridge)

    assert (in_all(bridge, fee), applied(fee), kinds(bridge)) == ([(1000, 0)], [[1000]], [])


@pytest.mark.parametrize("hours", [-26, -1, 26])
@pytest.mark.parametrize("shape", ["windows", "cumulative", "applied", "oldest"])
def test_the_database_s_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, hours: int
) -> None:
    settings, a_night, charge, _ = SHAPES[shape]
    bridge = Bridge(tmp_path, students=2, fees=0, settings=settings)
    shift = [timedelta()]

    def ledger(run_id: str | None = None) -> Ledger:
        return Ledger(
            bridge.url, bridge.campus.institution, run_id=run_id or f"run {next(bridge.runs)}",
            clock=lambda: bridge.far.clock.now() + shift[0],
        )  # fmt: skip

    monkeypatch.setattr(bridge, "ledger", ledger)

    def paid(fee: Fee, cents: int) -> None:
        if shape == "oldest":
            test_without_reference.pays(bridge, cents)
        else:
            pay(bridge, fee, cents)

    (fee,) = charge(bridge, 2000)
    paid(fee, 300)
    a_night(bridge)
    shift[0] = timedelta(hours=hours)
    paid(fee, 200)
    bridge.far.alma.raise_fee(fee.id, 100)
    test_reversals.equalise(bridge)
    a_night(bridge)
    shift[0] = timedelta()
    for _ in range(4):
        test_reversals.equalise(bridge)
        a_night(bridge)
    assert (sum(applied(fee)[0]), in_all(bridge, fee), kinds(bridge)) == (500, [(2100, 0)], [])


def test_a_made_anew_fee_whose_payment_is_back(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (old,) = charged(bridge, 1000)
    payment = pay(bridge, old)
    night(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    night(bridge)
    night(bridge)
    new = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    equalise(bridge)
    ((exception_id, _, _),) = listed(bridge)
    resolve(bridge, exception_id, new)
    equalise(bridge)
    payment.amount_cents, payment.bounced_cents = 1000, 0
    bridge.far.peoplesoft._apply(payment, [bridge.far.peoplesoft.item_by_reference(f"ALMA{old.id}")])
    night(bridge)
    assert bridge.balances()["unexplained"] == 0
    ((back, _, _),) = listed(bridge, "payment is back after it was settled as taken back")
    bridge.far.alma.waive_at_desk(new.id)  # it is paid, by the old fee's payment
    resolve(bridge, back)
    for _ in range(2):
        equalise(bridge)
        night(bridge)
    assert in_all(bridge, old, new) == [(1000, 0), (0, 0)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("way", [without, oldest])
def test_lives_without_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, way: Callable[[str], str]
) -> None:
    """Random days of fees, payments on account, returned cheques, and a person who assigns."""
    rng = random.Random(seed)
    bridge = Bridge(tmp_path, students=2, fees=0, settings=way)
    fees = test_without_reference.charged(bridge, 1000)
    made: list[str] = []
    told = []
    for _ in range(14):
        match rng.choice(
            ["fee", "pay", "pay", "bounce", "night", "night", "assign", "raise", "waive", "desk"]
        ):
            case "fee":
                fees += test_without_reference.charged(bridge, rng.randrange(100, 2000))
                told.append("fee")
            case "pay":
                cents = rng.randrange(100, 3000)
                made.append(test_without_reference.pays(bridge, cents))
                told.append(f"pay {cents}")
            case "bounce" if made:
                payment = bridge.far.peoplesoft.payments[rng.choice(made)]
                if payment.amount_cents:
                    cents = rng.randrange(1, payment.amount_cents + 1)
                    bridge.far.peoplesoft.bounce(payment.payment_id, cents)
                    told.append(f"bounce {payment.payment_id[-2:]} {cents}")
            case "night":
                test_without_reference.night(bridge)
                told.append("night")
            case "assign":
                for subject, kind in bridge.exceptions().items():
                    if kind == "payment without a fee":
                        words = ["assign", subject.split()[1], rng.choice(fees).id]
                        if rng.random() < 0.5:
                            words += ["--amount", f"{rng.randrange(1, 1500) / 100:.2f}"]
                        told.append((words, person(bridge, monkeypatch, *words)))
            case "raise":
                fee = rng.choice(fees)
                if fee.status == "ACTIVE":
                    bridge.far.alma.raise_fee(fee.id, rng.randrange(50, 500))
                    told.append("raise")
            case "waive" | "desk" as what:
                fee = rng.choice(fees)
                if fee.status == "ACTIVE":
                    act = bridge.far.alma.waive_at_desk if what == "waive" else bridge.far.alma.pay_at_desk
                    act(fee.id, rng.randrange(1, fee.balance_cents + 1))
                    told.append(what)
    for _ in range(4):
        test_without_reference.night(bridge)
        test_without_reference.equalise(bridge)
    assert bridge.balances()["unexplained"] == 0, (told, bridge.exceptions())
    posted = sum(sum(cents) for cents in applied(*fees))
    there = sum(payment.amount_cents for payment in bridge.far.peoplesoft.payments.values())
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = [
            row for row in exceptions.open_items(tx) if row["subject"].startswith(("payment", "reversal"))
        ]
        settled = int(
            tx.one(
                "SELECT COALESCE(SUM(p.stands - p.posted), 0) FROM payment_now p WHERE p.institution = :i AND "
                "(p.state = 'credited' "
                "OR (p.state = 'settled' AND p.payment_key NOT IN "
                "(SELECT v.covered_by FROM reversal v WHERE v.covered_by IS NOT NULL)) "
                "OR (p.state = 'posted' AND p.stands > p.posted AND NOT EXISTS (SELECT 1 FROM exception_item x "
                "WHERE x.institution = :i AND x.payment_key = p.payment_key AND x.closed_at IS NULL)))"
            )
        )
    back = sum(int(row["amount"]) for row in rows if row["subject"].startswith("reversal"))
    waits = sum(int(row["amount"]) for row in rows if row["subject"].startswith("payment"))
    assert there == posted - back + waits + settled, (
        told,
        there,
        posted,
        back,
        waits,
        settled,
        [dict(row) for row in rows],
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["rename", "direct"])
def test_lives_with_fixed_names_empty_files_and_credits_as_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, seed: int
) -> None:
    rng = random.Random(seed)

    def settings(text: str) -> str:
        told = f'nothing_to_send = "empty_file"\nmode = "{mode}"\n'
        told += 'fixed_name = "lib_{kind}.dat"\ndone_file = "{file}.done"\n'
        text = cumulative(text).replace("[sfs]\n", f"[sfs]\n{told}")
        return by_item_type(text) if seed % 2 else text

    bridge = Bridge(tmp_path, students=3, fees=0, settings=settings)
    bridge.far.peoplesoft.takes_empty_files = True
    if seed % 2:
        bridge.far.peoplesoft.credit_item_types = {CREDIT_TYPE}
    fees = [bridge.far.alma.add_fee(bridge.far.students[0], 2000)]
    risk = [0.02]
    came: set[str] = set()

    def died(action: str, path: str) -> None:
        if action in ("write", "written", "rename", "renamed") and rng.random() < risk[0]:
            raise Retriable("the connection broke off")

    bridge.folder.before = died

    def out() -> None:
        bridge.far.clock.advance(hours=5)
        bridge.far.refresh_analytics()
        with suppress(Retriable, SendingStopped):
            bridge.alma_to_sis(rng.choice(["analytics_report", "all_users"]))

    def load() -> None:
        for file in bridge.far.path("/sfs/inbound").glob("*.dat"):
            came.add(file.read_bytes().hex())
        bridge.far.load_inbound()
        for file in bridge.far.path("/sfs/inbound").glob("*.done"):
            file.unlink()

    def settle_doubt() -> None:
        for subject, kind in bridge.exceptions().items():
            if kind == "batch unconfirmed":
                batch_id = subject.split()[1]
                with bridge.ledger("look").read() as tx:
                    content = batches.content(tx, batch_id).hex()
                bridge.far.clock.advance(hours=6)
                for part in bridge.far.path("/sfs/inbound").glob("*.part"):
                    part.unlink()
                there = content in came or any(
                    file.read_bytes().hex() == content
                    for file in bridge.far.path("/sfs/inbound").glob("*.dat")
                )
                assert (
                    person(bridge, monkeypatch, "mark-delivered" if there else "mark-not-delivered", batch_id)
                    == 0
                )

    for _ in range(16):
        match rng.choice(
            ["fee", "pay", "out", "out", "load", "load", "night", "raise", "waive", "desk", "doubt"]
        ):
            case "fee":
                fees.append(
                    bridge.far.alma.add_fee(rng.choice(bridge.far.students), rng.randrange(100, 2000))
                )
            case "pay":
                with suppress(KeyError, ValueError):
                    pay(bridge, rng.choice(fees), rng.randrange(50, 1500))
            case "out":
                out()
            case "load":
                load()
            case "night":
                with suppress(Retriable):
                    night(bridge)
            case "raise" | "waive" | "desk" as what:
                fee = rng.choice(fees)
                if fee.status == "ACTIVE":
                    if what == "raise":
                        bridge.far.alma.raise_fee(fee.id, rng.randrange(50, 400))
                    else:
                        act = (
                            bridge.far.alma.waive_at_desk if what == "waive" else bridge.far.alma.pay_at_desk
                        )
                        act(fee.id, rng.randrange(1, fee.balance_cents + 1))
            case "doubt":
                settle_doubt()
    risk[0] = 0
    for _ in range(6):
        wait(bridge)
        settle_doubt()
        out()
        load()
        night(bridge)
    assert bridge.balances()["unexplained"] == 0, bridge.exceptions()
    for fee in fees:
        ((charged_, credited),) = in_all(bridge, fee)
        assert charged_ - credited == fee.balance_cents + sum(applied(fee)[0]) or fee.id in bridge.listed_fees(), (
            charged_, credited, fee.balance_cents, applied(fee), bridge.exceptions(),
        )  # fmt: skip


@pytest.mark.parametrize("empty", [False, True])
def test_credits_leave_though_each_days_charges_take_the_one_name_first(tmp_path: Path, empty: bool) -> None:
    """One fixed name for both kinds, a run a day, a load a day; each day has a charge (or an empty file of charges)."""

    def settings(text: str) -> str:
        more = 'nothing_to_send = "empty_file"\n' * empty
        return text.replace("[sfs]\n", f'[sfs]\nfixed_name = "libfines.dat"\n{more}')

    bridge = Bridge(tmp_path, students=3, fees=0, settings=settings)
    bridge.far.peoplesoft.takes_empty_files = True
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 2000)
    for day in range(15):
        bridge.far.clock.advance(hours=24)
        if not empty:
            bridge.far.alma.add_fee(bridge.far.students[1], 100)
        if day == 1:
            bridge.far.alma.waive_at_desk(fee.id, 500)
        bridge.far.refresh_analytics()
        bridge.alma_to_sis()
        bridge.far.load_inbound()
    with bridge.ledger("look").read() as tx:
        told = [(each.cause, each.text) for each in watch.conditions(tx, bridge.campus, ())]
    print(bridge.exceptions(), bridge.balances(), told)

    assert in_all(bridge, fee) == [(2000, 500)]
