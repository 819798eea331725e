"""Weeks of dry runs: what the report says would have been sent is what a live campus has sent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from alma_hook import __main__ as command_line
from alma_hook import charge_file, charges, payment_intake, shadow
from alma_hook.ledger import batches, payments
from alma_hook.ledger import shadow as entries
from alma_hook.shadow import Shadow
from simulator.alma_records import Fee
from simulator.clock import Clock
from tests.bridge import Bridge

BEGIN = datetime(2026, 11, 2, 16, 0, tzinfo=UTC)
#: What stands in a line of PeopleSoft's file, and when it was planned.
FACTS = (
    "fee_id", "kind", "amount", "emplid", "item_type", "term", "reference", "description", "account_type",
    "effective_date", "reason",
)  # fmt: skip
Line = tuple[object, ...]
OpenCampus = Callable[..., Bridge]


@pytest.fixture
def open_campus(tmp_path: Path) -> OpenCampus:
    """``open_campus("live", live=True, ...)``: one of several campuses that are alike to the cent, at one time of day."""

    def made(name: str, *, live: bool, settings: Callable[[str], str] = str, **options: object) -> Bridge:
        work = tmp_path / name
        work.mkdir()
        written = {True: "live = true", False: "live = false"}[live]
        return Bridge(
            work,
            settings=lambda text: settings(text.replace("live = true", written)),
            clock=Clock(BEGIN),
            **options,  # type: ignore[arg-type]
        )

    return made


def shown(bridge: Bridge) -> Shadow:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        history = entries.history(tx)
    ledger.close()
    return shadow.replay(history, bridge.campus, bridge.layout)


def would_be_lines(bridge: Bridge) -> list[Line]:
    return sorted((w.at, *(getattr(w.line, name) for name in FACTS)) for w in shown(bridge).lines)


def would_be_payments(bridge: Bridge) -> list[tuple[object, ...]]:
    return sorted((w.at, w.fee_id, w.cents) for w in shown(bridge).posted if w.cents)


def sent_lines(bridge: Bridge) -> list[Line]:
    """What a live campus's ledger has sent, and when it was planned."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows(
            "SELECT l.*, b.created_at FROM line l JOIN batch b ON b.institution = l.institution "
            "AND b.batch_id = l.batch_id WHERE l.institution = :i AND l.state = 'sent'"
        )
    ledger.close()
    return sorted((row["created_at"], *(row[name] for name in FACTS)) for row in rows)


def posted_payments(bridge: Bridge) -> list[tuple[object, ...]]:
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows("SELECT * FROM payment_now WHERE institution = :i AND posted > 0")
    ledger.close()
    return sorted((row["marked_at"], row["fee_id"], int(row["posted"])) for row in rows)


def dry_sis_to_alma(bridge: Bridge) -> None:
    """The tasks of the DAG that are not skipped while a campus is not live."""
    with bridge.working("back") as (ledger, lease):
        payment_intake.find_files(bridge.folder, ledger, lease, bridge.campus)
        payment_intake.take_in(ledger, lease, bridge.campus, bridge.marks)


class PresentProcess:
    """What a campus has today: it charges in PeopleSoft by files of its own and posts payments with keys of its own."""

    def __init__(self, bridge: Bridge) -> None:
        self.far = bridge.far
        self.done: set[str] = set()

    def load(self, name: str, content: bytes) -> None:
        """Hand a file to PeopleSoft."""
        self.far.path(f"{self.far.folders.inbound}/{name}").write_bytes(content)
        for result in self.far.load_inbound():
            assert result.loaded, result

    def post(self) -> None:
        """Post to Alma what students have paid since the last time."""
        for number, payment in sorted(self.far.peoplesoft.payments.items()):
            for application in payment.applications if number not in self.done else []:
                item = self.far.peoplesoft.items[application.item_nbr]
                fee_id = item.reference.removeprefix(self.far.reference_prefix)
                cents = min(application.cents, self.far.alma.fees[fee_id].balance_cents)
                self.far.alma.pay_by_api(
                    fee_id, cents, method="ONLINE", external_transaction_id=f"BURSAR{number}"
                )
            self.done.add(number)


def both(campuses: tuple[Bridge, Bridge], act: Callable[[Bridge], object]) -> None:
    """The same happens on both campuses."""
    for campus in campuses:
        act(campus)


METHODS = ["analytics_report", "sis_profile", "all_users"]


def a_day_at_the_library(campuses: tuple[Bridge, Bridge]) -> None:
    both(campuses, lambda c: c.far.new_fees(4))
    both(campuses, lambda c: c.far.desk_payments(5))
    both(campuses, lambda c: c.far.waives(2))
    both(campuses, lambda c: c.far.clock.advance(hours=12))
    both(campuses, lambda c: c.far.refresh_analytics())
    both(campuses, lambda c: c.far.write_sis_export(24 * 400, "xml"))


@pytest.mark.parametrize("method", METHODS)
def test_dry_runs_would_have_sent_what_live_runs_sent(
    open_campus: OpenCampus, ledger_url: str, method: str
) -> None:
    live, dry = campuses = open_campus("live", live=True), open_campus("dry", live=False, url=ledger_url)
    for _ in range(8):
        a_day_at_the_library(campuses)
        live.alma_to_sis(method)
        dry.alma_to_sis(method, live=False)
    sent = sent_lines(live)
    kinds = {(line[2], line[-1]) for line in sent}
    assert {("charge", "new"), ("credit", "waived"), ("credit", "paid in the library")} <= kinds
    assert len({line[0] for line in sent}) == 8
    assert would_be_lines(dry) == sent
    held = {held.entry.fee_id: held.entry.kind for held in shown(dry).held if held.until is None}
    listed = live.listed_fees()
    assert set(held) == listed
    assert {f"fee {fee_id}": kind for fee_id, kind in held.items()} == live.exceptions()
    assert dry.folder.files("/sfs/inbound", "*") == []


Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """``said(bridge, "--since", ...)``: exit status of `shadow-report`, and all that it printed."""

    def run(bridge: Bridge, *arguments: object) -> tuple[int, str]:
        status = command_line.main(
            [
                "shadow-report",
                *("--settings", str(bridge.file), "--ledger", bridge.url),
                *map(str, arguments),
            ]
        )
        printed = capsys.readouterr()
        text = printed.out + printed.err
        assert not [student for student in bridge.far.students if student.primary_id in text]
        return status, text

    return run


# -- beside a present process ----------------------------------------------------------------------------


def test_beside_a_present_process_that_does_the_same(open_campus: OpenCampus, ledger_url: str) -> None:
    """Its charges and payments are those of the live campus: what the dry runs find is neither more nor less."""
    live, dry = campuses = open_campus("live", live=True), open_campus("dry", live=False, url=ledger_url)
    present = PresentProcess(dry)
    for _ in range(8):
        a_day_at_the_library(campuses)
        live.alma_to_sis()
        dry.alma_to_sis(live=False)
        for file in sorted(live.far.path("/sfs/inbound").glob("*.dat")):
            present.load(file.name, file.read_bytes())
        live.far.load_inbound()
        both(campuses, lambda c: c.far.students_pay(0.4))
        both(campuses, lambda c: c.far.clock.advance(hours=1))
        both(campuses, lambda c: c.far.write_query_output())
        live.sis_to_alma()
        dry_sis_to_alma(dry)
        present.post()
        assert dry.books().fees == live.books().fees
    assert would_be_lines(dry) == sent_lines(live)
    posted = posted_payments(live)
    assert len(posted) > 10
    assert would_be_payments(dry) == posted
    both(campuses, lambda c: c.far.clock.advance(hours=12))
    paid = sum(cents for _, _, cents in posted)
    assert sum(cents for _, _, cents in dry_run(dry).not_credited) == paid


def dry_run(bridge: Bridge, hours: float = 12) -> Shadow:
    """Half a day passes, the night's report comes, the DAG runs dry."""
    bridge.far.clock.advance(hours=hours)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis(live=False)
    return shown(bridge)


def told(found: Shadow) -> list[tuple[str, int, str]]:
    return [(would.line.kind, would.line.amount, would.line.reason) for would in found.lines]


@pytest.fixture
def dry(open_campus: OpenCampus) -> Bridge:
    """A campus without a fee, not live."""
    return open_campus("dry", live=False, fees=0)


@pytest.fixture
def fee(dry: Bridge) -> Fee:
    """A fee of 50.00 that a dry run has seen, and that the present process has charged in PeopleSoft."""
    made = dry.far.alma.add_fee(dry.far.students[0], 5000)
    dry_run(dry)
    charge(dry, made)
    return made


def charge(bridge: Bridge, fee: Fee) -> None:
    """The present process charges a fee in PeopleSoft."""
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        content = batches.content(tx, "P000001")
    ledger.close()
    PresentProcess(bridge).load("present.dat", content.split(b"\n", 1)[1])
    assert bridge.books().fees[fee.id].peoplesoft_cents == fee.balance_cents


def pays(bridge: Bridge, cents: int) -> None:
    """The student pays in PeopleSoft, and its output shows it."""
    (item,) = bridge.far.peoplesoft.open_items()
    bridge.far.peoplesoft.pay(item.item_nbr, cents)
    bridge.far.write_query_output()


def test_a_payment_that_the_present_process_posts_is_no_credit(dry: Bridge, fee: Fee) -> None:
    pays(dry, 2000)
    dry_sis_to_alma(dry)
    PresentProcess(dry).post()
    found = dry_run(dry)
    assert told(found) == [("charge", 5000, "new")]
    assert [(fee_id, cents) for _, fee_id, cents in found.not_credited] == [(fee.id, 2000)]
    assert [(posted.cents, posted.why) for posted in found.posted] == [(2000, "")]


def test_nor_is_one_whose_file_is_taken_in_later(dry: Bridge, fee: Fee) -> None:
    pays(dry, 5000)
    PresentProcess(dry).post()
    dry_run(dry)
    dry_sis_to_alma(dry)
    found = shown(dry)
    assert told(found) == [("charge", 5000, "new")]
    assert [posted.cents for posted in found.posted] == [5000]


def test_nor_is_one_of_the_same_day_by_its_very_amount(dry: Bridge, fee: Fee) -> None:
    dry.far.clock.advance(hours=8)
    pays(dry, 5000)
    PresentProcess(dry).post()
    assert told(dry_run(dry, hours=1)) == [("charge", 5000, "new"), ("credit", 5000, "paid in the library")]
    dry.far.clock.advance(hours=1)
    dry_sis_to_alma(dry)
    found = shown(dry)
    assert told(found) == [("charge", 5000, "new")]
    assert [posted.cents for posted in found.posted] == [5000]


def test_payments_that_could_not_have_been_posted_say_why(dry: Bridge, fee: Fee) -> None:
    disputed = dry.far.alma.add_fee(dry.far.students[1], 3000)
    closed = dry.far.alma.add_fee(dry.far.students[2], 2000)
    dry_run(dry)
    dry.far.alma.dispute(disputed.id)
    dry.far.alma.waive_at_desk(closed.id)
    dry_run(dry)
    numbers = [student.primary_id for student in dry.far.students]
    lines = [
        f"{n},{emplid},ALMA{fee_id},{value},11/03/2026\n"
        for n, (emplid, fee_id, value) in enumerate(
            [
                (numbers[5], fee.id, "1.00"),
                (numbers[0], fee.id, "60.00"),
                (numbers[1], disputed.id, "30.00"),
                (numbers[2], closed.id, "20.00"),
                (numbers[3], "777", "5.00"),
            ]
        )
    ]
    text = "Payment ID,Emplid,Reference Number,Paid Amount,Date Paid\n" + "".join(lines)
    dry.folder.put("/sfs/outbound/LIBRARY_PAYMENTS_1.csv", text.encode())
    dry_sis_to_alma(dry)
    assert [(posted.cents, posted.rest, posted.why) for posted in shown(dry).posted] == [
        (0, 100, shadow.OTHER_EMPLID),
        (5000, 1000, "paid more than Alma's balance"),
        (0, 3000, "fee is INDISPUTE in Alma"),
        (0, 2000, shadow.SETTLED),
        (0, 500, shadow.NOT_CHARGED),
    ]


def test_what_a_person_would_have_been_asked_about_is_told(dry: Bridge, fee: Fee, said: Said) -> None:
    dry.far.alma.add_fee(dry.far.students[1], 300_000)
    found = dry_run(dry)
    assert [would.beyond for would in found.lines] == [
        (),
        ("a line of 3000.00, brake.max_line is 2000.00",),
    ]
    assert (
        "a person would have been asked first: a line of 3000.00, brake.max_line is 2000.00\n" in said(dry)[1]
    )


def test_what_does_not_fit_the_layout_is_held(open_campus: OpenCampus) -> None:
    dry = open_campus("dry", live=False, fees=0)
    # Settings that were checked hold no such text; a reference or an EMPLID may still be too long.
    dry.campus = dry.campus.model_copy(update={"descriptions": {"OVERDUEFINE": "fine " * 7}})
    dry.far.alma.add_fee(dry.far.students[0], 5000)
    found = dry_run(dry)
    assert found.lines == []
    assert [held.entry.kind for held in found.held] == ["does not fit the layout"]


def test_what_is_paid_at_the_desk_besides_is_a_credit(dry: Bridge, fee: Fee) -> None:
    pays(dry, 2000)
    dry_sis_to_alma(dry)
    PresentProcess(dry).post()
    dry.far.alma.pay_at_desk(fee.id, 1200)
    assert told(dry_run(dry)) == [("charge", 5000, "new"), ("credit", 1200, "paid in the library")]
    dry.far.alma.raise_fee(fee.id, 300)
    assert told(dry_run(dry))[2:] == [("charge", 300, "raised")]


def test_a_payment_whose_file_is_never_seen_looks_like_one_at_the_desk(dry: Bridge, fee: Fee) -> None:
    pays(dry, 2000)
    PresentProcess(dry).post()
    assert told(dry_run(dry))[1:] == [("credit", 2000, "paid in the library")]


def test_what_was_paid_before_the_fee_was_first_seen_is_of_no_concern(dry: Bridge) -> None:
    fee = dry.far.alma.add_fee(dry.far.students[0], 5000)
    dry_run(dry)
    charge(dry, fee)
    pays(dry, 2000)
    PresentProcess(dry).post()
    # A ledger of later: the fee is 30.00 when it is first seen.
    ledger = dry.ledger("cleared")
    with ledger.write() as tx:
        tx.run("DELETE FROM dry_reading WHERE institution = :i")
    ledger.close()
    dry_sis_to_alma(dry)
    found = dry_run(dry)
    assert told(found) == [("charge", 3000, "new")]
    assert [(posted.cents, posted.rest, posted.why) for posted in found.posted] == [(0, 2000, shadow.BEFORE)]
    dry.far.alma.pay_at_desk(fee.id, 1000)
    assert told(dry_run(dry))[1:] == [("credit", 1000, "paid in the library")]


def go_live(bridge: Bridge, live: bool = True) -> None:
    bridge.campus = bridge.campus.model_copy(update={"live": live})


def test_the_report_stays_what_it_was_when_the_campus_is_live(dry: Bridge, fee: Fee) -> None:
    unmapped = dry.far.alma.add_fee(dry.far.students[1], 400, type="LOCKERKEY")
    before = dry_run(dry)
    assert [held.entry.kind for held in before.held] == ["fee type without item type"]
    go_live(dry)
    dry.far.clock.advance(hours=12)
    dry.far.refresh_analytics()
    dry.alma_to_sis()
    assert [line[1:4] for line in sent_lines(dry)] == [(fee.id, "charge", 5000)]
    dry.far.clock.advance(hours=1)
    pays(dry, 1000)
    dry.sis_to_alma()
    assert len(posted_payments(dry)) == 1
    assert shown(dry) == before
    # Not live again: what live runs sent and posted counts, what was seen before them doesn't.
    go_live(dry, False)
    again = dry_run(dry)
    assert (again.lines, again.posted, len(again.runs)) == ([], [], 1)
    assert [held.entry.fee_id for held in again.held] == [unmapped.id]
    present = PresentProcess(dry)
    present.done = set(dry.far.peoplesoft.payments)
    pays(dry, 2000)
    dry_sis_to_alma(dry)
    present.post()
    dry.far.alma.waive_at_desk(fee.id, 700)
    again = dry_run(dry)
    assert told(again) == [("credit", 700, "waived")]
    assert again.lines[0].line.emplid == dry.far.students[0].primary_id
    assert [(posted.cents, posted.why) for posted in again.posted] == [(2000, "")]


def test_the_report_stays_what_it_was_when_the_books_are_opened(dry: Bridge, fee: Fee) -> None:
    pays(dry, 2000)
    dry_sis_to_alma(dry)
    PresentProcess(dry).post()
    before = dry_run(dry)
    assert [(posted.cents, posted.why) for posted in before.posted] == [(2000, "")]
    with closing(dry.ledger("opening")) as ledger, ledger.write() as tx:
        assert payments.set_aside_as_earlier(tx) == 1
    assert shown(dry) == before


def test_a_dry_run_of_a_live_campus_is_no_part_of_it(open_campus: OpenCampus) -> None:
    live = open_campus("live", live=True)
    live.alma_to_sis(live=False)
    assert shown(live).runs == ()


def test_a_fee_that_is_not_as_before_alone_is_kept_anew(dry: Bridge, fee: Fee) -> None:
    for _ in range(3):
        dry_run(dry)
    dry.far.alma.waive_at_desk(fee.id, 700)
    dry_run(dry)
    ledger = dry.ledger("look")
    with ledger.read() as tx:
        assert tx.one("SELECT COUNT(*) FROM dry_reading WHERE institution = :i") == 2
    ledger.close()


# -- beside the files of the present process -------------------------------------------------------------


def test_without_a_dry_run_there_is_nothing_to_tell(dry: Bridge, said: Said) -> None:
    assert said(dry) == (0, "No dry run of a campus with `live = false` was made with this version yet.\n")


@pytest.fixture
def four(dry: Bridge) -> list[Fee]:
    """Fees of four students that a dry run has seen, of 10.00, 20.00, 30.00 and 40.00; the first is waived by 1.00 since."""
    fees = [dry.far.alma.add_fee(dry.far.students[n], 1000 * (n + 1)) for n in range(4)]
    dry_run(dry)
    dry.far.alma.waive_at_desk(fees[0].id, 100)
    dry_run(dry)
    return fees


SUMS = (
    "matched                      1           20.00           20.00\n"
    "differing                    1            9.00           10.00\n"
    "only ours                    2           70.00            0.00\n"
    "only theirs                  1            0.00           55.00\n"
)


def test_its_sfs_files_are_compared_by_the_fee_that_a_reference_names(
    dry: Bridge, four: list[Fee], said: Said, tmp_path: Path
) -> None:
    """It knows of no waiver, leaves two fees out, and charges one that no dry run has seen."""
    ledger = dry.ledger("look")
    with ledger.read() as tx:
        rows = list(batches.lines(tx, "P000001"))
    ledger.close()
    by_fee = {row["fee_id"]: row for row in rows}
    of_them = [dict(by_fee[four[0].id]), dict(by_fee[four[1].id])]
    of_them.append({**of_them[0], "reference": "ALMA777", "amount": 5500})
    file = tmp_path / "libfines.dat"
    control = charge_file.Control("charges", 3, 8500, "LIB01", "", "USD", date(2026, 11, 3))
    file.write_bytes(charge_file.write(dry.layout, control, charges.frame(of_them)))
    status, text = said(dry, "--compare", file)
    assert status == 0
    assert SUMS in text
    assert "of those matched theirs went 0 on an earlier day, 0 on the same, 1 on a later one\n" in text
    assert f"differing: fee {four[0].id}, ours 9.00, theirs 10.00, libfines.dat line 2\n" in text
    assert "only theirs: fee 777, ours 0.00, theirs 55.00, libfines.dat line 4\n" in text
    # Other days than theirs, and another layout than theirs.
    status, text = said(dry, "--compare", file, "--until", "2026-11-02")
    assert (status, "3 entries of theirs lie outside of these days" in text) == (0, True)
    status, text = said(dry, "--compare", file, "--layout", "princeton_libfines")
    assert (status, "libfines.dat, line 1" in text) == (1, True)


def test_or_as_csv_by_reference_or_by_emplid_and_amount(
    dry: Bridge, four: list[Fee], said: Said, tmp_path: Path
) -> None:
    emplid = [student.primary_id for student in dry.far.students]
    file = tmp_path / "sent.CSV"
    file.write_text(
        "Date,EMPLID,Amount,Note,Reference\n"
        f"2026-11-03,{emplid[0]},10.00,,LIB-{four[0].id}\n"
        f"2026-11-03,{emplid[1]},20.00,,OTHER-5\n"
        f",{emplid[2]},55,,\n"
    )
    written = tmp_path / "patrons.csv"
    status, text = said(dry, "--compare", file, "--csv", written)
    assert status == 0
    assert SUMS in text
    assert "only theirs: no fee that is known, ours 0.00, theirs 55.00, sent.CSV line 4\n" in text
    assert "8 entries are in" in text
    assert written.stat().st_mode & 0o777 == 0o600
    first, _heading, *rows = written.read_text().splitlines()
    assert first.startswith("HOLDS PATRON DATA")
    assert len(rows) == 8
    assert f"differing,ours,{four[0].id},{emplid[0]},-1.00,waived" in "\n".join(rows)
    # It is never written over.
    status, text = said(dry, "--csv", written)
    assert (status, "was not written" in text) == (1, True)


def test_every_bad_line_of_every_file_is_told_at_once(
    dry: Bridge, four: list[Fee], said: Said, tmp_path: Path
) -> None:
    one, other, third = tmp_path / "one.csv", tmp_path / "other.csv", tmp_path / "third.dat"
    one.write_text("reference,amount,date\nALMA1,1.005,\n,2.00,11/22/2026\nALMA1,0\nALMA2,0.00,\n")
    other.write_text("emplid,sum\n1,2\n")
    third.write_text("not an SFS file")
    status, text = said(dry, "--compare", one, other, third, tmp_path / "gone.csv")
    assert status == 1
    for told_of in (
        "one.csv, line 2, amount: more than two decimals",
        "one.csv, line 3: names neither a reference nor an EMPLID",
        "one.csv, line 3, date: is not a day such as 2026-11-22",
        "one.csv, line 4: has 2 fields, the heading 3",
        "one.csv, line 5, amount: is nought",
        "other.csv, line 1: lacks the heading amount, or both of reference and emplid",
        "third.dat, line 1",
        "gone.csv: can't be read",
    ):
        assert told_of in text
