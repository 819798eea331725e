"""docker-compose.yaml as Compose reads it, so that tests can look at it and run what it says without containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).resolve().parents[1] / "docker-compose.yaml"


def load() -> dict[str, Any]:
    """The whole file. Raises ValueError where a value would come from the environment: here none does."""
    return interpolated(yaml.safe_load(FILE.read_text("utf-8")))


def interpolated(value: Any) -> Any:
    """A value with ``$$`` read as ``$``. Raises ValueError where a variable stands in it."""
    if isinstance(value, dict):
        return {key: interpolated(each) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each) for each in value]
    if isinstance(value, str):
        if "$" in value.replace("$$", ""):
            raise ValueError(f"a variable that Compose would fill in: {value}")
        return value.replace("$$", "$")
    return value
