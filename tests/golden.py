"""Golden SFS files: generated lines as CSV, and beside them the whole file of every shipped layout.

``python -m tests.golden`` writes all of them again; the diff shows what a change does to PeopleSoft's files.
"""

from __future__ import annotations

import csv
import io
import random
from datetime import date
from pathlib import Path

from alma_hook import charge_file, layouts
from alma_hook.charges import frame
from alma_hook.ledger.batches import Line

FOLDER = Path(__file__).parent / "golden"
KINDS = ("charges", "credits")
CREDIT_ITEM_TYPE = "820000000001"
_ITEM_TYPES = {
    "300000000001": "Overdue fine",
    "300000000002": "Lost item replacement",
    "300000000003": "Lost item processing",
}


def lines(kind: str) -> list[Line]:
    """Return generated lines: the narrowest and widest values, and a dozen between."""
    rng = random.Random(f"golden {kind}")
    amounts = [1, 99, 100, 999_999_999_99, *(rng.randrange(25, 20000) for _ in range(12))]
    # The widest that the narrower layouts take, and a cent more.
    amounts += [digits + more for digits in (999_999, 99_999_999, 999_999_999) for more in (0, 1)]
    made = []
    for number, amount in enumerate(amounts):
        item_type, description = rng.choice(list(_ITEM_TYPES.items()))
        fee_id = str(rng.randrange(10**15, 10**18))
        made.append(
            Line(
                fee_id=fee_id,
                kind=kind.removesuffix("s"),
                amount=amount,
                emplid=f"{'09'[number % 2]}{rng.randrange(10**8):08d}",
                item_type=item_type,
                term="2268" if number % 4 else "",
                reference=f"ALMA{fee_id}",
                description="Thirty characters, as it says." if number == 3 else description,
                account_type="LIB",
                effective_date=date(2026, 11, 1 + number).isoformat(),
                due_date="2026-12-31" if number % 3 == 0 else "",
                reason="new",
                item_fee=fee_id,
            )
        )
    return made


def lines_of(layout: layouts.Layout, of: list[Line]) -> list[Line]:
    """Return those of the lines that a layout has room for, credits with an item type of their own where it needs one."""
    if not layout.marks_credits:
        of = [
            line._replace(item_type=CREDIT_ITEM_TYPE, credit_item=1) if line.kind == "credit" else line
            for line in of
        ]
    wrong = charge_file.misfits(layout, frame(of))
    return [line for line in of if line.fee_id not in wrong]


def control(kind: str, of: list[Line]) -> charge_file.Control:
    """Return what the header says of these lines."""
    return charge_file.Control(
        kind=kind,
        line_count=len(of),
        total=sum(line.amount for line in of),
        origin_id="LIB01",
        business_unit="CAMPS",
        currency="USD",
        file_date=date(2026, 11, 22),
    )


def as_csv(of: list[Line]) -> str:
    """Return lines as the CSV that lies beside the files."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    told = [name for name in Line._fields if name != "item_fee"]
    writer.writerow(told)
    writer.writerows([getattr(line, name) for name in told] for line in of)
    return out.getvalue()


def from_csv(text: str) -> list[Line]:
    """Return the lines of such a CSV."""
    rows = csv.DictReader(io.StringIO(text))
    numbers = ("amount", "credit_item")
    return [
        Line(**{**row, **{name: int(row[name]) for name in numbers}}, item_fee=row["fee_id"]) for row in rows
    ]


def file(layout: str, kind: str, of: list[Line]) -> bytes:
    """Return the SFS file of these lines."""
    return charge_file.write(layouts.load(layout), control(kind, of), frame(of))


def main() -> None:
    """Write every golden file."""
    for kind in KINDS:
        of = lines(kind)
        _write(FOLDER / f"{kind}.csv", as_csv(of).encode())
        for layout in layouts.shipped():
            _write(FOLDER / f"{layout}.{kind}.dat", file(layout, kind, lines_of(layouts.load(layout), of)))


def _write(path: Path, content: bytes) -> None:
    same = path.exists() and path.read_bytes() == content
    path.write_bytes(content)
    print(f"{'same    ' if same else 'written '} {path.name}")


if __name__ == "__main__":
    main()
