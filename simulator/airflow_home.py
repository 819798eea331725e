"""A real Airflow in a work folder: its scheduler, DAG processor and API server as processes of this machine.

    with AirflowHome(work, dags=Path("dags"), connections={"alma_default": {...}}) as airflow:
        run_id = airflow.trigger("alma_to_sis", {})
        assert airflow.wait("alma_to_sis", run_id, timeout=120) == "success"

Nothing of it is imitated: tasks run in processes of their own under LocalExecutor and reach connections,
variables and XComs through the API server. Everything it writes lies in the work folder, it listens on
loopback only, and when it stops nothing of it goes on running.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal
from urllib.parse import quote

import psutil

FINAL_STATES = frozenset({"success", "failed"})

# Carried by every process of one home, so that even one whose parent was killed is found again.
_MARK = "ALMA_AIRFLOW_HOME_MARK"

_AIRFLOW = (sys.executable, "-P", "-m", "airflow")
#: What each part of an Airflow is started with.
COMMANDS: Mapping[str, Sequence[str]] = {
    "api-server": ("api-server", "--host", "127.0.0.1"),
    # The log servers would listen on fixed ports of every interface; the logs are local files here.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}

_SETTINGS: Mapping[str, str] = {
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DEFAULT_TIMEZONE": "utc",
    "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
    "AIRFLOW__API__HOST": "127.0.0.1",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    # A run of five short tasks is mostly waiting for the next look: look often.
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3",
    "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    # Off already where Airflow still has them: nothing leaves this machine.
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "AIRFLOW__METRICS__STATSD_ON": "False",
    "AIRFLOW__METRICS__OTEL_ON": "False",
    "AIRFLOW__TRACES__OTEL_ON": "False",
    "SCARF_ANALYTICS": "false",
    "DO_NOT_TRACK": "1",
    # Process titles would else be written over the environment, and with it over our mark.
    "SPT_NOENV": "1",
    "TZ": "UTC",
}


class AirflowHomeError(Exception):
    """Airflow did not come up, died, or answered with a fault; the text says which and where its log is."""


class AirflowHome:
    """One Airflow with its own folder, SQLite metadata database, password and loopback port.

    `env` goes to every process after the settings above, so it may replace them (`AIRFLOW__SECTION__KEY`), or
    take them away (None): with an executor and a database of another kind the same home is a cluster's.
    `connections` maps connection ids to Airflow's JSON form (`conn_type`, `host`, `login`, `password`,
    `extra`, ...); `connections_in` says where they are kept: in the environment, or as rows in the metadata
    database, as the UI makes them. `schedules=False` creates runs on request only, whatever the DAGs'
    timetables say. `policy` is the text of a cluster policy (`airflow_local_settings.py`), by which an
    Airflow changes what DAG files say without touching them.
    """

    def __init__(
        self,
        work: Path,
        *,
        dags: Path,
        env: Mapping[str, str | None] | None = None,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        connections_in: Literal["env", "database"] = "env",
        plugins: Path | None = None,
        parallelism: int = 4,
        schedules: bool = False,
        policy: str = "",
    ) -> None:
        self.work = work.resolve()
        self.dags = dags.resolve()
        self.logs = self.work / "logs"
        self.password = secrets.token_urlsafe(12)
        self.url = ""  # of the API server and UI, known from start() on
        self._connections = {name: dict(fields) for name, fields in (connections or {}).items()}
        self._connections_in = connections_in
        self._policy = policy
        self._passwords = self.work / "passwords.json"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self._token = ""
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.env = {
            **_inherited_environment(),
            **_SETTINGS,
            "AIRFLOW_HOME": str(self.work),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str((plugins or self.work / "plugins").resolve()),
            "AIRFLOW__CORE__PARALLELISM": str(parallelism),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords),
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.work / 'airflow.db'}",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.logs),
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": str(schedules),
            _MARK: str(self.work),
        }
        if connections_in == "env":
            for name, fields in self._connections.items():
                self.env[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(fields)
        for name, value in (env or {}).items():
            self.env.pop(name, None)
            if value is not None:
                self.env[name] = value

    # ---- its life ------------------------------------------------------------------------------------------

    def __enter__(self) -> AirflowHome:
        self.prepare()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def prepare(self, *, migrate: bool = True) -> None:
        """Make the folder, the metadata database and the login; end what a killed parent left running.

        ``migrate=False`` leaves the database to the caller.
        """
        self._end_leftovers()
        for folder in (self.work, self.logs, self.work / "plugins", self.work / "config"):
            folder.mkdir(parents=True, exist_ok=True)
        (self.work / "config" / "airflow_local_settings.py").write_text(self._policy)
        self._passwords.touch(mode=0o600)
        self._passwords.write_text(json.dumps({"admin": self.password}))
        if migrate:
            self.airflow("db", "migrate")
        if self._connections_in == "database" and self._connections:
            rows = self.work / "connections.json"
            rows.touch(mode=0o600)
            rows.write_text(json.dumps(self._connections))
            try:
                self.airflow("connections", "import", "--overwrite", str(rows))
            finally:
                rows.unlink()

    def airflow(self, *arguments: str) -> str:
        """Run one `airflow` command in this home and return what it printed."""
        done = subprocess.run(
            [*_AIRFLOW, *arguments],
            env=self.env,
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            end = done.stdout[-2000:] + done.stderr[-4000:]
            raise AirflowHomeError(f"airflow {' '.join(arguments)} ended with {done.returncode}:\n{end}")
        return done.stdout

    def start(self, ui: bool = False, *, triggerer: bool = False, timeout: float = 120) -> None:
        """Start it and return when it is healthy.

        With `ui` on port 8080 where that is free, else on any free port. A triggerer costs another process
        and is needed for deferrable tasks only.
        """
        port = _free_port(8080 if ui else 0)
        self.url = f"http://127.0.0.1:{port}"
        self.env["AIRFLOW__API__PORT"] = str(port)
        self.env["AIRFLOW__API__BASE_URL"] = self.url
        self.env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = f"{self.url}/execution/"
        atexit.register(self.stop)
        _exit_on_sigterm()
        names = ["api-server", "scheduler", "dag-processor", *(["triggerer"] if triggerer else [])]
        for name in names:
            self.start_process(name)
        self._wait_until_healthy([name.replace("-", "_") for name in names[1:]], timeout)

    def start_process(self, name: str) -> None:
        """Start one of api-server, scheduler, dag-processor, triggerer (again, after `kill_process`)."""
        self._start(name, [*_AIRFLOW, *COMMANDS[name]], self.env)

    def start_worker(
        self, name: str, *options: str, env: Mapping[str, str], inside: Sequence[str] = ()
    ) -> None:
        """Start a Celery worker, where Celery is the executor; any `name` that no other process has.

        `env` goes on top of this home's; `inside` is a command that the worker's is given to, such as unshare's.
        """
        command = [*inside, *_AIRFLOW, "celery", "worker", "--skip-serve-logs", *options]
        self._start(name, command, {**self.env, **env})

    def _start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=env,
                cwd=self.work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._sessions.add(self._processes[name].pid)

    def kill_process(self, name: str, *, alone: bool = False) -> None:
        """Kill one of them (SIGKILL) with all that it started, tasks included, the way a lost machine does.

        `alone` kills just the process itself; what it started lives on.
        """
        process = self._processes.pop(name)
        process.kill()
        process.wait()
        # Each task has a process group of its own, but all are in the session of what started them.
        while not alone and (left := [each for each in self.processes() if _session(each) == process.pid]):
            for each in left:
                with contextlib.suppress(psutil.Error):
                    each.kill()
            _wait_until_gone(left)

    def task_process(self, task_id: str) -> psutil.Process:
        """The process in which the code of a running task runs. Its parent is the task's supervisor.

        Raises AirflowHomeError unless just one such task runs.
        """
        running = self.api("GET", "/api/v2/dags/~/dagRuns/~/taskInstances?state=running&limit=100")
        pids = {task["pid"] for task in running["task_instances"] if task["task_id"] == task_id}
        found = [process for process in self.processes() if process.pid in pids]
        if len(found) != 1:
            raise AirflowHomeError(f"{len(found)} processes of a running task {task_id}")
        return found[0]

    def kill_task(self, task_id: str) -> int:
        """Kill a running task's process (SIGKILL); return its pid once it is gone. Its supervisor lives on."""
        process = self.task_process(task_id)
        process.kill()
        _wait_until_gone([process])
        return int(process.pid)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def stop(self, grace: float = 8) -> None:
        """End every process: politely, and after `grace` seconds for certain. May be called twice."""
        atexit.unregister(self.stop)
        groups = list(self._processes.values())
        self._processes = {}
        for process in groups:
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        for process in groups:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in groups:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
        self._end_leftovers()
        self._token = ""

    def processes(self) -> list[psutil.Process]:
        """Every live process of this home, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                # A worker that gives itself another title writes it over its environment.
                ours = _session(process) in self._sessions
                if ours or process.environ().get(_MARK) == str(self.work):
                    found.append(process)
        return found

    def _end_leftovers(self) -> None:
        for _ in range(20):
            left = self.processes()
            if not left:
                return
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1)

    def _wait_until_healthy(self, parts: Sequence[str], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            self._check_alive()
            try:
                health = self.api("GET", "/api/v2/monitor/health", signed=False)
            except (AirflowHomeError, OSError):
                health = {}
            waiting = [part for part in parts if (health.get(part) or {}).get("status") != "healthy"]
            if health and not waiting:
                break
            if time.monotonic() > deadline:
                late = ", ".join(waiting or ["api-server"])
                raise AirflowHomeError(f"not healthy after {timeout:.0f} s: {late}; see {self.logs}")
            time.sleep(0.1)
        # The API server builds what tasks speak to at its first use: seconds, near the limit a task waits.
        with contextlib.suppress(AirflowHomeError):
            self.api("GET", "/execution/health", signed=False)

    def _check_alive(self) -> None:
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                log = self.logs / f"{name}.log"
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
                raise AirflowHomeError(f"{name} ended with {process.returncode}; the end of {log}:\n{tail}")

    # ---- its work ------------------------------------------------------------------------------------------

    def api(self, method: str, path: str, body: Any = None, *, signed: bool = True) -> Any:
        """One request to Airflow's REST API (`/api/v2/...`); returns the parsed JSON, None if empty."""
        if signed and not self._token:
            login = {"username": "admin", "password": self.password}
            self._token = self.api("POST", "/auth/token", login, signed=False)["access_token"]
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310 - our own loopback address
        request.add_header("Accept", "application/json")
        if signed:
            request.add_header("Authorization", f"Bearer {self._token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with self._opener.open(request, timeout=30) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")
            raise AirflowRefusedError(error.code, f"{method} {path}: {error.code} {detail}") from None
        return json.loads(text) if text else None

    def dag_ids(self) -> list[str]:
        return [dag["dag_id"] for dag in self.api("GET", "/api/v2/dags?limit=100")["dags"]]

    def import_errors(self) -> dict[str, str]:
        """File -> traceback, of the DAG files that Airflow could not load."""
        errors = self.api("GET", "/api/v2/importErrors?limit=100")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, timeout: float = 60) -> str:
        """Unpause a DAG, start a run and return the run's id. Waits until the DAG file has been read."""
        self.unpause(dag_id, timeout=timeout)
        body = {"logical_date": None, "conf": dict(conf or {})}
        # Airflow 3.1 answers before it commits, so for a moment neither DAG nor run may be there yet. 500: SQLite is busy.
        deadline = time.monotonic() + 10
        run_id = ""
        while not run_id:
            try:
                run_id = str(self.api("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", body)["dag_run_id"])
            except AirflowRefusedError as refused:
                if refused.status not in (404, 500) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        while not self._is_known(dag_id, run_id) and time.monotonic() < deadline:
            time.sleep(0.1)
        return run_id

    def _is_known(self, dag_id: str, run_id: str) -> bool:
        try:
            self.state(dag_id, run_id)
        except AirflowRefusedError as refused:
            if refused.status != 404:
                raise
            return False
        return True

    def backfill(self, dag_id: str, first: datetime, last: datetime, *, timeout: float = 60) -> list[str]:
        """Start a run for each interval that begins between two instants; return the runs' ids.

        With its metadata on SQLite Airflow refuses this whenever another process writes just then.
        """
        self.unpause(dag_id, timeout=timeout)
        body = {"dag_id": dag_id, "from_date": first.isoformat(), "to_date": last.isoformat()}
        self.api("POST", "/api/v2/backfills", body)
        runs = self.api("GET", f"/api/v2/dags/{quote(dag_id)}/dagRuns?run_type=backfill&limit=100")[
            "dag_runs"
        ]
        wanted = [run for run in runs if first <= datetime.fromisoformat(run["logical_date"]) <= last]
        return [str(run["dag_run_id"]) for run in wanted]

    def unpause(self, dag_id: str, *, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.api("PATCH", f"/api/v2/dags/{quote(dag_id)}", {"is_paused": False})
                return
            except AirflowRefusedError as refused:
                # 500: its SQLite is busy. The same may be said again.
                if refused.status not in (404, 500):
                    raise
            self._check_alive()
            errors = self.import_errors()
            if errors or time.monotonic() > deadline:
                known = f"known: {self.dag_ids()}"
                raise AirflowHomeError("\n".join([f"there is no DAG {dag_id}; {known}", *errors.values()]))
            time.sleep(0.2)

    def state(self, dag_id: str, run_id: str) -> str:
        return str(self.api("GET", _run(dag_id, run_id))["state"])

    def wait(self, dag_id: str, run_id: str, timeout: float = 300) -> str:
        """Wait for the end of a run and return its state, `success` or `failed`."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.state(dag_id, run_id)
            if state in FINAL_STATES:
                return state
            self._check_alive()
            if time.monotonic() > deadline:
                tasks = self.task_states(dag_id, run_id)
                raise TimeoutError(f"{dag_id} {run_id} is {state} after {timeout:.0f} s: {tasks}")
            time.sleep(0.2)

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear a run's failed tasks and what follows them, so that it goes on, as a person does in the UI."""
        body = {"dag_run_id": run_id, "dry_run": False, "only_failed": True, "reset_dag_runs": True}
        self.api("POST", f"/api/v2/dags/{quote(dag_id)}/clearTaskInstances", body)

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Task id -> state; a mapped task's instances stand as `task_id[0]`, `task_id[1]`, ..."""
        states: dict[str, str | None] = {}
        while True:
            path = f"{_run(dag_id, run_id)}/taskInstances?limit=100&offset={len(states)}&order_by=id"
            page = self.api("GET", path)
            for task in page["task_instances"]:
                index = task["map_index"]
                states[task["task_id"] + (f"[{index}]" if index >= 0 else "")] = task["state"]
            if not page["task_instances"] or len(states) >= page["total_entries"]:
                return states

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int | None = None, map_index: int = -1
    ) -> str:
        """What a task wrote, one message a line; of its last try unless told. Empty where it never ran."""
        folder = self.logs / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            folder /= f"map_index={map_index}"
        attempts = sorted(folder.glob("attempt=*.log"), key=lambda path: int(path.stem.partition("=")[2]))
        if try_number is not None:
            attempts = [path for path in attempts if path.stem == f"attempt={try_number}"]
        if not attempts:
            return ""
        return "\n".join(_readable(line) for line in attempts[-1].read_text(errors="replace").splitlines())

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", *, map_index: int = -1
    ) -> Any:
        """What a task returned, or pushed under `key`; None where it pushed nothing."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/{quote(key)}"
        try:
            return self.api("GET", f"{path}?map_index={map_index}&stringify=false")["value"]
        except AirflowRefusedError as refused:
            if refused.status == 404:
                return None
            raise

    def answer(
        self, dag_id: str, run_id: str, task_id: str, option: str, params: Mapping[str, Any] | None = None
    ) -> None:
        """Answer a task that waits for a person, as the admin would in the UI: the form sends all that it shows."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/-1/hitlDetails"
        shown = self.api("GET", path).get("params") or {}
        filled = {
            name: value["value"] if isinstance(value, dict) and "value" in value else value
            for name, value in shown.items()
        }
        self.api("PATCH", path, {"chosen_options": [option], "params_input": {**filled, **(params or {})}})


class AirflowRefusedError(AirflowHomeError):
    """The REST API answered with an error; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _run(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


_WHERE = {"timestamp", "level", "event", "logger", "filename", "lineno", "loc"}
_WHICH = {"dag_id", "run_id", "task_id", "map_index", "try_number", "ti_id", "ti"}


def _readable(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict):
        return line
    rest = {key: value for key, value in entry.items() if key not in _WHERE | _WHICH}
    text = f"{entry.get('timestamp', '')} {str(entry.get('level', '')).upper()} {entry.get('event', '')}"
    return f"{text} {json.dumps(rest, default=str)}" if rest else text


def _inherited_environment() -> dict[str, str]:
    """The caller's environment without another Airflow's settings, and with .pyc files, for speed."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))
        and name not in {"PYTHONDONTWRITEBYTECODE", "PYTEST_VERSION"}
    }
    # The processes speak to each other over loopback, which no proxy can reach for them.
    unproxied = ours.get("no_proxy") or ours.get("NO_PROXY") or ""
    ours["NO_PROXY"] = ours["no_proxy"] = f"{unproxied},127.0.0.1,localhost,::1".lstrip(",")
    if sys.platform == "darwin":
        ours["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"  # tasks are forked
    return ours


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise AirflowHomeError("no loopback port is free")


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _session(process: psutil.Process) -> int:
    """The pid of what leads a process's session; 0 when the process is gone."""
    try:
        return os.getsid(process.pid)
    except OSError:
        return 0


def _wait_until_gone(processes: Sequence[psutil.Process], timeout: float = 10) -> None:
    """Nothing of a dead process acts any more, even where nobody has asked for its exit status yet."""
    deadline = time.monotonic() + timeout
    for process in processes:
        while alive(process):
            if time.monotonic() > deadline:
                raise AirflowHomeError(f"process {process.pid} outlives its SIGKILL")
            time.sleep(0.01)


def alive(process: psutil.Process) -> bool:
    """Whether a process can still act: one that ended may stay listed until its parent asks for its status."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _exit_on_sigterm() -> None:
    """Let SIGTERM unwind the program, so that `with` blocks and atexit end what was started."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
