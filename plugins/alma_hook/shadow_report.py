"""The words of the shadow report: what would have left, run by run, and how it differs from what was sent."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from alma_hook import private_file
from alma_hook.campus import Campus
from alma_hook.ledger import moment
from alma_hook.money import amount
from alma_hook.shadow import Held, Shadow, WouldPost, WouldSend
from alma_hook.shadow_compare import Sent, Together

RESULTS = ("matched", "differing", "only ours", "only theirs")
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Days:
    """The days that are told of, first and last included, in the campus's zone; ``None``: no end on that side."""

    campus: Campus
    since: date | None = None
    until: date | None = None

    def hold(self, at: str) -> bool:
        """Whether an instant of the ledger lies in them."""
        return self.hold_day(self.campus.today(moment(at)))

    def hold_day(self, day: date) -> bool:
        """Whether a day does."""
        return (self.since is None or self.since <= day) and not self.is_over(day)

    def is_over(self, day: date) -> bool:
        """Whether a day comes after them."""
        return self.until is not None and day > self.until

    def held_at_the_end(self, held: Held) -> bool:
        """Whether a fee that was held still was when they ended."""
        over = self.is_over(self.campus.today(moment(held.at)))
        return not over and (held.until is None or self.is_over(self.campus.today(moment(held.until))))

    def clock(self, at: str) -> str:
        """Return an instant as people of the campus write it."""
        return f"{moment(at).astimezone(self.campus.zone):%Y-%m-%d %H:%M}"


def in_one_line(shadow: Shadow, campus: Campus) -> str:
    """Return the sum since the first dry run."""
    days = Days(campus)
    first = days.clock(shadow.runs[0][0]) if shadow.runs else "now"
    return (
        f"Had every run since {first} been live: {_sum(shadow.lines, 'charge')} charged, "
        f"{_sum(shadow.lines, 'credit')} credited, {_posted(shadow.posted)} posted to Alma. "
        "`python -m alma_hook shadow-report` tells more."
    )


def summary(shadow: Shadow, days: Days) -> Iterator[str]:
    """Yield the report's lines: run by run, then what all of them come to."""
    runs = [run for run in shadow.runs if days.hold(run[0])]
    lines = [would for would in shadow.lines if days.hold(would.at)]
    posted = [payment for payment in shadow.posted if days.hold(payment.at)]
    if not shadow.runs:
        yield "No dry run of a campus with `live = false` was made with this version yet."
        return
    yield f"What would have left, had every dry run since {days.clock(shadow.runs[0][0])} been live"
    yield f"(times of {days.campus.timezone}; dry runs of alma_to_sis in these days: {len(runs)})"
    yield ""
    yield f"{'when':16}  {'charges':>20}  {'credits':>20}  {'newly held':>10}  {'payments':>20}  run"
    of_runs: dict[tuple[str, str], tuple[list[WouldSend], list[Held], list[WouldPost]]] = {}
    for would in lines:
        of_runs.setdefault((would.at, would.run_id), ([], [], []))[0].append(would)
    for held in shadow.held:
        if days.hold(held.at):
            of_runs.setdefault((held.at, held.run_id), ([], [], []))[1].append(held)
    for payment in posted:
        of_runs.setdefault((payment.at, payment.run_id), ([], [], []))[2].append(payment)
    for (at, run_id), (of_run, newly, paid) in sorted(of_runs.items(), key=lambda item: item[0]):
        yield (
            f"{days.clock(at)}  {_sum(of_run, 'charge'):>20}  {_sum(of_run, 'credit'):>20}  {len(newly):>10}  "
            f"{_posted(paid):>20}  {run_id}"
        )
        for why in dict.fromkeys(text for would in of_run for text in would.beyond):
            yield f"{'':16}  a person would have been asked first: {why}"
    yield ""
    yield f"charges   {_sum(lines, 'charge')}"
    yield f"credits   {_sum(lines, 'credit')}"
    for reason in sorted({would.line.reason for would in lines if would.line.kind == "credit"}):
        yield f"          {_sum([would for would in lines if would.line.reason == reason], 'credit')} {reason}"
    yield f"payments  {_posted(posted)} posted to Alma"
    for why in sorted({one.why for one in posted if one.why}):
        rests = [one.rest for one in posted if one.why == why]
        yield f"          {len(rests)} of {amount(sum(rests))} not: {why}"
    matched = [cents for at, _, cents in shadow.not_credited if days.hold(at)]
    yield (
        f"no credit {len(matched)} of {amount(sum(matched))}: lower in Alma, by another's posting of a payment that "
        "PeopleSoft shows"
    )
    kept = [held.entry for held in shadow.held if days.held_at_the_end(held)]
    yield f"held      {len(kept)} fees at the end"
    for kind in sorted({entry.kind for entry in kept}):
        cents = [entry.amount for entry in kept if entry.kind == kind]
        yield f"          {len(cents)} of {amount(sum(cents))}: {kind}"


def comparison(found: Sequence[Together], days: Days) -> Iterator[str]:
    """Yield what the two did differently: fee ids, files and line numbers, no EMPLID."""
    yield ""
    yield f"{'beside what was sent':22}{'entries':>8}  {'ours':>14}  {'theirs':>14}"
    for result in RESULTS:
        of_result = [one for one in found if one.result == result]
        ours, theirs = sum(one.our_cents for one in of_result), sum(one.their_cents for one in of_result)
        yield f"{result:22}{len(of_result):>8}  {amount(ours):>14}  {amount(theirs):>14}"
    lags = [lag for one in found if one.result == "matched" for lag in _lag(one, days)]
    if lags:
        earlier, later = sum(lag < 0 for lag in lags), sum(lag > 0 for lag in lags)
        yield f"of those matched theirs went {earlier} on an earlier day, {lags.count(0)} on the same, {later} on a later one"
    for result in RESULTS[1:]:
        of_result = [one for one in found if one.result == result]
        for one in of_result[:_SHOWN]:
            fee = f"fee {one.fee_id}" if one.fee_id else "no fee that is known"
            places = "; ".join(f"{sent.file} line {sent.line_no}" for sent in one.theirs)
            sums = f"ours {amount(one.our_cents)}, theirs {amount(one.their_cents)}"
            yield f"{result}: {fee}, {sums}{', ' + places if places else ''}"
        if len(of_result) > _SHOWN:
            yield f"and {len(of_result) - _SHOWN} more that are {result}: --csv writes them all"


def _lag(one: Together, days: Days) -> Iterator[int]:
    """Yield by how many days theirs began after ours, where theirs say their day."""
    said = [sent.day for sent in one.theirs if sent.day is not None]
    if said:
        yield (min(said) - min(days.campus.today(moment(would.at)) for would in one.ours)).days


def write_csv(path: Path, found: Sequence[Together]) -> int:
    """Write every entry of both sides to a new file that only its owner may read; return how many.

    It holds EMPLIDs, and its first line says so. Raises ``Fatal`` when the file is there already.
    """
    rows = [_row(one, would, None) for one in found for would in one.ours]
    rows += [_row(one, None, sent) for one in found for sent in one.theirs]
    with private_file.create(path) as file:
        file.write("HOLDS PATRON DATA: EMPLIDs and amounts owed. Delete it when it is no longer needed.\r\n")
        writer = csv.writer(file)
        writer.writerow(
            (
                "result",
                "side",
                "fee_id",
                "emplid",
                "amount",
                "kind",
                "when",
                "run_or_file",
                "line",
                "reference",
            )
        )
        writer.writerows(rows)
    return len(rows)


def _row(one: Together, would: WouldSend | None, sent: Sent | None) -> tuple[object, ...]:
    if would is not None:
        line = would.line
        return (
            one.result, "ours", line.fee_id, line.emplid, amount(would.cents), line.reason, would.at, would.run_id, "",
            line.reference,
        )  # fmt: skip
    assert sent is not None
    return (
        one.result, "theirs", sent.fee_id or "", sent.emplid, amount(sent.cents), "", sent.day or "", sent.file,
        sent.line_no, sent.reference,
    )  # fmt: skip


def _sum(lines: Iterable[WouldSend], kind: str) -> str:
    of_kind = [would.line.amount for would in lines if would.line.kind == kind]
    return f"{len(of_kind)} of {amount(sum(of_kind))}"


def _posted(payments: Iterable[WouldPost]) -> str:
    cents = [payment.cents for payment in payments if payment.cents]
    return f"{len(cents)} of {amount(sum(cents))}"
