"""The far side's folders over real SFTP: whose server it is, and what a failure leaves behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alma_hook import sftp
from alma_hook.errors import AlmaHookError, Fatal, NotPermitted, Retriable, SettingsError
from alma_hook.sftp import SftpFolder
from simulator.campus import Campus
from simulator.sftp import SftpServer
from tests.loopback.conftest import Connect, sftp_fields

WHOLE = bytes(range(256)) * 800  # seven blocks of the protocol


@pytest.fixture
def folder(sftp: SftpServer) -> Iterator[SftpFolder]:
    with connected() as opened:
        yield opened


def connected() -> Any:
    return sftp.connect("sfs_sftp")


def refused_login(expected: type[AlmaHookError]) -> str:
    with pytest.raises(AlmaHookError) as caught, connected():
        pass
    assert type(caught.value) is expected
    return str(caught.value)


# -- whose server it is -------------------------------------------------------------------------------


def test_a_known_server_is_named_by_host_and_port(sftp: SftpServer, folder: SftpFolder) -> None:
    assert folder.target == f"127.0.0.1:{sftp.port}"


def test_a_key_logs_in_as_a_password_does(sftp: SftpServer, connect: Connect) -> None:
    extra = {"host_key": sftp.host_key, "private_key": sftp.client_private_key}
    connect("sfs_sftp", **sftp_fields(sftp, password="", extra=extra))
    with connected() as folder:
        assert folder.files("/sfs/inbound", "*") == []


def test_an_unknown_host_key_is_refused(sftp: SftpServer, connect: Connect) -> None:
    connect("sfs_sftp", **sftp_fields(sftp, extra={}))
    assert "host_key" in refused_login(NotPermitted)


def test_another_host_key_is_refused(sftp: SftpServer, campus: Campus, connect: Connect) -> None:
    connect("sfs_sftp", **sftp_fields(sftp, extra={"host_key": campus.sftp_server().host_key}))
    assert "is not known by its host key" in refused_login(NotPermitted)


def test_a_wrong_password_is_refused(sftp: SftpServer, connect: Connect) -> None:
    connect("sfs_sftp", **sftp_fields(sftp, password="not-the-password"))
    message = refused_login(NotPermitted)
    assert "refused login" in message
    assert "not-the-password" not in message


def test_a_key_file_that_is_not_there(sftp: SftpServer, connect: Connect, tmp_path: Path) -> None:
    extra = {"host_key": sftp.host_key, "key_file": str(tmp_path / "gone")}
    connect("sfs_sftp", **sftp_fields(sftp, password="", extra=extra))
    assert "The key_file of connection sfs_sftp is not there" in refused_login(NotPermitted)


@pytest.mark.parametrize("host_key", ["ssh-ed25519 BBBB", "ssh-ed25519 !!", "nonsense", "ssh-rsa " + "A" * 7])
def test_a_host_key_that_is_none(sftp: SftpServer, connect: Connect, host_key: str) -> None:
    connect("sfs_sftp", **sftp_fields(sftp, extra={"host_key": host_key}))
    said = refused_login(NotPermitted)
    assert "host_key" in said
    assert host_key not in said


def test_no_server(sftp: SftpServer) -> None:
    sftp.stop()
    assert "can't be reached" in refused_login(Retriable)


def test_a_server_that_hangs_up(sftp: SftpServer, campus: Campus) -> None:
    campus.faults.add_sftp("connect", times=None)
    assert "can't be reached" in refused_login(Retriable)


def test_no_such_connection() -> None:
    with (
        pytest.raises(SettingsError, match="no_such_connection: create it"),
        sftp.connect("no_such_connection"),
    ):
        pass


# -- reading and writing ------------------------------------------------------------------------------


def test_what_is_written_is_there_and_reads_back(folder: SftpFolder, campus: Campus) -> None:
    path = "/sfs/inbound/alma_charges_000001.dat.part"
    assert folder.size(path) is None

    folder.write(path, WHOLE)

    assert campus.path(path).read_bytes() == WHOLE
    assert (folder.size(path), folder.read(path)) == (len(WHOLE), WHOLE)
    folder.write(path, b"")
    assert (folder.size(path), folder.read(path)) == (0, b"")


def test_a_file_that_is_there_is_left_as_it_is_by_one_that_has_to_be_new(
    folder: SftpFolder, campus: Campus
) -> None:
    path = "/sfs/archive/alma_charges_000001.dat"
    assert folder.create(path, WHOLE) is True
    assert folder.create(path, b"another") is False
    assert campus.path(path).read_bytes() == WHOLE


def test_a_server_that_shows_nothing_and_refuses_a_new_file_gets_it_as_before(
    folder: SftpFolder, campus: Campus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop box with an earlier attempt's file, and servers that do not know what a new file is, answer alike."""
    path = "/sfs/archive/alma_charges_000001.dat"
    folder.write(path, WHOLE[:100])
    monkeypatch.setattr(folder, "size", lambda _: None)
    assert folder.create(path, WHOLE) is True
    assert campus.path(path).read_bytes() == WHOLE


def test_a_new_file_in_a_folder_that_is_missing_or_forbidden(folder: SftpFolder, campus: Campus) -> None:
    with pytest.raises(Fatal, match=r"The folder of /sfs/nowhere/a\.dat is not on the SFTP server"):
        folder.create("/sfs/nowhere/a.dat", WHOLE)
    campus.faults.add_sftp("open", action="permission")
    with pytest.raises(NotPermitted):
        folder.create("/sfs/archive/a.dat", WHOLE)


def test_a_rename_moves_the_file(folder: SftpFolder, campus: Campus) -> None:
    folder.write("/sfs/inbound/a.part", WHOLE)
    folder.rename("/sfs/inbound/a.part", "/sfs/archive/a.dat")
    assert campus.path("/sfs/archive/a.dat").read_bytes() == WHOLE
    assert folder.size("/sfs/inbound/a.part") is None


def test_a_rename_never_overwrites(folder: SftpFolder, campus: Campus) -> None:
    campus.path("/sfs/inbound/a.dat").write_bytes(b"theirs")
    folder.write("/sfs/inbound/a.part", b"ours")

    with pytest.raises(AlmaHookError, match="there already"):
        folder.rename("/sfs/inbound/a.part", "/sfs/inbound/a.dat")

    assert campus.path("/sfs/inbound/a.dat").read_bytes() == b"theirs"
    assert campus.path("/sfs/inbound/a.part").read_bytes() == b"ours"


def test_a_file_that_appears_at_the_last_moment_is_not_overwritten(
    folder: SftpFolder, campus: Campus, monkeypatch: pytest.MonkeyPatch
) -> None:
    campus.path("/sfs/inbound/a.dat").write_bytes(b"theirs")
    folder.write("/sfs/inbound/a.part", b"ours")
    monkeypatch.setattr(folder, "size", lambda _path: None)  # looked a moment too early

    with pytest.raises(AlmaHookError):
        folder.rename("/sfs/inbound/a.part", "/sfs/inbound/a.dat")

    assert campus.path("/sfs/inbound/a.dat").read_bytes() == b"theirs"


def test_files_are_listed_by_pattern_oldest_first(folder: SftpFolder, campus: Campus) -> None:
    out = campus.path("/sfs/outbound")
    for age, name in enumerate(["B.csv", "A.csv", "C.xml", ".D.csv.writing", "e.CSV"]):
        (out / name).write_text(name)
        os.utime(out / name, (1_700_000_000 + age, 1_700_000_000 + age))
    (out / "folder.csv").mkdir()

    assert [f.name for f in folder.files("/sfs/outbound", "*.csv")] == ["B.csv", "A.csv"]
    assert [f.name for f in folder.files("/sfs/outbound", "*.csv, *.xml")] == ["B.csv", "A.csv", "C.xml"]
    (first, *_) = folder.files("/sfs/outbound", "*.csv")
    assert (first.size, first.modified) == (5, 1_700_000_000)


def test_a_name_that_is_not_utf_8_says_which_folder(folder: SftpFolder, campus: Campus) -> None:
    Path(os.fsdecode(os.fsencode(campus.path("/sfs/outbound")) + b"/PAID_\xff.csv")).write_bytes(b"x")
    with pytest.raises(Fatal, match=r"A file in /sfs/outbound has a name that is not UTF-8"):
        folder.files("/sfs/outbound", "*.csv")


def test_a_file_without_a_time_has_just_come(
    folder: SftpFolder, campus: Campus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of 1970: it would be older than every other, for ever."""
    campus.path("/sfs/outbound/A.csv").write_bytes(b"x")
    listdir = folder._client.listdir_attr

    def without_times(path: str) -> Any:
        entries = listdir(path)
        for entry in entries:
            entry.st_mtime = None
        return entries

    monkeypatch.setattr(folder._client, "listdir_attr", without_times)
    (found,) = folder.files("/sfs/outbound", "*.csv")
    assert abs(found.modified - time.time()) < 600


def test_a_missing_folder_says_so(folder: SftpFolder) -> None:
    for act in (
        lambda: folder.files("/sfs/nowhere", "*"),
        lambda: folder.write("/sfs/nowhere/a.dat", b"x"),
    ):
        with pytest.raises(Fatal, match=r"/sfs/nowhere.* is not on the SFTP server"):
            act()


@pytest.mark.parametrize("act", ["read", "rename"])
def test_a_file_that_is_gone(act: str, folder: SftpFolder) -> None:
    with pytest.raises(Retriable, match=r"a\.csv is not there any more"):
        getattr(folder, act)(*["/sfs/outbound/a.csv", "/sfs/outbound/archive/a.csv"][: 1 + (act == "rename")])


# -- what breaks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_bytes", [0, 1, 100_000, 204_799])
def test_a_full_disk_is_said_and_leaves_no_whole_file(
    after_bytes: int, folder: SftpFolder, campus: Campus
) -> None:
    campus.faults.add_sftp("write", action="no_space", after_bytes=after_bytes)

    with pytest.raises(Retriable):
        folder.write("/sfs/inbound/a.part", WHOLE)

    assert len(campus.path("/sfs/inbound/a.part").read_bytes()) < len(WHOLE)
    assert list(campus.path("/sfs/inbound").glob("*.dat")) == []


@pytest.mark.parametrize(("op", "when"), [("open", "before"), ("write", "before"), ("write", "after")])
@pytest.mark.parametrize("action", ["fail", "drop"])
def test_a_write_that_fails_is_not_taken_as_done(
    op: str, action: str, when: str, folder: SftpFolder, campus: Campus
) -> None:
    campus.faults.add_sftp(op, action=action, when=when)  # type: ignore[arg-type]
    with pytest.raises(Retriable, match="nothing was taken as done"):
        folder.write("/sfs/inbound/a.part", WHOLE)


# The client reads ahead in a thread of its own, which ends with an error of its own when the line is cut.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("op", ["open", "read", "stat", "list", "rename"])
@pytest.mark.parametrize("action", ["fail", "drop"])
def test_every_other_failure_may_be_tried_again(
    op: str, action: str, folder: SftpFolder, campus: Campus
) -> None:
    campus.path("/sfs/outbound/a.csv").write_bytes(WHOLE)
    campus.faults.add_sftp(op, action=action)  # type: ignore[arg-type]
    acts = {
        "open": lambda: folder.read("/sfs/outbound/a.csv"),
        "read": lambda: folder.read("/sfs/outbound/a.csv"),
        "stat": lambda: folder.size("/sfs/outbound/a.csv"),
        "list": lambda: folder.files("/sfs/outbound", "*"),
        "rename": lambda: folder.rename("/sfs/outbound/a.csv", "/sfs/outbound/archive/a.csv"),
    }
    with pytest.raises(Retriable):
        acts[op]()
    assert campus.path("/sfs/outbound/a.csv").read_bytes() == WHOLE


def test_a_rename_whose_answer_is_lost_is_not_said_to_have_failed_for_good(
    folder: SftpFolder, campus: Campus
) -> None:
    campus.path("/sfs/outbound/a.csv").write_bytes(WHOLE)
    campus.faults.add_sftp("rename", action="drop", when="after")
    with pytest.raises(Retriable):
        folder.rename("/sfs/outbound/a.csv", "/sfs/outbound/archive/a.csv")
    assert campus.path("/sfs/outbound/archive/a.csv").read_bytes() == WHOLE


def test_a_folder_where_the_account_may_not_write(folder: SftpFolder, campus: Campus) -> None:
    campus.faults.add_sftp("open", action="permission")
    with pytest.raises(NotPermitted, match="may not do this"):
        folder.write("/sfs/inbound/a.part", WHOLE)


def test_a_folder_that_forbids_other_names(folder: SftpFolder, campus: Campus) -> None:
    campus.faults.forbid_temp_names = True
    with pytest.raises(NotPermitted):
        folder.write("/sfs/inbound/a.part", WHOLE)
    folder.write("/sfs/inbound/a.dat", WHOLE)
