"""The users that Alma's SIS profile exported: the accounts changed in the last hours.

The file is Alma's users XML, version 2, whose ``user`` is the user object of the API; plain, zipped
or as tar.gz. Only the primary ids are taken; names and addresses in it go no further.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lxml import etree

from alma_hook.campus import Campus
from alma_hook.errors import BadFile, Fault
from alma_hook.ledger import Lease, Ledger, fees
from alma_hook.remote import RemoteFolder

# A user object has a few kilobytes; this is a campus of a hundred thousand, and no bomb.
MAX_BYTES = 400_000_000


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What the exports came to: files taken in now, accounts in them, accounts with open fees besides."""

    files: int
    modified: int
    open: int


def take_in(
    folder: RemoteFolder, ledger: Ledger, lease: Lease, campus: Campus, live: bool, until: datetime
) -> ExportCounts:
    """List the accounts of every export not taken in yet that was there by ``until``, and the open ones.

    Each file is taken in whole or not at all. Raises ``BadFile`` with the faults of all that can't be
    taken, once the others are.
    """
    files = modified = 0
    faults: list[Fault] = []
    directory = str(campus.alma_to_sis.export_directory)
    for file in folder.files(directory, campus.alma_to_sis.export_pattern):
        if file.modified > until.timestamp():
            continue
        content = folder.read(f"{directory}/{file.name}")
        digest = hashlib.sha256(content).hexdigest()
        with ledger.read() as tx:
            if fees.export_taken(tx, live, file.name, digest, file.modified):
                continue
        try:
            users = user_ids(file.name, content)
        except BadFile as error:
            faults += error.faults
            continue
        with ledger.write(lease) as tx:
            fees.take_export(tx, live, file.name, digest, users)
        files += 1
        modified += len(users)
    if faults:
        raise BadFile("Exports of users can't be taken in; the others were.", faults)
    with ledger.write(lease) as tx:
        return ExportCounts(files, modified, fees.add_open_accounts(tx, live, "open fees"))


def has_come(folder: RemoteFolder, campus: Campus, since: datetime, until: datetime) -> bool:
    """Whether an export was written between two instants and is complete: one that is still growing is not."""
    directory = str(campus.alma_to_sis.export_directory)
    for file in folder.files(directory, campus.alma_to_sis.export_pattern):
        if since.timestamp() < file.modified <= until.timestamp():
            try:
                user_ids(file.name, folder.read(f"{directory}/{file.name}"))
            except BadFile:
                continue
            return True
    return False


def user_ids(name: str, content: bytes) -> list[str]:
    """Return the primary ids in an export, each once, in the file's order.

    Raises ``BadFile`` with what is wrong: not a users file, cut short, unpacking to more than
    ``MAX_BYTES``, or declaring entities.
    """
    found: dict[str, None] = {}
    members = 0
    for member, data in _members(name, content):
        found.update(dict.fromkeys(_parse(member, data)))
        members += 1
    if not members:
        raise _bad(name, "holds no .xml file, so it is no proof that no user changed")
    return list(found)


def _members(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    budget = MAX_BYTES
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith(".xml"):
                        with archive.open(entry) as stream:
                            data = stream.read(budget + 1)
                        budget = _spend(name, budget, data)
                        yield entry.filename, data
        elif name.endswith((".tar.gz", ".tgz")):
            # Not tarfile's own gzip: it would let damaged bytes pass, since it reads no checksum.
            packed = gzip.GzipFile(fileobj=io.BytesIO(content))
            with packed, tarfile.open(fileobj=packed, mode="r|") as archive_:
                for member in archive_:
                    stream_ = archive_.extractfile(member) if member.isfile() else None
                    if stream_ is not None and member.name.endswith(".xml"):
                        data = stream_.read(budget + 1)
                        budget = _spend(name, budget, data)
                        yield member.name, data
                while packed.read(65536):
                    pass
        else:
            _spend(name, budget, content)
            yield name, content
    except BadFile:
        raise
    except Exception as error:  # noqa: BLE001 damaged packs make these libraries raise almost anything
        raise _bad(
            name, f"can't be unpacked, probably cut short ({type(error).__name__}); export it again"
        ) from None


def _spend(name: str, budget: int, data: bytes) -> int:
    if len(data) > budget:
        raise _bad(name, f"unpacks to more than {MAX_BYTES // 1_000_000} MB, which no export of users does")
    return budget - len(data)


def _parse(name: str, data: bytes) -> Iterator[str]:
    root = None
    try:
        events = etree.iterparse(
            io.BytesIO(data),
            events=("start", "end"),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
        )
        for event, element in events:
            if root is None:
                root = element
                if root.getroottree().docinfo.doctype:
                    raise _bad(name, "declares a document type or entities, which Alma never does")
                if etree.QName(root).localname not in ("users", "user"):
                    raise _bad(name, "is not a users export (its root is not <users>)")
            if event == "end" and isinstance(element.tag, str) and etree.QName(element).localname == "user":
                yield _primary_id(name, element)
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise _bad(
            name, "is not well-formed, probably cut short; export it again", error.lineno or 0
        ) from None


def _primary_id(name: str, user: Any) -> str:
    for child in user.iterchildren(tag=etree.Element):
        if etree.QName(child).localname == "primary_id":
            text = (child.text or "").strip()
            if text:
                return str(text)
    raise _bad(name, "holds a user without primary_id; nothing was taken in", user.sourceline or 0)


def _bad(name: str, text: str, line: int = 0) -> BadFile:
    return BadFile("An export of users can't be taken in.", [Fault(name, text, line=line)])
