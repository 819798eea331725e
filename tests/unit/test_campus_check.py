"""What `check-campus` finds, each thing by itself: the key, the report, the folders, the ledger, the files to come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from alma_hook import campus_check
from alma_hook.alma import AlmaApi
from alma_hook.campus_check import Finding, each
from alma_hook.errors import NotPermitted, Retriable
from tests.bridge import Bridge


@pytest.fixture
def small(tmp_path: Path) -> Bridge:
    return Bridge(
        tmp_path, students=12, fees=14, settings=lambda text: text.replace("live = true", "live = false")
    )


def change(bridge: Bridge, section: str, **told: Any) -> None:
    part = getattr(bridge.campus, section).model_copy(update=told)
    bridge.campus = bridge.campus.model_copy(update={section: part})


def wrong(found: list[Finding]) -> list[str]:
    return [one.text for one in found if one.wrong]


def fine(found: list[Finding]) -> list[str]:
    return [one.text for one in found if not one.wrong]


# -- Alma ---------------------------------------------------------------------------------------------------


def alma(bridge: Bridge) -> list[Finding]:
    return each("alma", lambda: campus_check.of_alma(bridge.api, bridge.campus))


def test_the_key_and_the_fee_types_without_item_type(small: Bridge) -> None:
    found = alma(small)
    assert wrong(found) == []
    assert fine(found)[:2] == [
        "Alma answers for 01CAMPUS_INST, environment SANDBOX",
        "the key may read and write",
    ]
    said = fine(found)[2]
    assert "are listed: " in said
    assert "LOCKERKEY" in said
    assert not {"OVERDUEFINE", "CREDIT"} & set(said.replace(",", "").split())


def test_another_institution_s_key_is_told_and_nothing_more_is_asked(small: Bridge) -> None:
    small.campus = small.campus.model_copy(update={"institution": "01OTHER_INST"})
    assert wrong(alma(small)) == ["is of 01CAMPUS_INST, the settings are for 01OTHER_INST"]


def test_fee_types_that_this_alma_does_not_know(small: Bridge) -> None:
    types = {**small.campus.item_types, "OVERDUEFIN": "300000000001"}
    of = {"LAW": {"OVERDUEFINES": "300000000001"}}
    small.campus = small.campus.model_copy(
        update={"item_types": types, "item_types_of": of, "descriptions": {"LOSTITEM": "Lost"}}
    )
    found = alma(small)
    assert [(one.about, one.text.rpartition(": ")[2]) for one in found if one.wrong] == [
        ("item_types", "OVERDUEFIN"),
        ("descriptions", "LOSTITEM"),
        ("item_types_of.LAW", "OVERDUEFINES"),
    ]


def test_reasons_of_waivers_that_this_alma_does_not_know(small: Bridge) -> None:
    kinds = {"1": "payment", "2": "waive:OTHER", "3": "waive:NONSENSE"}
    change(small, "sis_to_alma", kinds=kinds)
    assert wrong(alma(small)) == ["has reasons of waivers that this Alma does not know: NONSENSE"]
    change(small, "sis_to_alma", kinds={"1": "payment", "2": "waive:OTHER"})
    assert wrong(alma(small)) == []


def test_what_is_left_out_by_the_settings_is_not_asked_for(small: Bridge) -> None:
    change(small, "first_charges", other_item_type="300000000002")
    assert fine(alma(small))[-1].endswith("fee types have one, or are left out")


@pytest.mark.parametrize("live", [True, False])
def test_a_key_that_may_only_read_is_wrong_once_the_campus_is_live(small: Bridge, live: bool) -> None:
    class ReadOnly:
        def __init__(self, api: AlmaApi) -> None:
            self.api = api

        def __getattr__(self, name: str) -> Any:
            return getattr(self.api, name)

        def check_write(self) -> None:
            raise NotPermitted("no")

        def environment(self) -> str:
            raise NotPermitted("no")

        def code_table(self, _name: str) -> dict[str, str]:
            raise NotPermitted("no")

    small.campus = small.campus.model_copy(update={"live": live})
    found = each("alma", lambda: campus_check.of_alma(ReadOnly(small.api), small.campus))  # type: ignore[arg-type]
    assert wrong(found) == ["the key may not write, so no payment can be posted with it"] * live
    assert fine(found)[-1] == "can't be compared: the key may not read Alma's code tables"


# -- the report ---------------------------------------------------------------------------------------------


def report(bridge: Bridge) -> list[Finding]:
    now = bridge.far.clock.now()
    return each("report", lambda: campus_check.of_report(bridge.api, bridge.campus, now, lambda _: None))


def test_the_report_and_the_age_of_its_data(small: Bridge) -> None:
    small.far.refresh_analytics()
    assert [one.text[:33] for one in report(small)] == ["has the columns that are needed; "]
    small.far.clock.advance(days=9)
    assert [text[:10] for text in wrong(report(small))] == ["its data i"]


def test_a_report_that_is_not_there_or_holds_nothing(small: Bridge, tmp_path: Path) -> None:
    change(small, "alma_to_sis", report_path="/shared/Campus/Reports/Nowhere")
    assert len(wrong(report(small))) == 1
    empty = Bridge(tmp_path / "empty", students=1, fees=0)
    empty.far.refresh_analytics()
    assert fine(report(empty)) == ["is empty: are there no open fees, or is its filter wrong?"]


# -- the folders --------------------------------------------------------------------------------------------


def inbound(bridge: Bridge, pause: Callable[[float], None] = lambda _: None) -> list[Finding]:
    return each("inbound", lambda: campus_check.of_inbound(bridge.folder, bridge.campus, pause))


def left(bridge: Bridge) -> list[Path]:
    return list(bridge.far.path("/sfs/inbound").iterdir())


def failing(bridge: Bridge, *actions: str, error: Exception) -> None:
    def before(action: str, _path: str) -> None:
        if action in actions:
            raise error

    bridge.folder.before = before


def test_a_folder_that_lets_files_alone(small: Bridge) -> None:
    assert [(one.wrong, one.text) for one in inbound(small)] == [
        (False, "takes a file and lets it alone"),
        (False, "lets a file be renamed"),
    ]
    assert left(small) == []


def take_all(bridge: Bridge) -> Callable[[float], None]:
    return lambda _: [path.unlink() for path in left(bridge)] and None


@pytest.mark.parametrize("mode", ["rename", "direct"])
def test_a_far_side_that_takes_whatever_comes(small: Bridge, mode: str) -> None:
    change(small, "sfs", mode=mode)
    found = inbound(small, take_all(small))
    assert [(one.wrong, "sfs.mode" in one.text) for one in found] == [(mode == "rename", True)]


@pytest.mark.parametrize(
    ("action", "setting", "value", "said"),
    [
        ("write", "mode", "rename", 'set sfs.mode = "direct"'),
        ("rename", "mode", "rename", 'set sfs.mode = "direct"'),
        ("read", "read_back", "hash", 'set sfs.read_back = "size"'),
    ],
)
def test_what_an_account_may_not_do_is_wrong_where_the_settings_need_it(
    small: Bridge, action: str, setting: str, value: str, said: str
) -> None:
    failing(small, action, error=NotPermitted("may not"))
    assert [said in text for text in wrong(inbound(small))] == [True]
    assert left(small) == []
    change(small, "sfs", **{setting: {"rename": "direct", "hash": "size"}[value]})
    assert wrong(inbound(small)) == []
    assert left(small) == []


def test_a_drop_box_is_not_looked_into_and_what_stays_there_is_said(small: Bridge) -> None:
    change(small, "sfs", read_back="none")
    failing(small, "size", "read", "list", "rename", "remove", error=NotPermitted("may not"))
    found = inbound(small)
    assert wrong(found) == []
    (stays,) = left(small)
    assert found[-1].text.startswith(stays.name)
    assert "have it removed" in found[-1].text
    assert stays.suffix == ".part", "no loader takes it"


def test_a_server_that_fails_is_told_with_what_was_found_before(small: Bridge) -> None:
    failing(small, "size", error=Retriable("The SFTP server failed."))
    assert wrong(inbound(small)) == ["The SFTP server failed."]


def test_the_archive(small: Bridge) -> None:
    directory = small.campus.sfs.archive_directory
    assert fine(each("archive", lambda: campus_check.of_archive(small.folder, directory))) == [
        "takes files and gives them back"
    ]
    assert list(small.far.path(directory).iterdir()) == []


def outbound(bridge: Bridge) -> list[Finding]:
    return each("outbound", lambda: campus_check.of_outbound(bridge.folder, bridge.campus))


def test_the_newest_file_of_payments_is_read_and_nothing_of_it_is_told(small: Bridge) -> None:
    assert [one.text for one in outbound(small)] == ["can be listed; nothing in it matches *.csv"]
    head = "Emplid,Payment ID,Date Paid,Reference Number,Paid Amount,Item Type"
    small.folder.put("/sfs/outbound/A.csv", f"{head}\n012345678,17,11/22/2026,ALMA1,5.00,3\n".encode())
    assert outbound(small)[-1] == Finding("A.csv", "can be read, 1 lines")

    small.far.clock.advance(seconds=1)
    rows = "012345678,17,11/22/2026,ALMA1,5.00,3\n012345678,18,22/11/2026,ALMA1,5.00,3\n"
    small.folder.put("/sfs/outbound/B.csv", f"{head}\n{rows}".encode())
    found = outbound(small)[-1]
    assert (found.about, found.verdict) == ("B.csv", "LOOK")
    assert outbound(small)[0].text.endswith("; B.csv alone is read here")
    assert found.text.startswith("1 of 2 lines can't be taken in; the first is line 3, Date Paid: ")
    assert "012345678" not in "".join(one.text for one in outbound(small))

    small.far.clock.advance(seconds=1)
    small.folder.put("/sfs/outbound/C.csv", b"Emplid,Payment No,Date Paid,Reference Number,Paid Amount\n")
    assert "Payment ID" in wrong(outbound(small))[0]


def test_the_exports_of_the_sis_profile(small: Bridge) -> None:
    small.far.clock.advance(days=1)
    small.far.write_sis_export()
    (found,) = each("exports", lambda: campus_check.of_exports(small.folder, small.campus))
    assert found.text.startswith("1 files match ")


# -- the ledger, and what would be sent -----------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False])
def test_a_ledger_that_is_not_open_is_wrong_for_a_live_campus_only(
    small: Bridge, tmp_path: Path, live: bool
) -> None:
    small.campus = small.campus.model_copy(update={"live": live})
    with closing(small.ledger("look")) as ledger:
        assert wrong(each("ledger", lambda: campus_check.of_ledger(ledger, small.campus))) == []
    small.url = f"sqlite:///{tmp_path / 'other.db'}"
    with closing(small.ledger("look")) as ledger:
        assert len(wrong(each("ledger", lambda: campus_check.of_ledger(ledger, small.campus)))) == 1
        ledger.migrate()
        found = each("ledger", lambda: campus_check.of_ledger(ledger, small.campus))
        assert [one.wrong for one in found] == [live]


def test_payments_that_would_be_told_apart_in_another_way_are_wrong_before_the_intake_stops(
    small: Bridge,
) -> None:
    def said() -> list[str]:
        with closing(small.ledger("look")) as ledger:
            return wrong(each("ledger", lambda: campus_check.of_ledger(ledger, small.campus)))

    columns = small.campus.sis_to_alma.columns
    change(small, "sis_to_alma", columns={**columns, "payment_id": "PAYMENT_ID_NBR"})
    assert said() == []
    change(small, "sis_to_alma", columns=columns)
    small.far.write_query_output()
    small.sis_to_alma()
    assert said() == []
    change(small, "sis_to_alma", columns={**columns, "payment_id": "PAYMENT_ID_NBR"})
    (text,) = said()
    assert "rebind 'payments told apart by'" in text


def test_a_live_campus_is_not_sent_to_a_dry_run(small: Bridge) -> None:
    small.campus = small.campus.model_copy(update={"live": True})
    with closing(small.ledger("look")) as ledger, ledger.read() as tx:
        (said,) = campus_check.previews(tx, small.campus, small.layout)
    assert "the campus is live" in said


def test_a_dry_run_of_another_layout_is_told_and_no_fee_is_named(small: Bridge) -> None:
    small.far.refresh_analytics()
    small.alma_to_sis(live=False)
    fields = [
        f.model_copy(update={"width": 4}) if f.source == "description" else f
        for f in small.layout.detail.fields
    ]
    detail = small.layout.detail.model_copy(update={"fields": tuple(fields)})
    with closing(small.ledger("look")) as ledger, ledger.read() as tx:
        said = list(
            campus_check.previews(tx, small.campus, small.layout.model_copy(update={"detail": detail}))
        )
    assert said[1:] == [
        "They were planned for another layout and fit this one no more: Description is longer than its 4 columns.",
        "Trigger alma_to_sis, then ask again.",
    ]


def test_the_files_of_the_newest_dry_run_are_shown_under_a_ruler_without_emplids(small: Bridge) -> None:
    def shown() -> list[str]:
        with closing(small.ledger("look")) as ledger, ledger.read() as tx:
            return list(campus_check.previews(tx, small.campus, small.layout))

    assert shown() == ["No dry run yet: with live = false, trigger alma_to_sis, then ask again."]
    small.far.refresh_analytics()
    counts = small.alma_to_sis(live=False)
    title, tens, ones, header, *lines = shown()
    assert f"charges, {counts.charges} lines" in title
    assert (tens[-10:], ones[:12]) == ("       120", "123456789012")
    assert header.startswith(f"H{counts.charges:010d}")
    assert len(lines) == min(10, counts.charges)
    assert all(line[1:12] == "#########  " and len(line) == 124 for line in lines)
    people = {student.primary_id for student in small.far.students}
    assert not any(emplid in line for emplid in people for line in lines)

    small.far.clock.advance(timedelta(days=1))
    small.far.refresh_analytics()
    again = small.alma_to_sis(live=False)
    assert f"charges, {again.charges} lines" in shown()[0]
    assert len(shown()) == 4 + min(10, again.charges)
