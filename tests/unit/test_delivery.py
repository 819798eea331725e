"""Deliveries that die at every point, far sides that interfere. PeopleSoft's own books are the witness."""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from alma_hook import charges, delivery
from alma_hook.errors import AlmaHookError, Fatal, LeaseTaken, Retriable, SendingStopped
from alma_hook.ledger import Lease, Ledger, Tx, alerts, batches, exceptions, instant, payments
from alma_hook.ledger.store import LEASE_MINUTES
from tests.bridge import Bridge, LocalFolder
from tests.conftest import MakeBridge

INBOUND, ARCHIVE = "/sfs/inbound", "/sfs/archive"


class Crash(BaseException):
    """The worker is gone: nothing catches this, and nothing of it acts any more."""


class Crasher:
    """Kills the worker at its ``at``-th action or commit; from then on its every act fails."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.count = 0
        self.dead = False
        self.armed = True

    def point(self, *_what: object) -> None:
        self.count += self.armed
        self.dead = self.dead or self.count == self.at
        if self.dead:
            raise Crash

    @contextmanager
    def working(self, monkeypatch: pytest.MonkeyPatch, *, from_plan: bool) -> Iterator[None]:
        """Count what is done from here on, or (``from_plan``) from the planning on."""
        plain_write, plain_plan = Ledger.write, charges.plan
        self.armed = not from_plan

        @contextmanager
        def write(ledger: Ledger, lease: Lease | None = None) -> Iterator[Tx]:
            self.point("before the transaction")
            with plain_write(ledger, lease) as tx:
                yield tx
                self.point("before the commit")
            self.point("after the commit")

        def plan(*arguments: Any) -> charges.PlanCounts:
            self.armed = True
            return plain_plan(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "write", write)
            patch.setattr(charges, "plan", plan)
            yield


class CrashingFolder(LocalFolder):
    """A folder whose writes tear off in the middle when the worker dies; ``arrived`` sees each new name."""

    def __init__(self, root: Path, crasher: Crasher, arrived: Callable[[], object], torn: bool) -> None:
        super().__init__(root, self._before)
        self.crasher, self.arrived, self.torn = crasher, arrived, torn

    def _before(self, action: str, path: str) -> None:
        if action in ("renamed", "written") and path.startswith(INBOUND):
            self.arrived()
        self.crasher.point(action)

    def write(self, path: str, content: bytes) -> None:
        with self._may_tear(path, content):
            super().write(path, content)

    def create(self, path: str, content: bytes) -> bool:
        with self._may_tear(path, content):
            return super().create(path, content)

    @contextmanager
    def _may_tear(self, path: str, content: bytes) -> Iterator[None]:
        try:
            yield
        except Crash:
            if self.torn and not self.path(path).exists():
                self.path(path).write_bytes(content[: len(content) // 2])
            raise


def with_charges(bridge: Bridge) -> list[int]:
    """Give a run two charges to send; returns the cents that PeopleSoft is to be told in the end."""
    for student, cents in zip(bridge.far.students, (1000, 5000), strict=False):
        bridge.far.alma.add_fee(student, cents)
    bridge.far.refresh_analytics()
    return [1000, 5000]


def with_both_kinds(bridge: Bridge) -> list[int]:
    """The same with a credit, a fee that was raised, and a new one, after a first run."""
    alma = bridge.far.alma
    before = [alma.add_fee(student, 1000 + n) for n, student in enumerate(bridge.far.students[:2])]
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    alma.waive_at_desk(before[0].id, 300)
    alma.raise_fee(before[1].id, 250)
    alma.add_fee(bridge.far.students[2], 5000)
    bridge.far.refresh_analytics()
    return [-300, 250, 1000, 1001, 5000]


def small(work: Path, **options: Any) -> Bridge:
    work.mkdir(parents=True)
    return Bridge(work, students=3, fees=0, **options)


def rename_only(settings: str) -> str:
    return settings


def direct(settings: str) -> str:
    return settings.replace("[sfs]", '[sfs]\nmode = "direct"')


def fixed(settings: str) -> str:
    return settings.replace("[sfs]", '[sfs]\nfixed_name = "lib_{kind}.dat"\ndone_file = "{file}.done"')


def states(bridge: Bridge) -> dict[str, str]:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        found = {
            row["batch_id"]: row["state"] for row in tx.rows("SELECT * FROM batch WHERE institution = :i")
        }
    ledger.close()
    return found


def decide_by_hand(bridge: Bridge) -> int:
    """What a person does with unconfirmed batches: look into PeopleSoft, and say what is there."""
    bridge.far.load_inbound()
    loaded = {result.file_name for result in bridge.far.peoplesoft.loads if result.error is None}
    with bridge.working("out") as (ledger, lease):
        with ledger.read() as tx:
            parked = batches.in_states(tx, "unconfirmed")
        for row in parked:
            with ledger.write(lease) as tx:
                settle = batches.deliver if row["file_name"] in loaded else batches.drop
                settle(tx, row["batch_id"], "unconfirmed")
    return len(parked)


def assert_every_line_is_loaded_once(bridge: Bridge, expected: list[int]) -> None:
    """PeopleSoft's lines are the ledger's, and both sides' books are equal."""
    assert bridge.books().unequal == {}
    assert not [result for result in bridge.far.peoplesoft.loads if result.rejects]
    posted = sorted((posting.cents, posting.reference) for posting in bridge.far.peoplesoft.postings)
    assert [cents for cents, _ in posted] == expected
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        sent = sorted(
            (row["amount"] if row["kind"] == "charge" else -row["amount"], row["reference"])
            for row in tx.rows("SELECT * FROM line WHERE institution = :i AND state = 'sent'")
        )
    ledger.close()
    assert posted == sent


@pytest.mark.parametrize(
    ("mode", "at_once", "torn", "prepare", "from_plan"),
    [
        pytest.param(rename_only, True, True, with_both_kinds, True, id="taken at once, torn, both kinds"),
        pytest.param(rename_only, False, False, with_charges, False, id="collected later, whole"),
        pytest.param(direct, False, True, with_charges, True, id="direct, collected later, torn"),
        pytest.param(direct, True, False, with_charges, True, id="direct, taken at once, whole"),
        pytest.param(fixed, False, False, with_charges, False, id="a fixed name"),
    ],
)
def test_a_run_that_dies_at_any_point_loads_every_line_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Callable[[str], str],
    at_once: bool,
    torn: bool,
    prepare: Callable[[Bridge], list[int]],
    from_plan: bool,
) -> None:
    by_hand = 0
    for at in itertools.count(1):
        bridge = small(tmp_path / str(at), settings=mode)
        expected = prepare(bridge)
        crasher = Crasher(at)
        arrived = bridge.far.load_inbound if at_once else list
        bridge.folder = CrashingFolder(bridge.far.root, crasher, arrived, torn)
        with crasher.working(monkeypatch, from_plan=from_plan), suppress(Crash):
            bridge.alma_to_sis()
        if not crasher.dead:
            break
        bridge.folder = CrashingFolder(bridge.far.root, Crasher(), arrived, torn=False)
        bridge.far.clock.advance(seconds=60 * (LEASE_MINUTES + 1))
        bridge.alma_to_sis()
        parked = decide_by_hand(bridge)
        if parked:
            bridge.alma_to_sis()
        bridge.far.load_inbound()
        assert_every_line_is_loaded_once(bridge, expected)
        assert set(states(bridge).values()) <= {"delivered", "cancelled"}
        by_hand += parked
    assert at > 20
    # Under a temporary name nothing is ever in doubt; without one, some of it has to be asked for.
    assert (by_hand > 0) == (mode is direct)


# -- one delivery, with a far side that does what it likes --------------------------------------------


class Sent:
    """A campus with one written batch of one charge."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        bridge.far.alma.add_fee(bridge.far.students[0], 1000)
        bridge.far.refresh_analytics()
        with bridge.working("out") as (ledger, lease):
            bridge.retrieve("analytics_report", ledger, lease, True)
            bridge.read(ledger, lease)
            charges.plan(
                ledger, lease, bridge.campus, bridge.layout, bridge.folder.target, True, bridge.marks
            )
            with ledger.read() as tx:
                (row,) = batches.in_states(tx, "planned")
            self.content = charges.write_file(ledger, lease, bridge.campus, bridge.layout, row)
        self.name = str(row["file_name"])

    def deliver(self, before: Callable[[str, str], object] = lambda _action, _path: None) -> str:
        """One attempt; returns the batch's state. ``before`` sees each action and may raise."""
        folder = self.bridge.folder
        folder.before = before  # type: ignore[assignment]
        try:
            with self.bridge.working("out") as (ledger, lease):
                outcomes = delivery.deliver_all(
                    ledger, lease, self.bridge.campus.sfs, folder, folder, self.bridge.marks
                )
        finally:
            folder.before = lambda _action, _path: None
        return outcomes[0].state

    def state(self) -> str:
        return states(self.bridge)["000001"]

    def inbound(self) -> list[str]:
        return sorted(file.name for file in self.bridge.folder.path(INBOUND).iterdir())

    def temporary(self) -> Path:
        (file,) = [
            f for f in self.bridge.folder.path(INBOUND).iterdir() if f.name.endswith(delivery.TEMPORARY)
        ]
        return file

    def stop_at(self, wanted: str, error: Exception | None = None, *, place: str = INBOUND) -> None:
        """An attempt that ends at its first action of that name in a folder, or on a file."""

        def before(action: str, path: str) -> None:
            if action == wanted and path.startswith(place):
                raise error or Retriable("broke off")

        with pytest.raises(type(error or Retriable(""))):
            self.deliver(before)


@pytest.fixture
def sent(make_bridge: MakeBridge) -> Sent:
    return Sent(make_bridge(fees=0, students=3))


def sent_with(make_bridge: MakeBridge, **of_sfs: str | int) -> Sent:
    lines = "\n".join(f"{name} = {value!r}" for name, value in of_sfs.items())
    return Sent(
        make_bridge(fees=0, students=3, settings=lambda text: text.replace("[sfs]", f"[sfs]\n{lines}"))
    )


def test_a_delivered_file_lies_there_under_its_own_name_only(sent: Sent) -> None:
    assert sent.deliver() == "delivered"
    assert sent.inbound() == [sent.name]
    assert (sent.bridge.folder.path(INBOUND) / sent.name).read_bytes() == sent.content
    assert [result.loaded for result in sent.bridge.far.load_inbound()] == [True]


def test_the_archive_holds_the_bytes_the_lines_and_the_end_of_each_batch(sent: Sent) -> None:
    sent.deliver()
    archive = sent.bridge.folder.path(ARCHIVE)
    assert (archive / sent.name).read_bytes() == sent.content
    (row,) = csv.DictReader((archive / f"{sent.name}.manifest.csv").read_text().splitlines())
    (fee,) = sent.bridge.far.alma.fees.values()
    digest = hashlib.sha256(sent.content).hexdigest()
    assert [row[name] for name in ("institution", "batch_id", "sha256")] == [
        "01CAMPUS_INST",
        "000001",
        digest,
    ]
    of_line = ("line_no", "fee_id", "kind", "amount", "emplid", "item_type", "term", "reference")
    assert [row[name] for name in of_line] == [
        "1", fee.id, "charge", "1000", fee.user.primary_id, "300000000001", "", f"ALMA{fee.id}",
    ]  # fmt: skip
    assert (archive / f"{sent.name}.state").read_text() == "delivered\n"


def test_the_file_is_archived_before_it_is_sent(sent: Sent) -> None:
    sent.stop_at("write")
    assert (sent.bridge.folder.path(ARCHIVE) / sent.name).read_bytes() == sent.content


def test_a_half_written_archive_is_written_again(sent: Sent) -> None:
    sent.stop_at("write", place=f"{ARCHIVE}/{sent.name}")
    (sent.bridge.folder.path(ARCHIVE) / sent.name).write_bytes(sent.content[:20])
    assert sent.deliver() == "delivered"
    assert (sent.bridge.folder.path(ARCHIVE) / sent.name).read_bytes() == sent.content


def test_an_account_that_got_another_id_meanwhile_stops_no_upload(sent: Sent) -> None:
    sent.stop_at("write")
    with sent.bridge.ledger("another run").write() as tx:
        tx.run("UPDATE fee SET user_id = 're.keyed' WHERE institution = :i")
    assert sent.deliver() == "delivered"
    manifest = sent.bridge.folder.path(ARCHIVE) / f"{sent.name}.manifest.csv"
    assert "re.keyed" in manifest.read_text()


def test_a_far_side_that_takes_the_file_at_once(sent: Sent) -> None:
    def before(action: str, path: str) -> None:
        if action == "renamed":
            sent.bridge.far.load_inbound()

    assert sent.deliver(before) == "delivered"
    assert sent.inbound() == []
    assert len(sent.bridge.far.peoplesoft.postings) == 1


def test_a_rename_whose_answer_is_lost_is_found_done(sent: Sent) -> None:
    def before(action: str, path: str) -> None:
        if action == "renamed":
            raise Retriable("the answer is lost")

    assert sent.deliver(before) == "delivered"
    assert sent.inbound() == [sent.name]


def test_a_rename_that_fails_is_done_by_the_next_attempt(sent: Sent) -> None:
    sent.stop_at("rename")
    assert sent.state() == "renaming"
    assert sent.deliver() == "delivered"
    assert sent.inbound() == [sent.name]


@pytest.mark.parametrize(("hours", "state"), [(0, "delivered"), (5, "delivered"), (7, "unconfirmed")])
def test_both_names_gone_count_as_taken_for_some_hours_only(sent: Sent, hours: float, state: str) -> None:
    sent.stop_at("rename")
    sent.temporary().unlink()
    sent.bridge.far.clock.advance(hours=hours)
    assert sent.deliver() == state
    assert sent.inbound() == []


def test_a_temporary_name_that_vanishes_before_the_rename_is_in_doubt(sent: Sent) -> None:
    def before(action: str, path: str) -> None:
        if action == "written" and path.startswith(INBOUND):
            sent.bridge.folder.path(path).unlink()

    assert sent.deliver(before) == "unconfirmed"
    assert sent.inbound() == []


@pytest.mark.parametrize(("look", "state"), [(1, "uploading"), (2, "uploaded")])
def test_an_upload_that_was_acknowledged_and_is_gone_is_in_doubt(sent: Sent, look: int, state: str) -> None:
    """Somebody may have loaded it from under its temporary name."""
    looks: list[str] = []

    def before(action: str, path: str) -> None:
        if action == "size" and path.endswith(delivery.TEMPORARY):
            looks.append(path)
            if len(looks) == look:
                raise Retriable("broke off")

    with pytest.raises(Retriable):
        sent.deliver(before)
    assert sent.state() == state
    sent.temporary().unlink()
    assert sent.deliver() == "unconfirmed"
    assert sent.inbound() == []


def test_what_is_in_doubt_is_never_sent_again_by_itself(sent: Sent) -> None:
    sent.stop_at("rename")
    sent.temporary().unlink()
    sent.bridge.far.clock.advance(days=1)
    assert sent.deliver() == "unconfirmed"
    sent.bridge.far.clock.advance(days=1)
    sent.bridge.far.refresh_analytics()
    counts = sent.bridge.alma_to_sis()
    assert (counts.charges, counts.busy) == (0, 1)
    assert sent.state() == "unconfirmed"
    assert sent.inbound() == []


def test_what_is_in_doubt_is_not_settled_as_any_exception(sent: Sent) -> None:
    sent.stop_at("rename")
    sent.temporary().unlink()
    sent.bridge.far.clock.advance(days=1)
    sent.deliver()
    ledger = sent.bridge.ledger("by hand")
    with ledger.write() as tx, pytest.raises(Fatal, match="mark-delivered or mark-not-delivered"):
        (row,) = exceptions.open_items(tx)
        payments.resolve(tx, row["exception_id"], "the bursar", "seen")
    ledger.close()
    assert sent.bridge.exceptions() == {"batch 000001": "batch unconfirmed"}
    assert sent.state() == "unconfirmed"


@pytest.mark.parametrize("arrived", [True, False])
def test_a_person_settles_what_is_in_doubt(sent: Sent, arrived: bool) -> None:
    sent.stop_at("rename")
    taken = sent.temporary()
    if arrived:
        sent.bridge.far.peoplesoft.load(sent.name, taken.read_bytes())
    taken.unlink()
    sent.bridge.far.clock.advance(days=1)
    assert sent.deliver() == "unconfirmed"
    assert decide_by_hand(sent.bridge) == 1
    sent.bridge.far.refresh_analytics()
    sent.bridge.alma_to_sis()
    sent.bridge.far.load_inbound()
    assert sent.bridge.books().unequal == {}
    assert len(sent.bridge.far.peoplesoft.postings) == 1


def test_a_torn_upload_is_put_again(sent: Sent) -> None:
    def before(action: str, path: str) -> None:
        if action == "written" and path.startswith(INBOUND):
            sent.bridge.folder.path(path).write_bytes(sent.content[:50])

    with pytest.raises(Retriable, match="reads back otherwise"):
        sent.deliver(before)
    assert [name for name in sent.inbound() if name.endswith(".dat")] == []
    assert sent.deliver() == "delivered"
    assert [result.loaded for result in sent.bridge.far.load_inbound()] == [True]
    assert sent.bridge.books().unequal == {}


def damaged(content: bytes) -> bytes:
    return content.replace(b"10.00", b"90.00")


@pytest.mark.parametrize(
    ("read_back", "change", "noticed"),
    [
        ("hash", damaged, True),
        ("hash", lambda content: content + b"\n", True),
        ("size", lambda content: content + b"\n", True),
        ("size", damaged, False),
        ("none", damaged, False),
        ("none", lambda content: content[:-1], False),
    ],
)
def test_what_reading_back_notices(
    make_bridge: MakeBridge, read_back: str, change: Callable[[bytes], bytes], noticed: bool
) -> None:
    sent = sent_with(make_bridge, read_back=read_back)

    def before(action: str, path: str) -> None:
        if action == "written" and path.startswith(INBOUND):
            file = sent.bridge.folder.path(path)
            file.write_bytes(change(file.read_bytes()))

    if noticed:
        with pytest.raises(Retriable):
            sent.deliver(before)
    else:
        assert sent.deliver(before) == "delivered"
    assert (sent.name in sent.inbound()) != noticed


@pytest.mark.parametrize("read_back", ["size", "none"])
def test_a_drop_box_that_lets_nothing_be_read(make_bridge: MakeBridge, read_back: str) -> None:
    sent = sent_with(make_bridge, read_back=read_back)
    assert not sent.bridge.campus.archive_can_be_read
    sent.bridge.marks.pop()

    def before(action: str, path: str) -> None:
        if action == "read":
            raise AssertionError(f"{path} was read")

    assert sent.deliver(before) == "delivered"


def test_in_a_drop_box_a_rename_without_an_answer_is_in_doubt(make_bridge: MakeBridge) -> None:
    """Nothing there can be asked, and a rename that was done and is tried again under a new name would load twice."""
    sent = sent_with(make_bridge, read_back="none")
    sent.bridge.marks.pop()

    def before(action: str, path: str) -> None:
        if action == "renamed":
            raise Retriable("the answer is lost")

    assert sent.deliver(before) == "unconfirmed"
    assert sent.inbound() == [sent.name]
    assert decide_by_hand(sent.bridge) == 1
    sent.bridge.far.refresh_analytics()
    sent.bridge.alma_to_sis()
    sent.bridge.far.load_inbound()
    assert sent.bridge.books().unequal == {}


def test_a_file_of_the_same_name_there_already_stops_the_delivery(sent: Sent) -> None:
    (sent.bridge.folder.path(INBOUND) / sent.name).write_bytes(b"another's")
    with pytest.raises(SendingStopped, match=f"{sent.name} lies at PeopleSoft's already"):
        sent.deliver()
    assert (sent.bridge.folder.path(INBOUND) / sent.name).read_bytes() == b"another's"
    assert sent.inbound() == [sent.name]
    assert sent.state() == "written"


def test_a_file_of_the_same_name_in_the_archive_stops_the_delivery(sent: Sent) -> None:
    """The name's number was used before: the ledger is an older copy."""
    (sent.bridge.folder.path(ARCHIVE) / sent.name).write_bytes(b"x" * len(sent.content))
    with pytest.raises(SendingStopped, match="archive"):
        sent.deliver()
    assert sent.inbound() == []
    assert (sent.bridge.folder.path(ARCHIVE) / sent.name).read_bytes() == b"x" * len(sent.content)


def test_a_file_of_the_same_name_that_comes_into_the_archive_meanwhile_stops_the_delivery(sent: Sent) -> None:
    place = sent.bridge.folder.path(ARCHIVE) / sent.name
    sent.stop_at("write")
    place.write_bytes(b"another's")
    with pytest.raises(SendingStopped, match="in the archive already, with other content"):
        sent.deliver()
    assert sent.inbound() == []
    assert place.read_bytes() == b"another's"


@pytest.mark.parametrize("resumed", [False, True])
def test_a_file_of_the_same_name_that_appears_before_the_rename_is_not_overwritten(
    sent: Sent, resumed: bool
) -> None:
    final = sent.bridge.folder.path(INBOUND) / sent.name
    if resumed:
        sent.stop_at("rename")
        final.write_bytes(b"another's")
        assert sent.deliver() == "unconfirmed"
    else:

        def before(action: str, path: str) -> None:
            if action == "rename":
                final.write_bytes(b"another's")

        assert sent.deliver(before) == "unconfirmed"
    assert final.read_bytes() == b"another's"


@pytest.mark.parametrize("at", ["write", "written", "rename"])
def test_a_batch_goes_nowhere_but_where_it_was_made_for(sent: Sent, at: str) -> None:
    sent.stop_at(at)
    before, names = sent.state(), sent.inbound()
    folder = sent.bridge.folder
    archive = copy(folder)
    folder.target = "other.campus.invalid:22"
    with sent.bridge.working("out") as (ledger, lease):
        # Neither does the archive move with it unasked.
        for said, kept in (("was made for", archive), ("works with the archive", folder)):
            with pytest.raises(SendingStopped, match=said) as caught:
                delivery.deliver_all(ledger, lease, sent.bridge.campus.sfs, folder, kept, sent.bridge.marks)
            assert isinstance(caught.value, Fatal)
    assert (sent.state(), sent.inbound()) == (before, names)
    del sent.bridge.folder.target
    assert sent.deliver() == "delivered"


def test_a_settings_change_does_not_redirect_a_batch_on_its_way(sent: Sent) -> None:
    sent.stop_at("rename")
    sfs = sent.bridge.campus.sfs.model_copy(update={"directory": "/sfs/elsewhere"})
    sent.bridge.campus = sent.bridge.campus.model_copy(update={"sfs": sfs})
    assert sent.deliver() == "delivered"
    assert sent.inbound() == [sent.name]


def test_another_run_that_took_over_stops_this_one_before_the_rename(sent: Sent) -> None:
    """A worker that stood still for longer than its lease must do no more."""

    def before(action: str, path: str) -> None:
        if action == "written" and path.startswith(INBOUND):
            sent.bridge.far.clock.advance(seconds=60 * (LEASE_MINUTES + 1))
            sent.bridge.folder.before = lambda _action, _path: None  # type: ignore[assignment]
            assert sent.deliver() == "delivered"

    with pytest.raises(LeaseTaken):
        sent.deliver(before)
    assert [name for name in sent.inbound() if name.endswith(".dat")] == [sent.name]
    assert sent.state() == "delivered"
    sent.bridge.far.load_inbound()
    assert sent.bridge.books().unequal == {}


@pytest.mark.parametrize("taken", [False, True])
def test_direct_mode_writes_the_name_itself(make_bridge: MakeBridge, taken: bool) -> None:
    sent = sent_with(make_bridge, mode="direct")
    seen = []

    def before(action: str, path: str) -> None:
        seen.append(path)
        if action == "written" and path.startswith(INBOUND) and taken:
            sent.bridge.far.load_inbound()

    assert sent.deliver(before) == "delivered"
    assert not [path for path in seen if path.endswith(delivery.TEMPORARY)]
    sent.bridge.far.load_inbound()
    assert sent.bridge.books().unequal == {}


@pytest.mark.parametrize("at", ["write", "written"])
def test_direct_mode_leaves_a_broken_upload_to_a_person(make_bridge: MakeBridge, at: str) -> None:
    sent = sent_with(make_bridge, mode="direct")
    sent.stop_at(at)
    sent.bridge.far.load_inbound()
    assert sent.deliver() == "unconfirmed"
    assert decide_by_hand(sent.bridge) == 1
    sent.bridge.far.refresh_analytics()
    sent.bridge.alma_to_sis()
    sent.bridge.far.load_inbound()
    assert sent.bridge.books().unequal == {}


def test_direct_mode_finds_its_whole_file_again(make_bridge: MakeBridge) -> None:
    sent = sent_with(make_bridge, mode="direct")
    sent.stop_at("written")
    assert sent.deliver() == "delivered"


def test_direct_mode_leaves_a_file_that_reads_back_otherwise_to_a_person(make_bridge: MakeBridge) -> None:
    """PeopleSoft may have loaded it by then, so it is neither called delivered nor put again."""
    sent = sent_with(make_bridge, mode="direct")

    def before(action: str, path: str) -> None:
        if action == "written" and path.startswith(INBOUND):
            file = sent.bridge.folder.path(path)
            file.write_bytes(damaged(file.read_bytes()))

    assert sent.deliver(before) == "unconfirmed"
    writes: list[str] = []
    sent.bridge.far.clock.advance(hours=12)
    sent.bridge.far.refresh_analytics()
    sent.bridge.folder.before = lambda action, path: writes.append(path) if action == "write" else None  # type: ignore[assignment]
    assert sent.bridge.alma_to_sis().busy == 1
    assert not [path for path in writes if path.startswith(INBOUND)]


# -- one name for all of them ---------------------------------------------------------------------------


def one_name(make_bridge: MakeBridge) -> Sent:
    return sent_with(make_bridge, fixed_name="libfines.dat", done_file="{file}.done")


def test_a_fixed_name_waits_until_the_last_file_was_collected(make_bridge: MakeBridge) -> None:
    sent = one_name(make_bridge)
    bridge = sent.bridge
    assert sent.deliver() == "delivered"
    assert sent.inbound() == ["libfines.dat", "libfines.dat.done"]
    assert (bridge.folder.path(INBOUND) / "libfines.dat").read_bytes() == sent.content
    assert (bridge.folder.path(ARCHIVE) / sent.name).read_bytes() == sent.content

    (fee,) = bridge.far.alma.fees.values()
    bridge.far.alma.waive_at_desk(fee.id, 300)
    for _ in range(2):
        bridge.far.refresh_analytics()
        bridge.alma_to_sis()
    assert [state for _, state in sorted(states(bridge).items())] == ["delivered", "cancelled", "written"]
    assert (bridge.folder.path(INBOUND) / "libfines.dat").read_bytes() == sent.content

    bridge.far.load_inbound()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    assert_every_line_is_loaded_once(bridge, [-300, 1000])


def test_charges_and_credits_share_a_fixed_name_one_after_the_other(make_bridge: MakeBridge) -> None:
    bridge = one_name(make_bridge).bridge
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    (fee,) = bridge.far.alma.fees.values()
    bridge.far.alma.waive_at_desk(fee.id, 300)
    bridge.far.alma.add_fee(bridge.far.students[1], 500)
    # It is the credits' turn: with charges on each day they would never leave.
    for expected in ([-300, 1000], [-300, 500, 1000]):
        bridge.far.refresh_analytics()
        bridge.alma_to_sis()
        assert [result.loaded for result in bridge.far.load_inbound()] == [True]
        assert sorted(posting.cents for posting in bridge.far.peoplesoft.postings) == expected
    assert_every_line_is_loaded_once(bridge, [-300, 500, 1000])


def test_another_file_of_the_same_bytes_under_the_fixed_name_is_not_taken_for_ours(
    make_bridge: MakeBridge,
) -> None:
    sent = one_name(make_bridge)
    sent.stop_at("rename")
    other = sent.bridge.folder.path(INBOUND) / "libfines.dat"
    other.write_bytes(sent.content)
    assert sent.deliver() == delivery.WAITS
    assert sent.state() == "renaming"
    other.unlink()
    assert sent.deliver() == "delivered"
    assert other.read_bytes() == sent.content


def test_a_done_file_follows_though_the_worker_died_in_between(make_bridge: MakeBridge) -> None:
    sent = one_name(make_bridge)
    sent.stop_at("write", place=f"{INBOUND}/libfines.dat.done")
    assert (sent.state(), sent.inbound()) == ("delivered", ["libfines.dat"])
    with sent.bridge.working("out") as (ledger, lease):
        delivery.deliver_all(
            ledger, lease, sent.bridge.campus.sfs, sent.bridge.folder, sent.bridge.folder, sent.bridge.marks
        )
    assert sent.inbound() == ["libfines.dat", "libfines.dat.done"]


def test_a_done_file_is_put_nowhere_but_where_its_file_lies(make_bridge: MakeBridge) -> None:
    sent = one_name(make_bridge)
    sent.stop_at("write", place=f"{INBOUND}/libfines.dat.done")
    folder = sent.bridge.folder
    archive = copy(folder)
    folder.target = "other.campus.invalid:22"
    with sent.bridge.working("out") as (ledger, lease):
        delivery.deliver_all(ledger, lease, sent.bridge.campus.sfs, folder, archive, sent.bridge.marks)
    assert sent.inbound() == ["libfines.dat"]
    del folder.target
    with sent.bridge.working("out") as (ledger, lease):
        delivery.deliver_all(ledger, lease, sent.bridge.campus.sfs, folder, archive, sent.bridge.marks)
    assert sent.inbound() == ["libfines.dat", "libfines.dat.done"]


def test_a_fixed_name_lies_uncollected_since_its_last_file(make_bridge: MakeBridge) -> None:
    sent = one_name(make_bridge)
    sent.deliver()
    bridge = sent.bridge
    first = instant(bridge.far.clock.now())
    bridge.far.load_inbound()
    bridge.far.clock.advance(hours=5)
    bridge.far.alma.add_fee(bridge.far.students[1], 500)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    second = instant(bridge.far.clock.now())
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        assert alerts.delivered_between(tx, "", first) == []
        assert alerts.delivered_between(tx, "", second) == ["libfines.dat"]


def test_charges_go_before_credits(tmp_path: Path) -> None:
    bridge = small(tmp_path / "work")
    with_both_kinds(bridge)
    order: list[str] = []
    bridge.folder.before = lambda action, path: order.append(path) if action == "renamed" else None  # type: ignore[assignment]
    bridge.alma_to_sis()
    assert [path.split("_")[1] for path in order] == ["charges", "credits"]


def test_an_error_of_a_delivery_names_no_student(sent: Sent) -> None:
    emplid = sent.bridge.far.students[0].primary_id
    (sent.bridge.folder.path(INBOUND) / sent.name).write_bytes(b"another's")
    with pytest.raises(AlmaHookError) as caught:
        sent.deliver()
    assert emplid not in str(caught.value)


def test_a_batch_is_described_without_patron_data(sent: Sent) -> None:
    ledger = sent.bridge.ledger("look")
    with ledger.read() as tx:
        row = batches.batch(tx, "000001")
    ledger.close()
    assert delivery.describe(row) == f"batch 000001 (charges): {sent.name}, 1 lines, 10.00, written"
