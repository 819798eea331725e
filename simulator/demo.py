"""``python -m simulator demo``: the money's round trip in a real Airflow, told as it happens.

The campus is simulated, Airflow and the package are not. At the end the simulator's own books are laid
beside the ledger's list of exceptions; what neither side can explain must be 0.00.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simulator.airflow_home import AirflowHome
from simulator.campus import Campus
from simulator.serve import running
from simulator.sfs_layout import read_layout

ROOT = Path(__file__).resolve().parents[1]
CREDIT_ITEM_TYPE = "820000000001"
CALLS_PER_SECOND = 200  # the simulator's limit and the connection's rate; real campuses have 10 to 50

SETTINGS = """\
institution = "{institution}"
live = true

[alma_to_sis]
{schedule}report_path = "{report_path}"
export_directory = "{sis_export}"
reserve_calls = 1000

[sfs]
layout = "{layout}"
business_unit = "CAMPS"
origin_id = "LIB01"
account_type = "LIB"
directory = "{inbound}"
archive_directory = "{archive}"

[item_types]
OVERDUEFINE = "300000000001"
LOSTITEMREPLACEMENTFEE = "300000000002"
LOSTITEMPROCESSFEE = "300000000003"

[sis_to_alma]
{schedule}directory = "{outbound}"
archive_directory = "{outbound_archive}"

[sis_to_alma.columns]
payment_id = "Payment ID"
emplid = "Emplid"
reference = "Reference Number"
amount = "Paid Amount"
paid_on = "Date Paid"
"""


# By the ledger: what is owed in PeopleSoft on each fee, and what each student's account there comes to.
_TOLD = "SELECT fee_id, MAX(0, charged + carried - credited - received) FROM fee_position"
_ACCOUNTS = """
SELECT emplid, SUM(cents) FROM (
    SELECT emplid, CASE WHEN kind = 'charge' THEN amount ELSE -amount END AS cents FROM line WHERE state = 'sent'
    UNION ALL SELECT emplid, -received FROM payment_now
) GROUP BY emplid
"""


@dataclass
class Told:
    """What the runs came to, from what the tasks returned."""

    lines: Counter[str] = field(default_factory=Counter)
    cents: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settled:
    """Both systems' books at the end, in cents. ``unexplained`` is a sum of absolute differences.

    ``not_posted``: how many payments were taken in and are not, or in part, in Alma, and the cents that are not.
    """

    fees: int
    alma: int
    peoplesoft: int
    explained: int
    unexplained: int
    exceptions: Counter[str]
    not_posted: tuple[int, int]

    @property
    def holds(self) -> bool:
        """Whether every difference is on the list with its very amount."""
        return self.unexplained == 0


class Demo:
    """A simulated campus, a real Airflow, and the story between them. All files lie below ``work``."""

    def __init__(
        self,
        work: Path,
        campus: Campus,
        facts: dict[str, Any],
        layout: str,
        *,
        connections_in: Literal["env", "database"] = "env",
        policy: str = "",
    ) -> None:
        self.campus = campus
        self.names_fees = carries_reference(layout)
        self.told = Told()
        self.ledger = work / "ledger.db"
        self.settings = work / "campus.toml"
        self.settings.write_text(settings_text(facts, layout))
        for command in (("migrate",), ("open", "--begin-clean")):
            by_hand(*command, settings=self.settings, ledger=f"sqlite:///{self.ledger}")
        self.airflow = AirflowHome(
            work / "airflow",
            dags=ROOT / "dags",
            env={"ALMA_HOOK_CAMPUS": str(self.settings)},
            connections=connections(facts, {"conn_type": "sqlite", "host": str(self.ledger)}),
            connections_in=connections_in,
            policy=policy,
        )

    # -- runs ------------------------------------------------------------------------------------------------

    def run(self, dag_id: str, conf: dict[str, Any] | None = None, *, ends: str = "success") -> None:
        """Run a DAG and tell what came of it; it fails the demo unless it ends in that state."""
        started = time.monotonic()
        run_id = self.airflow.trigger(dag_id, conf or {})
        state = self.airflow.wait(dag_id, run_id, timeout=240)
        seconds = time.monotonic() - started
        if state != ends:
            self.told.failed.append(dag_id)
            self._show_failure(dag_id, run_id)
        said = (
            self._count_out(dag_id, run_id) if dag_id.startswith("alma") else self._count_back(dag_id, run_id)
        )
        method = f" by {conf['method']}" if conf and "method" in conf else ""
        print(f"  {dag_id}{method}: {said} [{state}, {seconds:.0f} s]", flush=True)

    def _count_out(self, dag_id: str, run_id: str) -> str:
        plan = self.airflow.xcom(dag_id, run_id, "plan_batches") or {}
        for kind, cents in (("charges", "charged"), ("credits", "credited")):
            self.told.lines[kind] += plan.get(kind, 0)
            self.told.cents[kind] += plan.get(cents, 0)
        read = (self.airflow.xcom(dag_id, run_id, "read_fees") or {}).get("accounts", 0)
        return (
            f"{read} accounts read, {plan.get('charges', 0)} charges {_dollars(plan.get('charged', 0))}, "
            f"{plan.get('credits', 0)} credits {_dollars(plan.get('credited', 0))}"
        )

    def _count_back(self, dag_id: str, run_id: str) -> str:
        taken = self.airflow.xcom(dag_id, run_id, "take_in_payments") or {}
        posted = self.airflow.xcom(dag_id, run_id, "post_payments") or {}
        self.told.lines["payments"] += posted.get("posted", 0)
        self.told.cents["payments"] += posted.get("cents", 0)
        return (
            f"{taken.get('lines', 0)} lines ({taken.get('new', 0)} new), "
            f"{posted.get('posted', 0)} payments posted {_dollars(posted.get('cents', 0))}"
        )

    def _show_failure(self, dag_id: str, run_id: str) -> None:
        for task_id, state in self.airflow.task_states(dag_id, run_id).items():
            if state in ("failed", "up_for_retry"):
                print(f"  {dag_id}.{task_id} is {state}:\n{self.airflow.task_log(dag_id, run_id, task_id)}")

    # -- the story -------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Run both DAGs through a few days of campus life."""
        campus = self.campus
        say("Fees go out. Day 1: Alma's Analytics report")
        self.run("alma_to_sis", {"method": "analytics_report"})
        self.loaded()

        say("Day 2: 40 new fees; Alma's SIS profile exports the accounts modified in 24 hours")
        campus.clock.advance(hours=12)
        campus.new_fees(40)
        campus.write_sis_export(24)
        self.run("alma_to_sis", {"method": "sis_profile"})
        self.loaded()

        say("Day 2, noon: 10 fees paid at the desk and 10 waived; only open accounts are looked at again")
        campus.clock.advance(hours=4)
        campus.desk_payments(10)
        campus.waives(10)
        self.run("alma_to_sis", {"method": "open_fees"})
        self.loaded()

        say("Day 3: 25 new fees; every user is asked for")
        campus.clock.advance(hours=20)
        campus.new_fees(25)
        self.run("alma_to_sis", {"method": "all_users"})
        self.loaded()

        say(
            "Payments come back: a third is paid in PeopleSoft, some in part, 5 too much; 20 paid at the desk, 15 waived"
        )
        campus.students_pay(1 / 3)
        campus.overpay(5)
        campus.desk_payments(20)
        campus.waives(15)
        campus.write_query_output()
        self.run("sis_to_alma")

        say("Day 4: the report shows it all; PeopleSoft is told what happened in Alma")
        campus.clock.advance(hours=20)
        campus.refresh_analytics()
        self.run("alma_to_sis", {"method": "analytics_report"})
        self.loaded()

        say("The same again at once: nothing may be sent and nothing posted")
        self.again_at_once()

    def again_at_once(self) -> None:
        """Run both DAGs once more; it fails the demo if they move anything."""
        before = Counter(self.told.lines)
        self.campus.write_query_output()
        self.run("sis_to_alma")
        self.run("alma_to_sis", {"method": "analytics_report"})
        if self.told.lines != before:
            self.told.failed.append("a repeated run moved money")

    def loaded(self) -> None:
        """PeopleSoft loads what lies there, and the demo fails if it refuses any of it."""
        results = self.campus.load_inbound()
        posted = sum(result.posted for result in results)
        rejects = sum(len(result.rejects) for result in results)
        refused = [str(result.error) for result in results if not result.loaded]
        self.told.failed += refused
        print(
            f"  PeopleSoft loaded {len(results)} files: {posted} lines posted, {rejects} rejected", flush=True
        )

    # -- the end ---------------------------------------------------------------------------------------------

    def settle(self) -> Settled:
        """Lay the two systems' own books beside what the ledger lists."""
        with sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True) as ledger:
            listed = dict(
                ledger.execute("SELECT fee_id, alma - peoplesoft FROM fee_balance WHERE exceptions > 0")
            )
            kinds = Counter(
                dict(
                    ledger.execute(
                        "SELECT kind, COUNT(*) FROM exception_item WHERE closed_at IS NULL GROUP BY kind"
                    )
                )
            )
            told = dict(ledger.execute(_TOLD))
            accounts = dict(ledger.execute(_ACCOUNTS))
            [not_posted] = ledger.execute(
                "SELECT COUNT(*), COALESCE(SUM(amount - posted), 0) FROM payment WHERE posted < amount"
            )
        books = self.campus.books()
        if self.names_fees:
            differences = {fee.fee_id: fee.difference_cents for fee in books.unequal.values()}
            unexplained = sum(abs(cents) for cents in books.foreign.values())
        else:
            # PeopleSoft does not know which fee an item is of: its books show students, and the ledger their fees.
            differences = {
                fee.fee_id: fee.alma_cents - told.get(fee.fee_id, 0) for fee in books.fees.values()
            }
            theirs = self.campus.peoplesoft.books().by_emplid
            unexplained = sum(abs(theirs.get(one, 0) - accounts.get(one, 0)) for one in {*theirs, *accounts})
        explained = 0
        for fee_id, cents in differences.items():
            if cents and listed.get(fee_id) == cents:
                explained += cents
            else:
                unexplained += abs(cents)
        return Settled(
            len(books.fees),
            books.alma_cents,
            books.peoplesoft_cents,
            explained,
            unexplained,
            kinds,
            not_posted,
        )

    def show(self, settled: Settled, seconds: float) -> None:
        """Print the table."""
        told = self.told
        print("\n  SIMULATED campus, real Airflow")
        print("  " + "-" * 62)
        rows = [
            ("fees in Alma", settled.fees, ""),
            *(
                (f"{kind} sent to PeopleSoft", told.lines[kind], _dollars(told.cents[kind]))
                for kind in ("charges", "credits")
            ),
            ("payments posted to Alma", told.lines["payments"], _dollars(told.cents["payments"])),
            (
                "taken in, not posted: listed, or settled",
                settled.not_posted[0],
                _dollars(settled.not_posted[1]),
            ),
            ("open in Alma", "", _dollars(settled.alma)),
            ("open in PeopleSoft", "", _dollars(settled.peoplesoft)),
            ("difference explained by listed exceptions", "", _dollars(settled.explained)),
            ("UNEXPLAINED", "", _dollars(settled.unexplained)),
        ]
        for name, count, cents in rows:
            print(f"  {name:42} {count:>6} {cents:>12}")
        print("  " + "-" * 62)
        for kind, count in sorted(settled.exceptions.items()):
            print(f"  listed: {kind:46} {count:>3}")
        print(f"  {seconds:.0f} seconds", flush=True)


def demo(
    work: Path,
    *,
    layout: str = "default",
    seed: int = 1,
    students: int = 2000,
    fees: int = 1500,
    keep: bool = False,
    story: type[Demo] = Demo,
) -> int:
    """Tell the story once; return 0 when every run ended as it should and nothing is unexplained.

    ``keep`` leaves Airflow and the campus running then, until Ctrl-C.
    """
    started = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    path = _layout_file(layout)
    credits_by_type = () if marks_credits(layout) else (CREDIT_ITEM_TYPE,)
    with running(
        work / "campus",
        seed=seed,
        students=students,
        fees=fees,
        layout=path,
        credit_item_types=credits_by_type,
    ) as (campus, facts):
        campus.limits.per_second = CALLS_PER_SECOND + 5
        demo_ = story(work, campus, facts, layout)
        say(f"A simulated campus of {students} students with {fees} open fees; starting a real Airflow")
        demo_.airflow.prepare()
        try:
            demo_.airflow.start(ui=keep)
            demo_.tell()
            settled = demo_.settle()
            demo_.show(settled, time.monotonic() - started)
            if keep:
                _wait(demo_.airflow)
        finally:
            demo_.airflow.stop()
    held = settled.holds and not demo_.told.failed
    print("  The books agree." if held else f"  THE BOOKS DO NOT AGREE: {demo_.told.failed}", flush=True)
    return 0 if held else 1


def _wait(airflow: AirflowHome) -> None:
    print(f"\n  Airflow: {airflow.url}   login admin   password {airflow.password}")
    print("  Ctrl-C ends it.", flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print()


def settings_text(facts: dict[str, Any], layout: str, *, schedule: str = "") -> str:
    """The campus.toml of a simulated campus. ``facts`` are those of ``serve.running``.

    ``schedule``: of both DAGs, as a cron expression, where it is not the package's own.
    """
    alma = facts["alma"]
    text = SETTINGS.format(
        institution=alma["institution"],
        report_path=alma["report_path"],
        layout=layout,
        schedule=f'schedule = "{schedule}"\n' if schedule else "",
        **facts["folders"],
    )
    if not carries_reference(layout):
        text = text.replace('reference = "Reference Number"\n', "")
        text = text.replace("[sis_to_alma]\n", '[sis_to_alma]\nwithout_reference = "oldest_first"\n')
    if marks_credits(layout):
        return text
    types = "".join(f'30000000000{n} = "{CREDIT_ITEM_TYPE}"\n' for n in (1, 2, 3))
    return text.replace("[sfs]", '[sfs]\ncredits_by = "item_type"') + f"\n[credit_item_types]\n{types}"


def marks_credits(layout: str) -> bool:
    """Whether a line of a shipped layout says of itself that it is a credit."""
    return _has_place_for("reversal", layout)


def carries_reference(layout: str) -> bool:
    """Whether a line of a shipped layout names its fee."""
    return _has_place_for("reference", layout)


def _has_place_for(source: str, layout: str) -> bool:
    return any(field.source == source for field in read_layout(_layout_file(layout)).detail.fields)


def _layout_file(layout: str) -> Path:
    return ROOT / "include" / "layouts" / f"{layout}.toml"


def connections(facts: dict[str, Any], ledger: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The Airflow connections to a simulated campus; ``ledger`` is the ledger's own, in Airflow's form."""
    sftp = {
        "conn_type": "sftp",
        **{name: facts["sftp"][name] for name in ("host", "port", "login", "password")},
        "extra": {"host_key": facts["sftp"]["host_key"]},
    }
    return {
        "alma_default": {
            "conn_type": "alma",
            "host": "http://127.0.0.1",
            "port": facts["alma"]["port"],
            "password": facts["alma"]["api_keys"]["read_write"],
            "extra": {"requests_per_second": CALLS_PER_SECOND},
        },
        "alma_ledger": dict(ledger),
        "sfs_sftp": sftp,
        "alma_export_sftp": sftp,
    }


class RefusedError(RuntimeError):
    """A command refused; the text is what it said."""


def by_hand(*command: str, settings: Path, ledger: str) -> str:
    """What a person types: ``python -m alma_hook ...``. Returns what it said; raises ``RefusedError``."""
    done = subprocess.run(
        [sys.executable, "-m", "alma_hook", *command, "--settings", str(settings), "--ledger", ledger],
        env=os.environ,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise RefusedError(done.stderr.strip())
    return done.stdout


def say(text: str) -> None:
    """Begin a part of the story."""
    print(f"\n{text}", flush=True)


def _dollars(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"
