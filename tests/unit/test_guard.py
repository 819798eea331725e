"""Ledgers that are old, lost, copied or pointed elsewhere: nothing leaves; and how one is brought back."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from alma_hook import campus, confirmations, guard
from alma_hook.errors import BadFile, LedgerError, SendingStopped
from alma_hook.ledger import batches, exceptions, institutions, story
from alma_hook.ledger import guard as entries
from alma_hook.ledger.payments import IDENTITY
from alma_hook.ledger.store import LEASE_MINUTES
from alma_hook.repair import RepairCounts, repair
from simulator.alma import NOT_AT_DESK
from tests.bridge import Bridge, Variable
from tests.conftest import MakeBridge
from tests.unit.test_applied import by_level
from tests.unit.test_confirmations import with_items
from tests.unit.test_reversals import cumulative

ARCHIVE = "/sfs/archive"


@pytest.fixture
def lived(make_bridge: MakeBridge) -> Bridge:
    """A campus after some days: charges and credits sent, payments posted, a payment file archived."""
    bridge = make_bridge(students=8, fees=12)
    a_round(bridge)
    bridge.far.waives(2)
    bridge.far.new_fees(2)
    a_round(bridge)
    return bridge


def a_round(bridge: Bridge) -> None:
    """A day: fees go out, some are paid, payments come back."""
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    bridge.far.students_pay(0.3)
    bridge.far.clock.advance(hours=6)
    bridge.far.write_query_output(cumulative=False)
    bridge.sis_to_alma()


def database(bridge: Bridge) -> Path:
    return Path(bridge.url.removeprefix("sqlite:///"))


def copied(bridge: Bridge, name: str = "copy.db") -> Path:
    """A copy of the ledger as it stands, as a backup makes it."""
    copy = database(bridge).with_name(name)
    ledger = bridge.ledger("backup")
    with ledger.engine.connect() as connection:
        connection.exec_driver_sql(f"VACUUM INTO '{copy}'")
    ledger.close()
    return copy


def put_back(bridge: Bridge, copy: Path) -> None:
    for file in database(bridge).parent.glob(f"{database(bridge).name}*"):
        file.unlink()
    shutil.copyfile(copy, database(bridge))


def lose(bridge: Bridge, *, opened: bool = True) -> None:
    """The ledger is gone, and somebody makes a new one."""
    for file in database(bridge).parent.glob(f"{database(bridge).name}*"):
        file.unlink()
    ledger = bridge.ledger("setup")
    ledger.migrate()
    if opened:
        with ledger.write() as tx:
            institutions.open_clean(tx, "somebody")
    ledger.close()


def takes_in(bridge: Bridge) -> None:
    """PeopleSoft's output is taken in, and nothing more."""
    with bridge.working("back") as (ledger, lease):
        for _, work in bridge.tasks_back()[:2]:
            work(ledger, lease)


def only_rehearsed(bridge: Bridge) -> None:
    """The ledger is as dry runs beside another process leave it: nothing of it was ever sent."""
    lose(bridge, opened=False)
    for file in bridge.folder.files(ARCHIVE, "*"):
        bridge.folder.path(f"{ARCHIVE}/{file.name}").unlink()
    bridge.marks[0] = Variable()
    takes_in(bridge)


def opened(bridge: Bridge) -> None:
    """The campus begins."""
    with bridge.ledger("setup").write() as tx:
        institutions.open_clean(tx, "the bursar")


def repaired(bridge: Bridge) -> RepairCounts:
    ledger = bridge.ledger("repair")
    with ledger.lease("out", "repair") as out, ledger.lease("back", "repair") as back:
        counts = repair(ledger, out, back, bridge.campus, bridge.folder, bridge.folder, bridge.api)
    ledger.close()
    return counts


def in_peoplesoft(bridge: Bridge) -> Counter[str]:
    """How often each file was loaded."""
    bridge.far.load_inbound()
    return Counter(load.file_name for load in bridge.far.peoplesoft.loads)


def stopped(bridge: Bridge, *texts: str) -> None:
    """Neither way moves anything, and both say these things."""
    loads, paid = in_peoplesoft(bridge), posted(bridge)
    bridge.far.new_fees(1)
    bridge.far.students_pay(0.5)
    bridge.far.write_query_output()
    for run in (lambda: bridge.alma_to_sis("all_users"), bridge.sis_to_alma):
        with pytest.raises(SendingStopped) as caught:
            run()
        for text in texts:
            assert text in str(caught.value)
    assert in_peoplesoft(bridge) == loads
    assert posted(bridge) == paid


def posted(bridge: Bridge) -> Counter[str | None]:
    """The external ids of payments that Alma got from us."""
    return Counter(
        t.external_transaction_id
        for fee in bridge.far.alma.fees.values()
        for t in fee.transactions
        if t.received_by == NOT_AT_DESK
    )


def settle(bridge: Bridge) -> None:
    """Runs until nothing moves; then the books agree, and nothing was done twice."""
    for _ in range(3):
        bridge.far.clock.advance(hours=1)
        a_round(bridge)
    bridge.far.write_query_output()
    bridge.sis_to_alma()
    bridge.alma_to_sis("all_users")
    assert set(in_peoplesoft(bridge).values()) == {1}
    assert set(posted(bridge).values()) == {1}
    assert bridge.unexplained() == {}


# -- marks ----------------------------------------------------------------------------------------------


def test_a_ledger_knows_its_own_marks(lived: Bridge) -> None:
    assert lived.marks[0].read() is not None
    assert lived.marks[1].read() is not None
    settle(lived)


def test_an_older_copy_sends_nothing(lived: Bridge) -> None:
    copy = copied(lived)
    lived.far.new_fees(3)
    a_round(lived)
    put_back(lived, copy)
    stopped(lived, "older copy", "alma_hook repair")


def test_an_older_copy_of_an_hour_without_deliveries_is_told_by_its_payments(lived: Bridge) -> None:
    copy = copied(lived)
    lived.far.students_pay(0.5)
    lived.far.write_query_output()
    lived.sis_to_alma()
    put_back(lived, copy)
    stopped(lived, "older copy")


@pytest.mark.parametrize("opened", [True, False])
def test_an_empty_ledger_sends_nothing(lived: Bridge, opened: bool) -> None:
    lose(lived, opened=opened)
    stopped(lived, "never put")


def test_of_two_live_copies_neither_goes_on(lived: Bridge) -> None:
    copy = copied(lived)
    original = lived.url
    lived.far.new_fees(1)
    lived.url = f"sqlite:///{copy}"
    a_round(lived)
    stopped_at = in_peoplesoft(lived)
    lived.url = original
    stopped(lived, "second one at work")
    assert in_peoplesoft(lived) == stopped_at


@pytest.mark.parametrize("torn", [b"", b'{"mark": "12'])
@pytest.mark.parametrize("place", [0, 1])
def test_a_torn_mark_in_one_place_stops_nothing(lived: Bridge, place: int, torn: bytes) -> None:
    lived.marks[place].write(torn)
    settle(lived)


def test_a_torn_mark_does_not_let_an_empty_ledger_in(lived: Bridge) -> None:
    lived.marks[0].text = None  # type: ignore[attr-defined]
    lived.marks[1].write(b"{")
    lose(lived)
    with pytest.raises(SendingStopped, match="never put"):
        lived.alma_to_sis("all_users")


def test_marks_that_are_gone_stop_all_until_a_person_says_so(lived: Bridge) -> None:
    lived.marks[0].text = None  # type: ignore[attr-defined]
    lived.folder.path(f"{ARCHIVE}/ledger_01CAMPUS_INST.mark").unlink()
    stopped(lived, "is gone", "rebind marks")
    ledger = lived.ledger("a person")
    with ledger.write() as tx:
        assert entries.unbind(tx, "marks", "the folder was moved")
    ledger.close()
    settle(lived)


@pytest.mark.parametrize("word", ["repair", "rebind"])
def test_a_copy_from_before_a_persons_word_was_used_is_an_older_copy(lived: Bridge, word: str) -> None:
    """What was accepted is what stood outside then, not what a newer ledger has put there since."""
    if word == "repair":
        repaired(lived)
    else:
        with closing(lived.ledger("by hand")) as ledger, ledger.write() as tx:
            entries.unbind(tx, "marks", "the folder was moved")
    copy = copied(lived)
    lived.far.clock.advance(hours=1)
    lived.far.new_fees(3)
    a_round(lived)
    put_back(lived, copy)
    stopped(lived, "a mark that this ledger never put")


def test_a_persons_word_is_good_for_once(lived: Bridge) -> None:
    copy = copied(lived)
    a_round(lived)
    put_back(lived, copy)
    ledger = lived.ledger("a person")
    with ledger.write() as tx:
        entries.unbind(tx, "marks", "meant for today")
    guard.check(ledger, lived.marks)
    guard.check(ledger, lived.marks)  # what stood there is known now
    lived.marks[0].write(b'{"mark": "of another ledger"}')
    with pytest.raises(SendingStopped):
        guard.check(ledger, lived.marks)
    ledger.close()


class DyingPlace(Variable):
    """A place whose n-th writing or reading is the worker's last."""

    def __init__(self, at: int) -> None:
        self.at = at

    def read(self) -> bytes | None:
        self._step()
        return super().read()

    def write(self, text: bytes) -> None:
        self._step()
        super().write(text)
        self._step()

    def _step(self) -> None:
        self.at -= 1
        if self.at == 0:
            raise ConnectionError


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("first_time", [True, False])
def test_a_death_while_the_mark_is_put_stops_nobody_afterwards(
    make_bridge: MakeBridge, at: int, first_time: bool
) -> None:
    bridge = make_bridge(students=2)
    ledger = bridge.ledger("r")
    places: list[Any] = [DyingPlace(0), Variable()]
    if not first_time:
        guard.advance(ledger, places)
    places[0].at = at
    with pytest.raises(ConnectionError):
        guard.advance(ledger, places)
    guard.advance(ledger, places)
    guard.check(ledger, places)
    ledger.close()


def test_of_two_ledgers_that_mark_at_once_one_finds_the_other(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(students=2)
    ledger = bridge.ledger("r")

    class Contested(Variable):
        def write(self, text: bytes) -> None:
            super().write(b'{"mark": "another\'s"}')

    with pytest.raises(SendingStopped, match="second one"):
        guard.advance(ledger, [Contested()])
    ledger.close()


# -- what the ledger is bound to ----------------------------------------------------------------------


def bound(bridge: Bridge, alma: Any) -> None:
    ledger = bridge.ledger("r")
    try:
        guard.bind_alma(ledger, alma)
    finally:
        ledger.close()


def test_the_sandbox_of_the_same_institution_is_not_taken_for_production(lived: Bridge) -> None:
    lived.far.alma.environment = "PRODUCTION"
    bound(lived, lived.api)
    bound(lived, lived.api)
    lived.far.alma.environment = "SANDBOX"
    with pytest.raises(SendingStopped, match=r"PRODUCTION since .* and what it meets now is SANDBOX"):
        bound(lived, lived.api)


def test_a_key_that_can_not_tell_is_refused_where_one_could(lived: Bridge) -> None:
    bound(lived, lived.api)
    lived.far.faults.add_http("refuse", path="/conf/general", times=None)
    with pytest.raises(SendingStopped, match="not to be told"):
        bound(lived, lived.api)


def test_without_the_configuration_area_the_latest_payments_are_the_witness(
    lived: Bridge, make_bridge: MakeBridge, tmp_path: Path
) -> None:
    lived.far.faults.add_http("refuse", path="/conf/general", times=None)
    bound(lived, lived.api)
    # A sandbox: the same users and fees, of a time when none of the payments was made.
    for fee in lived.far.alma.fees.values():
        fee.transactions = [t for t in fee.transactions if t.received_by != NOT_AT_DESK]
    with pytest.raises(SendingStopped, match="None of the latest 3 payments"):
        bound(lived, lived.api)


def test_a_purged_user_is_no_sign_of_another_alma(lived: Bridge) -> None:
    lived.far.faults.add_http("refuse", path="/conf/general", times=None)
    ledger = lived.ledger("look")
    with ledger.read() as tx:
        newest = tx.one(
            "SELECT fee_id FROM payment WHERE institution = :i ORDER BY marked_at DESC, payment_no DESC"
        )
    ledger.close()
    lived.far.alma.purge_user(lived.far.alma.fees[newest].user.primary_id)
    bound(lived, lived.api)


def test_before_the_first_payment_there_is_no_witness_to_ask_for(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(students=3, fees=3)
    bridge.far.faults.add_http("refuse", path="/conf/general", times=None)
    bound(bridge, bridge.api)
    bridge.far.faults.clear()
    bridge.far.alma.environment = "PRODUCTION"
    bound(bridge, bridge.api)
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        assert entries.bindings(tx) == {"the Alma environment": "PRODUCTION"}
    ledger.close()


def test_another_host_key_stops_the_delivery(lived: Bridge) -> None:
    lived.far.new_fees(1)
    lived.folder.host_key = "SHA256:another"
    with pytest.raises(SendingStopped, match="SFTP host key of"):
        lived.alma_to_sis("all_users")
    ledger = lived.ledger("a person")
    with ledger.write() as tx:
        assert entries.unbind(tx, "SFTP host key of sftp.campus.invalid:22", "the server was renewed")
        assert not entries.unbind(tx, "nothing of the kind", "?")
    ledger.close()
    settle(lived)


# -- repair -----------------------------------------------------------------------------------------------


def test_a_ledger_deleted_in_mid_life_is_rebuilt(lived: Bridge) -> None:
    ledger = lived.ledger("look")
    with ledger.read() as tx:
        before = positions(tx)
    ledger.close()
    # Paid before the loss, taken in and archived, never posted; and paid during the outage.
    lived.far.students_pay(0.3)
    lose(lived, opened=False)

    counts = repaired(lived)

    assert counts.unconfirmed == counts.accounts_gone == 0
    assert counts.batches == counts.added > 0
    assert counts.payments == sum(posted(lived).values()) > 0
    ledger = lived.ledger("look")
    with ledger.read() as tx:
        assert {f: p for f, p in positions(tx).items() if p != (0, 0, 0)} == {
            f: p for f, p in before.items() if p != (0, 0, 0)
        }
    ledger.close()
    settle(lived)


def positions(tx: Any) -> dict[str, tuple[int, int, int]]:
    return {
        row["fee_id"]: (row["charged"], row["credited"], row["posted"])
        for row in tx.rows("SELECT * FROM fee_position WHERE institution = :i")
    }


def test_a_repair_may_be_run_again(lived: Bridge) -> None:
    lose(lived)
    repaired(lived)
    again = repaired(lived)
    assert (again.added, again.payments) == (0, 0)
    settle(lived)


def test_an_older_copy_is_brought_up_to_date(lived: Bridge) -> None:
    copy = copied(lived)
    lived.far.new_fees(3)
    lived.far.waives(1)
    a_round(lived)
    put_back(lived, copy)
    counts = repaired(lived)
    assert counts.batches > counts.added > 0
    settle(lived)


def test_a_batch_whose_end_is_not_noted_is_left_to_a_person(lived: Bridge) -> None:
    lived.far.new_fees(2)
    lived.alma_to_sis("all_users")
    (note,) = sorted(lived.folder.path(ARCHIVE).glob("*charges*.state"))[-1:]
    note.unlink()
    lose(lived)
    assert repaired(lived).unconfirmed == 1
    with lived.working("out") as (ledger, lease):
        with ledger.read() as tx:
            (row,) = batches.in_states(tx, "unconfirmed")
        with ledger.write(lease) as tx:
            batches.deliver(tx, row["batch_id"], "unconfirmed")
    settle(lived)


@pytest.mark.parametrize("noted", [True, False])
def test_a_copy_from_before_an_upload_learns_of_it(lived: Bridge, noted: bool) -> None:
    """The copy has the batch itself, so it would send it: the archive says that it went, or may have."""
    lived.far.new_fees(2)
    with lived.working("out") as (ledger, lease):
        *before, upload = lived.tasks_out("all_users")
        for _, work in before:
            work(ledger, lease)
        copy = copied(lived)
        upload[1](ledger, lease)
    if not noted:
        max(lived.folder.path(ARCHIVE).glob("*charges*.state")).unlink()
    put_back(lived, copy)
    lived.far.clock.advance(seconds=60 * (LEASE_MINUTES + 1))
    for _ in range(2):
        repaired(lived)
        doubts = [kind for kind in lived.exceptions().values() if kind == "batch unconfirmed"]
        assert len(doubts) == (0 if noted else 1)
    if not noted:
        with lived.working("out") as (ledger, lease), ledger.write(lease) as tx:
            (row,) = batches.in_states(tx, "unconfirmed")
            batches.deliver(tx, row["batch_id"], "unconfirmed")
    settle(lived)


def test_a_users_new_id_is_followed(lived: Bridge) -> None:
    lived.far.students_pay(1, in_part=1)
    lived.far.write_query_output()
    lived.sis_to_alma()
    lose(lived)
    fee = next(
        fee
        for fee in lived.far.alma.fees.values()
        if fee.status == "ACTIVE" and any(t.received_by == NOT_AT_DESK for t in fee.transactions)
    )
    lived.far.alma.rekey_user(fee.user.primary_id, "re.keyed@campus.invalid")
    assert repaired(lived).accounts_gone == 1
    # What the archive calls the user Alma does not know; a run meets the fee under its new one.
    before = in_peoplesoft(lived)
    lived.alma_to_sis("all_users")
    assert lived.exceptions()[f"fee {fee.id}"] == "payments in Alma differ from those posted"
    lived.sis_to_alma()
    lived.alma_to_sis("all_users")
    assert in_peoplesoft(lived) == before
    assert set(posted(lived).values()) == {1}
    assert f"fee {fee.id}" not in lived.exceptions()


def test_a_users_new_id_is_followed_where_no_file_tells_of_his_payments(lived: Bridge) -> None:
    lived.far.students_pay(1, in_part=1)
    lived.far.write_query_output()
    lived.sis_to_alma()
    lose(lived)
    for file in lived.folder.path("/sfs/outbound/archive").glob("*"):
        file.unlink()
    fee = next(
        fee
        for fee in lived.far.alma.fees.values()
        if fee.status == "ACTIVE" and any(t.received_by == NOT_AT_DESK for t in fee.transactions)
    )
    lived.far.alma.rekey_user(fee.user.primary_id, "re.keyed@campus.invalid")
    assert repaired(lived).accounts_gone == 1
    with pytest.raises(SendingStopped, match="does not know"):
        lived.alma_to_sis("all_users")
    assert repaired(lived).payments > 0
    lived.alma_to_sis("all_users")
    assert set(posted(lived).values()) == {1}


def test_faults_of_the_archive_are_told_all_at_once_and_nothing_is_changed(lived: Bridge) -> None:
    archive = lived.folder.path(ARCHIVE)
    files = sorted(archive.glob("*.dat"))
    files[0].write_bytes(b"other bytes")
    files[1].unlink()
    manifest = archive / f"{files[2].name}.manifest.csv"
    manifest.write_bytes(manifest.read_bytes()[:-30])
    lose(lived)
    with pytest.raises(BadFile) as caught:
        repaired(lived)
    assert len(caught.value.faults) == 3
    ledger = lived.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM batch") == 0
    ledger.close()


def test_another_campuss_files_in_the_same_archive_are_left_alone(lived: Bridge) -> None:
    archive = lived.folder.path(ARCHIVE)
    (manifest,) = sorted(archive.glob("*.manifest.csv"))[:1]
    other = manifest.read_text().replace("01CAMPUS_INST", "01OTHER_INST")
    (archive / "other_charges_000001.dat").write_bytes(b"-")
    (archive / "other_charges_000001.dat.manifest.csv").write_text(other)
    lose(lived)
    repaired(lived)
    settle(lived)


def test_a_batch_of_the_same_number_with_other_lines_is_refused(lived: Bridge) -> None:
    ledger = lived.ledger("elsewhere")
    with ledger.write() as tx:
        tx.run(
            "UPDATE line SET amount = amount + 1 WHERE institution = :i AND batch_id = '000001' AND line_no = 1"
        )
    ledger.close()
    with pytest.raises(LedgerError, match="two ledgers"):
        repaired(lived)


def test_a_standby_that_lags_by_any_of_a_runs_moments_sends_nothing_again(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    copies: list[Path] = []

    def before(action: str, path: str) -> None:
        if action != "list":
            copies.append(copied(bridge, f"{len(copies)}.db"))

    bridge.folder.before = before
    bridge.alma_to_sis("all_users")
    bridge.folder.before = lambda _action, _path: None
    assert bridge.books().fees[fee.id].charged_cents == 0
    bridge.far.load_inbound()
    assert len(copies) > 10

    stopped = 0
    marks = [place.read() for place in bridge.marks]
    for copy in copies:
        put_back(bridge, copy)
        for place, mark in zip(bridge.marks, marks, strict=True):
            assert mark is not None
            place.write(mark)
        try:
            for _ in range(2):
                bridge.far.clock.advance(hours=1)
                bridge.alma_to_sis("all_users")
        except SendingStopped:
            stopped += 1
        bridge.far.load_inbound()
        assert bridge.books().fees[fee.id].charged_cents == 1000
    assert 0 < stopped < len(copies)


def test_an_overpayment_found_again_is_listed(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(students=3, fees=6)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    assert bridge.far.overpay(1) == 1
    bridge.far.write_query_output()
    bridge.sis_to_alma()
    before = bridge.exceptions()
    assert "paid more than Alma's balance" in before.values()
    lose(bridge)
    repaired(bridge)
    bridge.sis_to_alma()
    assert "paid more than Alma's balance" in bridge.exceptions().values()
    assert set(posted(bridge).values()) == {1}


def test_a_payment_taken_in_and_never_posted_is_posted_after_the_repair(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(students=3, fees=7)
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    bridge.far.students_pay(1, in_part=0)
    bridge.far.write_query_output(cumulative=False)
    bridge.far.faults.add_http("fail_before", method="POST", path="/fees", times=None)
    bridge.sis_to_alma()
    bridge.far.faults.clear()
    assert posted(bridge) == Counter()
    lose(bridge)
    repaired(bridge)
    bridge.far.clock.advance(hours=1)
    bridge.sis_to_alma()
    bridge.alma_to_sis()
    assert sum(posted(bridge).values()) > 0
    assert bridge.unexplained() == {}


def test_what_the_empty_ledger_took_in_before_the_repair_counts_as_posted_where_alma_has_it(
    make_bridge: MakeBridge,
) -> None:
    bridge = make_bridge(
        students=3,
        fees=7,
        settings=lambda text: text.replace("[sis_to_alma]", "[sis_to_alma]\ncumulative = true"),
    )
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    bridge.far.overpay(1)
    bridge.far.write_query_output()
    bridge.sis_to_alma()
    lose(bridge)
    bridge.far.clock.advance(hours=1)
    bridge.far.write_query_output()
    with pytest.raises(SendingStopped):
        bridge.sis_to_alma()
    (payment,) = bridge.far.peoplesoft.payments.values()
    paid = bridge.books().fees[payment.reference.removeprefix("ALMA")].charged_cents
    repaired(bridge)
    assert list(bridge.exceptions().values()).count("paid more than Alma's balance") == 1
    bridge.far.peoplesoft.bounce(payment.payment_id)
    for _ in range(2):
        bridge.far.clock.advance(hours=24)
        bridge.far.write_query_output()
        bridge.sis_to_alma()
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()

    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        listed = {row["kind"]: int(row["amount"]) for row in exceptions.open_items(tx)}
    ledger.close()
    assert listed["payment taken back in PeopleSoft"] == paid
    assert "payments in Alma differ from those posted" not in listed
    assert "paid more than Alma's balance" not in listed
    assert set(posted(bridge).values()) == {1}


@pytest.mark.parametrize("by_the_empty_one", [True, False])
def test_taken_back_in_part_while_the_ledger_was_lost_is_listed_after_the_repair(
    by_the_empty_one: bool, make_bridge: MakeBridge
) -> None:
    bridge = make_bridge(students=3, fees=7)
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    bridge.far.students_pay(0.2, in_part=0)
    (payment,) = bridge.far.peoplesoft.payments.values()
    path = bridge.far.write_query_output()
    bridge.sis_to_alma()
    for file in bridge.far.path("/sfs/outbound/archive").glob(f"*{Path(path).name}"):
        file.unlink()  # the file that told of all of it is gone, too
    lose(bridge)
    bridge.far.peoplesoft.bounce(payment.payment_id, 55)
    bridge.far.clock.advance(hours=1)
    if by_the_empty_one:
        bridge.far.write_query_output()
        with pytest.raises(SendingStopped):
            bridge.sis_to_alma()
    repaired(bridge)
    for _ in range(3):
        bridge.far.clock.advance(hours=24)
        bridge.far.write_query_output()
        bridge.sis_to_alma()
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()

    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        listed = {row["kind"]: int(row["amount"]) for row in exceptions.open_items(tx)}
    ledger.close()
    assert listed["payment taken back in PeopleSoft"] == 55
    assert bridge.balances()["unexplained"] == 0


def test_a_batch_in_doubt_stays_listed_until_a_person_says_what_became_of_it(lived: Bridge) -> None:
    lived.far.new_fees(2)

    def gone_after_the_upload(action: str, path: str) -> None:
        if action == "written" and path.endswith(".part"):
            lived.folder.path(path).unlink()

    lived.folder.before = gone_after_the_upload
    lived.alma_to_sis("all_users")
    lived.folder.before = lambda _action, _path: None
    (subject,) = [s for s, kind in lived.exceptions().items() if kind == "batch unconfirmed"]
    with lived.working("out") as (ledger, lease), ledger.write(lease) as tx:
        batches.drop(tx, subject.removeprefix("batch "), "unconfirmed")
    assert subject not in lived.exceptions()
    settle(lived)


def test_lines_made_void_stay_void_after_a_repair(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=with_items)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.alma_to_sis("all_users")
    for file in bridge.far.path("/sfs/inbound").glob("*.dat"):
        file.unlink()  # PeopleSoft never loads it
    with bridge.working("out") as (ledger, lease):
        assert confirmations.void(ledger, lease, "000001", None, "asked", rejected=True, settings=None) == 1
    bridge.alma_to_sis("all_users")
    lose(bridge)
    repaired(bridge)
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        assert positions(tx) == {fee.id: (1000, 0, 0)}
    ledger.close()
    bridge.far.load_inbound()
    assert bridge.alma_to_sis("all_users").charges == 0
    assert bridge.books().peoplesoft_cents == 1000


# -- payments told apart -----------------------------------------------------------------------------------


def without_ids(text: str) -> str:
    """Payments told apart by their line."""
    days = text.replace("[sis_to_alma]\n", "[sis_to_alma]\ncomplete_days = true\n")
    return days.replace('payment_id = "Payment ID"\n', "")


def with_settings(bridge: Bridge, before: str, after: str) -> None:
    """The campus changes its settings."""
    text = bridge.file.read_text()
    assert before in text
    bridge.file.write_text(text.replace(before, after))
    bridge.campus = campus.load(bridge.file)


@pytest.mark.parametrize(
    ("by", "before", "after"),
    [
        ("id", 'payment_id = "Payment ID"', 'payment_id = "Item Type"'),
        ("id", "[sfs]\n", '[sfs]\nreference_prefix = "ALMA0"\n'),
        ("line", "[sis_to_alma]\n", '[sis_to_alma]\ndate_format = "%d/%m/%Y"\n'),
        ("line", 'emplid = "Emplid"', 'emplid = "Payment ID"'),
        ("applied", "[sfs]\n", '[sfs]\nreference_prefix = "ALMA0"\n'),
    ],
)
def test_settings_that_would_make_known_payments_new_ones_stop_the_intake(
    tmp_path: Path, by: str, before: str, after: str
) -> None:
    shape = {"id": cumulative, "line": without_ids, "applied": by_level}[by]
    bridge = Bridge(tmp_path, students=2, fees=0, settings=shape)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 300)
    kind = "applied" if by == "applied" else "payments"
    bridge.far.write_query_output(kind=kind)
    bridge.sis_to_alma()
    paid = posted(bridge)
    with_settings(bridge, before, after)
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output(kind=kind)
    with pytest.raises(SendingStopped, match="rebind 'payments told apart by'"):
        bridge.sis_to_alma()
    with_settings(bridge, after, before)
    bridge.sis_to_alma()
    assert posted(bridge) == paid
    assert bridge.exceptions() == {}


def test_another_heading_for_the_same_ids_goes_on_by_a_persons_word(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=2, fees=0, settings=cumulative)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 300)
    for heading in ("Payment ID", "Pymt Nbr"):
        path = bridge.folder.path(bridge.far.write_query_output())
        path.write_text(path.read_text().replace("Payment ID", heading))
        if heading == "Pymt Nbr":
            with_settings(bridge, '"Payment ID"', f'"{heading}"')
            with bridge.ledger("by hand").write() as tx:
                assert entries.unbind(tx, IDENTITY, "PeopleSoft's query was made anew")
        bridge.sis_to_alma()
        bridge.far.clock.advance(hours=24)
    assert set(posted(bridge).values()) == {1}
    assert bridge.exceptions() == {}


@pytest.mark.parametrize("by", ["payments", "applied"])
def test_payments_that_dry_runs_took_in_are_never_posted_once_the_books_are_opened(
    tmp_path: Path, by: str
) -> None:
    shape = by_level if by == "applied" else cumulative
    bridge = Bridge(tmp_path, students=2, fees=0, settings=shape)
    # The former process charges by the same reference and students pay; then the books are opened.
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    first = bridge.far.peoplesoft.pay(f"ALMA{fee.id}", 300)
    bridge.far.write_query_output(kind=by)
    only_rehearsed(bridge)
    assert set(bridge.exceptions()) == set()
    opened(bridge)

    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output(kind=by)
    bridge.sis_to_alma()
    assert posted(bridge) == Counter()
    bridge.far.peoplesoft.bounce(first[0].payment_id)
    for _ in range(2):
        bridge.far.clock.advance(hours=24)
        bridge.far.write_query_output(kind=by)
        bridge.sis_to_alma()
    bridge.alma_to_sis("all_users")
    assert posted(bridge) == Counter()
    assert bridge.exceptions() == {}
    assert "earlier" in life_of(bridge, fee.id)


def life_of(bridge: Bridge, fee_id: str) -> str:
    with bridge.ledger("look").read() as tx:
        return "\n".join(text for _, text in story.of_fee(tx, fee_id))
