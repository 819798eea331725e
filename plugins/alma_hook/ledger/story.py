"""One fee's life, from both systems, in order."""

from __future__ import annotations

from alma_hook.ledger import batches, payments
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
        if line["delivered_at"]:
            life.append((line["delivered_at"], f"batch {line['batch_id']} delivered as {line['file_name']}"))
        if line["confirmed_at"]:
            life.append((line["confirmed_at"], f"{where} seen in PeopleSoft, in {line['confirmed_in']}"))
    for payment in payments.payments_of_fee(tx, fee_id):
        where = f"{payment['file_name']} line {payment['line_no']}"
        what = f"payment {payment['payment_no']} of {amount(int(payment['amount']))}, paid {payment['paid_on']}, {where}"
        done = f"{payment['state']}, {amount(int(payment['posted']))} in Alma as {payment['external_id']}"
        life.append((payment["taken_at"], f"{what}: {done}"))
        life += _events(tx, f"payment {payment['payment_no']}")
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
