"""TOML files that people write, in whatever their editors make of them."""

from __future__ import annotations

import codecs
import tomllib
from pathlib import Path
from typing import Any

_SAVE = "save it as UTF-8"


def read(path: Path) -> dict[str, Any]:
    """Return what a file holds; a byte order mark, which Windows' editors put before UTF-8, is passed over.

    Raises ``OSError`` when it can't be read, ``ValueError`` with what is wrong when it is no TOML.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"is UTF-16 text: {_SAVE}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"is not UTF-8 text (line {line} holds a character of another encoding): {_SAVE}"
        ) from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None
