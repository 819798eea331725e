"""A whole campus: what it is made of, what its actions do, and that its books notice what they should."""

import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from simulator.__main__ import main
from simulator.campus import DEFAULT_LAYOUT, STAFF_ID, UNMAPPED_TYPE, Campus
from simulator.clock import Clock
from simulator.own_settings import options_of
from simulator.serve import running

FileOf = Callable[..., bytes]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def campus(tmp_path: Path) -> Campus:
    return Campus(tmp_path, students=40, fees=30)


def charge(campus: Campus, default_file: FileOf, name: str = "charges.dat") -> None:
    """Put a charge of every ACTIVE fee of a student into inbound."""
    lines = [
        (fee.user.primary_id, fee.balance_cents, f"ALMA{fee.id}")
        for fee in campus.alma.fees.values()
        if fee.status == "ACTIVE" and fee.balance_cents > 0 and fee.user.user_group != "STAFF"
    ]
    campus.path(campus.folders.inbound).joinpath(name).write_bytes(default_file(lines))


def test_what_a_campus_is_made_of(campus: Campus) -> None:
    fees, odd = campus.alma.fees, campus.oddities
    assert (len(campus.students), len(fees), len(odd.all)) == (40, 30, 4)
    assert all(re.fullmatch("[09][0-9]{8}", student.primary_id) for student in campus.students)
    assert {student.primary_id[0] for student in campus.students} == {"0", "9"}
    assert all(re.fullmatch("[0-9]{16,18}", fee_id) for fee_id in fees)
    assert fees[odd.staff_fee or ""].user.primary_id == STAFF_ID
    assert fees[odd.unmapped_fee or ""].type == UNMAPPED_TYPE
    assert fees[odd.disputed_fee or ""].status == "INDISPUTE"
    assert fees[odd.credit_fee or ""].balance_cents < 0
    assert len(campus.analytics.rows) == 30


def test_the_same_seed_makes_the_same_campus(tmp_path: Path) -> None:
    def shown(seed: int) -> list[tuple[str, str, int]]:
        campus = Campus(tmp_path, seed=seed, students=20, fees=20)
        return [(fee.id, fee.user.primary_id, fee.balance_cents) for fee in campus.alma.fees.values()]

    assert shown(7) == shown(7)
    assert shown(7) != shown(8)


def test_a_large_campus_starts_quickly(tmp_path: Path) -> None:
    began = time.monotonic()
    with running(tmp_path, students=2000, fees=1500) as (campus, _):
        assert time.monotonic() - began < 3
        assert (len(campus.students), len(campus.alma.fees)) == (2000, 1500)


def test_books_agree_after_charging_and_notice_each_action(campus: Campus, default_file: FileOf) -> None:
    charge(campus, default_file)
    (result,) = campus.load_inbound()
    assert result.loaded, result
    odd = {campus.oddities.staff_fee, campus.oddities.disputed_fee, campus.oddities.credit_fee}
    assert set(campus.books().unequal) == odd
    assert campus.students_pay(1.0, in_part=0) == 27
    assert len(campus.books().unequal) == 30
    assert campus.books().peoplesoft_cents == 0
    assert campus.desk_payments(3) == 3
    assert campus.waives(3) == 3
    assert len(campus.new_fees(2)) == 2
    assert len(campus.books().fees) == 32


def test_double_delivery_shows_in_the_books(campus: Campus, default_file: FileOf) -> None:
    for _ in range(2):
        charge(campus, default_file)
        campus.load_inbound()
    differences = {fee.difference_cents for fee in campus.books().fees.values() if fee.charged_cents}
    assert all(cents < 0 for cents in differences)
    names = sorted(file.name for file in campus.path(campus.folders.loaded).iterdir())
    assert names == ["charges.dat", "charges.dat.2"]
    assert list(campus.path(campus.folders.inbound).iterdir()) == []


def test_overpaid_and_bounced(campus: Campus, default_file: FileOf) -> None:
    charge(campus, default_file)
    campus.load_inbound()
    assert campus.overpay(2) == 2
    assert campus.books().unapplied_cents > 0
    assert campus.bounce(2) == 2
    assert campus.books().unapplied_cents == 0


def test_query_output_and_sis_export_files(campus: Campus, default_file: FileOf) -> None:
    charge(campus, default_file)
    campus.load_inbound()
    campus.students_pay(0.5)
    names = [campus.write_query_output("csv"), campus.write_query_output("xml", kind="applied")]
    assert [campus.path(name).suffix for name in names] == [".csv", ".xml"]
    assert campus.path(names[0]).read_bytes().startswith(b"Emplid,Payment ID,Date Paid,")
    student = campus.students[3]
    campus.alma.clock.advance(hours=30)
    campus.alma.add_fee(student, 100)
    plain = campus.path(campus.write_sis_export(24))
    root = ET.fromstring(plain.read_bytes())
    assert [user.findtext("primary_id") for user in root] == [student.primary_id]
    assert root.findtext("user/user_identifiers/user_identifier/value") == student.identifiers["BARCODE"]
    zipped = zipfile.ZipFile(campus.path(campus.write_sis_export(24, "zip")))
    with zipped:
        assert ET.fromstring(zipped.read(zipped.namelist()[0])).tag == "users"
    tarred = campus.path(campus.write_sis_export(24 * 1100, "tar.gz")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(tarred)) as archive:
        member = archive.extractfile(archive.getnames()[0])
        assert member is not None
        assert len(ET.fromstring(member.read())) == 41


def test_files_bear_the_time_of_the_campus_and_may_wait(tmp_path: Path, default_file: FileOf) -> None:
    campus = Campus(tmp_path, students=3, fees=2, clock=Clock(datetime(2026, 3, 1, 12, tzinfo=UTC)))
    left = campus.path(campus.write_sis_export()).stat().st_mtime
    assert left == campus.clock.now().timestamp()
    for name in ("a.dat", "b.dat"):
        charge(campus, default_file, name)
    assert [load.file_name for load in campus.load_inbound(at_most=1)] == ["a.dat"]
    assert [load.file_name for load in campus.load_inbound()] == ["b.dat"]


def test_move_on_arrival_takes_and_loads_the_file(campus: Campus, default_file: FileOf) -> None:
    import paramiko

    campus.faults.move_on_arrival = True
    charge(campus, default_file)
    staged = campus.path(campus.folders.inbound) / "charges.dat"
    content = staged.read_bytes()
    staged.unlink()
    with campus.sftp_server() as server:
        transport = paramiko.Transport(("127.0.0.1", server.port))
        transport.connect(username=server.username, password=server.password)
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None
        with client.open("/sfs/inbound/charges.dat", "w") as file:
            file.write(content)
        with pytest.raises(FileNotFoundError):
            client.stat("/sfs/inbound/charges.dat")
        transport.close()
    assert campus.peoplesoft.loads[0].loaded


def test_control_over_http(tmp_path: Path) -> None:
    with running(tmp_path, students=20, fees=20) as (campus, facts), requests.Session() as session:
        assert json.loads((tmp_path / "simulator.json").read_text()) == facts
        base = facts["control"]

        def post(name: str, **asked: Any) -> dict[str, Any]:
            answer = session.post(f"{base}/{name}", json=asked, timeout=5).json()
            assert answer["simulator"] is True
            return dict(answer)

        assert len(post("new_fees", count=2)["new_fees"]) == 2
        assert post("refresh_analytics")["refresh_analytics"] == 22
        post("faults", http={"kind": "drop_after", "path": "op=pay"}, move_on_arrival=True)
        assert (len(campus.faults.http), campus.faults.move_on_arrival) == (1, True)
        assert "error" in post("faults", http={"kind": "nonsense"})
        assert "error" in post("new_fees", nonsense=1)
        assert post("limits", remaining=7, per_second=5)["limits"] == {"remaining": 7, "per_second": 5}
        before = campus.clock.now()
        post("advance", hours=24)
        assert (campus.clock.now() - before).total_seconds() >= 86_400
        books = session.get(f"{base}/books", timeout=5).json()
        assert (books["simulator"], len(books["fees"])) == (True, 22)
        assert all(student.primary_id not in json.dumps(books) for student in campus.students)
        state = session.get(f"{base}/state", timeout=5).json()
        assert state["fees"] == {"ACTIVE": 21, "INDISPUTE": 1}
        assert session.get(f"{base}/nothing", timeout=5).status_code == 404
    assert not (tmp_path / "simulator.json").exists()


def test_serve_writes_its_whereabouts_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "simulator",
        "serve",
        "--work",
        str(tmp_path),
        "--students",
        "5",
        "--fees",
        "5",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        described = tmp_path / "simulator.json"
        deadline = time.monotonic() + 10
        while not described.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        facts = json.loads(described.read_text())
        test = requests.get(
            f"{facts['alma']['url']}/almaws/v1/users/operation/test",
            headers={
                "Authorization": f"apikey {facts['alma']['api_keys']['read_write']}",
                "Connection": "close",
            },
            timeout=5,
        )
        assert "01SIMULATED_INST" in test.text
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    assert "SIMULATOR" in out


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (
            'name = "own"\n[detail]\nfields = [{ at = 1, source = "due_date", name = "Due", format = "DD.MM.YYYY" }]',
            "Due has no",
        ),
        ('name = "own"\n', "own.toml: 'detail' is missing"),
        ("name = ", "own.toml: Invalid value"),
    ],
)
def test_serve_refuses_a_layout_by_which_no_file_could_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str, said: str
) -> None:
    (tmp_path / "own.toml").write_text(layout)
    assert main(["serve", "--work", str(tmp_path / "work"), "--layout", str(tmp_path / "own.toml")]) == 1
    assert said in capsys.readouterr().err


def test_a_campus_is_that_of_somebodys_own_settings(tmp_path: Path) -> None:
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "own.toml").write_text(DEFAULT_LAYOUT.read_text())
    settings = tmp_path / "campus.toml"
    text = (ROOT / "include" / "campus.toml").read_text()
    settings.write_text(
        text.replace("/sfs/inbound", "/to/sfs").replace('layout = "default"', 'layout = "own"')
    )
    told = tomllib.loads(settings.read_text())
    with running(tmp_path / "work", students=3, fees=4, **options_of(settings)) as (campus, facts):
        assert facts["alma"]["institution"] == told["institution"]
        assert campus.path("/to/sfs").is_dir()
        assert campus.peoplesoft.item_types == set(told["item_types"].values())
        assert campus.peoplesoft.origin_id == told["sfs"]["origin_id"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "campus.toml: 'sfs' is missing"),
        ("sfs = 1", "campus.toml: 'sis_to_alma' is missing"),
        ("sfs = ", "campus.toml: Invalid value"),
    ],
)
def test_settings_that_tell_no_campus_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "campus.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        options_of(tmp_path / "campus.toml")


def test_the_witness_shares_no_code_with_the_package() -> None:
    check = (
        "import sys, simulator.serve; print([name for name in sys.modules if name.startswith('alma_hook')])"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
