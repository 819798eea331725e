"""The campus's settings: one TOML file, checked as a whole before anything is done with it."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from alma_hook.errors import Fault, SettingsError

SETTINGS_VARIABLE = "ALMA_HOOK_CAMPUS"
METHODS = ("analytics_report", "sis_profile", "open_fees", "all_users")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Method = Literal["analytics_report", "sis_profile", "open_fees", "all_users"]


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


RegularExpression = Annotated[str, AfterValidator(_regular_expression)]
Directory = Annotated[str, AfterValidator(_directory)]
Zone = Annotated[str, AfterValidator(_zone)]
Text = Annotated[str, AfterValidator(_single_line), StringConstraints(min_length=1)]
ItemType = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{1,12}$")]
Term = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{0,4}$")]


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
    schedule: Text = "0 8,20 * * *"
    intraday_schedule: Text | None = None
    report_path: Text | None = None
    report_max_age_hours: int = Field(default=48, ge=1)
    export_directory: Directory | None = None
    export_pattern: Text = "*.xml,*.zip,*.tar.gz"
    look_back_hours: int = Field(default=24, ge=1)
    fee_transactions: bool = False
    sweep_weekday: Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun", "never"] = "sun"
    reserve_calls: int = Field(default=2_000, ge=0)
    workers: int = Field(default=8, ge=1, le=64)

    @model_validator(mode="after")
    def _source_named(self) -> AlmaToSis:
        if self.method == "analytics_report" and not self.report_path:
            raise ValueError("method analytics_report needs report_path, the report's full path in Alma")
        return self


class Emplid(_Section):
    """Where a student's EMPLID stands in Alma, and its shape."""

    source: Annotated[str, StringConstraints(pattern=r"^(primary_id|identifier:.+)$")] = "primary_id"
    pattern: RegularExpression = r"[0-9]{9}"


class Sfs(_Section):
    """What PeopleSoft's loader expects, and where."""

    layout: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")] = "default"
    business_unit: Annotated[str, StringConstraints(pattern=r"^[0-9A-Z]{0,5}$")] = ""
    origin_id: Annotated[str, StringConstraints(pattern=r"^[0-9A-Z]{1,5}$")]
    account_type: Annotated[str, StringConstraints(pattern=r"^[0-9A-Z]{0,3}$")] = ""
    reference_prefix: Annotated[str, StringConstraints(pattern=r"^[0-9A-Z]{0,10}$")] = "ALMA"
    directory: Directory
    archive_directory: Directory = "/sfs/archive"
    file_name: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_.{}-]+$")] = (
        "alma_{kind}_{sequence}.dat"
    )
    mode: Literal["rename", "direct"] = "rename"
    read_back: Literal["hash", "size", "none"] = "hash"
    taken_within_hours: int = Field(default=6, ge=0)
    credit_wait_days: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _name_is_unique(self) -> Sfs:
        unknown = set(re.findall(r"{(.*?)}", self.file_name)) - {"kind", "sequence", "date"}
        if unknown:
            raise ValueError(f"file_name knows {{kind}}, {{sequence}} and {{date}}, not {sorted(unknown)}")
        if not {"{kind}", "{sequence}"} <= set(re.findall(r"{.*?}", self.file_name)):
            raise ValueError("file_name needs {kind} and {sequence}, so that no file hides another")
        if self.directory == self.archive_directory:
            raise ValueError(
                "archive_directory must not be directory: PeopleSoft would load the archived copy too"
            )
        if not self.file_name.endswith(".dat"):
            raise ValueError("file_name must end in .dat, which PeopleSoft's loader demands")
        return self


class TermRow(_Section):
    """Charges made from ``first`` on (until the next row's day) carry ``term``."""

    first: date
    term: Term


class Items(_Section):
    """PeopleSoft's list of library items: one row an item, with its amount as it stands."""

    pattern: Text
    columns: Mapping[Literal["emplid", "reference", "amount", "balance"], Text]
    complete: bool = False
    confirm_days: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _columns_complete(self) -> Items:
        missing = sorted({"emplid", "reference", "amount"} - set(self.columns))
        if missing:
            raise ValueError(f"columns lacks {', '.join(missing)}")
        if len(set(self.columns.values())) < len(self.columns):
            raise ValueError("columns gives one heading two meanings")
        return self


class SisToAlma(_Section):
    """PeopleSoft's query output: where it lies and which column is what."""

    schedule: Text = "15 6-22/2 * * *"
    directory: Directory
    pattern: Text = "*.csv"
    archive_directory: Directory = "/sfs/outbound/archive"
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] = ","
    date_format: Text = "%m/%d/%Y"
    columns: Mapping[Literal["payment_id", "emplid", "reference", "amount", "paid_on"], Text]
    method: Literal["ONLINE", "CASH", "CREDIT_CARD"] = "ONLINE"
    comment: Text = "Paid in PeopleSoft Student Financials"
    complete_days: bool = False
    quiet_minutes: int = Field(default=10, ge=2)
    items: Items | None = None

    @model_validator(mode="after")
    def _columns_complete(self) -> SisToAlma:
        needed = {"emplid", "reference", "amount", "paid_on"}
        missing = sorted(needed - set(self.columns))
        if missing:
            raise ValueError(f"columns lacks {', '.join(missing)}")
        if "payment_id" not in self.columns and not self.complete_days:
            raise ValueError(
                "columns lacks payment_id. Without it equal payments of one day are told apart by their number in the "
                "file, which holds only where every file gives whole days: if so, say complete_days = true"
            )
        if self.directory == self.archive_directory:
            raise ValueError("archive_directory must not be directory: archived files would be found again")
        if len(set(self.columns.values())) < len(self.columns):
            raise ValueError("columns gives one heading two meanings")
        if self.items is not None and _patterns_meet(self.pattern, self.items.pattern):
            raise ValueError(
                "a file's name may match both pattern and items.pattern, so what it holds can't be told; make them apart, "
                "such as LIBRARY_PAYMENTS_*.csv and LIBRARY_ITEMS_*.csv"
            )
        return self


class Campus(_Section):
    """All settings of one institution. ``live`` false: nothing is uploaded, nothing is posted."""

    institution: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_]{3,40}$")]
    timezone: Zone = "America/Los_Angeles"
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "USD"
    live: bool = False
    connections: Connections = Connections()
    alma_to_sis: AlmaToSis
    emplid: Emplid = Emplid()
    sfs: Sfs
    item_types: Mapping[Text, ItemType]
    descriptions: Mapping[Text, Text] = {}
    terms: tuple[TermRow, ...] = ()
    sis_to_alma: SisToAlma
    # Where the file was read from: the layouts of a campus lie in a folder beside it.
    folder: Path = Field(default=Path(), exclude=True)

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

    def description(self, fee_type: str) -> str:
        """The fixed text of a fee type; never Alma's own, which can tell what was borrowed."""
        return self.descriptions.get(fee_type, "Library fee")

    def reference(self, fee_id: str) -> str:
        """What stands in REF1_DESCR for a fee."""
        return self.sfs.reference_prefix + fee_id

    def fee_id_of(self, reference: str) -> str | None:
        """The fee id in a reference of ours, or ``None`` where it is not ours."""
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
        data: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError("The settings can't be read.", [Fault(path.name, error.strerror or "")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("The settings are not TOML.", [Fault(path.name, str(error))]) from None
    try:
        return Campus.model_validate({**data, "folder": path.resolve().parent})
    except ValidationError as error:
        raise SettingsError(
            "The settings have faults:",
            [
                Fault(path.name, e["msg"].removeprefix("Value error, "), field=".".join(map(str, e["loc"])))
                for e in error.errors(include_url=False, include_input=False)
            ],
        ) from None
