"""Errors, named by what the caller should do about them.

    AlmaHookError
      Fatal                  a person has to change something; trying again can't help
        SettingsError          the campus's settings
        LedgerError            no ledger, an old one, or one that belongs elsewhere
        NotPermitted           the key, its permissions, or the address
        SendingStopped         a guard refuses to let money leave
        BadFile                a file or report that can't be taken as a whole
      Retriable              nothing was changed; the same call may succeed later
        RateLimited            Alma's limit of calls a second
        QuotaSpent             Alma's limit of calls a day; not before it is renewed
        NotReady               the other side has not finished what is waited for
        LeaseTaken             another run holds, or took over, the lease
        Inconsistent           a reading that contradicts itself
      OutcomeUnknown         a change was asked for and may or may not have been applied: look first
      Refused                Alma refused this one thing for good; the others go on
        UserNotFound
        FeeNotFound
        FeeClosed

Alma's own sentences name patrons ("User with identifier ... was not found"), so a text here never
quotes them: Alma's code and trackingId are what its support asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class AlmaHookError(Exception):
    """Base of every error of this package.

    ``code`` and ``tracking_id`` are Alma's, where the error came from there, else ``None``.
    """

    def __init__(self, text: str, *, code: str | None = None, tracking_id: str | None = None) -> None:
        self.code = code
        self.tracking_id = tracking_id
        marks = [f"Alma code {code}"] if code else []
        marks += [f"trackingId {tracking_id}"] if tracking_id else []
        super().__init__(f"{text} ({', '.join(marks)})" if marks else text)


class Fatal(AlmaHookError):
    """A person has to change something first."""


class NotPermitted(Fatal):
    """The API key, its permissions or the gateway address are wrong."""


class SendingStopped(Fatal):
    """A guard refuses to let money leave; the text says what to do."""


class LedgerError(Fatal):
    """The ledger is missing, of another version, or belongs to another Alma."""


class Retriable(AlmaHookError):
    """Nothing was changed on the other side; the same call may succeed later."""


class RateLimited(Retriable):
    """More calls in this second than Alma allows; the call was refused unprocessed."""


class QuotaSpent(Retriable):
    """The day's calls are spent, or down to the reserve."""


class NotReady(Retriable):
    """What is waited for is not complete yet."""


class LeaseTaken(Retriable):
    """Another run works in the same direction."""


class Inconsistent(Retriable):
    """A reading contradicts itself, so nothing may be concluded from it."""


class OutcomeUnknown(AlmaHookError):
    """The change may or may not have been applied; read back before trying again."""


class Refused(AlmaHookError):
    """A definite refusal of one call; nothing was changed."""


class UserNotFound(Refused):
    """Alma has no such user (any more)."""


class FeeNotFound(Refused):
    """Alma has no such fee for this user."""


class FeeClosed(Refused):
    """Alma does not give closed fees one by one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with an input.

    ``where`` is a file's name or a settings key, ``line`` counts from 1 (0: the whole), ``text``
    says what is wrong and what to do. Never holds a patron's data.
    """

    where: str
    text: str
    line: int = 0
    field: str = ""

    def __str__(self) -> str:
        place = self.where + (f", line {self.line}" if self.line else "")
        return f"{place}{', ' + self.field if self.field else ''}: {self.text}"


class _Faulty(Fatal):
    """Carries every fault at once."""

    def __init__(self, summary: str, faults: Iterable[Fault]) -> None:
        self.faults: Sequence[Fault] = tuple(faults)
        super().__init__("\n".join([summary, *(f"  {fault}" for fault in self.faults)]))


class SettingsError(_Faulty):
    """The campus's settings can't be used; every fault is named with its key."""


class BadFile(_Faulty):
    """A file or report can't be taken as a whole; every fault is named with its line."""
