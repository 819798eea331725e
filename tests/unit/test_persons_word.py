"""What a person may say, what the evidence forbids, how long a word holds. The simulated campus's books are the witness."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from alma_hook import __main__ as command_line
from alma_hook import guard
from alma_hook.errors import Fatal, Retriable
from simulator.alma_records import Fee
from tests.bridge import Bridge, LocalFolder
from tests.unit.test_confirmations import (
    DIFFERS,
    NOT_SEEN,
    WAITS,
    charged,
    details,
    fees,
    leave,
    lines,
    listed,
    load,
    lose,
    see,
    tell,
    void,
    with_items,
)
from tests.unit.test_guard import copied, put_back, repaired
from tests.unit.test_inbound_files import resolve
from tests.unit.test_reversals import cumulative

INCOMPLETE = "list of items not complete"


def direct(text: str) -> str:
    """No second name: an upload that breaks off leaves it open whether PeopleSoft has the file."""
    return with_items(text).replace("[sfs]\n", '[sfs]\nmode = "direct"\n')


@pytest.fixture
def small(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0, settings=with_items)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bridge:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=direct)
    monkeypatch.setattr(command_line, "_ledger", lambda _: bridge.ledger("command line"))
    monkeypatch.setattr(command_line, "_check_marks", lambda _, told: guard.check(told, bridge.marks))
    return bridge


def breaks_off(bridge: Bridge, *, arrives: bool = True) -> None:
    """An upload whose answer is lost, and our next run can't tell whether PeopleSoft has the whole file or nothing."""

    def died(action: str, path: str) -> None:
        if action == "written" and path.startswith("/sfs/inbound"):
            if not arrives:
                bridge.folder.path(path).unlink()
            raise Retriable("the connection broke off")

    bridge.folder.before = died
    with suppress(Retriable):
        tell(bridge)
    bridge.folder.before = lambda _action, _path: None
    load(bridge)
    bridge.far.clock.advance(hours=12)
    tell(bridge)
    assert "batch unconfirmed" in listed(bridge)


def say(command: str, batch_id: str) -> int:
    return command_line.main([command, batch_id])


def wholly_told(bridge: Bridge) -> None:
    for _ in range(2):
        tell(bridge)
        load(bridge)


# -- mark-not-delivered ----------------------------------------------------------------------------------


def pays(bridge: Bridge, fee: Fee) -> None:
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", None)
    bridge.far.clock.advance(hours=6)
    bridge.far.write_query_output()
    bridge.sis_to_alma()


def shows(bridge: Bridge, _fee: Fee) -> None:
    see(bridge, days=0.3)


@pytest.mark.parametrize(
    ("evidence", "said"), [(pays, r"50\.00 was paid"), (shows, r"the amount in .* takes it in")]
)
def test_a_batch_that_peoplesofts_output_shows_as_loaded_is_not_given_up(
    broken: Bridge,
    evidence: Callable[[Bridge, Fee], None],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (fee,) = fees(broken, 5000)
    breaks_off(broken)
    evidence(broken, fee)

    assert say("mark-not-delivered", "000001") == 1

    told = capsys.readouterr().err
    assert "mark-delivered" in told
    assert re.search(said, told)
    assert say("mark-delivered", "000001") == 0
    wholly_told(broken)
    broken.far.clock.advance(hours=6)
    broken.sis_to_alma()
    wholly_told(broken)
    assert charged(broken, fee) == (5000, 0)
    assert broken.books().fees[fee.id].difference_cents == 0
    assert broken.exceptions() == {}


def test_a_credit_that_the_list_of_items_shows_is_not_given_up(broken: Bridge) -> None:
    (fee,) = fees(broken, 5000)
    tell(broken)
    load(broken)
    see(broken, days=0.3)
    broken.far.alma.waive_at_desk(fee.id, 2000)
    breaks_off(broken)
    see(broken, days=0.3)

    assert say("mark-not-delivered", "000002") == 1

    assert charged(broken, fee) == (5000, 2000)


def test_a_batch_that_nothing_shows_is_given_up_and_sent_again(broken: Bridge) -> None:
    (fee,) = fees(broken, 5000)
    breaks_off(broken, arrives=False)
    see(broken, days=0.3)

    assert say("mark-not-delivered", "000001") == 0
    wholly_told(broken)

    assert charged(broken, fee) == (5000, 0)
    assert lines(broken)[0] == "1/1 dropped"


def raised_and_lost(bridge: Bridge, fee: Fee, cents: int) -> None:
    """A second charge, whose upload breaks off before a byte is there; PeopleSoft never gets it."""
    bridge.far.alma.raise_fee(fee.id, cents)
    breaks_off(bridge, arrives=False)
    bridge.far.clock.advance(hours=6)


def night(bridge: Bridge) -> None:
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output(bounced="omit")
    bridge.sis_to_alma()


def test_a_payment_taken_back_and_made_again_does_not_show_a_second_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=lambda text: cumulative(direct(text)))
    monkeypatch.setattr(command_line, "_ledger", lambda _: bridge.ledger("command line"))
    monkeypatch.setattr(command_line, "_check_marks", lambda _, told: guard.check(told, bridge.marks))
    (fee,) = fees(bridge, 5000)
    wholly_told(bridge)
    (payment,) = bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 3000)
    night(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id)
    night(bridge)
    night(bridge)
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 3000)
    night(bridge)
    assert bridge.far.alma.fee(fee.id).balance_cents == 2000
    raised_and_lost(bridge, fee, 500)

    assert say("mark-not-delivered", "000002") == 0

    wholly_told(bridge)
    assert charged(bridge, fee) == (5500, 0)
    assert bridge.books().fees[fee.id].difference_cents == 0


def test_what_was_paid_too_much_before_a_charge_was_made_does_not_show_it(broken: Bridge) -> None:
    (fee,) = fees(broken, 5000)
    wholly_told(broken)
    broken.far.faults.add_http("refuse", method="POST", times=None)
    broken.far.peoplesoft.pay(f"ALMA{fee.id}", 6000)
    broken.far.clock.advance(hours=6)
    broken.far.write_query_output()
    with suppress(Retriable):
        broken.sis_to_alma()
    raised_and_lost(broken, fee, 500)

    assert say("mark-not-delivered", "000002") == 0


def test_an_item_with_an_amount_of_its_own_is_that_of_the_fees_first_charge(
    broken: Bridge, capsys: pytest.CaptureFixture[str]
) -> None:
    """PeopleSoft's office has lowered it by hand since it was loaded."""
    (fee,) = fees(broken, 5000)
    breaks_off(broken)
    broken.far.clock.advance(hours=6)
    leave(broken, "1", (broken.far.students[0].primary_id, fee.id, "45.00"))
    broken.sis_to_alma()

    assert say("mark-not-delivered", "000001") == 1

    assert "has an item of it" in capsys.readouterr().err


def given_up_wrongly(bridge: Bridge, *cents: int) -> list[Fee]:
    """Someone gave a batch up that PeopleSoft has loaded, and its fees were sent again but for the first, which was paid."""
    found = fees(bridge, *cents)
    breaks_off(bridge)
    bridge.far.clock.advance(hours=6)
    assert say("mark-not-delivered", "000001") == 0
    pays(bridge, found[0])
    wholly_told(bridge)
    return found


def test_a_fee_that_was_paid_and_never_charged_is_not_charged(broken: Bridge) -> None:
    (fee,) = given_up_wrongly(broken, 5000)

    assert charged(broken, fee) == (5000, 0)
    assert broken.exceptions()[f"fee {fee.id}"] == "paid in PeopleSoft and never charged"
    resolve(broken, "no such fee was charged")
    tell(broken)
    load(broken)
    assert charged(broken, fee) == (10000, 0), "the person's word was that the payment is none of this fee's"


def test_a_batch_given_up_wrongly_is_said_to_be_delivered_after_all_and_what_was_sent_twice_is_credited(
    broken: Bridge, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = given_up_wrongly(broken, 5000, 3000)
    assert charged(broken, second) == (6000, 0)

    assert say("mark-delivered", "000001") == 0

    assert "delivered after all" in capsys.readouterr().out
    night(broken)
    see(broken, days=0.3)
    wholly_told(broken)
    assert (charged(broken, first), charged(broken, second)) == ((5000, 0), (6000, 3000))
    assert {fee.id: broken.books().fees[fee.id].difference_cents for fee in (first, second)} == {
        first.id: 0,
        second.id: 0,
    }
    assert broken.far.alma.fee(first.id).balance_cents == 0
    assert broken.exceptions() == {}
    assert say("mark-delivered", "000001") == 1


def given_up(bridge: Bridge, *cents: int) -> list[Fee]:
    """Someone gave a batch up that PeopleSoft has loaded; nothing was sent again yet."""
    found = fees(bridge, *cents)
    breaks_off(bridge)
    bridge.far.clock.advance(hours=6)
    assert say("mark-not-delivered", "000001") == 0
    return found


def goes_round(bridge: Bridge) -> None:
    for _ in range(4):
        night(bridge)
        see(bridge, days=0.3)
        wholly_told(bridge)


def test_what_was_charged_to_another_emplid_since_is_not_evened_out_by_a_credit(
    broken: Bridge, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would copy the newest charge, and the old EMPLID would owe for ever."""
    (fee,) = given_up(broken, 5000)
    broken.far.peoplesoft.emplids.add("922019999")
    broken.far.alma.rekey_user(broken.far.students[0].primary_id, "922019999")
    wholly_told(broken)

    assert say("mark-delivered", "000001") == 1

    assert f"line 1 (fee {fee.id})" in capsys.readouterr().err
    broken.far.peoplesoft.reverse_group(broken.far.peoplesoft.loads[0].group_id)
    goes_round(broken)
    owed = {emplid: cents for emplid, cents in broken.far.peoplesoft.books().by_emplid.items() if cents}
    assert owed == {"922019999": 5000}


def test_a_batch_is_not_said_to_be_delivered_while_its_fees_are_under_way_again(
    broken: Bridge, capsys: pytest.CaptureFixture[str]
) -> None:
    (fee,) = given_up(broken, 5000)
    broken.far.clock.advance(seconds=60)
    broken.far.refresh_analytics()
    with broken.working("out") as (ledger, lease):
        for _, work in broken.tasks_out("analytics_report")[:4]:
            work(ledger, lease)
    assert lines(broken) == ["1/1 dropped", "2/1 pending"]

    assert say("mark-delivered", "000001") == 1

    assert "under way again in batch 000002" in capsys.readouterr().err
    with broken.working("out") as (ledger, lease):
        broken.upload(ledger, lease)
    load(broken)
    assert say("mark-delivered", "000001") == 0
    goes_round(broken)
    assert charged(broken, fee) == (10000, 5000)
    assert broken.books().fees[fee.id].difference_cents == 0


def test_a_raise_that_was_given_up_wrongly_and_paid_is_not_charged_again(broken: Bridge) -> None:
    (fee,) = fees(broken, 5000)
    wholly_told(broken)
    broken.far.alma.raise_fee(fee.id, 1000)
    breaks_off(broken)
    broken.far.clock.advance(hours=6)
    assert say("mark-not-delivered", "000002") == 0
    broken.far.peoplesoft.pay(f"ALMA{fee.id}", None)
    night(broken)

    wholly_told(broken)

    assert charged(broken, fee) == (6000, 0)
    assert broken.exceptions()[f"fee {fee.id}"] == "paid in PeopleSoft after its charge was given up"
    assert say("mark-delivered", "000002") == 0
    goes_round(broken)
    assert charged(broken, fee) == (6000, 0)
    assert (broken.books().fees[fee.id].difference_cents, broken.exceptions()) == (0, {})


def test_a_list_from_before_a_batch_is_no_newer_because_an_earlier_one_got_its_word_late(
    broken: Bridge,
) -> None:
    (first,), other = fees(broken, 5000), broken.far.students[1]
    breaks_off(broken)
    late = broken.far.alma.add_fee(other, 4000, type="OVERDUEFINE")
    tell(broken)
    load(broken)
    broken.far.clock.advance(hours=6)
    assert say("mark-delivered", "000001") == 0
    broken.far.clock.advance(days=4)
    leave(broken, "of_before", (broken.far.students[0].primary_id, first.id, "50.00"))
    broken.sis_to_alma()
    assert NOT_SEEN in listed(broken)

    with pytest.raises(Fatal, match="nothing that was delivered with it or since"):
        void(broken, "000002", 1)

    assert charged(broken, late) == (4000, 0)


@pytest.mark.parametrize("noted", [False, True])
def test_a_repair_knows_that_a_batch_was_delivered_after_all(broken: Bridge, noted: bool) -> None:
    """By this ledger's word while the archive tells the old one, and by the archive's on a copy from before."""
    first, second = given_up_wrongly(broken, 5000, 3000)
    copy = copied(broken)
    assert say("mark-delivered", "000001") == 0
    if noted:
        wholly_told(broken)
        put_back(broken, copy)

    repaired(broken)

    goes_round(broken)
    assert (charged(broken, first), charged(broken, second)) == ((5000, 0), (6000, 3000))
    assert broken.books().unequal == {}


def test_an_older_copy_is_told_nothing_and_a_word_on_it_without_a_look_at_the_marks_stands_when_it_is_repaired(
    broken: Bridge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = given_up_wrongly(broken, 5000, 3000)
    copy = copied(broken)
    broken.far.alma.add_fee(broken.far.students[2], 700, type="OVERDUEFINE")
    wholly_told(broken)
    put_back(broken, copy)
    assert say("mark-delivered", "000001") == 1
    assert "holds a mark that this ledger never put" in capsys.readouterr().err
    monkeypatch.setattr(command_line, "_check_marks", lambda _options, _ledger: None)  # as with --ledger
    assert say("mark-delivered", "000001") == 0

    repaired(broken)

    goes_round(broken)
    assert (charged(broken, first), charged(broken, second)) == ((5000, 0), (6000, 3000))
    assert broken.books().unequal == {}


def test_after_a_repair_a_batch_that_was_given_up_wrongly_can_be_said_to_be_delivered(broken: Bridge) -> None:
    """The copy is from before its upload; what became of it the archive tells."""
    (fee,) = fees(broken, 5000)
    broken.far.clock.advance(seconds=60)
    broken.far.refresh_analytics()
    with broken.working("out") as (ledger, lease):
        for _, work in broken.tasks_out("analytics_report")[:4]:
            work(ledger, lease)
    copy = copied(broken)
    breaks_off(broken)
    broken.far.clock.advance(hours=6)
    given_up = [row.split()[0][0] for row in lines(broken) if "pending" in row]
    assert say("mark-not-delivered", f"00000{given_up[0]}") == 0
    wholly_told(broken)
    assert charged(broken, fee) == (10000, 0)
    put_back(broken, copy)
    repaired(broken)

    assert say("mark-delivered", f"00000{given_up[0]}") == 0

    goes_round(broken)
    assert charged(broken, fee) == (10000, 5000)


def test_that_an_item_stands_does_not_show_a_second_charge_where_a_first_was_given_up(
    broken: Bridge, capsys: pytest.CaptureFixture[str]
) -> None:
    (fee,) = given_up(broken, 5000)
    broken.far.alma.waive_at_desk(fee.id, 2000)
    raised_and_lost(broken, fee, 500)
    see(broken, days=0.3)
    assert "given up or made void (000001/1)" in details(broken)

    assert say("mark-not-delivered", "000002") == 0, capsys.readouterr().err


def test_no_mark_of_a_whole_file_follows_a_batch_that_is_said_to_be_delivered_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(text: str) -> str:
        return text.replace(
            "[sfs]\n", '[sfs]\nmode = "direct"\nfixed_name = "lib_{kind}.dat"\ndone_file = "{file}.done"\n'
        )

    bridge = Bridge(tmp_path, students=4, fees=0, settings=settings)
    monkeypatch.setattr(command_line, "_ledger", lambda _: bridge.ledger("command line"))
    monkeypatch.setattr(command_line, "_check_marks", lambda _, told: guard.check(told, bridge.marks))
    (fee,) = given_up(bridge, 5000)
    bridge.far.alma.waive_at_desk(fee.id, 5000)
    assert say("mark-delivered", "000001") == 0

    tell(bridge)

    assert [file.name for file in bridge.far.path("/sfs/inbound").glob("*.done")] == ["lib_credits.dat.done"]


def test_a_batch_that_was_never_sent_is_not_delivered_after_all(
    broken: Bridge, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was planned before an outage, and planned anew after it."""
    (fee,) = fees(broken, 5000)

    def no_server(_action: str, _path: str) -> None:
        raise Retriable("no server")

    folder, broken.folder = broken.folder, LocalFolder(broken.far.root, no_server)
    with suppress(Retriable):
        tell(broken)
    assert lines(broken) == ["1/1 pending"]
    broken.folder = folder
    wholly_told(broken)
    assert lines(broken)[0] == "1/1 dropped"

    assert say("mark-delivered", "000001") == 1

    assert "was never sent" in capsys.readouterr().err
    wholly_told(broken)
    assert charged(broken, fee) == (5000, 0)


# -- how long a word holds -------------------------------------------------------------------------------


def test_a_difference_that_was_settled_and_mended_is_news_when_it_comes_again(small: Bridge) -> None:
    (fee,) = fees(small, 5000)
    tell(small)
    load(small)
    emplid = small.far.students[0].primary_id
    for day in range(3):
        amount = ("50.00", "60.00", "50.00")[day]
        small.far.clock.advance(days=1)
        leave(small, str(day), (emplid, fee.id, amount))
        small.sis_to_alma()
        if day == 1:
            assert listed(small) == [DIFFERS]
            resolve(small, DIFFERS)
            small.far.clock.advance(days=1)
            leave(small, "1b", (emplid, fee.id, amount))
            small.sis_to_alma()
            assert listed(small) == [], "the same list once more is no news"

    small.far.clock.advance(days=1)
    leave(small, "3", (emplid, fee.id, "60.00"))
    small.sis_to_alma()

    assert listed(small) == [DIFFERS]


def test_that_one_item_is_gone_says_nothing_of_another_of_that_amount(small: Bridge) -> None:
    first, second, third = fees(small, 5000, 5000, 2000)
    rows = [
        (student.primary_id, fee.id, f"{fee.original_cents / 100:.2f}")
        for student, fee in zip(small.far.students, (first, second, third), strict=False)
    ]
    tell(small)
    load(small)
    leave(small, "1", *rows)
    small.sis_to_alma()
    small.far.clock.advance(days=1)
    leave(small, "2", *rows[1:])
    small.sis_to_alma()
    resolve(small, INCOMPLETE)
    small.far.clock.advance(days=1)
    leave(small, "3", *rows[1:])
    small.sis_to_alma()
    assert listed(small) == [DIFFERS], "the item that is gone"

    small.far.clock.advance(days=1)
    leave(small, "4", rows[0], rows[2])
    small.sis_to_alma()

    assert INCOMPLETE in listed(small)
    assert f"first: fee {second.id}" in details(small)


def test_a_void_of_the_charge_does_not_silence_the_next_credit_that_waits(small: Bridge) -> None:
    first, _ = fees(small, 5000, 700)
    tell(small)
    lose(small)
    small.far.alma.waive_at_desk(first.id, 2000)
    tell(small)
    assert WAITS in listed(small)
    void(small, "000001", 1, rejected=True)
    assert WAITS not in listed(small)
    tell(small)
    small.far.alma.waive_at_desk(first.id, 2000)

    tell(small)

    assert small.exceptions()[f"fee {first.id}"] == WAITS


# -- a stale list ----------------------------------------------------------------------------------------


def test_an_old_list_under_a_new_name_makes_nothing_void(small: Bridge) -> None:
    first, second = fees(small, 5000)[0], small.far.students[1]
    tell(small)
    load(small)
    row = (small.far.students[0].primary_id, first.id, "50.00")
    leave(small, "1", row)
    small.sis_to_alma()
    late = small.far.alma.add_fee(second, 5000)
    tell(small)
    load(small)
    small.far.clock.advance(days=4)
    leave(small, "2", row)
    small.sis_to_alma()
    assert listed(small) == [NOT_SEEN]

    with pytest.raises(Fatal, match="nothing that was delivered with it or since"):
        void(small, "000002")

    assert charged(small, late) == (5000, 0)


def test_a_list_from_before_is_no_newer_because_an_item_comes_to_the_same_again(small: Bridge) -> None:
    """A fee that was lowered and raised again since: the older list holds what the newer one would."""
    first, second = fees(small, 5000)[0], small.far.students[1]
    tell(small)
    load(small)
    emplid = small.far.students[0].primary_id
    leave(small, "1", (emplid, first.id, "50.00"))
    small.sis_to_alma()
    late = small.far.alma.add_fee(second, 5000)
    small.far.alma.waive_at_desk(first.id, 2000)
    tell(small)
    load(small)
    leave(small, "2", (emplid, first.id, "30.00"))
    small.sis_to_alma()
    small.far.alma.raise_fee(first.id, 2000)
    tell(small)
    load(small)
    small.far.clock.advance(days=4)
    leave(small, "3", (emplid, first.id, "50.00"))
    small.sis_to_alma()
    assert NOT_SEEN in listed(small)

    with pytest.raises(Fatal, match="nothing that was delivered with it or since"):
        void(small, "000002")

    assert charged(small, late) == (5000, 0)


def test_what_a_batch_is_that_is_not_in_doubt_is_said(
    broken: Bridge, capsys: pytest.CaptureFixture[str]
) -> None:
    fees(broken, 5000)
    wholly_told(broken)

    assert (say("mark-delivered", "000001"), say("mark-not-delivered", "1")) == (1, 1)

    told = capsys.readouterr().err
    assert "Batch 000001 is delivered, not unconfirmed; those are: none" in told
    assert "Batch 1 is none (a number has six digits" in told
