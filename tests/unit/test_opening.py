"""Going live where PeopleSoft holds library charges already; its books and Alma's are the witnesses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from alma_hook import confirmations, opening, opening_file
from alma_hook.errors import BadFile, Fatal, SendingStopped, SettingsError
from alma_hook.ledger import institutions, payments
from alma_hook.ledger import opening as opened
from alma_hook.opening import FirstRun, Matching
from simulator.alma_records import Fee
from tests.bridge import Bridge
from tests.unit.test_applied import by_level, one_list, raised
from tests.unit.test_guard import copied, lose, put_back, repaired
from tests.unit.test_reversals import applied, cumulative, equal, kinds, listed
from tests.unit.test_waivers import reversing

OPENING = """
[opening.columns]
emplid = "Emplid"
item_type = "Item Type"
term = "Item Term"
reference = "Reference Nbr"
balance = "Item Balance"
applied = "Applied Amt"
"""


class Unopened(Bridge):
    """A campus that has not gone live yet."""

    def prepare_ledger(self) -> None:
        ledger = self.ledger("setup")
        ledger.migrate()
        ledger.close()

    def today(self) -> date:
        return self.campus.today(self.far.clock.now())

    def items(self) -> bytes:
        return self.far.peoplesoft.applied_output()

    def matched(self, content: bytes | None = None, as_of: date | None = None) -> tuple[Matching, Any]:
        as_of = as_of or self.today()
        content = self.items() if content is None else content
        assert self.campus.opening is not None
        items = opening_file.read("items.csv", content, self.campus, self.campus.opening)
        accounts = opening.read_accounts(self.api, items, self.campus)
        matching = opening.match(items, accounts, self.campus, as_of)
        return matching, opening.record(matching, "items.csv", content, as_of, "looked at")

    def rehearse(self) -> FirstRun:
        self.far.refresh_analytics()
        matching, told = self.matched()

        def retrieve(ledger: Any, lease: Any) -> None:
            self.retrieve("analytics_report", ledger, lease, False)

        with closing(self.ledger("rehearsal")) as ledger:
            return opening.rehearse(self.campus, self.api, matching, told, retrieve, ledger)

    def accept(self, content: bytes | None = None, as_of: date | None = None) -> Matching:
        matching, told = self.matched(content, as_of)
        with (
            closing(self.ledger("opening")) as ledger,
            ledger.lease("out", "by hand") as out,
            ledger.lease("back", "by hand"),
        ):
            opening.accept(ledger, out, self.campus, matching, told, self.folder, self.marks)
        return matching

    def run(self, method: str = "analytics_report") -> None:
        self.far.clock.advance(seconds=60)
        self.far.refresh_analytics()
        self.alma_to_sis(method)
        assert all(result.loaded for result in self.far.load_inbound())

    def loads(self) -> list[tuple[str | None, int]]:
        return [(load.kind, load.total_cents) for load in self.far.peoplesoft.loads]

    def night(self, kind: str = "payments") -> None:
        self.far.clock.advance(hours=24)
        self.far.write_query_output(kind=kind)
        self.sis_to_alma()

    def resolve(self, kind: str, **more: Any) -> None:
        for exception_id, _, _ in listed(self, kind):
            with closing(self.ledger("by hand")) as ledger, ledger.write() as tx:
                payments.resolve(tx, exception_id, "the bursar", "looked at", **more)

    def table(self, name: str) -> list[Any]:
        with closing(self.ledger("look")) as ledger, ledger.read() as tx:
            return tx.rows(f"SELECT * FROM {name} WHERE institution = :i")


def unopened(folder: Path, url: str | None = None, *, shape: Callable[[str], str] = str) -> Unopened:
    return Unopened(folder, students=4, fees=0, url=url, settings=lambda text: shape(text) + OPENING)


@pytest.fixture
def both(tmp_path: Path, ledger_url: str) -> Unopened:
    return unopened(tmp_path, ledger_url)


@pytest.fixture
def small(tmp_path: Path) -> Unopened:
    return unopened(tmp_path)


def made_void(bridge: Unopened, line_no: int, why: str) -> None:
    """A person says of an item of the opening that it is not there."""
    with closing(bridge.ledger("by hand")) as ledger, ledger.lease("out", "by hand") as lease:
        confirmations.void(ledger, lease, "000000", line_no, why, rejected=True, settings=None)


def a_fee(bridge: Bridge, cents: int, student: int = 0, **more: Any) -> Fee:
    return bridge.far.alma.add_fee(bridge.far.students[student], cents, **more)


def a_campus(bridge: Unopened) -> dict[str, Fee]:
    """What a former process leaves: with our reference, with its own, part paid, differing, without a fee; and a new fee."""
    far = bridge.far
    found = {
        "ours": a_fee(bridge, 1000),
        "part": a_fee(bridge, 5000),
        "theirs": a_fee(bridge, 700, 1),
        "differs": a_fee(bridge, 900, 1),
        "unsure": a_fee(bridge, 400, 2),
        "new": a_fee(bridge, 250, 3),
    }
    far.charged_before(found["ours"], 1000)
    far.charged_before(found["part"], 5000, paid=2000)
    far.alma.pay_at_desk(found["part"].id, 2000)
    far.charged_before(found["theirs"], 700, reference="LIB-77")
    far.charged_before(found["differs"], 1100)
    far.peoplesoft.charge(far.students[2].primary_id, "300000000001", "2261", "LIB-78", 555)
    return found


def test_a_rehearsal_shows_what_the_first_run_would_send_and_changes_nothing(both: Unopened) -> None:
    a_campus(both)
    before = {name: both.table(name) for name in ("fee", "line", "batch", "exception_item", "opening_item")}
    first, second = both.rehearse(), both.rehearse()
    for found in (first, second):
        assert (found.counts.charges, found.counts.charged, found.counts.credits) == (1, 250, 0)
        assert {(row["kind"], int(row["n"])) for row in found.listed} == {
            (opened.HELD_SINCE_OPENING, 2),
            (opened.ITEM_WITHOUT_FEE, 1),
        }
    assert {name: both.table(name) for name in before} == before
    assert both.loads() == []


def test_the_first_run_sends_only_what_differs(both: Unopened) -> None:
    fees = a_campus(both)
    matching = both.accept()
    assert (matching.matched, matching.matched_cents) == (3, 1000 + 3000 + 700)
    assert kinds(both) == sorted(
        [opened.HELD_SINCE_OPENING, opened.HELD_SINCE_OPENING, opened.ITEM_WITHOUT_FEE]
    )
    both.run()
    assert both.loads() == [("charges", 250)]
    both.run("all_users")
    both.run()
    assert both.loads() == [("charges", 250)]
    assert kinds(both) == sorted(
        [opened.HELD_SINCE_OPENING, opened.HELD_SINCE_OPENING, opened.ITEM_WITHOUT_FEE]
    )
    far = both.books().fees
    assert {name: far[fee.id].difference_cents for name, fee in fees.items()} == {
        "ours": 0, "part": 0, "theirs": 0, "differs": -200, "unsure": 400, "new": 0,
    }  # fmt: skip
    assert both.balances()["unexplained"] == 0


def test_a_person_releases_what_is_held(both: Unopened) -> None:
    a_campus(both)
    both.accept()
    both.run()
    both.resolve(opened.HELD_SINCE_OPENING)
    both.resolve(opened.ITEM_WITHOUT_FEE)
    both.run()
    assert both.loads() == [("charges", 250), ("charges", 400), ("credits", 200)]
    assert both.exceptions() == {}


def test_a_credit_copies_the_item_as_it_stands_there(both: Unopened) -> None:
    fees = a_campus(both)
    both.accept()
    both.run()
    both.far.alma.waive_at_desk(fees["theirs"].id, 300)
    both.far.alma.waive_at_desk(fees["part"].id, 3000)
    both.run()
    assert both.loads()[1:] == [("credits", 3300)]
    items = {item.reference: item for item in both.far.peoplesoft.items.values()}
    assert (items["LIB-77"].balance_cents, items[f"ALMA{fees['part'].id}"].balance_cents) == (400, 0)
    line = next(row for row in both.table("line") if row["kind"] == "credit" and row["amount"] == 300)
    assert (line["reference"], line["term"], line["item_fee"]) == ("LIB-77", "2261", fees["theirs"].id)


def test_payments_of_before_are_not_posted_and_later_ones_are(both: Unopened) -> None:
    fees = a_campus(both)
    both.far.clock.advance(hours=24)
    both.accept()
    both.run()
    both.night()
    assert applied(*fees.values()) == [[]] * 6
    assert {row["state"] for row in both.table("payment")} == {"earlier"}
    both.far.peoplesoft.pay(f"ALMA{fees['part'].id}", 1200)
    both.far.peoplesoft.pay("LIB-77")
    both.night()
    both.night()
    assert applied(fees["part"], fees["theirs"]) == [[1200], [700]]
    assert both.books().fees[fees["part"].id].difference_cents == 0
    both.run("all_users")
    assert both.loads() == [("charges", 250)]


def test_payments_that_dry_runs_took_in_count_as_those_of_before(both: Unopened) -> None:
    fees = a_campus(both)
    both.far.clock.advance(hours=24)
    both.far.write_query_output()
    with both.working("back") as (ledger, lease):
        for _, work in both.tasks_back()[:2]:
            work(ledger, lease)
    both.accept()
    both.run()
    both.far.peoplesoft.pay(f"ALMA{fees['part'].id}", 100)
    both.night()
    assert applied(fees["part"]) == [[]]  # of the opening's day: it may be of before
    both.resolve(opened.BEFORE_OR_AFTER, after_opening=True)
    both.night()
    assert applied(fees["part"]) == [[100]]


def test_a_payment_of_after_the_query_that_a_dry_run_took_in_is_not_lost(small: Unopened) -> None:
    fees = a_campus(small)
    small.far.clock.advance(hours=24)
    content, as_of = small.items(), small.today()
    small.far.clock.advance(hours=24)
    small.far.peoplesoft.pay(f"ALMA{fees['part'].id}", 100)
    small.far.write_query_output()
    with small.working("back") as (ledger, lease):
        for _, work in small.tasks_back()[:2]:
            work(ledger, lease)
    small.accept(content, as_of)
    small.run()
    small.night()
    assert applied(fees["part"]) == [[100]]


@pytest.mark.parametrize("after", [False, True])
def test_a_payment_of_the_openings_day_waits_for_a_persons_word(both: Unopened, after: bool) -> None:
    fees = a_campus(both)
    both.accept()
    both.run()
    both.far.peoplesoft.pay(f"ALMA{fees['ours'].id}", 1000)
    both.night()
    assert applied(*fees.values()) == [[]] * 6
    assert kinds(both).count(opened.BEFORE_OR_AFTER) == 2
    wanted = {cents for _, cents, _ in listed(both, opened.BEFORE_OR_AFTER)}
    assert wanted == {1000, 2000}
    both.resolve(opened.BEFORE_OR_AFTER, after_opening=after)
    both.night()
    assert kinds(both).count(opened.BEFORE_OR_AFTER) == 0
    assert applied(fees["ours"]) == [[1000] if after else []]


def test_payments_of_earlier_days_beyond_what_was_applied_wait_for_a_persons_word(small: Unopened) -> None:
    """The file of items is of yesterday morning, and the student paid the rest in the afternoon."""
    fees = a_campus(small)
    small.far.clock.advance(hours=24)
    content = small.items()
    small.far.peoplesoft.pay(f"ALMA{fees['part'].id}", 3000)
    small.far.clock.advance(hours=24)
    small.accept(content)
    small.run()
    small.night()
    assert [cents for _, cents, _ in listed(small, opened.BEFORE_OR_AFTER)] == [3000]
    [(other, _, _), *_] = listed(small, opened.HELD_SINCE_OPENING)
    with (
        closing(small.ledger("by hand")) as ledger,
        pytest.raises(Fatal, match="is answered with --after-opening"),
        ledger.write() as tx,
    ):
        payments.resolve(tx, other, "the bursar", "looked at", after_opening=True)
    small.resolve(opened.BEFORE_OR_AFTER, after_opening=True)
    small.night()
    assert applied(fees["part"]) == [[3000]]
    assert small.books().fees[fees["part"].id].difference_cents == 0


def test_a_repair_of_a_ledger_that_knows_its_payments_of_before_changes_nothing(both: Unopened) -> None:
    fees = a_campus(both)
    both.far.clock.advance(hours=24)
    both.accept()
    both.run()
    both.night()
    before = {name: both.table(name) for name in ("payment", "opening_item", "opening_hold", "line")}
    repaired(both)
    assert {name: both.table(name) for name in before} == before
    both.night()
    assert applied(*fees.values()) == [[]] * 6


def test_applied_amounts_count_from_what_was_applied_before(tmp_path: Path, ledger_url: str) -> None:
    bridge = unopened(tmp_path, ledger_url, shape=by_level)
    fees = a_campus(bridge)
    bridge.accept()
    bridge.run()
    bridge.night("applied")
    assert applied(*fees.values()) == [[]] * 6
    bridge.far.peoplesoft.pay(f"ALMA{fees['part'].id}", 1200)
    bridge.far.peoplesoft.pay("LIB-77", 300)
    bridge.night("applied")
    bridge.night("applied")
    assert applied(fees["part"], fees["theirs"]) == [[1200], [300]]
    bridge.run("all_users")
    assert bridge.loads() == [("charges", 250)]


def test_applied_amounts_that_a_dry_run_took_in_are_not_taken_off_twice(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=by_level)
    fees = a_campus(bridge)
    bridge.far.write_query_output(kind="applied")
    with bridge.working("back") as (ledger, lease):
        for _, work in bridge.tasks_back()[:2]:
            work(ledger, lease)
    bridge.accept()
    bridge.run()
    bridge.far.peoplesoft.pay(f"ALMA{fees['part'].id}", 1200)
    bridge.night("applied")
    assert applied(fees["part"]) == [[1200]]


def test_less_applied_than_at_the_opening_is_listed(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=by_level)
    fees = a_campus(bridge)
    bridge.accept()
    payment = next(iter(bridge.far.peoplesoft.payments))
    bridge.far.peoplesoft.bounce(payment, 500)
    bridge.night("applied")
    assert [(cents, fee) for _, cents, fee in listed(bridge, opened.LESS_APPLIED)] == [(500, fees["part"].id)]
    bridge.far.peoplesoft.pay(f"ALMA{fees['part'].id}", 500)
    bridge.night("applied")
    assert listed(bridge, opened.LESS_APPLIED) == []
    assert applied(fees["part"]) == [[]]


def test_a_list_of_items_shows_what_the_books_were_opened_with(tmp_path: Path, ledger_url: str) -> None:
    bridge = unopened(tmp_path, ledger_url, shape=one_list)
    fees = {"ours": a_fee(bridge, 1000), "part": a_fee(bridge, 5000), "theirs": a_fee(bridge, 700, 1)}
    bridge.far.charged_before(fees["ours"], 1000)
    bridge.far.charged_before(fees["part"], 5000, paid=2000)
    bridge.far.alma.pay_at_desk(fees["part"].id, 2000)
    bridge.far.charged_before(fees["theirs"], 700, reference="LIB-77")
    paid = a_fee(bridge, 300)
    bridge.far.charged_before(paid, 300, paid=300)
    bridge.far.alma.pay_at_desk(paid.id, 300)
    assert bridge.accept().matched == 3
    for _ in range(5):
        bridge.night("applied")
    assert bridge.exceptions() == {}
    for fee in fees.values():
        bridge.far.alma.waive_at_desk(fee.id, 100)
    bridge.run()
    assert bridge.loads() == [("credits", 300)]
    for _ in range(5):
        bridge.night("applied")
    assert bridge.exceptions() == {}
    equal(bridge)


def test_two_items_alike_are_not_guessed_apart(small: Unopened) -> None:
    fees = [a_fee(small, 500), a_fee(small, 500)]
    for fee, reference in zip(fees, ("A", "B"), strict=True):
        small.far.charged_before(fee, 500, reference=reference)
    matching = small.accept()
    assert (matching.matched, len(matching.loose), len(matching.holds)) == (0, 2, 2)
    small.run("all_users")
    assert small.loads() == []


def test_several_items_of_one_reference_are_held(small: Unopened) -> None:
    fee = a_fee(small, 1000)
    small.far.charged_before(fee, 600)
    small.far.charged_before(fee, 400, term="2262")
    matching = small.accept()
    assert [(hold.fee_id, hold.why.split(";")[0]) for hold in matching.holds] == [(fee.id, opening.SEVERAL)]
    small.run("all_users")
    assert small.loads() == []


def test_an_item_of_a_type_that_no_fee_bears_is_nobodys(small: Unopened) -> None:
    a_fee(small, 1000, type="LOCKERKEY")
    small.far.peoplesoft.charge(small.far.students[0].primary_id, "300000000001", "2261", "X", 1000)
    assert [item.why for item in small.accept().loose] == [opening.NO_ONE_FEE]
    small.run("all_users")
    assert small.loads() == []


def any_id(text: str) -> str:
    return f'{text}\n[emplid]\npattern = "[0-9A-Z]+"\n'


def test_an_item_under_another_of_the_students_ids_is_nobodys(tmp_path: Path) -> None:
    """Alma answers to it, and the item would be credited under an EMPLID that it does not have."""
    small = unopened(tmp_path, shape=any_id)
    fee = a_fee(small, 1000)
    barcode = small.far.students[0].identifiers["BARCODE"]
    small.far.peoplesoft.charge(barcode, "300000000001", "2261", "X", 1000)
    small.far.peoplesoft.charge(barcode, "300000000001", "2261", "Y", 0)
    matching = small.accept()
    assert [item.why for item in matching.loose] == [opening.NO_ONE_FEE]
    assert [hold.fee_id for hold in matching.holds] == [fee.id]
    small.run("all_users")
    assert small.loads() == []


def test_a_student_without_the_identifier_is_told_from_one_that_alma_does_not_know(tmp_path: Path) -> None:
    """Alma finds them by their primary id, under which no run would charge them."""
    bridge = unopened(tmp_path, shape=lambda text: by_identifier(text).replace("{14}", "{9,14}"))
    fee = a_fee(bridge, 500)
    bridge.far.peoplesoft.charge(fee.user.primary_id, "300000000001", "2261", "X", 500)
    matching, _ = bridge.matched()
    assert [item.why for item in matching.loose] == [opening.NO_USER]


@pytest.mark.parametrize("reference", ["", "Library fine"])
def test_an_item_without_a_reference_of_its_own_is_held(small: Unopened, reference: str) -> None:
    fees = [a_fee(small, 500), a_fee(small, 600), a_fee(small, 700, 1)]
    for fee in fees:
        small.far.charged_before(fee, fee.balance_cents, reference=reference)
    matching = small.accept()
    assert (matching.matched, [item.why for item in matching.loose]) == (0, [opening.NO_REFERENCE] * 3)
    small.run("all_users")
    assert small.loads() == []
    assert sorted(fee for _, _, fee in listed(small, opened.HELD_SINCE_OPENING)) == sorted(
        fee.id for fee in fees
    )


def test_a_fee_in_dispute_of_a_student_with_a_loose_item_is_held_when_it_is_active_again(
    small: Unopened,
) -> None:
    fee = a_fee(small, 400)
    small.far.alma.dispute(fee.id)
    small.far.peoplesoft.charge(small.far.students[0].primary_id, "300000000001", "2261", "X", 555)
    small.accept()
    small.far.alma.restore(fee.id)
    small.run("all_users")
    assert small.loads() == []
    assert opened.HELD_SINCE_OPENING in kinds(small)


def test_an_item_that_is_paid_there_and_open_in_alma_is_held(small: Unopened) -> None:
    fee = a_fee(small, 400)
    small.far.charged_before(fee, 400, paid=400)
    small.accept()
    small.run("all_users")
    assert small.loads() == []
    assert small.exceptions() == {f"fee {fee.id}": opened.HELD_SINCE_OPENING}


def test_an_item_that_is_not_there_after_all_is_made_void_and_charged_anew(small: Unopened) -> None:
    from alma_hook import confirmations

    fee = a_fee(small, 400)
    small.far.charged_before(fee, 400)
    small.accept()
    with closing(small.ledger("void")) as ledger, ledger.lease("out", "void") as lease:
        confirmations.void(ledger, lease, "000000", 1, "reversed by the office", rejected=True, settings=None)
    small.run()
    assert small.loads() == [("charges", 400)]


def test_opening_is_done_once(both: Unopened) -> None:
    a_campus(both)
    both.accept()
    with pytest.raises(Fatal, match="opening is done once"):
        both.accept()
    both.run()
    with pytest.raises(Fatal, match="opening is done once"):
        both.accept()


def lose_ledger(bridge: Bridge) -> None:
    path = bridge.folder.root.parent / "ledger.db"
    for file in (path, *path.parent.glob("ledger.db-*")):
        file.unlink(missing_ok=True)
    ledger = bridge.ledger("repair")
    ledger.migrate()
    ledger.close()


@pytest.mark.parametrize("shape", [str, by_level])
def test_a_lost_ledger_knows_the_opening_again(tmp_path: Path, shape: Callable[[str], str]) -> None:
    bridge = unopened(tmp_path, shape=shape)
    kind = "payments" if shape is str else "applied"
    fees = a_campus(bridge)
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    held = [entry for entry in listed(bridge, opened.HELD_SINCE_OPENING) if entry[2] == fees["differs"].id]
    with closing(bridge.ledger("by hand")) as ledger, ledger.write() as tx:
        payments.resolve(tx, held[0][0], "the bursar", "looked at")
    bridge.run()
    bridge.far.clock.advance(hours=24)
    bridge.far.peoplesoft.pay(f"ALMA{fees['part'].id}", 1200)
    bridge.night(kind)
    assert bridge.loads() == [("charges", 250), ("credits", 200)]
    lose_ledger(bridge)
    with pytest.raises(SendingStopped, match="payments of ours"):
        bridge.accept()
    repaired(bridge)
    bridge.night(kind)
    bridge.far.peoplesoft.pay("LIB-77", 100)
    bridge.night(kind)
    bridge.run("all_users")
    bridge.run()
    assert bridge.loads() == [("charges", 250), ("credits", 200)]
    assert applied(fees["part"], fees["theirs"]) == [[1200], [100]]
    assert sorted(fee for _, _, fee in listed(bridge, opened.HELD_SINCE_OPENING)) == [fees["unsure"].id]


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("nth", range(1, 12))
def test_killed_anywhere_the_books_are_opened_whole_or_not_at_all(tmp_path: Path, nth: int) -> None:
    bridge = unopened(tmp_path)
    a_campus(bridge)
    acts: list[str] = []

    def before(action: str, path: str) -> None:
        acts.append(action)
        if len(acts) == nth:
            raise Killed

    bridge.folder.before = before  # type: ignore[assignment]
    try:
        bridge.accept()
    except Killed:
        bridge.folder.before = lambda _action, _path: None
        lines = len(bridge.table("line"))
        assert lines in (0, 4)
        if lines == 0:
            assert bridge.table("opening_hold") == []
            bridge.accept()
    bridge.folder.before = lambda _action, _path: None
    bridge.run()
    assert bridge.loads() == [("charges", 250)]
    repaired(bridge)
    bridge.run("all_users")
    assert bridge.loads() == [("charges", 250)]
    assert len(bridge.table("opening_hold")) == 2


def test_a_ledger_that_was_lost_is_not_opened_anew(small: Unopened) -> None:
    a_campus(small)
    small.accept()
    small.marks = []
    lose_ledger(small)
    with pytest.raises(Fatal, match="opened before"):
        small.accept()


def test_payments_of_ours_in_alma_tell_of_a_lost_ledger(small: Unopened) -> None:
    fee = a_fee(small, 1000)
    small.far.charged_before(fee, 1000)
    small.accept()
    small.far.clock.advance(hours=48)
    small.far.peoplesoft.pay(f"ALMA{fee.id}", 300)
    small.night()
    lose_ledger(small)
    with pytest.raises(SendingStopped, match="payments of ours"):
        small.matched()


def test_a_bad_file_is_told_with_all_its_faults(small: Unopened) -> None:
    content = (
        "Emplid,Item Type,Item Term,Reference Nbr,Item Balance,Applied Amt\n"
        "012345678,300000000001,2261,A,1.00,0.00\n"
        "012345678,3E+11,2261,A,x,0.00\n"
        ",300000000001,2261,A,1.00,-1.00\n"
    )
    # Whose noughts a spreadsheet has taken.
    content += "12345,300000000001,2261,A,1.00,0.00\n"
    with pytest.raises(BadFile) as caught:
        small.matched(content.encode())
    assert [(fault.line, fault.field) for fault in caught.value.faults] == [
        (3, "Item Balance"),
        (3, "Item Type"),
        (4, "Applied Amt"),
        (4, "Emplid"),
        (5, "Emplid"),
    ]
    assert "012345678" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "field", "reason"),
    [
        ("1.23E+08,300000000001,2261,A", "Emplid", "a spreadsheet made a rounded number of it"),
        ("012345678,3000000000012,2261,A", "Item Type", "must be 1 to 12 letters or digits"),
        ("012345678,300000000001,22611,A", "Item Term", "must be up to 4 letters or digits"),
        ("012345678,300000000001,2261,\u00c4", "Reference Nbr", "must be plain ASCII"),
    ],
)
def test_what_no_later_line_could_copy_is_refused(
    small: Unopened, values: str, field: str, reason: str
) -> None:
    content = f"Emplid,Item Type,Item Term,Reference Nbr,Item Balance,Applied Amt\n{values},1.00,0.00\n"
    with pytest.raises(BadFile) as caught:
        small.matched(content.encode())
    assert [(fault.line, fault.field) for fault in caught.value.faults] == [(2, field)]
    assert reason in str(caught.value)


@pytest.mark.parametrize("form", ["xml", "xls-html"])
def test_the_file_may_have_any_form_of_query(tmp_path: Path, form: Any) -> None:
    def named(text: str) -> str:
        fields = {
            "Item Type": "ITEM_TYPE", "Item Term": "ITEM_TERM", "Item Balance": "ITEM_BALANCE",
            "Reference Nbr": "REF1_DESCR", "Applied Amt": "APPLIED_AMT", '"Emplid"': '"EMPLID"',
        }  # fmt: skip
        head, mark, tail = (text + OPENING).partition("[opening.columns]")
        for heading, field in fields.items():
            tail = tail.replace(heading, field) if form == "xml" else tail
        return head + mark + tail

    bridge = Unopened(tmp_path, students=4, fees=0, settings=named)
    a_campus(bridge)
    matching, _ = bridge.matched(bridge.far.peoplesoft.applied_output(form))
    assert matching.matched == 3


def test_fees_made_before_the_start_are_never_charged(tmp_path: Path) -> None:
    bridge = Bridge(
        tmp_path,
        students=4,
        fees=0,
        settings=lambda text: text + "\n[first_charges]\nsince = 2026-11-20\n",
    )
    now = bridge.far.clock.now()
    old = a_fee(bridge, 1000, at=now - timedelta(days=40))
    new = a_fee(bridge, 300, at=now - timedelta(days=1))
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    books = bridge.books().fees
    assert (books[old.id].charged_cents, books[new.id].charged_cents) == (0, 300)
    assert bridge.exceptions() == {}


def test_settings_under_which_no_item_can_be_taken_over_are_refused(tmp_path: Path) -> None:
    campus = unopened(tmp_path).campus
    now = datetime(2026, 11, 22, 7, 30, tzinfo=UTC)  # the evening before, at the campus
    opening.require_ready(campus, date(2026, 11, 21), now)
    with pytest.raises(Fatal, match="2026-11-22 is not over yet"):
        opening.require_ready(campus, date(2026, 11, 22), now)
    with pytest.raises(SettingsError, match="how PeopleSoft's file of items is read"):
        opening.require_ready(campus.model_copy(update={"opening": None}), date(2026, 11, 21), now)
    blind = campus.model_copy(update={"sfs": campus.sfs.model_copy(update={"read_back": "none"})})
    with pytest.raises(Fatal, match="archive can't be read"):
        opening.require_ready(blind, date(2026, 11, 21), now)
    columns = {
        name: head for name, head in campus.sis_to_alma.columns.items() if name not in ("reference", "fee_id")
    }
    nameless = campus.model_copy(
        update={"sis_to_alma": campus.sis_to_alma.model_copy(update={"columns": columns})}
    )
    with pytest.raises(Fatal, match="names no reference"):
        opening.require_ready(nameless, date(2026, 11, 21), now)


def test_what_is_said_of_a_matching_names_no_patron(small: Unopened) -> None:
    a_campus(small)
    content = small.items()
    matching, _ = small.matched(content)
    assert small.campus.opening is not None
    items = opening_file.read("items.csv", content, small.campus, small.campus.opening)
    text = "\n".join(
        [*opening.in_words(items, matching), *opening.first_run_in_words(small.rehearse(), small.campus)]
    )
    assert "matched: 3 items, 47.00" in text
    assert "the first live run would send: 1 charges, 2.50; 0 credits, 0.00" in text
    assert not any(student.primary_id in text for student in small.far.students)
    way = small.campus.alma_to_sis.model_copy(update={"method": "all_users"})
    other = small.campus.model_copy(update={"alma_to_sis": way})
    assert "of the students in the file" in "\n".join(opening.first_run_in_words(small.rehearse(), other))


def by_identifier(text: str) -> str:
    return text + '\n[emplid]\nsource = "identifier:BARCODE"\npattern = "[0-9]{14}"\n'


def test_students_may_be_known_by_an_identifier(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=by_identifier)
    fees = [a_fee(bridge, 500), a_fee(bridge, 600, 1), a_fee(bridge, 700, 2)]
    barcodes = [student.identifiers["BARCODE"] for student in bridge.far.students]
    charge = bridge.far.peoplesoft.charge
    charge(barcodes[0], "300000000001", "2261", f"ALMA{fees[0].id}", 500)
    charge(barcodes[1], "300000000001", "2261", "X1", 600)
    # Another student's item bears the reference of that fee.
    charge(barcodes[3], "300000000001", "2261", f"ALMA{fees[2].id}", 700)
    charge(barcodes[2], "300000000001", "2261", "X2", 100)
    matching, _ = bridge.matched()
    assert matching.matched == 2
    assert [(hold.fee_id, hold.why.split(";")[0]) for hold in matching.holds] == [
        (fees[2].id, opening.ANOTHER_EMPLID)
    ]
    assert matching.accounts == {fee.id: fee.user.primary_id for fee in fees}
    bridge.accept()
    bridge.run("all_users")
    assert bridge.loads() == []


def test_an_item_whose_student_alma_does_not_know_is_listed(small: Unopened) -> None:
    small.far.peoplesoft.charge("999999999", "300000000001", "2261", "X1", 600)
    small.far.peoplesoft.charge("999999998", "300000000001", "2261", "ALMA1381234567890123", 700)
    matching = small.accept()
    assert [item.why for item in matching.loose] == [opening.NO_USER]
    assert [hold.amount for hold in matching.holds] == [-700]
    small.run("all_users")
    assert small.loads() == []
    assert sorted(kinds(small)) == sorted([opened.ITEM_WITHOUT_FEE, "user not found in Alma"])


def bounces_after_the_opening(folder: Path, shape: Callable[[str], str]) -> tuple[Unopened, Fee]:
    """A cheque of before the opening is returned: PeopleSoft's item is open by so much more, and Alma's fee is not."""
    bridge = unopened(folder, shape=shape)
    fee = a_campus(bridge)["part"]
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    bridge.night()
    (payment,) = bridge.far.peoplesoft.payments
    bridge.far.peoplesoft.bounce(payment)
    for _ in range(3):
        bridge.far.clock.advance(hours=24)
        bridge.far.write_query_output(bounced="reversal" if "kinds" in bridge.file.read_text() else "omit")
        bridge.sis_to_alma()
        bridge.run()
    return bridge, fee


@pytest.mark.parametrize("by_a_line", [False, True])
def test_a_payment_of_before_that_bounces_afterwards_is_listed(tmp_path: Path, by_a_line: bool) -> None:
    bridge, fee = bounces_after_the_opening(
        tmp_path, lambda text: reversing(cumulative(text)) if by_a_line else cumulative(text)
    )
    ((exception_id, cents, fee_id),) = listed(bridge)
    assert fee_id == fee.id
    assert bridge.books().fees[fee.id].difference_cents == -cents
    assert bridge.balances()["unexplained"] == 0

    with closing(bridge.ledger("by hand")) as ledger, ledger.write() as tx:
        payments.resolve(tx, exception_id, "the bursar", "written off")
    bridge.night()
    assert listed(bridge) == []


def test_a_fee_made_anew_for_a_payment_of_before_is_not_charged_again(tmp_path: Path) -> None:
    bridge, fee = bounces_after_the_opening(tmp_path, cumulative)
    ((exception_id, cents, _),) = listed(bridge)
    again = a_fee(bridge, cents, student=bridge.far.students.index(fee.user))
    bridge.run()
    assert kinds(bridge).count("payment taken back, new fees wait") == 1
    sent = len(bridge.loads())
    with closing(bridge.ledger("by hand")) as ledger, ledger.write() as tx:
        payments.resolve(tx, exception_id, "the bursar", "made anew", again.id)
    bridge.run()
    bridge.night()
    assert len(bridge.loads()) == sent
    assert listed(bridge) == []

    # And so after the ledger is lost.
    lose(bridge, opened=False)
    repaired(bridge)
    bridge.run()
    bridge.night()
    assert len(bridge.loads()) == sent
    assert listed(bridge) == []


@pytest.mark.parametrize("opened", [False, True])
def test_a_note_that_was_cut_short_leaves_the_opening_to_a_person(tmp_path: Path, opened: bool) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    fees = a_campus(bridge)
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    sent = bridge.loads()
    (note,) = bridge.far.path("/sfs/archive").glob("opening_*.state")
    note.write_bytes(b"")
    lose(bridge, opened=opened)
    repaired(bridge)
    bridge.run()
    assert bridge.loads() == sent
    assert bridge.exceptions()["batch 000000"] == "batch unconfirmed"
    assert fees["ours"].id not in bridge.listed_fees()


def test_a_paid_item_whose_fee_is_gone_from_alma_is_looked_for_by_nobody(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    a_campus(bridge)
    purged = "1381234567890123"
    bridge.far.peoplesoft.charge(
        bridge.far.students[0].primary_id, "300000000001", "2261", f"ALMA{purged}", 300, 300
    )
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    for _ in range(2):
        bridge.run("all_users")
    assert f"fee {purged}" not in bridge.exceptions()


def test_an_opening_that_died_is_none_where_the_campus_began_clean(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def before(action: str, path: str) -> None:
        if action == "written" and path.endswith(".manifest.csv"):
            raise Killed

    bridge = unopened(tmp_path, shape=cumulative)
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000, paid=2000)
    bridge.far.alma.pay_at_desk(fee.id, 2000)
    bridge.far.clock.advance(hours=24)
    bridge.folder.before = before
    with suppress(Killed):
        bridge.accept()
    bridge.folder.before = lambda _action, _path: None

    # The business office settles the old items instead.
    bridge.far.peoplesoft.items.clear()
    bridge.far.peoplesoft.payments.clear()
    with closing(bridge.ledger("setup")) as ledger, ledger.write() as tx:
        institutions.open_clean(tx, "the bursar")
    repaired(bridge)
    bridge.run()
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 1000)
    for _ in range(2):
        bridge.night()
    assert applied(fee) == [[1000]]
    assert bridge.exceptions() == {}
    assert bridge.loads() == [("charges", 3000)]


def test_a_payment_of_which_nobody_knows_stands_in_for_none_that_is_taken_back(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000, paid=2000)
    bridge.far.alma.pay_at_desk(fee.id, 2000)
    bridge.accept()
    bridge.run()
    bridge.night()
    assert kinds(bridge) == [opened.BEFORE_OR_AFTER]
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}")
    bridge.night()
    assert applied(fee) == [[3000]]
    bridge.far.peoplesoft.bounce(max(bridge.far.peoplesoft.payments))
    for _ in range(3):
        bridge.far.clock.advance(hours=24)
        bridge.far.write_query_output(bounced="omit")
        bridge.sis_to_alma()
    assert [cents for _, cents, _ in listed(bridge)] == [3000]
    assert opened.BEFORE_OR_AFTER in kinds(bridge)


def test_an_item_of_ours_whose_fee_alma_does_not_have_holds_the_students_open_fees(tmp_path: Path) -> None:
    """The library has deleted the fee and made it anew: PeopleSoft holds it under the old id."""
    bridge = unopened(tmp_path, shape=cumulative)
    fee = a_fee(bridge, 1000)
    other = a_fee(bridge, 300, 1)
    bridge.far.peoplesoft.charge(fee.user.primary_id, "300000000001", "2261", "ALMA1381234567890123", 1000)
    bridge.accept()
    bridge.run()
    assert bridge.loads() == [("charges", 300)]
    assert set(bridge.listed_fees()) >= {fee.id}
    assert other.id not in bridge.listed_fees()


def test_an_item_whose_fee_alma_never_had_leaves_the_list_when_it_is_made_void(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    fee = a_fee(bridge, 400)
    bridge.far.charged_before(fee, 400)
    gone = "1381234567890123"
    bridge.far.peoplesoft.charge(fee.user.primary_id, "300000000001", "2261", f"ALMA{gone}", 700)
    bridge.accept()
    bridge.run("all_users")
    assert f"fee {gone}" in bridge.exceptions()
    (line_no,) = [row["line_no"] for row in bridge.table("line") if row["fee_id"] == gone]
    made_void(bridge, line_no, "reversed by the office")
    for _ in range(2):
        bridge.run("all_users")
    assert bridge.exceptions() == {}


@pytest.mark.parametrize("raised_later", [False, True])
def test_what_was_applied_before_is_no_payment_when_the_item_goes_to_another_emplid(
    tmp_path: Path, raised_later: bool
) -> None:
    bridge = unopened(tmp_path, shape=by_level)
    far = bridge.far
    fee = a_fee(bridge, 5000)
    far.charged_before(fee, 5000, paid=2000)
    far.alma.pay_at_desk(fee.id, 2000)
    bridge.accept()
    bridge.run()
    far.peoplesoft.pay(f"ALMA{fee.id}")
    for _ in range(2):
        bridge.night("applied")
    assert applied(fee) == [[3000]]
    (item,) = far.peoplesoft.items.values()
    old, new = item.emplid, "999000111"
    item.emplid = new
    for payment in far.peoplesoft.payments.values():
        payment.emplid = new
    far.alma.rekey_user(old, new)
    if far.peoplesoft.emplids is not None:
        far.peoplesoft.emplids.add(new)
    for _ in range(2):
        bridge.run("all_users")
        bridge.night("applied")
    if raised_later:
        raised(bridge, fee, 500)
        for _ in range(3):
            bridge.run("all_users")
            bridge.night("applied")
    assert applied(fee) == [[3000]]
    assert [row["amount"] for row in bridge.table("payment")] == [3000]


def test_what_was_applied_to_an_item_that_was_made_void_is_off_no_other(tmp_path: Path) -> None:
    """The office reverses the item, what was paid on it goes elsewhere; the fee is charged anew and paid."""
    bridge = unopened(tmp_path, shape=by_level)
    far = bridge.far
    fee = a_fee(bridge, 5000)
    far.charged_before(fee, 5000, paid=2000, reference="LIB-9")
    far.alma.pay_at_desk(fee.id, 2000)
    bridge.accept()
    bridge.run()
    far.peoplesoft.items.clear()
    far.peoplesoft._item_of.clear()
    far.former_references.clear()
    made_void(bridge, 1, "reversed by the office")
    bridge.run()
    assert bridge.loads() == [("charges", 3000)]
    far.peoplesoft.pay(f"ALMA{fee.id}")
    for _ in range(2):
        bridge.night("applied")
        bridge.run("all_users")
    assert applied(fee) == [[3000]]
    assert bridge.exceptions() == {}


def test_an_older_copy_learns_of_more_payments_of_before(tmp_path: Path) -> None:
    bridge = unopened(tmp_path)
    fees = [a_fee(bridge, 5000, student) for student in (0, 1)]
    for fee in fees:
        bridge.far.charged_before(fee, 5000, paid=2000)
        bridge.far.alma.pay_at_desk(fee.id, 2000)
    told = dict(bridge.far.peoplesoft.payments)
    late = max(told)
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    del bridge.far.peoplesoft.payments[late]
    bridge.night()
    copy = copied(bridge)
    bridge.far.peoplesoft.payments[late] = told[late]
    bridge.night()
    bridge.resolve(opened.BEFORE_OR_AFTER)
    bridge.night()
    assert [row["state"] for row in bridge.table("payment")] == ["earlier"] * 2
    put_back(bridge, copy)
    repaired(bridge)
    assert [row["state"] for row in bridge.table("payment")] == ["earlier"] * 2
    bridge.night()
    assert applied(*fees) == [[], []]


@pytest.mark.parametrize("again", [True, False])
def test_a_cheque_that_bounced_before_the_opening_is_no_payment_of_before(
    tmp_path: Path, again: bool
) -> None:
    """A dry run had heard of it; it was paid anew, which the former process posted, and the books are opened."""
    bridge = unopened(tmp_path, shape=cumulative)
    sfs = bridge.far.peoplesoft
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000)
    (bounced,) = sfs.pay(f"ALMA{fee.id}", 2000)
    dry_night(bridge)
    sfs.bounce(bounced.payment_id)
    for _ in range(2):
        dry_night(bridge)
    sfs.pay(f"ALMA{fee.id}", 2000)
    bridge.far.alma.pay_at_desk(fee.id, 2000)
    dry_night(bridge)
    bridge.far.clock.advance(hours=48)
    bridge.accept()
    bridge.run()
    bridge.night()
    if again:
        sfs.pay(f"ALMA{fee.id}", 2000)
        for _ in range(2):
            bridge.night()
            bridge.run()
    assert applied(fee) == [[2000] if again else []]
    assert kinds(bridge) == []
    assert bridge.books().unequal == {}


def test_of_a_cheque_that_bounced_in_part_before_the_opening_only_the_rest_can_bounce_afterwards(
    tmp_path: Path,
) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    sfs = bridge.far.peoplesoft
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000)
    (payment,) = sfs.pay(f"ALMA{fee.id}", 2000)

    def night(dry: bool) -> None:
        bridge.far.clock.advance(hours=24)
        bridge.far.write_query_output()
        with bridge.working("back") as (ledger, lease):
            for _, work in bridge.tasks_back()[: 2 if dry else None]:
                work(ledger, lease)

    night(True)
    sfs.bounce(payment.payment_id, 500)
    for _ in range(2):
        night(True)
    bridge.far.alma.pay_at_desk(fee.id, 1500)
    bridge.far.clock.advance(hours=48)
    bridge.accept()
    night(False)
    assert kinds(bridge) == []
    sfs.bounce(payment.payment_id)
    for _ in range(2):
        night(False)
    assert [cents for _, cents, _ in listed(bridge)] == [1500]
    lose(bridge, opened=False)
    repaired(bridge)
    for _ in range(2):
        night(False)
    assert [cents for _, cents, _ in listed(bridge)] == [1500]


def dry_night(bridge: Unopened) -> None:
    """A dry run takes PeopleSoft's output in."""
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output()
    with bridge.working("back") as (ledger, lease):
        for _, work in bridge.tasks_back()[:2]:
            work(ledger, lease)


@pytest.mark.parametrize("asked", [False, True])
def test_a_cheque_that_bounced_just_before_the_opening_hides_no_later_payment(
    tmp_path: Path, asked: bool
) -> None:
    """A dry run heard of it, and only a live run hears that it bounced; the items knew that."""
    bridge = unopened(tmp_path, shape=cumulative)
    sfs = bridge.far.peoplesoft
    fee = a_fee(bridge, 5000)
    bridge.far.charged_before(fee, 5000)
    (bounced,) = sfs.pay(f"ALMA{fee.id}", 2000)
    dry_night(bridge)
    sfs.bounce(bounced.payment_id)
    sfs.pay(f"ALMA{fee.id}", 2000)
    bridge.far.alma.pay_at_desk(fee.id, 2000)
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    bridge.far.clock.advance(hours=24)
    for _ in range(2):
        bridge.night()
        bridge.run()
    if asked:
        bridge.resolve(opened.BEFORE_OR_AFTER)
    sfs.pay(f"ALMA{fee.id}", 2000)
    for _ in range(3):
        bridge.night()
        bridge.run()
    assert applied(fee) == [[2000]]
    waits = [] if asked else ["paid before the opening or after it", "payment taken back in PeopleSoft"]
    assert kinds(bridge) == waits


def test_a_fee_that_the_report_shows_and_alma_does_not_is_listed(
    small: Unopened, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = small
    bridge.accept()
    fee = a_fee(bridge, 1000)
    bridge.far.refresh_analytics()
    monkeypatch.setattr("alma_hook.fees.look_up", lambda *_, **__: {})
    bridge.alma_to_sis()
    assert bridge.exceptions()[f"fee {fee.id}"] == "fee not found in Alma"


@pytest.mark.parametrize("shape", [by_level, cumulative])
def test_of_two_items_of_a_fee_one_is_made_void(tmp_path: Path, shape: Callable[[str], str]) -> None:
    """PeopleSoft was charged twice, and the office reverses the second: what was paid on the first stays paid before."""
    bridge = unopened(tmp_path, shape=shape)
    far = bridge.far
    fee = a_fee(bridge, 5000)
    far.charged_before(fee, 5000, paid=2000)
    far.alma.pay_at_desk(fee.id, 2000)
    far.peoplesoft.charge(fee.user.primary_id, "300000000001", "2261", f"ALMA{fee.id}", 5000)
    far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    (second,) = [number for number, item in far.peoplesoft.items.items() if item.balance_cents == 5000]
    del far.peoplesoft.items[second]
    (line_no,) = [row["line_no"] for row in bridge.table("line") if row["amount"] == 5000]
    made_void(bridge, line_no, "charged twice")
    bridge.resolve(opened.HELD_SINCE_OPENING)
    for _ in range(3):
        bridge.run()
        bridge.night("applied" if shape is by_level else "payments")
    assert (applied(fee), kinds(bridge)) == ([[]], [])
    assert bridge.books().unequal == {}


def test_a_payment_on_a_paid_item_whose_fee_is_gone_bounces_and_the_fee_is_made_anew(tmp_path: Path) -> None:
    bridge = unopened(tmp_path, shape=cumulative)
    sfs, user = bridge.far.peoplesoft, bridge.far.students[0]
    sfs.charge(user.primary_id, "300000000001", "2261", "ALMA1381234567890123", 700)
    bridge.far.charged_before(a_fee(bridge, 400), 400)
    (payment,) = sfs.pay("ALMA1381234567890123", 700)
    bridge.far.clock.advance(hours=24)
    bridge.accept()
    bridge.run()
    bridge.night()
    sfs.bounce(payment.payment_id)
    for _ in range(2):
        bridge.night()
    again = bridge.far.alma.add_fee(user, 700)
    bridge.run("all_users")
    ((exception_id, _, _),) = listed(bridge)
    with closing(bridge.ledger("by hand")) as ledger, ledger.write() as tx:
        payments.resolve(tx, exception_id, "the bursar", "made anew", again.id)
    bridge.run("all_users")
    assert bridge.loads() == []
