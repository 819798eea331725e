"""The far side's folders over SFTP, by Airflow's SFTP provider: host keys checked, nothing overwritten."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from socket import gaierror
from typing import TYPE_CHECKING, Any

from alma_hook.errors import Fatal, NotPermitted, Retriable
from alma_hook.remote import RemoteFile

if TYPE_CHECKING:
    from paramiko import SFTPClient


class SftpFolder:
    """A connected SFTP session. ``target`` names the server for the ledger: host and port."""

    def __init__(self, client: SFTPClient, target: str, host_key: str) -> None:
        self._client = client
        self.target = target
        self.host_key = host_key

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, ``None`` when it is not there."""
        try:
            return int(self._call("stat", path).st_size or 0)
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes:
        """Return a file's bytes. Raises ``Retriable`` when it is gone."""
        try:
            with _translated(path), self._client.open(path, "rb") as stream:
                stream.prefetch()
                return bytes(stream.read())
        except FileNotFoundError:
            raise Retriable(f"{path} is not there any more.") from None

    def write(self, path: str, content: bytes) -> None:
        """Write a file whole; its folder must be there."""
        self._write(path, content, "wb")

    def create(self, path: str, content: bytes) -> bool:
        """Write a file that is not there yet; ``False`` where one of that name is, which is left as it is."""
        try:
            self._write(path, content, "wbx")
        except _NotOpened:
            if self.size(path) is not None:
                return False
            # The protocol has no word for why; a drop box shows nothing of what is there.
            self.write(path, content)
        return True

    def _write(self, path: str, content: bytes, mode: str) -> None:
        try:
            with _translated(path):
                try:
                    stream = self._client.open(path, mode)
                except OSError as error:
                    if "x" in mode and not isinstance(error, (FileNotFoundError, PermissionError)):
                        raise _NotOpened from None
                    raise
                # Not pipelined: paramiko would drop the answers to the last writes, a full disk among them.
                with stream:
                    stream.write(content)
        except FileNotFoundError:
            raise Fatal(
                f"The folder of {path} is not on the SFTP server; make it, or correct the settings."
            ) from None

    def rename(self, before: str, after: str) -> None:
        """Rename a file; fails when the new name is taken."""
        if self.size(after) is not None:
            raise Fatal(f"{after} is there already; nothing was renamed.")
        try:
            # Plain rename, not posix_rename: the protocol's own one refuses to overwrite.
            self._call("rename", before, after)
        except FileNotFoundError:
            raise Retriable(f"{before} is not there any more.") from None

    def remove(self, path: str) -> None:
        """Remove a file. Raises ``Retriable`` when it is gone."""
        try:
            self._call("remove", path)
        except FileNotFoundError:
            raise Retriable(f"{path} is not there any more.") from None

    def files(self, directory: str, patterns: str) -> list[RemoteFile]:
        """Return the files of a folder whose name matches one of the comma-separated patterns."""
        try:
            entries = self._call("listdir_attr", directory)
        except FileNotFoundError:
            raise Fatal(f"{directory} is not on the SFTP server; make it, or correct the settings.") from None
        except UnicodeDecodeError:
            # The client reads all names or none.
            raise Fatal(
                f"A file in {directory} has a name that is not UTF-8, so the folder can't be looked through; rename it there."
            ) from None
        wanted = [pattern.strip() for pattern in patterns.split(",")]
        return sorted(
            (
                # A server that tells no time: the file has just come.
                RemoteFile(entry.filename, entry.st_size or 0, entry.st_mtime or int(time.time()))
                for entry in entries
                if stat.S_ISREG(entry.st_mode or 0) and any(fnmatchcase(entry.filename, p) for p in wanted)
            ),
            key=lambda file: (file.modified, file.name),
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        with _translated(str(arguments[0])):
            return getattr(self._client, name)(*arguments)


class _NotOpened(Exception):
    """A new file could not be made; one of its name may be there."""


@contextmanager
def _translated(path: str) -> Iterator[None]:
    from paramiko import SSHException

    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError:
        raise NotPermitted(f"The SFTP account may not do this with {path}.") from None
    except (OSError, EOFError, SSHException) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        said = "the disk there is full" if full else type(error).__name__
        raise Retriable(f"The SFTP server failed at {path} ({said}); nothing was taken as done.") from None


@contextmanager
def connect(conn_id: str) -> Iterator[SftpFolder]:
    """Open a session by an Airflow connection of type sftp.

    Raises ``NotPermitted`` for an unknown or wrong host key and for wrong credentials, ``Retriable``
    when the server can't be reached.
    """
    from airflow.providers.sftp.hooks.sftp import SFTPHook

    from alma_hook.airflow_names import connection_of

    unchecked = str(connection_of(conn_id).extra_dejson.get("no_host_key_check", "false")).lower() == "true"
    with ExitStack() as stack:
        try:
            # One attempt: the task's own retries wait longer, and say so in the UI.
            hook = SFTPHook(ssh_conn_id=conn_id)
            # Attributes, as the oldest provider has no such parameter, and does not check unless told to.
            hook.conn_retry_attempts = 1
            hook.no_host_key_check = unchecked
            client = stack.enter_context(hook.get_managed_conn())
        except Exception as error:  # noqa: BLE001 paramiko, sockets and the provider each raise their own
            raise _connect_error(conn_id, error) from None
        channel = client.get_channel()
        assert channel is not None  # of an open session
        key = channel.get_transport().get_remote_server_key()
        yield SftpFolder(client, f"{hook.remote_host}:{hook.port or 22}", key.fingerprint)


def _connect_error(conn_id: str, error: Exception) -> Exception:
    from paramiko import AuthenticationException, BadHostKeyException

    if isinstance(error, AuthenticationException):
        return NotPermitted(f"The SFTP server of connection {conn_id} refused login, password or key.")
    if isinstance(error, BadHostKeyException) or "known_hosts" in str(error):
        return NotPermitted(
            f"The SFTP server of connection {conn_id} is not known by its host key. Get the key from its "
            "operator and put it as host_key into the connection's extra; do not switch the check off."
        )
    if isinstance(error, FileNotFoundError):
        return NotPermitted(
            f"The key_file of connection {conn_id} is not there on this machine; see its extra."
        )
    if isinstance(error, ValueError) or "Invalid key" in str(error):
        # The libraries that read keys say no more than this.
        return NotPermitted(
            f"The host_key, or the key, in the extra of connection {conn_id} can't be read: host_key is type and base64, such as "
            "ssh-ed25519 AAAA..."
        )
    named = "its host's name is not known here" if isinstance(error, gaierror) else type(error).__name__
    return Retriable(f"The SFTP server of connection {conn_id} can't be reached ({named}).")
