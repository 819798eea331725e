"""What one run has come to, as its events tell it: batches, files, payments, exceptions, and the balances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from alma_hook.ledger import exceptions, fees
from alma_hook.ledger.store import Row, Tx, in_list, instant
from alma_hook.money import amount

#: Airflow cuts what it shows of a task after 4096 characters.
_MOST = 3800
_ROWS = 20
#: An event's id begins with the database's time, a run's begin is by Airflow's clock.
_CLOCKS_APART = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run's ``batches`` and PeopleSoft's ``files`` in their state of now, its payments, and how the books stand.

    ``taken_in`` and ``posted``: number and cents of payments. ``listed``: new exceptions by kind;
    ``open``: all of them, as ``exceptions.totals`` gives them.
    """

    batches: Sequence[Row]
    files: Sequence[Row]
    taken_in: tuple[int, int]
    posted: tuple[int, int]
    listed: Mapping[str, int]
    open: Sequence[Row]
    balances: Row


_EVENTS = "FROM event WHERE institution = :i AND event_id >= :since AND run_id = :run AND actor LIKE :actor "


def of_run(tx: Tx, dag_id: str, begun: datetime | None = None) -> RunSummary:
    """Return what the run ``tx.run_id`` of a DAG has come to. Two DAGs may have runs of one id.

    ``begun``: nothing of the run is older, which spares a look at all events.
    """
    of = {
        "run": tx.run_id,
        "actor": f"{dag_id}.%",
        "since": "" if begun is None else instant(begun - _CLOCKS_APART),
    }
    paid = _payments(tx, of)
    listed = tx.rows(f"SELECT detail, COUNT(*) AS n {_EVENTS} AND what = 'listed' GROUP BY detail", **of)
    return RunSummary(
        batches=_batches(tx, of),
        files=_files(tx, of),
        taken_in=paid.get("taken in", (0, 0)),
        posted=paid.get("posted", (0, 0)),
        listed={row["detail"]: int(row["n"]) for row in listed},
        open=exceptions.totals(tx),
        balances=fees.balances(tx),
    )


def _batches(tx: Tx, of: Mapping[str, str]) -> list[Row]:
    """Return the batches that the run made or moved; that PeopleSoft shows a line is no work on its batch."""
    touched = tx.rows(
        f"SELECT DISTINCT subject {_EVENTS} AND subject LIKE 'batch %' AND what NOT IN ('confirmed', 'listed', 'settled')",
        **of,
    )
    sql = (
        "SELECT b.*, h.why, h.answer, h.answered_by FROM batch b "
        "LEFT JOIN batch_hold h ON h.institution = b.institution AND h.batch_id = b.batch_id "
        "WHERE b.institution = :i AND b.batch_id"
    )
    rows = in_list(tx, sql, [row["subject"].removeprefix("batch ") for row in touched])
    return sorted(rows, key=lambda row: str(row["batch_id"]))


def _files(tx: Tx, of: Mapping[str, str]) -> list[Row]:
    return tx.rows(
        "SELECT name, state, lines, lines_new, lines_refused FROM payment_file WHERE institution = :i "
        "AND 'file ' || SUBSTR(sha256, 1, 12) IN "
        f"(SELECT subject {_EVENTS} AND what IN ('taken', 'refused')) ORDER BY written_at, name",
        **of,
    )


def _payments(tx: Tx, of: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return number and cents of the payments that the run took in and posted, by the event's name."""
    told = tx.rows(f"SELECT what, subject {_EVENTS} AND what IN ('taken in', 'posted')", **of)
    numbers = [int(row["subject"].removeprefix("payment ")) for row in told]
    # One pass over them all: joined with the events, SQLite would look at each payment once for each event.
    rows = tx.rows(
        "SELECT payment_no, amount, posted FROM payment WHERE institution = :i AND payment_no BETWEEN :first AND :last",
        first=min(numbers, default=0),
        last=max(numbers, default=0),
    )
    payments = {int(row["payment_no"]): row for row in rows}
    found: dict[str, tuple[int, int]] = {}
    for row, number in zip(told, numbers, strict=True):
        count, cents = found.get(row["what"], (0, 0))
        column = "posted" if row["what"] == "posted" else "amount"
        found[row["what"]] = (count + 1, cents + int(payments[number][column]))
    return found


def text(summary: RunSummary, title: str) -> str:
    """Return a summary as columns for letters of one width, as Airflow shows them. No patron data."""
    done = [_sent(summary.batches), _taken(summary.files), _paid(summary)]
    if not any(done):
        done = [["Nothing was sent, taken in or posted."]]
    parts = [[title], *done, _books(summary.balances), _open(summary)]
    lines = "\n\n".join("\n".join(part) for part in parts if part).splitlines()
    while len("\n".join(lines)) > _MOST:
        lines = [*lines[:-2], "and more: `python -m alma_hook exceptions`"]
    # Airflow colours what follows a straight apostrophe as a quotation.
    return "\n".join(lines).replace("'", "\u2019")


def _sent(batches: Sequence[Row]) -> list[str]:
    lines = []
    for row in batches:
        state = "replaced" if row["state"] == "cancelled" and row["answer"] == "released" else row["state"]
        left = f"{row['batch_id']:8} {row['kind']:8} {_STATES.get(state, state):12}"
        file = "" if row["state"] in ("held", "released", "cancelled") else row["file_name"]
        lines.append(f"{left}{row['line_count']:>7}{amount(int(row['total'])):>14}  {file}".rstrip())
        if row["why"] is not None:
            waits = "would be held" if row["state"] == "preview" else "waits for an answer"
            answer = f"{row['answer']} by {row['answered_by']}" if row["answer"] else waits
            lines.append(f"         {answer}: {row['why']}")
    return _table(f"{'BATCH':8} {'KIND':8} {'STATE':12}{'LINES':>7}{'TOTAL':>14}  FILE", lines)


_STATES = {"preview": "dry run"}


def _taken(files: Sequence[Row]) -> list[str]:
    lines = [
        f"{row['lines']:>7}{row['lines_new']:>7}{row['lines_refused']:>9}  {row['name']}"
        + (", refused as a whole" if row["state"] == "refused" else "")
        for row in files
    ]
    return _table(f"{'LINES':>7}{'NEW':>7}{'REFUSED':>9}  FILE FROM PEOPLESOFT", lines)


def _paid(summary: RunSummary) -> list[str]:
    told = (("taken in", summary.taken_in), ("posted to Alma", summary.posted))
    lines = [f"{count:>7}{amount(cents):>16}  {name}" for name, (count, cents) in told if count]
    return _table(f"{'COUNT':>7}{'TOTAL':>16}  PAYMENTS", lines)


def _books(balances: Row) -> list[str]:
    names = (
        ("Alma", "alma"),
        ("PeopleSoft", "peoplesoft"),
        ("of the difference, explained by open exceptions", "explained"),
        ("of the difference, on its way", "on_its_way"),
        ("of the difference, UNEXPLAINED", "unexplained"),
    )
    lines = [f"{amount(int(balances[key])):>23}  {name}" for name, key in names]
    return _table(f"{'AMOUNT':>23}  BALANCES OF {balances['fees']} FEES", lines)


def _open(summary: RunSummary) -> list[str]:
    lines = [
        f"{row['n']:>7}{amount(int(row['cents'])):>16}{summary.listed.get(row['kind'], 0):>7}  {row['kind']}"
        for row in summary.open
    ]
    return _table(f"{'COUNT':>7}{'TOTAL':>16}{'NEW':>7}  OPEN EXCEPTIONS", lines, most=len(lines))


def _table(heading: str, lines: Sequence[str], most: int = _ROWS) -> list[str]:
    if len(lines) > most:
        lines = [f"... {len(lines) - most} lines before these", *lines[-most:]]
    return [heading, *lines] if lines else []
