"""Whether a campus's settings, connections and files go together, told all at once before anything runs.

Nothing is changed but for one small file that is written to each SFTP folder and taken away again: it shows
what the far side does with a file under a temporary name.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from alma_hook import analytics, applied_file, charge_file, charges, item_file, payment_file
from alma_hook.analytics import ReportSource
from alma_hook.campus import WAIVE, Campus
from alma_hook.errors import AlmaHookError, BadFile, NotPermitted, Refused, Retriable, SendingStopped
from alma_hook.layouts import Layout
from alma_hook.ledger import Ledger, Row, Tx, batches, payments
from alma_hook.ledger.guard import bindings
from alma_hook.money import amount
from alma_hook.query_output import RefusedLine
from alma_hook.remote import RemoteFile, RemoteFolder

#: The code tables of Alma's reasons and fee types.
WAIVE_REASONS = "FineFeeTransactionReason"
FEE_TYPES = "HFrUserFinesFees.fineFeeType"
#: So long a far side has to take a file before it counts as left alone.
_SECONDS = 15
_LINES = 10
#: A first page is enough to see whether the report is the right one.
_ROWS = 25


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing; ``wrong``: it has to be put right before a run, ``doubtful``: looked at."""

    about: str
    text: str
    wrong: bool = False
    doubtful: bool = False

    @property
    def verdict(self) -> str:
        """In a word."""
        return "WRONG" if self.wrong else "LOOK" if self.doubtful else "ok"


class Alma(ReportSource, Protocol):
    """The calls that tell who the key belongs to and what it may do."""

    def institution(self) -> str:
        """Return the institution's code."""
        ...

    def environment(self) -> str:
        """Return the environment's name, such as ``PRODUCTION``."""
        ...

    def check_write(self) -> None:
        """Raise ``NotPermitted`` when the key may not write."""
        ...

    def code_table(self, name: str) -> Mapping[str, str]:
        """Return a code table: code to description."""
        ...


class Probed(RemoteFolder, Protocol):
    """A folder from which what was put there for a test can be taken away again."""

    def remove(self, path: str) -> None:
        """Remove a file."""
        ...


def each(about: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return what a look finds; what it can't get at is a finding too, and ends that look alone."""
    found: list[Finding] = []
    try:
        found.extend(look())
    except AlmaHookError as error:
        found.append(Finding(about, str(error), wrong=True))
    return found


def of_alma(alma: Alma, campus: Campus) -> Iterator[Finding]:
    """The key: whose it is, whether it may write; and the fee types that the campus's Alma knows."""
    about = f"connection {campus.connections.alma}"
    institution = alma.institution()
    if institution != campus.institution:
        yield Finding(about, f"is of {institution}, the settings are for {campus.institution}", wrong=True)
        return
    try:
        yield Finding(about, f"Alma answers for {institution}, environment {alma.environment()}")
    except (NotPermitted, Refused):
        yield Finding(about, f"Alma answers for {institution}; the key may not see which environment it is")
    try:
        alma.check_write()
        yield Finding(about, "the key may read and write")
    except NotPermitted:
        said = "the key may not write, so no payment can be posted with it"
        yield Finding(about, said, wrong=campus.live)
    try:
        known = alma.code_table(FEE_TYPES)
    except (NotPermitted, Refused):
        yield Finding("item_types", "can't be compared: the key may not read Alma's code tables")
        return
    yield from _fee_types(sorted(known), campus)
    reasons = {
        kind.removeprefix(WAIVE) for kind in campus.sis_to_alma.kinds.values() if kind.startswith(WAIVE)
    }
    strange = sorted(reasons - set(alma.code_table(WAIVE_REASONS))) if reasons else []
    if strange:
        said = f"has reasons of waivers that this Alma does not know: {', '.join(strange)}"
        yield Finding("sis_to_alma.kinds", said, wrong=True)


def _fee_types(known: Sequence[str], campus: Campus) -> Iterator[Finding]:
    tables = {"item_types": campus.item_types, "descriptions": campus.descriptions}
    tables |= {f"item_types_of.{owner}": rows for owner, rows in campus.item_types_of.items()}
    for name, rows in tables.items():
        strange = sorted(set(rows) - set(known))
        if strange:
            yield Finding(
                name, f"has fee types that this Alma does not know: {', '.join(strange)}", wrong=True
            )
    mapped = [campus.item_types, *campus.item_types_of.values()]
    without = [
        code
        for code in known
        if code not in (charges.CREDIT_TYPE, *campus.first_charges.fee_types_left_out)
        and campus.item_type(code, "") is None
        and not any(code in rows for rows in mapped)
    ]
    what = {"list": "listed", "leave_out": "left out"}[campus.first_charges.without_item_type]
    if without:
        yield Finding(
            "item_types", f"{len(without)} of Alma's fee types have none and are {what}: {', '.join(without)}"
        )
    else:
        yield Finding("item_types", f"all of Alma's {len(known)} fee types have one, or are left out")


def of_report(
    alma: ReportSource, campus: Campus, now: datetime, pause: Callable[[float], None]
) -> Iterator[Finding]:
    """The Analytics report: its columns, its first rows, the age of its data."""
    path = str(campus.alma_to_sis.report_path)
    name = path.rpartition("/")[2]
    try:
        rows = next(analytics.pages(alma, path, analytics.HEADINGS, pause, _ROWS))
    except (Refused, Retriable) as error:
        asked = "Is alma_to_sis.report_path where the report lies in Analytics' catalog, all of its folders named?"
        yield Finding(f"report {name}", f"{error} {asked}", wrong=True)
        return
    _, updated = analytics.fee_rows(rows, name, 1)
    stale = analytics.too_old(updated, now, campus.alma_to_sis.report_max_age_hours) if rows else None
    if not rows:
        yield Finding(f"report {name}", "is empty: are there no open fees, or is its filter wrong?")
    elif stale:
        yield Finding(f"report {name}", stale, wrong=True)
    else:
        yield Finding(f"report {name}", f"has the columns that are needed; its data is of {updated}")


def of_exports(folder: RemoteFolder, campus: Campus) -> Iterator[Finding]:
    """The folder where Alma's SIS profile leaves its exports."""
    directory, patterns = str(campus.alma_to_sis.export_directory), campus.alma_to_sis.export_pattern
    yield Finding(directory, _told(folder.files(directory, patterns), patterns))


def of_inbound(folder: Probed, campus: Campus, pause: Callable[[float], None]) -> Iterator[Finding]:
    """PeopleSoft's folder for our files: whether a temporary name is let alone there, read back, and renamed."""
    sfs = campus.sfs
    path = f"{sfs.directory}/alma_hook_probe_{secrets.token_hex(4)}.part"
    content = b"A test of this connection by alma_hook; not for loading.\n"
    renaming = sfs.mode == "rename"
    try:
        folder.write(path, content)
    except NotPermitted:
        said = f"a file under a temporary name may not be written there; {_DIRECT}"
        yield Finding(sfs.directory, said, wrong=renaming)
        return
    if sfs.read_back == "none":
        yield Finding(sfs.directory, 'takes files; with read_back = "none" nothing is looked at there')
        yield from _removed(folder, path, sfs.directory)
        return
    pause(_SECONDS)
    if folder.size(path) is None:
        said = f"the far side takes a file in {_SECONDS} s, under a temporary name too; {_DIRECT}"
        yield Finding(sfs.directory, said, wrong=renaming)
        return
    try:
        same = folder.read(path) == content
        said = "takes a file and lets it alone" if same else "gives back other bytes than were written"
        yield Finding(sfs.directory, said, wrong=not same)
    except (NotPermitted, Retriable):
        said = 'what is there can\'t be read back: set sfs.read_back = "size"'
        yield Finding(sfs.directory, said, wrong=sfs.read_back == "hash")
    if renaming:
        renamed = path.removesuffix(".part") + ".ren.part"
        try:
            folder.rename(path, renamed)
            path = renamed
            yield Finding(sfs.directory, "lets a file be renamed")
        except (NotPermitted, Retriable):
            yield Finding(sfs.directory, f"a file may not be renamed there; {_DIRECT}", wrong=True)
    yield from _removed(folder, path, sfs.directory)


_DIRECT = 'set sfs.mode = "direct"'


def _removed(folder: Probed, path: str, directory: str) -> Iterator[Finding]:
    try:
        folder.remove(path)
    except (NotPermitted, Retriable):
        said = f"{path.rpartition('/')[2]}, written for this test, may not be removed: have it removed there"
        yield Finding(directory, said)


def of_archive(folder: Probed, directory: str) -> Iterator[Finding]:
    """A folder in which files are kept: written, looked at, read."""
    path = f"{directory}/alma_hook_probe_{secrets.token_hex(4)}.part"
    folder.write(path, b"A test of this connection by alma_hook.\n")
    folder.read(path)
    yield Finding(directory, "takes files and gives them back")
    yield from _removed(folder, path, directory)


def of_outbound(folder: RemoteFolder, campus: Campus) -> Iterator[Finding]:
    """PeopleSoft's folder of query output: what lies there, and whether the newest of each kind can be read."""
    back = campus.sis_to_alma
    for kind, pattern in back.patterns.items():
        files = folder.files(back.directory, pattern)
        only = f"; {files[-1].name} alone is read here" if len(files) > 1 else ""
        yield Finding(f"{back.directory}, {kind}", _told(files, pattern) + only)
        if files:
            yield from each(files[-1].name, partial(_of_file, folder, campus, kind, files[-1]))


def _of_file(folder: RemoteFolder, campus: Campus, kind: str, file: RemoteFile) -> Iterator[Finding]:
    back = campus.sis_to_alma
    content = folder.read(f"{back.directory}/{file.name}")
    lines: int
    refused: Sequence[RefusedLine]
    if kind == "items" and back.items is not None:
        items = item_file.read(file.name, content, campus, back.items)
        lines, refused = items.lines, items.refused
    elif back.shape == "applied":
        applied = applied_file.read(file.name, content, campus)
        lines, refused = applied.lines, applied.refused
    else:
        paid = payment_file.read(file.name, content, campus)
        lines, refused = paid.lines, paid.refused
    if refused:
        first = refused[0]
        where = f"line {first.line_no}, {first.field}: {first.text}"
        said = f"{len(refused)} of {lines} lines can't be taken in; the first is {where}"
        yield Finding(file.name, said, wrong=len(refused) == lines, doubtful=True)
    else:
        yield Finding(file.name, f"can be read, {lines} lines")


def _told(files: Sequence[RemoteFile], patterns: str) -> str:
    if not files:
        return f"can be listed; nothing in it matches {patterns}"
    newest = datetime.fromtimestamp(files[-1].modified, UTC)
    return f"{len(files)} files match {patterns}, the newest written {newest:%Y-%m-%d %H:%M} UTC"


def of_ledger(ledger: Ledger, campus: Campus) -> Iterator[Finding]:
    """The ledger: its tables, whether it is open where the campus is live, and whether payments are told apart as before."""
    about = f"connection {campus.connections.ledger}"
    ledger.check()
    with ledger.read() as tx:
        opened = tx.one("SELECT opened_at FROM institution WHERE institution = :i")
    if opened is not None:
        yield Finding(about, f"the ledger is open since {str(opened)[:10]}")
    else:
        so = (
            "and live = true: run `python -m alma_hook open`, see docs/operations.md"
            if campus.live
            else "which is right for dry runs"
        )
        yield Finding(about, f"the ledger is not open yet, {so}", wrong=campus.live)
    with ledger.read() as tx:
        # What is bound is only compared; what is not would be bound, which is the first intake's affair.
        if payments.IDENTITY in bindings(tx):
            try:
                payments.require_shape(tx, campus.sis_to_alma.told_apart, campus.payment_identity)
            except SendingStopped as error:
                yield Finding("sis_to_alma.columns", str(error), wrong=True)


def previews(tx: Tx, campus: Campus, layout: Layout) -> Iterator[str]:
    """Yield, for each file that the newest dry run would send: its sums, a ruler, and ten lines without EMPLIDs."""
    rows = batches.newest_previews(tx)
    if not rows and campus.live:
        yield "No dry run's files to show, as the campus is live: `python -m alma_hook batches` lists what was sent."
    elif not rows:
        yield "No dry run yet: with live = false, trigger alma_to_sis, then ask again."
    for row in rows:
        lines = batches.lines(tx, row["batch_id"])
        text = f"{row['file_name']}: {row['kind']}, {row['line_count']} lines, {amount(int(row['total']))}"
        yield f"{text}, as layout {layout.name}; without its EMPLIDs:"
        try:
            yield from _masked(row, lines[:_LINES], campus, layout)
        except BadFile as error:
            wrong = sorted({fault.text for fault in error.faults})
            yield f"They were planned for another layout and fit this one no more: {'; '.join(wrong)}."
            yield "Trigger alma_to_sis, then ask again."


def _masked(row: Row, lines: Sequence[Row], campus: Campus, layout: Layout) -> Iterator[str]:
    frame = charges.frame(lines)
    frame["emplid"] = ["#" * len(emplid) for emplid in frame["emplid"]]
    control = charges.control(row, campus)
    shown = charge_file.write(layout, control, frame).decode(layout.encoding).splitlines()
    yield from charge_file.under_ruler(shown)
