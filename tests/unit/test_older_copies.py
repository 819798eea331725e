"""An older copy of the ledger is put back, tried, and repaired; or all of it is lost. The simulated campus is the witness."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from alma_hook import __main__ as command_line
from alma_hook import campus, guard
from alma_hook.errors import AlmaHookError, SendingStopped
from alma_hook.ledger import Ledger, batches
from alma_hook.ledger.store import LEASE_MINUTES
from simulator.alma_records import Fee
from tests.bridge import Bridge
from tests.unit import test_applied, test_reversals, test_without_reference
from tests.unit.test_applied import by_level, raised
from tests.unit.test_confirmations import load, see, tell, void, with_items
from tests.unit.test_guard import (
    copied,
    lose,
    only_rehearsed,
    opened,
    put_back,
    repaired,
    takes_in,
)
from tests.unit.test_guard import posted as keys_in_alma
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

ARCHIVE = "/sfs/archive"


def wait(bridge: Bridge) -> None:
    bridge.far.clock.advance(seconds=60 * (LEASE_MINUTES + 1))


def person(bridge: Bridge, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """With --ledger, whatever the marks say."""
    monkeypatch.setattr(command_line, "_ledger", lambda _: bridge.ledger("command line"))
    monkeypatch.setattr(command_line, "_settings", lambda _: bridge.campus)
    monkeypatch.setattr(command_line, "_check_marks", lambda _, __: None)
    return command_line.main(list(words))


def in_all(bridge: Bridge, *fees: Fee) -> list[tuple[int, int]]:
    """Charged and credited in PeopleSoft, by fee."""
    books = bridge.books().fees
    return [(books[fee.id].charged_cents, books[fee.id].credited_cents) for fee in fees]


SHAPES = {
    "windows": (lambda text: text, test_reversals.night, charged, pay),
    "cumulative": (cumulative, test_reversals.night, charged, pay),
    "applied": (by_level, test_applied.night, charged, pay),
    "oldest": (oldest, test_without_reference.night, test_without_reference.charged, None),
}


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("until", ["plan", "write"])
def test_an_older_copy_from_before_an_upload_that_ran_once_before_its_repair(
    tmp_path: Path, noted: bool, until: str
) -> None:
    """A backup, or a standby, from between plan and upload. The next run stops at the mark; then it is repaired."""
    bridge = Bridge(tmp_path, students=4, fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    with bridge.working("out") as (ledger, lease):
        for name, work in bridge.tasks_out("all_users"):
            work(ledger, lease)
            if name == until:
                copy = copied(bridge)
    bridge.far.load_inbound()
    if not noted:
        # The machine died between the delivery and the note.
        max(bridge.folder.path(ARCHIVE).glob("*charges*.state")).unlink()
    put_back(bridge, copy)
    wait(bridge)
    with pytest.raises(SendingStopped):
        bridge.alma_to_sis("all_users")
    repaired(bridge)
    for _ in range(2):
        wait(bridge)
        bridge.alma_to_sis("all_users")
        bridge.far.load_inbound()

    assert in_all(bridge, fee) == [(1000, 0)]


@pytest.mark.parametrize("way", [without, oldest])
def test_a_copy_that_took_in_a_file_before_its_repair_posts_no_part_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[str], str]
) -> None:
    """Payments without a fee. The copy took the file in, gave the money to no fee, and stopped at the mark."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=way)
    (first,) = test_without_reference.charged(bridge, 500)
    copy = copied(bridge)
    (second,) = test_without_reference.charged(bridge, 1000)
    test_without_reference.pays(bridge, 1500)
    test_without_reference.night(bridge)
    if way is without:
        number = str(test_without_reference.number(bridge))
        person(bridge, monkeypatch, "assign", number, first.id)
        number = re.findall(r"payment (\d+)", " ".join(bridge.exceptions()))
        test_without_reference.night(bridge)
        number = str(test_without_reference.number(bridge))
        person(bridge, monkeypatch, "assign", number, second.id)
        test_without_reference.night(bridge)
    assert applied(first, second) == [[500], [1000]]

    put_back(bridge, copy)
    wait(bridge)
    with suppress(SendingStopped):
        test_without_reference.night(bridge)
    repaired(bridge)
    (third,) = test_without_reference.charged(bridge, 1000)
    for _ in range(2):
        test_without_reference.night(bridge)
        if way is without and "payment without a fee" in kinds(bridge):
            person(bridge, monkeypatch, "assign", str(test_without_reference.number(bridge)), third.id)

    assert applied(first, second, third) == [[500], [1000], []]


def test_a_person_who_assigns_on_an_older_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=without)
    first, second = test_without_reference.charged(bridge, 1000, 1000)
    test_without_reference.pays(bridge, 1000)
    bridge.far.faults.add_http("fail_before", method="POST", path="/fees", times=None)
    test_without_reference.night(bridge)
    bridge.far.faults.clear()
    copy = copied(bridge)
    number = str(test_without_reference.number(bridge))
    person(bridge, monkeypatch, "assign", number, first.id)
    test_without_reference.night(bridge)
    assert applied(first, second) == [[1000], []]

    put_back(bridge, copy)
    wait(bridge)
    assert person(bridge, monkeypatch, "assign", number, second.id) == 0
    with suppress(SendingStopped):
        test_without_reference.night(bridge)
    repaired(bridge)
    for _ in range(2):
        test_without_reference.night(bridge)

    assert applied(first, second) == [[1000], []], kinds(bridge)


def test_a_copy_of_applied_amounts_that_took_in_a_list_before_its_repair(tmp_path: Path) -> None:
    """It made one payment of what had been two; what Alma does not show of it is another payment's."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=by_level)
    fee, other = charged(bridge, 5000, 700)
    copy = copied(bridge)
    for cents in (500, 800):
        test_applied.pay(bridge, fee, cents)
        test_applied.night(bridge)
    assert applied(fee) == [[500, 800]]
    bridge.far.clock.advance(hours=24)
    pay(bridge, other, 100)
    bridge.far.write_query_output(kind="applied")
    put_back(bridge, copy)
    with pytest.raises(SendingStopped):
        bridge.sis_to_alma()
    repaired(bridge)
    # Every two hours a run, once a day a list.
    for _ in range(4):
        bridge.far.clock.advance(hours=2)
        bridge.sis_to_alma()

    assert sum(applied(fee)[0]) == 1300, (applied(fee, other), bridge.exceptions())


def test_a_payment_that_stood_in_on_an_older_copy_is_posted_after_the_repair(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 2000)
    first = pay(bridge, fee, 1000)
    night(bridge)
    bridge.far.peoplesoft.bounce(first.payment_id)
    night(bridge)
    night(bridge)
    ((exception_id, _, _),) = listed(bridge)
    copy = copied(bridge)
    resolve(bridge, exception_id)  # paid at the cashier's, the office enters it on another item
    night(bridge)
    pay(bridge, fee, 1000)
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output()
    put_back(bridge, copy)
    wait(bridge)
    with pytest.raises(SendingStopped):
        bridge.sis_to_alma()
    repaired(bridge)
    for _ in range(2):
        night(bridge)

    assert (applied(fee), kinds(bridge), bridge.balances()["unexplained"]) == ([[1000, 1000]], [], 0)


def test_the_next_run_reads_the_accounts_of_payments_that_a_repair_has_found_in_alma(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    equalise(bridge)
    copy = copied(bridge)
    pay(bridge, fee, 400)
    night(bridge)
    put_back(bridge, copy)
    repaired(bridge)
    equalise(bridge)

    assert (applied(fee), bridge.balances()["unexplained"]) == ([[400]], 0)


def test_a_payment_resolved_on_an_older_copy_that_was_posted(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 2000)
    pay(bridge, fee, 1000)
    bridge.far.alma.dispute(fee.id)
    night(bridge)
    ((exception_id, _, _),) = listed(bridge, "fee is INDISPUTE in Alma")
    copy = copied(bridge)
    bridge.far.alma.restore(fee.id)
    night(bridge)
    assert applied(fee) == [[1000]]
    put_back(bridge, copy)
    wait(bridge)
    resolve(bridge, exception_id)
    with suppress(SendingStopped):
        night(bridge)
    repaired(bridge)
    for _ in range(2):
        night(bridge)
        equalise(bridge)

    assert (applied(fee), kinds(bridge), bridge.balances()["unexplained"]) == ([[1000]], [], 0)


@pytest.mark.parametrize("since", ["paid", "raised and seen", "sent again"])
def test_a_void_on_an_older_copy(tmp_path: Path, since: str) -> None:
    """What has shown since that PeopleSoft has the line is not known to the copy, so it lets the line be made void."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=with_items)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000, type="OVERDUEFINE")
    tell(bridge)
    if since != "sent again":
        load(bridge)
    else:
        for file in bridge.far.path("/sfs/inbound").glob("*.dat"):
            file.unlink()
    copy = copied(bridge)
    if since == "paid":
        pay(bridge, fee)
        night(bridge)
        assert applied(fee) == [[1000]]
    elif since == "raised and seen":
        bridge.far.alma.raise_fee(fee.id, 500)
        tell(bridge)
        load(bridge)
        see(bridge, days=1)
    else:
        void(bridge, "000001", rejected=True)
        tell(bridge)
        load(bridge)
        see(bridge, days=1)
    put_back(bridge, copy)
    wait(bridge)
    assert void(bridge, "000001", rejected=True) == 1
    with suppress(SendingStopped):
        bridge.alma_to_sis("all_users")
    repaired(bridge)
    for _ in range(3):
        see(bridge, days=1)
        wait(bridge)
        bridge.alma_to_sis("all_users")
        bridge.far.load_inbound()
    print(bridge.exceptions(), bridge.balances())
    assert in_all(bridge, fee)[0][0] == (1500 if since == "raised and seen" else 1000)
    assert bridge.balances()["unexplained"] == 0


def test_a_copy_from_between_take_in_and_post_repaired_at_once(tmp_path: Path) -> None:
    """Payments without a fee; no run and nobody's word on the copy: only the repair, as the runbook says."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=oldest)
    fee, _ = test_without_reference.charged(bridge, 1000, 500)
    test_without_reference.pays(bridge, 300)
    bridge.far.clock.advance(hours=12)
    bridge.far.write_query_output(bounced="omit")
    with bridge.working("back") as (ledger, lease):
        for name, work in bridge.tasks_back():
            work(ledger, lease)
            if name == "take in":
                copy = copied(bridge)
    assert applied(fee) == [[300]]
    put_back(bridge, copy)
    wait(bridge)
    repaired(bridge)
    for _ in range(2):
        test_without_reference.night(bridge)

    assert (applied(fee), kinds(bridge)) == ([[300]], [])


@pytest.mark.parametrize("way", ["reference", "oldest_first"])
def test_payments_of_before_the_books_were_opened_after_a_repair_of_a_lost_ledger(
    tmp_path: Path, way: str
) -> None:
    """Weeks of dry runs, then live, then the ledger is lost and repaired from nothing."""
    settings = oldest if way == "oldest_first" else cumulative
    bridge = Bridge(tmp_path, students=2, fees=0, settings=settings)
    run = test_without_reference.night if way == "oldest_first" else night
    student = bridge.far.students[0]
    old = bridge.far.alma.add_fee(student, 1000)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    bridge.far.peoplesoft.pay(student.primary_id, 1000, one_payment=True)
    bridge.far.alma.waive_at_desk(old.id)  # the former process had posted it
    bridge.far.clock.advance(hours=12)
    name = bridge.far.write_query_output(bounced="omit")
    only_rehearsed(bridge)
    opened(bridge)
    # Live now.
    fee = bridge.far.alma.add_fee(student, 700)
    bridge.far.clock.advance(hours=12)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    run(bridge)
    assert applied(fee) == [[]], name
    lose(bridge, opened=False)
    repaired(bridge)
    for _ in range(2):
        run(bridge)

    assert applied(fee) == [[]], kinds(bridge)


def test_payments_of_before_the_books_were_opened_on_a_fee_charged_since_after_a_repair(
    tmp_path: Path,
) -> None:
    """The former process charged by the same reference, and had posted what was paid of it."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 300)
    bridge.far.alma.pay_at_desk(fee.id, 300)  # as the former process posts it
    bridge.far.clock.advance(hours=1)
    bridge.far.write_query_output()
    only_rehearsed(bridge)
    opened(bridge)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    night(bridge)
    assert (applied(fee), kinds(bridge), fee.balance_cents) == ([[]], [], 700)
    lose(bridge, opened=False)
    repaired(bridge)
    for _ in range(2):
        night(bridge)

    assert (applied(fee), fee.balance_cents) == ([[]], 700), bridge.exceptions()


def test_the_same_file_under_its_archived_name_is_no_second_witness(tmp_path: Path) -> None:
    """Names that begin with the day: the archived name is the later one."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee, 400)
    bridge.far.alma.dispute(fee.id)

    def dated_night() -> None:
        bridge.far.clock.advance(hours=24)
        path = bridge.far.path(bridge.far.write_query_output(bounced="omit"))
        path.rename(path.with_name(f"{bridge.far.clock.now():%Y%m%d}.csv"))
        bridge.sis_to_alma()

    dated_night()
    bridge.far.peoplesoft.bounce(payment.payment_id)
    bridge.far.clock.advance(hours=24)
    dated_night()
    assert test_reversals.states(bridge) == ["seen_once"]
    repaired(bridge)

    assert test_reversals.states(bridge) == ["seen_once"]


def test_a_repair_of_a_ledger_that_lacks_nothing_changes_nothing(tmp_path: Path) -> None:
    """While a payment is lower in one file: what was taken in before says nothing against it."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee, 400)
    night(bridge)
    night(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    night(bridge)
    assert test_reversals.states(bridge) == ["seen_once"]
    assert repaired(bridge).files == 0
    assert test_reversals.states(bridge) == ["seen_once"]
    night(bridge)
    assert kinds(bridge) == ["payment taken back in PeopleSoft"]


@pytest.mark.parametrize("how", ["repair", "lost"])
def test_a_rest_that_was_for_something_else_stays_so_after_a_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=oldest)
    (fee,) = test_without_reference.charged(bridge, 1000)
    test_without_reference.pays(bridge, 1500)
    test_without_reference.night(bridge)
    ((exception_id, cents, _),) = listed(bridge, "payment without a fee")
    assert cents == 500
    copy = copied(bridge)
    resolve(bridge, exception_id)
    test_without_reference.night(bridge)
    if how == "lost":
        lose(bridge, opened=False)
    else:
        put_back(bridge, copy)
        wait(bridge)
    repaired(bridge)
    (other,) = test_without_reference.charged(bridge, 800)
    for _ in range(2):
        test_without_reference.night(bridge)
    assert applied(fee, other) == [[1000], []]


def test_the_archives_folder_is_another_one_all_at_once(tmp_path: Path) -> None:
    """A repair from the new one alone would charge again what stands in the old one."""
    bridge = Bridge(tmp_path, students=2, fees=0)
    (fee,) = charged(bridge, 1000)
    text = bridge.file.read_text().replace("[sfs]\n", '[sfs]\narchive_directory = "/sfs/archive2"\n')
    bridge.far.path("/sfs/archive2").mkdir()
    bridge.file.write_text(text)
    bridge.campus = campus.load(bridge.file)
    bridge.marks[1] = guard.ArchiveMark(bridge.folder, "/sfs/archive2", bridge.campus.institution)
    with pytest.raises(SendingStopped, match="This ledger works with the archive"):
        charged(bridge, 700)

    assert in_all(bridge, fee) == [(1000, 0)]


def snapshots(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """From now on a copy after each commit of a run of ours."""
    copies: list[Path] = []
    write = Ledger.write

    @contextmanager
    def copying(ledger: Ledger, lease=None):  # type: ignore[no-untyped-def]
        with write(ledger, lease) as tx:
            yield tx
        if ledger.run_id.startswith("run ") and copies is not None and bridge.recording:  # type: ignore[attr-defined]
            copies.append(copied(bridge, f"copy{len(copies)}.db"))

    bridge.recording = True  # type: ignore[attr-defined]
    monkeypatch.setattr(Ledger, "write", copying)
    return copies


@pytest.mark.parametrize(
    ("shape", "run_first"), [("windows", False), ("cumulative", True), ("applied", False), ("oldest", True)]
)
def test_a_copy_of_any_moment_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, run_first: bool
) -> None:
    settings, a_night, charge, _ = SHAPES[shape]
    bridge = Bridge(tmp_path / "a", students=2, fees=0, settings=settings)

    def paid(cents: int) -> None:
        if shape == "oldest":
            test_without_reference.pays(bridge, cents)
        else:
            pay(bridge, fees[0], cents)

    copies = snapshots(bridge, monkeypatch)
    fees = charge(bridge, 1000)
    fees += charge(bridge, 700)
    paid(300)
    a_night(bridge)
    paid(200)
    a_night(bridge)
    bridge.recording = False
    truth = applied(*fees)
    far = tmp_path / "kept"
    shutil.copytree(bridge.far.root, far)
    marks = bridge.marks[0].read()
    bad = []
    for n, one in list(enumerate(copies))[::2]:
        # Files as they were; Alma can't be set back, so nothing must be posted at all.
        for file in far.rglob("*"):
            place = bridge.far.root / file.relative_to(far)
            if file.is_file():
                shutil.copy2(file, place)
        for file in list(bridge.far.root.rglob("*")):
            if file.is_file() and not (far / file.relative_to(bridge.far.root)).exists():
                file.unlink()
        bridge.marks[0].write(marks)
        put_back(bridge, one)
        wait(bridge)
        said = []
        if run_first:
            for run in (lambda: bridge.alma_to_sis("all_users"), bridge.sis_to_alma):
                try:
                    run()
                except SendingStopped:
                    said.append("stopped")
                except AlmaHookError as error:
                    said.append(repr(error)[:80])
        wait(bridge)
        try:
            repaired(bridge)
            for batch in [s for s, k in bridge.exceptions().items() if k == "batch unconfirmed"]:
                with bridge.working("out") as (ledger, lease), ledger.write(lease) as tx:
                    batches.deliver(tx, batch.split()[1], "unconfirmed")
            for _ in range(2):
                wait(bridge)
                bridge.alma_to_sis("all_users")
                bridge.far.load_inbound()
                bridge.sis_to_alma()
        except AlmaHookError as error:
            said.append(repr(error)[:120])
        now = (applied(*fees), in_all(bridge, *fees), bridge.balances()["unexplained"], kinds(bridge))
        if now != (truth, [(1000, 0), (700, 0)], 0, []) or any("Error" in each for each in said):
            bad.append((n, len(copies), said, now))
            if now[0] != truth or now[1] != [(1000, 0), (700, 0)]:
                break  # the far side is spoilt
    assert bad == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", ["windows", "cumulative", "applied"])
def test_lives_with_an_older_copy_repaired(tmp_path: Path, shape: str, seed: int) -> None:
    rng = random.Random(seed)
    settings, a_night, charge, _ = SHAPES[shape]
    bridge = Bridge(tmp_path, students=3, fees=0, settings=settings)
    fees = charge(bridge, 2000)
    made: list[str] = []
    told: list[str] = []
    copies: list[Path] = []
    repaired_once = False
    for step in range(18):
        what = rng.choice(
            [
                "fee",
                "pay",
                "pay",
                "bounce",
                "night",
                "night",
                "raise",
                "waive",
                "desk",
                "dispute",
                "resolve",
                "copy",
                "back",
            ]
        )
        match what:
            case "fee":
                student = rng.randrange(2)
                fees.append(bridge.far.alma.add_fee(bridge.far.students[student], rng.randrange(100, 2000)))
                equalise(bridge)
            case "pay":
                with suppress(KeyError, ValueError):
                    made.append(pay(bridge, rng.choice(fees), rng.randrange(50, 1500)).payment_id)
            case "bounce" if made and shape != "windows":
                payment = bridge.far.peoplesoft.payments[rng.choice(made)]
                if payment.amount_cents:
                    bridge.far.peoplesoft.bounce(payment.payment_id, payment.amount_cents)
            case "night":
                a_night(bridge)
                equalise(bridge)
            case "raise" | "waive" | "desk" | "dispute":
                fee = rng.choice(fees)
                if fee.status == "ACTIVE":
                    alma = bridge.far.alma
                    if what == "raise":
                        alma.raise_fee(fee.id, rng.randrange(50, 400))
                    elif what == "dispute":
                        alma.dispute(fee.id)
                    else:
                        act = alma.waive_at_desk if what == "waive" else alma.pay_at_desk
                        act(fee.id, rng.randrange(1, fee.balance_cents + 1))
                elif fee.status == "INDISPUTE":
                    bridge.far.alma.restore(fee.id)
            case "resolve":
                rows = listed(bridge) or listed(bridge, "paid more than Alma's balance")
                if rows:
                    resolve(bridge, rows[0][0])
                    a_night(bridge)  # a run notes it
                    equalise(bridge)
                else:
                    continue
            case "copy" if not repaired_once:
                copies.append(copied(bridge, f"c{step}.db"))
            case "back" if copies and not repaired_once:
                repaired_once = True
                put_back(bridge, rng.choice(copies))
                wait(bridge)
                for _ in range(rng.randrange(3)):
                    for run in (lambda: a_night(bridge), lambda: bridge.alma_to_sis("all_users")):
                        with suppress(SendingStopped):
                            run()
                repaired(bridge)
                assert "batch unconfirmed" not in kinds(bridge)
            case _:
                continue
        told.append(what)
    for fee in fees:
        if fee.status == "INDISPUTE":
            bridge.far.alma.restore(fee.id)
    for _ in range(4):
        a_night(bridge)
        equalise(bridge)
        bridge.alma_to_sis("all_users")
        bridge.far.load_inbound()
    twice = {key: n for key, n in keys_in_alma(bridge).items() if n > 1}
    assert twice == {}, told
    loads = Counter(load.file_name for load in bridge.far.peoplesoft.loads)
    assert set(loads.values()) <= {1}
    charged_twice = {
        fee.id: in_all(bridge, fee) for fee in fees
        if in_all(bridge, fee)[0][0] - in_all(bridge, fee)[0][1] < 0
    }  # fmt: skip
    assert charged_twice == {}
    for fee in fees:
        # What PeopleSoft has been told, and what Alma makes of it.
        charged_, credited = in_all(bridge, fee)[0]
        assert charged_ - credited == fee.balance_cents + sum(applied(fee)[0]) or fee.id in bridge.listed_fees(), (
            told, charged_, credited, fee.balance_cents, applied(fee), bridge.exceptions(),
        )  # fmt: skip
    if "resolve" not in told:
        assert bridge.balances()["unexplained"] == 0, (told, bridge.exceptions(), bridge.balances())
    # No payment is lost: all that is paid in PeopleSoft is in Alma, or listed.
    if "resolve" not in told and shape == "cumulative":
        ledger = bridge.ledger("look")
        with ledger.read() as tx:
            silent = tx.rows(
                "SELECT p.payment_no, p.state, p.stands, p.posted FROM payment_now p WHERE p.institution = :i "
                "AND p.stands > p.posted AND p.state NOT IN ('settled', 'credited') AND NOT EXISTS "
                "(SELECT 1 FROM exception_item x WHERE x.institution = :i AND x.payment_key = p.payment_key)"
            )
        assert silent == [], told


# -- what a copy had done before its repair, whatever the marks say -----------------------------------------------------


def test_what_a_copy_gave_up_unsent_was_sent_in_its_later_life(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    with bridge.working("out") as (ledger, lease):
        for name, work in bridge.tasks_out("all_users"):
            work(ledger, lease)
            if name == "plan":
                copy = copied(bridge)
    bridge.far.load_inbound()
    put_back(bridge, copy)
    wait(bridge)
    marks, bridge.marks = bridge.marks, []
    with bridge.working("out") as (ledger, lease):
        bridge.retrieve("all_users", ledger, lease, True)
        bridge.read(ledger, lease)
    bridge.marks = marks
    repaired(bridge)
    for _ in range(2):
        wait(bridge)
        bridge.alma_to_sis("all_users")
        bridge.far.load_inbound()

    assert (in_all(bridge, fee), kinds(bridge)) == ([(1000, 0)], [])


def copy_after(bridge: Bridge, a_night: Callable[[Bridge], None], task: str) -> Path:
    """A night, and a copy from after that task of it."""
    copies = []

    def run() -> None:
        with bridge.working("back") as (ledger, lease):
            for name, work in bridge.tasks_back():
                work(ledger, lease)
                if name == task:
                    copies.append(copied(bridge))

    bridge.sis_to_alma = run  # type: ignore[assignment,method-assign]
    a_night(bridge)
    del bridge.sis_to_alma
    return copies[0]


def test_a_copy_from_before_a_payment_was_parted_holds_so_much_less_of_it(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=oldest)
    first, second = test_without_reference.charged(bridge, 500, 1000)
    test_without_reference.pays(bridge, 1800)
    copy = copy_after(bridge, test_without_reference.night, "take in")
    assert applied(first, second) == [[500], [1000]]
    put_back(bridge, copy)
    wait(bridge)
    repaired(bridge)
    (third,) = test_without_reference.charged(bridge, 1000)
    for _ in range(2):
        test_without_reference.night(bridge)

    assert applied(first, second, third) == [[500], [1000], [300]]


def test_a_part_that_a_copy_gave_to_another_fee_stays_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=without)
    first, second = test_without_reference.charged(bridge, 1000, 1000)
    test_without_reference.pays(bridge, 1500)
    test_without_reference.night(bridge)
    copy = copied(bridge)
    number = str(test_without_reference.number(bridge))
    person(bridge, monkeypatch, "assign", number, first.id)
    test_without_reference.night(bridge)
    assert applied(first, second) == [[1000], []]
    put_back(bridge, copy)
    wait(bridge)
    person(bridge, monkeypatch, "assign", number, second.id, "--amount", "5.00")
    repaired(bridge)
    for _ in range(2):
        test_without_reference.night(bridge)

    assert (applied(first, second), kinds(bridge)) == ([[1000], [500]], [])


def test_an_empty_ledger_that_took_payments_of_before_the_opening_in_sets_them_aside(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    student = bridge.far.students[0]
    old = bridge.far.alma.add_fee(student, 1000)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    pay(bridge, old, 300)
    bridge.far.clock.advance(hours=1)
    bridge.far.write_query_output()
    only_rehearsed(bridge)
    opened(bridge)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    night(bridge)
    lose(bridge, opened=False)
    marks, bridge.marks = bridge.marks, []
    bridge.far.write_query_output()
    takes_in(bridge)
    bridge.marks = marks
    repaired(bridge)
    for _ in range(2):
        night(bridge)

    assert applied(old) == [[]]


def anew(bridge: Bridge, old: Fee, *parts: int) -> list[Fee]:
    """A payment of the fee is taken back in parts, and for each the library makes a fee anew."""
    payment = pay(bridge, old)
    night(bridge)
    made = []
    for cents in parts:
        bridge.far.peoplesoft.bounce(payment.payment_id, cents)
        night(bridge)
        night(bridge)
        made.append(bridge.far.alma.add_fee(bridge.far.students[0], cents))
        equalise(bridge)
        ((exception_id, _, _),) = listed(bridge)
        resolve(bridge, exception_id, made[-1])
        equalise(bridge)
    return made


def is_back(bridge: Bridge, old: Fee, cents: int) -> None:
    """So much of the payment that was taken back is there after all; a person has undone what was done about it."""
    (payment,) = bridge.far.peoplesoft.payments.values()
    payment.amount_cents, payment.bounced_cents = payment.amount_cents + cents, payment.bounced_cents - cents
    bridge.far.peoplesoft._apply(payment, [bridge.far.peoplesoft.item_by_reference(f"ALMA{old.id}")])
    night(bridge)
    ((back, told, _),) = listed(bridge, "payment is back after it was settled as taken back")
    assert told == cents
    resolve(bridge, back)


def test_of_a_fee_made_anew_so_much_less_stands_for_the_older_one_as_is_back(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (old,) = charged(bridge, 1000)
    (new,) = anew(bridge, old, 1000)
    is_back(bridge, old, 400)
    bridge.far.alma.waive_at_desk(new.id, 400)
    for _ in range(2):
        equalise(bridge)
        night(bridge)

    assert (in_all(bridge, old, new), kinds(bridge)) == ([(1000, 0), (0, 0)], [])
    assert bridge.books().alma_cents == bridge.books().peoplesoft_cents == 600


@pytest.mark.parametrize("older", [False, True])
def test_which_fees_stand_for_an_older_one_after_a_repair(tmp_path: Path, older: bool) -> None:
    """The archive tells of both, and then that one of them does no more."""
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    (old,) = charged(bridge, 1000)
    first, second = anew(bridge, old, 400, 600)
    copy = copied(bridge)
    if not older:
        lose(bridge, opened=False)
        repaired(bridge)
    is_back(bridge, old, 600)
    bridge.far.alma.waive_at_desk(second.id)
    for _ in range(2):
        equalise(bridge)
        night(bridge)
    if older:
        put_back(bridge, copy)
        wait(bridge)
        repaired(bridge)
        equalise(bridge)
        night(bridge)
        # What was undone without a payment being settled is asked for again.
        ((back, _, _),) = listed(bridge, "payment is back after it was settled as taken back")
        resolve(bridge, back)
        for _ in range(2):
            equalise(bridge)
            night(bridge)

    assert (in_all(bridge, old, first, second), kinds(bridge)) == ([(1000, 0), (0, 0), (0, 0)], [])
    assert bridge.books().alma_cents == bridge.books().peoplesoft_cents == 400


def test_a_payment_that_a_copy_has_as_credited_and_a_person_has_settled_since(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    fee, other = charged(bridge, 1000, 50)
    pay(bridge, other)
    night(bridge)
    pay(bridge, fee)
    bridge.far.alma.pay_at_desk(fee.id)
    night(bridge)
    equalise(bridge)
    assert kinds(bridge) == []
    copy = copied(bridge)

    # The library raises the fee, and the office gives the money back.
    raised(bridge, fee, 600)
    equalise(bridge)
    bridge.far.alma.dispute(fee.id)
    night(bridge)
    ((exception_id, _, _),) = listed(bridge, "fee is INDISPUTE in Alma")
    resolve(bridge, exception_id)
    night(bridge)

    put_back(bridge, copy)
    repaired(bridge)
    bridge.far.alma.restore(fee.id)
    for _ in range(2):
        equalise(bridge)
        night(bridge)
    assert applied(fee) == [[]]
