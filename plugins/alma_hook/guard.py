"""The old-ledger guard at work: what is looked at before anything leaves, and what is left for next time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from alma_hook.alma import FeeLists, look_up
from alma_hook.errors import NotPermitted, Refused, SendingStopped
from alma_hook.ledger import Ledger, guard, payments
from alma_hook.remote import RemoteFolder

ENVIRONMENT = "the Alma environment"
ARCHIVE = "the archive"
#: So many of the latest payments are looked for where Alma does not say which one it is.
_WITNESSES = 3


class MarkPlace(Protocol):
    """Where a mark is kept outside the ledger. ``name`` is for people."""

    name: str

    def read(self) -> bytes | None:
        """Return what stands there, ``None`` when there is nothing."""
        ...

    def write(self, text: bytes) -> None:
        """Replace what stands there."""
        ...


class ArchiveMark:
    """The mark in the archive folder, beside the files it stands for."""

    def __init__(self, archive: RemoteFolder, directory: str, institution: str) -> None:
        self.archive = archive
        self.path = f"{directory}/ledger_{institution}.mark"
        self.name = f"the archive ({self.path})"

    def read(self) -> bytes | None:
        """Return the mark's text."""
        return None if self.archive.size(self.path) is None else self.archive.read(self.path)

    def write(self, text: bytes) -> None:
        """Replace the mark."""
        self.archive.write(self.path, text)


def check(ledger: Ledger, places: Sequence[MarkPlace]) -> None:
    """Raise ``SendingStopped`` unless the marks outside are this ledger's own."""
    outside = {place.name: place.read() for place in places}
    with ledger.write() as tx:
        guard.check_marks(tx, outside)


def advance(ledger: Ledger, places: Sequence[MarkPlace]) -> None:
    """Check the marks and put a new one, before something leaves that an older copy would not know of.

    It is looked at again afterwards: of two ledgers that do this at once, one finds the other's.
    """
    check(ledger, places)
    with ledger.write() as tx:
        mark, text = guard.new_mark(tx)
    for place in places:
        place.write(text)
    check(ledger, places)
    with ledger.write() as tx:
        guard.mark_placed(tx, mark)


def bind_server(ledger: Ledger, folder: RemoteFolder) -> None:
    """Raise ``SendingStopped`` when the SFTP server is not the one by its host key that it was."""
    with ledger.write() as tx:
        guard.bind(tx, f"SFTP host key of {folder.target}", folder.host_key)


def bind_archive(ledger: Ledger, archive: RemoteFolder, directory: str) -> None:
    """Raise ``SendingStopped`` when the archive is another folder than it was: a repair would know half of what was sent."""
    with ledger.write() as tx:
        guard.bind(
            tx,
            ARCHIVE,
            f"{archive.target}{directory}",
            "Put the old one back. To move it: move every file in it first",
        )


class Alma(FeeLists, Protocol):
    """The calls that tell which Alma answers."""

    def environment(self) -> str:
        """Return the environment's name, such as ``PRODUCTION``."""
        ...


def bind_alma(ledger: Ledger, alma: Alma) -> None:
    """Raise ``SendingStopped`` when another Alma answers than before.

    A sandbox has the same institution code, the same users and last month's fees. A key without the
    Configuration area does not tell the environment, which is accepted unless an earlier key did;
    then one of the latest payments must be there.
    """
    try:
        environment = alma.environment()
    except (NotPermitted, Refused):
        environment = None
    with ledger.write() as tx:
        guard.bind(tx, ENVIRONMENT, environment)
    if environment is None:
        _recognise(ledger, alma)


def _recognise(ledger: Ledger, alma: Alma) -> None:
    with ledger.read() as tx:
        latest = payments.latest_posted(tx, _WITNESSES)
    for row in latest:
        try:
            fee = look_up(alma, row["account"], frozenset({row["posted_to"]})).get(row["posted_to"])
        except Refused:
            continue  # A user may be gone; all of them are not.
        if fee is not None and any(t.external_id == row["external_id"] for t in fee.own_payments()):
            return
    if latest:
        raise SendingStopped(
            f"None of the latest {len(latest)} payments that were posted is in the Alma that answers: it is another one, a "
            "sandbox for instance. Nothing was sent. Correct the connection of Alma."
        )
