"""The tables in the docs that follow from the code: ``python -m tests.docs_tables`` writes them anew.

They stand between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import AfterValidator, BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from alma_hook import analytics, campus, charge_file, charges, layouts, money, packet
from alma_hook.ledger.batches import Line

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "settings.md",
    ROOT / "docs" / "layouts.md",
    ROOT / "include" / "alma" / "README.md",
)

MEANINGS = {
    "institution": "Alma's institution code. The API key must belong to it, or nothing is read or changed.",
    "timezone": "The campus's zone: schedules, and the day that stands in a file.",
    "currency": "A fee in another currency is listed, not sent.",
    "live": "`false`: everything is read and worked out, nothing is uploaded and nothing is posted.",
    "connections.alma": "The Alma API.",
    "connections.ledger": "The ledger's database, `sqlite` or `postgres`.",
    "connections.sfs": "PeopleSoft's SFTP server, for both directions.",
    "connections.alma_export": "The SFTP server where Alma's SIS profile leaves its files.",
    "connections.archive": "The SFTP server of `sfs.archive_directory`; without it, PeopleSoft's.",
    "alma_to_sis.method": "How fees are found, unless a run's trigger form says otherwise.",
    "alma_to_sis.schedule": "When `alma_to_sis` runs, in `timezone`: minute, hour, day, month, weekday.",
    "alma_to_sis.intraday_schedule": "When `alma_to_sis_intraday` runs; without it, only when triggered.",
    "alma_to_sis.report_path": "The Analytics report's full path. Needed by `analytics_report`.",
    "alma_to_sis.report_max_age_hours": "A report whose `Data Updated As Of` is older stops the run.",
    "alma_to_sis.export_directory": "Where the SIS profile's files lie. Without it `sis_profile` asks the API for the "
    "modified users.",
    "alma_to_sis.export_pattern": "Which files there are exports; patterns separated by commas.",
    "alma_to_sis.export_wait_minutes": "So long a scheduled run by `sis_profile` waits for an export written since its interval "
    "began, then it is red; none: it takes what is there. Only where Alma exports as often as the DAG runs.",
    "alma_to_sis.look_back_hours": "With `sis_profile` by API: how far back of the interval's end users count as "
    "modified.",
    "alma_to_sis.fee_transactions": "`open_fees` reads only accounts that Alma names as paid or waived in the last "
    "five days. Needs the Configuration area on the key.",
    "alma_to_sis.sweep_weekday": "On this day the first live run by `analytics_report` reads every account with open "
    "fees besides, for what no report named; `never` does without.",
    "alma_to_sis.reserve_calls": "Stop when so few of the day's API calls are left. Must be well below the "
    "institution's daily allowance.",
    "alma_to_sis.credits": "What is done about CREDIT fees: `list` them, or `ignore` them. No line is sent for them either way, "
    "and nothing closes them in Alma.",
    "alma_to_sis.workers": "API calls in flight at once, at most: no more than the connection's rate can use.",
    "emplid.source": "`primary_id`, or `identifier:` and the code of an identifier type, such as `identifier:UNIV_ID` "
    "(one more call an account).",
    "emplid.pattern": "An EMPLID of another shape is listed, not charged. The whole text must match.",
    "sfs.layout": "A file in `include/layouts/` beside the settings, or a shipped layout, without `.toml`.",
    "sfs.business_unit": "For layouts that have a place for it.",
    "sfs.origin_id": "Stands in the file's header.",
    "sfs.account_type": "Stands in each line, where the layout has a place for it.",
    "sfs.reference_prefix": "REF1_DESCR is this and the Alma fee id. Never change it while charges are open: payments "
    "with the old prefix would be refused.",
    "sfs.directory": "Where PeopleSoft collects our files.",
    "sfs.archive_directory": "Where a copy of each file and its manifest are put first, on the server of `connections.archive`.",
    "sfs.file_name": "Must hold `{kind}` and `{sequence}`, may hold `{date}`, must end in `.dat`.",
    "sfs.done_file": "An empty file that follows each one, where the far side waits for such, as `{file}.done`.",
    "sfs.nothing_to_send": "`empty_file`: a run without charges, or without credits, sends a file of that kind with header and "
    "trailer alone, for a loader that waits for one. Ask first whether yours takes such a file.",
    "sfs.fixed_name": "The one name that PeopleSoft loads, as `libfines.dat` or `lib_{kind}.dat`; then `file_name` is "
    'that in the archive alone. A file waits until the last one was collected. Needs `read_back = "hash"`.',
    "sfs.mode": "`rename`: upload under a name that ends in `.part`, check, rename. `direct`: upload under the final name; any "
    "doubt is left to a person.",
    "sfs.read_back": "How the upload is checked. `none` is for a drop box that shows nothing: it is never looked into, and "
    "after a crash the file is left to a person.",
    "sfs.taken_within_hours": "After a crash in the rename: with both names gone, the file counts as collected if it "
    "was uploaded this recently.",
    "sfs.credits_by": "What makes a line a credit: the charge's own item type with the mark of a `reversal`, or an `item_type` "
    "of its own, by `credit_item_types`.",
    "sfs.credit_wait_days": "How many days after a charge's delivery its credits follow although the charge was not seen in "
    "PeopleSoft. `0`: at once. Without it they wait until it is seen; without the section `[sis_to_alma.items]` nothing is "
    "ever seen, so they follow at once.",
    "brake.max_lines": "A batch of more lines is held until a person releases it. `0`: every batch is.",
    "brake.max_total": "So is one of a larger sum. Amounts stand in quotes.",
    "brake.max_line": "Larger lines are held by themselves; the others go on.",
    "brake.max_drop": "Percent. A report with suddenly that many fewer open fees than the last one holds all of its run. "
    "`100` does without.",
    "alerts.notifier": "Dotted path of an Airflow notifier that tells people; without one only logs do. See "
    "[alerts](operations.md#alerts).",
    "alerts.arguments": "What it is made with. `{subject}`, `{text}` and `{html}` stand for the message.",
    "alerts.schedule": "When `watch_fees` looks.",
    "alerts.repeat_hours": "What lasts is told again after so many hours.",
    "alerts.late_minutes": "A DAG is late when no live run has ended so long after one was due.",
    "alerts.exception_days": "Exceptions this old are told, by kind; those that leave money in doubt after a day. One message "
    "a day lists them all.",
    "alerts.collected_hours": "A delivered file that still lies there after so many hours is told.",
    "alerts.delivered_hours": "That nothing was delivered for so many hours is told; none: it is not.",
    "alerts.payment_file_hours": "That no payment file came for so many hours is told; none: it is not.",
    "alerts.export_file_hours": "That no export of Alma's SIS profile came for so many hours is told; none: it is not.",
    "retention.schedule": "When `tidy_up` runs, in `timezone`.",
    "retention.sent_file_days": "So many days after its end the bytes of a file that was sent or given up go from the ledger. "
    "`0`, here and below: they are kept. See [what is kept](security.md#what-is-stored-where).",
    "retention.payment_file_days": "So many days after it was found the bytes of a file of PeopleSoft's output go.",
    "retention.dry_run_days": "So many days after a dry run its batches, lines and files go; what it saw of each fee, once a "
    "live run is as old.",
    "retention.uncharged_fee_days": "So many days after the last reading a fee goes that PeopleSoft was never told of and that "
    "was settled then, or whose account was gone.",
    "brake.answer_hours": "So long `release_batch` waits for a person's answer; then the batch counts as refused.",
    "brake.approvers": "Who may answer in Airflow's pages, by the user ids of its auth manager (of the simple one, "
    "names; of FAB, numbers); none: whoever has the right to answer there. With an id that nobody has, nobody can, and the "
    "time runs out.",
    "brake.approval_hours": "So long a released line may leave without being held again. It must last until the next run "
    "has read its fees.",
    "item_types": "Alma fee type -> PeopleSoft item type. A fee type without one is listed, not charged, see "
    "`first_charges.without_item_type`.",
    "item_types_of": "Code of an owning library -> a table like `item_types`, which comes first for that library's fees.",
    "first_charges.minimum": "A smaller fee is not charged.",
    "first_charges.minimum_of_student": "Not charged either while all that a student has open comes to less.",
    "first_charges.since": "A fee that Alma made before this day is never charged, as `2026-11-01`: for a campus that begins on "
    "a day.",
    "first_charges.minimum_age_days": "A fee is charged so many days after Alma made it.",
    "first_charges.maximum_age_days": "And no more after so many.",
    "first_charges.owners": "Only fees that are owed to these libraries, by their codes; none named: to any.",
    "first_charges.owners_left_out": "Not those owed to these.",
    "first_charges.user_groups": "Only users of these groups, by their codes; none named: of any. "
    "Costs one more call an account.",
    "first_charges.user_groups_left_out": "Not those of these. Costs the same.",
    "first_charges.fee_types_left_out": "Alma fee types that are never charged.",
    "first_charges.other_item_type": "Item type of the fee types without a row.",
    "first_charges.without_item_type": "A fee type without any: `list` it as an exception, or `leave_out` such fees.",
    "first_charges.without_emplid": "A user without EMPLID, or with one of another shape than `emplid.pattern`: `list` the "
    "fees as exceptions, or `leave_out` such users. `python -m alma_hook receivables` writes them down for accounts receivable.",
    "first_charges.due_in_days": "A charge is due so many days after it was planned.",
    "first_charges.due_on_day": "Or on this day of the next month, of the month after that when the day is past. Without either: "
    "no due date.",
    "credit_item_types": 'With `sfs.credits_by = "item_type"`: a charge\'s item type -> that of a credit which lowers it. Each '
    "item type of charges needs a row.",
    "descriptions": "Alma fee type -> the line's fixed description. Without one: `Library fee`.",
    "terms": "Rows of `first` (a day) and `term`. A charge made on or after `first` carries `term`; before the first "
    "row, blanks.",
    "sis_to_alma.schedule": "When `sis_to_alma` runs, in `timezone`.",
    "sis_to_alma.directory": "Where PeopleSoft leaves its query output.",
    "sis_to_alma.pattern": "Which files there are payments; patterns separated by commas.",
    "sis_to_alma.archive_directory": "Where files that were taken in are moved, on the same SFTP server.",
    "sis_to_alma.shape": "`payments`: one line a payment. `applied`: one line an item, with what is applied to it up to now. "
    "It can't be changed once payments were taken in.",
    "sis_to_alma.delimiter": 'What stands between two columns of CSV or TXT, such as `"\\t"` for a tab.',
    "sis_to_alma.date_format": "How the query writes days, in Python's `strptime` signs.",
    "sis_to_alma.number_format": "How the query writes amounts, by an example: what stands before thousands, which need not be "
    "marked, and before cents; and the sign of an amount below nought: before it, behind it, or brackets around it. See "
    "[below](#days-and-amounts).",
    "sis_to_alma.columns": "What is meant -> the query's heading; where it writes XML, PeopleSoft's name of the field. "
    "`emplid`, `amount` and `paid_on` are needed. `reference` is left out only where no line can name its fee: see "
    "`sis_to_alma.without_reference`. `payment_id` is strongly advised: without it `complete_days` must "
    "be true. Which of these there are can't be changed once payments were taken in. `kind`, where not every line is a payment: "
    "what `sis_to_alma.kinds` goes by. "
    'With `shape = "applied"`: `emplid`, `reference` and `applied`, and `item` (the '
    "item's number) where one reference may have several items.",
    "sis_to_alma.without_reference": "Needed where `columns` has no `reference`: which fee a payment is for. `hold`: a person "
    "says, with "
    "`assign`. `oldest_first`: the student's fees in the order in which they were charged, none beyond what is owed on it; "
    "what is left waits for the next charge or a person.",
    "sis_to_alma.kinds": "What a line is, by its value in `columns.kind`: `payment`; `waive:` and Alma's code of the reason "
    "(table FineFeeTransactionReason), such as `waive:OTHER`, for what PeopleSoft waives or writes off; `reversal`, for a line "
    "that takes back the payment of its `payment_id` and reference, or a part of it; `list`, for a person "
    "to look at; or `ignore`. A value that is not here is listed, and its line is not taken for a payment. A value that is "
    "corrected counts for what waits too, whether a file tells of it again or not: it is then paid, waived, or not posted (and "
    "listed, unless it is to be ignored). Where every file lists all, a payment whose value is changed "
    "from `payment` to another counts as taken back.",
    "sis_to_alma.waivers_shown_by": "Needed where `kinds` has a waiver: how it is told whether Alma has one. `comment`: our "
    "key is looked for in the comments that Alma gives back with a fee, as a payment's key is. `ledger`: Alma gives none back; "
    "what the ledger has waived counts, and one of unclear outcome waits for a person. The first waiver of all shows which it "
    "is.",
    "sis_to_alma.complete_days": "Says that every payment file gives whole days. Only then can equal payments of one day "
    "be told apart without `payment_id`, by their number in the file.",
    "sis_to_alma.method": "What Alma records as the payment's method.",
    "sis_to_alma.comment": "What Alma records as the payment's comment.",
    "opening.columns": "What is meant -> the heading, or XML field, of the file for `open --import`. `emplid`, `item_type`, "
    "`balance` and `applied` are needed; `reference` and `term` where the items have them, and later credits must copy them. "
    "The section may be left out. See "
    "[going live](operations.md#going-live-where-peoplesoft-already-holds-charges).",
    "sis_to_alma.items.pattern": "Which files are lists of items, in `sis_to_alma.directory`. No name may match "
    '`sis_to_alma.pattern` too, but for `shape = "applied"`, where the very same pattern says that one file is both. The '
    "section may be left out.",
    "sis_to_alma.items.columns": "What is meant -> the query's heading, or its field in XML. `emplid`, `reference` and "
    "`amount` (ITEM_AMT) are needed, `balance` is shown to people.",
    "sis_to_alma.items.complete": "Says that each list has every item ever loaded, whatever its age and amount. Only then is a "
    "charge missed that a list lacks.",
    "sis_to_alma.items.confirm_days": "A line that a list written this many days after its delivery does not show is listed.",
    "sis_to_alma.cumulative": "Says that every file lists all payments of ours, or all since a fixed day. Only then has a "
    'known payment that is missing been taken back. Must be true with `shape = "applied"`: every item of ours that was ever '
    "paid is in every file.",
    "sis_to_alma.reversal_lines": "Where files hold windows, and `kinds` has a `reversal`. `each`: each time that something is "
    "taken back of a payment is a line of its own. `sum`: one line has all that was ever taken back of it, and grows; the "
    "largest counts. `sum` is refused elsewhere.",
    "sis_to_alma.reversal_limit": "A file that lacks, or shows lower, more known payments than this for the first time is "
    "refused as a whole.",
    "sis_to_alma.max_drop": "Percent. A file that should list all (`cumulative`, `items.complete`) with that many fewer lines "
    "than the newest one, and more than 20 fewer, is refused until [a person lets it pass]"
    "(operations.md#a-file-that-was-refused). `100` does without.",
    "sis_to_alma.quiet_minutes": "How long a payment of unclear outcome rests before Alma is asked whether it has it.",
}

#: What a first set-up has to look at; the rest has defaults that can stay.
FIRST = (
    "institution", "timezone", "live", "alma_to_sis.method", "alma_to_sis.report_path", "emplid.source",
    "emplid.pattern", "sfs.layout", "sfs.business_unit", "sfs.origin_id", "sfs.directory", "item_types",
    "sis_to_alma.directory", "sis_to_alma.columns",
)  # fmt: skip

_CHECKED = {
    "_regular_expression": "regular expression",
    "_zone": "time zone name",
    "_directory": "absolute path",
    "_single_line": "text",
    "_cron": "cron expression",
    "_date_format": "date format",
}


# -- settings -----------------------------------------------------------------------------------------


def settings(model: type[BaseModel] = campus.Campus, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting with its key; a section's settings in place of the section."""
    for name, info in model.model_fields.items():
        if info.exclude:
            continue
        section = section_of(info.annotation)
        if section is not None:
            yield from settings(section, f"{above}{name}.")
        else:
            yield above + name, info


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a section, also of one that may be left out."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return None if get_origin(annotation) is tuple else each
    return None


def type_of(annotation: Any, metadata: tuple[Any, ...] | list[Any] = ()) -> str:
    """Say in words what a setting may hold."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_of(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, types.UnionType):
        (one,) = (a for a in arguments if a is not type(None))
        return type_of(one, metadata)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return "table"
    if origin is tuple:
        return "list of tables" if section_of(arguments[0]) else "list of texts"
    if annotation is date:
        return "date"
    if annotation is bool:
        return "`true`, `false`"
    if any(isinstance(m, BeforeValidator) for m in metadata):
        return "amount in quotes"
    floors = [m.func for m in metadata if isinstance(m, AfterValidator) and isinstance(m.func, campus.Floor)]
    if floors:
        return f"`0`, or a whole number from {floors[0].days}"
    if annotation is int:
        low = [m.ge for m in metadata if isinstance(m, annotated_types.Ge)]
        high = [m.le for m in metadata if isinstance(m, annotated_types.Le)]
        bounds = [f"from {n}" for n in low] + [f"to {n}" for n in high]
        return " ".join(["whole number", *bounds])
    if annotation is date:
        return "day, such as 2026-11-22"
    assert annotation is str, annotation
    checks = [m.func for m in metadata if isinstance(m, AfterValidator)]
    shapes = [check.words for check in checks if isinstance(check, campus.Shape)]
    return shapes[0] if shapes else _CHECKED[checks[-1].__name__]


def default_of(info: FieldInfo) -> str:
    """Say what holds where a setting is not written."""
    if info.is_required():
        return "**needed**"
    value = info.default
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ({}, (), ""):
        return "empty"
    if any(isinstance(m, BeforeValidator) for m in info.metadata):
        return code(f'"{money.amount(value)}"')
    return code(str(value))


def code(text: str) -> str:
    """Return text as code in a table, where a bar would end the column."""
    return "`" + text.replace("|", "\\|") + "`"


def settings_table(keys: frozenset[str] | None = None) -> str:
    """Return the settings, all or some, as a table."""
    rows = [
        (f"`{key}`", type_of(info.annotation, info.metadata), default_of(info), MEANINGS[key])
        for key, info in settings()
        if keys is None or key in keys
    ]
    return table(("setting", "holds", "default", "meaning"), rows)


# -- layouts ------------------------------------------------------------------------------------------

EXAMPLE_DAY = date(2026, 11, 21)
EXAMPLE = Line(
    fee_id="1389888970001234",
    kind="charge",
    amount=1250,
    emplid="012345678",
    item_type="300000000001",
    term="2267",
    reference="ALMA1389888970001234",
    description="Library fee",
    account_type="LIB",
    effective_date=EXAMPLE_DAY.isoformat(),
    due_date="",
    reason="new",
    item_fee="1389888970001234",
)


def example_file(layout: layouts.Layout) -> list[str]:
    """Return the lines of a file with the one example charge."""
    control = charge_file.Control("charges", 1, EXAMPLE.amount, "LIB01", "CAMPS", "USD", EXAMPLE_DAY)
    content = charge_file.write(layout, control, charges.frame([EXAMPLE]))
    return content.decode(layout.encoding).splitlines()


def layout_tables(names: Sequence[str]) -> str:
    """Return these layouts: title, status, and one table a record."""
    parts = []
    for name in names:
        layout = layouts.load(name)
        parts.append(
            f"**`{name}`**: {layout.title}. {layout.encoding.upper()}, lines end with {packet.line_end(layout)}. {layout.status} "
            f"Source: {layout.source}"
        )
        lines = example_file(layout)
        for record in packet.records(layout, lines):
            rows = [(name, place, source, shown(example)) for name, place, source, example in record.rows]
            parts.append(table((record.title, record.place, "from", "example"), rows))
    return "\n\n".join(parts)


FIELD_KEYS = {
    "name": "What it is called in messages and tables.",
    "at": "Its first column, from 1. In a delimited layout there is none: fields follow one another.",
    "width": "Its columns; a shorter value is filled up. Without it a value is as long as it is: the last text of a fixed "
    "line, or any value of a delimited one.",
    "max_width": "Without `width`: the most characters it may have. One of both is needed, but for a literal, a mark, a blank, "
    "and in a delimited layout a day, which has its `format`.",
    "source": "What stands there: see below.",
    "value": "Of a `literal`: its text.",
    "format": "Of a day.",
    "optional": "Whether it may be empty.",
    "align": "Where a shorter value stands. Not told: a text left, a number right.",
    "fill": "One character that fills the rest. Not told: a text with blanks, a number with zeros. A text that begins or ends "
    "with what it would be filled with is listed, not sent.",
    "decimals": "Of an amount: `12.50`, or `implied`: `1250`.",
    "negative": "Of an amount: below nought in a file of `credits`, be they reversals or items of their own.",
    "sign": "And where its minus stands; at the `end` of a field with a width it has a column of its own.",
    "charge": "Of `reversal`: what marks a charge. May be empty.",
    "credit": "And what marks a credit. May be empty.",
    "only": "Blank in the lines of the other kind.",
}


def fields_table() -> str:
    """Return what may be told of a field of a layout."""
    rows = []
    for key, info in layouts.FieldLayout.model_fields.items():
        values = next(
            (get_args(a) for a in (info.annotation, *get_args(info.annotation)) if get_origin(a) is Literal),
            (),
        )
        told = ", ".join(f"`{value}`" for value in values) if key != "source" else "a source"
        rows.append(
            (
                f"`{key}`",
                told or ("`true`, `false`" if info.annotation is bool else "text or number"),
                FIELD_KEYS[key],
            )
        )
    sources = ", ".join(f"`{source}`" for source in sorted(layouts.LINE_SOURCES))
    batch = ", ".join(f"`{source}`" for source in sorted(layouts.CONSTANT_SOURCES))
    return (
        table(("key", "may be", "meaning"), rows)
        + f"\n\nSources of a line: {sources}; `literal` and `blank`; and, the same in each line, {batch}. Of header and trailer: "
        f"these, `line_count` and `control_total`."
    )


def shown(text: str) -> str:
    """Return a field's characters; what fills it with blanks is left out."""
    return f"`{text.rstrip()}`" if text.strip() else "(blanks)"


def headings_table() -> str:
    """Return the report's columns that the code asks for."""
    why = {
        analytics.FEE_ID: "which fee",
        analytics.USER_ID: "which account to read live",
        analytics.REMAINING: "compared with what the ledger expects",
        analytics.UPDATED: "how old the data is; see `alma_to_sis.report_max_age_hours`",
    }
    rows = [(f"`{heading}`", why[heading]) for heading in analytics.HEADINGS]
    return table(("heading, exactly", "used for"), rows)


# -- the pages ----------------------------------------------------------------------------------------


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES = {
    "settings": settings_table,
    "first settings": lambda: settings_table(frozenset(FIRST)),
    "layouts": lambda: layout_tables(["default"]),
    "all layouts": lambda: layout_tables(layouts.shipped()),
    "layout fields": fields_table,
    "report headings": headings_table,
}
_PLACE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """Return a page's text with its tables as the code has them now."""
    return _PLACE.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def main() -> None:
    """Write the tables of every page anew."""
    for page in PAGES:
        page.write_text(renewed(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
