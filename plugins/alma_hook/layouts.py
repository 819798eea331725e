"""The layout of an SFS file, declared once; writing, reading and the docs follow from it.

A layout is a TOML file: a detail record and, if need be, header and trailer, each a list of fields. In a
fixed layout a field has a place: positions start at 1, as on PeopleSoft's External File Layouts pages, and
what no field covers is blank. In a delimited one the fields follow one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alma_hook import toml_file
from alma_hook.errors import Fault, SettingsError
from alma_hook.plain_words import faults_of
from alma_hook.resources import include

ConstantSource = Literal["origin_id", "business_unit", "currency", "file_date"]
BatchSource = Literal["line_count", "control_total", ConstantSource]
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
Source = Literal["literal", "blank", BatchSource, LineSource]
DateFormat = Literal["MMDDYYYY", "MMDDYY", "YYYYMMDD", "DDMMYYYY", "MM/DD/YYYY", "YYYY-MM-DD"]

CONSTANT_SOURCES = frozenset(ConstantSource.__args__)  # type: ignore[attr-defined]
BATCH_SOURCES = CONSTANT_SOURCES | {"line_count", "control_total"}
LINE_SOURCES = frozenset(LineSource.__args__)  # type: ignore[attr-defined]
AMOUNTS = frozenset({"amount", "control_total"})
DATES = frozenset({"effective_date", "due_date", "file_date"})
_STRFTIME = {
    "MMDDYYYY": "%m%d%Y", "MMDDYY": "%m%d%y", "YYYYMMDD": "%Y%m%d", "DDMMYYYY": "%d%m%Y", "MM/DD/YYYY": "%m/%d/%Y",
    "YYYY-MM-DD": "%Y-%m-%d",
}  # fmt: skip


class FieldLayout(BaseModel):
    """One field: ``at`` its first column, ``width`` in columns (none: as long as its value, up to ``max_width``).

    ``align`` and ``fill`` say how a value shorter than ``width`` stands in it: a text left with blanks, a number
    right with zeros, unless told otherwise. Amounts: ``decimals`` after a point, or implied; ``negative`` in
    credits, with the minus ``sign`` before or after it. ``charge`` and ``credit``: what a reversal mark is.
    ``only``: blank in the lines of the other kind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    at: int | None = Field(default=None, ge=1, le=999)
    width: int | None = Field(default=None, ge=1, le=999)
    max_width: int | None = Field(default=None, ge=1, le=999)
    source: Source
    value: str = ""
    format: DateFormat | None = None
    optional: bool = False
    align: Literal["left", "right"] | None = None
    fill: str | None = Field(default=None, min_length=1, max_length=1)
    decimals: Literal["point", "implied"] = "point"
    negative: Literal["never", "credits"] = "never"
    sign: Literal["front", "end"] = "front"
    charge: str = "N"
    credit: str = "Y"
    only: Literal["charges", "credits"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> FieldLayout:
        faults = []
        if self.source in DATES and self.format is None:
            faults.append("a date needs a format")
        faults += [f"{key} says nothing of this source" for key in sorted(self._meaningless())]
        if self.format is not None and self.source in DATES:
            length = len(self.format)
            if 0 < self.limit < length:
                faults.append(f"a date as {self.format} needs {length} columns")
            if self.limit > length and self.filling != " ":
                faults.append("a date is filled with blanks: anything else would be read as part of it")
        if self.source == "literal" and not self.value:
            faults.append("a literal needs a value")
        if self.width is not None and len(self.value) > self.width:
            faults.append("the literal is longer than its field")
        if self.only is not None and self.source in (
            "emplid",
            "item_type",
            "amount",
            "reference",
            "reversal",
        ):
            faults.append("has to stand in the lines of both kinds")
        if self.optional and self.source in ("emplid", "item_type", "amount"):
            faults.append("can't be left out")
        if self.source == "due_date" and not self.may_be_blank:
            faults.append('a credit has no due date: say optional = true, or only = "charges"')
        if self.source == "reversal":
            if self.charge.strip() == self.credit.strip():
                faults.append("a charge and a credit have the same mark")
            if self.width is not None and max(len(self.charge), len(self.credit)) > self.width:
                faults.append("the mark is longer than its field")
        if not self.is_text and self.filling not in "0 ":
            faults.append("a number is filled with 0 or a blank")
        if not self.is_text and self.filling == "0" and self.side == "left":
            faults.append("a number that stands left can't be filled with 0, which would make another of it")
        if not self.filling.isprintable():
            faults.append("is filled with something that can't be printed")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _meaningless(self) -> set[str]:
        """Keys that were given and have no meaning for this source."""
        of = {
            "format": DATES,
            "value": {"literal"},
            "decimals": AMOUNTS,
            "negative": AMOUNTS,
            "sign": AMOUNTS,
            "charge": {"reversal"},
            "credit": {"reversal"},
        }
        return {
            key for key, sources in of.items() if key in self.model_fields_set and self.source not in sources
        }

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.name or self.source

    @property
    def is_text(self) -> bool:
        """Texts stand left and are filled with blanks; numbers stand right, filled with zeros."""
        return self.source not in AMOUNTS and self.source != "line_count"

    @property
    def side(self) -> str:
        """Where a short value stands."""
        return self.align or ("left" if self.is_text else "right")

    @property
    def filling(self) -> str:
        """What fills the rest."""
        return self.fill or (" " if self.is_text else "0")

    @property
    def may_be_blank(self) -> bool:
        """Whether a line may have nothing there."""
        if self.source == "reversal":
            return not (self.charge and self.credit)
        return self.optional or self.only is not None or self.source == "blank"

    @property
    def limit(self) -> int:
        """The most characters its value may have; a day has as many as its format."""
        return self.width or self.max_width or len(self.format or "")

    @property
    def end(self) -> int:
        """Its last column."""
        return (self.at or 1) + self.limit - 1

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
    fields: tuple[FieldLayout, ...] = Field(min_length=1)

    def misplaced(self) -> list[str]:
        """Return what is wrong with it as a record of a fixed layout."""
        faults = [f"{f.label} has no place (at)" for f in self.fields if f.at is None]
        if faults:
            return faults
        for left, right in pairwise(self.fields):
            if (right.at or 0) <= left.end:
                faults.append(f"{right.label} begins at {right.at}, inside {left.label}")
        last = self.fields[-1]
        if self.width is not None and last.end > self.width:
            faults.append(f"{last.label} ends beyond the width {self.width}")
        faults += [
            f"{f.label} has no width, and only the last field may go without"
            for f in self.fields[:-1]
            if f.width is None
        ]
        if last.width is None and not (last.max_width and last.is_text and last.side == "left"):
            faults.append(
                f"{last.label} has no width: only a text that stands left may go without, and then needs max_width"
            )
        return faults

    def unlimited(self) -> list[str]:
        """Return what is wrong with it as a record of a delimited layout."""
        faults = [
            f"{f.label} has a place (at), and fields follow one another here"
            for f in self.fields
            if f.at is not None
        ]
        faults += [
            f"{f.label} needs width or max_width"
            for f in self.fields
            if not f.limit and f.source not in ("blank", "literal", "reversal")
        ]
        if self.width is not None:
            faults.append("a line has no width here")
        return faults


class Layout(BaseModel):
    """A whole file layout. ``status`` says who has loaded such a file, ``source`` where it is known from.

    The first line is the header, the last the trailer, where there are such. ``delimiter`` and ``quote`` are
    those of a ``delimited`` one: quotes where a value needs them, always, or never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    status: str
    source: str
    encoding: Literal["ascii", "cp1252", "utf-8"] = "ascii"
    line_end: Literal["lf", "crlf"] = "lf"
    form: Literal["fixed", "delimited"] = "fixed"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: Literal["needed", "always", "never"] = "needed"
    header: RecordLayout | None = None
    detail: RecordLayout
    trailer: RecordLayout | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Layout:
        faults = []
        batch = BATCH_SOURCES | {"literal", "blank"}
        for name, record, sources in (
            ("header", self.header, batch),
            ("detail", self.detail, LINE_SOURCES | CONSTANT_SOURCES | {"literal", "blank"}),
            ("trailer", self.trailer, batch),
        ):
            if record is None:
                continue
            said = record.misplaced() if self.fixed else record.unlimited()
            said += [
                f"{f.label} can't stand in this record" for f in record.fields if f.source not in sources
            ]
            if name != "detail":
                said += [
                    f"{f.label} is in no line, so it is for neither kind" for f in record.fields if f.only
                ]
            faults += [f"{name}: {text}" for text in said]
        told = [f.source for f in self.detail.fields if f.source in LINE_SOURCES]
        twice = sorted({source for source in told if told.count(source) > 1})
        if twice:
            faults.append(f"detail: {', '.join(twice)} stands there twice")
        controls = [f.source for record in (self.header, self.trailer) if record for f in record.fields]
        again = sorted({source for source in ("line_count", "control_total") if controls.count(source) > 1})
        if again:
            faults.append(f"{', '.join(again)} stands in header and trailer more than once")
        missing = {"emplid", "item_type", "amount"} - set(told)
        if missing:
            faults.append(f"the detail record lacks {', '.join(sorted(missing))}")
        if not self.fixed and (
            self.delimiter.isalnum() or self.delimiter in ' "+-.\r\n' or not self.delimiter.isascii()
        ):
            faults.append("the delimiter may be part of a value; take a comma, a semicolon, a bar or a tab")
        dates = {f.format for record in self.records.values() for f in record.fields if f.format is not None}
        if not self.fixed and self.quote == "never" and any(self.delimiter in format_ for format_ in dates):
            faults.append("the delimiter stands in its dates, and nothing is quoted")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def fixed(self) -> bool:
        """Whether fields have places."""
        return self.form == "fixed"

    @property
    def newline(self) -> str:
        """The line end as text."""
        return "\n" if self.line_end == "lf" else "\r\n"

    @property
    def records(self) -> dict[str, RecordLayout]:
        """Its records in the file's order."""
        told = {"header": self.header, "detail": self.detail, "trailer": self.trailer}
        return {name: record for name, record in told.items() if record is not None}

    @property
    def record_type(self) -> FieldLayout | None:
        """The detail's literal by whose place PeopleSoft may tell the records apart, where each has another one there."""
        for f in self.detail.fields:
            place = (f.at, f.width)
            marks = [
                other.value
                for record in self.records.values()
                for other in record.fields
                if other.source == "literal" and (other.at, other.width) == place
            ]
            if (
                self.fixed
                and f.source == "literal"
                and len(self.records) > 1
                and len(set(marks)) == len(self.records)
            ):
                return f
        return None

    @property
    def marks_credits(self) -> bool:
        """Whether a line shows that it is a credit, by a mark or by a minus."""
        return any(
            f.source == "reversal" or (f.source == "amount" and f.negative == "credits")
            for f in self.detail.fields
        )

    @property
    def carries_reference(self) -> bool:
        """Whether a line says which fee it is about."""
        return any(f.source == "reference" for f in self.detail.fields)

    def misfits(self, f: FieldLayout, text: str) -> Iterator[str]:
        """Yield what is wrong with a text as the value of a field of this layout."""
        if len(text) > f.limit:
            yield f"is longer than its {f.limit} columns"
        if not text and not f.may_be_blank:
            yield "is missing"
        # A control character would break the line in two, so only printable text is let through.
        if not printable(text, self.encoding):
            yield f"is not {self.encoding} text"
        if not f.is_text:
            return
        edge = text[-1:] if f.side == "left" else text[:1]
        if f.width is not None and f.source not in DATES and edge == f.filling:
            yield f"{'ends' if f.side == 'left' else 'begins'} with {f.filling!r}, with which it is filled"
        if not self.fixed and self.quote == "never" and (self.delimiter in text or '"' in text):
            yield "holds the delimiter or a quote, and values are never quoted"

    def unfit(self, source: LineSource, texts: Mapping[str, str]) -> list[str]:
        """Return what is wrong with these texts as values of a source; ``texts`` by the key that tells each."""
        wrong: dict[str, list[str]] = {}
        for f in self.detail.fields:
            for key, text in texts.items() if f.source == source else ():
                for said in self.misfits(f, text):
                    wrong.setdefault(f"as the layout's {f.label} it {said}", []).append(key)
        return [f"{', '.join(keys)}: {said}" for said, keys in wrong.items()]

    def unfit_constants(self, told: dict[str, str]) -> list[str]:
        """Return what is wrong with the settings that stand in each file or line, by their names."""
        fields = [f for record in self.records.values() for f in record.fields if f.source in told]
        return [
            f"{f.source} is needed by the layout, as its {f.label}" if not told[f.source]
            else f"{f.source} has more than the {f.limit} columns of the layout's {f.label}"
            for f in fields
            if (not told[f.source] and not f.may_be_blank) or len(told[f.source]) > f.limit
        ]  # fmt: skip


def printable(text: str, encoding: str) -> bool:
    """Whether a text can be written in an encoding, on one line."""
    if text.isascii():
        return text.isprintable()
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return text.isprintable()


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
        told = toml_file.read(path)
    except OSError as error:
        raise SettingsError("A layout can't be read.", [Fault(path.name, error.strerror or "")]) from None
    except ValueError as error:
        raise SettingsError("A layout is not TOML.", [Fault(path.name, str(error))]) from None
    try:
        return Layout.model_validate(told)
    except ValidationError as error:
        raise SettingsError("A layout has faults:", faults_of(path.name, error, told)) from None


def shipped() -> list[str]:
    """Return the names of the layouts that come with the package."""
    return sorted(path.stem for path in include("layouts").glob("*.toml"))
