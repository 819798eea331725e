"""What the ledger's tables and views say of fees, payments and exceptions, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from alma_hook.alma_answers import Fee, Transaction
from alma_hook.errors import Fatal, LeaseTaken, Retriable, SendingStopped
from alma_hook.keys import external_id
from alma_hook.ledger import Ledger, batches, exceptions, fees, institutions, payments, story
from alma_hook.ledger.exceptions import Listed

INSTITUTION, FEE, USER = "01CAMPUS_INST", "138412345678", "061719993"
TARGET = batches.Target(
    "default", "alma_{sequence}.dat", "2026-11-22", "sftp.campus.invalid:22", "/sfs/inbound"
)

_SUMS = ("charged", "carried", "credited", "pending")


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url, INSTITUTION, run_id="run 1")
    ledger.migrate()
    yield ledger
    ledger.close()


def fee(balance: int = 1000, *, fee_id: str = FEE, user_id: str = USER, status: str = "ACTIVE",
        own: tuple[tuple[str, int], ...] = ()) -> Fee:  # fmt: skip
    transactions = tuple(Transaction("PAYMENT", cents, key, None) for key, cents in own)
    return Fee(fee_id, user_id, "OVERDUEFINE", status, balance, 1000, "MAIN", None, transactions, "USD")


def line(kind: str, amount: int, fee_id: str = FEE) -> batches.Line:
    return batches.Line(
        fee_id=fee_id, kind=kind, amount=amount, emplid=USER, item_type="300000000001", term="2268",
        reference=f"ALMA{fee_id}", description="Library fee", account_type="LIB", effective_date="2026-11-22",
        due_date="", reason="new", item_fee=fee_id,
    )  # fmt: skip


def read(ledger: Ledger, of: Fee, version: int | None = None) -> None:
    with ledger.write() as tx:
        now = fees.versions(tx, [of.user_id]).get(of.fee_id, 0)
        fees.store_reading(tx, of, now if version is None else version, emplid=of.user_id, reason="fee")


def plan(ledger: Ledger, *of: batches.Line, live: bool = True) -> str:
    with ledger.write() as tx:
        return batches.open_batch(tx, f"{of[0].kind}s", live, of, TARGET)


def send(ledger: Ledger, *of: batches.Line) -> None:
    batch_id = plan(ledger, *of)
    with ledger.write() as tx:
        batches.deliver(tx, batch_id, "planned")


def pay(ledger: Ledger, key: str, amount: int, *, posted: int | None = None, fee_id: str = FEE) -> None:
    payment = payments.Payment(
        key, external_id(INSTITUTION, key), fee_id, USER, amount, "2026-11-20", 2
    )  # fmt: skip
    with ledger.write() as tx:
        payments.add(tx, "file.csv", "0" * 64, [payment])
    if posted is not None:
        with ledger.write() as tx:
            row = next(row for row in payments.to_post(tx) if row["payment_key"] == key)
            payments.settle_posting(tx, payments.mark_posting(tx, row, posted), "posted", posted=posted)


def position(ledger: Ledger, fee_id: str = FEE) -> dict[str, Any]:
    """What the ledger says of a fee that was read: the same for one, for a run's, and for all at once."""
    with ledger.read() as tx:
        row = tx.row("SELECT * FROM fee_expected WHERE institution = :i AND fee_id = :fee", fee=fee_id)
        of_all = tx.one(
            "SELECT expected FROM expected_sums WHERE institution = :i AND fee_id = :fee", fee=fee_id
        )
        (of_run,) = [found for found in fees.readings_of_run(tx) if found["fee_id"] == fee_id]
    assert row is not None
    assert (of_all or 0) == row["expected"]
    assert [of_run[name] for name in _SUMS] == [row[name] for name in _SUMS]
    assert of_run["in_flight"] == (row["in_flight"] > 0)
    return {name: row[name] for name in ("charged", "credited", "pending", "received", "posted", "expected")}


def test_a_payment_is_what_the_settings_say_of_its_kind_as_long_as_it_waits(ledger: Ledger) -> None:
    read(ledger, fee())
    payment = payments.Payment("1", "SFS1", FEE, USER, 400, "2026-11-20", 2, kind="CHECK")
    with ledger.write() as tx:
        payments.add(tx, "file.csv", "0" * 64, [payment])
        # Settings that name no kind any more say nothing of it.
        assert payments.follow_kinds(tx, {}, frozenset()) == frozenset()
        assert payments.follow_kinds(tx, {"CHECK": None}, frozenset()) == frozenset()
        assert payments.follow_kinds(tx, {"OTHER": None}, frozenset()) == {1}
        assert payments.to_post(tx) == []
        assert payments.follow_kinds(tx, {}, frozenset()) == frozenset()
        assert payments.follow_kinds(tx, {"CHECK": "OTHER"}, frozenset()) == {1}
        (row,) = payments.to_post(tx)
    assert row["waive"] == "OTHER"


# -- reports -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balances", [(1000, 300), (300, 1000), (300, 300)])
def test_a_fee_in_several_rows_of_a_report_is_one(ledger: Ledger, balances: tuple[int, ...]) -> None:
    """Its account is read unless each of them is what the ledger expects."""
    read(ledger, fee())
    send(ledger, line("charge", 1000))
    with ledger.write() as tx:
        fees.stage_report(tx, [{"fee_id": FEE, "user_id": USER, "balance": cents} for cents in balances])
        assert fees.nominate(tx, True) == (1, 1)
        assert tx.one("SELECT COUNT(*) FROM reported_fee") == 0
    with ledger.write() as tx:
        tx.run("DELETE FROM account_to_read")
        fees.stage_report(tx, [{"fee_id": FEE, "user_id": USER, "balance": 1000}] * 2)
        assert fees.nominate(tx, True) == (1, 0)


def test_what_another_attempt_staged_is_not_compared(ledger: Ledger) -> None:
    read(ledger, fee())
    send(ledger, line("charge", 1000))
    with ledger.write() as tx:
        fees.stage_report(tx, [{"fee_id": FEE, "user_id": USER, "balance": 300}])
    with ledger.write() as tx:
        fees.clear_report(tx)
        fees.stage_report(tx, [{"fee_id": FEE, "user_id": USER, "balance": 1000}])
        assert fees.nominate(tx, True) == (1, 0)


# -- positions -----------------------------------------------------------------------------------------


def test_only_lines_that_were_sent_count(ledger: Ledger) -> None:
    read(ledger, fee())
    nothing = {"charged": 0, "credited": 0, "pending": 0, "received": 0, "posted": 0, "expected": 0}
    assert position(ledger) == nothing
    batch_id = plan(ledger, line("charge", 1000))
    assert position(ledger) == nothing | {"pending": 1}
    with ledger.write() as tx:
        batches.deliver(tx, batch_id, "planned")
    assert position(ledger) == nothing | {"charged": 1000, "expected": 1000}
    send(ledger, line("credit", 300))
    pay(ledger, "1", 400, posted=400)
    assert position(ledger) == {
        "charged": 1000, "credited": 300, "pending": 0, "received": 400, "posted": 400, "expected": 300,
    }  # fmt: skip


def test_an_older_item_that_stands_for_a_fee_counts_as_charged(ledger: Ledger) -> None:
    read(ledger, fee())
    with ledger.write() as tx:
        tx.run(
            "INSERT INTO carry VALUES (:i, :fee, '1', '1', 650, 'R1', :now, 'ursula', 'made anew')",
            fee=FEE,
            now=tx.now,
        )
    assert position(ledger)["expected"] == 650


def test_a_payment_under_way_is_in_flight(ledger: Ledger) -> None:
    read(ledger, fee())
    send(ledger, line("charge", 1000))
    pay(ledger, "1", 400)
    position(ledger)
    with ledger.write() as tx:
        (row,) = payments.to_post(tx)
        payments.mark_posting(tx, row, 400)
    assert position(ledger)["posted"] == 0
    with ledger.read() as tx:
        (of_run,) = fees.readings_of_run(tx)
    assert of_run["in_flight"]


def test_a_rehearsals_lines_count_for_nothing(ledger: Ledger) -> None:
    read(ledger, fee())
    plan(ledger, line("charge", 1000), live=False)
    assert position(ledger)["pending"] == 0
    # And hold back no live line.
    plan(ledger, line("charge", 1000))
    assert position(ledger)["pending"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger: plan(ledger, line("charge", 1000)),
        lambda ledger: send(ledger, line("charge", 1000)),
        lambda ledger: pay(ledger, "1", 400, posted=400),
    ],
)
def test_from_a_reading_of_before_a_change_nothing_is_planned(ledger: Ledger, change: Any) -> None:
    read(ledger, fee())
    change(ledger)
    with ledger.read() as tx:
        (row,) = fees.readings_of_run(tx)
    assert row["pending"] or row["fee_version"] < row["version"]


def test_a_reading_from_before_a_batch_is_stale_once_that_was_given_up(ledger: Ledger) -> None:
    read(ledger, fee())
    plan(ledger, line("charge", 1000))
    with ledger.write() as tx:
        batches.drop_unsent(tx)
    with ledger.read() as tx:
        (row,) = fees.readings_of_run(tx)
    assert (row["pending"], row["fee_version"] < row["version"]) == (0, True)


def test_the_line_that_a_credit_copies_is_the_newest_charge(ledger: Ledger) -> None:
    read(ledger, fee())
    send(ledger, line("charge", 1000))
    send(ledger, line("credit", 100))
    with ledger.write() as tx:
        tx.run("UPDATE line SET term = '2262' WHERE kind = 'charge'")
    send(ledger, line("charge", 50))
    plan(ledger, line("charge", 7))
    with ledger.read() as tx:
        (row,) = fees.readings_of_run(tx)
    assert (row["charge"]["term"], row["charged"], row["credited"]) == ("2268", 1050, 100)


def test_a_missing_fee_keeps_its_last_known_balance(ledger: Ledger) -> None:
    read(ledger, fee(700))
    with ledger.write() as tx:
        fees.store_missing(tx, FEE, 0, "fee not found in Alma")
    with ledger.read() as tx:
        (row,) = fees.readings_of_run(tx)
    assert (row["balance"], row["status"], row["problem"]) == (700, "MISSING", "fee not found in Alma")


def test_own_payments_keep_their_order_and_repetitions(ledger: Ledger) -> None:
    key = external_id(INSTITUTION, "1")
    read(ledger, fee(800, own=((key, 100), (key, 100), ("24010000520", 5))))
    with ledger.read() as tx:
        assert [row["own"] for row in fees.readings_of_run(tx)] == [((key, 100), (key, 100))]
    read(ledger, fee(900, own=((key, 100),)))
    with ledger.read() as tx:
        assert [row["own"] for row in fees.readings_of_run(tx)] == [((key, 100),)]


# -- accounts to read ----------------------------------------------------------------------------------


def test_an_account_stays_on_the_list_until_a_plan_has_considered_it(ledger: Ledger) -> None:
    with ledger.write() as tx:
        assert fees.add_accounts(tx, True, ["1", "2", "1"], "report") == 3
        fees.mark_read(tx, True, "1")
    with ledger.read() as tx:
        assert fees.accounts_left(tx, True) == ["2"]
        assert fees.accounts_left(tx, False) == []
    with ledger.write() as tx:
        fees.add_accounts(tx, True, ["3"], "report")
    with ledger.read() as tx:
        assert fees.accounts_left(tx, True) == ["2", "3"]


def test_another_run_reads_what_an_abandoned_one_had_read(ledger: Ledger, ledger_url: str) -> None:
    with ledger.write() as tx:
        fees.add_accounts(tx, True, ["1"], "report")
        fees.mark_read(tx, True, "1")
    other = Ledger(ledger_url, INSTITUTION, run_id="run 2")
    with other.read() as tx:
        assert fees.accounts_left(tx, True) == ["1"]
    other.close()


def test_more_accounts_than_one_statement_holds(ledger: Ledger) -> None:
    ids = [f"{n:09d}" for n in range(2500)]
    with ledger.write() as tx:
        fees.add_accounts(tx, True, ids, "all users")
    with ledger.read() as tx:
        assert fees.accounts_left(tx, True) == ids
        assert len(fees.wanted(tx, ids)) == 2500


# -- payments ------------------------------------------------------------------------------------------


def test_a_payment_is_taken_in_once_for_ever(ledger: Ledger) -> None:
    read(ledger, fee())
    pay(ledger, "1", 400)
    with pytest.raises(Retriable):
        pay(ledger, "1", 400)
    assert position(ledger)["received"] == 400
    with ledger.read() as tx:
        assert payments.known(tx, ["1", "2"]) == {"1": 400}
        assert tx.one("SELECT last_payment FROM institution WHERE institution = :i") == 1


def test_a_worker_that_stood_still_settles_nothing_any_more(ledger: Ledger) -> None:
    read(ledger, fee())
    send(ledger, line("charge", 1000))
    pay(ledger, "1", 400)
    with ledger.write() as tx:
        (row,) = payments.to_post(tx)
        slow = payments.mark_posting(tx, row, 400)
    with ledger.write() as tx:
        (row,) = payments.to_post(tx)
        quick = payments.mark_posting(tx, payments.settle_posting(tx, row, "new"), 400)
    with pytest.raises(LeaseTaken), ledger.write() as tx:
        payments.settle_posting(tx, slow, "posted", posted=400)
    with ledger.write() as tx:
        payments.settle_posting(tx, quick, "posted", posted=400)
    assert position(ledger)["posted"] == 400


def test_the_same_file_is_kept_once(ledger: Ledger) -> None:
    with ledger.write() as tx:
        assert payments.keep_file(tx, "a.csv", "1" * 64, b"one")
        assert not payments.keep_file(tx, "a.csv", "1" * 64, b"one")
        assert payments.keep_file(tx, "a.csv", "2" * 64, b"two")
    with ledger.read() as tx:
        assert [payments.file_content(tx, row["name"], row["sha256"]) for row in payments.files(tx, "found")] == [
            b"one", b"two",
        ]  # fmt: skip


# -- exceptions ----------------------------------------------------------------------------------------


def listed(kind: str = "no EMPLID", amount: int = 1000, subject: str = f"fee {FEE}") -> Listed:
    return Listed(kind, subject, amount, "detail", fee_id=FEE)


def test_an_exception_is_opened_once_and_follows_its_amount(ledger: Ledger) -> None:
    with ledger.write() as tx:
        assert exceptions.open_all(tx, [listed()]) == 1
        assert exceptions.open_all(tx, [listed(amount=900)]) == 0
    with ledger.read() as tx:
        assert [(row["kind"], row["amount"]) for row in exceptions.open_items(tx)] == [("no EMPLID", 900)]
        assert [(row["kind"], row["n"]) for row in exceptions.totals(tx)] == [("no EMPLID", 1)]


def test_an_exception_closes_when_it_no_longer_stands(ledger: Ledger) -> None:
    with ledger.write() as tx:
        exceptions.open_all(tx, [listed(), listed("in dispute"), listed(subject="fee 2")])
        assert exceptions.close_others(tx, [f"fee {FEE}"], [listed("in dispute")]) == 1
    with ledger.read() as tx:
        assert sorted((row["kind"], row["subject"]) for row in exceptions.open_items(tx)) == [
            ("in dispute", f"fee {FEE}"), ("no EMPLID", "fee 2"),
        ]  # fmt: skip
    with ledger.write() as tx:
        # What comes back is a new entry; the old one keeps its end.
        assert exceptions.open_all(tx, [listed()]) == 1
        assert tx.one("SELECT COUNT(*) FROM exception_item WHERE institution = :i") == 4


def test_an_entry_is_told_with_the_fee_it_is_about(ledger: Ledger) -> None:
    read(ledger, fee())
    pay(ledger, "1", 1250, posted=1000)
    with ledger.write() as tx:
        (row,) = tx.rows("SELECT * FROM payment_now WHERE institution = :i")
        exceptions.open_all(tx, [listed(), exceptions.overpaid(row, 1000)])
        told = sorted(exceptions.describe(row) for row in exceptions.open_items(tx))
    assert told == [
        f"fee {FEE}: no EMPLID, 10.00; detail",
        f"payment 1 (fee {FEE}): paid more than Alma's balance, 2.50; 2.50 of 12.50 not in Alma; file file.csv, line 2",
    ]


def test_of_a_fee_that_the_ledger_does_not_know_nothing_is_told(ledger: Ledger) -> None:
    with ledger.read() as tx:
        assert story.of_fee(tx, FEE) == []


# -- the balances line ---------------------------------------------------------------------------------


def balances(ledger: Ledger) -> dict[str, int]:
    with ledger.read() as tx:
        return {name: int(value) for name, value in fees.balances(tx).items() if name != "institution"}


def test_an_empty_ledger_balances_at_nought(ledger: Ledger) -> None:
    assert balances(ledger) == dict.fromkeys(
        ("fees", "alma", "peoplesoft", "explained", "on_its_way", "unexplained"), 0
    )


def test_a_difference_is_explained_on_its_way_or_neither(ledger: Ledger) -> None:
    for number, balance in enumerate((1000, 500, 200, 70)):
        read(ledger, fee(balance, fee_id=str(number)))
    send(ledger, line("charge", 1000, "0"))  # equal
    plan(ledger, line("charge", 500, "1"))  # on its way
    with ledger.write() as tx:
        exceptions.open_all(tx, [Listed("no EMPLID", "fee 2", 200, "", fee_id="2")])  # explained
    assert balances(ledger) == {
        "fees": 4, "alma": 1770, "peoplesoft": 1000, "explained": 200, "on_its_way": 500, "unexplained": 70,
    }  # fmt: skip


def test_what_is_paid_too_much_does_not_stand_on_the_item(ledger: Ledger) -> None:
    read(ledger, fee(0, status="CLOSED"))
    send(ledger, line("charge", 1000))
    pay(ledger, "1", 1500, posted=1000)
    assert balances(ledger)["peoplesoft"] == 0


# -- opening -------------------------------------------------------------------------------------------


def test_a_ledger_is_opened_once_by_a_person(ledger: Ledger) -> None:
    with ledger.write() as tx, pytest.raises(SendingStopped, match="never opened"):
        institutions.require_opened(tx)
    with ledger.write() as tx:
        institutions.open_clean(tx, "the bursar")
        institutions.require_opened(tx)
    with (
        ledger.write() as tx,
        pytest.raises(Fatal, match=r"was opened at 20\d\d-\d\d-\d\dT\d\d:\d\dZ by the bursar"),
    ):
        institutions.open_clean(tx, "the bursar")
