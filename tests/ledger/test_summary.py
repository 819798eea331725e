"""What a run has come to, as the ledger tells it again however often it is asked, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from alma_hook.keys import external_id
from alma_hook.ledger import Ledger, batches, exceptions, holds, payments, summary
from tests.ledger.test_books import FEE, INSTITUTION, TARGET, USER, fee, line, pay, read, send

OUT, BACK = "alma_to_sis", "sis_to_alma"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url, INSTITUTION, run_id="scheduled", actor=f"{OUT}.plan_batches")
    ledger.migrate()
    yield ledger
    ledger.close()


def shown(ledger: Ledger, dag_id: str = OUT, begun: datetime | None = None) -> str:
    with ledger.read() as tx:
        return summary.text(summary.of_run(tx, dag_id, begun), f"{dag_id}, live")


def columns(text: str) -> list[list[str]]:
    return [row.split() for row in text.splitlines()]


def take_file(ledger: Ledger, name: str, sha256: str, state: str, **counts: int) -> None:
    with ledger.write() as tx:
        payments.keep_file(tx, name, sha256, b"")
        payments.move_file(tx, name, sha256, state, **counts)


def test_a_run_that_sends(ledger: Ledger) -> None:
    read(ledger, fee())
    send(ledger, line("charge", 1000))
    with ledger.write() as tx:
        exceptions.open_all(tx, [exceptions.Listed("no EMPLID", "fee 2", 250, "", "2")])

    assert shown(ledger) == "\n".join(
        [
            "alma_to_sis, live",
            "",
            "BATCH    KIND     STATE         LINES         TOTAL  FILE",
            "000001   charges  delivered         1         10.00  alma_000001.dat",
            "",
            "                 AMOUNT  BALANCES OF 1 FEES",
            "                  10.00  Alma",
            "                  10.00  PeopleSoft",
            "                   0.00  of the difference, explained by open exceptions",
            "                   0.00  of the difference, on its way",
            "                   0.00  of the difference, UNEXPLAINED",
            "",
            "  COUNT           TOTAL    NEW  OPEN EXCEPTIONS",
            "      1            2.50      1  no EMPLID",
        ]
    )


def test_a_run_that_takes_in_and_posts(ledger: Ledger) -> None:
    send(ledger, line("charge", 1000))
    read(ledger, fee())
    ledger.run_id, ledger.actor = "scheduled", f"{BACK}.post_payments"
    take_file(ledger, "paid 1.csv", "0" * 64, "taken", lines=3, lines_new=2, lines_refused=1)
    take_file(ledger, "paid 2.csv", "1" * 64, "refused")
    pay(ledger, "A", 400, posted=300)
    pay(ledger, "B", 500)

    found = columns(shown(ledger, BACK))

    assert ["3", "2", "1", "paid", "1.csv"] in found
    assert ["0", "0", "0", "paid", "2.csv,", "refused", "as", "a", "whole"] in found
    assert ["2", "9.00", "taken", "in"] in found
    assert ["1", "3.00", "posted", "to", "Alma"] in found
    # The run of the other DAG has the same id.
    assert "000001" not in shown(ledger, BACK)
    assert "taken in" not in shown(ledger, OUT)


def test_it_is_the_same_when_other_runs_went_on(ledger: Ledger) -> None:
    read(ledger, fee())
    send(ledger, line("charge", 1000))
    before = shown(ledger)
    ledger.run_id = "another"
    pay(ledger, "A", 400)
    with ledger.write() as tx:
        exceptions.open_all(tx, [exceptions.Listed("no EMPLID", "fee 2", 250, "", "2")])
    send(ledger, line("credit", 100))
    assert "000002" in shown(ledger)
    assert "000001" not in shown(ledger)

    ledger.run_id = "scheduled"
    after = shown(ledger)

    assert after.partition("AMOUNT")[0] == before.partition("AMOUNT")[0]
    assert columns(after)[-1] == ["1", "2.50", "0", "no", "EMPLID"]


def test_nothing_older_than_the_run_is_looked_at(ledger: Ledger) -> None:
    send(ledger, line("charge", 1000))
    now = datetime.now(UTC)
    assert "000001" in shown(ledger, begun=now)
    assert "000001" not in shown(ledger, begun=now + timedelta(days=2))


def test_held_batches_and_their_answers(ledger: Ledger) -> None:
    read(ledger, fee())
    with ledger.write() as tx:
        held = batches.open_batch(tx, "charges", True, [line("charge", 1000)], TARGET, held=True)
        holds.set_aside(tx, held, ["1 lines, brake.max_lines is 0"])
        rehearsed = batches.open_batch(tx, "charges", False, [line("charge", 1000)], TARGET)
        holds.set_aside(tx, rehearsed, ["1 lines, brake.max_lines is 0"])
    found = columns(shown(ledger))
    assert ["000001", "charges", "held", "1", "10.00"] in found
    assert ["P000001", "charges", "dry", "run", "1", "10.00", "alma_P000001.dat"] in found
    assert "         waits for an answer: 1 lines, brake.max_lines is 0\n" in shown(ledger)
    assert "         would be held: 1 lines, brake.max_lines is 0\n" in shown(ledger)

    with ledger.write() as tx:
        holds.refuse(tx, held, "the bursar", "a policy that was not agreed")
    found = columns(shown(ledger))
    assert ["000001", "charges", "cancelled", "1", "10.00"] in found
    assert "         refused by the bursar: 1 lines, brake.max_lines is 0\n" in shown(ledger)
    assert "policy" not in shown(ledger)


def test_a_released_batch_is_replaced_by_what_still_holds(ledger: Ledger) -> None:
    read(ledger, fee())
    with ledger.write() as tx:
        held = batches.open_batch(tx, "charges", True, [line("charge", 1000)], TARGET, held=True)
        holds.set_aside(tx, held, ["1 lines, brake.max_lines is 0"])
        holds.release(tx, held, holds.digest(tx, held), "the bursar", "looked at")
        batches.drop_unsent(tx)
    send(ledger, line("charge", 1000))
    found = columns(shown(ledger))
    assert ["000001", "charges", "replaced", "1", "10.00"] in found
    assert "released by the bursar: 1 lines" in shown(ledger)
    assert ["000002", "charges", "delivered", "1", "10.00", "alma_000002.dat"] in found


def test_no_apostrophe_colours_the_rest_as_a_quotation(ledger: Ledger) -> None:
    with ledger.write() as tx:
        exceptions.open_all(tx, [exceptions.Listed(exceptions.OVERPAID, "payment 1", 1, "")])
    assert "paid more than Alma\u2019s balance" in shown(ledger)
    assert "'" not in shown(ledger)


def test_a_run_in_which_nothing_happened(ledger: Ledger) -> None:
    text = shown(ledger)
    assert text.splitlines()[2] == "Nothing was sent, taken in or posted."
    assert "BATCH" not in text
    assert "EXCEPTIONS" not in text


def test_what_airflow_shows_is_never_cut_within_a_line(ledger: Ledger) -> None:
    for number in range(30):
        take_file(ledger, f"paid {number:02d}.csv", f"{number:064d}"[::-1], "taken", lines=1)
    with ledger.write() as tx:
        entries = [
            exceptions.Listed(f"kind {number} " + "x" * 60, f"fee {number}", 1, "") for number in range(60)
        ]
        exceptions.open_all(tx, entries)

    text = shown(ledger)

    assert len(text) < 4096
    assert "paid 29.csv" in text
    assert "paid 09.csv" not in text
    assert "... 10 lines before these" in text
    assert text.splitlines()[-1] == "and more: `python -m alma_hook exceptions`"


def test_no_patron_is_named(ledger: Ledger) -> None:
    read(ledger, fee())
    send(ledger, line("charge", 1000))
    pay(ledger, "A", 400, posted=300)
    text = shown(ledger)
    assert [word for word in (USER, FEE, external_id(INSTITUTION, "A")) if word in text] == []
