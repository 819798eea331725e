"""The export of Alma's SIS *Users* profile: users changed within some hours, in format version 2.

Version 2 is the user object of Alma's API under a ``users`` root. How Alma names and packs the file is
not on public record, so the three ways of packing are a choice of the caller.
"""

import io
import tarfile
import zipfile
from datetime import timedelta
from typing import Literal, get_args

from simulator.alma import AlmaModel
from simulator.alma_payloads import Payloads, to_xml

Packing = Literal["xml", "zip", "tar.gz"]


def export_users(model: AlmaModel, hours: float = 24.0) -> bytes:
    """``<users><user>..</user></users>`` of the users modified within the last ``hours``."""
    with model.lock:
        payloads = Payloads(model)
        changed = model.modified_since(model.clock.now() - timedelta(hours=hours))
        return to_xml("users", {"user": [payloads.user(user) for user in changed]})


def pack(content: bytes, stem: str, packing: Packing = "xml") -> tuple[str, bytes]:
    """File name and bytes of an export: plain, or within a zip or a gzipped tar.

    Raises ValueError for an unknown packing.
    """
    if packing not in get_args(Packing):
        raise ValueError(f"unknown packing: {packing}")
    inner = f"{stem}.xml"
    if packing == "xml":
        return inner, content
    packed = io.BytesIO()
    if packing == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(inner, content)
        return f"{stem}.zip", packed.getvalue()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo(inner)
        entry.size = len(content)
        entry.mtime = 0
        tar.addfile(entry, io.BytesIO(content))
    return f"{stem}.tar.gz", packed.getvalue()
