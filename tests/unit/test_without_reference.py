"""Payments that PeopleSoft tells without naming a fee, on the simulated campus; its books are the witness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from alma_hook import __main__ as command_line
from alma_hook import campus, guard, keys
from alma_hook.errors import SendingStopped, SettingsError
from alma_hook.ledger import Ledger, exceptions, payments, unassigned
from alma_hook.repair import repair
from simulator.alma_records import Fee
from tests.bridge import Bridge
from tests.unit.test_confirmations import with_items
from tests.unit.test_reversals import applied, kinds, listed, resolve

NO_FEE = "payment without a fee"


def without(text: str, way: str = "hold", more: str = "cumulative = true\n") -> str:
    """The query tells EMPLID, amount, day and payment id."""
    text = text.replace('reference = "Reference Number"\n', "")
    return text.replace("[sis_to_alma]\n", f'[sis_to_alma]\nwithout_reference = "{way}"\n{more}')


def oldest(text: str) -> str:
    return without(text, "oldest_first")


Make = Callable[[Callable[[str], str]], Bridge]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_url: str) -> Iterator[Make]:
    with ExitStack() as closing:

        def made(settings: Callable[[str], str]) -> Bridge:
            bridge = Bridge(tmp_path, students=4, fees=0, settings=settings, url=ledger_url)

            def ledger(_: object) -> Ledger:
                opened = bridge.ledger("command line")
                closing.callback(opened.close)
                return opened

            monkeypatch.setattr(command_line, "_ledger", ledger)
            monkeypatch.setattr(command_line, "_check_marks", lambda _, told: guard.check(told, bridge.marks))
            return bridge

        yield made


def charged(bridge: Bridge, *cents: int, student: int = 0) -> list[Fee]:
    """One student's fees, each charged on its own day."""
    fees = []
    for value in cents:
        fees.append(bridge.far.alma.add_fee(bridge.far.students[student], value))
        equalise(bridge)
    return fees


def equalise(bridge: Bridge) -> None:
    bridge.far.clock.advance(hours=12)
    bridge.far.refresh_analytics()
    bridge.alma_to_sis()
    assert all(result.loaded for result in bridge.far.load_inbound())


def pays(bridge: Bridge, cents: int | None, student: int = 0) -> str:
    """A student pays on the account, one payment whatever it is applied to; its id."""
    emplid = bridge.far.students[student].primary_id
    return bridge.far.peoplesoft.pay(emplid, cents, one_payment=True)[0].payment_id


def night(bridge: Bridge) -> None:
    """One line a payment, as a query without the items gives it."""
    bridge.far.clock.advance(hours=12)
    name = bridge.far.write_query_output(bounced="omit")
    path = bridge.far.path(name)
    head, *rows = path.read_text().splitlines()
    place = head.split(",").index("Payment ID")
    money = head.split(",").index("Paid Amount")
    whole: dict[str, list[str]] = {}
    for row in rows:
        cells = row.split(",")
        if cells[place] in whole:
            total = float(whole[cells[place]][money]) + float(cells[money])
            whole[cells[place]][money] = f"{total:.2f}"
        else:
            whole[cells[place]] = cells
    path.write_text("\n".join([head, *(",".join(cells) for cells in whole.values())]) + "\n")
    bridge.sis_to_alma()


def number(bridge: Bridge) -> int:
    (subject,) = [subject for subject, kind in bridge.exceptions().items() if kind == NO_FEE]
    return int(subject.removeprefix("payment "))


def say(*words: str) -> int:
    return command_line.main(list(words))


def equal(bridge: Bridge) -> None:
    equalise(bridge)
    assert bridge.books().unequal == {}
    assert bridge.exceptions() == {}
    assert bridge.balances()["unexplained"] == 0


# -- a person decides ------------------------------------------------------------------------------------


def test_a_payment_waits_until_a_person_says_what_it_is_for(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    bridge = make(without)
    first, second = charged(bridge, 1000, 500)
    pays(bridge, 1200)
    night(bridge)
    assert applied(first, second) == [[], []]
    assert kinds(bridge) == [NO_FEE]

    assert say("assign", str(number(bridge)), first.id) == 0
    assert "10.00 of payment" in capsys.readouterr().out
    night(bridge)
    assert applied(first, second) == [[1000], []]
    assert say("assign", str(number(bridge)), second.id, "--amount", "2.00") == 0
    night(bridge)
    night(bridge)

    assert applied(first, second) == [[1000], [200]]
    equal(bridge)


def test_what_is_not_owed_is_given_to_nobody(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    bridge = make(without)
    (fee,) = charged(bridge, 1000)
    (others,) = charged(bridge, 2000, student=1)
    pays(bridge, 1000)
    night(bridge)
    waiting = str(number(bridge))

    for words, said in (
        (("assign", waiting, others.id), "owes nothing on fee"),
        (("assign", waiting, fee.id, "--amount", "10.01"), "10.00 is owed"),
        (("assign", waiting, fee.id, "--amount", "0"), "can't be for fee"),
        (("assign", "99", fee.id), "does not wait"),
    ):
        assert say(*words) == 1
        assert said in capsys.readouterr().err
    assert say("assign", waiting, fee.id) == 0
    assert say("assign", waiting, fee.id) == 1
    night(bridge)

    assert applied(fee, others) == [[1000], []]


def test_what_a_person_settles_is_given_to_no_fee(make: Make) -> None:
    bridge = make(without)
    (fee,) = charged(bridge, 1000)
    pays(bridge, 1000)
    night(bridge)
    ledger = bridge.ledger("a person")
    with ledger.write() as tx:
        (item,) = exceptions.open_items(tx)
        payments.resolve(tx, item["exception_id"], "the bursar", "it was for parking")
    ledger.close()
    night(bridge)

    assert (applied(fee), kinds(bridge)) == ([[]], [])
    assert say("assign", "1", fee.id) == 1


# -- the fee charged first first -------------------------------------------------------------------------


def test_the_fee_charged_first_is_paid_first_and_none_more_than_is_owed(make: Make) -> None:
    bridge = make(oldest)
    first, second, third = charged(bridge, 1000, 500, 300)
    pays(bridge, 1200)
    night(bridge)
    assert applied(first, second, third) == [[1000], [200], []]
    night(bridge)
    assert applied(first, second, third) == [[1000], [200], []]
    pays(bridge, 400)
    night(bridge)

    assert applied(first, second, third) == [[1000], [200, 300], [100]]
    equal(bridge)


def test_what_is_left_waits_for_the_next_charge(make: Make) -> None:
    bridge = make(oldest)
    (first,) = charged(bridge, 1000)
    bridge.far.peoplesoft.pay(bridge.far.students[0].primary_id, 1500, one_payment=True)
    night(bridge)
    assert (applied(first), kinds(bridge)) == ([[1000]], [NO_FEE])

    (second,) = charged(bridge, 800)
    night(bridge)
    night(bridge)

    assert applied(first, second) == [[1000], [500]]
    assert kinds(bridge) == []


def test_what_one_file_alone_shows_as_taken_back_is_given_to_no_fee(make: Make) -> None:
    bridge = make(oldest)
    (first,) = charged(bridge, 1000)
    (paid,) = bridge.far.peoplesoft.pay(bridge.far.students[0].primary_id, 1500, one_payment=True)
    night(bridge)
    assert applied(first) == [[1000]]
    (second,) = charged(bridge, 300)
    bridge.far.peoplesoft.bounce(paid.payment_id)
    night(bridge)
    assert applied(first, second) == [[1000], []]


def test_a_fee_that_was_raised_takes_a_second_part_of_one_payment(make: Make) -> None:
    bridge = make(oldest)
    (fee,) = charged(bridge, 1000)
    bridge.far.alma.dispute(fee.id)
    bridge.far.peoplesoft.pay(bridge.far.students[0].primary_id, 1500, one_payment=True)
    night(bridge)
    assert sorted(kinds(bridge)) == ["fee is INDISPUTE in Alma", NO_FEE]
    bridge.far.alma.restore(fee.id)
    bridge.far.alma.raise_fee(fee.id, 500)
    equalise(bridge)
    night(bridge)
    night(bridge)

    assert sorted(applied(fee)[0]) == [500, 1000]
    bridge.far.peoplesoft.reapply(bridge.far.students[0].primary_id)
    equal(bridge)


def test_what_is_taken_back_is_taken_off_the_last_parts_and_listed(make: Make) -> None:
    bridge = make(oldest)
    first, second = charged(bridge, 1000, 500)
    paid = pays(bridge, 1500)
    night(bridge)
    assert applied(first, second) == [[1000], [500]]
    bridge.far.peoplesoft.bounce(paid, 300)
    night(bridge)
    assert kinds(bridge) == []
    night(bridge)

    assert kinds(bridge) == ["payment taken back in PeopleSoft"]
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        (item,) = exceptions.open_items(tx)
    ledger.close()
    assert (item["amount"], item["fee_id"]) == (300, second.id)


def test_a_part_that_is_taken_back_as_a_whole_is_noticed_in_files_of_some_days_too(make: Make) -> None:
    bridge = make(lambda text: without(text, "oldest_first", more=""))
    _, second = charged(bridge, 1000, 500)
    paid = pays(bridge, 1500)
    night(bridge)
    bridge.far.peoplesoft.bounce(paid, 500)
    for _ in range(2):
        night(bridge)

    assert "payment taken back in PeopleSoft" in kinds(bridge)
    ledger = bridge.ledger("look")
    with ledger.read() as tx:
        taken = [
            item for item in exceptions.open_items(tx) if item["kind"] == "payment taken back in PeopleSoft"
        ]
    ledger.close()
    assert [(item["amount"], item["fee_id"]) for item in taken] == [(500, second.id)]


def test_a_line_that_can_not_be_read_hides_the_parts_of_its_payment(make: Make) -> None:
    bridge = make(oldest)
    first, second = charged(bridge, 1000, 500)
    pays(bridge, 1500)
    night(bridge)
    for day in range(2):
        bridge.far.clock.advance(hours=12)
        path = bridge.far.path(bridge.far.write_query_output())
        head, *rows = path.read_text().splitlines()
        money = head.split(",").index("Paid Amount")
        cells = rows[0].split(",")
        cells[money] = "much"
        path.write_text(f"{head}\n{','.join(cells)}\n")
        bridge.sis_to_alma()
        assert kinds(bridge) == ["payment line refused"], day

    assert applied(first, second) == [[1000], [500]]


def lose_and_repair(bridge: Bridge) -> None:
    for file in bridge.folder.root.parent.glob("ledger.db*"):
        file.unlink()
    bridge.prepare_ledger()
    ledger = bridge.ledger("repair")
    with ledger.lease("out", "repair") as out, ledger.lease("back", "repair") as back:
        repair(ledger, out, back, bridge.campus, bridge.folder, bridge.folder, bridge.api)
    ledger.close()


@pytest.mark.parametrize("way", [without, oldest])
def test_after_a_repair_each_part_is_known_by_alma_s_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[str], str]
) -> None:
    """Were they given to fees anew, what was posted on one fee would be posted on another."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=oldest)
    monkeypatch.setattr(command_line, "_ledger", lambda _: bridge.ledger("command line"))
    monkeypatch.setattr(command_line, "_check_marks", lambda _, told: guard.check(told, bridge.marks))
    first, second = charged(bridge, 1000, 500)
    pays(bridge, 1200)
    night(bridge)
    bridge.file.write_text(
        bridge.file.read_text().replace('"oldest_first"', f'"{"hold" if way is without else "oldest_first"}"')
    )
    bridge.campus = campus.load(bridge.file)
    lose_and_repair(bridge)
    night(bridge)
    night(bridge)

    assert applied(first, second) == [[1000], [200]]
    assert bridge.exceptions() == {}
    pays(bridge, 300)
    night(bridge)
    if way is without:
        say("assign", str(number(bridge)), second.id)
        night(bridge)
    assert applied(first, second) == [[1000], [200, 300]]
    equal(bridge)


@pytest.mark.parametrize(("back", "of_each"), [(500, [0, 500]), (700, [200, 500]), (200, [0, 200])])
def test_parts_taken_back_while_the_ledger_was_lost_are_listed_after_the_repair(
    tmp_path: Path, back: int, of_each: list[int]
) -> None:
    """The files that told of all of it are gone from the archive, too: only Alma knows of the parts."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=oldest)
    parted = charged(bridge, 1000, 500)
    paid = pays(bridge, 1500)
    night(bridge)
    assert applied(*parted) == [[1000], [500]]
    for file in bridge.far.path("/sfs/outbound/archive").iterdir():
        file.unlink()
    bridge.far.peoplesoft.bounce(paid, back)
    lose_and_repair(bridge)
    for _ in range(3):
        night(bridge)

    taken = {fee_id: cents for _, cents, fee_id in listed(bridge)}
    assert [taken.get(fee.id, 0) for fee in parted] == of_each
    equalise(bridge)
    assert applied(*parted) == [[1000], [500]]
    assert (bridge.balances()["explained"], bridge.balances()["unexplained"]) == (-back, 0)
    assert bridge.balances()["peoplesoft"] == bridge.books().peoplesoft_cents == back


def test_a_part_that_a_person_settled_and_peoplesoft_took_back_is_of_no_concern_after_a_repair(
    tmp_path: Path,
) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=oldest)
    first, second = charged(bridge, 1000, 500)
    bridge.far.alma.dispute(second.id)
    paid = pays(bridge, 1500)
    night(bridge)
    ((exception_id, cents, _),) = listed(bridge, "fee is INDISPUTE in Alma")
    assert cents == 500
    resolve(bridge, exception_id)
    bridge.far.peoplesoft.bounce(paid, 500)
    # What the person said is noted; what the file told is gone.
    equalise(bridge)
    for file in bridge.far.path("/sfs/outbound/archive").iterdir():
        file.unlink()
    lose_and_repair(bridge)
    bridge.far.alma.restore(second.id)
    for _ in range(3):
        night(bridge)

    assert applied(first, second) == [[1000], []]
    equalise(bridge)
    assert (bridge.exceptions(), bridge.balances()["unexplained"]) == ({}, 0)
    # PeopleSoft took it off another of the student's items.
    assert bridge.books().alma_cents == bridge.books().peoplesoft_cents == 500


def test_both_parts_of_a_payment_that_was_lower_before_it_was_given_are_taken_back(make: Make) -> None:
    bridge = make(without)
    first, second = charged(bridge, 1000, 500)
    paid = pays(bridge, 1500)
    night(bridge)
    bridge.far.peoplesoft.bounce(paid, 200)
    night(bridge)
    for fee in (first, second):
        assert say("assign", str(number(bridge)), fee.id) == 0
        bridge.sis_to_alma()
    # What one file has shown lower waits for the second.
    assert applied(first, second) == [[1000], []]
    night(bridge)
    bridge.far.peoplesoft.bounce(paid, 700)
    for _ in range(3):
        night(bridge)

    assert applied(first, second) == [[1000], [300]]
    assert sorted((fee_id, cents) for _, cents, fee_id in listed(bridge)) == sorted(
        [(first.id, 400), (second.id, 300)]
    )


def test_a_fee_made_anew_for_a_part_that_was_given_later_is_not_charged_after_a_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file had shown less of it before it was given to any fee."""
    bridge = Bridge(tmp_path, students=4, fees=0, settings=without)
    monkeypatch.setattr(command_line, "_ledger", lambda _: bridge.ledger("command line"))
    monkeypatch.setattr(command_line, "_check_marks", lambda _, told: guard.check(told, bridge.marks))
    first, second = charged(bridge, 1000, 500)
    paid = pays(bridge, 1500)
    night(bridge)
    bridge.far.peoplesoft.bounce(paid, 200)
    night(bridge)
    for fee in (first, second):
        assert say("assign", str(number(bridge)), fee.id) == 0
        bridge.sis_to_alma()
    night(bridge)
    assert applied(first, second) == [[1000], [300]]
    bridge.far.alma.pay_at_desk(second.id, 200)
    equalise(bridge)
    bridge.far.peoplesoft.bounce(paid, 300)
    for _ in range(2):
        night(bridge)
    ((exception_id, cents, fee_id),) = listed(bridge)
    assert (cents, fee_id) == (300, second.id)
    new = bridge.far.alma.add_fee(bridge.far.students[0], 300)
    equalise(bridge)
    resolve(bridge, exception_id, new)
    equalise(bridge)
    night(bridge)
    assert bridge.books().fees[new.id].charged_cents == 0
    lose_and_repair(bridge)
    for _ in range(3):
        night(bridge)
        equalise(bridge)

    assert bridge.books().fees[new.id].charged_cents == 0
    assert bridge.exceptions() == {}
    assert bridge.balances()["unexplained"] == 0


def test_after_a_repair_a_second_part_is_known_though_the_first_was_never_posted(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, students=4, fees=0, settings=oldest)
    (fee,) = charged(bridge, 1000)
    second = keys.external_id(bridge.campus.institution, f"id:17:{fee.id}/2")
    told = payments.Payment(
        "id:17:", "", None, bridge.far.students[0].primary_id, 1300, "2026-11-23", 2, "id:17:"
    )
    ledger = bridge.ledger("repair")
    with ledger.write() as tx:
        payments.restore(tx, fee.id, fee.id, second, 300, None)
        parts, _ = unassigned.as_known(tx, [told], frozenset())
    ledger.close()

    assert [(part.external_id, part.fee_id, part.amount) for part in parts] == [
        (second, fee.id, 300),
        ("", None, 1000),
    ]


# -- settings --------------------------------------------------------------------------------------------


def test_a_campus_can_not_change_whether_lines_name_their_fee(make: Make) -> None:
    bridge = make(without)
    charged(bridge, 1000)
    pays(bridge, 1000)
    night(bridge)
    other = bridge.campus.sis_to_alma.model_copy(
        update={"columns": {**bridge.campus.sis_to_alma.columns, "reference": "Reference Number"}}
    )
    bridge.campus = bridge.campus.model_copy(update={"sis_to_alma": other})

    with pytest.raises(SendingStopped, match="another way"):
        night(bridge)


def cornell(text: str) -> str:
    """A layout that neither marks credits nor has a place for the reference."""
    text = text.replace('layout = "default"', 'layout = "cornell_lib02"\ncredits_by = "item_type"')
    types = "\n".join(f'30000000000{n} = "400000000001"' for n in (1, 2, 3))
    return f"{text}\n[credit_item_types]\n{types}\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda text: text.replace(
                "[sis_to_alma]\n", '[sis_to_alma]\nwithout_reference = "oldest_first"\n'
            ),
            "of no use",
        ),
        (
            lambda text: text.replace('reference = "Reference Number"\n', ""),
            "is needed, as columns has no reference",
        ),
        (cornell, "has no place: leave them out"),
        (lambda text: cornell(with_items(without(text))), "sis_to_alma.items ask for the reference"),
        (
            lambda text: without(text, more="").replace('payment_id = "Payment ID"\n', ""),
            "lacks payment_id",
        ),
    ],
)
def test_settings_that_leave_a_payment_without_a_way(
    tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        Bridge(tmp_path, students=1, fees=0, settings=change)


def test_without_ids_whole_days_tell_equal_payments_apart(tmp_path: Path) -> None:
    def settings(text: str) -> str:
        text = oldest(text).replace('payment_id = "Payment ID"\n', "")
        return text.replace("[sis_to_alma]\n", "[sis_to_alma]\ncomplete_days = true\n")

    bridge = Bridge(tmp_path, students=4, fees=0, settings=settings)
    first, second = charged(bridge, 1000, 500)
    pays(bridge, 300)
    pays(bridge, 300)
    night(bridge)
    night(bridge)

    assert applied(first, second) == [[300, 300], []]
    equal(bridge)
