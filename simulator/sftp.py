"""A real SFTP server over a folder, in a background thread, that can misbehave on request."""

import asyncio
import errno
import os
import posixpath
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self, cast

import asyncssh

from simulator.address import LOOPBACK, listens_on
from simulator.faults import Faults, SftpOp, SftpRule

Arrival = Callable[[str], None]


class _Login(asyncssh.SSHServer):
    def __init__(self, owner: "SftpServer") -> None:
        self._owner = owner

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._owner.connections += 1
        self._owner.open_connections.append(conn)
        if self._owner.faults.due_sftp("connect", "") is not None:
            conn.abort()

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return username == self._owner.username and password == self._owner.password

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == self._owner.username and key.public_data == self._owner.client_public_data


class _Files(asyncssh.SFTPServer):
    def __init__(self, chan: "asyncssh.SSHServerChannel[bytes]", owner: "SftpServer") -> None:
        super().__init__(chan, chroot=os.fsencode(owner.root))
        self._owner = owner
        self._written: dict[int, str] = {}
        self._broken: dict[int, SftpRule] = {}

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        name = _name(path)
        self._fault("open", name)
        if pflags & asyncssh.FXF_WRITE and self._owner.forbidden(name):
            raise asyncssh.SFTPPermissionDenied("names here end in .dat")
        opened = super().open(path, pflags, attrs)
        if pflags & asyncssh.FXF_WRITE:
            self._written[id(opened)] = name
        self._fault("open", name, "after")
        return opened

    def write(self, file_obj: object, offset: int, data: bytes) -> Any:
        name = self._written[id(file_obj)]
        end = offset + len(data)
        # A disk that was full stays full: clients send the next blocks before they hear of the first.
        broken = self._broken.get(id(file_obj)) or self._owner.faults.due_sftp("write", name, "before", end)
        if broken is not None:
            self._broken[id(file_obj)] = broken
            super().write(file_obj, offset, data[: max(0, broken.after_bytes - offset)])
            self._misbehave(broken)
            del self._broken[id(file_obj)]
        done = super().write(file_obj, offset, data)
        self._fault("write", name, "after", size=end)
        return done

    def read(self, file_obj: object, offset: int, size: int) -> Any:
        name = self._shown(cast(Any, file_obj).name)
        self._fault("read", name, size=offset + size)
        return super().read(file_obj, offset, size)

    def close(self, file_obj: object) -> Any:
        written = self._written.pop(id(file_obj), None)
        broken = self._broken.pop(id(file_obj), None)
        name = written if written is not None else self._shown(cast(Any, file_obj).name)
        # A client that went away in mid-transfer also ends here; only a whole upload has arrived.
        if self.channel.is_closing():
            return super().close(file_obj)
        self._fault("close", name)
        closed = super().close(file_obj)
        if written is not None and broken is None:
            self._owner.arrived(name)
        self._fault("close", name, "after")
        return closed

    def rename(self, oldpath: bytes, newpath: bytes) -> None:
        name = _name(newpath)
        self._fault("rename", name)
        if self._owner.forbidden(name):
            raise asyncssh.SFTPPermissionDenied("names here end in .dat")
        source, target = self._local(oldpath), self._local(newpath)
        if source.is_dir():
            if os.path.lexists(target):
                raise asyncssh.SFTPFailure("Failure")
            source.rename(target)
        else:
            # As OpenSSH's plain rename: a hard link first, so an existing name is never overwritten.
            try:
                os.link(source, target, follow_symlinks=False)
            except FileExistsError:
                raise asyncssh.SFTPFailure("Failure") from None
            source.unlink()
        self._owner.arrived(name)
        self._fault("rename", name, "after")

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        name = _name(newpath)
        self._fault("rename", name)
        self._local(oldpath).replace(self._local(newpath))
        self._owner.arrived(name)
        self._fault("rename", name, "after")

    def remove(self, path: bytes) -> Any:
        self._fault("remove", _name(path))
        removed = super().remove(path)
        self._fault("remove", _name(path), "after")
        return removed

    def stat(self, path: bytes) -> Any:
        self._fault("stat", _name(path))
        return super().stat(path)

    def lstat(self, path: bytes) -> Any:
        self._fault("stat", _name(path))
        return super().lstat(path)

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        self._fault("list", _name(path))
        async for entry in super().scandir(path):
            yield entry

    def _local(self, path: bytes) -> Path:
        return Path(os.fsdecode(self.map_path(path)))

    def _shown(self, local: object) -> str:
        return os.fsdecode(self.reverse_map_path(os.fsencode(cast(str, local))))

    def _fault(self, op: SftpOp, name: str, when: str = "before", size: int = 0) -> None:
        rule = self._owner.faults.due_sftp(op, name, when, size)
        if rule is not None:
            self._misbehave(rule)

    def _misbehave(self, rule: SftpRule) -> None:
        """Raise what the rule says; returns only where nothing was lost meanwhile."""
        if rule.meanwhile is not None and rule.meanwhile():
            return
        if rule.action == "permission":
            raise asyncssh.SFTPPermissionDenied("Permission denied")
        if rule.action == "no_space":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if rule.action in ("drop", "meanwhile"):
            self.channel.get_connection().abort()
        raise asyncssh.SFTPFailure("Failure")


class SftpServer:
    """``with SftpServer(root, faults) as server: server.port``: SFTP over ``root``.

    ``host_key`` is the public key as a known_hosts line has it (``ssh-ed25519 AAAA...``).
    ``client_private_key`` (OpenSSH PEM text) logs in as well as ``username`` and ``password``.
    ``on_arrival`` is called, in the server's thread, with the path of a file that now stands under its
    final name (``*.dat``) in ``inbound``, before the client is answered. ``key_file`` keeps the host
    key over a restart. ``name`` as in ``AlmaServer``.
    """

    def __init__(
        self,
        root: Path,
        faults: Faults | None = None,
        *,
        port: int = 0,
        inbound: str = "/sfs/inbound",
        username: str = "library",
        password: str = "simulated-password",
        on_arrival: Arrival | None = None,
        key_file: Path | None = None,
        name: str = LOOPBACK,
    ) -> None:
        self.root = root.resolve()
        self.faults = faults or Faults()
        self.inbound = inbound
        self.username = username
        self.password = password
        self.on_arrival = on_arrival
        self.connections = 0
        self.open_connections: list[asyncssh.SSHServerConnection] = []
        self.port = port
        self.name = name
        self._key = _host_key(key_file)
        self.host_key = self._key.export_public_key().decode().strip()
        client = asyncssh.generate_private_key("ssh-ed25519")
        self.client_private_key = client.export_private_key().decode()
        self.client_public_data = client.public_data
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="simulated-sftp", daemon=True)
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None

    def forbidden(self, name: str) -> bool:
        """Whether the inbound folder refuses this name at present."""
        return (
            self.faults.forbid_temp_names
            and posixpath.dirname(name) == self.inbound
            and not name.endswith(".dat")
        )

    def arrived(self, name: str) -> None:
        """Tell PeopleSoft when a file now stands in its inbound folder under a final name."""
        if self.on_arrival is not None and posixpath.dirname(name) == self.inbound and name.endswith(".dat"):
            self.on_arrival(name)

    def start(self) -> Self:
        """Listen; raises the listening's own error (a taken port)."""
        self._thread.start()
        if not self._ready.wait(timeout=10):
            raise TimeoutError("the SFTP server did not start")
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Close the listener and every connection."""
        if self._thread.is_alive() and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=5)

    def _run(self) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as failure:  # noqa: BLE001 - handed to the thread that called start
            self._failure = failure
            self._ready.set()
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncssh.listen(
            listens_on(self.name),
            self.port,
            server_host_keys=[self._key],
            server_factory=lambda: _Login(self),
            sftp_factory=lambda chan: _Files(chan, self),
            allow_scp=False,
        )
        self.port = server.get_port()
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in self.open_connections:
            connection.abort()
        await server.wait_closed()
        # Connections end in tasks of their own; leave none behind when the loop closes.
        await asyncio.sleep(0.05)
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _name(path: bytes) -> str:
    return posixpath.normpath("/" + os.fsdecode(path).lstrip("/"))


def _host_key(key_file: Path | None) -> asyncssh.SSHKey:
    if key_file is not None and key_file.exists():
        return asyncssh.read_private_key(str(key_file))
    key = asyncssh.generate_private_key("ssh-ed25519")
    if key_file is not None:
        key_file.touch(mode=0o600)
        key.write_private_key(str(key_file))
    return key
