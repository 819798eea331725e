"""The SFTP server as another SSH library sees it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest

from simulator.faults import Faults
from simulator.sftp import SftpServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SftpServer]:
    (tmp_path / "sfs" / "inbound").mkdir(parents=True)
    with SftpServer(tmp_path, Faults()) as running:
        yield running


@contextmanager
def connected(server: SftpServer, *, with_key: bool = False) -> Iterator[paramiko.SFTPClient]:
    """A client that has seen exactly the host key the server says it has."""
    expected = server.host_key.split()[1]
    transport = paramiko.Transport(("127.0.0.1", server.port))
    try:
        if with_key:
            key = paramiko.Ed25519Key.from_private_key(io.StringIO(server.client_private_key))
            transport.connect(username=server.username, pkey=key)
        else:
            transport.connect(username=server.username, password=server.password)
        assert transport.get_remote_server_key().get_base64() == expected
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None
        yield client
    finally:
        transport.close()


def put(client: paramiko.SFTPClient, name: str, content: bytes) -> None:
    client.putfo(io.BytesIO(content), name)


def test_upload_read_rename_and_list(server: SftpServer, tmp_path: Path) -> None:
    with connected(server) as client:
        put(client, "/sfs/inbound/a.part", b"x" * 100_000)
        client.rename("/sfs/inbound/a.part", "/sfs/inbound/a.dat")
        assert client.listdir("/sfs/inbound") == ["a.dat"]
        with client.open("/sfs/inbound/a.dat") as file:
            assert file.read() == b"x" * 100_000
    assert (tmp_path / "sfs" / "inbound" / "a.dat").read_bytes() == b"x" * 100_000


def test_rename_never_overwrites(server: SftpServer, tmp_path: Path) -> None:
    with connected(server) as client:
        put(client, "/sfs/inbound/a.dat", b"old")
        put(client, "/sfs/inbound/a.part", b"new")
        with pytest.raises(OSError, match="Failure"):
            client.rename("/sfs/inbound/a.part", "/sfs/inbound/a.dat")
        client.posix_rename("/sfs/inbound/a.part", "/sfs/inbound/b.dat")
    inbound = tmp_path / "sfs" / "inbound"
    assert ((inbound / "a.dat").read_bytes(), (inbound / "b.dat").read_bytes()) == (b"old", b"new")


def test_key_and_password_and_neither(server: SftpServer) -> None:
    with connected(server, with_key=True) as client:
        assert client.listdir("/sfs") == ["inbound"]
    transport = paramiko.Transport(("127.0.0.1", server.port))
    with pytest.raises(paramiko.AuthenticationException):
        transport.connect(username=server.username, password="wrong")
    transport.close()


def test_clients_stay_within_the_root(server: SftpServer) -> None:
    with connected(server) as client:
        assert client.normalize("../../..") == "/"
        with pytest.raises(FileNotFoundError):
            client.stat("/../etc/hostname")


def test_refused_connection(server: SftpServer) -> None:
    server.faults.add_sftp("connect")
    with pytest.raises((paramiko.SSHException, EOFError, OSError)), connected(server):
        pass
    with connected(server):
        assert server.connections == 2


@pytest.mark.parametrize("op", ["open", "read", "rename", "list", "stat", "remove"])
def test_an_act_fails_once_and_then_works(server: SftpServer, op: str) -> None:
    name = "/sfs/inbound/a.dat"

    def act(client: paramiko.SFTPClient) -> None:
        match op:
            case "open":
                client.open(name, "w").close()
            case "read":
                with client.open(name) as file:
                    file.read()
            case "rename":
                client.rename(name, "/sfs/inbound/b.dat")
            case "list":
                client.listdir("/sfs/inbound")
            case "stat":
                client.stat(name)
            case _:
                client.remove(name)

    with connected(server) as client:
        put(client, name, b"content")
        rule = server.faults.add_sftp(op, path="/sfs/inbound")  # type: ignore[arg-type]
        with pytest.raises(OSError, match="Failure"):
            act(client)
        act(client)
        assert rule.fired == 1


def test_disk_full_after_some_bytes(server: SftpServer, tmp_path: Path) -> None:
    server.faults.add_sftp("write", action="no_space", after_bytes=50_000)
    with connected(server) as client, pytest.raises(OSError):  # noqa: PT011 - its text differs by version
        put(client, "/sfs/inbound/a.part", b"x" * 100_000)
    assert (tmp_path / "sfs" / "inbound" / "a.part").read_bytes() == b"x" * 50_000


@pytest.mark.parametrize("when", ["before", "after"])
def test_connection_lost_around_a_rename(server: SftpServer, tmp_path: Path, when: str) -> None:
    server.faults.add_sftp("rename", action="drop", when=when)  # type: ignore[arg-type]
    with connected(server) as client:
        put(client, "/sfs/inbound/a.part", b"x")
        with pytest.raises((OSError, EOFError, paramiko.SSHException)):
            client.rename("/sfs/inbound/a.part", "/sfs/inbound/a.dat")
    left = [file.name for file in (tmp_path / "sfs" / "inbound").iterdir()]
    assert left == (["a.dat"] if when == "after" else ["a.part"])


@pytest.mark.parametrize("goes_on", [True, False])
def test_something_may_happen_in_the_middle_of_an_upload(
    server: SftpServer, tmp_path: Path, goes_on: bool
) -> None:
    file = tmp_path / "sfs" / "inbound" / "a.part"
    seen: list[int] = []

    def meanwhile() -> bool:
        seen.append(file.stat().st_size)
        return goes_on

    server.faults.add_sftp("write", action="meanwhile", after_bytes=50_000, meanwhile=meanwhile)
    with connected(server) as client:
        if goes_on:
            put(client, "/sfs/inbound/a.part", b"x" * 100_000)
        else:
            with pytest.raises((OSError, EOFError, paramiko.SSHException)):
                put(client, "/sfs/inbound/a.part", b"x" * 100_000)
    assert seen == [50_000]
    assert file.stat().st_size == (100_000 if goes_on else 50_000)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("goes_on", [True, False])
def test_something_may_happen_around_a_rename(
    server: SftpServer, tmp_path: Path, when: Any, goes_on: bool
) -> None:
    final = tmp_path / "sfs" / "inbound" / "a.dat"
    seen: list[bool] = []

    def meanwhile() -> bool:
        seen.append(final.exists())
        return goes_on

    server.faults.add_sftp("rename", action="meanwhile", when=when, meanwhile=meanwhile)
    with connected(server) as client:
        put(client, "/sfs/inbound/a.part", b"x")
        if goes_on:
            client.rename("/sfs/inbound/a.part", "/sfs/inbound/a.dat")
        else:
            with pytest.raises((OSError, EOFError, paramiko.SSHException)):
                client.rename("/sfs/inbound/a.part", "/sfs/inbound/a.dat")
    assert seen == [when == "after"]
    assert final.exists() == (goes_on or when == "after")


def test_a_client_that_is_gone_closes_nothing_by_itself(server: SftpServer) -> None:
    """What its end makes the server close is no act of the client, so no rule for closing meets it."""
    rule = server.faults.add_sftp("close", times=None)
    with connected(server) as client:
        held = client.open("/sfs/inbound/a.part", "wb")
        server.faults.add_sftp("stat", action="drop")
        with pytest.raises((OSError, EOFError, paramiko.SSHException)):
            client.stat("/sfs/inbound/a.part")
    with connected(server) as client:
        client.listdir("/sfs/inbound")
    assert (held.closed, rule.matched) == (False, 0)


def test_temp_names_can_be_forbidden(server: SftpServer) -> None:
    server.faults.forbid_temp_names = True
    with connected(server) as client:
        with pytest.raises(PermissionError):
            put(client, "/sfs/inbound/a.part", b"x")
        put(client, "/sfs/inbound/a.dat", b"x")


def test_arrival_is_told_for_final_names_only(tmp_path: Path) -> None:
    (tmp_path / "sfs" / "inbound").mkdir(parents=True)
    arrived: list[str] = []
    with SftpServer(tmp_path, on_arrival=arrived.append) as server, connected(server) as client:
        put(client, "/sfs/inbound/a.part", b"x")
        put(client, "/sfs/b.dat", b"x")
        assert arrived == []
        client.rename("/sfs/inbound/a.part", "/sfs/inbound/a.dat")
        put(client, "/sfs/inbound/c.dat", b"x")
        with client.open("/sfs/inbound/c.dat") as file:
            file.read()
    assert arrived == ["/sfs/inbound/a.dat", "/sfs/inbound/c.dat"]


def test_an_upload_that_broke_off_has_not_arrived(tmp_path: Path) -> None:
    (tmp_path / "sfs" / "inbound").mkdir(parents=True)
    arrived: list[str] = []
    faults = Faults()
    faults.add_sftp("write", action="drop")
    with (
        SftpServer(tmp_path, faults, on_arrival=arrived.append) as server,
        connected(server) as client,
        pytest.raises((OSError, EOFError, paramiko.SSHException)),
    ):
        put(client, "/sfs/inbound/a.dat", b"x" * 100)
    assert arrived == []


def test_host_key_survives_a_restart(tmp_path: Path) -> None:
    first = SftpServer(tmp_path, key_file=tmp_path / "key")
    second = SftpServer(tmp_path, key_file=tmp_path / "key")
    assert first.host_key == second.host_key
    assert first.host_key.startswith("ssh-ed25519 AAAA")
