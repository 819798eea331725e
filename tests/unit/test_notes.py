"""What people have said of payments outlives the ledger: it stands in the archive, and a repair reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alma_hook.alma import AlmaApi, Request
from alma_hook.alma_answers import Reply
from alma_hook.errors import BadFile, SendingStopped
from alma_hook.ledger import Ledger, payments
from alma_hook.ledger import notes as entries
from alma_hook.ledger.exceptions import OVERPAID
from alma_hook.ledger.reversals import BACK, TAKEN_BACK
from simulator.alma_records import Fee
from simulator.peoplesoft_records import Payment
from tests.bridge import Bridge
from tests.unit.test_applied import by_level
from tests.unit.test_guard import ARCHIVE, copied, lose, put_back, repaired
from tests.unit.test_reversals import (
    again,
    applied,
    charged,
    cumulative,
    equalise,
    kinds,
    listed,
    pay,
    resolve,
)

Night = Callable[[], None]


@pytest.fixture(params=["payments", "applied"])
def told(request: pytest.FixtureRequest) -> str:
    """How PeopleSoft tells of payments."""
    return str(request.param)


@pytest.fixture
def small(tmp_path: Path, told: str) -> Bridge:
    settings = by_level if told == "applied" else cumulative
    return Bridge(tmp_path, students=4, fees=0, settings=settings)


def nights(bridge: Bridge) -> Night:
    """Each time: PeopleSoft writes its output, and the DAG runs."""

    def passes() -> None:
        bridge.far.clock.advance(hours=24)
        bridge.far.write_query_output(kind=bridge.campus.sis_to_alma.shape)
        bridge.sis_to_alma()

    return passes


@pytest.fixture
def night(small: Bridge) -> Night:
    return nights(small)


def taken_back(bridge: Bridge, night: Night) -> tuple[Fee, Payment]:
    """A payment is posted, and taken back."""
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    night()
    bridge.far.peoplesoft.bounce(payment.payment_id)
    night()
    night()
    return fee, payment


def made_anew(bridge: Bridge, night: Night) -> tuple[Fee, Fee, Payment]:
    """A payment is posted and taken back, and the fee is made anew for it."""
    old, payment = taken_back(bridge, night)
    new = said_anew(bridge)
    equalise(bridge)
    return old, new, payment


def said_anew(bridge: Bridge) -> Fee:
    """The fee is made anew for what is listed, and a person says so."""
    new = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    equalise(bridge)
    ((exception_id, _, _),) = listed(bridge)
    resolve(bridge, exception_id, new)
    return new


def charged_in_all(bridge: Bridge) -> int:
    return sum(book.charged_cents for book in bridge.books().fees.values())


def settled(bridge: Bridge) -> None:
    """Both sides have the same in all, and nothing is listed: a fee made anew has its item under the older one's id."""
    assert bridge.books().alma_cents == bridge.books().peoplesoft_cents
    assert bridge.exceptions() == {}
    assert bridge.balances()["unexplained"] == 0


def notes(bridge: Bridge) -> list[Path]:
    return sorted(bridge.folder.path(ARCHIVE).glob("payment_*.note"))


@pytest.mark.parametrize("first", ["out", "back"])
@pytest.mark.parametrize("files", ["all", "none"])
def test_a_fee_made_anew_is_not_charged_after_a_repair(
    small: Bridge, night: Night, first: str, files: str
) -> None:
    old, new, _ = made_anew(small, night)
    for file in small.folder.path("/sfs/outbound/archive").glob("*") if files == "none" else []:
        file.unlink()
    lose(small, opened=False)
    assert repaired(small).notes == 1
    if first == "out":
        equalise(small)
    small.sis_to_alma()
    equalise(small)
    assert charged_in_all(small) == 1000
    for _ in range(2):
        night()
        equalise(small)
    assert charged_in_all(small) == 1000
    assert small.books().alma_cents == small.books().peoplesoft_cents == 1000
    settled(small)

    pay(small, old)
    night()
    equalise(small)
    assert applied(old, new) == [[1000], [1000]]
    settled(small)


def test_what_was_posted_to_a_fee_made_anew_is_not_posted_again(small: Bridge, night: Night) -> None:
    old, new, _ = made_anew(small, night)
    pay(small, old)
    night()
    assert applied(old, new) == [[1000], [1000]]
    lose(small, opened=False)
    repaired(small)
    for _ in range(3):
        equalise(small)
        night()
    assert applied(old, new) == [[1000], [1000]]
    assert charged_in_all(small) == 1000
    settled(small)


def test_it_is_in_the_archive_before_anything_that_rests_on_it_is_posted(small: Bridge, night: Night) -> None:
    old, _ = taken_back(small, night)
    new = said_anew(small)
    assert notes(small) == []
    pay(small, old)
    seen: list[int] = []
    send = small.send

    def counted(request: Request) -> Reply:
        seen.append(len(notes(small)))
        return send(request)

    small.api = AlmaApi(counted, pause=lambda _: None)
    night()
    assert applied(new) == [[1000]]
    assert set(seen) == {1}


def test_what_a_person_settled_is_not_posted_after_a_repair(small: Bridge, night: Night, told: str) -> None:
    (fee,) = charged(small, 1000)
    small.far.alma.dispute(fee.id)
    payment = pay(small, fee)
    night()
    ((exception_id, _, _),) = listed(small, "fee is INDISPUTE in Alma")
    resolve(small, exception_id)
    if told == "payments":
        small.far.peoplesoft.bounce(payment.payment_id)  # the office gives the money back
    small.far.alma.restore(fee.id)
    night()
    lose(small, opened=False)
    repaired(small)
    for _ in range(2):
        night()
        equalise(small)
    assert applied(fee) == [[]]
    assert charged_in_all(small) == 1000


def test_a_payment_that_stood_in_for_another_is_not_posted_after_a_repair(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    night = nights(bridge)
    (fee,) = charged(bridge, 1000)
    first = pay(bridge, fee, 600)
    night()
    bridge.far.peoplesoft.bounce(first.payment_id)
    night()
    bridge.far.alma.dispute(fee.id)
    pay(bridge, fee, 600)
    night()
    bridge.far.alma.restore(fee.id)
    equalise(bridge)
    assert len(notes(bridge)) == 2
    lose(bridge, opened=False)
    repaired(bridge)
    for _ in range(2):
        night()
        equalise(bridge)
    assert applied(fee) == [[600]]
    settled(bridge)


def test_a_file_from_between_two_steps_read_again_does_not_bring_back_the_first(tmp_path: Path) -> None:
    """Else the payment that stood in for the first step would be posted."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    night = nights(bridge)
    (fee,) = charged(bridge, 2000)
    first = pay(bridge, fee, 1000)
    night()
    bridge.far.peoplesoft.bounce(first.payment_id, 600)
    night()
    pay(bridge, fee, 600)
    night()
    bridge.far.peoplesoft.bounce(first.payment_id, 400)
    night()
    night()
    ((exception_id, cents, _),) = listed(bridge)
    assert cents == 400
    resolve(bridge, exception_id)
    night()
    assert (applied(fee), bridge.exceptions()) == ([[1000]], {})
    lose(bridge, opened=False)
    repaired(bridge)
    assert bridge.exceptions() == {}
    for _ in range(3):
        night()

    assert (applied(fee), bridge.exceptions()) == ([[1000]], {})


def test_older_files_read_again_do_not_bring_back_what_was_taken_back_later(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    night = nights(bridge)
    _, _, payment = made_anew(bridge, night)
    lose(bridge, opened=False)
    repaired(bridge)
    assert BACK not in kinds(bridge)
    # And one that truly is back is listed.
    payment.amount_cents += payment.bounced_cents
    payment.bounced_cents = 0
    night()
    assert kinds(bridge) == [BACK]


@pytest.mark.parametrize("by_the_empty_one", [True, False])
def test_what_alma_shows_no_more_was_posted_as_the_archive_tells(
    small: Bridge, night: Night, by_the_empty_one: bool
) -> None:
    fee, _ = taken_back(small, night)
    ((exception_id, _, _),) = listed(small)
    resolve(small, exception_id)
    night()
    small.far.alma.purge_user(small.far.students[0].primary_id)
    lose(small, opened=False)
    small.far.clock.advance(hours=1)
    if by_the_empty_one:
        small.far.peoplesoft.pay(f"ALMA{fee.id}", 1000)
        small.far.write_query_output(kind=small.campus.sis_to_alma.shape)
        with pytest.raises(SendingStopped):
            small.sis_to_alma()
    repaired(small)
    for _ in range(2):
        night()
    assert applied(fee) == [[1000]]
    assert TAKEN_BACK not in kinds(small)
    ledger = small.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT SUM(posted) FROM payment WHERE institution = :i AND state = 'posted'") == 1000
    ledger.close()


def test_an_older_copy_learns_what_was_said_since(small: Bridge, night: Night) -> None:
    old, _ = taken_back(small, night)
    copy = copied(small)
    new = said_anew(small)
    equalise(small)
    pay(small, old)
    night()
    put_back(small, copy)
    with pytest.raises(SendingStopped):
        equalise(small)
    assert repaired(small).notes == 1
    for _ in range(2):
        equalise(small)
        night()
    assert applied(old, new) == [[1000], [1000]]
    assert charged_in_all(small) == 1000
    settled(small)


@pytest.mark.parametrize("unclear", [False, True])
def test_an_older_copy_does_not_post_what_a_person_settled_since(
    small: Bridge, night: Night, unclear: bool
) -> None:
    (fee,) = charged(small, 1000)
    pay(small, fee)
    if unclear:
        small.far.faults.add_http("drop_before", method="POST", times=None)
        night()
        assert kinds(small) == ["outcome of the posting unclear"]
        copy = copied(small)
        small.far.faults.clear()
    small.far.alma.dispute(fee.id)
    night()
    if not unclear:
        copy = copied(small)
    ((exception_id, _, _),) = listed(small, "fee is INDISPUTE in Alma")
    resolve(small, exception_id)
    night()
    put_back(small, copy)
    assert repaired(small).notes == 1
    small.far.alma.restore(fee.id)
    for _ in range(3):
        night()
        equalise(small)

    assert applied(fee) == [[]]
    assert charged_in_all(small) == 1000
    assert small.exceptions() == {}


def test_an_older_copy_learns_what_was_posted_on_an_account_that_is_gone(small: Bridge, night: Night) -> None:
    """Else it would wait for ever to be posted, and stand on the list."""
    (fee,) = charged(small, 1000)
    small.far.alma.dispute(fee.id)
    payment = pay(small, fee)
    night()
    copy = copied(small)
    small.far.alma.restore(fee.id)
    night()
    assert applied(fee) == [[1000]]
    small.far.peoplesoft.bounce(payment.payment_id, 300)
    night()
    night()
    ((exception_id, cents, _),) = listed(small)
    assert cents == 300
    resolve(small, exception_id)
    night()
    small.far.alma.purge_user(small.far.students[0].primary_id)
    put_back(small, copy)
    counts = repaired(small)
    assert (counts.accounts_gone, counts.payments, counts.notes) == (1, 0, 1)
    for _ in range(2):
        night()

    assert small.exceptions() == {}
    ledger = small.ledger("look")
    with ledger.read() as tx:
        told = payments.posted_on(tx, fee.id)
    assert told == [(t.external_transaction_id, t.amount_cents) for t in fee.transactions]
    ledger.close()


def test_a_payment_that_stands_in_no_more_is_posted_after_a_repair(tmp_path: Path) -> None:
    """Its note tells that it did; the payments' file that it waits again."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    night = nights(bridge)
    (fee,) = charged(bridge, 2000)
    first = pay(bridge, fee, 600)
    night()
    bridge.far.peoplesoft.bounce(first.payment_id)
    night()
    pay(bridge, fee, 600)
    night()
    equalise(bridge)
    assert (len(notes(bridge)), applied(fee)) == (2, [[600]])
    bridge.far.alma.dispute(fee.id)
    first.amount_cents, first.bounced_cents = 600, 0
    bridge.far.peoplesoft._apply(first, [bridge.far.peoplesoft.item_by_reference(f"ALMA{fee.id}")])
    night()
    equalise(bridge)
    assert sorted(json.loads(note.read_text())["state"] for note in notes(bridge)) == ["new", "posted"]
    lose(bridge, opened=False)
    repaired(bridge)
    bridge.far.alma.restore(fee.id)
    for _ in range(3):
        night()
        equalise(bridge)

    assert applied(fee) == [[600, 600]]
    settled(bridge)


def test_an_older_copy_posts_what_stood_in_then_and_does_no_more(tmp_path: Path) -> None:
    """A person has dealt with a part since, so there is no room for it when all of it is back."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    night = nights(bridge)
    (fee,) = charged(bridge, 2000)
    first = pay(bridge, fee, 1000)
    night()
    bridge.far.peoplesoft.bounce(first.payment_id, 400)
    night()
    other = pay(bridge, fee, 400)
    night()
    night()
    assert (applied(fee), bridge.exceptions()) == ([[1000]], {})
    copy = copied(bridge)
    bridge.far.peoplesoft.bounce(other.payment_id, 300)
    night()
    night()
    ((exception_id, cents, _),) = listed(bridge)
    assert cents == 300
    resolve(bridge, exception_id)
    bridge.far.alma.dispute(fee.id)
    again(bridge, other)
    night()
    assert kinds(bridge) == ["fee is INDISPUTE in Alma", TAKEN_BACK]
    night()
    put_back(bridge, copy)
    repaired(bridge)
    bridge.far.alma.restore(fee.id)
    for _ in range(2):
        night()

    assert applied(fee) == [[1000, 400]]
    assert [cents for _, cents, _ in listed(bridge)] == [100]


def test_without_its_note_what_was_posted_to_a_fee_made_anew_is_neither_posted_again_nor_taken_back(
    small: Bridge, night: Night, told: str
) -> None:
    """It was paid on the older fee's item, which nothing tells any more."""
    old, new, _ = made_anew(small, night)
    pay(small, old)
    night()
    for note in notes(small):
        note.unlink()
    lose(small, opened=False)
    repaired(small)
    for _ in range(3):
        equalise(small)
        night()
    assert applied(old, new) == [[1000], [1000]]
    assert charged_in_all(small) == 1000
    # That the first payment was taken back and what it was settled with is lost, too, where lines are payments.
    again = [TAKEN_BACK] if told == "payments" else []
    assert kinds(small) == ["paid by us and never charged", *again]


@pytest.mark.parametrize("cents", [400, 1000])
def test_what_is_taken_back_before_a_repair_without_files_is_listed(
    small: Bridge, night: Night, cents: int
) -> None:
    fee, other = charged(small, 1000, 700)
    payment = pay(small, fee)
    pay(small, other)
    night()
    small.far.peoplesoft.bounce(payment.payment_id, cents)
    for file in small.folder.path("/sfs/outbound/archive").glob("*"):
        file.unlink()
    lose(small, opened=False)
    repaired(small)
    night()
    assert small.exceptions() == {}
    night()
    assert [(value, fee_id) for _, value, fee_id in listed(small)] == [(cents, fee.id)]
    assert small.balances()["unexplained"] == 0


def test_what_stood_in_no_more_and_no_file_tells_of_is_posted_when_one_does(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=cumulative)
    night = nights(bridge)
    (fee,) = charged(bridge, 1000)
    first = pay(bridge, fee, 600)
    night()
    bridge.far.peoplesoft.bounce(first.payment_id)
    night()
    bridge.far.alma.dispute(fee.id)
    pay(bridge, fee, 600)  # it stands in for the first
    night()
    night()
    first.amount_cents, first.bounced_cents = first.bounced_cents, 0
    night()
    assert len(notes(bridge)) == 2
    for file in bridge.folder.path("/sfs/outbound/archive").glob("*"):
        file.unlink()
    lose(bridge, opened=False)
    assert repaired(bridge).notes == 2
    bridge.far.alma.restore(fee.id)
    for _ in range(2):
        night()
        equalise(bridge)
    assert applied(fee) == [[600, 400]]
    assert kinds(bridge) == [OVERPAID]
    assert [cents for _, cents, _ in listed(bridge, OVERPAID)] == [200]


def test_a_repair_of_a_ledger_that_knows_its_notes_changes_nothing(small: Bridge, night: Night) -> None:
    made_anew(small, night)
    before = small.balances(), small.exceptions()
    assert repaired(small).notes == 0
    assert (small.balances(), small.exceptions()) == before
    night()
    assert (small.balances(), small.exceptions()) == before


def test_a_ledger_of_either_kind_takes_the_notes_in(small: Bridge, night: Night, ledger_url: str) -> None:
    made_anew(small, night)
    with small.ledger("a hand").write() as tx:
        tx.run("DELETE FROM payment_note WHERE institution = :i")
        told = entries.unnoted(tx)
    assert len(told) == 1
    elsewhere = ledger_url.replace("ledger.db", "elsewhere.db")
    ledger = Ledger(elsewhere, small.campus.institution, run_id="repair")
    ledger.migrate()
    with ledger.write() as tx:
        entries.restore(tx, told)
    with ledger.write() as tx:
        assert entries.unnoted(tx) == []
        tx.run("DELETE FROM payment_note WHERE institution = :i")
        assert entries.unnoted(tx) == told
    ledger.close()


def test_what_only_a_note_tells_of_is_no_witness_for_the_right_alma(
    small: Bridge, night: Night, ledger_url: str
) -> None:
    """Its account may be gone, and of the latest payments one has to be found in Alma."""
    taken_back(small, night)
    ((exception_id, _, _),) = listed(small)
    resolve(small, exception_id)
    with small.ledger("a hand").write() as tx:
        told = entries.unnoted(tx)
    elsewhere = ledger_url.replace("ledger.db", "elsewhere.db")
    ledger = Ledger(elsewhere, small.campus.institution, run_id="repair")
    ledger.migrate()
    with ledger.write() as tx:
        entries.restore(tx, told)
        assert payments.latest_posted(tx, 3) == []
        assert [row["posted"] for row in payments.all_posted(tx, waiver=False)] == [1000]
    ledger.close()


def test_a_note_that_is_cut_short_stops_the_repair_and_is_named(small: Bridge, night: Night) -> None:
    made_anew(small, night)
    (note,) = notes(small)
    for text in (note.read_text()[:40], json.dumps({"external_id": "x"})):
        note.write_text(text)
        lose(small, opened=False)
        with pytest.raises(BadFile, match=r"payment_01CAMPUS_INST_SFS[0-9A-Z]{13}.note: is cut short"):
            repaired(small)


def test_a_student_waits_while_one_file_alone_shows_his_payment_taken_back(
    small: Bridge, night: Night
) -> None:
    (old,) = charged(small, 1000)
    payment = pay(small, old)
    night()
    equalise(small)
    small.far.peoplesoft.bounce(payment.payment_id)
    night()
    small.far.alma.add_fee(small.far.students[0], 1000)
    small.far.alma.add_fee(small.far.students[1], 500)
    equalise(small)
    assert charged_in_all(small) == 1500
    assert kinds(small) == ["payment taken back, new fees wait"]
    night()
    assert TAKEN_BACK in kinds(small)


def test_the_wait_follows_the_account_where_the_emplid_was_corrected(tmp_path: Path) -> None:
    bridge = Bridge(
        tmp_path,
        students=4,
        fees=0,
        settings=lambda text: cumulative(text) + '[emplid]\nsource = "identifier:UNIV_ID"\n',
    )
    bridge.far.peoplesoft.emplids |= {"900000001", "900000002"}
    student = bridge.far.students[0]
    bridge.far.alma.set_identifier(student.primary_id, "UNIV_ID", "900000001")
    night = nights(bridge)
    (fee,) = charged(bridge, 1000)
    payment = pay(bridge, fee)
    night()
    equalise(bridge)
    bridge.far.alma.set_identifier(student.primary_id, "UNIV_ID", "900000002")
    bridge.far.peoplesoft.bounce(payment.payment_id)
    night()
    night()
    bridge.far.alma.add_fee(student, 1000)
    equalise(bridge)
    assert charged_in_all(bridge) == 1000
    assert "payment taken back, new fees wait" in kinds(bridge)


def test_two_campuses_may_share_an_archive(tmp_path: Path) -> None:
    first = Bridge(tmp_path / "first", students=4, fees=0)
    second = Bridge(
        tmp_path / "second", students=4, fees=0, seed=9,
        settings=lambda text: text.replace("01CAMPUS_INST", "02OTHER_INST"),
    )  # fmt: skip
    second.folder = first.folder
    second.marks[1].archive = first.folder  # type: ignore[attr-defined]
    (fee,) = charged(first, 1000)
    # The other's first batch is planned, and given up before it left.
    other = second.far.alma.add_fee(second.far.students[0], 700)
    with second.working("out") as (ledger, lease):
        for _, work in second.tasks_out("all_users")[:3]:
            work(ledger, lease)
    second.far.alma.waive_at_desk(other.id, 700)
    second.far.clock.advance(hours=7)
    second.alma_to_sis("all_users")
    lose(first, opened=False)
    repaired(first)
    first.far.clock.advance(hours=1)
    equalise(first)
    assert first.books().fees[fee.id].charged_cents == 1000
    assert first.unexplained() == {}
