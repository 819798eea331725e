"""What is removed after some time, what stays, and that everything works on what is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from alma_hook import guard, shadow, tidying
from alma_hook.campus import Retention
from alma_hook.errors import LeaseTaken
from alma_hook.ledger import batches, holds, institutions, payments, retention, story
from alma_hook.ledger import shadow as seen
from alma_hook.repair import repair
from tests.bridge import Bridge
from tests.conftest import MakeBridge

ALL = Retention(sent_file_days=60, payment_file_days=60, dry_run_days=30, uncharged_fee_days=180)
#: Rows that mean money, or by which money is known again.
MONEY = ("line", "payment", "batch", "fee", "reading", "exception_item", "event")


def a_round(bridge: Bridge) -> None:
    """A day: fees go out, some are paid, payments come back."""
    bridge.far.clock.advance(hours=12)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    bridge.far.students_pay(0.4)
    bridge.far.write_query_output(cumulative=False)
    bridge.sis_to_alma()


@pytest.fixture
def lived(make_bridge: MakeBridge, ledger_url: str) -> Bridge:
    """A campus, on each database, after some days: charges and credits sent, payments posted."""
    bridge = make_bridge(url=ledger_url, students=8, fees=12)
    for _ in range(2):
        a_round(bridge)
        bridge.far.waives(2)
        bridge.far.desk_payments(1)
        bridge.far.new_fees(3)
    a_round(bridge)
    return bridge


def tidied(bridge: Bridge, settings: Retention = ALL, **options: Any) -> dict[str, int | None]:
    with closing(bridge.ledger("tidy")) as ledger:
        done = list(tidying.tidy_up(ledger, settings, "tidy", **options))
    return {one.kind.name: one.count for one in done}


def rows(bridge: Bridge, sql: str, **values: Any) -> list[dict[str, Any]]:
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        return [dict(row) for row in tx.rows(sql, **values)]


def kept_bytes(bridge: Bridge, table: str) -> int:
    sql = f"SELECT COUNT(*) AS n FROM {table} WHERE institution = :i AND LENGTH(content) > 0"
    return int(rows(bridge, sql)[0]["n"])


def money(bridge: Bridge) -> dict[str, Any]:
    found = {table: rows(bridge, f"SELECT * FROM {table} WHERE institution = :i") for table in MONEY}
    found["event"] = [row for row in found["event"] if row["subject"] != "retention"]
    found["expected"] = rows(bridge, "SELECT * FROM fee_expected WHERE institution = :i ORDER BY fee_id")
    return {name: sorted(map(str, of_table)) for name, of_table in found.items()}


# -- what goes -----------------------------------------------------------------------------------------


def test_bytes_go_and_what_means_money_stays(lived: Bridge) -> None:
    files = (kept_bytes(lived, "batch_file"), kept_bytes(lived, "payment_file"))
    assert min(files) > 2
    before = money(lived)
    lived.far.clock.advance(days=58)
    assert set(tidied(lived).values()) == {0}
    assert (kept_bytes(lived, "batch_file"), kept_bytes(lived, "payment_file")) == files
    lived.far.clock.advance(days=3)
    would = tidied(lived, only_count=True)
    assert money(lived) == before
    assert tidied(lived) == would
    assert [would[kind.name] for kind in retention.KINDS[:2]] == list(files)
    assert (kept_bytes(lived, "batch_file"), kept_bytes(lived, "payment_file")) == (0, 0)
    assert money(lived) == before
    told = rows(lived, "SELECT detail, actor FROM event WHERE institution = :i AND subject = 'retention'")
    assert [row["detail"].split(", ")[0] for row in told] == [
        f"{files[0]} files that were sent or given up",
        f"{files[1]} files of PeopleSoft's output",
    ]
    assert set(tidied(lived).values()) == {0}


def test_what_no_setting_names_is_kept(lived: Bridge) -> None:
    lived.far.clock.advance(days=4000)
    assert set(tidied(lived, Retention()).values()) == {None}
    assert tidied(lived, Retention(sent_file_days=60))["files of PeopleSoft's output"] is None
    assert kept_bytes(lived, "payment_file") > 2


def test_it_says_since_when_the_rest_is_kept(lived: Bridge) -> None:
    (first,) = rows(lived, "SELECT MIN(found_at) AS at FROM payment_file WHERE institution = :i")
    with closing(lived.ledger("tidy")) as ledger:
        found = {one.kind.name: one.oldest for one in tidying.tidy_up(ledger, ALL, "tidy")}
    assert found["files of PeopleSoft's output"] == first["at"]
    assert found["batches of dry runs"] is None


def test_killed_in_the_middle_it_goes_on_the_next_time(
    lived: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = kept_bytes(lived, "batch_file")
    lived.far.clock.advance(days=100)
    monkeypatch.setattr(
        retention,
        "KINDS",
        tuple(retention.Kind(k.setting, k.name, k.direction, k.old, k.remove, 1) for k in retention.KINDS),
    )
    remove, done = retention.remove, []

    def dying(*arguments: Any) -> int:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return remove(*arguments)

    monkeypatch.setattr(retention, "remove", dying)
    with pytest.raises(KeyboardInterrupt):
        tidied(lived)
    assert kept_bytes(lived, "batch_file") == files - 2
    monkeypatch.setattr(retention, "remove", remove)
    assert tidied(lived)["files that were sent or given up"] == files - 2
    assert (kept_bytes(lived, "batch_file"), kept_bytes(lived, "payment_file")) == (0, 0)


def test_a_run_at_work_is_not_disturbed(lived: Bridge) -> None:
    lived.far.clock.advance(days=100)
    with lived.working("back"), pytest.raises(LeaseTaken):
        tidied(lived)
    # Its own direction's, the other's are gone.
    assert (kept_bytes(lived, "batch_file"), kept_bytes(lived, "payment_file") > 0) == (0, True)


# -- what works afterwards -----------------------------------------------------------------------------


@pytest.fixture
def old(lived: Bridge) -> Bridge:
    """The same a year later, tidied up."""
    lived.far.clock.advance(days=365)
    assert (tidied(lived)["files that were sent or given up"] or 0) > 2
    return lived


def test_the_runs_go_on(old: Bridge) -> None:
    old.far.new_fees(3)
    old.far.waives(2)
    a_round(old)
    a_round(old)
    assert old.unexplained() == {}
    assert old.balances()["unexplained"] == 0
    loads = [load.file_name for load in old.far.peoplesoft.loads]
    assert len(loads) == len(set(loads))


def repaired(bridge: Bridge) -> None:
    with (
        closing(bridge.ledger("repair")) as ledger,
        ledger.lease("out", "repair") as out,
        ledger.lease("back", "repair") as back,
    ):
        repair(ledger, out, back, bridge.campus, bridge.folder, bridge.folder, bridge.api)


@pytest.mark.parametrize("payment_files", ["all", "the newest"])
def test_a_lost_ledger_is_repaired_from_the_archive(old: Bridge, tmp_path: Any, payment_files: str) -> None:
    expected = (
        "SELECT fee_id, expected FROM fee_expected WHERE institution = :i AND charged > 0 ORDER BY fee_id"
    )
    before, loaded = rows(old, expected), len(old.far.peoplesoft.loads)
    archive = old.campus.sis_to_alma.archive_directory
    assert rows(old, "SELECT * FROM payment WHERE institution = :i AND posted < amount") == []
    for file in old.folder.files(archive, "*")[:-1] if payment_files == "the newest" else []:
        old.folder.path(f"{archive}/{file.name}").unlink()
    old.url = f"sqlite:///{tmp_path / 'another.db'}"
    with closing(old.ledger("repair")) as ledger:
        ledger.migrate()
        with ledger.write() as tx:
            institutions.open_clean(tx, "somebody")
    repaired(old)
    assert rows(old, expected) == before
    with closing(old.ledger("a person")) as ledger, ledger.write() as tx:
        guard.guard.unbind(tx, guard.guard.MARKS, "the ledger was rebuilt")
    a_round(old)
    assert old.unexplained() == {}
    assert len(old.far.peoplesoft.loads) == loaded


def test_and_a_repair_of_the_ledger_itself_changes_nothing(old: Bridge) -> None:
    expected = "SELECT * FROM fee_position WHERE institution = :i ORDER BY fee_id"
    before = [{k: v for k, v in row.items() if k != "version"} for row in rows(old, expected)]
    repaired(old)
    assert [{k: v for k, v in row.items() if k != "version"} for row in rows(old, expected)] == before
    # What the ledger has taken in is not read again, so its bytes stay where they went.
    assert kept_bytes(old, "payment_file") == 0
    old.sis_to_alma()
    assert [{k: v for k, v in row.items() if k != "version"} for row in rows(old, expected)] == before


def test_a_payment_file_that_comes_again_is_read_again(old: Bridge) -> None:
    archive = old.campus.sis_to_alma.archive_directory
    (file, *_) = old.folder.files(archive, "*")
    name = file.name.split("_", 1)[1]
    old.folder.put(f"/sfs/outbound/{name}", old.folder.read(f"{archive}/{file.name}"))
    before = old.exceptions()
    taken, _ = old.sis_to_alma()
    assert (taken.files, taken.files_refused, taken.new) == (1, 0, 0)
    assert old.exceptions() == before


def test_a_fees_life_is_told_as_before(lived: Bridge) -> None:
    lived.far.clock.advance(days=365)
    fees = [row["fee_id"] for row in rows(lived, "SELECT DISTINCT fee_id FROM line WHERE institution = :i")]

    def lives() -> list[list[tuple[str, str]]]:
        with closing(lived.ledger("look")) as ledger, ledger.read() as tx:
            return [story.of_fee(tx, fee_id) for fee_id in fees]

    before = lives()
    tidied(lived)
    assert len(before) > 10
    assert lives() == before


def test_a_batch_that_nobody_answered_keeps_all_that_it_needs(
    make_bridge: MakeBridge, ledger_url: str
) -> None:
    bridge = make_bridge(
        url=ledger_url,
        fees=0,
        settings=lambda text: text.replace("[sfs]", '[brake]\nmax_line = "60.00"\n[sfs]'),
    )
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 9000)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.clock.advance(days=365)
    tidied(bridge)
    with closing(bridge.ledger("a person")) as ledger, ledger.write() as tx:
        (held,) = holds.held(tx)
        holds.release(tx, held["batch_id"], holds.digest(tx, held["batch_id"]), "the bursar", "looked at")
    bridge.far.clock.advance(hours=1)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    assert bridge.books().fees[fee.id].charged_cents == 9000


@pytest.mark.parametrize("said", [batches.deliver, batches.drop])
def test_nor_does_an_unconfirmed_one_lose_its_bytes(
    make_bridge: MakeBridge, ledger_url: str, said: Callable[..., None]
) -> None:
    bridge = make_bridge(url=ledger_url, fees=8)
    bridge.far.refresh_analytics()

    def gone(action: str, path: str) -> None:
        if action == "written" and path.endswith(".part"):
            bridge.folder.path(path).unlink()

    bridge.folder.before = gone
    bridge.alma_to_sis()
    bridge.far.clock.advance(days=365)
    tidied(bridge)
    with closing(bridge.ledger("a person")) as ledger:
        with ledger.read() as tx:
            (row,) = batches.in_states(tx, "unconfirmed")
            assert batches.content(tx, row["batch_id"])
        with ledger.lease("out", "a person") as lease, ledger.write(lease) as tx:
            said(tx, row["batch_id"], "unconfirmed")
    # Ended just now, so it is young again.
    bridge.far.clock.advance(days=59)
    tidied(bridge)
    assert kept_bytes(bridge, "batch_file") == 1
    bridge.folder.before = lambda _action, _path: None
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.clock.advance(days=61)
    tidied(bridge)
    assert kept_bytes(bridge, "batch_file") == 0


def test_a_refused_file_keeps_its_bytes_until_it_is_taken_away(lived: Bridge) -> None:
    lived.folder.put("/sfs/outbound/broken.csv", b"Emplid,Amount\n1")
    lived.far.clock.advance(days=365)
    lived.sis_to_alma()
    lived.far.clock.advance(days=365)
    tidied(lived)
    assert kept_bytes(lived, "payment_file") == 1
    lived.folder.path("/sfs/outbound/broken.csv").unlink()
    lived.sis_to_alma()
    tidied(lived)
    assert kept_bytes(lived, "payment_file") == 0


# -- dry runs ------------------------------------------------------------------------------------------


def test_what_dry_runs_saw_goes_once_a_live_run_is_as_old(make_bridge: MakeBridge, ledger_url: str) -> None:
    bridge = make_bridge(url=ledger_url, fees=6)
    live = bridge.campus
    bridge.campus = live.model_copy(update={"live": False})
    for _ in range(3):
        bridge.far.clock.advance(hours=12)
        bridge.far.refresh_analytics()
        bridge.alma_to_sis(live=False)

    def report() -> shadow.Shadow:
        with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
            return shadow.replay(seen.history(tx), bridge.campus, bridge.layout)

    before = report()
    bridge.far.clock.advance(days=31)
    counts = tidied(bridge)
    assert counts["batches of dry runs"] == 3
    assert rows(bridge, "SELECT * FROM batch WHERE institution = :i") == []
    assert rows(bridge, "SELECT * FROM line WHERE institution = :i") == []
    assert report() == before
    bridge.campus = live
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    assert report().lines == before.lines
    bridge.far.clock.advance(days=29)
    tidied(bridge)
    assert report().lines == before.lines
    bridge.far.clock.advance(days=2)
    counts = tidied(bridge)
    assert (counts["dry runs from before the campus was live"], counts["fees as they saw them"]) == (3, 6)
    assert report().runs == ()


# -- fees never charged --------------------------------------------------------------------------------


def test_fees_go_that_peoplesoft_was_never_told_of(make_bridge: MakeBridge, ledger_url: str) -> None:
    bridge = make_bridge(url=ledger_url)
    oddities = bridge.far.oddities
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.load_inbound()
    bridge.far.alma.waive_at_desk(oddities.unmapped_fee)
    bridge.far.alma.pay_at_desk(oddities.staff_fee)
    bridge.far.clock.advance(hours=12)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    before = {row["fee_id"] for row in rows(bridge, "SELECT fee_id FROM fee WHERE institution = :i")}
    bridge.far.clock.advance(days=181)
    name = retention.KINDS[-1].name
    assert tidied(bridge)[name] == 2
    after = {row["fee_id"] for row in rows(bridge, "SELECT fee_id FROM fee WHERE institution = :i")}
    assert before - after == {oddities.unmapped_fee, oddities.staff_fee}
    books = bridge.books()
    bridge.far.refresh_analytics()
    for method in ("all_users", "analytics_report"):
        bridge.alma_to_sis(method)
    assert bridge.far.load_inbound() == []
    assert bridge.books() == books
    # One that comes to life again is charged as any other.
    bridge.far.alma.restore(oddities.disputed_fee)
    bridge.alma_to_sis("all_users")
    bridge.far.load_inbound()
    assert bridge.unexplained() == {}


def test_not_one_that_a_payment_names(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    fee = bridge.far.alma.add_fee(bridge.far.students[0], 1000, type="LOCKERKEY")
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.alma.waive_at_desk(fee.id)
    emplid = bridge.far.students[0].primary_id
    bridge.folder.put(
        "/sfs/outbound/LIBRARY_PAYMENTS_1.csv",
        f"Payment ID,Emplid,Reference Number,Paid Amount,Date Paid\n1,{emplid},ALMA{fee.id},10.00,11/22/2026\n".encode(),
    )
    bridge.sis_to_alma()
    bridge.far.clock.advance(hours=12)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    bridge.far.clock.advance(days=365)
    assert tidied(bridge)[retention.KINDS[-1].name] == 0
    with closing(bridge.ledger("look")) as ledger, ledger.read() as tx:
        assert payments.payments_of_fee(tx, fee.id)
