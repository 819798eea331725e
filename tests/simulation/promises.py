"""What must hold when a life has calmed down, by the books of the simulated Alma and PeopleSoft.

Each check returns the promises that were broken, as sentences. The ledger is the defendant here:
what it says is compared with the witnesses, never the other way.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from alma_hook.ledger import Row
from alma_hook.ledger.exceptions import LEFT_OUT
from alma_hook.ledger.items import DIFFERS
from alma_hook.ledger.reversals import BACK, TAKEN_BACK
from simulator.alma_records import Fee
from simulator.money import cents_of
from simulator.query_output import REVERSAL_ITEM_TYPE
from tests.simulation.world import World, by_api, own_paid, own_payments

_DOUBLE = "payments in Alma differ from those posted"
_GONE = "user not found in Alma"
#: Seconds. A file that shows the same day after day under one name is a witness each day, one sent twice is not.
_HALF_A_DAY = 12 * 3600


@dataclass(frozen=True)
class Said:
    """What the ledger says in the end."""

    payments: list[Row]
    listed: list[Row]
    positions: dict[str, Row]
    balances: Row | None
    unfinished: list[Row]
    reversals: list[Row]
    waivers: frozenset[str]

    @classmethod
    def of(cls, world: World) -> Said:
        """Read it."""
        ledger = world.bridge.ledger("look")
        with ledger.read() as tx:
            return cls(
                tx.rows("SELECT * FROM payment_now WHERE institution = :i ORDER BY payment_no"),
                tx.rows(
                    "SELECT * FROM exception_item WHERE institution = :i ORDER BY opened_at, exception_id"
                ),
                {
                    row["fee_id"]: row
                    for row in tx.rows(
                        "SELECT p.*, r.problem, r.type FROM fee_position p LEFT JOIN reading r "
                        "ON r.institution = p.institution AND r.fee_id = p.fee_id WHERE p.institution = :i"
                    )
                },
                tx.row("SELECT * FROM balances WHERE institution = :i"),
                tx.rows(
                    "SELECT 'batch' AS what, batch_id AS name, state FROM batch WHERE institution = :i "
                    "AND state NOT IN ('delivered', 'cancelled', 'preview') "
                    "UNION ALL SELECT 'file', name, state FROM payment_file WHERE institution = :i "
                    "AND state NOT IN ('archived', 'withdrawn') "
                    "UNION ALL SELECT 'account', user_id, 'to read' FROM account_to_read "
                    "WHERE institution = :i AND live = 1 "
                    "UNION ALL SELECT 'lease', direction, owner FROM lease "
                    "WHERE institution = :i AND owner IS NOT NULL"
                ),
                tx.rows("SELECT * FROM reversal WHERE institution = :i ORDER BY reversal_id"),
                frozenset(
                    row["payment_key"]
                    for row in tx.rows(
                        "SELECT payment_key FROM payment WHERE institution = :i AND waive IS NOT NULL"
                    )
                ),
            )

    @cached_property
    def open(self) -> list[Row]:
        """What is listed now."""
        return [row for row in self.listed if row["closed_at"] is None]

    def on_fee(self, fee_id: str) -> list[Row]:
        """The open entries on a fee itself."""
        return [row for row in self.open if row["subject"] == f"fee {fee_id}"]

    def on_payment(self, payment: Row) -> list[Row]:
        """The entries on a payment, open and closed."""
        return [row for row in self.listed if row["subject"] == f"payment {payment['payment_no']}"]

    def out_of_sight(self, fee: Fee) -> bool:
        """Whether no call finds a fee, or none is made: by how much it differs then, nobody can know.

        A fee that was never seen active is not looked for among the others, nor one whose account got
        another primary id meanwhile, until it is active again.
        """
        known = self.positions.get(fee.id)
        lost = (
            known is None or known["problem"] == _GONE or (known["problem"] is not None and not known["type"])
        )
        return fee.user.purged or (lost and fee.status != "ACTIVE")


def broken(world: World) -> list[str]:
    """Every promise that this life broke."""
    said = Said.of(world)
    checks = (calm, files, lines, asked, payments, taken_back, fees, finished)
    return [f"{check.__name__}: {text}" for check in checks for text in check(world, said)]


def calm(world: World, _said: Said) -> list[str]:
    """Nothing changes any more when nothing happens outside."""
    return [] if world.quiet_after is not None else ["the runs never come to rest"]


def files(world: World, _said: Said) -> list[str]:
    """PeopleSoft loads each file once, whole. Of its lines it refuses only what nobody here could know.

    That it knows a student no more; and a credit whose charge it refused or lost, where the campus did not
    choose that credits wait until their charge is seen.
    """
    loads = world.far.peoplesoft.loads
    times = Counter(load.file_name for load in loads if not load.error)
    found = [f"{name} was loaded {n} times" for name, n in times.items() if n > 1]
    forgiven = {"EMPLID unknown"}
    if not world.nature.waits_for_its_charge:
        forgiven.add("no charge to reverse")
    for load in loads:
        # Under its own name a file may be met half written; then nothing of it is posted.
        torn = world.nature.mode == "direct" and load.file_name in world.torn
        reasons = [reject.reason for reject in load.rejects if reject.reason not in forgiven]
        if reasons or (load.error and not torn):
            found.append(f"{load.file_name} was refused: {load.error or reasons[0]}")
    return found


def contents(world: World) -> dict[str, list[tuple[str, int]]]:
    """The lines of every file that PeopleSoft had whole, loaded or lost: reference and cents, a credit's below nought."""
    loaded = {load.file_name for load in world.far.peoplesoft.loads if load.error is None}
    return {
        name: [
            (detail.reference, -detail.amount_cents if detail.reversal else detail.amount_cents)
            for detail in world.lines_of(name)
        ]
        for name in sorted(loaded | world.lost_files.keys())
    }


def lines(world: World, _said: Said) -> list[str]:
    """What PeopleSoft was told of a fee was so at some time, and in that order.

    After each line, charges less credits are what one answer of Alma showed as balance and own payments; a
    line that was never loaded, as a person has said, counts no more. So they never exceed the largest such
    answer, and no line comes without a change outside. Where an item stands for several fees, the sum of
    their largest answers is not exceeded.
    """
    prefix = world.far.reference_prefix
    whole = contents(world)
    told: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for what, name, number in world.steps:
        if name in whole and name not in world.people.given_up:
            of = whole[name] if what == "file" else [whole[name][number - 1]]
            for reference, cents in of:
                told[reference].append((what, cents if what == "file" else -cents))
    groups = fees_of_items(world)
    found = []
    for reference, steps in told.items():
        fee_id = reference.removeprefix(prefix)
        members = groups.get(fee_id, [fee_id])
        shown = world.shown.get(fee_id, [])
        most = sum(max(world.shown.get(member, []), default=0) for member in members)
        place, total = 0, world.held_before.get(fee_id, 0)
        for what, cents in steps:
            total += cents
            if what == "void":
                continue
            if len(members) > 1:
                right = total <= most
            else:
                place = next((n for n in range(place, len(shown)) if shown[n] == total), len(shown))
                right = place < len(shown)
            if not right:
                found.append(f"fee {fee_id}: told {steps}, shown {shown}, by {members}")
                break
    return found


def fees_of_items(world: World) -> dict[str, list[str]]:
    """The fees that an item in PeopleSoft stands for, by the fee it was made for, where there are several."""
    groups: dict[str, list[str]] = {}
    for settled in world.people.settled:
        if settled.anew is not None:
            groups.setdefault(settled.item_fee, [settled.item_fee]).append(settled.anew)
    return groups


def asked(world: World, _said: Said) -> list[str]:
    """What is beyond a limit of the brake leaves only as a person has released it."""
    if world.nature.brake is None:
        return []
    most_lines, most, largest = world.nature.brake
    found = []
    for name, of in contents(world).items():
        cents = [abs(value) for _, value in of]
        beyond = len(of) > most_lines or sum(cents) > most or max(cents) > largest
        if beyond and not world.people.approved.issuperset(of):
            found.append(f"{name} with {cents} left unasked")
    return found


def payments(world: World, said: Said) -> list[str]:
    """Each payment is in Alma once, on its fee, with its amount; what is not is listed or was settled."""
    expected, taken = _paid_there(world), _taken_in(world, said)
    found = []
    if taken != expected:
        found.append(f"taken in: {taken - expected} that PeopleSoft never had, {expected - taken} not at all")
    if world.nature.short_ids:
        return found + _short_ids(world, said)
    in_alma: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for fee in world.far.alma.fees.values():
        for key, cents in own_payments(fee):
            in_alma[key].append((fee.id, cents))
    for row in said.payments:
        there = in_alma.pop(row["external_id"], [])
        wrong = _wrong_with(world, said, row, there)
        if wrong is not None:
            found.append(
                f"payment {row['payment_no']} of {row['amount']} on fee {row['fee_id']} is {row['state']} with "
                f"{row['posted']}, Alma has {there}: {wrong}"
            )
    return found + [
        f"Alma has {there} as {key}, which the ledger lacks"
        for key, there in in_alma.items()
        if not all(_lost_with_its_account(world, said, world.far.alma.fees[fee_id]) for fee_id, _ in there)
    ]


def _lost_with_its_account(world: World, said: Said, fee: Fee) -> bool:
    """Whether a rebuilt ledger can't know what was paid on a fee: its account is gone, and the fee is listed."""
    listed = any(entry["fee_id"] == fee.id for entry in said.open)
    return bool(world.people.repairs) and said.out_of_sight(fee) and listed


def _paid_there(world: World) -> Counter[tuple[str, ...] | str]:
    """PeopleSoft's payments; where it tells what is applied to each item, the cents of each fee."""
    sfs, prefix = world.far.peoplesoft, world.far.reference_prefix
    if world.nature.applied:
        return +Counter({reference.removeprefix(prefix): n for reference, n in _paid_on_items(world).items()})
    return Counter(
        (p.reference.removeprefix(prefix), p.emplid, f"{p.amount_cents}", f"{p.at:%Y-%m-%d}")
        for p in sfs.payments.values()
        if p.amount_cents
    )


def _paid_on_items(world: World) -> Counter[str]:
    """The cents that PeopleSoft tells as paid on the items of each reference."""
    sfs, found = world.far.peoplesoft, Counter[str]()
    told = (
        [(item.reference, item.applied_cents) for item in sfs.items.values()]
        if world.nature.applied
        else [(payment.reference, payment.amount_cents) for payment in sfs.payments.values()]
    )
    for reference, cents in told:
        found[reference] += cents
    return found


def _taken_in(world: World, said: Said) -> Counter[tuple[str, ...] | str]:
    """The same, by the ledger."""
    back = _back_after_settling(said)
    found: Counter[tuple[str, ...] | str] = Counter()
    for row in said.payments:
        cents = row["stands"] + back[row["payment_no"]]
        if world.nature.applied:
            found[row["reported_fee_id"]] += cents
        elif cents:
            found[row["reported_fee_id"], row["emplid"], f"{cents}", row["paid_on"]] += 1
    return +found


def _back_after_settling(said: Said) -> Counter[int]:
    """What PeopleSoft has again of payments, by number, after a person had settled that it was taken back."""
    back: Counter[int] = Counter()
    for row in said.open:
        if row["kind"] == BACK:
            back[int(row["subject"].removeprefix("payment back ").partition("-")[0])] += row["amount"]
    return back


def _wrong_with(world: World, said: Said, row: Row, there: list[tuple[str, int]]) -> str | None:
    entries = said.on_payment(row)
    open_cents = [entry["amount"] for entry in entries if entry["closed_at"] is None]
    fee = world.far.alma.fees[row["fee_id"]]
    gone = said.out_of_sight(fee)
    if row["state"] in ("posting", "unknown"):
        # It stays so only where Alma can't be asked any more, or can't tell.
        listed = open_cents == [max(row["stands"], 0) or row["amount"]]
        return None if listed and (gone or _can_not_tell(said, fee)) else "nobody finds out"
    posted = row["posted"] if row["state"] == "posted" else 0
    if there != [(row["fee_id"], posted)] * bool(posted):
        too_late = row["external_id"] in world.applied_too_late
        kinds = [entry["kind"] for entry in said.on_fee(row["fee_id"])]
        # Of an account that is gone since, only that is listed.
        late = too_late and (_DOUBLE in kinds or (gone and kinds != []))
        if not late and not _lost_with_its_account(world, said, fee):
            return "not what was posted, and not listed"
    rest = row["stands"] + _back_after_settling(said)[row["payment_no"]] - posted
    if row["state"] == "credited" and _asks_for_money(said, row["fee_id"]):
        return "made up for by a credit, though the fee asks for more"
    if rest > 0 and row["state"] not in ("settled", "credited"):
        last = entries[-1] if entries else None
        if last is None or last["resolution"] == "PeopleSoft took it back":
            return f"{rest} never listed"
        if any(cents != rest for cents in open_cents):
            return f"listed with {open_cents}, and {rest} are not in Alma"
        if row["state"] == "new" and not open_cents:
            return "no longer listed"
    return _wrong_with_what_was_taken_back(world, said, row, max(0, posted - row["stands"]))


def _asks_for_money(said: Said, fee_id: str) -> bool:
    books = said.positions[fee_id]
    return bool(books["charged"] + books["carried"] - books["credited"] - books["posted"] > 0)


def _can_not_tell(said: Said, fee: Fee) -> bool:
    """Whether a fee bears a payment that may be ours without its key: none was ever read back with it."""
    of_fee = [
        row for row in said.payments if row["fee_id"] == fee.id and row["state"] in ("posting", "unknown")
    ]
    kinds = {
        row["payment_key"]: "WAIVE" if row["payment_key"] in said.waivers else "PAYMENT"
        for row in said.payments
    }
    proved = {kinds[row["payment_key"]] for row in said.payments if row["state"] == "posted"}
    there = {(t.kind, t.amount_cents) for t in fee.transactions if t.kind not in proved}
    return any((kinds[row["payment_key"]], row["trying"]) in there for row in of_fee)


def _wrong_with_what_was_taken_back(world: World, said: Said, row: Row, excess: int) -> str | None:
    """What lies in Alma and no more in PeopleSoft is listed, was settled, or another payment stands in for it."""
    key = row["payment_key"]
    listed = sum(e["amount"] for e in said.open if e["kind"] == TAKEN_BACK and e["payment_key"] == key)
    settled = sum(each.cents for each in world.people.settled if each.external_id == row["external_id"])
    covered = 0
    for reversal in said.reversals:
        if reversal["payment_key"] == key and reversal["covered_by"] is not None:
            other = next(p for p in said.payments if p["payment_key"] == reversal["covered_by"])
            if other["state"] != "settled" or reversal["covered"] > other["stands"]:
                return f"payment {other['payment_no']} stands in for it and does not"
            covered += reversal["covered"]
    # What was settled and is back since is listed as that.
    back = _back_after_settling(said)[row["payment_no"]]
    if max(0, excess - back) != listed + settled - back + covered:
        return f"{excess} were taken back: {listed} listed, {settled} settled, {covered} covered"
    return None


def _short_ids(world: World, said: Said) -> list[str]:
    """Where Alma cuts our keys, posting stops at the first that does not come back.

    When its account has gone, the next payment is the first.
    """
    tried = Counter(row["fee_id"] for row in said.payments if row["attempts"])
    gone = sum(world.tally.operations[kind] for kind in ("user purged", "user re-keyed", "EMPLID corrected"))
    # Of a waiver the key stands in the comment, which is not cut.
    posted = sum(row["state"] == "posted" and row["payment_key"] not in said.waivers for row in said.payments)
    found = ["payments were posted after one that did not come back"] if posted > 1 + gone else []
    for fee in world.far.alma.fees.values():
        late = any(
            row["fee_id"] == fee.id and row["external_id"] in world.applied_too_late for row in said.payments
        )
        if late and _DOUBLE in [entry["kind"] for entry in said.on_fee(fee.id)]:
            continue  # what Alma applied after the quiet period is listed
        if by_api(fee) > tried[fee.id]:
            found.append(f"fee {fee.id}: {by_api(fee)} payments by us, {tried[fee.id]} were tried")
    return found


def _witnesses(files: Iterable[tuple[int, tuple[str, bytes]]]) -> int:
    """How many of these files count: one that is the same in name and bytes is another one after half a day only."""
    counted: list[tuple[int, tuple[str, bytes]]] = []
    for at, file in files:
        if all(file != earlier or at - since >= _HALF_A_DAY for since, earlier in counted):
            counted.append((at, file))
    return len(counted)


def taken_back(world: World, said: Said) -> list[str]:
    """Nothing counts as taken back but what two different files, one after the other, have shown so."""
    found = []
    for reversal in said.reversals:
        if reversal["second_file"] is None:
            continue
        row = next(p for p in said.payments if p["payment_key"] == reversal["payment_key"])
        if world.nature.applied:
            # What was never in Alma is nobody's debt; a ledger that was lost takes it in anew, and too high.
            in_alma = row["state"] == "posted" and row["posted"] > row["stands"]
            if (in_alma or reversal["settled"]) and not _fell_in_two(world, row["reported_fee_id"]):
                found.append(f"payment {row['payment_no']}: no two files are lower, and it is taken back")
            continue
        # In the order of the times they bore.
        shown = [
            (_shows(world, content, row), at, (name, content)) for at, name, content in sorted(world.left)
        ]
        # Before it was paid no file could show it; an old one that is sent again later does not.
        first = next((place for place, (cents, *_) in enumerate(shown) if cents >= row["amount"]), 0)
        if _witnesses((at, file) for cents, at, file in shown[first:] if cents < row["amount"]) < 2:
            told = [cents for cents, *_ in shown[first:]]
            found.append(f"payment {row['payment_no']} of {row['amount']}: shown {told}, taken back")
    return found


def _fell_in_two(world: World, fee_id: str) -> bool:
    """Whether two different lists show less applied to a fee's items than another one before them."""
    reference = world.far.reference_prefix + fee_id
    most, fallen = 0, set()
    for _, name, content in sorted(world.left):
        cents = 0
        for line in csv.DictReader(io.StringIO(content.decode())):
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                cents += cents_of(line["Applied Amt"]) if line["Reference Nbr"] == reference else 0
        if cents < most:
            fallen.add((name, content))
        most = max(most, cents)
    return len(fallen) > 1


def _shows(world: World, content: bytes, row: Row) -> int:
    """What a file shows of a payment, in cents."""
    reference = world.far.reference_prefix + row["reported_fee_id"]
    cents = place = back = 0
    for line in csv.DictReader(io.StringIO(content.decode())):
        try:
            value = cents_of(line["Paid Amount"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        same = line["Reference Number"] == reference and line["Emplid"] == row["emplid"]
        if world.nature.payment_ids:
            same = same and line["Payment ID"].lstrip("0") == row["payment_key"].split(":")[1]
            if same and line["Item Type"] == REVERSAL_ITEM_TYPE:
                back, same = back + value, False
        else:
            month, day, year = line["Date Paid"].split("/")
            same = same and value == row["amount"] and f"{year}-{month}-{day}" == row["paid_on"]
            place += same
            # Of equal ones this is the one with that number.
            same = same and place == int(row["payment_key"].split(":")[2])
        cents = max(cents, value if same else 0)
    return max(0, cents - back)


def fees(world: World, said: Said) -> list[str]:
    """PeopleSoft's balance of a fee is Alma's, or the list says by how much it is not.

    The ledger's sums are those of both books. An item that stands for fees made anew is compared with all of
    them together.
    """
    groups = fees_of_items(world)
    anew = {fee_id for members in groups.values() for fee_id in members[1:]}
    # Of a fee that payments are waiting for, where posting was stopped, only the ledger's sums can be told.
    stopped = {row["fee_id"] for row in said.payments} if world.nature.short_ids else set()
    found = []
    for fee in world.far.alma.fees.values():
        if fee.id not in anew:
            members = [world.far.alma.fees[fee_id] for fee_id in groups.get(fee.id, [fee.id])]
            found += _wrong_with_item(world, said, members, fee.id in stopped)
    found += [f"PeopleSoft has {reference}, which is no fee" for reference in world.far.books().foreign]
    line = said.balances
    if line is not None and not stopped and (line["unexplained"] or line["on_its_way"]):
        found.append(f"balances: unexplained {line['unexplained']}, on its way {line['on_its_way']}")
    return found


def _wrong_with_item(world: World, said: Said, members: Sequence[Fee], stopped: bool) -> list[str]:
    """What is wrong with an item in PeopleSoft and the fees that it stands for, the first of which it was made for."""
    sfs, root, ids = world.far.peoplesoft, members[0], {fee.id for fee in members}
    reference = world.far.reference_prefix + root.id
    told = sum(item.amount_cents for item in sfs.items.values() if item.reference == reference)
    paid = _paid_on_items(world)[reference]
    settled = [each for each in world.people.settled if each.item_fee == root.id]
    carried = sum(each.cents for each in settled if each.anew is not None)
    written_off = sum(each.cents for each in settled) - carried
    # What PeopleSoft has, less what it was told, as its list of items shows: a line more, or one not seen.
    of_item = [row for row in said.open if row["fee_id"] == root.id]
    gap = sum(row["amount"] for row in of_item if row["kind"] == DIFFERS)
    gap -= sum(row["amount"] for row in of_item if row["kind"].endswith(" not seen in PeopleSoft"))
    known = [said.positions[fee_id] for fee_id in ids if fee_id in said.positions]
    sums = {name: sum(row[name] for row in known) for name in ("charged", "credited", "received")}
    wrong = []
    if sums["charged"] - sums["credited"] + gap != told:
        wrong.append(f"the ledger has {sums}, and {gap} listed as more or less in PeopleSoft")
    back = _back_after_settling(said)
    returned = sum(back[row["payment_no"]] for row in said.payments if row["reported_fee_id"] == root.id)
    if sums["received"] != paid - returned + carried + written_off:
        wrong.append(f"the ledger has {sums}, {returned} of it back again")
    own, balance = sum(own_paid(fee) for fee in members), sum(fee.balance_cents for fee in members)
    expected = told - gap + carried - own
    on_list = any(row["fee_id"] in ids for row in said.open)
    if root.type == "CREDIT" and world.nature.credits == "ignore":
        if told:
            wrong.append("a line for a CREDIT fee")
    elif stopped or any(_can_not_tell(said, fee) for fee in members):
        pass
    elif any(said.out_of_sight(fee) for fee in members):
        if expected and not on_list:
            wrong.append("it can't be seen in Alma, and nothing is listed")
    else:
        entries = [entry for fee in members for entry in said.on_fee(fee.id)]
        # Of what is left out and never charged the list tells the last look, which may be a week ago.
        of_last_look = not told and any(entry["kind"].startswith(LEFT_OUT) for entry in entries)
        if balance - expected != sum(entry["amount"] for entry in entries) and not of_last_look:
            listed = [(entry["kind"], entry["amount"]) for entry in entries]
            wrong.append(f"due {balance - expected}, listed {listed}")
        # What was paid too much, and is given back, pays nothing of a fee made anew.
        owed = max(0, told - (_paid_for_good(said, root.id) if carried else paid) - written_off)
        if balance != owed and not on_list:
            wrong.append(f"PeopleSoft asks for {owed}, and nothing is listed")
    if not wrong:
        return []
    return [
        f"fee {' and '.join(fee.id for fee in members)} ({members[-1].status}): Alma {balance}, told {told}, paid {paid}, "
        f"of which in Alma {own}, carried {carried}, written off {written_off}: {'; '.join(wrong)}"
    ]


def _paid_for_good(said: Said, item_fee: str) -> int:
    """What PeopleSoft has of the payments on an item that are in Alma, or that stand in for one there."""
    of_item = {row["payment_key"]: row for row in said.payments if row["reported_fee_id"] == item_fee}
    posted = sum(max(0, min(row["stands"], row["posted"])) for row in of_item.values())
    return posted + sum(row["covered"] for row in said.reversals if row["payment_key"] in of_item)


def finished(world: World, said: Said) -> list[str]:
    """Nothing stays between two states."""
    waiting = {
        row["user_id"]
        for row in said.positions.values()
        if row["in_flight"]
        and (
            world.nature.short_ids
            or row["problem"] == _GONE
            or _can_not_tell(said, world.far.alma.fees[row["fee_id"]])
        )
    }
    found = []
    for row in said.unfinished:
        by_rights = (row["what"] == "account" and row["name"] in waiting) or (
            row["what"] == "file" and world.nature.short_ids
        )
        if not by_rights:
            found.append(f"{row['what']} {row['name']} is stuck in {row['state']}")
    return found


def moved(world: World) -> None:
    """Count the money that this life moved."""
    cents = world.tally.cents
    for posting in world.far.peoplesoft.postings:
        cents["charges" if posting.cents > 0 else "credits"] += abs(posting.cents)
    for fee in world.far.alma.fees.values():
        cents["payments"] += sum(value for _, value in own_payments(fee))
