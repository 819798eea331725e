"""``python -m simulator serve --work DIR``: a campus to try things on."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from simulator.address import LOOPBACK
from simulator.campus import DEFAULT_LAYOUT, Campus
from simulator.days import days
from simulator.demo import CALLS_PER_SECOND, Demo, RefusedError, connections, demo
from simulator.demo_killed import KilledDemo
from simulator.own_settings import options_of, require_layout
from simulator.screenshots import NoBrowserError, screenshots
from simulator.serve import serve, write_whole


def parser() -> argparse.ArgumentParser:
    """The command line; other subcommands are added to its subparsers."""
    top = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="run Alma, PeopleSoft and SFTP until SIGTERM or Ctrl-C")
    _servers(command)
    told = command.add_mutually_exclusive_group()
    told.add_argument("--layout", type=Path, default=DEFAULT_LAYOUT, help="SFS layout declaration (TOML)")
    told.add_argument(
        "--settings",
        type=Path,
        help="a campus.toml: its institution, layout, item types and folders are the simulated ones; writes the "
        "connections to them into connections.json of the folder",
    )
    command.set_defaults(run=_serve)
    command = commands.add_parser(
        "days", help="the same, where days pass by themselves, for an Airflow elsewhere (docker-compose.yaml)"
    )
    _servers(command)
    command.add_argument("--name", default=LOOPBACK, help="what that Airflow calls this machine")
    command.add_argument("--minutes", type=float, default=5, help="how long a day takes")
    command.add_argument(
        "--hand-over",
        type=Path,
        required=True,
        help="folder for the campus.toml and connections.json it needs",
    )
    command.add_argument("--ledger", type=json.loads, required=True, help="the ledger's connection, as JSON")
    command.set_defaults(run=_days)
    for name, keep, text in (
        (
            "demo",
            False,
            "the round trip in a real Airflow, told as it happens; exit status 0 when the books agree",
        ),
        ("up", True, "the same, left running with Airflow's pages until Ctrl-C"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--work", type=Path, default=Path(".work") / name, help="folder, made anew")
        command.add_argument("--layout", default="default", help="name of a layout in include/layouts")
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--students", type=int, default=2000)
        command.add_argument("--fees", type=int, default=1500)
        command.add_argument(
            "--kill",
            action="store_true",
            help="another story: the tasks are killed in the middle of their work",
        )
        command.set_defaults(run=_demo, keep=keep)
    command = commands.add_parser(
        "screenshots", help="take the pictures of Airflow's pages for the docs; needs playwright and Chromium"
    )
    command.add_argument("--work", type=Path, default=Path(".work") / "screenshots", help="folder, made anew")
    command.add_argument("--into", type=Path, default=Path("docs") / "images")
    command.set_defaults(run=_screenshots)
    return top


def _screenshots(arguments: argparse.Namespace) -> int:
    try:
        screenshots(arguments.work.resolve(), arguments.into.resolve())
    except NoBrowserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _servers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--work", type=Path, required=True, help="folder for simulator.json and the SFTP files"
    )
    command.add_argument("--alma-port", type=int, default=0, help="0 takes a free port")
    command.add_argument("--sftp-port", type=int, default=0, help="0 takes a free port")
    command.add_argument("--seed", type=int, default=1, help="the same seed makes the same campus")
    command.add_argument("--students", type=int, default=2000)
    command.add_argument("--fees", type=int, default=1500)


def _of_servers(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("alma_port", "sftp_port", "seed", "students", "fees")}


def _demo(arguments: argparse.Namespace) -> int:
    try:
        return demo(
            arguments.work.resolve(),
            layout=arguments.layout,
            seed=arguments.seed,
            students=arguments.students,
            fees=arguments.fees,
            keep=arguments.keep,
            story=KilledDemo if arguments.kill else Demo,
        )
    except RefusedError as refused:
        # A layout that the settings can't use, most likely.
        print(refused)
        return 1


def _serve(arguments: argparse.Namespace) -> int:
    work = arguments.work.resolve()
    try:
        if arguments.settings is None:
            require_layout(arguments.layout)
            options: dict[str, Any] = {"layout": arguments.layout}
        else:
            options = {**options_of(arguments.settings), "hand_over": partial(_hand_over, work)}
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    serve(work, **options, **_of_servers(arguments))
    return 0


def _hand_over(work: Path, campus: Campus, facts: dict[str, Any]) -> None:
    campus.limits.per_second = CALLS_PER_SECOND + 5
    ledger = {"conn_type": "sqlite", "host": str(work / "ledger.db")}
    write_whole(work / "connections.json", json.dumps(connections(facts, ledger), indent=2) + "\n")


def _days(arguments: argparse.Namespace) -> int:
    days(
        arguments.work,
        hand_over=arguments.hand_over,
        ledger=arguments.ledger,
        minutes=arguments.minutes,
        name=arguments.name,
        **_of_servers(arguments),
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    arguments = parser().parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
