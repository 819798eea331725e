"""``python -m alma_hook``: what is done by hand, once or after an accident."""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alma_hook import __version__, campus, confirmations, watch
from alma_hook.errors import AlmaHookError, Fatal, Fault, SettingsError
from alma_hook.ledger import (
    Ledger,
    batches,
    exceptions,
    guard,
    holds,
    instant,
    institutions,
    items,
    moment,
    payments,
    shadow,
    story,
    unassigned,
)
from alma_hook.money import amount, cents

if TYPE_CHECKING:
    from alma_hook.campus_check import Finding
    from alma_hook.ledger import Lease, Tx
    from alma_hook.sftp import SftpFolder
from alma_hook.resources import include
from alma_hook.schedule import TASK_DEFAULTS

#: The institution in the settings file that `init` writes.
PLACEHOLDER = "01CAMPUS_INST"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except AlmaHookError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m alma_hook", description="Library fees between Alma and PeopleSoft."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True)

    init = commands.add_parser(
        "init", help="write the DAG files and a settings file for an installed package"
    )
    init.add_argument("directory", type=Path, help="an AIRFLOW_HOME: dags/ and include/ are made below it")
    init.set_defaults(command=_init)

    for name, command, text in (
        ("migrate", _migrate, "bring the ledger's tables up to this package"),
        ("open", _open, "open the ledger for live running, once"),
        ("exceptions", _exceptions, "list what does not fit, oldest first"),
        ("receivables", _receivables, "write down what people owe who are not in PeopleSoft"),
        ("resolve", _resolve, "settle one exception that a person has dealt with"),
        ("explain", _explain, "tell one fee's life, in order"),
        (
            "shadow-report",
            _shadow_report,
            "say what would have been sent and posted, had the dry runs been live",
        ),
        ("check", _check, "say what is late, missing, waiting or old; exit status 1 if anything is"),
        ("check-campus", _check_campus, "check settings, connections and files, and show what would be sent"),
        ("packet", _packet, "write a page for the business office: files, query, cases, what to agree on"),
        ("batches", _batches, "list the newest batches: state, lines, sum, file, run"),
        ("held", _held, "show the batches that wait for approval"),
        ("release", _release, "approve a held batch as `held` shows it"),
        ("refuse", _refuse, "give a held batch up"),
        ("unconfirmed", _unconfirmed, "list the lines that PeopleSoft has not shown yet"),
        ("assign", _assign, "say which fee a payment is for that PeopleSoft tells without one"),
        ("mark-waived", _mark_waived, "say that Alma has a waiver of unclear outcome"),
        ("mark-not-waived", _mark_not_waived, "say that Alma does not have a waiver of unclear outcome"),
        ("void", _void, "make delivered lines void that PeopleSoft never loaded"),
        (
            "mark-delivered",
            _mark_delivered,
            "say that PeopleSoft has an unconfirmed batch, or one (or a line) given up wrongly",
        ),
        ("mark-not-delivered", _mark_not_delivered, "say that PeopleSoft never got an unconfirmed batch"),
        ("repair", _repair, "bring a lost or old ledger up to the archive, Alma and the payment files"),
        ("rebind", _rebind, "say that a new Alma, SFTP server or place of the marks is meant"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.add_argument(
            "--settings", type=Path, help=f"the settings file (default: ${campus.SETTINGS_VARIABLE})"
        )
        sub.add_argument("--ledger", help="the ledger's SQLAlchemy address (default: the Airflow connection)")
        if command is _open:
            sub.add_argument(
                "--begin-clean", action="store_true", help="PeopleSoft holds no library fees yet"
            )
            sub.add_argument(
                "--import",
                dest="items",
                type=Path,
                metavar="FILE",
                help="PeopleSoft holds these items already: match them with Alma's fees; without --accept nothing is changed",
            )
            sub.add_argument(
                "--as-of",
                type=_day,
                metavar="DATE",
                help="the day on which PeopleSoft's query was run",
            )
            sub.add_argument(
                "--accept", action="store_true", help="open the books with them, once and for all"
            )
            sub.add_argument("--reason", help="what was looked at, for whoever reads it later")
        if name == "rebind":
            sub.add_argument("what", help="as the message names it; `marks` for the marks outside the ledger")
            sub.add_argument("--reason", required=True, help="what was changed, for whoever reads it later")
        if name in ("mark-waived", "mark-not-waived"):
            sub.add_argument("payment", type=_count, help="its number, as `exceptions` names it")
        elif name.startswith("mark") or name in ("release", "refuse", "void"):
            sub.add_argument("batch")
        if name == "release":
            sub.add_argument("--digest", required=True, help="the digest that `held` showed")
        if name in ("release", "refuse"):
            sub.add_argument("--reason", required=True, help="why, for whoever reads it later")
        if name == "mark-delivered":
            sub.add_argument(
                "--line", type=_count, help="a line of it that was made void, and that PeopleSoft has"
            )
        if name == "void":
            sub.add_argument(
                "--line", type=_count, help="the line's number in the file's order; without it, all lines"
            )
            sub.add_argument("--reason", required=True, help="what was found out, for whoever reads it later")
            sub.add_argument(
                "--rejected",
                action="store_true",
                help="PeopleSoft's office says that it did not and will not load it",
            )
        if name == "batches":
            sub.add_argument("--state", choices=batches.STATES, help="those in this state only")
            sub.add_argument(
                "--newest", type=_count, default=30, metavar="N", help="so many (default: %(default)s)"
            )
        if name == "explain":
            sub.add_argument("fee_id")
        if name == "assign":
            sub.add_argument(
                "payment", type=_count, help="its number, as `exceptions` names it; the next run posts it"
            )
            sub.add_argument("fee", metavar="FEE_ID")
            sub.add_argument(
                "--amount",
                type=_cents,
                help="a part of it, such as 12.50 (default: as much as is owed on the fee); the rest waits on",
            )
        if name == "packet":
            sub.add_argument("--output", type=Path, metavar="FILE", required=True, help="a new HTML file")
        if name == "receivables":
            sub.add_argument(
                "--output",
                type=Path,
                metavar="FILE",
                required=True,
                help="a new CSV file; it holds primary ids",
            )
        if name == "shadow-report":
            _add_report_options(sub)
        if name == "resolve":
            sub.add_argument("exception_id")
            sub.add_argument(
                "--replaced-by",
                metavar="FEE_ID",
                help="for a payment taken back: the fee that was made anew in Alma instead",
            )
            sub.add_argument(
                "--after-opening",
                action="store_true",
                help="for a payment that was not in the balances of the opening: it is posted",
            )
            sub.add_argument("--reason", required=True, help="what was done, for whoever reads it later")
        sub.set_defaults(command=command)
    return parser


def _cents(text: str) -> int:
    try:
        return cents(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day such as 2026-11-22") from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _add_report_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--since", type=_day, metavar="DATE", help="the first day that is told of")
    sub.add_argument("--until", type=_day, metavar="DATE", help="the last day that is told of")
    sub.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="FILE",
        default=[],
        help="files of what the present process sent: SFS files, or CSV with amount, reference or emplid, and date",
    )
    sub.add_argument("--layout", help="the layout of those SFS files (default: sfs.layout of the settings)")
    sub.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write every entry of both sides to a new file; it holds EMPLIDs",
    )


def _init(options: argparse.Namespace) -> None:
    """Never overwrites: a campus's own files are left as they are."""
    targets = [(file, options.directory / "dags" / file.name) for file in sorted(_dag_files())]
    targets.append((include("campus.toml"), options.directory / "include" / "campus.toml"))
    for source, target in targets:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                print(f"kept     {target}")
            else:
                shutil.copyfile(source, target)
                print(f"written  {target}")
        except OSError as error:
            raise Fatal(
                f"{target} was not written: {error.strerror}. Name a folder that you may write to; what was written stays."
            ) from None
    print("Next: fill in include/campus.toml, create its connections, run `python -m alma_hook migrate`.")


def _dag_files() -> list[Path]:
    try:
        folder = include("dags")
    except FileNotFoundError:
        folder = include("sql").parents[1] / "dags"
    return list(folder.glob("*.py"))


def _settings_file(options: argparse.Namespace) -> Path:
    return options.settings or campus.find(Path.cwd())


def _settings(options: argparse.Namespace) -> campus.Campus:
    return campus.load(_settings_file(options))


def _ledger(options: argparse.Namespace) -> Ledger:
    settings = _settings(options)
    actor = getpass.getuser()
    if options.ledger:
        return Ledger(options.ledger, settings.institution, actor=actor)
    # Imports Airflow, which takes seconds.
    from alma_hook.connections import open_ledger, outside_of_tasks

    return open_ledger(settings, run_id="command line", actor=actor, get=outside_of_tasks)


def _ledger_to_tell(options: argparse.Namespace) -> Ledger:
    """The ledger that a person tells something of the money: the newest one by its marks.

    An older copy does not know what was sent and seen since, and what it is told may be wrong by then. With
    ``--ledger`` nothing but the ledger is at hand.
    """
    ledger = _ledger(options)
    ledger.check()
    if not options.ledger:
        _check_marks(options, ledger)
    return ledger


def _check_marks(options: argparse.Namespace, ledger: Ledger) -> None:
    from contextlib import ExitStack

    from alma_hook import sftp
    from alma_hook.connections import marks_of
    from alma_hook.guard import check

    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    settings = _settings(options)
    with ExitStack() as stack:
        archive = None
        if settings.archive_can_be_read:
            archive = stack.enter_context(
                sftp.connect(settings.connections.archive or settings.connections.sfs)
            )
        check(ledger, marks_of(settings, archive))


def _migrate(options: argparse.Namespace) -> None:
    applied = _ledger(options).migrate()
    print(
        f"The ledger is up to date{': applied ' + ', '.join(applied) if applied else ', nothing to apply'}."
    )


def _open(options: argparse.Namespace) -> None:
    if options.begin_clean == (options.items is not None):
        raise Fatal("Say either --begin-clean, or --import with the file of what PeopleSoft holds.")
    if options.items is not None and (
        options.as_of is None or (options.accept and not (options.reason or "").strip())
    ):
        raise Fatal(
            "--import needs --as-of with the day on which PeopleSoft's query was run, and --accept a --reason."
        )
    ledger = _ledger(options)
    if ledger.institution == PLACEHOLDER:
        raise SettingsError(
            "The ledger was not opened.",
            [
                Fault(
                    _settings_file(options).name,
                    f"{PLACEHOLDER} is only the template's; put your own code from Alma there",
                    field="institution",
                )
            ],
        )
    ledger.check()
    if options.items is not None:
        _open_with_items(options, ledger)
        return
    with ledger.write() as tx:
        institutions.open_clean(tx, ledger.actor)
    print(f"The ledger of {ledger.institution} is open.")


def _open_with_items(options: argparse.Namespace, ledger: Ledger) -> None:
    """Line numbers, fee ids and amounts; no patron."""
    import time
    from contextlib import ExitStack

    from alma_hook import analytics, opening, opening_file, sftp
    from alma_hook import guard as outside
    from alma_hook.connections import marks_of
    from alma_hook.hook import AlmaHook

    settings = _settings(options)
    opening.require_ready(settings, options.as_of, ledger.now())
    with ledger.read() as tx:
        institutions.require_unopened(tx)
    assert settings.opening is not None
    try:
        content = options.items.read_bytes()
    except OSError as error:
        raise Fatal(f"{options.items} can't be read: {error.strerror}.") from None
    items = opening_file.read(options.items.name, content, settings, settings.opening)
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    with ExitStack() as stack:
        way = settings.alma_to_sis
        hook = AlmaHook(settings.connections.alma, reserve=way.reserve_calls, workers=way.workers)
        stack.callback(hook.close)
        alma = hook.get_conn()
        if alma.institution() != settings.institution:
            raise Fatal(
                f"The API key belongs to another institution than {settings.institution}. Nothing was read."
            )
        accounts = opening.read_accounts(alma, items, settings, _progress)
        print()
        matching = opening.match(items, accounts, settings, options.as_of)
        told = opening.record(
            matching, options.items.name, content, options.as_of, options.reason or "rehearsal"
        )
        print("\n".join(opening.in_words(items, matching)))
        if not options.accept:

            def retrieve(scratch: Ledger, lease: Lease) -> None:
                if settings.alma_to_sis.method == "analytics_report":
                    analytics.take_in(alma, scratch, lease, settings, False, time.sleep)

            first = opening.rehearse(settings, alma, matching, told, retrieve, ledger)
            print("\n".join(opening.first_run_in_words(first, settings)))
            print("Nothing was opened. With --accept --reason TEXT this opens the books, once.")
            return
        archive = stack.enter_context(sftp.connect(settings.connections.archive or settings.connections.sfs))
        out = stack.enter_context(ledger.lease("out", "command line"))
        stack.enter_context(ledger.lease("back", "command line"))
        outside.bind_alma(ledger, alma)
        opening.accept(ledger, out, settings, matching, told, archive, marks_of(settings, archive))
    print(f"The ledger of {ledger.institution} is open with {len(matching.lines)} items of PeopleSoft's.")


def _exceptions(options: argparse.Namespace) -> None:
    ledger = _ledger(options)
    ledger.check()
    with ledger.read() as tx:
        rows = exceptions.open_items(tx)
        left_out = [row for row in exceptions.totals(tx) if row["kind"].startswith(exceptions.LEFT_OUT)]
    for row in rows:
        print(f"{row['exception_id']}  {row['opened_at'][:16]}  {exceptions.describe(row)}")
    for row in left_out:
        print(f"{row['n']} {row['kind']}, {amount(int(row['cents']))}")
    print(f"{len(rows)} open")


def _receivables(options: argparse.Namespace) -> None:
    """The file alone names people."""
    from alma_hook import receivables

    ledger = _ledger(options)
    ledger.check()
    with ledger.read() as tx:
        count, cents = receivables.write(tx, options.output)
    print(f"{count} fees, {amount(cents)}, as of the last readings: {options.output}")


def _packet(options: argparse.Namespace) -> None:
    """Made from the settings alone: it needs no ledger and no connection."""
    from alma_hook import packet

    settings = _settings(options)
    try:
        packet.write(settings, options.output, settings.today(datetime.now(UTC)))
    except FileExistsError:
        raise Fatal(f"{options.output} is there already; name a new file.") from None
    except OSError as error:
        raise Fatal(f"{options.output} was not written: {error.strerror}.") from None
    print(f"{options.output}: open it in a browser, print it, and go through it with the business office.")


def _resolve(options: argparse.Namespace) -> None:
    ledger = _ledger_to_tell(options)
    with ledger.write() as tx:
        payments.resolve(
            tx,
            options.exception_id,
            ledger.actor,
            options.reason,
            options.replaced_by,
            after_opening=options.after_opening,
        )
    print(f"Exception {options.exception_id} is settled.")


def _explain(options: argparse.Namespace) -> None:
    """Amounts, files and runs only: what stands here may be shown to anybody who may see a fee id."""
    ledger = _ledger(options)
    ledger.check()
    with ledger.read() as tx:
        life = story.of_fee(tx, options.fee_id)
    if not life:
        raise Fatal(f"The ledger knows no fee {options.fee_id}.")
    for at, text in life:
        print(f"{at[:19]}  {text}")


def _shadow_report(options: argparse.Namespace) -> None:
    """Sums, fee ids, files and line numbers; patrons only in the file of ``--csv``."""
    # Imports pandas, which takes a second.
    from alma_hook import layouts, shadow_compare, shadow_report
    from alma_hook.shadow import replay

    settings, ledger = _settings(options), _ledger(options)
    ledger.check()
    with ledger.read() as tx:
        history = shadow.history(tx)
    found = replay(history, settings, layouts.load(settings.sfs.layout, settings.folder))
    days = shadow_report.Days(settings, options.since, options.until)
    known = {seen.fee_id for of_run in history.seen.values() for seen in of_run}
    layout = layouts.load(options.layout or settings.sfs.layout, settings.folder)
    theirs = shadow_compare.read(options.compare, settings, layout, known)
    told = [sent for sent in theirs if sent.day is None or days.hold_day(sent.day)]
    together = shadow_compare.compare([would for would in found.lines if days.hold(would.at)], told)
    for line in shadow_report.summary(found, days):
        print(line)
    if options.compare:
        for line in shadow_report.comparison(together, days):
            print(line)
        if len(told) < len(theirs):
            print(f"{len(theirs) - len(told)} entries of theirs lie outside of these days")
    if options.csv is not None:
        count = shadow_report.write_csv(options.csv, together)
        print(f"\n{count} entries are in {options.csv}, which holds EMPLIDs: only its owner may read it.")


def _check(options: argparse.Namespace) -> None:
    ledger = _ledger(options)
    ledger.check()
    with ledger.read() as tx:
        found = watch.conditions(tx, _settings(options), ())
    for each in found:
        print(f"{each.cause}: {each.text} {each.do}")
    if found:
        raise SystemExit(1)
    print("nothing is late, missing, waiting or old")


def _check_campus(options: argparse.Namespace) -> None:
    """Each connection by itself, so that one that fails hides nothing of the others."""
    import logging
    import time

    from alma_hook import campus_check, layouts, sftp
    from alma_hook.campus_check import Finding, each
    from alma_hook.hook import AlmaHook

    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    settings = _settings(options)
    out, back, connections = settings.alma_to_sis, settings.sis_to_alma, settings.connections
    # The SFTP library tells of each connection, in between.
    logging.getLogger("paramiko").setLevel(logging.WARNING)
    print("Asking Alma and the SFTP server, which is given some seconds to take a file.", flush=True)

    def over_sftp(conn_id: str, *looks: Callable[[SftpFolder], Iterator[Finding]]) -> Iterator[Finding]:
        with sftp.connect(conn_id) as folder:
            yield Finding(f"connection {conn_id}", f"{folder.target} answers, host key {folder.host_key}")
            for look in looks:
                yield from each(f"connection {conn_id}", partial(look, folder))

    hook = AlmaHook(connections.alma)
    found = each(f"connection {connections.alma}", lambda: campus_check.of_alma(hook.get_conn(), settings))
    if out.method == "analytics_report":
        now = datetime.now(UTC)
        found += each("report", lambda: campus_check.of_report(hook.get_conn(), settings, now, time.sleep))
    hook.close()
    if out.method == "sis_profile" and out.export_directory is not None:
        found += each(
            f"connection {connections.alma_export}",
            lambda: over_sftp(
                connections.alma_export, lambda folder: campus_check.of_exports(folder, settings)
            ),
        )
    archived = [lambda folder: campus_check.of_archive(folder, settings.sfs.archive_directory)]
    here = archived if connections.archive is None else []
    found += each(
        f"connection {connections.sfs}",
        lambda: over_sftp(
            connections.sfs,
            lambda folder: campus_check.of_inbound(folder, settings, time.sleep),
            lambda folder: campus_check.of_outbound(folder, settings),
            lambda folder: campus_check.of_archive(folder, back.archive_directory),
            *here,
        ),
    )
    if connections.archive is not None:
        archive = connections.archive
        found += each(f"connection {archive}", lambda: over_sftp(archive, *archived))
    ledger = each(
        f"connection {connections.ledger}", lambda: campus_check.of_ledger(_ledger(options), settings)
    )
    found += ledger
    for one in found:
        print(f"{one.verdict:6} {one.about}: {one.text}")
    if not any(one.wrong for one in ledger):
        print()
        layout = layouts.load(settings.sfs.layout, settings.folder)
        with _ledger(options).read() as tx:
            print("\n".join(campus_check.previews(tx, settings, layout)))
    wrong = sum(one.wrong for one in found)
    look = sum(one.verdict == "LOOK" for one in found)
    print(f"\n{wrong} of {len(found)} to put right{f', {look} to look at' if look else ''}")
    if wrong:
        raise SystemExit(1)


def _batches(options: argparse.Namespace) -> None:
    ledger = _ledger(options)
    ledger.check()
    with ledger.read() as tx:
        rows = batches.newest(tx, options.newest, options.state)
    for row in rows:
        sums = f"{row['line_count']} lines, {amount(int(row['total']))}"
        print(
            f"{row['batch_id']}  {row['kind']}, {row['state']} since {row['changed_at'][:16]}Z: {sums}, {row['file_name']}, "
            f"planned by {row['run_id']}"
        )
    print(f"{len(rows)} batches")


def _held(options: argparse.Namespace) -> None:
    """Counts and sums only: no patron, no fee."""
    ledger = _ledger(options)
    ledger.check()
    with ledger.read() as tx:
        rows, now = holds.held(tx), moment(tx.now)
        shown = [
            (row, holds.digest(tx, row["batch_id"]), holds.composition(tx, row["batch_id"])) for row in rows
        ]
    for row, digest, composition in shown:
        hours = int((now - moment(row["created_at"])).total_seconds() // 3600)
        print(f"{row['batch_id']}  {row['kind']}, held for {hours} hours, planned by {row['run_id']}")
        print(f"  {row['why']}")
        for part in composition:
            whole = f"{part['lines']} lines, {amount(int(part['total']))}"
            print(f"  {part['type']} as item type {part['item_type']}: {whole}")
        print(
            f"  all: {row['line_count']} lines, {amount(int(row['total']))}, the largest {amount(int(row['largest']))}"
        )
        print(f"  digest {digest}")
    print(f"{len(rows)} held")


def _release(options: argparse.Namespace) -> None:
    ledger = _ledger_to_tell(options)
    with ledger.write() as tx:
        holds.release(tx, options.batch, options.digest, ledger.actor, options.reason)
    print(
        f"Batch {options.batch} is released: the next run of alma_to_sis reads its fees again and sends every line that "
        "is still the same."
    )


def _refuse(options: argparse.Namespace) -> None:
    ledger = _ledger_to_tell(options)
    with ledger.write() as tx:
        holds.refuse(tx, options.batch, ledger.actor, options.reason)
    print(
        f"Batch {options.batch} is given up; the next run works its fees out anew, and may hold them again."
    )


def _unconfirmed(options: argparse.Namespace) -> None:
    """Fee ids, amounts and files; no patron."""
    ledger = _ledger(options)
    ledger.check()
    with ledger.read() as tx:
        rows, newest, now = items.unconfirmed(tx), items.summary(tx)["newest"], moment(tx.now)
    for row in rows:
        days = (now - moment(row["delivered_at"])).days
        print(
            f"{row['batch_id']} line {row['line_no']}  {row['file_name']}  {row['kind']} {amount(int(row['amount']))}  "
            f"fee {row['fee_id']}  delivered {row['delivered_at'][:16]}, {days} days ago"
            f"{'  NOT SEEN' if row['listed'] else ''}"
        )
    print(f"{len(rows)} lines not seen yet; newest complete list of items: {newest or 'none'}")


def _void(options: argparse.Namespace) -> None:
    ledger = _ledger_to_tell(options)
    with ledger.lease("out", "command line") as lease:
        count = confirmations.void(
            ledger,
            lease,
            options.batch,
            options.line,
            options.reason,
            rejected=options.rejected,
            settings=_settings(options).sis_to_alma.items,
        )
    print(f"{count} lines of batch {options.batch} are void; the next run works their fees out anew.")


def _assign(options: argparse.Namespace) -> None:
    ledger = _ledger_to_tell(options)
    with ledger.lease("back", "command line") as lease, ledger.write(lease) as tx:
        given = unassigned.assign(tx, options.payment, options.fee, options.amount)
    print(f"{amount(given)} of payment {options.payment} is for fee {options.fee}; the next run posts it.")


def _mark_waived(options: argparse.Namespace) -> None:
    print(f"{_settle_doubt(options, waived=True)} of payment {options.payment} counts as waived in Alma.")


def _mark_not_waived(options: argparse.Namespace) -> None:
    print(f"{_settle_doubt(options, waived=False)} of payment {options.payment} is waived by the next run.")


def _settle_doubt(options: argparse.Namespace, *, waived: bool) -> str:
    quiet = _settings(options).sis_to_alma.quiet_minutes
    ledger = _ledger_to_tell(options)
    with ledger.lease("back", "command line") as lease, ledger.write(lease) as tx:
        return amount(payments.settle_doubt(tx, options.payment, quiet, waived=waived))


def _mark_delivered(options: argparse.Namespace) -> None:
    ledger = _ledger_to_tell(options)
    with ledger.lease("out", "command line") as lease, ledger.write(lease) as tx:
        given_up = _state_of(tx, options.batch) == "cancelled"
        if options.line is not None:
            batches.count_again(tx, options.batch, options.line)
        elif given_up:
            batches.deliver_after_all(tx, options.batch)
        else:
            _require_unconfirmed(tx, options.batch)
            batches.deliver(tx, options.batch, "unconfirmed")
    what = (
        f"Batch {options.batch}" if options.line is None else f"Line {options.line} of batch {options.batch}"
    )
    again = given_up or options.line is not None
    after = " after all; the next run credits what was sent again since" if again else ""
    print(f"{what} counts as delivered{after}.")


def _mark_not_delivered(options: argparse.Namespace) -> None:
    ledger = _ledger_to_tell(options)
    with ledger.read() as tx:
        _require_unconfirmed(tx, options.batch)
        rests = moment(batches.batch(tx, options.batch)["changed_at"]) + TASK_DEFAULTS["execution_timeout"]
        if rests > moment(tx.now):
            raise Fatal(
                f"Batch {options.batch} was worked on a short while ago, and a worker that stood still might send it yet. "
                f"From {instant(rests)} on it surely can't."
            )
    with ledger.lease("out", "command line") as lease, ledger.write(lease) as tx:
        confirmations.require_not_loaded(tx, options.batch)
        batches.drop(tx, options.batch, "unconfirmed")
    print(f"Batch {options.batch} is given up; the next run works its fees out anew.")


def _repair(options: argparse.Namespace) -> None:
    """Read everything, then write: what PeopleSoft has, what Alma has, what is still to be posted."""
    from contextlib import ExitStack

    from alma_hook import sftp
    from alma_hook.hook import AlmaHook
    from alma_hook.repair import repair

    ledger = _ledger(options)
    ledger.check()
    settings = _settings(options)
    connections = settings.connections
    # Outside of a task Airflow looks connections up in its database only for its own server processes.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    with ExitStack() as stack:
        out = stack.enter_context(ledger.lease("out", "command line"))
        back = stack.enter_context(ledger.lease("back", "command line"))
        folder = archive = stack.enter_context(sftp.connect(connections.sfs))
        if connections.archive is not None:
            archive = stack.enter_context(sftp.connect(connections.archive))
        hook = AlmaHook(connections.alma)
        stack.callback(hook.close)
        counts = repair(ledger, out, back, settings, archive, folder, hook.get_conn(), progress=_progress)
    print(
        f"\n{counts.batches} batches in the archive, {counts.added} of them new to the ledger; {counts.given_up} given up "
        f"that were never sent.\n{counts.accounts} accounts read in Alma, {counts.accounts_gone} not known there; "
        f"{counts.payments} payments of ours were new to the ledger.\n{counts.notes} notes of what was said of payments, "
        f"and {counts.files} archived payment files, were taken in again."
    )
    if counts.unconfirmed:
        print(
            f"{counts.unconfirmed} batches are unconfirmed: `python -m alma_hook exceptions` says what to do."
        )


def _progress(done: int, of: int) -> None:
    print(f"\r{done} of {of} accounts read", end="", flush=True)


def _rebind(options: argparse.Namespace) -> None:
    ledger = _ledger(options)
    ledger.check()
    with ledger.write() as tx:
        if not guard.unbind(tx, options.what, options.reason):
            known = ", ".join(guard.bindings(tx)) or "nothing"
            raise Fatal(f"The ledger is not bound to {options.what}; it is bound to: {known}.")
    print("The next run takes what it meets for the right one.")


def _state_of(tx: Tx, batch_id: str) -> str | None:
    try:
        return str(batches.batch(tx, batch_id)["state"])
    except LookupError:
        return None


def _require_unconfirmed(tx: Tx, batch_id: str) -> None:
    state = _state_of(tx, batch_id)
    if state == "unconfirmed":
        return
    waiting = ", ".join(row["batch_id"] for row in batches.in_states(tx, "unconfirmed")) or "none"
    said = (
        f"{state}, not unconfirmed" if state else "none (a number has six digits, as its file's name shows)"
    )
    raise Fatal(f"Batch {batch_id} is {said}; those are: {waiting}.")


if __name__ == "__main__":
    sys.exit(main())
