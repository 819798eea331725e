"""A campus's own settings, as far as the far side has to go with them: its institution, layout, item types, folders.

They are read by themselves, as PeopleSoft's office would be told of them; the package checks them.
"""

import tomllib
from pathlib import Path
from typing import Any

from simulator.campus import DEFAULT_LAYOUT
from simulator.campus_records import Folders
from simulator.sfs_layout import read_layout


def options_of(settings: Path) -> dict[str, Any]:
    """What ``serve.running`` is told of these settings. Raises ``OSError``, or ``ValueError`` saying what is wrong."""
    try:
        told = tomllib.loads(settings.read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{settings.name}: {error}") from None
    try:
        sfs, back, out = told["sfs"], told["sis_to_alma"], told["alma_to_sis"]
        first = told.get("first_charges", {}).get("other_item_type")
        tables = [told["item_types"], *told.get("item_types_of", {}).values()]
        usual = Folders()
        return {
            "institution": told["institution"],
            "layout": layout_of(settings, sfs.get("layout", "default")),
            "currency": told.get("currency", "USD"),
            "business_unit": sfs.get("business_unit", ""),
            "origin_id": sfs["origin_id"],
            "reference_prefix": sfs.get("reference_prefix", "ALMA"),
            "item_types": tuple(
                {item_type for table in tables for item_type in table.values()} | {first} - {None}
            ),
            "credit_item_types": tuple(set(told.get("credit_item_types", {}).values())),
            "folders": Folders(
                inbound=sfs["directory"],
                archive=sfs.get("archive_directory", usual.archive),
                outbound=back["directory"],
                outbound_archive=back.get("archive_directory", usual.outbound_archive),
                sis_export=out.get("export_directory", usual.sis_export),
            ),
            **({"report_path": out["report_path"]} if "report_path" in out else {}),
        }
    except KeyError as error:
        raise ValueError(f"{settings.name}: {error} is missing") from None
    except (AttributeError, TypeError):
        raise ValueError(
            f"{settings.name} has faults: `python -m alma_hook check-campus` names them"
        ) from None


def layout_of(settings: Path, name: str) -> Path:
    """The file of a layout: the campus's own beside its settings, else a shipped one. Raises as ``options_of``."""
    places = (settings.parent / "layouts", DEFAULT_LAYOUT.parent)
    path = next((place / f"{name}.toml" for place in places if (place / f"{name}.toml").is_file()), None)
    if path is None:
        raise ValueError(f"{settings.name}: no layout {name} beside it, nor among the shipped ones")
    require_layout(path)
    return path


def require_layout(path: Path) -> None:
    """Raise ``OSError``, or ``ValueError`` saying what is wrong, unless files can be read by a layout."""
    try:
        read_layout(path)
    except KeyError as error:
        raise ValueError(f"{path.name}: {error} is missing, or is none that there is") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path.name}: {error}") from None
