"""PeopleSoft's output on its way to Alma, in each form and region; and files that are stale, shrunken or cut short.

The simulator writes each file, and its books are the witness.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from alma_hook.ledger import exceptions
from alma_hook.ledger import payments as entries
from simulator.alma import NOT_AT_DESK
from simulator.alma_records import Fee
from simulator.query_output import APPLIED_HEADINGS, EXTENSIONS, PAYMENT_HEADINGS, Format, Region
from tests.bridge import Bridge

FORMS: tuple[Format, ...] = get_args(Format)
US, EUROPE = Region(), Region("%d.%m.%Y", "1.234,56-")
ITEMS = """
[sis_to_alma.items]
pattern = "LIBRARY_APPLIED_*"
complete = true
[sis_to_alma.items.columns]
emplid = "Emplid"
reference = "Reference Nbr"
amount = "Item Amt"
balance = "Item Balance"
"""
APPLIED = """
[sis_to_alma.columns]
emplid = "Emplid"
reference = "Reference Nbr"
applied = "Applied Amt"
item = "Item Nbr"
"""


def make(
    folder: Path,
    kind: str,
    form: Format = "csv",
    region: Region = US,
    *,
    items: bool = False,
    url: str | None = None,
    students: int = 4,
) -> Bridge:
    """A campus whose query writes this form as this region does, with the settings that it needs for that.

    Applied amounts come in the list of items; beside payments it has files of its own, if ``items``.
    """
    applied = kind == "applied"

    def settings(text: str) -> str:
        head, back = text.split("[sis_to_alma]")
        how = (
            f'cumulative = true\npattern = "LIBRARY_{kind.upper()}_*"\n'
            f'date_format = "{region.days}"\nnumber_format = "{region.numbers}"\n'
        )
        if applied:
            back = back.partition("[sis_to_alma.columns]")[0] + 'shape = "applied"\n' + APPLIED
        if applied or items:
            back += ITEMS
        if form in ("xml", "xml-service"):
            for heading, field in (APPLIED_HEADINGS if applied else PAYMENT_HEADINGS).items():
                back = back.replace(f'"{heading}"', f'"{field}"')
        return f"{head}[sis_to_alma]\n{how}{back}"

    bridge = Bridge(folder, settings=settings, students=students, fees=0, url=url)
    bridge.far.peoplesoft.region = region
    return bridge


def charged(bridge: Bridge, *cents: int) -> list[Fee]:
    """Fees in Alma that PeopleSoft has on its items."""
    students = bridge.far.students
    fees = [bridge.far.alma.add_fee(students[n % len(students)], value) for n, value in enumerate(cents)]
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    assert all(result.loaded for result in bridge.far.load_inbound())
    return fees


def pay(bridge: Bridge, fee: Fee, cents: int | None = None) -> str:
    (payment,) = bridge.far.peoplesoft.pay(f"ALMA{fee.id}", cents)
    return payment.payment_id


def output(bridge: Bridge, kind: str = "payments", form: Format = "csv") -> Path:
    """PeopleSoft's query runs a day later."""
    bridge.far.clock.advance(hours=24)
    return bridge.far.path(bridge.far.write_query_output(form, kind=kind))


def write(bridge: Bridge, path: Path, text: str) -> None:
    """Let a file hold another text, written just now."""
    bridge.folder.put(f"/sfs/outbound/{path.name}", text.encode())


def posted(fee: Fee) -> list[int]:
    """What was paid on a fee by the API, by Alma's own record."""
    return [t.amount_cents for t in fee.transactions if t.kind == "PAYMENT" and t.received_by == NOT_AT_DESK]


def kinds(bridge: Bridge) -> list[str]:
    return sorted(bridge.exceptions().values())


def resolve(bridge: Bridge, kind: str) -> None:
    """A person says that an entry of this kind is dealt with."""
    with bridge.working("back") as (ledger, lease), ledger.write(lease) as tx:
        (found,) = (row for row in exceptions.open_items(tx) if row["kind"] == kind)
        entries.resolve(tx, found["exception_id"], "the bursar", "the query begins with the new year")


# -- each form, end to end ------------------------------------------------------------------------------


@pytest.mark.parametrize("region", [US, EUROPE], ids=["plain", "europe"])
@pytest.mark.parametrize("kind", ["payments", "applied"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_brings_the_payments_to_alma(
    form: Format, kind: str, region: Region, tmp_path: Path
) -> None:
    bridge = make(tmp_path, kind, form, region)
    part, full, large, unpaid = charged(bridge, 1000, 2050, 123_456, 300)
    for fee, cents in ((part, 400), (full, None), (large, None)):
        pay(bridge, fee, cents)
    first = output(bridge, kind, form)
    taken, _ = bridge.sis_to_alma()
    pay(bridge, part, 100)
    output(bridge, kind, form)
    bridge.sis_to_alma()

    assert (first.suffix, taken.refused, taken.files) == (EXTENSIONS[form], 0, 1)
    assert [sum(posted(fee)) for fee in (part, full, large, unpaid)] == [500, 2050, 123_456, 0]
    assert (part.balance_cents, full.status, large.status) == (500, "CLOSED", "CLOSED")
    assert (bridge.exceptions(), bridge.books().unequal) == ({}, {})
    assert not first.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_query_without_rows_is_taken_in(form: Format, tmp_path: Path) -> None:
    bridge = make(tmp_path, "payments", form)
    output(bridge, "payments", form)

    taken, _ = bridge.sis_to_alma()

    assert (taken.files, taken.lines, bridge.exceptions()) == (1, 0, {})


@pytest.mark.parametrize("kind", ["payments", "applied"])
@pytest.mark.parametrize("form", ["xml", "xls-html", "xls-html-as-csv"])
def test_a_file_that_lacks_a_row_it_counts_stops_whole(form: Format, kind: str, tmp_path: Path) -> None:
    """A row lost on the way: nothing of the file is taken, and the whole one mends it."""
    bridge = make(tmp_path, kind, form)
    one, two = charged(bridge, 1000, 700)
    pay(bridge, one)
    pay(bridge, two)
    path = output(bridge, kind, form)
    whole = path.read_text()
    row = next(line for line in whole.splitlines(keepends=True) if two.id in line)
    write(bridge, path, whole.replace(row, ""))
    taken, _ = bridge.sis_to_alma()

    assert (taken.files, taken.files_refused, taken.new) == (0, 1, 0)
    assert "says that it has 2 rows and has 1" in taken.faults[0]
    assert (one.balance_cents, two.balance_cents) == (1000, 700)
    assert kinds(bridge) == ["list of items refused" if kind == "applied" else "payment file refused"]

    write(bridge, path, whole)
    bridge.sis_to_alma()
    assert (bridge.exceptions(), bridge.books().unequal) == ({}, {})


def test_amounts_of_another_region_are_refused_and_not_misread(tmp_path: Path) -> None:
    """The user who schedules the query changes: days and amounts are written in another way from one day to the next."""
    bridge = make(tmp_path, "payments", region=Region(US.days, "1,234.56"))
    fees = charged(bridge, 1000, 123_400, 300)
    for fee in fees:
        pay(bridge, fee)
    bridge.far.peoplesoft.region = Region(US.days, "1.234,56")
    output(bridge)
    taken, _ = bridge.sis_to_alma()

    assert (taken.lines, taken.refused, [posted(fee) for fee in fees]) == (3, 3, [[], [], []])
    assert kinds(bridge) == ["payment line refused"] * 3

    bridge.far.peoplesoft.region = Region(US.days, "1,234.56")
    output(bridge)
    bridge.sis_to_alma()
    assert bridge.books().unequal == {}


# -- stale ------------------------------------------------------------------------------------------------


def late(path: Path) -> tuple[bytes, float]:
    """A file that is still on its way, and comes later with the time it was written."""
    content, at = path.read_bytes(), path.stat().st_mtime
    path.unlink()
    return content, at


@pytest.mark.parametrize("kind", ["payments", "applied"])
def test_a_late_file_posts_nothing_that_was_taken_back_since(
    kind: str, tmp_path: Path, ledger_url: str
) -> None:
    bridge = make(tmp_path, kind, url=ledger_url)
    one, two = charged(bridge, 1000, 700)
    payment = pay(bridge, one)
    pay(bridge, two)
    path = output(bridge, kind)
    content, at = late(path)
    bridge.far.peoplesoft.bounce(payment)
    output(bridge, kind)
    bridge.sis_to_alma()
    path.write_bytes(content)
    os.utime(path, (at, at))
    taken, _ = bridge.sis_to_alma()

    assert (posted(one), posted(two), bridge.books().unequal) == ([], [700], {})
    assert (taken.files, taken.new, kinds(bridge)) == (1, 0, [exceptions.OLDER])
    assert "is older than" in taken.faults[0]
    assert not path.exists()

    output(bridge, kind)
    bridge.sis_to_alma()
    assert bridge.exceptions() == {}


def test_a_late_file_that_has_nothing_more_is_no_trouble(tmp_path: Path) -> None:
    bridge = make(tmp_path, "payments")
    (fee,) = charged(bridge, 1000)
    pay(bridge, fee)
    path = output(bridge)
    content, at = late(path)
    output(bridge)
    bridge.sis_to_alma()
    path.write_bytes(content)
    os.utime(path, (at, at))
    taken, _ = bridge.sis_to_alma()

    assert (taken.files, posted(fee), bridge.exceptions()) == (1, [1000], {})


def test_a_late_file_of_new_payments_only_is_taken(tmp_path: Path) -> None:
    """Where no file lists all, an older one is the only one that tells of its payments."""
    bridge = make(tmp_path, "payments")
    way = bridge.campus.sis_to_alma.model_copy(update={"cumulative": False})
    bridge.campus = bridge.campus.model_copy(update={"sis_to_alma": way})
    one, two = charged(bridge, 1000, 700)
    pay(bridge, one)
    path = bridge.far.path(bridge.far.write_query_output(cumulative=False))
    content, at = late(path)
    pay(bridge, two)
    bridge.far.clock.advance(hours=24)
    bridge.far.write_query_output(cumulative=False)
    bridge.sis_to_alma()
    path.write_bytes(content)
    os.utime(path, (at, at))
    bridge.sis_to_alma()

    assert (posted(one), posted(two), bridge.exceptions()) == ([1000], [700], {})


# -- shrunken ---------------------------------------------------------------------------------------------

MANY = 30


def many(folder: Path, kind: str, url: str | None = None) -> tuple[Bridge, list[Fee]]:
    """Many fees, all paid but the first, posted; and the first paid since."""
    bridge = make(folder, kind, students=MANY, url=url)
    fees = charged(bridge, *[100] * MANY)
    for fee in fees[1:]:
        pay(bridge, fee)
    output(bridge, kind)
    bridge.sis_to_alma()
    pay(bridge, fees[0])
    return bridge, fees


def keep(bridge: Bridge, path: Path, rows: int, fee: Fee) -> None:
    """Let a CSV have so few rows, one of this fee among them."""
    head, *lines = path.read_text().splitlines(keepends=True)
    lines.sort(key=lambda line: f"ALMA{fee.id}" not in line)
    write(bridge, path, "".join([head, *lines[:rows]]))


def limited(bridge: Bridge, reversals: int) -> None:
    """What is gone counts as taken back, which has a limit of its own."""
    way = bridge.campus.sis_to_alma.model_copy(update={"reversal_limit": reversals})
    bridge.campus = bridge.campus.model_copy(update={"sis_to_alma": way})


@pytest.mark.parametrize("kind", ["payments", "applied"])
def test_a_file_with_far_fewer_lines_stops_whole_until_a_person_lets_it_pass(
    kind: str, tmp_path: Path, ledger_url: str
) -> None:
    bridge, fees = many(tmp_path, kind, ledger_url)
    limited(bridge, MANY)
    path = output(bridge, kind)
    keep(bridge, path, 5, fees[0])
    for _ in range(2):
        taken, _ = bridge.sis_to_alma()
        assert (taken.files, taken.files_refused, posted(fees[0])) == (0, 1, [])
        assert kinds(bridge) == [exceptions.SHRUNKEN]
        assert f"has 5 lines, and {path.name[:15]}" in taken.faults[0]
        assert f"had {MANY - (kind == 'payments')}" in taken.faults[0]

    resolve(bridge, exceptions.SHRUNKEN)
    taken, _ = bridge.sis_to_alma()

    assert (taken.files, taken.files_refused, posted(fees[0])) == (1, 0, [100])
    # That items are gone is another thing to be said.
    assert kinds(bridge) == (["list of items not complete"] if kind == "applied" else [])
    # It is the measure of the next one.
    keep(bridge, output(bridge, kind), 5, fees[0])
    assert bridge.sis_to_alma()[0].files == 1


def test_that_a_file_is_whole_does_not_say_that_all_was_taken_back(tmp_path: Path) -> None:
    bridge, fees = many(tmp_path, "payments")
    path = output(bridge)
    keep(bridge, path, 5, fees[0])
    bridge.sis_to_alma()
    resolve(bridge, exceptions.SHRUNKEN)

    for _ in range(2):
        taken, _ = bridge.sis_to_alma()
        assert (taken.files_refused, kinds(bridge)) == (1, ["payment file refused"])
        assert "lacks 25 payments" in taken.faults[0]

    limited(bridge, MANY)
    assert bridge.sis_to_alma()[0].files == 1, "what a person has said of it still holds"
    assert kinds(bridge) == []


def test_a_list_of_items_with_far_fewer_lines_stops_too(tmp_path: Path) -> None:
    bridge = make(tmp_path, "payments", items=True, students=MANY)
    charged(bridge, *[100] * MANY)
    output(bridge, "applied")
    taken, _ = bridge.sis_to_alma()
    assert (taken.lists, taken.confirmed) == (1, MANY)
    path = output(bridge, "applied")
    write(bridge, path, "".join(path.read_text().splitlines(keepends=True)[:4]))

    taken, _ = bridge.sis_to_alma()
    assert (taken.lists, taken.files_refused, kinds(bridge)) == (0, 1, [exceptions.SHRUNKEN])

    path.unlink()
    bridge.sis_to_alma()
    assert bridge.exceptions() == {}


@pytest.mark.parametrize(("kept", "refused"), [(5, 1), (10, 0), (MANY, 0)])
def test_a_few_lines_fewer_are_no_shrunken_file(kept: int, refused: int, tmp_path: Path) -> None:
    """What single lines tell that are gone is judged by each of them."""
    bridge, _ = many(tmp_path, "applied")
    path = output(bridge, "applied")
    write(bridge, path, "".join(path.read_text().splitlines(keepends=True)[: kept + 1]))

    taken, _ = bridge.sis_to_alma()

    assert taken.files_refused == refused
