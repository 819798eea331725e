"""What pydantic finds in a TOML file, in words for the people who answer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from alma_hook.errors import Fault

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_TRUE_OR_FALSE = "must be true or false, without quotes"
_WHOLE_NUMBER = "must be a whole number, without quotes"
_DAY = "must be a day without quotes, such as 2026-08-20"
_SECTION = "must be a section or table of its own, not a single value"
#: By pydantic's kind of error; in braces what it says about what was expected, never the value found.
_WORDS = {
    "missing": "is missing, and has no default",
    "extra_forbidden": "is not known here: misspelt, or in the wrong section?",
    "literal_error": "must be {expected}",
    "string_type": "must be a text, in quotes",
    "string_too_short": "must not be empty",
    # The one limit there is.
    "string_too_long": "must be one character",
    "too_short": "must have at least one row",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "bool_type": _TRUE_OR_FALSE,
    "bool_parsing": _TRUE_OR_FALSE,
    "int_type": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "date_type": _DAY,
    "date_from_datetime_parsing": _DAY,
    "date_from_datetime_inexact": _DAY,
    "model_type": _SECTION,
    "dict_type": _SECTION,
    "tuple_type": "must be a list in brackets",
}


def faults_of(file: str, error: ValidationError, told: object) -> list[Fault]:
    """Return every fault of a file with its key. Values are left out: a secret may stand in the wrong place.

    ``told``: what the file holds, whose rows are named as people find them there.
    """
    return [
        Fault(file, _sentence(found), field=_key(found["loc"], told))
        for found in error.errors(include_url=False, include_input=False)
    ]


def _key(loc: Sequence[int | str], told: object) -> str:
    """Return the key of a place: of a row of a list its number from 1, and its name where it has one."""
    key = ""
    for part in loc:
        if part == "[key]":
            continue
        try:
            told = told[part]  # type: ignore[index]
        except (LookupError, TypeError):
            told = None
        if isinstance(part, str):
            key += f".{part}" if key else part
            continue
        name = (told.get("name") or told.get("source")) if isinstance(told, dict) else None
        key += f"[{part + 1}{f', {name}' if isinstance(name, str) else ''}]"
    return key


def _sentence(found: ErrorDetails) -> str:
    words = _WORDS.get(found["type"])
    if words is None:
        return found["msg"].removeprefix("Value error, ")
    return words.format(**found.get("ctx", {}))
