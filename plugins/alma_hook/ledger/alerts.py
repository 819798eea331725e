"""What people were told of, and when."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from alma_hook.ledger.store import Tx, instant, moment

FINISHED = "run finished"
SPOKEN = "failure told"


def due(tx: Tx, cause: str, subject: str, repeat_hours: int) -> bool:
    """Whether people are to be told: for the first time, once more after these hours, or since it is back."""
    row = tx.row(
        "SELECT * FROM alert WHERE institution = :i AND cause = :c AND subject = :s AND over_at IS NULL",
        c=cause,
        s=subject,
    )
    return row is None or row["sent_at"] <= instant(moment(tx.now) - timedelta(hours=repeat_hours))


def told(tx: Tx, cause: str, subject: str) -> None:
    """Note that people were told."""
    tx.run(
        "INSERT INTO alert VALUES (:i, :c, :s, :now, :now, 1, NULL) ON CONFLICT (institution, cause, subject) DO UPDATE SET "
        "first_at = CASE WHEN alert.over_at IS NULL THEN alert.first_at ELSE excluded.first_at END, "
        "sent_at = excluded.sent_at, times = alert.times + 1, over_at = NULL",
        c=cause,
        s=subject,
        now=tx.now,
    )


def over(tx: Tx, causes: Collection[str], lasting: Collection[tuple[str, str]]) -> None:
    """Note what of these causes lasts no longer: told again, should it come back."""
    for row in tx.rows("SELECT cause, subject FROM alert WHERE institution = :i AND over_at IS NULL"):
        if row["cause"] in causes and (row["cause"], row["subject"]) not in lasting:
            tx.run(
                "UPDATE alert SET over_at = :now WHERE institution = :i AND cause = :c AND subject = :s",
                now=tx.now,
                c=row["cause"],
                s=row["subject"],
            )


def spoke(tx: Tx, run: str, cause: str) -> None:
    """Note that a task of a run, or the run, has told people of its failure, or that they knew."""
    tx.event(f"run {run}", SPOKEN, cause)


def spoken_of(tx: Tx, run: str, since: str) -> bool:
    """Whether a task of this run has spoken since an instant."""
    return bool(
        tx.one(
            "SELECT 1 FROM event WHERE institution = :i AND subject = :s AND what = :what AND at >= :since LIMIT 1",
            s=f"run {run}",
            what=SPOKEN,
            since=since,
        )
    )


def finish_run(tx: Tx, dag_id: str) -> None:
    """Note that a live run of a DAG came to its end: a failure of its tasks from now on is a new one."""
    tx.event(f"dag {dag_id}", FINISHED)
    tx.run(
        "UPDATE alert SET over_at = :now WHERE institution = :i AND over_at IS NULL AND subject LIKE :of_dag",
        now=tx.now,
        of_dag=f"{dag_id}/%",
    )


def last_finished(tx: Tx, dag_id: str) -> str | None:
    """When a live run of a DAG last came to its end."""
    sql = "SELECT MAX(at) FROM event WHERE institution = :i AND subject = :s AND what = :what"
    return _last(tx, sql, s=f"dag {dag_id}", what=FINISHED)


def last_payment_file(tx: Tx) -> str | None:
    """When PeopleSoft's last payment file was found."""
    return _last(tx, "SELECT MAX(found_at) FROM payment_file WHERE institution = :i AND kind = 'payments'")


def last_export(tx: Tx) -> str | None:
    """When the last export of Alma's SIS profile was taken in by a live run."""
    return _last(tx, "SELECT MAX(taken_at) FROM export_file WHERE institution = :i AND live = 1")


def last_delivery(tx: Tx) -> str | None:
    """When the last batch with any lines was delivered."""
    sql = "SELECT MAX(delivered_at) FROM batch WHERE institution = :i AND state = 'delivered' AND line_count > 0"
    return _last(tx, sql)


def delivered_between(tx: Tx, first: str, last: str) -> list[str]:
    """Return the names at PeopleSoft's whose last file was delivered between two instants."""
    rows = tx.rows(
        "SELECT COALESCE(sent_as, file_name) AS file_name FROM batch WHERE institution = :i AND state = 'delivered' "
        "AND delivered_at >= :first GROUP BY COALESCE(sent_as, file_name) HAVING MAX(delivered_at) <= :last "
        "ORDER BY MIN(batch_id)",
        first=first,
        last=last,
    )
    return [str(row["file_name"]) for row in rows]


def _last(tx: Tx, sql: str, **values: str) -> str | None:
    found = tx.one(sql, **values)
    return None if found is None else str(found)
