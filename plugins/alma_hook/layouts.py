"""The layout of an SFS file, declared once; writing, reading and the docs follow from it.

A layout is a TOML file: a header and a detail record, each a list of fields with position, width
and source. Positions start at 1, as on PeopleSoft's External File Layouts pages. What no field
covers is blank.
"""

from __future__ import annotations

import tomllib
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alma_hook.errors import Fault, SettingsError
from alma_hook.plain_words import faults_of
from alma_hook.resources import include

BatchSource = Literal["line_count", "control_total", "origin_id", "business_unit", "currency", "file_date"]
LineSource = Literal[
    "emplid",
    "item_type",
    "amount",
    "reversal",
    "term",
    "effective_date",
    "due_date",
    "account_type",
    "reference",
    "description",
]
Source = Literal["literal", BatchSource, LineSource]

BATCH_SOURCES = frozenset(BatchSource.__args__)  # type: ignore[attr-defined]
LINE_SOURCES = frozenset(LineSource.__args__)  # type: ignore[attr-defined]
AMOUNTS = frozenset({"amount", "control_total"})
DATES = frozenset({"effective_date", "due_date", "file_date"})
_STRFTIME = {"MMDDYYYY": "%m%d%Y", "MMDDYY": "%m%d%y", "YYYYMMDD": "%Y%m%d", "MM/DD/YYYY": "%m/%d/%Y"}


class FieldLayout(BaseModel):
    """One field: ``at`` its first column, ``width`` in columns (none: to the end of the line)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    at: int = Field(ge=1, le=999)
    width: int | None = Field(default=None, ge=1, le=999)
    max_width: int | None = Field(default=None, ge=1, le=999)
    source: Source
    value: str = ""
    format: Literal["MMDDYYYY", "MMDDYY", "YYYYMMDD", "MM/DD/YYYY"] | None = None
    optional: bool = False
    negative: Literal["never", "credits"] = "never"

    @model_validator(mode="after")
    def _complete(self) -> FieldLayout:
        if self.source in DATES and self.format is None:
            raise ValueError("a date needs a format")
        if self.source == "literal" and not self.value:
            raise ValueError("a literal needs a value")
        if self.width is not None and len(self.value) > self.width:
            raise ValueError("the literal is longer than its field")
        if self.width is None and (self.max_width is None or not self.is_text):
            raise ValueError("only a text may go without width, and then needs max_width")
        return self

    @property
    def is_text(self) -> bool:
        """Texts stand left and are filled with blanks; numbers stand right, filled with zeros."""
        return self.source not in AMOUNTS and self.source != "line_count"

    @property
    def limit(self) -> int:
        """The most characters its value may have."""
        return self.width or self.max_width or 0

    @property
    def end(self) -> int:
        """Its last column."""
        return self.at + self.limit - 1

    def date_text(self, day: date | None) -> str:
        """Return a day in this field's format, blank for none."""
        return day.strftime(_STRFTIME[str(self.format)]) if day else ""

    def date_of(self, text: str) -> date | None:
        """Return the day that a text of this field's format means."""
        return datetime.strptime(text, _STRFTIME[str(self.format)]).date() if text else None  # noqa: DTZ007 a day has no zone


class RecordLayout(BaseModel):
    """One kind of record. ``width`` is the line's length; without it a line ends with its last field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int | None = Field(default=None, ge=1, le=999)
    fields: tuple[FieldLayout, ...]

    @model_validator(mode="after")
    def _no_overlap(self) -> RecordLayout:
        for left, right in pairwise(self.fields):
            if right.at <= left.end:
                raise ValueError(f"{right.name} begins at {right.at}, inside {left.name}")
        if self.width is not None and self.fields and self.fields[-1].end > self.width:
            raise ValueError(f"{self.fields[-1].name} ends beyond the width {self.width}")
        if any(f.width is None for f in self.fields[:-1]):
            raise ValueError("only the last field may go without width")
        return self


class Layout(BaseModel):
    """A whole file layout. ``status`` says who has loaded such a file, ``source`` where it is known from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    status: str
    source: str
    encoding: Literal["ascii", "cp1252", "utf-8"] = "ascii"
    line_end: Literal["lf", "crlf"] = "lf"
    header: RecordLayout | None = None
    detail: RecordLayout

    @model_validator(mode="after")
    def _sources_belong(self) -> Layout:
        allowed = BATCH_SOURCES | {"literal"}
        for record, sources in ((self.header, allowed), (self.detail, LINE_SOURCES | {"literal"})):
            wrong = [f.name for f in record.fields if f.source not in sources] if record else []
            if wrong:
                raise ValueError(f"{', '.join(wrong)} can't stand in this record")
        # Without its mark a credit would be loaded as one more charge, and without the reference no
        # payment would find its way back.
        needed = {"emplid", "item_type", "amount", "reversal", "reference"}
        missing = needed - {f.source for f in self.detail.fields}
        if missing:
            raise ValueError(f"the detail record lacks {', '.join(sorted(missing))}")
        return self

    @property
    def newline(self) -> str:
        """The line end as text."""
        return "\n" if self.line_end == "lf" else "\r\n"


def load(name: str, folder: Path | None = None) -> Layout:
    """Return a layout by name: the campus's own ``layouts/<name>.toml`` first, then the shipped one.

    Raises ``SettingsError`` with every fault.
    """
    places = [folder / "layouts" / f"{name}.toml"] if folder else []
    places.append(include("layouts") / f"{name}.toml")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SettingsError(
            "No such layout.",
            [
                Fault(
                    f"{name}.toml",
                    "not in the folder layouts beside the settings, and none of the shipped layouts "
                    f"({', '.join(shipped())})",
                )
            ],
        )
    try:
        return Layout.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError("A layout is not TOML.", [Fault(path.name, str(error))]) from None
    except ValidationError as error:
        raise SettingsError("A layout has faults:", faults_of(path.name, error)) from None


def shipped() -> list[str]:
    """Return the names of the layouts that come with the package."""
    return sorted(path.stem for path in include("layouts").glob("*.toml"))
