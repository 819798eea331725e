"""Fees of people who are not in PeopleSoft, for whoever asks them for the money."""

from __future__ import annotations

import csv
from pathlib import Path

from alma_hook import private_file
from alma_hook.charges import NO_EMPLID, NOT_IN_PEOPLESOFT, OTHER_SHAPE
from alma_hook.ledger import Tx, exceptions
from alma_hook.money import amount

HEADING = ("primary_id", "fee_id", "fee_type", "library", "made_at", "amount", "read_at")


def write(tx: Tx, path: Path) -> tuple[int, int]:
    """Write the whole list as of the last readings to a new CSV file; return fees and cents.

    It holds primary ids. Raises ``Fatal`` when the file is there already.
    """
    rows = exceptions.fees_listed(tx, (NO_EMPLID, OTHER_SHAPE, NOT_IN_PEOPLESOFT))
    with private_file.create(path) as file:
        writer = csv.writer(file)
        writer.writerow(HEADING)
        for row in rows:
            told = (row["user_id"], row["fee_id"], row["type"], row["owner"], row["made_at"] or "")
            writer.writerow((*told, amount(int(row["balance"])), row["read_at"]))
    return len(rows), sum(int(row["balance"]) for row in rows)
