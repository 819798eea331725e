"""PeopleSoft's query output of paid library items: one line a payment.

Strict in meaning: ids stay text, amounts are written as the settings say, and a line is either taken or refused with
its reason. The file's structure is ``query_output``'s affair.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from alma_hook import keys, query_forms, query_output
from alma_hook.campus import REVERSAL, Campus
from alma_hook.errors import Fault
from alma_hook.ledger.payments import Payment
from alma_hook.query_output import LineError, RefusedLine


@dataclass(frozen=True, slots=True)
class PaymentFile:
    """A file as read: every line is in one of the two, but for those that the settings leave out as no payments.

    ``unclear``: keys of payments that a refused line may be about, so that nothing follows from their absence.
    ``blind``: a refused line may be about any payment. ``reversals``: lines of their own that take payments back; what they take
    back is not off the amounts of ``payments``.
    """

    payments: tuple[Payment, ...]
    refused: tuple[RefusedLine, ...]
    unclear: frozenset[str] = frozenset()
    blind: bool = False
    reversals: tuple[Payment, ...] = ()

    @property
    def lines(self) -> int:
        """How many lines of payments the file holds."""
        return len(self.payments) + len(self.refused) + len(self.reversals)


def read(name: str, content: bytes, campus: Campus) -> PaymentFile:
    """Read a payment file.

    Raises ``BadFile`` with every fault of its structure, or with every line that may take back any of its payments.
    """
    settings = campus.sis_to_alma
    columns: dict[str, str] = dict(settings.columns.items())
    reasons = settings.reasons
    seen: Counter[str] = Counter()
    payments: list[Payment] = []
    refused: list[RefusedLine] = []
    hidden: list[str | None] = []
    reversals: list[Payment] = []
    nobodys: list[int] = []
    rows = query_output.rows(name, content, settings.delimiter, columns)
    for line_no, values in rows:
        if _kind(values, campus) == "ignore":
            continue
        try:
            _require_payment(values, campus)
            payment = replace(_payment(values, line_no, seen, campus), kind=values.get("kind"))
            if _kind(values, campus) == REVERSAL:
                reversals.append(payment)
            else:
                payments.append(replace(payment, waive=reasons.get(payment.kind or "")))
        except LineError as error:
            refused.append(query_output.refused(line_no, values, columns, error))
            if not _tells_enough(values, campus):
                hidden.append(_key_of_refused(values, campus))
                if hidden[-1] is None and _may_take_back(values, campus):
                    nobodys.append(line_no)
    if nobodys:
        said = "may take a payment back, and whose can't be read: any payment of this file may be it"
        raise query_forms.bad([Fault(name, said, line=line_no) for line_no in nobodys])
    # Of two lines that take a payment back, one below nought and one above, the second may undo the first.
    both = {line.payment_key for line in reversals if line.amount < 0}
    both &= {line.payment_key for line in reversals if line.amount > 0}
    of_payment = Counter(line.payment_key for line in reversals)
    twice = {key for key, lines in of_payment.items() if lines > 1} if settings.reversals_sum_up else set()
    unclear = both.union(twice, (key for key in hidden if key is not None))
    # The other line may take it back.
    why = LineError(
        "payment_id",
        "is that of another line too, which can't be read: what the payment comes to can't be told",
    )
    doubted = {payment.line_no: why for payment in payments if payment.payment_key in unclear}
    why = LineError(
        "payment_id",
        "is that of two lines that take it back, and one has all of it, as sis_to_alma.reversal_lines says",
    )
    doubted |= {line.line_no: why for line in reversals if line.payment_key in twice}
    why = LineError(
        "amount", "is below nought in one line that takes this payment back, and above it in another"
    )
    doubted |= {line.line_no: why for line in reversals if line.payment_key in both}
    refused += [
        query_output.refused(line_no, values, columns, doubted[line_no])
        for line_no, values in rows
        if line_no in doubted
    ]
    return PaymentFile(
        tuple(payment for payment in payments if payment.line_no not in doubted),
        tuple(refused),
        frozenset(unclear),
        None in hidden,
        tuple(replace(line, amount=abs(line.amount)) for line in reversals if line.line_no not in doubted),
    )


def _kind(values: Mapping[str, str], campus: Campus) -> str | None:
    """What the settings say that a line is: ``payment``, ``waive:...``, ``list`` or ``ignore``; ``None``: nothing."""
    return campus.sis_to_alma.kinds.get(values["kind"]) if "kind" in values else "payment"


def _require_payment(values: Mapping[str, str], campus: Campus) -> None:
    kind = _kind(values, campus)
    if kind is None:
        raise LineError("kind", "is not in sis_to_alma.kinds, so whether it is a payment can't be told")
    if kind == "list":
        raise LineError("kind", "is no payment, and a person has to look at it, as sis_to_alma.kinds says")


def _may_take_back(values: Mapping[str, str], campus: Campus) -> bool:
    """Whether a line is one that takes a payment back, or may be, as the settings don't say what it is."""
    return campus.sis_to_alma.has_reversals and _kind(values, campus) in (REVERSAL, None)


def _tells_enough(values: Mapping[str, str], campus: Campus) -> bool:
    """Whether a refused line hides no payment: it is not ours, of nought, of another kind, or tells of one taken back.

    One that may take a payment back hides what that comes to, whatever its sign; of nought it takes nothing back.
    """
    if query_output.of_others(values.get("reference", ""), campus) or _kind(values, campus) == "list":
        return True
    try:
        cents = query_output.cents_of(values, "amount", campus.sis_to_alma.number_format)
    except LineError:
        return False
    return cents == 0 or (cents < 0 and not _may_take_back(values, campus))


def _key_of_refused(values: Mapping[str, str], campus: Campus) -> str | None:
    fee_id = campus.fee_id_of(values["reference"]) if "reference" in values else ""
    payment_id = values.get("payment_id", "")
    if fee_id is None or not payment_id:
        return None
    try:
        return _key(values, "", fee_id, Counter())
    except LineError:
        return None


def _payment(values: Mapping[str, str], line_no: int, seen: Counter[str], campus: Campus) -> Payment:
    value = query_output.cents_of(values, "amount", campus.sis_to_alma.number_format)
    if value == 0:
        raise LineError("amount", "is nought, so nothing was paid")
    if value < 0 and _kind(values, campus) != REVERSAL:
        raise LineError("amount", "is negative: PeopleSoft took a payment back, which a person has to settle")
    try:
        paid_on = datetime.strptime(values["paid_on"], campus.sis_to_alma.date_format).date()  # noqa: DTZ007 a day has no zone
    except ValueError:
        raise LineError("paid_on", f"is not a date as {campus.sis_to_alma.date_format}") from None
    query_output.require_ids(values, "emplid")
    fee_id = query_output.fee_of(values, campus) if "reference" in values else ""
    key = _key(values, f"{fee_id}\n{values['emplid']}\n{value}\n{paid_on}", fee_id, seen)
    return Payment(
        key,
        keys.external_id(campus.institution, key),
        fee_id or None,
        values["emplid"],
        value,
        paid_on.isoformat(),
        line_no,
        None if fee_id else key,
        day_text=values["paid_on"],
    )


def _key(values: Mapping[str, str], meaning: str, fee_id: str, seen: Counter[str]) -> str:
    """What identifies a payment in PeopleSoft, made from what the line means and not from how it is written.

    ``fee_id`` is empty where no line names one, and the payment is taken in as a whole.

    Its own id where the file carries one (a number there, so leading noughts tell nothing), together
    with the fee: one payment may settle several items. Where no fee tells whose it is, PeopleSoft may count the ids
    for each student, so the EMPLID goes with it. Without an id fee, EMPLID, amount and day and,
    for equal lines, their number within the file, which holds where every file gives whole days.
    """
    if "payment_id" in values:
        payment_id = query_output.require_key(values, "payment_id")
        number = payment_id.lstrip("0") if payment_id.isdecimal() else payment_id
        student = "" if fee_id else "/" + hashlib.sha256(values["emplid"].encode()).hexdigest()[:16]
        return f"id:{number}{student}:{fee_id}"
    digest = hashlib.sha256(meaning.encode()).hexdigest()[:16]
    seen[digest] += 1
    return f"line:{digest}:{seen[digest]}"
