"""Random campus life with deaths, faults and runs that overlap, from one seed; then calm, then the books.

The code under test is the real one, down to the statements: only the clock, Alma and the far side's
folders are models. A *death* ends a worker between two statements that touch the outside, its lease
still held. An *interruption* lets other things happen while a worker stands still: campus life, an
hour's pause, the other direction, a second run of the same one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from alma_hook import charges, delivery, payment_intake, payments
from alma_hook.alma import Request
from alma_hook.alma_answers import Reply
from alma_hook.errors import AlmaHookError, Retriable
from alma_hook.ledger import Lease, Ledger, Tx, batches
from simulator.alma import NOT_AT_DESK
from tests.bridge import Bridge

METHODS = ("analytics_report", "open_fees", "all_users", "sis_profile")
FAULTS = ("fail_before", "fail_after", "drop_before", "drop_after", "broken_body", "partial_list")
DAYS = 12


class Death(BaseException):
    """The worker's process is gone. Not an ``Exception``: no code may catch it."""


class World:
    """One seed's campus. ``trace`` holds what happened, for whoever has to find out why."""

    def __init__(self, work: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng = random.Random(seed)
        self.trace: list[str] = []
        self.death = self.rng.choice([0, 0.01, 0.04])
        self.interruption = self.rng.choice([0, 0.02, 0.06])
        self.cumulative = self.rng.random() < 0.6
        mode = self.rng.choice(["rename", "rename", "direct"])
        self.bridge = Bridge(
            work, students=5, fees=4, seed=seed,
            settings=lambda text: text.replace("[sfs]", f'[sfs]\nmode = "{mode}"'),
        )  # fmt: skip
        self.far = self.bridge.far
        if self.rng.random() < 0.6:
            self._make_alma_faulty()
        self.armed = self.dead = False
        self.in_transaction = self.depth = self.runs = 0
        self.last: dict[str, str] = {}
        self.direction = ""
        self._listen(monkeypatch)

    def _make_alma_faulty(self) -> None:
        for kind in FAULTS:
            if self.rng.random() < 0.5:
                method = "GET" if kind == "partial_list" else ".*"
                self.far.faults.add_http(kind, method=method, path="/fees", times=None, probability=0.06)

    def _listen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be there before and after every commit, call and action on a file."""
        world, write = self, Ledger.write

        @contextmanager
        def watched(ledger: Ledger, lease: Lease | None = None) -> Iterator[Tx]:
            world.tick("before a transaction")
            with write(ledger, lease) as tx:
                world.in_transaction += 1
                try:
                    yield tx
                    world.tick("before a commit")
                finally:
                    world.in_transaction -= 1
            world.tick("after a commit")

        monkeypatch.setattr(Ledger, "write", watched)
        send = self.bridge.send

        def sent(request: Request) -> Reply:
            self.tick("before a call")
            if request.send_before is not None and self.seconds() > request.send_before:
                raise Retriable("The call waited too long for its turn and was not sent.")
            reply = send(request)
            self.tick("after a call")
            return reply

        monkeypatch.setattr(self.bridge.api, "_send", sent)
        self.bridge.folder.before = lambda action, _path: self.tick(action)

    def seconds(self) -> float:
        return self.far.clock.now().timestamp()

    # -- chance ------------------------------------------------------------------------------------------

    def tick(self, where: str) -> None:
        if self.dead:
            raise Death
        if not self.armed:
            return
        if self.rng.random() < self.death:
            self.dead = True
            self.trace.append(f"{self.direction} dies {where}")
            raise Death
        if not self.in_transaction and self.depth < 2 and self.rng.random() < self.interruption:
            self._meanwhile(where)

    def _meanwhile(self, where: str) -> None:
        other = self.run_back if self.direction == "out" else self.run_out
        same = self.run_out if self.direction == "out" else self.run_back
        name, happens = self.rng.choice(
            [
                ("life", self.live_on),
                ("life", self.live_on),
                ("an hour", lambda: self.far.clock.advance(hours=1)),
                ("the other way", other),
                ("the same way", same),
                ("PeopleSoft loads", self.far.load_inbound),
            ]
        )
        self.trace.append(f"{self.direction} stands still {where}: {name}")
        self.depth += 1
        try:
            happens()
        finally:
            self.depth -= 1

    def live_on(self) -> None:
        """One thing happens on the campus."""
        alma = self.far.alma
        active = [fee for fee in alma.fees.values() if fee.status == "ACTIVE" and fee.balance_cents > 1]
        disputed = [fee for fee in alma.fees.values() if fee.status == "INDISPUTE"]
        choices: list[tuple[str, Callable[[], Any]]] = [
            ("new fee", lambda: self.far.new_fees(1)),
            ("desk payment", lambda: self.far.desk_payments(1)),
            ("waiver", lambda: self.far.waives(1)),
            ("students pay", lambda: self.far.students_pay(0.2)),
            ("overpayment", lambda: self.far.overpay(1)),
        ]
        if active:
            fee = self.rng.choice(active)
            choices += [
                ("raised", lambda: alma.raise_fee(fee.id, self.rng.randrange(1, 900))),
                ("disputed", lambda: alma.dispute(fee.id)),
            ]
        if disputed:
            choices.append(("restored", lambda: alma.restore(disputed[0].id)))
        name, happens = self.rng.choice(choices)
        self.trace.append(name)
        happens()

    # -- runs ----------------------------------------------------------------------------------------------

    def run_out(self) -> None:
        """One run of alma_to_sis, task by task; a dead task's run is retried or another one begins."""
        method, live = self.rng.choice(METHODS), self.rng.random() > 0.1
        if self.rng.random() < 0.7:
            self.far.refresh_analytics()
        if method == "sis_profile":
            self.far.write_sis_export(24)
        self._run(
            "out", lambda task: self._tasks_out(task, method, live), f"{method}{'' if live else ', dry'}"
        )

    def _tasks_out(self, task: Callable[..., Any], method: str, live: bool) -> None:
        bridge = self.bridge
        task("retrieve", lambda ledger, lease: bridge.retrieve(method, ledger, lease, live))
        task("read", lambda ledger, lease: bridge.read(ledger, lease, live))
        target = bridge.folder.target
        task(
            "plan",
            lambda ledger, lease: charges.plan(
                ledger, lease, bridge.campus, bridge.layout, target, live, bridge.marks
            ),
        )
        task("write", lambda ledger, lease: self._write(ledger, lease, live))
        if live:
            task("upload", self._upload)

    def _write(self, ledger: Ledger, lease: Lease, live: bool) -> None:
        with ledger.read() as tx:
            rows = batches.in_states(tx, "planned") if live else batches.previews_of_run(tx)
        for row in rows:
            charges.write_file(ledger, lease, self.bridge.campus, self.bridge.layout, row)

    def _upload(self, ledger: Ledger, lease: Lease) -> None:
        delivery.deliver_all(
            ledger, lease, self.bridge.campus.sfs, self.bridge.folder, self.bridge.folder, self.bridge.marks
        )
        payments.settle_by_credits(ledger, lease)

    def run_back(self) -> None:
        """One run of sis_to_alma."""
        if self.rng.random() < 0.7:
            self.far.write_query_output(cumulative=self.cumulative)
        self._run("back", self._tasks_back, "payments")

    def _tasks_back(self, task: Callable[..., Any]) -> None:
        bridge = self.bridge
        task(
            "find",
            lambda ledger, lease: payment_intake.find_files(bridge.folder, ledger, lease, bridge.campus),
        )
        task("take in", lambda ledger, lease: payment_intake.take_in(ledger, lease, bridge.campus))
        task(
            "post",
            lambda ledger, lease: payments.post(
                ledger, lease, bridge.campus, bridge.api, bridge.marks, monotonic=self.seconds
            ),
        )
        task(
            "archive",
            lambda ledger, lease: payment_intake.archive_files(
                bridge.folder, ledger, lease, bridge.campus, bridge.marks
            ),
        )

    def _run(self, direction: str, tasks: Callable[[Callable[..., Any]], None], what: str) -> None:
        before, self.direction = self.direction, direction
        if direction not in self.last or self.rng.random() > 0.35:
            self.runs += 1
            self.last[direction] = f"{direction} {self.runs}"
        run_id = self.last[direction]
        self.trace.append(f"run {run_id} ({what})")

        def task(name: str, work: Callable[[Ledger, Lease], Any]) -> None:
            ledger = self.bridge.ledger(run_id)
            try:
                with ledger.lease(direction, f"{run_id}/{name}") as lease:
                    work(ledger, lease)
            finally:
                ledger.close()

        try:
            tasks(task)
        except Death:
            self.dead = False
        except AlmaHookError as error:
            self.trace.append(f"{run_id} ends: {type(error).__name__} {str(error)[:80]}")
        finally:
            self.direction = before

    # -- a life, and its end ---------------------------------------------------------------------------------

    def live(self) -> None:
        """Days of it, with everything that may go wrong."""
        self.armed = True
        for _ in range(DAYS):
            for _ in range(self.rng.randrange(4)):
                self.live_on()
            self.rng.choice([self.run_out, self.run_back])()
            if self.rng.random() < 0.6:
                self.far.load_inbound()
            self.far.clock.advance(seconds=self.rng.choice([30, 400, 4000, 40_000]))
        self.armed = False

    def calm_down(self) -> None:
        """No more faults; a person says of each batch in doubt what PeopleSoft's office knows; both ways run out."""
        self.far.faults.clear()
        self.death = self.interruption = 0
        for fee in [fee for fee in self.far.alma.fees.values() if fee.status == "INDISPUTE"]:
            self.far.alma.restore(fee.id)
        for _ in range(6):
            self.far.clock.advance(hours=1)
            self.last = {}
            self.far.load_inbound()
            self._decide_by_hand()
            self.far.refresh_analytics()
            self._run("out", lambda task: self._tasks_out(task, "all_users", True), "all_users")
            self.far.load_inbound()
            self.far.write_query_output(cumulative=True)
            self._run("back", self._tasks_back, "payments")

    def _decide_by_hand(self) -> None:
        loaded = {load.file_name for load in self.far.peoplesoft.loads}
        ledger = self.bridge.ledger("a person")
        with suppress(Retriable), ledger.lease("out", "a person") as lease:
            with ledger.read() as tx:
                rows = batches.in_states(tx, "unconfirmed")
            for row in rows:
                with ledger.write(lease) as tx:
                    decide = batches.deliver if row["file_name"] in loaded else batches.drop
                    decide(tx, row["batch_id"], "unconfirmed")
        ledger.close()

    # -- what must hold ----------------------------------------------------------------------------------------

    def violations(self) -> list[str]:
        """What the simulator's own books say against the bridge; empty when every promise was kept."""
        far = self.far
        loads = Counter(load.file_name for load in far.peoplesoft.loads if not load.error)
        found = [f"{name} was loaded {times} times" for name, times in loads.items() if times > 1]
        found += [
            f"{x.file_name} was refused: {x.error or x.rejects}"
            for x in far.peoplesoft.loads
            if x.error or x.rejects
        ]
        keys = [
            t.external_transaction_id
            for fee in far.alma.fees.values()
            for t in fee.transactions
            if t.received_by == NOT_AT_DESK
        ]
        found += [
            f"payment {key} is in Alma {times} times" for key, times in Counter(keys).items() if times > 1
        ]
        return found + self._against_the_ledger()

    def _against_the_ledger(self) -> list[str]:
        books = self.bridge.books()
        ledger = self.bridge.ledger("look")
        with ledger.read() as tx:
            positions = tx.rows("SELECT * FROM fee_position WHERE institution = :i")
            stuck = tx.rows(
                "SELECT batch_id AS what, state FROM batch WHERE institution = :i "
                "AND state NOT IN ('delivered', 'cancelled', 'preview') UNION ALL SELECT CAST(payment_no AS TEXT), state "
                "FROM payment WHERE institution = :i AND state IN ('posting', 'unknown')"
            )
        ledger.close()
        found = [f"{row['what']} is stuck in {row['state']}" for row in stuck]
        for row in positions:
            fee = books.fees.get(row["fee_id"])
            told = (row["charged"], row["credited"])
            if fee is not None and (fee.charged_cents, fee.credited_cents) != told:
                found.append(
                    f"fee {fee.fee_id}: PeopleSoft posted {fee.charged_cents, fee.credited_cents}, told {told}"
                )
        listed = self.bridge.listed_fees()
        for fee in books.fees.values():
            # What a student paid beyond an item lies unapplied on his account and is his all the same.
            owed = max(0, fee.charged_cents - fee.credited_cents - fee.paid_cents)
            if fee.alma_cents != owed and fee.fee_id not in listed:
                found.append(f"fee {fee.fee_id}: Alma {fee.alma_cents}, PeopleSoft {owed}, not listed")
        return found


def live(work: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let a seed's world live and calm down."""
    world = World(work, seed, monkeypatch)
    world.live()
    world.calm_down()
    return world
