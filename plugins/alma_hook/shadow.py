"""What would have been sent and posted, had every dry run been a live one.

A dry run plans as if nothing was ever sent, because nothing was: the next one finds the same charges
again. So what each run saw is kept, and is worked through anew here, run after run, by the same formula
and the same decisions as a live run's, with the settings of today. What a run would have sent counts as
sent for those after it.

Meanwhile the campus's present process posts to Alma what students pay in PeopleSoft. In a live run these
payments would bear our key and be `Pa`. Here they bear another's, and are known by their sum alone:

    Pa = what others paid on the fee in Alma since its first line,
         and no more than PeopleSoft's output shows as paid before

So a fall of Alma's balance that is a payment in PeopleSoft is no credit; any other is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date

from alma_hook import brake, charges
from alma_hook.campus import Campus
from alma_hook.charges import Position
from alma_hook.layouts import Layout
from alma_hook.ledger import Row, moment
from alma_hook.ledger.batches import Line
from alma_hook.ledger.exceptions import NOT_CHARGED, OTHER_EMPLID, OVERPAID, SETTLED, Listed
from alma_hook.ledger.shadow import History, Seen

NOT_SEEN = "its fee was not seen by a dry run"
BEFORE = "in Alma already when the fee was first seen"


@dataclass(frozen=True, slots=True)
class WouldSend:
    """A line that would have left. ``beyond``: the limits of the brake for which a person would have been asked first."""

    at: str
    run_id: str
    line: Line
    beyond: tuple[str, ...] = ()

    @property
    def cents(self) -> int:
        """Its amount, a credit's below nought."""
        return self.line.amount if self.line.kind == "charge" else -self.line.amount


@dataclass(frozen=True, slots=True)
class WouldPost:
    """What would have become of a payment: ``cents`` posted to Alma, ``rest`` listed, and why."""

    at: str
    run_id: str
    payment_no: int
    fee_id: str
    cents: int
    rest: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A fee for which nothing would have been sent from this run on; ``until``: the run that found it otherwise."""

    at: str
    run_id: str
    entry: Listed
    until: str | None = None


@dataclass
class Shadow:
    """What all dry runs together come to.

    ``not_credited``: falls in Alma that are payments in PeopleSoft: when they were seen, fee, cents.
    """

    runs: tuple[tuple[str, str], ...] = ()
    lines: list[WouldSend] = field(default_factory=list)
    posted: list[WouldPost] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    not_credited: list[tuple[str, str, int]] = field(default_factory=list)


@dataclass
class _Fee:
    """Where a fee stands in between: what it was told, and what is known of its payments. Amounts in cents."""

    seen: Seen | None = None
    net: int = 0
    sent: Line | None = None
    begun: bool = False
    others_before: int = 0
    received_before: int = 0
    left_before: int = 0
    matched: int = 0
    posted: int = 0
    held: Held | None = None
    waiting: list[Row] = field(default_factory=list)

    def in_alma(self) -> int:
        """Its balance in Alma, had our payments been posted and nobody else's of them."""
        return self.seen.balance + self.matched - self.posted if self.seen is not None else 0


def replay(history: History, campus: Campus, layout: Layout) -> Shadow:
    """Work through what was seen, run after run. ``layout``: the one in which the files would have been written."""
    return _Replay(history, campus, layout).whole()


class _Replay:
    def __init__(self, history: History, campus: Campus, layout: Layout) -> None:
        self.history, self.campus, self.layout = history, campus, layout
        self.shadow = Shadow(history.runs)
        self.fees: dict[str, _Fee] = {}
        self.payments: dict[str, list[Row]] = {}
        for row in history.payments:
            self.payments.setdefault(str(row["fee_id"]), []).append(row)

    def whole(self) -> Shadow:
        """Each run when it planned, each payment when it was taken in."""
        for at, act in self._in_order():
            if isinstance(act, str):
                self._run(at, act)
            else:
                self._payment(act)
        for fee in self.fees.values():
            self._close(fee, None)
        self.shadow.held.sort(key=lambda held: (held.at, held.entry.fee_id or ""))
        self.shadow.posted += [
            self._not_posted(row, NOT_CHARGED if fee.sent is None else NOT_SEEN)
            for fee in self.fees.values()
            for row in fee.waiting
        ]
        self.shadow.posted.sort(key=lambda posted: (posted.at, posted.payment_no))
        return self.shadow

    def _in_order(self) -> Iterator[tuple[str, str | Row]]:
        acts: list[tuple[str, int, str | Row]] = [(at, 0, run_id) for at, run_id in self.history.runs]
        acts += [(str(row["taken_at"]), 1, row) for row in self.history.payments]
        for at, _, act in sorted(acts, key=lambda act: act[:2]):
            yield at, act

    def _fee(self, fee_id: str) -> _Fee:
        if fee_id not in self.fees:
            row = self.history.sent.get(fee_id)
            sent = None if row is None else charges.to_copy(fee_id, row)
            self.fees[fee_id] = _Fee(sent=sent)
        return self.fees[fee_id]

    # -- a run of alma_to_sis --------------------------------------------------------------------------

    def _run(self, at: str, run_id: str) -> None:
        day = self._day(at)
        lines: dict[str, list[Line]] = {"charge": [], "credit": []}
        listed: list[Listed] = []
        positions: list[Position] = []
        for seen in self.history.seen[at, run_id]:
            fee = self._fee(seen.fee_id)
            fee.seen = seen
            if seen.told and not fee.begun:
                self._resume(fee, at)
            self._match(fee, at)
            if fee.begun:
                self._payments_waiting(fee, (at, run_id))
            positions.append(self._position(fee, seen))
        # A run considers all fees of an account that it reads; here stand only those that were not as before.
        known = (self._position(fee, fee.seen) for fee in self.fees.values() if fee.seen is not None)
        owed = charges.of_students(known, self.campus, day)
        for position in positions:
            of_student = replace(position, of_student=owed.get(position.emplid))
            decision = charges.decide(of_student, self.campus, day)
            if isinstance(decision, Line):
                lines[decision.kind].append(decision)
            if isinstance(decision, Listed):
                listed.append(decision)
            else:
                self._close(self._fee(position.fee_id), at)
        for of_kind in lines.values():
            fitting, misfits = charges.fit(self.layout, of_kind)
            listed += misfits
            for part in brake.part(fitting, frozenset(), self.campus.brake, None):
                for line in part.lines:
                    self._send(WouldSend(at, run_id, line, part.broken))
        for entry in listed:
            fee = self._fee(str(entry.fee_id))
            if fee.held is None or fee.held.entry.kind != entry.kind:
                self._close(fee, at)
                fee.held = Held(at, run_id, entry)

    def _position(self, fee: _Fee, seen: Seen) -> Position:
        paid = seen.own_paid + fee.matched
        return Position(
            fee_id=seen.fee_id,
            status=seen.status,
            type=seen.type,
            owner=seen.owner,
            currency=seen.currency,
            emplid=seen.emplid,
            original=seen.original,
            balance=seen.balance,
            # Whether each was there once was judged when it was seen: `problem` says so.
            own=(("", paid),) if paid else (),
            charged=seen.told + fee.net,
            credited=0,
            posted={"": paid} if paid else {},
            reason=seen.reason,
            problem=seen.problem,
            sent=fee.sent,
            taken_back=bool(seen.taken_back),
            made_at=seen.made_at,
            user_group=seen.user_group,
        )

    def _send(self, would: WouldSend) -> None:
        fee = self._fee(would.line.fee_id)
        self.shadow.lines.append(would)
        fee.net += would.cents
        if would.line.kind == "charge":
            fee.sent = would.line
        if not fee.begun:
            self._begin(fee, would.at)
            self._payments_waiting(fee, (would.at, would.run_id))

    def _begin(self, fee: _Fee, at: str) -> None:
        """From here on payments count: what both sides had before is no news to either."""
        if fee.seen is not None:
            fee.begun = True
            fee.others_before = fee.seen.others_paid
            fee.received_before = min(fee.others_before, self._received(fee.seen.fee_id, at))
            fee.left_before = fee.received_before

    def _resume(self, fee: _Fee, at: str) -> None:
        """Begin with a fee that live runs told of: what it is lower by may be a payment of since then already."""
        if fee.seen is not None:
            fall = fee.seen.told - fee.seen.own_paid - fee.seen.balance
            since = max(0, min(fall, fee.seen.others_paid, self._received(fee.seen.fee_id, at)))
            fee.begun = True
            fee.others_before = fee.seen.others_paid - since

    def _match(self, fee: _Fee, at: str) -> None:
        """See how much of what others paid in Alma are payments in PeopleSoft."""
        if not fee.begun or fee.seen is None:
            return
        others = fee.seen.others_paid - fee.others_before
        matched = max(fee.matched, min(others, self._received(fee.seen.fee_id, at) - fee.received_before))
        if others - matched in self._today(fee.seen.fee_id, at):
            matched = others
        if matched > fee.matched:
            self.shadow.not_credited.append((at, fee.seen.fee_id, matched - fee.matched))
            fee.matched = matched

    def _received(self, fee_id: str, at: str) -> int:
        """Return what was surely paid on a fee in PeopleSoft before an instant, whenever its output showed it."""
        day = self._day(at).isoformat()
        paid = self.payments.get(fee_id, [])
        return sum(int(row["stands"]) for row in paid if row["paid_on"] < day or row["taken_at"] <= at)

    def _today(self, fee_id: str, at: str) -> set[int]:
        """Return what may have been paid before or after it that day: told by its very amount alone."""
        day = self._day(at).isoformat()
        paid = self.payments.get(fee_id, [])
        return {int(row["stands"]) for row in paid if row["paid_on"] == day and row["taken_at"] > at}

    def _day(self, at: str) -> date:
        return self.campus.today(moment(at))

    def _close(self, fee: _Fee, until: str | None) -> None:
        if fee.held is not None:
            held, fee.held = fee.held, None
            self.shadow.held.append(Held(held.at, held.run_id, held.entry, until))

    # -- a run of sis_to_alma --------------------------------------------------------------------------

    def _payments_waiting(self, fee: _Fee, run: tuple[str, str]) -> None:
        waiting, fee.waiting = fee.waiting, []
        for row in waiting:
            self._payment(row, run)

    def _payment(self, row: Row, run: tuple[str, str] | None = None) -> None:
        """Judge a payment when it is taken in, or by the run after which its fee counts as charged."""
        fee = self._fee(str(row["fee_id"]))
        if not fee.begun:
            fee.waiting.append(row)
            return
        before = min(fee.left_before, int(row["stands"]))
        fee.left_before -= before
        value = int(row["stands"]) - before
        if value == 0:
            self.shadow.posted.append(self._not_posted(row, BEFORE))
        elif fee.sent is not None and fee.sent.emplid != row["emplid"]:
            self.shadow.posted.append(self._not_posted(row, OTHER_EMPLID))
        elif fee.in_alma() <= 0:
            self.shadow.posted.append(self._not_posted(row, SETTLED))
        elif fee.seen is not None and fee.seen.status != "ACTIVE" and fee.seen.balance > 0:
            self.shadow.posted.append(self._not_posted(row, f"fee is {fee.seen.status} in Alma"))
        else:
            cents = min(value, fee.in_alma())
            fee.posted += cents
            at, run_id = run or (row["taken_at"], row["run_id"])
            rest = value - cents
            self.shadow.posted.append(
                WouldPost(
                    at,
                    run_id,
                    int(row["payment_no"]),
                    str(row["fee_id"]),
                    cents,
                    rest,
                    OVERPAID if rest else "",
                )
            )

    def _not_posted(self, row: Row, why: str) -> WouldPost:
        return WouldPost(
            row["taken_at"],
            row["run_id"],
            int(row["payment_no"]),
            str(row["fee_id"]),
            0,
            int(row["stands"]),
            why,
        )
