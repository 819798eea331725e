"""Runs a whole campus until it is told to end, and writes down where it can be reached."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulator.address import LOOPBACK
from simulator.alma_api import FULL_KEY, READ_KEY, USERS_ONLY_KEY
from simulator.alma_http import AlmaServer
from simulator.campus import DEFAULT_LAYOUT, Campus
from simulator.control import Control
from simulator.sftp import SftpServer


@contextmanager
def running(
    work: Path,
    *,
    alma_port: int = 0,
    sftp_port: int = 0,
    seed: int = 1,
    students: int = 2000,
    fees: int = 1500,
    layout: Path = DEFAULT_LAYOUT,
    institution: str = "01SIMULATED_INST",
    name: str = LOOPBACK,
    credit_item_types: tuple[str, ...] = (),
    **more: Any,
) -> Iterator[tuple[Campus, dict[str, Any]]]:
    """A campus with both servers up: yields it and what ``simulator.json`` holds.

    The SFTP root is ``work/sftp``; its host key is kept in ``work`` so that a restart is the same host.
    ``credit_item_types``: item types whose lines are credits, where no line is marked as a reversal.
    ``name``: what other machines call this one; unless it is told, only this machine can reach the servers.
    ``more``: what else ``Campus`` may be told.
    """
    work.mkdir(parents=True, exist_ok=True)
    campus = Campus(
        work / "sftp",
        seed=seed,
        students=students,
        fees=fees,
        layout=layout,
        institution=institution,
        credit_item_types=credit_item_types,
        **more,
    )
    sftp = campus.sftp_server(port=sftp_port, key_file=work / "sftp_host_key", name=name)
    described = work / "simulator.json"
    with AlmaServer(campus.api, port=alma_port, control=Control(campus), name=name) as alma, sftp:
        facts = describe(campus, alma, sftp)
        write_whole(described, json.dumps(facts, indent=2) + "\n")
        try:
            yield campus, facts
        finally:
            described.unlink(missing_ok=True)


def describe(campus: Campus, alma: AlmaServer, sftp: SftpServer) -> dict[str, Any]:
    """Everything a client needs to reach the two servers."""
    return {
        "simulator": True,
        "notice": "A simulator. Not Alma, not PeopleSoft; its people and fees are generated.",
        "pid": os.getpid(),
        "alma": {
            "url": alma.url,
            "port": alma.port,
            "institution": campus.alma.institution,
            "environment": campus.alma.environment,
            "report_path": campus.analytics.path,
            "api_keys": {
                "read_write": FULL_KEY.value,
                "read_only": READ_KEY.value,
                "users_only": USERS_ONLY_KEY.value,
            },
        },
        "control": f"{alma.url}/simulator",
        "sftp": {
            "host": sftp.name,
            "port": sftp.port,
            "login": sftp.username,
            "password": sftp.password,
            "host_key": sftp.host_key,
            "client_private_key": sftp.client_private_key,
        },
        "folders": vars(campus.folders),
    }


def serve(
    work: Path, *, hand_over: Callable[[Campus, dict[str, Any]], None] | None = None, **options: Any
) -> None:
    """Serve until SIGTERM or SIGINT; ``options`` are those of ``running``, and ``hand_over`` is told what that yields."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with running(work, **options) as (campus, facts):
        if hand_over is not None:
            hand_over(campus, facts)
        print("SIMULATOR: not Alma, not PeopleSoft. Its people and fees are generated.")
        print(f"  Alma        {facts['alma']['url']}")
        print(f"  SFTP        {facts['sftp']['login']}@127.0.0.1:{facts['sftp']['port']}")
        print(f"  controls    {facts['control']}/state")
        print(
            f"  {len(campus.students)} students, {len(campus.alma.fees)} fees; details in simulator.json",
            flush=True,
        )
        ended.wait()
    print("simulator ended", flush=True)


def write_whole(path: Path, text: str) -> None:
    """Write so that a reader finds the whole file or none; it holds the stand-in's keys, hence the mode."""
    unfinished = path.with_name(f"{path.name}.writing")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.replace(path)
