"""Where the SQL, layouts and templates lie in each of the three ways of installing."""

from __future__ import annotations

from pathlib import Path


def include(name: str) -> Path:
    """Return a folder or file of ``include/``.

    In the wheel it lies inside the package; in a checkout, or dropped into an AIRFLOW_HOME, beside
    ``plugins/``.
    """
    package = Path(__file__).resolve().parent
    for root in (package / "include", package.parents[1] / "include"):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"include/{name} is missing: copy the include folder beside plugins/")
