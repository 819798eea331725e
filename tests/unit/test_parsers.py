"""Everything else that reads what others wrote: whatever comes, an error of ours tells what to do, never Python's own.

PeopleSoft's output is tried in test_query_output, the exports of Alma's SIS profile in test_sis_profile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alma_hook import alma_answers, analytics, campus, layouts, shadow_compare
from alma_hook.alma_answers import Reply
from alma_hook.campus import Campus
from alma_hook.errors import AlmaHookError
from alma_hook.ledger.batches import MANIFEST_BATCH, MANIFEST_LINE
from alma_hook.ledger.notes import FIELDS
from alma_hook.repair import read_archive
from tests.bridge import SETTINGS, LocalFolder

ROOT = Path(__file__).resolve().parents[2]
SECRET = "098765432"

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["0", "1.5", "ACTIVE"]),
)
any_json = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
FEE: dict[str, Any] = {
    "id": "138412345678", "type": {"value": "OVERDUEFINE"}, "status": {"value": "ACTIVE"},
    "user_primary_id": {"value": SECRET}, "balance": 12.5, "original_amount": 20.0, "owner": {"value": "MAIN"},
    "creation_time": "2026-11-01T10:00:00.000Z",
    "transaction": [{"type": {"value": "PAYMENT"}, "amount": 7.5, "transaction_time": "2026-11-02T10:00:00.000Z"}],
}  # fmt: skip
USER: dict[str, Any] = {
    "primary_id": SECRET, "user_group": {"value": "01"},
    "user_identifier": [{"id_type": {"value": "UNIV_ID"}, "value": SECRET, "status": "ACTIVE"}],
}  # fmt: skip


def only_ours(parse: Callable[[], object]) -> None:
    """Parse something; an error must be one of ours, and quote no patron."""
    try:
        parse()
    except AlmaHookError as error:
        assert str(error)
        assert SECRET not in str(error)


@st.composite
def one_value_changed(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """A right object with something else in one place, or without it."""
    changed: dict[str, Any] = json.loads(json.dumps(whole))
    place: Any = changed
    while True:
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], dict | list) or draw(st.booleans()):
            break
        place = place[key]
    if draw(st.booleans()):
        place[key] = draw(any_json)
    else:
        del place[key]
    return changed


# -- Alma -----------------------------------------------------------------------------------------------


@given(body=st.one_of(st.binary(max_size=80), any_json.map(lambda data: json.dumps(data).encode())))
@example(body=b"[" * 100_000)
@example(body=b'{"a":' * 100_000)
@example(body=b"1" * 5000)
def test_any_body_of_an_answer(body: bytes) -> None:
    def parse() -> None:
        page = alma_answers.json_of(body)
        alma_answers.record_count(page)
        alma_answers.fees_of(page)

    only_ours(parse)
    only_ours(lambda: alma_answers.changed_fee(Reply(200, {}, body)))
    only_ours(lambda: alma_answers.xml_of(body))
    for status in (200, 400, 404, 500):
        assert isinstance(alma_answers.error_of(Reply(status, {}, body), changing=True), AlmaHookError)


@given(
    fee=one_value_changed(FEE), count=st.one_of(st.just(1), scalars), total=st.one_of(st.just(12.5), scalars)
)
@example(fee=FEE, count=float("inf"), total=12.5)
def test_any_fee_in_a_list(fee: dict[str, Any], count: object, total: object) -> None:
    body = json.dumps({"fee": [fee], "total_record_count": count, "total_sum": total}).encode()
    only_ours(lambda: alma_answers.fees_of(alma_answers.json_of(body)))


@given(user=st.one_of(one_value_changed(USER), any_json))
def test_any_user(user: Any) -> None:
    body = json.dumps({"user": [user]}).encode()
    only_ours(
        lambda: [
            alma_answers.user_of(entry)
            for entry in alma_answers.entries_of(alma_answers.json_of(body), "user")
        ]
    )


PAGE = b"""<report><QueryResult><ResumptionToken>T</ResumptionToken><IsFinished>true</IsFinished><ResultXml>
<rowset xmlns="urn:schemas-microsoft-com:xml-analysis:rowset">
<xsd:schema xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:saw-sql="urn:saw-sql">
<xsd:element name="Column1" saw-sql:columnHeading="Fine Fee Id"/>
<xsd:element name="Column2" saw-sql:columnHeading="Primary Identifier"/>
<xsd:element name="Column3" saw-sql:columnHeading="Remaining Amount"/>
<xsd:element name="Column4" saw-sql:columnHeading="Data Updated As Of"/>
</xsd:schema>
<Row><Column1>138412345678</Column1><Column2>098765432</Column2><Column3>12.5</Column3>
<Column4>2026-11-21T00:00:00</Column4></Row></rowset></ResultXml></QueryResult></report>"""


class Source:
    """Alma's Analytics, with this page for ever."""

    def __init__(self, page: bytes) -> None:
        self.page = page

    def analytics_page(self, _query: object, /) -> bytes:
        return self.page


@given(
    at=st.floats(0, 1, exclude_max=True),
    gone=st.integers(0, 60),
    put=st.one_of(
        st.binary(max_size=6), st.sampled_from([b"<!-- -->", b"<?a?>", b"&a;", b"<x/>", b"<b>1</b>"])
    ),
)
@example(at=0.0, gone=10**6, put=b"<IsFinished/>")
def test_any_page_of_a_report(at: float, gone: int, put: bytes) -> None:
    place = int(at * len(PAGE))
    page = PAGE[:place] + put + PAGE[place + gone :]

    def parse() -> None:
        rows = [
            row
            for found in analytics.pages(Source(page), "/a/report", analytics.HEADINGS, lambda _: None)
            for row in found
        ]
        _, updated = analytics.fee_rows(rows, "report", 1)
        analytics.too_old(updated, datetime(2026, 11, 22, tzinfo=UTC), 48)

    only_ours(parse)


@pytest.mark.parametrize("note", [b"", b"<!-- a note -->", b"<?a note?>"])
def test_the_page_that_is_damaged_is_one_that_is_read(note: bytes) -> None:
    page = PAGE.replace(b"<Row>", b"<Row>" + note).replace(b"12.5", b"12" + note + b".5")
    (rows,) = analytics.pages(Source(page), "/a/report", analytics.HEADINGS, lambda _: None)
    assert analytics.fee_rows(rows, "report", 1)[0][0]["balance"] == 1250


@given(
    updated=st.one_of(st.text(max_size=20), st.datetimes().map(str), st.datetimes().map(datetime.isoformat))
)
def test_any_age_of_a_report(updated: str) -> None:
    only_ours(lambda: analytics.too_old(updated, datetime(2026, 11, 22, tzinfo=UTC), 48))


# -- the archive, and the present process's files ---------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Campus:
    path = tmp_path_factory.mktemp("settings") / "campus.toml"
    path.write_text(SETTINGS.format(report_path="/a/report", layout="default"))
    return campus.load(path)


@pytest.fixture
def archive(ours: Campus, tmp_path: Path) -> LocalFolder:
    folder = LocalFolder(tmp_path)
    folder.path(ours.sfs.archive_directory).mkdir(parents=True)
    return folder


BATCH = {
    "institution": "01CAMPUS_INST", "batch_id": "000001", "sha256": "0" * 64, "line_no": "1", "amount": "100",
}  # fmt: skip
MANIFEST = [*MANIFEST_BATCH, *MANIFEST_LINE]
cells = st.one_of(
    st.text(max_size=6), st.sampled_from([SECRET, "1", "000001", "01CAMPUS_INST", '"', "\r", "x,y"])
)
manifests = st.one_of(
    st.binary(max_size=80),
    st.lists(st.lists(cells, min_size=len(MANIFEST), max_size=len(MANIFEST)), max_size=3).map(
        lambda rows: "\r\n".join(",".join(row) for row in [MANIFEST, *rows]).encode()
    ),
    st.lists(st.dictionaries(st.sampled_from(MANIFEST), cells), max_size=3).map(
        lambda rows: "\r\n".join(
            [
                ",".join(MANIFEST),
                *(",".join({**BATCH, **row}.get(name, "") for name in MANIFEST) for row in rows),
            ]
        ).encode()
    ),
)
notes = st.one_of(
    st.binary(max_size=60),
    any_json.map(lambda data: json.dumps(data).encode()),
    st.dictionaries(st.sampled_from(FIELDS), any_json).map(
        lambda told: json.dumps({**dict.fromkeys(FIELDS, "x"), **told}).encode()
    ),
    st.just(json.dumps(list(FIELDS)).encode()),
)


@given(manifest=manifests, state=st.one_of(st.none(), st.binary(max_size=20)), note=notes)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(manifest=b"", state=None, note=b"[" * 100_000)
@example(manifest=b'"', state=None, note=b"5")
def test_any_archive(
    manifest: bytes, state: bytes | None, note: bytes, ours: Campus, archive: LocalFolder
) -> None:
    folder = archive.path(ours.sfs.archive_directory)
    (folder / "alma_charges_000001.dat").write_bytes(b"x")
    (folder / "alma_charges_000001.dat.manifest.csv").write_bytes(manifest)
    (folder / "alma_charges_000001.dat.state").write_bytes(state or b"")
    (folder / "payment_01CAMPUS_INST_SFS1.note").write_bytes(note)

    only_ours(lambda: read_archive(archive, ours))


@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.lists(st.lists(cells, min_size=4, max_size=4), max_size=4).map(
            lambda rows: "\n".join(["emplid,reference,amount,date", *map(",".join, rows)]).encode(
                "utf-8", "surrogatepass"
            )
        ),
    ),
    name=st.sampled_from(["sent.csv", "sent.dat"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=b"\xef\xbb\xbfemplid,amount\n\x00,1\n", name="sent.csv")
def test_any_file_to_compare_with(content: bytes, name: str, ours: Campus, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    only_ours(lambda: shadow_compare.read([path], ours, layouts.load("default"), ()))


# -- the settings -----------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, text: str) -> bytes:
    """A right text with something else in one place, or any bytes."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=80))
    at = draw(st.integers(0, len(text)))
    changed = text[:at] + draw(st.text(max_size=6)) + text[at + draw(st.integers(0, 30)) :]
    return changed.encode("utf-8", "surrogatepass")


@given(content=damaged(SETTINGS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=b"a = " + b"[" * 100_000)
@example(content=b"a = '\xff'")
def test_any_settings(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "campus.toml"
    path.write_bytes(content)
    only_ours(lambda: campus.load(path))


@given(content=damaged((ROOT / "include/layouts/default.toml").read_text("utf-8")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=b"a = " + b"[" * 100_000)
@example(content=b"a = '\xff'")
def test_any_layout(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "layouts" / "ours.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    only_ours(lambda: layouts.load("ours", tmp_path))
