"""What people have to be told of though no task is red: what is late, missing, waiting or old.

All of it is read from the ledger, so it is known as well when runs were never made, or died.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from croniter import croniter

from alma_hook.campus import Campus
from alma_hook.ledger import Tx, alerts, exceptions, holds, instant, institutions, moment, reversals
from alma_hook.money import amount

#: Files that were delivered longer ago are not looked for any more.
_LOOK_BACK_DAYS = 30
LATE, HELD, OLD = "late", "held for approval", "exceptions grown old"
NOT_COLLECTED, NO_PAYMENTS, NO_EXPORT, NOTHING_SENT = (
    "delivered, not collected", "no payment file", "no export of Alma's", "nothing delivered",
)  # fmt: skip
#: Every cause that lasts until the ledger says otherwise.
CAUSES = (LATE, HELD, OLD, NOT_COLLECTED, NO_PAYMENTS, NO_EXPORT, NOTHING_SENT)


@dataclass(frozen=True)
class Alert:
    """One thing that people are told. ``subject`` names what it is about; ``dag_id`` is where to look. No patron data."""

    cause: str
    subject: str
    text: str
    do: str
    dag_id: str


#: Kinds of exceptions that are told after a day: until a person has looked, nobody knows what became of the money.
IN_DOUBT = frozenset(
    {
        "batch unconfirmed",
        "outcome of the posting unclear",
        "payment file refused",
        "list of items refused",
        exceptions.SHRUNKEN,
        reversals.TAKEN_BACK,
        reversals.BACK,
    }
)


def conditions(tx: Tx, campus: Campus, uncollected: Collection[str] | None) -> list[Alert]:
    """Return all that lasts now. ``uncollected``: names of files that lie in PeopleSoft's folder; ``None``: not known."""
    return [
        *_late(tx, campus),
        *_held(tx),
        *_old(tx, campus),
        *_left_lying(tx, campus, uncollected or ()),
        *_missing(tx, campus),
    ]


def _late(tx: Tx, campus: Campus) -> list[Alert]:
    """A DAG is late when the run that its schedule gives after the last one that ended is long due."""
    schedules = {
        "alma_to_sis": campus.alma_to_sis.schedule,
        "alma_to_sis_intraday": campus.alma_to_sis.intraday_schedule,
        "sis_to_alma": campus.sis_to_alma.schedule,
        "watch_fees": campus.alerts.schedule,
    }
    found = []
    for dag_id, cron in schedules.items():
        last = alerts.last_finished(tx, dag_id)
        if last is None and dag_id in ("alma_to_sis", "sis_to_alma"):
            # Never yet, since the campus went live. The other DAGs may have been switched on today.
            last = institutions.opened_at(tx)
        if cron is None or last is None:
            continue
        due: datetime = croniter(cron, moment(last).astimezone(campus.zone)).get_next(datetime)
        if moment(tx.now) > due + timedelta(minutes=campus.alerts.late_minutes):
            found.append(
                Alert(
                    LATE,
                    dag_id,
                    f"No live run of {dag_id} has come to its end since {_day(last, campus)}; one was due at "
                    f"{due:%Y-%m-%d %H:%M}.",
                    "Is the DAG paused, is a run red or still at work, are Airflow's scheduler and workers up? Nothing is "
                    "lost: the next run catches up.",
                    dag_id,
                )
            )
    return found


def _held(tx: Tx) -> list[Alert]:
    return [
        Alert(
            HELD,
            f"batch {row['batch_id']}",
            f"Not sent: {holds.describe(row)}. Planned by run {row['run_id']}.",
            "Open the run of release_batch for it, look at Required Actions, release or refuse.",
            "release_batch",
        )
        for row in holds.held(tx)
    ]


def _old(tx: Tx, campus: Campus) -> list[Alert]:
    days = campus.alerts.exception_days
    now = moment(tx.now)
    since, yesterday = instant(now - timedelta(days=days)), instant(now - timedelta(days=min(1, days)))
    rows = [
        row
        for row in exceptions.open_items(tx)
        if row["opened_at"] <= (yesterday if row["kind"] in IN_DOUBT else since)
    ]
    if not rows:
        return []
    kinds: dict[str, list[int]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(int(row["amount"]))
    listed = "; ".join(f"{len(cents)} {kind} ({amount(sum(cents))})" for kind, cents in sorted(kinds.items()))
    return [
        Alert(
            OLD,
            "exceptions",
            f"{len(rows)} entries are on the list of exceptions for {days} days or more, or for a day where nobody knows "
            f"yet what became of money: {listed}.",
            "`python -m alma_hook exceptions` names each; docs/how-it-works.md says of each kind what settles it.",
            "alma_to_sis",
        )
    ]


def sent_since(tx: Tx, campus: Campus) -> list[str]:
    """Return the names of delivered files that should have been collected by now."""
    now = moment(tx.now)
    return alerts.delivered_between(
        tx,
        instant(now - timedelta(days=_LOOK_BACK_DAYS)),
        instant(now - timedelta(hours=campus.alerts.collected_hours)),
    )


def _left_lying(tx: Tx, campus: Campus, uncollected: Collection[str]) -> list[Alert]:
    return [
        Alert(
            NOT_COLLECTED,
            name,
            f"{name} still lies in {campus.sfs.directory}, {campus.alerts.collected_hours} hours or more after its delivery.",
            "Ask the business office whether its loading runs. Do not move or delete the file.",
            "alma_to_sis",
        )
        for name in sent_since(tx, campus)
        if name in uncollected
    ]


def _missing(tx: Tx, campus: Campus) -> list[Alert]:
    a = campus.alerts
    checks = (
        (NO_PAYMENTS, a.payment_file_hours, alerts.last_payment_file(tx), "sis_to_alma",
         "PeopleSoft's query has left no payment file", "Ask the business office whether the query ran."),
        (NO_EXPORT, a.export_file_hours, alerts.last_export(tx), "alma_to_sis",
         "Alma's SIS profile has left no export", "Look at the profile's job in Alma. Until then run by another method."),
        (NOTHING_SENT, a.delivered_hours, alerts.last_delivery(tx), "alma_to_sis",
         "Nothing was delivered to PeopleSoft", "Look at the last runs: were fees found, is `live` on, is a batch held?"),
    )  # fmt: skip
    # None ever: then since the books were opened.
    opened = institutions.opened_at(tx)
    since = [(*check[:2], check[2] or opened, *check[3:]) for check in checks]
    return [
        Alert(cause, dag_id, f"{what} since {_day(last, campus)}, {hours} hours or more.", do, dag_id)
        for cause, hours, last, dag_id, what, do in since
        if hours is not None and last is not None and last <= instant(moment(tx.now) - timedelta(hours=hours))
    ]


def _day(at: str, campus: Campus) -> str:
    return f"{moment(at).astimezone(campus.zone):%Y-%m-%d %H:%M}"
