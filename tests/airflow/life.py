"""A simulated campus whose fees the real DAGs keep equal, and all that can be asked of its books."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from alma_hook.ledger import Ledger, Row, Tx, instant, institutions, moment
from simulator.airflow_home import AirflowHome
from simulator.alma import NOT_AT_DESK
from simulator.campus import Campus
from simulator.deaths import Deaths, Moment
from simulator.demo import by_hand

#: A lost worker or scheduler is noticed after seconds instead of minutes.
NOTICE_SOON = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
}
#: What the ledger compares with its database's clock.
_MARKS = {
    "payment": ("payment_key", ("marked_at",)),
    "lease": ("direction", ("expires_at",)),
    "batch": ("batch_id", ("changed_at", "acknowledged_at", "uploaded_at")),
}


def one_call_at_a_time(settings: str) -> str:
    """With several under way a death would leave as many payments in doubt."""
    return settings.replace("[alma_to_sis]\n", "[alma_to_sis]\nworkers = 1\n")


def until(true: Callable[[], Any], timeout: float = 60) -> None:
    """Wait until something is so, that many seconds at most."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Life:
    """One campus, its ledger, and the Airflow between its two sides, which two campuses may share in turns."""

    campus: Campus
    airflow: AirflowHome
    ledger_url: str
    settings: str
    settings_file: Path

    # -- runs ------------------------------------------------------------------------------------------------

    def take_turn(self) -> None:
        """Let the DAGs work for this campus from now on: tasks read the settings when they run."""
        unfinished = self.settings_file.with_suffix(".writing")
        unfinished.write_text(self.settings)
        unfinished.replace(self.settings_file)
        self.campus.faults.clear()

    def start(self, dag_id: str, **params: str) -> str:
        """Start a run, its form filled in like this, and return its id."""
        return self.airflow.trigger(dag_id, params)

    def run(self, dag_id: str, **params: str) -> tuple[str, str]:
        """Run a DAG to its end; return the run's id and state."""
        run_id = self.start(dag_id, **params)
        return run_id, self.wait(dag_id, run_id)

    def wait(self, dag_id: str, run_id: str) -> str:
        """Wait for a run's end and return its state."""
        return self.airflow.wait(dag_id, run_id, timeout=120)

    def wait_in_line(self, dag_id: str, run_id: str) -> str:
        """The same, where tasks that found another run at work at every try are cleared until they had a turn."""
        for _ in range(5):
            state = self.wait(dag_id, run_id)
            if state == "success":
                break
            for task_id, task_state in self.airflow.task_states(dag_id, run_id).items():
                if task_state == "failed":
                    assert "works in this direction" in self.airflow.task_log(dag_id, run_id, task_id)
            self.airflow.clear(dag_id, run_id)
        return state

    def tries(self, dag_id: str, run_id: str, task_id: str) -> int:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return int(self.airflow.api("GET", path)["try_number"])

    def deaths(self, *moments: Moment, strike: Callable[[Moment], object] | None = None) -> Deaths:
        """Let tasks die at these moments, one after the other; each death notes what was open then."""
        found = Deaths(self.airflow, self.campus.faults, strike=strike, look=lambda _: self.open())
        found.await_(*moments)
        return found

    def by_hand(self, *command: str) -> str:
        """What a person types. Raises RuntimeError with what was said when it is refused."""
        return by_hand(*command, settings=self.settings_file, ledger=self.ledger_url)

    # -- the campus ------------------------------------------------------------------------------------------

    def days_work(self, fees: int = 0, waives: int = 0) -> None:
        """New fees, part of some that nobody has paid of yet waived, and the night's report that shows it all."""
        if waives:
            self._charged()
        sfs = self.campus.peoplesoft
        unpaid = [item for item in sfs.open_items() if item.applied_cents == 0 and item.balance_cents > 1]
        for item in unpaid[:waives]:
            fee_id = item.reference.removeprefix(self.campus.reference_prefix)
            self.campus.alma.waive_at_desk(fee_id, item.balance_cents // 2)
        self.campus.new_fees(fees)
        self.campus.refresh_analytics()

    def students_pay(self, count: int) -> None:
        """So many students pay an item in PeopleSoft, whose query then shows it."""
        self._charged()
        items = len(self.campus.peoplesoft.open_items())
        assert self.campus.students_pay(count / items) == count
        self.campus.write_query_output()

    def _charged(self) -> None:
        if not self.campus.peoplesoft.items:
            assert self.run("alma_to_sis")[1] == "success"
            self.campus.load_inbound()

    def inbound(self) -> dict[str, int]:
        """What lies in PeopleSoft's inbound folder: name and size."""
        folder = self.campus.path(self.campus.folders.inbound)
        return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}

    def parts(self) -> list[int]:
        """The sizes of what lies there under a temporary name."""
        return [size for name, size in self.inbound().items() if name.endswith(".part")]

    # -- the ledger ------------------------------------------------------------------------------------------

    def open_ledger(self) -> None:
        """Make the ledger and open it for live running."""
        ledger = Ledger(self.ledger_url, self.campus.alma.institution)
        ledger.migrate()
        with ledger.write() as tx:
            institutions.open_clean(tx, "the bursar")
        ledger.close()

    @contextmanager
    def ledger(self, *, write: bool = False) -> Iterator[Tx]:
        ledger = Ledger(self.ledger_url, self.campus.alma.institution, run_id="a witness")
        try:
            with ledger.write() if write else ledger.read() as tx:
                yield tx
        finally:
            ledger.close()

    def rows(self, sql: str, **values: Any) -> list[Row]:
        with self.ledger() as tx:
            return tx.rows(sql, **values)

    def open(self) -> list[str]:
        """What the ledger has under way: batches that wait for their delivery, payments in doubt."""
        batches = self.rows(
            "SELECT kind, state, acknowledged_at FROM batch WHERE institution = :i "
            "AND state NOT IN ('delivered', 'cancelled') ORDER BY batch_id"
        )
        payments = self.rows(
            "SELECT state, COUNT(*) AS n FROM payment WHERE institution = :i AND state IN ('posting', 'unknown') "
            "GROUP BY state ORDER BY state"
        )
        return [
            *(
                f"{row['kind']} {row['state']}{', acknowledged' if row['acknowledged_at'] else ''}"
                for row in batches
            ),
            *(f"{row['n']} {row['state']}" for row in payments),
        ]

    def listed(self) -> Counter[str]:
        """Open exceptions by kind, but for the campus's four lasting ones."""
        rows = self.rows(
            "SELECT kind, fee_id FROM exception_item WHERE institution = :i AND closed_at IS NULL"
        )
        return Counter(row["kind"] for row in rows if row["fee_id"] not in self.campus.oddities.all)

    def time_passes(self, **span: float) -> None:
        """Let a span pass for the ledger, by moving its marks back.

        Its rules compare a mark with the database's clock and nothing else, so for them this is the same
        as waiting. A quiet period of ten minutes, or the four hours of a batch at rest, can't be waited
        for in a test.
        """
        with self.ledger(write=True) as tx:
            for table, (key, columns) in _MARKS.items():
                for row in tx.rows(f"SELECT * FROM {table} WHERE institution = :i"):
                    for column in columns:
                        if row[column] is not None:
                            tx.run(
                                f"UPDATE {table} SET {column} = :at WHERE institution = :i AND {key} = :key",
                                at=instant(moment(row[column]) - timedelta(**span)),
                                key=row[key],
                            )

    # -- the promises ----------------------------------------------------------------------------------------

    def broken(self) -> list[str]:
        """Every promise that the two far sides' own books show broken; PeopleSoft loads first what lies there."""
        self.campus.load_inbound()
        sfs = self.campus.peoplesoft
        loads = Counter(load.file_name for load in sfs.loads)
        with self.campus.alma.lock:
            ours = [
                (fee.id, transaction)
                for fee in self.campus.alma.fees.values()
                for transaction in fee.transactions
                if transaction.kind == "PAYMENT" and transaction.received_by == NOT_AT_DESK
            ]
        keys = Counter(transaction.external_transaction_id for _, transaction in ours)
        paid: Counter[str] = Counter()
        for fee_id, transaction in ours:
            paid[fee_id] += transaction.amount_cents
        return [
            *(f"{name} was loaded {times} times" for name, times in loads.items() if times > 1),
            *(f"{load.file_name} was refused" for load in sfs.loads if not load.loaded),
            *(f"payment {key} is in Alma {times} times" for key, times in keys.items() if times > 1),
            *self._stuck(),
            *self._unequal(paid),
        ]

    def _stuck(self) -> list[str]:
        left = self.rows("SELECT name FROM payment_file WHERE institution = :i AND state <> 'archived'")
        waiting = self.rows(
            "SELECT payment_no, state FROM payment WHERE institution = :i AND state <> 'posted'"
        )
        return [
            *(f"open: {what}" for what in self.open()),
            *(f"payment {row['payment_no']} is {row['state']}" for row in waiting),
            *(f"payment file {row['name']} was not archived" for row in left),
        ]

    def _unequal(self, paid: Mapping[str, int]) -> list[str]:
        books = self.campus.books()
        told = {
            row["fee_id"]: (int(row["charged"]), int(row["credited"]), int(row["posted"]))
            for row in self.rows("SELECT * FROM fee_position WHERE institution = :i")
        }
        listed = {
            row["fee_id"]: int(row["alma"]) - int(row["peoplesoft"])
            for row in self.rows("SELECT * FROM fee_balance WHERE institution = :i AND exceptions > 0")
        }
        found = [f"PeopleSoft has {cents} cents on {what}, no fee" for what, cents in books.foreign.items()]
        for fee in books.fees.values():
            far = (fee.charged_cents, fee.credited_cents, paid.get(fee.fee_id, 0))
            if far != told.get(fee.fee_id, (0, 0, 0)):
                found.append(
                    f"fee {fee.fee_id}: charged, credited, posted is {far}, told {told.get(fee.fee_id)}"
                )
            if fee.paid_cents != paid.get(fee.fee_id, 0):
                found.append(f"fee {fee.fee_id}: paid {fee.paid_cents}, in Alma {paid.get(fee.fee_id, 0)}")
            if fee.difference_cents != listed.get(fee.fee_id, 0):
                found.append(
                    f"fee {fee.fee_id}: differs by {fee.difference_cents}, {listed.get(fee.fee_id)} listed"
                )
        [balances] = self.rows("SELECT * FROM balances WHERE institution = :i")
        return [*found, *([f"unexplained {balances['unexplained']}"] if balances["unexplained"] else [])]
