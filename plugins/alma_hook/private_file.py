"""A new file on this machine that holds patrons' ids: for its owner alone, and never written over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from alma_hook.errors import Fatal


def create(path: Path) -> TextIO:
    """Open a new text file that only its owner may read (mode 600). Raises ``Fatal`` when it is there already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Fatal(f"{path} was not written: {error.strerror}. Name a file that is not there yet.") from None
    return os.fdopen(handle, "w", encoding="utf-8", newline="")
