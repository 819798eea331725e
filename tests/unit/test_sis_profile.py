from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alma_hook import sis_profile
from alma_hook.errors import BadFile
from alma_hook.ledger import fees
from simulator.sis_export import Packing, pack
from tests.bridge import Bridge
from tests.conftest import MakeBridge

USER = "061719993"
PACKINGS: list[Packing] = ["xml", "zip", "tar.gz"]
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def export(*ids: str, more: str = "") -> bytes:
    users = "".join(
        f'<user><record_type desc="">PUBLIC</record_type><primary_id>{i}</primary_id>'
        f"<user_identifiers><user_identifier><value>{i}9</value></user_identifier></user_identifiers>{more}</user>"
        for i in ids
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<users total_record_count="{len(ids)}">{users}</users>'.encode()


def refused(name: str, content: bytes) -> str:
    with pytest.raises(BadFile) as caught:
        sis_profile.user_ids(name, content)
    text = str(caught.value)
    assert USER not in text
    return text


# -- one file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_export_is_read_however_it_is_packed(packing: Packing) -> None:
    name, content = pack(export(USER, "912345678", USER), "USERS_1", packing)
    assert sis_profile.user_ids(name, content) == [USER, "912345678"]


def test_a_pack_may_hold_several_files_and_others_besides() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("part_1.xml", export("1", "2"))
        archive.writestr("readme.txt", "not users")
        archive.writestr("more/part_2.xml", export("2", "3"))
    assert sis_profile.user_ids("users.zip", out.getvalue()) == ["1", "2", "3"]


def test_names_in_another_namespace_comments_and_noise_do_not_matter() -> None:
    content = (
        b'<?xml version="1.0"?><!-- made by a profile --><use:users xmlns:use="http://com/exlibris/digitool/repository/'
        b'extsystem/xmlbeans"><!-- one --><use:user><?x y?><!-- two --><use:primary_id> 061719993\n</use:primary_id>'
        b"</use:user></use:users>"
    )
    assert sis_profile.user_ids("users.xml", content) == [USER]


def test_an_export_of_nobody() -> None:
    assert sis_profile.user_ids("users.xml", export()) == []


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]),
                        min_size=1, max_size=20), max_size=20))  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_every_id_is_read_as_it_is(ids: list[str]) -> None:
    from xml.sax.saxutils import escape

    ids = [i for i in ids if i.strip() == i and i]
    try:
        content = export(*map(escape, ids))
        expected = list(dict.fromkeys(ids))
        assert sis_profile.user_ids("users.xml", content) == expected
    except BadFile:
        # XML knows no U+FFFE and U+FFFF.
        assert any(character in "\ufffe\uffff" for i in ids for character in i)


@given(cut=st.integers(0, 10**6), packing=st.sampled_from(PACKINGS))
@settings(deadline=None, max_examples=150)
def test_a_truncated_export_is_refused_whole(cut: int, packing: Packing) -> None:
    whole = export(*(f"{n * 7919:09d}" for n in range(1, 200)))
    name, content = pack(whole, "USERS_1", packing)
    cut %= len(content)
    try:
        found = sis_profile.user_ids(name, content[:cut])
    except BadFile:
        return
    assert packing == "xml", "a pack has a checksum"
    # Of the plain file only the last line end may be missing.
    assert found == sis_profile.user_ids(name, content)


@pytest.mark.parametrize("packing", PACKINGS)
def test_half_an_export(packing: Packing) -> None:
    name, content = pack(export(*(str(n) for n in range(500))), "USERS_1", packing)
    text = refused(name, content[: len(content) // 2])
    assert name in text or "USERS_1.xml" in text
    assert "cut short" in text


@given(st.binary(max_size=400), st.sampled_from(["users.xml", "users.zip", "users.tar.gz", "users.tgz"]))
@settings(deadline=None, max_examples=150)
def test_noise_is_refused(content: bytes, name: str) -> None:
    with pytest.raises(BadFile):
        sis_profile.user_ids(name, content)


@given(place=st.integers(0, 10**6), wrong=st.integers(0, 255), packing=st.sampled_from(["zip", "tar.gz"]))
@settings(deadline=None, max_examples=150)
def test_a_damaged_pack_is_refused_or_read_as_it_was(place: int, wrong: int, packing: Packing) -> None:
    ids = [f"{n * 7919:09d}" for n in range(1, 60)]
    name, content = pack(export(*ids), "USERS_1", packing)
    place %= len(content)
    damaged = content[:place] + bytes([wrong]) + content[place + 1 :]
    try:
        found = sis_profile.user_ids(name, damaged)
    except BadFile:
        return
    assert found == ids


def test_a_gzipped_tar_without_its_end() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("users.xml")
        data = export(*(str(n) for n in range(500)))
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    refused("users.tar.gz", gzip.compress(out.getvalue()[: len(data) // 2]))


def test_an_encrypted_zip() -> None:
    name, content = pack(export("1"), "USERS_1", "zip")
    locked = bytearray(content)
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert "can't be unpacked" in refused(name, bytes(locked))


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE users>',
        '<!DOCTYPE users [<!ENTITY id "1">]>',
        '<!DOCTYPE users [<!ENTITY id SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE users SYSTEM "http://127.0.0.1:1/users.dtd">',
        '<!DOCTYPE users [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY id "&b;&b;&b;&b;">]>',
    ],
)  # fmt: skip
@pytest.mark.parametrize("packing", PACKINGS)
def test_document_types_and_entities_are_refused(declared: str, packing: Packing) -> None:
    content = f"{declared}<users><user><primary_id>&id;</primary_id></user></users>".encode()
    if "ENTITY" not in declared:
        content = content.replace(b"&id;", b"1")
    assert "document type" in refused(*pack(content, "USERS_1", packing))


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_bomb_is_not_unpacked(packing: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    name, content = pack(export(USER, more=" " * 3_000_000), "USERS_1", packing)
    monkeypatch.setattr(sis_profile, "MAX_BYTES", 2_000_000)
    assert "unpacks to more than 2 MB" in refused(name, content)


def test_many_small_members_are_a_bomb_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(30):
            archive.writestr(f"{number}.xml", export(USER, more=" " * 100_000))
    monkeypatch.setattr(sis_profile, "MAX_BYTES", 2_000_000)
    assert "unpacks to more than 2 MB" in refused("users.zip", out.getvalue())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (export(USER, "") + b"", "without primary_id"),
        (b"<users><user><primary_id> </primary_id></user></users>", "without primary_id"),
        (b"<users><user><user_group>1</user_group></user></users>", "without primary_id"),
        (b"<users><user><more><primary_id>1</primary_id></more></user></users>", "without primary_id"),
        (b"<userRecords><userRecord/></userRecords>", "root is not <users>"),
        (b"<html><body>Please wait</body></html>", "root is not <users>"),
        (b"", "cut short"),
        (b"<users><user>", "cut short"),
        (export(USER) + export(USER), "not well-formed"),
        (b"<users>\xff</users>", "not well-formed"),
    ],
)  # fmt: skip
def test_what_is_no_export_of_users(content: bytes, said: str) -> None:
    text = refused("users.xml", content)
    assert said in text
    assert "users.xml" in text


def test_a_pack_without_an_export_is_refused() -> None:
    """An empty pack is no evidence that nobody changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert "holds no" in refused("users.zip", out.getvalue())


# -- a folder of files ---------------------------------------------------------------------------------


def accounts(bridge: Bridge) -> set[str]:
    ledger = bridge.ledger()
    with ledger.read() as tx:
        found = set(fees.accounts_left(tx, True))
    ledger.close()
    return found


def leave(bridge: Bridge, name: str, content: bytes, modified: datetime | None = None) -> None:
    file = bridge.folder.path("/alma/sis_export") / name
    file.write_bytes(content)
    if modified:
        os.utime(file, (modified.timestamp(),) * 2)


def take_in(bridge: Bridge, until: datetime = LATER) -> sis_profile.ExportCounts:
    with bridge.working("out") as (ledger, lease):
        return sis_profile.take_in(bridge.folder, ledger, lease, bridge.campus, True, until)


def test_each_file_is_taken_in_once(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    leave(bridge, "a.xml", export("1", "2"))
    leave(bridge, "b.zip", pack(export("2", "3"), "b", "zip")[1])
    leave(bridge, "c.tar.gz", pack(export("4"), "c", "tar.gz")[1])
    leave(bridge, "notes.txt", b"not an export")
    assert take_in(bridge) == sis_profile.ExportCounts(files=3, modified=5, open=0)
    assert accounts(bridge) == {"1", "2", "3", "4"}
    assert take_in(bridge).files == 0


def test_a_file_of_the_same_name_with_other_content_is_another_file(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    leave(bridge, "users.xml", export("1"))
    take_in(bridge)
    leave(bridge, "users.xml", export("2"))
    assert take_in(bridge).files == 1
    assert accounts(bridge) == {"1", "2"}


def test_a_bad_file_holds_up_no_other_and_all_are_named(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    leave(bridge, "a.xml", export(USER)[:-9])
    leave(bridge, "b.xml", export("2"))
    leave(bridge, "c.zip", b"no zip")
    with pytest.raises(BadFile) as caught:
        take_in(bridge)
    assert "a.xml" in str(caught.value)
    assert "c.zip" in str(caught.value)
    assert "b.xml" not in str(caught.value)
    assert USER not in str(caught.value)
    assert accounts(bridge) == {"2"}
    leave(bridge, "a.xml", export(USER))
    (bridge.folder.path("/alma/sis_export") / "c.zip").unlink()
    take_in(bridge)
    assert accounts(bridge) == {"2", USER}


def test_a_file_made_after_the_interval_is_left_to_the_next_one(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    end = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
    leave(bridge, "before.xml", export("1"), end - timedelta(minutes=1))
    leave(bridge, "at.xml", export("2"), end)
    leave(bridge, "after.xml", export("3"), end + timedelta(minutes=1))
    assert take_in(bridge, end).files == 2
    assert accounts(bridge) == {"1", "2"}
    assert take_in(bridge, end + timedelta(hours=12)).files == 1
    assert accounts(bridge) == {"1", "2", "3"}


def test_accounts_with_open_fees_are_read_besides_those_that_changed(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    student = bridge.far.students[3]
    bridge.far.alma.add_fee(student, 1000)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    leave(bridge, "a.xml", export("1"))
    assert take_in(bridge).open == 1
    assert accounts(bridge) == {"1", student.primary_id}


def test_a_rehearsal_takes_files_in_on_its_own_account(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(fees=0)
    leave(bridge, "a.xml", export("1"))
    with bridge.working("out") as (ledger, lease):
        sis_profile.take_in(bridge.folder, ledger, lease, bridge.campus, False, LATER)
    assert accounts(bridge) == set()
    assert take_in(bridge).files == 1
    assert accounts(bridge) == {"1"}
