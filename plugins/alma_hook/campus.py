"""The campus's settings: one TOML file, checked as a whole before anything is done with it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from alma_hook import layouts, toml_file
from alma_hook.errors import Fault, SettingsError
from alma_hook.money import PLAIN, NumberFormat, cents
from alma_hook.plain_words import faults_of

SETTINGS_VARIABLE = "ALMA_HOOK_CAMPUS"
METHODS = ("analytics_report", "sis_profile", "open_fees", "all_users")
#: Shape of PeopleSoft's output -> the columns it needs, and those it may have.
COLUMNS = {
    "payments": (("emplid", "amount", "paid_on"), ("reference", "payment_id", "kind")),
    "applied": (("emplid", "reference", "applied"), ("item",)),
}
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Method = Literal["analytics_report", "sis_profile", "open_fees", "all_users"]


# pydantic would take "yes", and 1, for it too.
TrueOrFalse = Annotated[bool, Strict()]


@dataclass(frozen=True)
class Shape:
    """Checks that a text matches ``pattern`` as a whole; ``words`` say to a person what is expected."""

    pattern: str
    words: str

    def __call__(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError(f"must be {self.words}")
        return text


@dataclass(frozen=True)
class Floor:
    """Checks that so many days are 0 (kept for ever) or no fewer than ``days``; ``why`` says what needs them."""

    days: int
    why: str

    def __call__(self, days: int) -> int:
        if days and days < self.days:
            raise ValueError(f"must be 0 (all is kept) or at least {self.days}: {self.why}")
        return days


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("not a time zone name such as America/Los_Angeles") from None
    return name


def _directory(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path on the SFTP server")
    return path.rstrip("/") or "/"


def _single_line(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be plain ASCII on one line")
    return text


def _amount(value: object) -> int:
    """An unquoted 0.29 is a float to TOML, and a whole number could mean cents."""
    if not isinstance(value, str):
        raise ValueError('must be an amount in quotes, such as "25000.00"')
    return cents(value)


def _patterns_meet(one: str, other: str) -> bool:
    """Whether a name may match one of each of two lists of patterns; a bracket counts as any character."""

    def names(patterns: str) -> list[str]:
        return [re.sub(r"\[!?\]?[^]]*\]", "?", pattern.strip()) for pattern in patterns.split(",")]

    def meet(a: str, b: str) -> bool:
        if a[:1] == "*":
            return meet(a[1:], b) or (b != "" and meet(a, b[1:]))
        if b[:1] == "*":
            return meet(b, a)
        if not a or not b:
            return a == b
        return (a[0] == b[0] or "?" in (a[0], b[0])) and meet(a[1:], b[1:])

    return any(meet(a, b) for a in names(one) for b in names(other))


def _cron(text: str) -> str:
    try:
        # croniter would take a sixth field for seconds: a run each second where one a minute was meant.
        if len(text.split()) not in (1, 5):
            raise ValueError
        croniter(text).get_next()
    except ValueError:
        raise ValueError(
            "not a cron expression: it has five fields (minute, hour, day, month, weekday), such as 0 8,20 * * *"
        ) from None
    return text


def _date_format(text: str) -> str:
    day = date(2026, 11, 22)
    try:
        whole = datetime.strptime(day.strftime(text), text).date() == day  # noqa: DTZ007 a day has no zone
    except (ValueError, re.error):
        whole = False
    if not whole:
        raise ValueError("must tell day, month and year by strptime's signs, such as %m/%d/%Y or %Y-%m-%d")
    return text


def _layout(name: str, info: ValidationInfo) -> str:
    """A layout that can't be used is told with the other faults, not by the first run that needs it."""
    try:
        layouts.load(name, (info.context or {}).get("folder"))
    except SettingsError as error:
        raise ValueError("; ".join(map(str, error.faults))) from None
    return name


def _file_name(text: str) -> str:
    faults = []
    unknown = set(re.findall(r"{(.*?)}", text)) - {"kind", "sequence", "date"}
    if unknown:
        faults.append(f"knows {{kind}}, {{sequence}} and {{date}}, not {', '.join(sorted(unknown))}")
    if not {"{kind}", "{sequence}"} <= set(re.findall(r"{.*?}", text)):
        faults.append("needs {kind} and {sequence}, so that no file hides another")
    if not text.endswith(".dat"):
        faults.append("must end in .dat, which PeopleSoft's loader demands")
    if faults:
        raise ValueError("; ".join(faults))
    return text


def _fixed_name(text: str) -> str:
    unknown = set(re.findall(r"{(.*?)}", text)) - {"kind"}
    if unknown or not text.endswith(".dat"):
        raise ValueError("is a name such as libfines.dat, or libfines_{kind}.dat, and must end in .dat")
    return text


def _done_file(text: str) -> str:
    if set(re.findall(r"{(.*?)}", text)) != {"file"} or text == "{file}" or text.endswith(".dat"):
        raise ValueError("needs {file} and something besides, such as {file}.done; .dat would be loaded")
    return text


FileName = Annotated[
    str, AfterValidator(Shape(r"[0-9A-Za-z_.{}-]+", "letters, digits and _ . - { }, without a folder"))
]
RegularExpression = Annotated[str, AfterValidator(_regular_expression)]
Directory = Annotated[str, AfterValidator(_directory)]
Zone = Annotated[str, AfterValidator(_zone)]
Text = Annotated[str, StringConstraints(min_length=1), AfterValidator(_single_line)]
Cron = Annotated[Text, AfterValidator(_cron)]
ItemType = Annotated[str, AfterValidator(Shape(r"[0-9A-Za-z]{1,12}", "1 to 12 letters or digits"))]
Term = Annotated[str, AfterValidator(Shape(r"[0-9A-Za-z]{0,4}", "up to 4 letters or digits"))]
Cents = Annotated[int, BeforeValidator(_amount), Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Connections(_Section):
    """Airflow connection ids."""

    alma: Text = "alma_default"
    ledger: Text = "alma_ledger"
    sfs: Text = "sfs_sftp"
    archive: Text | None = None
    alma_export: Text = "alma_export_sftp"


class AlmaToSis(_Section):
    """Which fees are looked at, and when. Schedules are cron expressions in the campus's zone."""

    method: Method = "analytics_report"
    schedule: Cron = "0 8,20 * * *"
    intraday_schedule: Cron | None = None
    report_path: Text | None = Field(default=None, validate_default=True)
    report_max_age_hours: int = Field(default=48, ge=1)
    export_directory: Directory | None = None
    export_pattern: Text = "*.xml,*.zip,*.tar.gz"
    look_back_hours: int = Field(default=24, ge=1)
    export_wait_minutes: int | None = Field(default=None, ge=5)
    fee_transactions: TrueOrFalse = False
    sweep_weekday: Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun", "never"] = "sun"
    reserve_calls: int = Field(default=2_000, ge=0)
    credits: Literal["list", "ignore"] = "list"
    workers: int = Field(default=128, ge=1, le=256)

    @field_validator("report_path")
    @classmethod
    def _source_named(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is None and info.data.get("method") == "analytics_report":
            raise ValueError("method analytics_report needs it: the report's full path in Alma")
        return path


class Emplid(_Section):
    """Where a student's EMPLID stands in Alma, and its shape."""

    source: Annotated[
        str,
        AfterValidator(Shape(r"primary_id|identifier:.+", "primary_id or identifier:CODE")),
    ] = "primary_id"
    pattern: RegularExpression = r"[0-9]{9}"


class Sfs(_Section):
    """What PeopleSoft's loader expects, and where."""

    layout: Annotated[
        str,
        AfterValidator(Shape(r"[a-z0-9_]+", "small letters, digits or _")),
        AfterValidator(_layout),
    ] = Field(default="default", validate_default=True)
    business_unit: Annotated[
        str, AfterValidator(Shape(r"[0-9A-Z]{0,5}", "up to 5 capital letters or digits"))
    ] = ""
    origin_id: Annotated[str, AfterValidator(Shape(r"[0-9A-Z]{1,5}", "1 to 5 capital letters or digits"))]
    account_type: Annotated[
        str, AfterValidator(Shape(r"[0-9A-Z]{0,3}", "up to 3 capital letters or digits"))
    ] = ""
    reference_prefix: Annotated[
        str, AfterValidator(Shape(r"[0-9A-Z]{0,10}", "up to 10 capital letters or digits"))
    ] = "ALMA"
    directory: Directory
    archive_directory: Directory = Field(default="/sfs/archive", validate_default=True)
    file_name: Annotated[FileName, AfterValidator(_file_name)] = "alma_{kind}_{sequence}.dat"
    done_file: Annotated[FileName, AfterValidator(_done_file)] | None = None
    mode: Literal["rename", "direct"] = "rename"
    read_back: Literal["hash", "size", "none"] = "hash"
    fixed_name: Annotated[FileName, AfterValidator(_fixed_name)] | None = None
    taken_within_hours: int = Field(default=6, ge=0)
    nothing_to_send: Literal["no_file", "empty_file"] = "no_file"
    credits_by: Literal["reversal", "item_type"] = "reversal"
    credit_wait_days: int | None = Field(default=None, ge=0)

    @field_validator("fixed_name")
    @classmethod
    def _told_from_the_last_one(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and info.data.get("read_back") != "hash":
            raise ValueError(
                'needs read_back = "hash": under one name only the bytes tell one file from another'
            )
        return name

    @model_validator(mode="after")
    def _layout_is_enough(self, info: ValidationInfo) -> Sfs:
        layout = layouts.load(self.layout, (info.context or {}).get("folder"))
        constants = {
            "business_unit": self.business_unit,
            "origin_id": self.origin_id,
            "account_type": self.account_type,
        }
        faults = layout.unfit_constants(constants)
        if not layout.marks_credits and self.credits_by == "reversal":
            faults.append(
                f"layout {layout.name} does not mark credits, so they would be loaded as charges: set "
                'credits_by = "item_type", and [credit_item_types]'
            )
        if self.nothing_to_send == "empty_file" and layout.header is None and layout.trailer is None:
            faults.append(
                f"layout {layout.name} has neither header nor trailer, so a file without lines would hold nothing: leave "
                'nothing_to_send as "no_file"'
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def name_of(self, kind: str, day: date) -> str:
        """The name of a day's file of a kind; its ``{sequence}`` is told when it gets its number."""
        return self.file_name.replace("{kind}", kind).replace("{date}", f"{day:%Y%m%d}")

    def sent_as(self, kind: str) -> str | None:
        """The fixed name of a file of a kind, ``None`` where each has a name of its own."""
        return None if self.fixed_name is None else self.fixed_name.replace("{kind}", kind)

    @field_validator("archive_directory")
    @classmethod
    def _archive_apart(cls, archive: str, info: ValidationInfo) -> str:
        if archive == info.data.get("directory"):
            raise ValueError("must not be directory: PeopleSoft would load the archived copy too")
        return archive


class Brake(_Section):
    """Beyond which a batch is set aside for a person. Amounts in cents; ``max_drop`` in percent."""

    max_lines: int = Field(default=2_000, ge=0)
    max_total: Cents = 10_000_000
    max_line: Cents = 200_000
    max_drop: int = Field(default=50, ge=1, le=100)
    approval_hours: int = Field(default=24, ge=1)
    answer_hours: int = Field(default=72, ge=1)
    approvers: tuple[Text, ...] = ()


class FirstCharges(_Section):
    """Which fees are charged at all, for what, and from when on. None of it ever holds back a later line about a fee.

    Amounts in cents. An empty list of ``owners`` or ``user_groups`` lets all of them through.
    """

    minimum: Cents = 0
    minimum_of_student: Cents = 0
    since: date | None = None
    minimum_age_days: int = Field(default=0, ge=0)
    maximum_age_days: int | None = Field(default=None, ge=1)
    owners: tuple[Text, ...] = ()
    owners_left_out: tuple[Text, ...] = ()
    user_groups: tuple[Text, ...] = ()
    user_groups_left_out: tuple[Text, ...] = ()
    fee_types_left_out: tuple[Text, ...] = ()
    other_item_type: ItemType | None = None
    without_item_type: Literal["list", "leave_out"] = "list"
    without_emplid: Literal["list", "leave_out"] = "list"
    due_in_days: int | None = Field(default=None, ge=0, le=366)
    due_on_day: int | None = Field(default=None, ge=1, le=28)

    @field_validator("maximum_age_days")
    @classmethod
    def _later_than_the_least(cls, days: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("minimum_age_days") or 0
        if days is not None and days < least:
            raise ValueError(f"must not be below minimum_age_days ({least}): no fee would ever be charged")
        return days

    @field_validator("due_on_day")
    @classmethod
    def _one_rule(cls, day: int | None, info: ValidationInfo) -> int | None:
        if day is not None and info.data.get("due_in_days") is not None:
            raise ValueError("is one rule, due_in_days another; keep one of them")
        return day

    @property
    def by_user_group(self) -> bool:
        """Whether the user's group has to be read, which costs a call an account."""
        return bool(self.user_groups or self.user_groups_left_out)


class TermRow(_Section):
    """Charges made from ``first`` on (until the next row's day) carry ``term``."""

    first: date
    term: Term


class Items(_Section):
    """PeopleSoft's list of library items: one row an item, with its amount as it stands."""

    pattern: Text
    columns: Mapping[Literal["emplid", "reference", "amount", "balance"], Text]
    complete: TrueOrFalse = False
    confirm_days: int = Field(default=3, ge=1)

    @field_validator("columns")
    @classmethod
    def _columns_complete(cls, columns: Mapping[str, str]) -> Mapping[str, str]:
        missing = sorted({"emplid", "reference", "amount"} - set(columns))
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        if len(set(columns.values())) < len(columns):
            faults.append("gives one heading two meanings")
        if faults:
            raise ValueError("; ".join(faults))
        return columns


#: What a line is in ``sis_to_alma.kinds`` that is waived in Alma; behind it Alma's code of the reason.
WAIVE = "waive:"
#: And one that takes back the payment of its id, or a part of it.
REVERSAL = "reversal"
_KINDS = "payment, reversal, list, ignore, or waive: and Alma's code of the reason, such as waive:OTHER"


class Opening(_Section):
    """PeopleSoft's items that were there before the books are opened: which column is what."""

    columns: Mapping[Literal["emplid", "item_type", "balance", "applied", "reference", "term"], Text]

    @field_validator("columns")
    @classmethod
    def _columns_complete(cls, columns: Mapping[str, str]) -> Mapping[str, str]:
        missing = sorted({"emplid", "item_type", "balance", "applied"} - set(columns))
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        if len(set(columns.values())) < len(columns):
            faults.append("gives one heading two meanings")
        if faults:
            raise ValueError("; ".join(faults))
        return columns


class SisToAlma(_Section):
    """PeopleSoft's query output: where it lies and which column is what."""

    schedule: Cron = "15 6-22/2 * * *"
    directory: Directory
    pattern: Text = "*.csv"
    archive_directory: Directory = Field(default="/sfs/outbound/archive", validate_default=True)
    shape: Literal["payments", "applied"] = "payments"
    delimiter: Annotated[str, AfterValidator(Shape(r"(?s:.)", "one character"))] = ","
    date_format: Annotated[Text, AfterValidator(_date_format)] = "%m/%d/%Y"
    number_format: NumberFormat = PLAIN
    complete_days: TrueOrFalse = False
    columns: Mapping[str, Text]
    kinds: Mapping[
        Text,
        Annotated[
            Text, AfterValidator(Shape(rf"payment|{REVERSAL}|list|ignore|{WAIVE}[A-Z0-9_]{{1,40}}", _KINDS))
        ],
    ] = Field(default={}, validate_default=True)
    waivers_shown_by: Literal["comment", "ledger"] | None = Field(default=None, validate_default=True)
    method: Literal["ONLINE", "CASH", "CREDIT_CARD"] = "ONLINE"
    comment: Text = "Paid in PeopleSoft Student Financials"
    quiet_minutes: int = Field(default=10, ge=2)
    cumulative: TrueOrFalse = Field(default=False, validate_default=True)
    reversal_lines: Literal["each", "sum"] = "each"
    reversal_limit: int = Field(default=20, ge=0)
    max_drop: int = Field(default=10, ge=1, le=100)
    without_reference: Literal["hold", "oldest_first"] | None = Field(default=None, validate_default=True)
    items: Items | None = None

    @property
    def has_reversals(self) -> bool:
        """Whether lines of their own take payments back."""
        return REVERSAL in self.kinds.values()

    @property
    def reversals_sum_up(self) -> bool:
        """Whether one line has all that was taken back of a payment up to then, and takes the place of one that had less."""
        return self.reversal_lines == "sum"

    @property
    def no_reversals(self) -> frozenset[str]:
        """The kinds of lines that are said to be something else; of one that is not named any more nothing is said."""
        return frozenset(kind for kind, says in self.kinds.items() if says != REVERSAL)

    @property
    def reasons(self) -> dict[str, str | None]:
        """By the kinds of lines that tell of payments and waivers: Alma's code of the reason; ``None``: it is paid."""
        return {
            kind: says.removeprefix(WAIVE) if says.startswith(WAIVE) else None
            for kind, says in self.kinds.items()
            if says == "payment" or says.startswith(WAIVE)
        }

    @property
    def ignored(self) -> frozenset[str]:
        """The kinds of lines that nobody has to look at."""
        return frozenset(kind for kind, says in self.kinds.items() if says == "ignore")

    @field_validator("without_reference")
    @classmethod
    def _each_finds_its_fee(cls, way: str | None, info: ValidationInfo) -> str | None:
        columns = info.data.get("columns")
        if columns is not None and way is not None and "reference" in columns:
            raise ValueError("is of no use while columns has reference: each line names its fee")
        if columns is not None and way is None and "reference" not in columns:
            raise ValueError(
                'is needed, as columns has no reference: say how a payment finds its fee, "hold" (a person says) or '
                '"oldest_first"; or name in columns the heading under which lines name it'
            )
        return way

    @field_validator("archive_directory")
    @classmethod
    def _archive_apart(cls, archive: str, info: ValidationInfo) -> str:
        if archive == info.data.get("directory"):
            raise ValueError("must not be directory: archived files would be found again")
        return archive

    @field_validator("columns")
    @classmethod
    def _columns_complete(cls, columns: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        faults = []
        shape = info.data.get("shape", "payments")
        needed, optional = COLUMNS[shape]
        missing = [name for name in needed if name not in columns]
        unknown = sorted(set(columns) - {*needed, *optional})
        if missing:
            faults.append(f"lacks {', '.join(missing)}")
        if unknown:
            known = f"{', '.join(needed)} and {', '.join(optional)}"
            faults.append(f'knows {known} with shape = "{shape}", not {", ".join(unknown)}')
        if shape == "payments" and "payment_id" not in columns and info.data.get("complete_days") is False:
            faults.append(
                "lacks payment_id. Without it equal payments of one day are told apart by their number in the "
                "file, which holds only where every file gives whole days: if so, say complete_days = true"
            )
        if len(set(columns.values())) < len(columns):
            faults.append("gives one heading two meanings")
        if faults:
            raise ValueError("; ".join(faults))
        return columns

    @field_validator("kinds")
    @classmethod
    def _kinds_told(cls, kinds: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        told = "kind" in info.data.get("columns", {})
        if told and "payment" not in kinds.values():
            raise ValueError(
                'columns has kind: say here of each of its values what it is, at least which is "payment"'
            )
        if (
            REVERSAL in kinds.values()
            and told
            and not {"payment_id", "reference"} <= set(info.data["columns"])
        ):
            raise ValueError(
                "has a reversal, which names by columns.payment_id and columns.reference what it takes back: without them list it"
            )
        if (
            told
            and any(kind.startswith(WAIVE) for kind in kinds.values())
            and "payment_id" not in info.data["columns"]
        ):
            raise ValueError(
                "has a waiver, and without columns.payment_id one can't be told from a payment of that amount and day: list it"
            )
        if kinds and not told and "columns" in info.data:
            raise ValueError("needs columns.kind: the heading whose values these are")
        return kinds

    @field_validator("waivers_shown_by")
    @classmethod
    def _waivers_found(cls, way: str | None, info: ValidationInfo) -> str | None:
        kinds, columns = info.data.get("kinds"), info.data.get("columns", {})
        if kinds is None:
            return way
        waives = [kind for kind in kinds.values() if kind.startswith(WAIVE)]
        if waives and way is None:
            raise ValueError(
                'is needed, as kinds has a waiver: "comment" where Alma gives a waiver\'s comment back with the fee, so that our '
                'key is found there, else "ledger"; waive a cent of a fee by hand with a comment, and look at the fee by API'
            )
        if waives and "reference" not in columns:
            raise ValueError(
                "can't do for lines without columns.reference: which fee is waived has to be told"
            )
        if way is not None and not waives:
            raise ValueError("is of no use while kinds has no waiver")
        return way

    @field_validator("cumulative")
    @classmethod
    def _all_items(cls, cumulative: bool, info: ValidationInfo) -> bool:
        if info.data.get("shape") == "applied" and not cumulative:
            raise ValueError(
                'must be true with shape = "applied": only of lists with every item of ours that was ever paid is the newest '
                "right whatever came before it"
            )
        return cumulative

    @field_validator("reversal_lines")
    @classmethod
    def _lines_kept(cls, lines: str, info: ValidationInfo) -> str:
        if lines == "sum" and "kinds" in info.data and REVERSAL not in info.data["kinds"].values():
            raise ValueError("is of no use while kinds has no reversal")
        if lines == "sum" and info.data.get("cumulative"):
            raise ValueError(
                "is of no use with cumulative = true: there the lines of the newest file count, and no other"
            )
        return lines

    @field_validator("items")
    @classmethod
    def _names_apart(cls, items: Items | None, info: ValidationInfo) -> Items | None:
        pattern = info.data.get("pattern")
        if items is None or (info.data.get("shape") == "applied" and items.pattern == pattern):
            return items
        if pattern is not None and _patterns_meet(pattern, items.pattern):
            raise ValueError(
                "a file's name may match both pattern and items.pattern, so what it holds can't be told; make them apart, "
                "such as LIBRARY_PAYMENTS_*.csv and LIBRARY_ITEMS_*.csv"
            )
        return items

    @property
    def one_list(self) -> bool:
        """Whether one file is both: the list of items, and what is applied to each."""
        return self.shape == "applied" and self.items is not None and self.items.pattern == self.pattern

    @property
    def patterns(self) -> dict[str, str]:
        """Which files are looked for, by what they are kept as: ``payments`` or ``items``."""
        found = {} if self.one_list else {"payments": self.pattern}
        return found if self.items is None else {**found, "items": self.items.pattern}

    def lists_all(self, kind: str) -> bool:
        """Whether each file of a kind, ``payments`` or ``items``, holds all that there ever was."""
        if kind == "items" and not self.one_list:
            return self.items is not None and self.items.complete
        return self.cumulative

    def tells_again(self, kind: str) -> bool:
        """Whether the next file of a kind tells what one before it told, so that nothing is lost with that."""
        return kind == "items" or self.shape == "applied" or self.cumulative

    @property
    def names_fees(self) -> bool:
        """Whether each line names the fee that was paid."""
        return "reference" in self.columns

    @property
    def told_apart(self) -> str:
        """How payments are told apart, which the ledger keeps to: ``id``, ``line``, each perhaps without fees, or ``applied``."""
        return self._told_by if self.names_fees else f"{self._told_by} without fee"

    @property
    def _told_by(self) -> str:
        if self.shape == "applied":
            return "applied"
        return "id" if "payment_id" in self.columns else "line"

    @property
    def identity(self) -> str:
        """Which words of a line make it that payment and no other: read otherwise, each would be a new one."""
        columns = self.columns
        match self._told_by:
            case "id":
                return f"column {columns['payment_id']!r}"
            case "line":
                names = ", ".join(repr(columns[name]) for name in ("emplid", "amount", "paid_on"))
                # Only where cents follow a comma may one text be two amounts.
                comma = f", amounts as {self.number_format}" if "4,56" in self.number_format else ""
                return f"columns {names}, dates as {self.date_format}{comma}"
            case _:
                return "their item"


#: What a student reads of a fee type without a row in ``descriptions``.
_DESCRIPTION = "Library fee"


def _undescribed(descriptions: Mapping[str, str], info: ValidationInfo) -> dict[str, str]:
    """The text of the fee types without one of their own, by a key that names them; empty where there are none."""
    tables = [info.data.get("item_types", {}), *info.data.get("item_types_of", {}).values()]
    without = sorted({fee_type for table in tables for fee_type in table} - set(descriptions))
    return {f"{_DESCRIPTION!r} for {', '.join(without)}": _DESCRIPTION} if without else {}


class Alerts(_Section):
    """Who is told of what, by which of Airflow's notifiers. Without one nobody is."""

    notifier: (
        Annotated[
            str,
            AfterValidator(
                Shape(
                    r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+",
                    "the dotted path of a notifier, such as airflow.providers.smtp.notifications.smtp.SmtpNotifier",
                )
            ),
        ]
        | None
    ) = None
    arguments: Mapping[str, Any] = {}
    schedule: Cron = "*/30 * * * *"
    repeat_hours: int = Field(default=24, ge=1)
    late_minutes: int = Field(default=120, ge=5)
    exception_days: int = Field(default=7, ge=0)
    collected_hours: int = Field(default=24, ge=1)
    delivered_hours: int | None = Field(default=None, ge=1)
    payment_file_hours: int | None = Field(default=None, ge=1)
    export_file_hours: int | None = Field(default=None, ge=1)


class Retention(_Section):
    """After how many days what is stored of patrons goes from the ledger. 0: it is kept."""

    schedule: Cron = "30 4 * * 6"
    sent_file_days: Annotated[
        int, AfterValidator(Floor(60, "by its file a line is looked up that has to be made void"))
    ] = 0
    payment_file_days: Annotated[
        int,
        AfterValidator(
            Floor(60, "in it a line is looked up that was refused, or a payment that was taken back")
        ),
    ] = 0
    dry_run_days: Annotated[
        int,
        AfterValidator(
            Floor(30, "they are compared with what the present process and the first live runs send")
        ),
    ] = 0
    uncharged_fee_days: Annotated[
        int, AfterValidator(Floor(180, "until then a fee that was settled in Alma may be asked about"))
    ] = 0


class Campus(_Section):
    """All settings of one institution. ``live`` false: nothing is uploaded, nothing is posted."""

    institution: Annotated[str, AfterValidator(Shape(r"[0-9A-Za-z_]{3,40}", "3 to 40 letters, digits or _"))]
    timezone: Zone = "America/Los_Angeles"
    currency: Annotated[str, AfterValidator(Shape(r"[A-Z]{3}", "3 capital letters, such as USD"))] = "USD"
    live: TrueOrFalse = False
    connections: Connections = Connections()
    alma_to_sis: AlmaToSis
    emplid: Emplid = Emplid()
    sfs: Sfs
    brake: Brake = Brake()
    alerts: Alerts = Alerts()
    retention: Retention = Retention()
    # Without a row no fee would ever be charged.
    item_types: Mapping[Text, ItemType] = Field(min_length=1)
    item_types_of: Mapping[Text, Mapping[Text, ItemType]] = {}
    first_charges: FirstCharges = FirstCharges()
    descriptions: Mapping[Text, Text] = Field(default={}, validate_default=True)
    terms: tuple[TermRow, ...] = Field(default=(), validate_default=True)
    sis_to_alma: SisToAlma
    credit_item_types: Mapping[ItemType, ItemType] = Field(default={}, validate_default=True)
    opening: Opening | None = None
    # Where the file was read from: the layouts of a campus lie in a folder beside it.
    folder: Path = Field(default=Path(), exclude=True)
    _references: Mapping[str, str] = PrivateAttr(default={})

    @field_validator("sfs")
    @classmethod
    def _currency_fits(cls, sfs: Sfs, info: ValidationInfo) -> Sfs:
        layout = layouts.load(sfs.layout, (info.context or {}).get("folder"))
        faults = layout.unfit_constants({"currency": info.data.get("currency", "USD")})
        if faults:
            raise ValueError("; ".join(faults))
        return sfs

    @field_validator(
        "item_types", "item_types_of", "first_charges", "descriptions", "terms", "credit_item_types"
    )
    @classmethod
    def _fit_the_layout(cls, told: Any, info: ValidationInfo) -> Any:
        """What can't stand in any line is a fault of the settings, not of each fee that needs it."""
        sfs = info.data.get("sfs")
        if not isinstance(sfs, Sfs):
            return told
        layout = layouts.load(sfs.layout, (info.context or {}).get("folder"))
        source: layouts.LineSource = "item_type"
        texts: Mapping[str, str]
        match info.field_name:
            case "item_types_of":
                texts = {
                    f"{owner}.{fee_type}": item_type
                    for owner, rows in told.items()
                    for fee_type, item_type in rows.items()
                }
            case "first_charges":
                texts = {"other_item_type": told.other_item_type} if told.other_item_type else {}
            case "descriptions":
                source, texts = "description", {**_undescribed(told, info), **told}
            case "terms":
                source, texts = "term", {f"term {row.term}": row.term for row in told} or {"no row": ""}
            case _:
                texts = told
        faults = layout.unfit(source, texts)
        if info.field_name == "terms" and len({row.first for row in told}) < len(told):
            faults.append("has two rows of one day: which term a charge carries from then on can't be told")
        if faults:
            raise ValueError("; ".join(faults))
        return told

    @field_validator("credit_item_types")
    @classmethod
    def _credits_can_be_told(cls, credits: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        sfs, back, first = (info.data.get(name) for name in ("sfs", "sis_to_alma", "first_charges"))
        if not (isinstance(sfs, Sfs) and isinstance(back, SisToAlma) and isinstance(first, FirstCharges)):
            return credits
        if sfs.credits_by == "reversal":
            if credits:
                raise ValueError('is of no use while sfs.credits_by is "reversal"')
            return credits
        tables = [info.data.get("item_types", {}), *info.data.get("item_types_of", {}).values()]
        charged = {item_type for table in tables for item_type in table.values()}
        charged |= {first.other_item_type} if first.other_item_type else set()
        faults = (
            [f"lacks a row for {', '.join(sorted(charged - set(credits)))}"] if charged - set(credits) else []
        )
        both = sorted(charged & set(credits.values()))
        if both:
            faults.append(
                f"gives credits the item type of charges ({', '.join(both)}): they would be loaded as charges"
            )
        paid = sorted(
            kind for kind in set(credits.values()) if back.kinds.get(kind, "").startswith(("payment", WAIVE))
        )
        if paid:
            faults.append(
                f"are payments by sis_to_alma.kinds ({', '.join(paid)}): our own credits would be posted to Alma"
            )
        if back.shape == "applied":
            faults.append(
                'can\'t be used with sis_to_alma.shape = "applied": our own credits would count there as paid by the student'
            )
        if faults:
            raise ValueError("; ".join(faults))
        return credits

    @model_validator(mode="after")
    def _payments_find_their_way_back(self) -> Campus:
        layout = layouts.load(self.sfs.layout, self.folder)
        if layout.carries_reference:
            return self
        back = self.sis_to_alma
        asked = ["sis_to_alma.columns"] * back.names_fees + ["sis_to_alma.items"] * (back.items is not None)
        if asked:
            raise ValueError(
                f"{' and '.join(asked)} ask for the reference to the fee, for which layout {layout.name} has no place: leave "
                "them out, and say in sis_to_alma.without_reference how payments find their fee"
            )
        return self

    @property
    def archive_can_be_read(self) -> bool:
        """Whether the archive is another place than a drop box that may only be written to."""
        return self.sfs.read_back == "hash" or self.connections.archive is not None

    @property
    def credit_wait_days(self) -> int | None:
        """How many days a credit waits for its charge to be seen in PeopleSoft; ``None``: until it is seen.

        Without a list of items nothing is ever seen there, so a credit follows at once unless told otherwise.
        """
        days = self.sfs.credit_wait_days
        return 0 if days is None and self.sis_to_alma.items is None else days

    @property
    def zone(self) -> ZoneInfo:
        """The campus's time zone."""
        return ZoneInfo(self.timezone)

    def today(self, now: datetime) -> date:
        """The campus's calendar day at an instant."""
        return now.astimezone(self.zone).date()

    def term(self, day: date) -> str:
        """The term of a charge made on ``day``: blank where no row of the table covers it."""
        rows = sorted((row for row in self.terms if row.first <= day), key=lambda row: row.first)
        return rows[-1].term if rows else ""

    def item_type(self, fee_type: str, owner: str) -> str | None:
        """The item type of a fee's charges, ``None`` where no row tells; a row of its owner's comes first."""
        own = self.item_types_of.get(owner, {})
        return own.get(fee_type) or self.item_types.get(fee_type) or self.first_charges.other_item_type

    def credit_item_type(self, charged: str) -> str | None:
        """The item type of a credit that lowers a charge of that one, ``None`` where no row tells."""
        return charged if self.sfs.credits_by == "reversal" else self.credit_item_types.get(charged)

    def due_date(self, day: date) -> str:
        """When a charge of ``day`` is due, as ISO text: in so many days, or on a day of the next month; else blank.

        After that day of the month it is the month after the next, so that a month is always left.
        """
        rules = self.first_charges
        if rules.due_in_days is not None:
            return (day + timedelta(days=rules.due_in_days)).isoformat()
        if rules.due_on_day is None:
            return ""
        months = day.year * 12 + day.month - 1 + (1 if day.day <= rules.due_on_day else 2)
        return date(months // 12, months % 12 + 1, rules.due_on_day).isoformat()

    @property
    def charging_rules(self) -> str:
        """A digest of all that decides whether a fee is charged: with another one they are looked at again."""
        told = {"emplid", "item_types", "item_types_of", "first_charges"}
        return hashlib.sha256(self.model_dump_json(include=told).encode()).hexdigest()[:12]

    def description(self, fee_type: str) -> str:
        """The fixed text of a fee type; never Alma's own, which can tell what was borrowed."""
        return self.descriptions.get(fee_type, _DESCRIPTION)

    def reference(self, fee_id: str) -> str:
        """What stands in REF1_DESCR for a fee."""
        return self.sfs.reference_prefix + fee_id

    @property
    def payment_identity(self) -> str:
        """What makes a line of PeopleSoft's output one payment: the item's reference, and what tells it from others."""
        identity = self.sis_to_alma.identity
        if not self.sis_to_alma.names_fees:
            return f"{identity}, of each student"
        return f"{identity}, references that begin with {self.sfs.reference_prefix!r}"

    def knowing(self, references: Mapping[str, str]) -> Campus:
        """These settings with the references, and their fees, of items that another process has charged."""
        if not references:
            return self
        copy = self.model_copy()
        copy._references = references
        return copy

    def fee_id_of(self, reference: str) -> str | None:
        """The fee id in a reference of ours, or ``None`` where it is not ours."""
        if reference.strip() in self._references:
            return self._references[reference.strip()]
        prefix = self.sfs.reference_prefix
        fee_id = reference.strip().removeprefix(prefix)
        ours = reference.strip().startswith(prefix) and fee_id.isascii() and fee_id.isdigit()
        return fee_id if ours else None


def find(beside: Path | None = None) -> Path:
    """Return the settings file: $ALMA_HOOK_CAMPUS, else ``include/campus.toml`` beside the DAG folder.

    Raises ``SettingsError`` with the places looked at.
    """
    named = os.environ.get(SETTINGS_VARIABLE)
    if named:
        places = [Path(named)]
    else:
        folders = [beside, beside.parent] if beside else []
        home = os.environ.get("AIRFLOW_HOME")
        folders += [Path(home)] if home else []
        places = [folder / name for folder in folders for name in ("campus.toml", "include/campus.toml")]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise SettingsError(
        "No settings file.",
        [
            Fault(
                "campus.toml",
                f"looked for {looked}; set {SETTINGS_VARIABLE} or run `python -m alma_hook init`",
            )
        ],
    )


def load(path: Path) -> Campus:
    """Read and check a settings file. Raises ``SettingsError`` naming every fault with its key."""
    try:
        data = toml_file.read(path)
    except OSError as error:
        raise SettingsError("The settings can't be read.", [Fault(path.name, error.strerror or "")]) from None
    except ValueError as error:
        raise SettingsError("The settings are not TOML.", [Fault(path.name, str(error))]) from None
    folder = path.resolve().parent
    try:
        return Campus.model_validate({**data, "folder": folder}, context={"folder": folder})
    except ValidationError as error:
        raise SettingsError("The settings have faults:", faults_of(path.name, error, data)) from None
