"""Lines that PeopleSoft rejects or never loads, on the simulated campus; its books are the witness."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alma_hook import __main__ as command_line
from alma_hook import confirmations
from alma_hook.charges import PlanCounts
from alma_hook.confirmations import judge
from alma_hook.errors import Fatal, Retriable
from alma_hook.ledger import Lease, Ledger, story
from alma_hook.ledger.items import Sent
from simulator.alma_records import Fee
from tests.bridge import Bridge, LocalFolder

ITEMS = """
[sis_to_alma.items]
pattern = "LIBRARY_APPLIED_*.csv"
complete = true
[sis_to_alma.items.columns]
emplid = "Emplid"
reference = "Reference Nbr"
amount = "Item Amt"
balance = "Item Balance"
"""
HEAD = "Emplid,Reference Nbr,Item Amt,Item Balance"
NOT_SEEN, DIFFERS = "charge not seen in PeopleSoft", "item amount differs in PeopleSoft"
WAITS = "credit waits until its charge is seen in PeopleSoft"


def with_items(text: str) -> str:
    payments = text.replace("[sis_to_alma]\n", '[sis_to_alma]\npattern = "LIBRARY_PAYMENTS_*.csv"\n')
    return payments + ITEMS


@pytest.fixture
def small(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0, settings=with_items)


@pytest.fixture
def both(tmp_path: Path, ledger_url: str) -> Bridge:
    return Bridge(tmp_path, students=4, fees=0, settings=with_items, url=ledger_url)


def fees(bridge: Bridge, *cents: int) -> list[Fee]:
    """New fees, a student each, not yet told to PeopleSoft."""
    return [
        bridge.far.alma.add_fee(student, value, type="OVERDUEFINE")
        for student, value in zip(bridge.far.students, cents, strict=False)
    ]


def tell(bridge: Bridge) -> PlanCounts:
    """A run of alma_to_sis a minute later."""
    bridge.far.clock.advance(seconds=60)
    bridge.far.refresh_analytics()
    return bridge.alma_to_sis()


def load(bridge: Bridge) -> None:
    bridge.far.clock.advance(seconds=60)
    bridge.far.load_inbound()


def lose(bridge: Bridge) -> bytes:
    """What lies in PeopleSoft's folder is never loaded; its bytes."""
    (file,) = bridge.far.path("/sfs/inbound").glob("*.dat")
    content = file.read_bytes()
    file.unlink()
    return content


def see(bridge: Bridge, days: float = 0) -> None:
    """PeopleSoft's list of items, written some days on, and a run of sis_to_alma."""
    bridge.far.clock.advance(days=days, seconds=60)
    bridge.far.write_query_output(kind="applied")
    bridge.sis_to_alma()


def goes_on(bridge: Bridge) -> None:
    """A charge delivered since is loaded: a list that shows it is no older one."""
    bridge.far.alma.add_fee(bridge.far.students[3], 100, type="OVERDUEFINE")
    tell(bridge)
    load(bridge)


def leave(bridge: Bridge, name: str, *rows: tuple[str, str, str], end: str = "\n") -> Path:
    """A list of (EMPLID, fee, amount) as PeopleSoft's query might write it now."""
    text = "\n".join([HEAD, *(f"{emplid},ALMA{fee},{amount},0.00" for emplid, fee, amount in rows)]) + end
    path = bridge.far.path(f"/sfs/outbound/LIBRARY_APPLIED_{name}.csv")
    path.write_text(text)
    now = bridge.far.clock.now().timestamp()
    os.utime(path, (now, now))
    return path


def void(bridge: Bridge, batch_id: str, line: int | None = None, *, rejected: bool = False) -> int:
    with bridge.working("out") as (ledger, lease):
        return confirmations.void(
            ledger, lease, batch_id, line, "asked the office", rejected=rejected, settings=bridge.campus.sis_to_alma.items
        )  # fmt: skip


def lines(bridge: Bridge) -> list[str]:
    """Every line as ``batch/line state``, ``*`` where it was seen."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows("SELECT * FROM line WHERE institution = :i ORDER BY batch_id, line_no")
    ledger.close()
    return [
        f"{row['batch_id'][-1]}/{row['line_no']} {row['state']}{'*' if row['confirmed_at'] else ''}"
        for row in rows
    ]


def charged(bridge: Bridge, fee: Fee) -> tuple[int, int]:
    book = bridge.books().fees[fee.id]
    return book.charged_cents, book.credited_cents


def listed(bridge: Bridge) -> list[str]:
    return sorted(bridge.exceptions().values())


def details(bridge: Bridge) -> str:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows("SELECT detail FROM exception_item WHERE institution = :i AND closed_at IS NULL")
    ledger.close()
    return "\n".join(row["detail"] for row in rows)


# -- seen ------------------------------------------------------------------------------------------------


def test_lines_are_confirmed_when_the_items_come_to_them(both: Bridge) -> None:
    first, second = fees(both, 1000, 700)
    tell(both)
    load(both)
    see(both)
    assert lines(both) == ["1/1 sent*", "1/2 sent*"]
    both.far.alma.waive_at_desk(first.id, 400)
    both.far.alma.raise_fee(second.id, 300)
    tell(both)
    assert lines(both)[2:] == ["2/1 sent", "3/1 sent"]
    load(both)
    see(both)

    assert lines(both) == ["1/1 sent*", "1/2 sent*", "2/1 sent*", "3/1 sent*"]
    assert both.exceptions() == {}
    assert both.books().unequal == {}
    ledger = both.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM batch WHERE institution = :i AND confirmed_at IS NULL") == 0
        life = "\n".join(text for _, text in story.of_fee(tx, first.id))
    ledger.close()
    assert "batch 000001 line 1 seen in PeopleSoft, in LIBRARY_APPLIED_" in life
    assert "PeopleSoft: item of 6.00, balance 6.00" in life


def test_a_line_delivered_after_the_list_was_written_is_not_judged_by_it(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    see(small)
    small.far.clock.advance(seconds=60)
    small.far.write_query_output(kind="applied")
    small.far.clock.advance(days=9)
    small.far.alma.raise_fee(fee.id, 500)
    tell(small)
    small.sis_to_alma()

    assert lines(small) == ["1/1 sent*", "2/1 sent"]
    assert small.exceptions() == {}


def test_a_payment_does_not_change_what_an_item_comes_to(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    small.far.peoplesoft.pay("ALMA" + fee.id, 600)
    small.far.write_query_output()
    see(small)

    assert lines(small) == ["1/1 sent*"]
    assert small.far.alma.fee(fee.id).balance_cents == 400


# -- not seen --------------------------------------------------------------------------------------------


def test_a_rejected_line_is_listed_made_void_sent_again_and_loaded_once(both: Bridge) -> None:
    first, second = fees(both, 1000, 700)
    emplid = both.far.students[0].primary_id
    both.far.peoplesoft.emplids.discard(emplid)
    tell(both)
    load(both)
    see(both, days=2)
    assert lines(both) == ["1/1 sent", "1/2 sent*"]
    assert both.exceptions() == {}
    with pytest.raises(Fatal, match="not 3 days after"):
        void(both, "000001", 1)
    see(both, days=1.1)
    assert both.exceptions() == {"line 000001/1": NOT_SEEN}
    assert both.listed_fees() == {first.id}
    tell(both)
    assert charged(both, first) == (0, 0)

    both.far.peoplesoft.emplids.add(emplid)
    assert void(both, "000001", 1) == 1
    assert both.exceptions() == {}
    assert tell(both).charges == 1
    load(both)
    see(both)

    assert charged(both, first) == (1000, 0)
    assert charged(both, second) == (700, 0)
    assert lines(both) == ["1/1 void", "1/2 sent*", "2/1 sent*"]
    assert both.exceptions() == {}
    ledger = both.ledger("look")
    with ledger.read() as tx:
        life = "\n".join(text for _, text in story.of_fee(tx, first.id))
        assert tx.one("SELECT confirmed_at FROM batch WHERE institution = :i AND batch_id = '000001'")
    ledger.close()
    assert "line made void by system" in life
    assert "asked the office" in life


def test_a_reading_from_before_a_void_is_not_planned_from(small: Bridge) -> None:
    fees(small, 1000)
    tell(small)
    lose(small)
    small.far.clock.advance(seconds=60)

    def as_task(work: Callable[[Ledger, Lease], Any]) -> Any:
        ledger = small.ledger("monday")
        try:
            with ledger.lease("out", "monday") as lease:
                return work(ledger, lease)
        finally:
            ledger.close()

    as_task(lambda ledger, lease: small.retrieve("all_users", ledger, lease, True))
    as_task(lambda ledger, lease: small.read(ledger, lease, True))
    void(small, "000001", rejected=True)
    counts = as_task(small.plan)

    assert (counts.charges, counts.stale) == (0, 1)
    assert tell(small).charges == 1


def test_a_void_charge_is_sent_anew_as_the_settings_say_then(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    right = small.campus
    small.campus = right.model_copy(update={"item_types": {"OVERDUEFINE": "300000000999"}})
    tell(small)
    load(small)
    small.campus = right
    void(small, "000001", 1, rejected=True)
    tell(small)
    load(small)
    see(small)

    assert charged(small, fee) == (1000, 0)
    assert lines(small) == ["1/1 void", "2/1 sent*"]
    assert small.exceptions() == {}


def test_a_batch_that_was_never_loaded_is_made_void_as_a_whole(small: Bridge) -> None:
    old = fees(small, 1000)
    tell(small)
    load(small)
    see(small)
    new = fees(small, 500, 600, 700)
    tell(small)
    lose(small)
    goes_on(small)
    see(small, days=4)
    assert listed(small) == [NOT_SEEN] * 3

    assert void(small, "000002") == 3
    assert tell(small).charges == 3
    load(small)
    see(small)

    assert [charged(small, fee) for fee in old + new] == [(1000, 0), (500, 0), (600, 0), (700, 0)]
    assert small.exceptions() == {}
    assert small.books().unequal == {}


def test_all_of_a_batch_is_made_void_or_none_and_each_line_that_can_not_be_is_named(small: Bridge) -> None:
    fees(small, 500, 600, 700)
    small.far.peoplesoft.emplids.discard(small.far.students[1].primary_id)
    tell(small)
    load(small)
    see(small, days=4)

    with pytest.raises(Fatal) as caught:
        void(small, "000001")

    said = str(caught.value)
    assert "line 1: was seen in PeopleSoft, in LIBRARY_APPLIED_" in said
    assert "line 3: was seen" in said
    assert "line 2" not in said
    assert lines(small) == ["1/1 sent*", "1/2 sent", "1/3 sent*"]
    assert void(small, "000001", 2) == 1


def test_a_late_load_after_a_void_is_listed_when_the_new_charge_is_there_too(both: Bridge) -> None:
    (fee,) = fees(both, 1000)
    tell(both)
    content = lose(both)
    see(both, days=4)
    void(both, "000001", rejected=True)
    tell(both)
    load(both)
    both.far.path("/sfs/inbound/late.dat").write_bytes(content)
    load(both)
    assert charged(both, fee) == (2000, 0)

    see(both)

    assert both.exceptions() == {f"item {fee.id}": DIFFERS}
    assert "PeopleSoft 20.00, told 10.00" in details(both)
    assert "made void (000001/1)" in details(both)
    assert lines(both) == ["1/1 void", "2/1 sent"]
    with pytest.raises(Fatal, match="ask PeopleSoft's office"):
        void(both, "000002")
    # The office takes one of them back.
    both.far.peoplesoft.reverse_group(both.far.peoplesoft.loads[-1].group_id)
    see(both)
    assert both.exceptions() == {}
    assert lines(both) == ["1/1 void", "2/1 sent*"]


def test_a_late_load_after_a_void_keeps_the_new_charge_back_while_it_is_not_sent(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    content = lose(small)
    see(small, days=4)
    void(small, "000001", rejected=True)
    small.far.path("/sfs/inbound/late.dat").write_bytes(content)
    load(small)
    see(small)
    assert small.exceptions() == {f"item {fee.id}": DIFFERS}

    assert tell(small).charges == 0

    assert small.exceptions()[f"fee {fee.id}"] == (
        "charge waits while its item in PeopleSoft is above what it was told"
    )
    small.far.peoplesoft.reverse_group(small.far.peoplesoft.loads[-1].group_id)
    see(small)
    assert tell(small).charges == 1
    load(small)
    see(small)
    assert charged(small, fee) == (1000, 0)
    assert small.exceptions() == {}


def test_an_item_that_was_never_charged_is_listed(small: Bridge) -> None:
    leave(small, "1", ("012345678", "138900000001", "12.00"))
    small.sis_to_alma()

    assert small.exceptions() == {"item 138900000001": DIFFERS}
    assert "PeopleSoft 12.00, told 0.00" in details(small)


def test_a_rejected_credit_is_listed_made_void_and_sent_again(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    see(small)
    small.far.alma.waive_at_desk(fee.id, 400)
    tell(small)
    lose(small)
    goes_on(small)
    see(small, days=4)
    assert small.exceptions() == {"line 000002/1": "credit not seen in PeopleSoft"}

    void(small, "000002")
    assert tell(small).credits == 1
    load(small)
    see(small)

    assert charged(small, fee) == (1000, 400)
    assert small.books().unequal == {}
    assert small.exceptions() == {}


def test_a_charge_of_several_that_was_not_loaded_is_named_and_follows_the_offices_word(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    lose(small)
    small.far.alma.raise_fee(fee.id, 300)
    tell(small)
    load(small)
    see(small, days=4)
    assert small.exceptions() == {f"item {fee.id}": DIFFERS}
    assert "PeopleSoft 3.00, told 13.00" in details(small)
    assert "it would fit without line 000001/1" in details(small)
    with pytest.raises(Fatal, match="ask PeopleSoft's office"):
        void(small, "000001")

    void(small, "000001", rejected=True)
    assert small.exceptions() == {}
    assert tell(small).charges == 1
    load(small)
    see(small)

    assert charged(small, fee) == (1300, 0)
    assert small.exceptions() == {}


def test_a_charge_may_be_made_void_when_its_credit_was_loaded_without_it(small: Bridge) -> None:
    small.campus = small.campus.model_copy(
        update={"sfs": small.campus.sfs.model_copy(update={"credit_wait_days": 0})}
    )
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    small.far.alma.raise_fee(fee.id, 300)
    tell(small)
    lose(small)
    small.far.alma.waive_at_desk(fee.id, 1300)
    tell(small)
    load(small)
    see(small)
    assert "PeopleSoft -3.00, told 0.00" in details(small)

    void(small, "000002", rejected=True)
    assert tell(small).charges == 1
    load(small)
    see(small)

    assert charged(small, fee) == (1300, 1300)
    assert small.exceptions() == {}


def test_a_missing_charge_of_a_student_with_a_missing_credit_can_be_made_void(small: Bridge) -> None:
    student = small.far.students[0]
    first = small.far.alma.add_fee(student, 1000, type="OVERDUEFINE")
    tell(small)
    load(small)
    see(small)
    small.far.alma.waive_at_desk(first.id, 400)
    second = small.far.alma.add_fee(student, 700, type="OVERDUEFINE")
    tell(small)
    for file in small.far.path("/sfs/inbound").glob("*.dat"):
        file.unlink()
    goes_on(small)
    see(small, days=4)

    assert void(small, "000002") == void(small, "000003") == 1
    tell(small)
    load(small)
    see(small)

    assert (charged(small, first), charged(small, second)) == ((1000, 400), (700, 0))
    assert small.exceptions() == {}


def test_items_that_were_merged_are_listed_and_their_charges_can_not_be_made_void_by_absence(
    small: Bridge,
) -> None:
    small.far.peoplesoft.reference_separates_items = False
    student = small.far.students[0]
    first, _ = (small.far.alma.add_fee(student, cents, type="OVERDUEFINE") for cents in (1000, 700))
    tell(small)
    load(small)
    see(small, days=4)
    assert sorted(small.exceptions()) == [f"item {first.id}", "line 000001/2"]

    with pytest.raises(Fatal, match=f"item of fee {first.id} comes to more"):
        void(small, "000001", 2)

    assert lines(small) == ["1/1 sent", "1/2 sent"]
    assert tell(small).charges == 0


def test_an_item_that_the_office_reversed_differs_and_nothing_of_it_can_be_made_void(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    small.far.peoplesoft.reverse_group(small.far.peoplesoft.loads[-1].group_id)
    see(small, days=4)

    assert small.exceptions() == {f"item {fee.id}": DIFFERS}
    with pytest.raises(Fatal, match="ask PeopleSoft's office"):
        void(small, "000001")


def test_a_list_of_days_ago_does_not_show_what_was_loaded_since(small: Bridge) -> None:
    fees(small, 1000)
    tell(small)
    see(small, days=4)
    load(small)
    small.far.clock.advance(days=4)

    with pytest.raises(Fatal, match="run the query again"):
        void(small, "000001")
    see(small)
    with pytest.raises(Fatal, match="was seen"):
        void(small, "000001")


# -- what forbids a void ---------------------------------------------------------------------------------


def test_a_charge_that_was_paid_can_not_be_made_void(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    small.far.peoplesoft.pay("ALMA" + fee.id, 300)
    small.far.write_query_output()
    small.sis_to_alma()

    with pytest.raises(Fatal, match=r"3\.00 was paid on its fee"):
        void(small, "000001", rejected=True)


def test_a_charge_whose_credit_was_sent_can_only_follow_the_credit(small: Bridge) -> None:
    small.campus = small.campus.model_copy(
        update={"sfs": small.campus.sfs.model_copy(update={"credit_wait_days": 0})}
    )
    (fee,) = fees(small, 1000)
    tell(small)
    lose(small)
    small.far.alma.waive_at_desk(fee.id, 400)
    tell(small)
    load(small)

    with pytest.raises(Fatal, match="credits were sent"):
        void(small, "000001", rejected=True)
    void(small, "000002", rejected=True)
    void(small, "000001", rejected=True)
    tell(small)
    load(small)
    see(small)

    assert charged(small, fee) == (600, 0)
    assert small.books().unequal == {}
    assert small.exceptions() == {}


def test_no_word_of_the_office_makes_void_what_the_items_take_in(small: Bridge) -> None:
    fees(small, 1000)
    tell(small)
    load(small)
    see(small)

    with pytest.raises(Fatal, match="was seen in PeopleSoft"):
        void(small, "000001", rejected=True)


def test_without_a_list_only_the_offices_word_makes_a_line_void(small: Bridge) -> None:
    fees(small, 1000)
    tell(small)
    small.far.clock.advance(days=9)
    with pytest.raises(Fatal, match="no complete list of items has come"):
        void(small, "000001")
    way = small.campus.sis_to_alma.model_copy(update={"items": None})
    small.campus = small.campus.model_copy(update={"sis_to_alma": way})
    with pytest.raises(Fatal, match=r"no list of items is set up"):
        void(small, "000001")

    assert void(small, "000001", rejected=True) == 1
    for line in (None, 1):
        with pytest.raises(Fatal, match="void"):
            void(small, "000001", line, rejected=True)


def test_what_a_list_by_a_slow_clock_shows_can_not_be_made_void(small: Bridge) -> None:
    fees(small, 1000)
    tell(small)
    load(small)
    path = small.far.path(small.far.write_query_output(kind="applied"))
    slow = small.far.clock.now().timestamp() - 7200
    os.utime(path, (slow, slow))
    small.sis_to_alma()
    assert lines(small) == ["1/1 sent"]
    assert small.exceptions() == {}

    with pytest.raises(Fatal, match="takes it in"):
        void(small, "000001", rejected=True)


def test_a_line_stands_while_another_one_of_its_fee_is_under_way(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    lose(small)
    small.far.alma.raise_fee(fee.id, 300)

    def no_server(action: str, _path: str) -> None:
        raise Retriable(f"{action}: no answer")

    small.folder = LocalFolder(small.far.root, no_server)
    with suppress(Retriable):
        tell(small)
    small.folder = LocalFolder(small.far.root)

    with pytest.raises(Fatal, match="under way"):
        void(small, "000001", rejected=True)


def test_a_batch_that_is_not_delivered_can_not_be_made_void(small: Bridge) -> None:
    fees(small, 1000)

    def no_server(action: str, _path: str) -> None:
        raise Retriable(f"{action}: no answer")

    small.folder = LocalFolder(small.far.root, no_server)
    with suppress(Retriable):
        tell(small)

    with pytest.raises(Fatal, match="is written, not delivered"):
        void(small, "000001", rejected=True)
    with pytest.raises(Fatal, match="no batch 000009"):
        void(small, "000009", rejected=True)


# -- the wait of credits ---------------------------------------------------------------------------------


def test_a_credit_waits_until_its_charge_is_seen_and_then_goes(both: Bridge) -> None:
    (fee,) = fees(both, 1000)
    tell(both)
    both.far.alma.waive_at_desk(fee.id, 400)
    assert tell(both).credits == 0
    assert both.exceptions() == {f"fee {fee.id}": WAITS}
    load(both)
    see(both)
    both.far.clock.advance(days=30)

    assert tell(both).credits == 1
    load(both)

    assert charged(both, fee) == (1000, 400)
    assert both.exceptions() == {}


def test_a_credit_waits_for_every_charge_of_its_fee(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    see(small)
    small.far.alma.raise_fee(fee.id, 500)
    tell(small)
    small.far.alma.waive_at_desk(fee.id, 900)
    assert tell(small).credits == 0
    assert small.exceptions() == {f"fee {fee.id}": WAITS}
    load(small)
    see(small)
    assert tell(small).credits == 1


def test_a_credit_waits_no_more_when_its_charge_is_made_void(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    lose(small)
    small.far.alma.waive_at_desk(fee.id, 1000)
    tell(small)
    assert small.exceptions() == {f"fee {fee.id}": WAITS}

    void(small, "000001", rejected=True)

    assert small.exceptions() == {}
    counts = tell(small)
    assert (counts.charges, counts.credits) == (0, 0)
    assert small.books().unequal == {}


def test_a_credit_goes_unseen_after_the_days_that_the_campus_chose(small: Bridge) -> None:
    small.campus = small.campus.model_copy(
        update={"sfs": small.campus.sfs.model_copy(update={"credit_wait_days": 5})}
    )
    (fee,) = fees(small, 1000)
    tell(small)
    small.far.alma.waive_at_desk(fee.id, 400)
    small.far.clock.advance(days=4.9)
    assert tell(small).credits == 0
    small.far.clock.advance(days=0.2)
    assert tell(small).credits == 1


# -- files -----------------------------------------------------------------------------------------------


def test_an_older_list_changes_nothing_that_a_newer_one_has_said(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    small.far.clock.advance(seconds=60)
    old = small.far.path(small.far.write_query_output(kind="applied"))
    content, at = old.read_bytes(), old.stat().st_mtime
    old.unlink()
    small.far.alma.raise_fee(fee.id, 500)
    tell(small)
    load(small)
    see(small)
    assert lines(small) == ["1/1 sent*", "2/1 sent*"]

    old.write_bytes(content)
    os.utime(old, (at, at))
    small.sis_to_alma()

    assert small.exceptions() == {}
    assert not old.exists()
    ledger = small.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT amount FROM item WHERE institution = :i") == 1500
    ledger.close()


def test_a_list_that_was_cut_short_lists_nothing_as_missing(both: Bridge) -> None:
    first, second = fees(both, 1000, 700)
    tell(both)
    load(both)
    see(both)
    (third,) = fees(both, 300)
    tell(both)
    load(both)
    both.far.clock.advance(days=4)
    leave(both, "short", (both.far.students[0].primary_id, first.id, "10.00"))
    both.sis_to_alma()

    assert listed(both) == ["list of items not complete"]
    assert f"lacks 1 items that were there (first: fee {second.id})" in details(both)
    with pytest.raises(Fatal, match="not 3 days after"):
        void(both, "000002", 1)
    see(both)
    assert both.exceptions() == {}
    assert lines(both) == ["1/1 sent*", "1/2 sent*", "2/1 sent*"]
    assert third.id not in both.listed_fees()


def test_a_list_cut_short_proves_no_credit_of_a_whole_charge(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    see(small)
    small.far.alma.waive_at_desk(fee.id, 1000)
    tell(small)
    lose(small)
    small.far.clock.advance(days=4)
    leave(small, "short")
    small.sis_to_alma()

    assert listed(small) == ["list of items not complete"]
    assert lines(small) == ["1/1 sent*", "2/1 sent"]


def test_a_person_may_say_that_an_item_is_truly_gone(small: Bridge) -> None:
    first, second = fees(small, 1000, 700)
    tell(small)
    load(small)
    see(small)
    row = (small.far.students[0].primary_id, first.id, "10.00")
    small.far.clock.advance(days=4)
    leave(small, "1", row)
    small.sis_to_alma()
    ledger = small.ledger("a person")
    with ledger.write() as tx:
        from alma_hook.ledger import exceptions, payments

        (item,) = exceptions.open_items(tx)
        payments.resolve(tx, item["exception_id"], "a librarian", "the office removed it")
    ledger.close()
    small.far.clock.advance(days=1)
    leave(small, "2", row)
    small.sis_to_alma()

    assert small.exceptions() == {f"item {second.id}": DIFFERS}
    assert "no longer in the list of items" in details(small)
    assert lines(small) == ["1/1 sent*", "1/2 sent*"]


def test_a_broken_list_is_refused_as_a_whole_and_a_line_that_can_not_be_read_proves_no_absence(
    small: Bridge,
) -> None:
    first, second = fees(small, 1000, 700)
    tell(small)
    load(small)
    small.far.clock.advance(days=4)
    path = leave(small, "1", (small.far.students[0].primary_id, first.id, "10.00"), end="")
    small.sis_to_alma()
    assert listed(small) == ["list of items refused"]
    assert lines(small) == ["1/1 sent", "1/2 sent"]
    path.unlink()
    leave(
        small, "2",
        (small.far.students[0].primary_id, first.id, "10.00"), (small.far.students[1].primary_id, second.id, '"7,00"'),
    )  # fmt: skip
    small.sis_to_alma()

    assert listed(small) == ["item line refused"]
    assert lines(small) == ["1/1 sent*", "1/2 sent"]
    see(small)
    assert small.exceptions() == {}


def test_two_items_of_one_fee_are_added_up(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    small.far.clock.advance(seconds=60)
    leave(small, "1", ("000000001", fee.id, "7.50"), ("000000001", fee.id, "2.50"))
    small.sis_to_alma()

    assert lines(small) == ["1/1 sent*"]


def test_without_complete_nothing_is_missed(tmp_path: Path) -> None:
    bridge = Bridge(
        tmp_path, students=4, fees=0, settings=lambda text: with_items(text).replace("complete = true\n", "")
    )
    fees(bridge, 1000, 700)
    bridge.far.peoplesoft.emplids.discard(bridge.far.students[0].primary_id)
    tell(bridge)
    load(bridge)
    see(bridge, days=9)

    assert lines(bridge) == ["1/1 sent", "1/2 sent*"]
    assert bridge.exceptions() == {}
    with pytest.raises(Fatal, match="no complete list"):
        void(bridge, "000001", 1)


def test_the_same_list_written_again_holds_until_then(small: Bridge) -> None:
    _, second = fees(small, 1000, 700)
    small.far.peoplesoft.emplids.discard(small.far.students[0].primary_id)
    tell(small)
    load(small)
    row = (small.far.students[1].primary_id, second.id, "7.00")
    small.far.clock.advance(days=1)
    leave(small, "fixed", row)
    small.sis_to_alma()
    assert small.exceptions() == {}
    small.far.clock.advance(days=3)
    leave(small, "fixed", row)
    small.sis_to_alma()

    assert small.exceptions() == {"line 000001/1": NOT_SEEN}


def test_a_clock_that_is_ahead_makes_nothing_overdue(small: Bridge) -> None:
    fees(small, 1000)
    tell(small)
    path = leave(small, "ahead")
    ahead = small.far.clock.now().timestamp() + 9 * 86_400
    os.utime(path, (ahead, ahead))
    small.sis_to_alma()

    assert small.exceptions() == {}


@pytest.mark.parametrize("die_at", range(1, 12))
def test_a_death_at_any_step_leaves_nothing_half_done(die_at: int, small: Bridge) -> None:
    fees(small, 1000, 700)
    small.far.peoplesoft.emplids.discard(small.far.students[0].primary_id)
    tell(small)
    load(small)
    small.far.clock.advance(days=4)
    small.far.write_query_output(kind="applied")
    steps = 0

    class Death(BaseException):
        """The worker's process is gone."""

    def dying(_action: str, _path: str) -> None:
        nonlocal steps
        steps += 1
        if steps == die_at:
            raise Death

    small.folder = LocalFolder(small.far.root, dying)
    with suppress(Death):
        small.sis_to_alma()
    small.folder = LocalFolder(small.far.root)
    small.far.clock.advance(hours=1)
    small.sis_to_alma()

    assert lines(small) == ["1/1 sent", "1/2 sent*"]
    assert small.exceptions() == {"line 000001/1": NOT_SEEN}
    assert list(small.far.path("/sfs/outbound").glob("*.csv")) == []


# -- by hand ---------------------------------------------------------------------------------------------


def test_the_commands(small: Bridge, capsys: pytest.CaptureFixture[str]) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    see(small, days=4)
    options = ["--settings", str(small.file), "--ledger", small.url]

    assert command_line.main(["unconfirmed", *options]) == 0
    said = capsys.readouterr().out
    assert f"000001 line 1  alma_charges_000001.dat  charge 10.00  fee {fee.id}  delivered " in said
    assert "NOT SEEN" in said
    assert small.far.students[0].primary_id not in said
    assert command_line.main(["void", "000001", "--reason", " ", *options]) == 1
    assert command_line.main(["void", "000001", "--line", "7", "--reason", "x", *options]) == 1
    capsys.readouterr()
    said_so = ["void", "000001", "--line", "1", "--reason", "inactive item type", "--rejected"]
    assert command_line.main([*said_so, *options]) == 0
    assert capsys.readouterr().out.startswith("1 lines of batch 000001 are void")
    assert command_line.main(["explain", fee.id, *options]) == 0
    assert "inactive item type" in capsys.readouterr().out
    assert command_line.main(["unconfirmed", *options]) == 0
    assert capsys.readouterr().out.startswith("0 lines not seen yet")


# -- the sum of the first lines --------------------------------------------------------------------------

DAYS = [f"2026-11-{day:02d}T08:00:00.000Z" for day in range(1, 29)]
steps = st.lists(st.integers(-3, 3).filter(bool), max_size=7)  # few amounts, so that sums often meet


def sent(cents: list[int], confirmed: int = 0) -> list[Sent]:
    """A fee's life: each line a day after the other, never credited below nought."""
    made: list[Sent] = []
    told = 0
    for value in cents:
        if told + value < 0:
            continue
        told += value
        kind = "charge" if value > 0 else "credit"
        made.append(Sent("000001", len(made) + 1, kind, abs(value), DAYS[len(made)], len(made) < confirmed))
    return made


@settings(deadline=None)
@given(cents=steps, data=st.data())
def test_what_was_loaded_is_seen_and_no_money_that_was_not(cents: list[int], data: Any) -> None:
    lines = sent(cents)
    loaded = data.draw(st.integers(0, len(lines)), "loaded")
    delivered = data.draw(st.integers(loaded, len(lines)), "delivered")
    sums = list(accumulate((line.cents for line in lines), initial=0))

    verdict = judge(lines, sums[loaded], loaded > 0, DAYS[delivered], 3)

    assert verdict.told == sums[delivered]
    if verdict.seen is None:
        # An item that comes to nought, and a charge after that which is long overdue.
        assert sums[loaded] == 0
        return
    assert sums[verdict.seen] == sums[loaded]
    assert loaded <= verdict.seen <= delivered
    assert list(verdict.confirmed) == lines[: verdict.seen]
    assert all(line in lines[verdict.seen : delivered] for line in verdict.overdue)
    assert all(str(line.delivered_at) < DAYS[max(delivered - 3, 0)] for line in verdict.overdue)


@settings(deadline=None)
@given(cents=steps, data=st.data())
def test_a_line_that_was_left_out_is_never_confirmed_with_another_sum(cents: list[int], data: Any) -> None:
    lines = sent(cents)
    loaded = [line for line in lines if data.draw(st.booleans(), "loaded")]
    amount = sum(line.cents for line in loaded)

    verdict = judge(lines, amount, bool(loaded), DAYS[len(lines)], 3)

    if verdict.seen is not None:
        assert sum(line.cents for line in lines[: verdict.seen]) == amount
        if not loaded:
            assert verdict.confirmed == ()


@settings(deadline=None)
@given(cents=steps, data=st.data())
def test_what_was_seen_once_stays_seen(cents: list[int], data: Any) -> None:
    number = len(sent(cents))
    before = data.draw(st.integers(0, number), "seen before")
    lines = sent(cents, confirmed=before)
    amount = data.draw(st.integers(-6, 12), "amount")

    verdict = judge(lines, amount, data.draw(st.booleans(), "present"), DAYS[number], 3)

    assert verdict.seen is None or verdict.seen >= before
    assert not any(line.confirmed for line in verdict.confirmed + verdict.overdue)


def test_an_item_that_was_there_and_is_left_out_at_nought_was_credited() -> None:
    lines = [
        Sent("000001", 1, "charge", 1000, DAYS[0], True),
        Sent("000002", 1, "charge", 500, DAYS[1], False),
        Sent("000003", 1, "credit", 1500, DAYS[2], False),
    ]

    assert judge(lines, 0, False, DAYS[9], 3).confirmed == tuple(lines[1:])


def test_a_line_under_way_may_be_in_the_list_already() -> None:
    lines = [Sent("000001", 1, "charge", 1000, DAYS[0], True), Sent("000002", 1, "charge", 300, None, False)]

    verdict = judge(lines, 1300, True, DAYS[5], 3)

    assert (verdict.seen, verdict.confirmed, verdict.overdue) == (2, (), ())


# -- lists that are no longer asked for -------------------------------------------------------------------


def test_a_list_found_before_items_were_switched_off_is_taken_for_nothing_else(small: Bridge) -> None:
    (fee,) = fees(small, 1000)
    tell(small)
    load(small)
    small.far.clock.advance(seconds=60)
    small.far.write_query_output(kind="applied")
    with small.working("back") as (ledger, lease):
        small.tasks_back()[0][1](ledger, lease)
    whole = small.campus
    without = whole.sis_to_alma.model_copy(update={"items": None})
    small.campus = whole.model_copy(update={"sis_to_alma": without})

    taken, _ = small.sis_to_alma()

    assert (taken.files, taken.lists, taken.files_refused, small.exceptions()) == (0, 0, 0, {})
    small.campus = whole
    taken, _ = small.sis_to_alma()
    assert (taken.lists, taken.confirmed) == (1, 1)
    assert small.books().fees[fee.id].charged_cents == 1000
