"""One fee's life, from both systems, in order."""

from __future__ import annotations

from alma_hook.ledger import batches, payments, reversals
from alma_hook.ledger.store import Tx
from alma_hook.money import amount


def of_fee(tx: Tx, fee_id: str) -> list[tuple[str, str]]:
    """Return when and what, oldest first; empty for a fee the ledger does not know."""
    fee = tx.row("SELECT * FROM fee WHERE institution = :i AND fee_id = :fee", fee=fee_id)
    if fee is None:
        return []
    life = [(str(fee["first_seen_at"]), "first seen")]
    for line in batches.lines_of_fee(tx, fee_id):
        where = f"batch {line['batch_id']} line {line['line_no']}"
        what = f"{line['kind']} of {amount(int(line['amount']))} ({line['reason']}), {where}"
        life.append((line["created_at"], f"{what} planned by {line['run_id']}: now {line['state']}"))
        if line["held_why"] and line["batch_state"] != "preview":
            life.append((line["created_at"], f"batch {line['batch_id']} set aside: {line['held_why']}"))
        if line["answer"]:
            answered = f"batch {line['batch_id']} {line['answer']} by {line['answered_by']}"
            life.append((line["answered_at"], ", ".join(filter(None, [answered, line["answer_reason"]]))))
        if line["delivered_at"]:
            life.append((line["delivered_at"], f"batch {line['batch_id']} delivered as {line['file_name']}"))
        if line["confirmed_at"]:
            life.append((line["confirmed_at"], f"{where} seen in PeopleSoft, in {line['confirmed_in']}"))
    for payment in payments.payments_of_fee(tx, fee_id):
        where = f"{payment['file_name']} line {payment['line_no']}"
        what = f"payment {payment['payment_no']} of {amount(int(payment['amount']))}, paid {payment['paid_on']}, {where}"
        if payment["fee_id"] != payment["reported_fee_id"]:
            what += f", on fee {payment['reported_fee_id']} for fee {payment['fee_id']}"
        done = f"{payment['state']}, {amount(int(payment['posted']))} in Alma as {payment['external_id']}"
        life.append((payment["taken_at"], f"{what}: {done}"))
        life += _events(tx, f"payment {payment['payment_no']}")
    for carry in reversals.carries_of_fee(tx, fee_id):
        life.append(
            (
                carry["carried_at"],
                f"fee {carry['to_fee']} made anew for fee {carry['from_fee']}: {amount(int(carry['amount']))} of the item of "
                f"fee {carry['item_fee']} in PeopleSoft stand for it, by {carry['carried_by']}: {carry['reason']}",
            )
        )
    life += _events(tx, f"fee {fee_id}")
    item = tx.row("SELECT * FROM item WHERE institution = :i AND fee_id = :fee", fee=fee_id)
    if item is not None:
        left = "" if item["balance"] is None else f", balance {amount(int(item['balance']))}"
        life.append(
            (
                item["seen_at"],
                f"PeopleSoft: item of {amount(int(item['amount']))}{left}, in {item['file_name']}",
            )
        )
    reading = tx.row("SELECT * FROM reading WHERE institution = :i AND fee_id = :fee", fee=fee_id)
    if reading is not None:
        seen = f"Alma: {reading['status']}, balance {amount(int(reading['balance']))}"
        life.append((reading["read_at"], f"{seen}, of it paid by us {amount(int(reading['own_paid']))}"))
    for row in tx.rows("SELECT * FROM exception_item WHERE institution = :i AND fee_id = :fee", fee=fee_id):
        life.append((row["opened_at"], f"listed: {row['kind']} ({row['detail']})"))
        if row["closed_at"]:
            life.append((row["closed_at"], f"settled by {row['closed_by']}: {row['resolution']}"))
    return sorted(life, key=lambda entry: entry[0])


def _events(tx: Tx, subject: str) -> list[tuple[str, str]]:
    rows = tx.rows(
        "SELECT at, run_id, actor, what, detail FROM event WHERE institution = :i AND subject = :s "
        "AND what NOT IN ('listed', 'settled') ORDER BY event_id",
        s=subject,
    )
    life = []
    for row in rows:
        text = f"{subject}: {row['what']} by {row['actor']} in {row['run_id']}"
        life.append((str(row["at"]), ", ".join(filter(None, [text, row["detail"]]))))
    return life
