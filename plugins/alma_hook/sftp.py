"""The far side's folders over SFTP, by Airflow's SFTP provider: host keys checked, nothing overwritten."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from alma_hook.errors import Fatal, Fault, NotPermitted, Retriable, SettingsError
from alma_hook.remote import RemoteFile

if TYPE_CHECKING:
    from paramiko import SFTPClient


class SftpFolder:
    """A connected SFTP session. ``target`` names the server for the ledger: host and port."""

    def __init__(self, client: SFTPClient, target: str) -> None:
        self._client = client
        self.target = target

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
        try:
            # Not pipelined: paramiko would drop the answers to the last writes, a full disk among them.
            with _translated(path), self._client.open(path, "wb") as stream:
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

    def files(self, directory: str, patterns: str) -> list[RemoteFile]:
        """Return the files of a folder whose name matches one of the comma-separated patterns."""
        try:
            entries = self._call("listdir_attr", directory)
        except FileNotFoundError:
            raise Fatal(f"{directory} is not on the SFTP server; make it, or correct the settings.") from None
        wanted = [pattern.strip() for pattern in patterns.split(",")]
        return sorted(
            (
                RemoteFile(entry.filename, entry.st_size or 0, entry.st_mtime or 0)
                for entry in entries
                if stat.S_ISREG(entry.st_mode or 0) and any(fnmatchcase(entry.filename, p) for p in wanted)
            ),
            key=lambda file: (file.modified, file.name),
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        with _translated(str(arguments[0])):
            return getattr(self._client, name)(*arguments)


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

    from alma_hook.airflow_names import AirflowNotFoundException

    with ExitStack() as stack:
        try:
            # One attempt: the task's own retries wait longer, and say so in the UI.
            hook = SFTPHook(ssh_conn_id=conn_id)
            hook.conn_retry_attempts = 1  # an attribute, as the oldest provider has no such parameter
            client = stack.enter_context(hook.get_managed_conn())
        except AirflowNotFoundException:
            raise no_connection(conn_id) from None
        except Exception as error:  # noqa: BLE001 paramiko, sockets and the provider each raise their own
            raise _connect_error(conn_id, error) from None
        yield SftpFolder(client, f"{hook.remote_host}:{hook.port or 22}")


def _connect_error(conn_id: str, error: Exception) -> Exception:
    from paramiko import AuthenticationException, BadHostKeyException

    if isinstance(error, AuthenticationException):
        return NotPermitted(f"The SFTP server of connection {conn_id} refused login, password or key.")
    if isinstance(error, BadHostKeyException) or "known_hosts" in str(error):
        return NotPermitted(
            f"The SFTP server of connection {conn_id} is not known by its host key. Get the key from its "
            "operator and put it as host_key into the connection's extra; do not switch the check off."
        )
    return Retriable(f"The SFTP server of connection {conn_id} can't be reached ({type(error).__name__}).")


def no_connection(conn_id: str) -> SettingsError:
    """Return the error of an Airflow connection that does not exist, or that can't be read.

    Airflow says of both that they are not defined, so the places that hold secrets are asked again.
    """
    from airflow.configuration import ensure_secrets_loaded

    environment = "airflow.secrets.environment_variables.EnvironmentVariablesBackend"
    for backend in ensure_secrets_loaded(default_backends=[environment]):
        try:
            backend.get_connection(conn_id)
        except Exception as error:  # noqa: BLE001 each raises its own, and its text may quote the secret
            text = (
                f"{type(backend).__name__} failed to give it ({type(error).__name__}). Mend what stands there: whole "
                'JSON, names and texts in double quotes, such as {"conn_type": "sqlite", "host": "/folder/ledger.db"}'
            )
            return SettingsError(
                "An Airflow connection can't be read.", [Fault("connection", text, field=conn_id)]
            )
    return SettingsError(
        "An Airflow connection is missing.", [Fault("connection", "create it", field=conn_id)]
    )
