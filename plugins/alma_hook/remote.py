"""A folder tree on the far side of SFTP, as much of it as deliveries and payment files need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a remote folder; ``modified`` in seconds since 1970, UTC."""

    name: str
    size: int
    modified: int


class RemoteFolder(Protocol):
    """Every call raises ``Retriable`` when it is not known to have worked."""

    #: Names the server in the ledger: host and port.
    target: str
    #: The fingerprint of the server's host key, ``SHA256:...``.
    host_key: str

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, ``None`` when it is not there."""
        ...

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a file, replacing one of that name; return when the far side has acknowledged all of it."""
        ...

    def create(self, path: str, content: bytes) -> bool:
        """Write a file that is not there yet; ``False`` where one of that name is, which is left as it is."""
        ...

    def rename(self, before: str, after: str) -> None:
        """Rename a file; fails when the new name is taken."""
        ...

    def files(self, directory: str, patterns: str) -> list[RemoteFile]:
        """Return the files of a folder whose name matches one of the comma-separated patterns, oldest first."""
        ...
