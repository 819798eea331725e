"""Faults that can be switched on, for HTTP and for SFTP, each counting how often it fired."""

import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

HttpKind = Literal[
    "refuse",  # an error answer, nothing applied
    "fail_before",  # a 5xx, nothing applied
    "fail_after",  # a 5xx although it was applied
    "drop_before",  # the connection is cut, nothing applied
    "drop_after",  # the connection is cut after applying
    "delay_before",  # waits, then applies and answers
    "delay_after",  # applies, then waits with the answer
    "broken_body",  # HTTP 200 and applied, but the body can't be read
    "partial_list",  # HTTP 200, one fee missing, totals of the whole list
    "out_of_quota",  # 429 DAILY_THRESHOLD, nothing applied
    "meanwhile_before",  # something happens elsewhere before it is applied, see Meanwhile
    "meanwhile_after",  # and here once it is applied, before the answer
]
ErrorForm = Literal["json", "gateway_json", "xml", "html", "text", "empty"]
SftpOp = Literal["connect", "open", "write", "close", "rename", "read", "list", "stat", "remove"]
SftpAction = Literal["fail", "permission", "no_space", "drop", "meanwhile"]
#: Run by the server in the middle of a request, such as: kill the client. Returns whether the server then
#: goes on as if nothing had been; False: the connection is cut, and what was not done yet stays undone.
Meanwhile = Callable[[], bool]


@dataclass
class Rule:
    """When a fault fires. ``times`` None: always; ``skip``: the first n matches pass unharmed."""

    times: int | None = 1
    skip: int = 0
    probability: float = 1.0
    matched: int = 0
    fired: int = 0
    meanwhile: Meanwhile | None = None

    def shown(self) -> dict[str, Any]:
        """The rule as plain values."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "meanwhile"}


@dataclass
class HttpRule(Rule):
    """A fault of the HTTP side; ``path`` is searched in the decoded path with its query string."""

    kind: HttpKind = "refuse"
    method: str = ".*"
    path: str = ".*"
    status: int = 400
    code: str = "402119"
    message: str = "General error."
    form: ErrorForm = "json"
    seconds: float = 0.0
    body: Literal["html", "truncated"] = "html"


@dataclass
class SftpRule(Rule):
    """A fault of the SFTP side. ``when`` after: the act is done, only its answer fails."""

    op: SftpOp = "open"
    path: str = ".*"
    action: SftpAction = "fail"
    when: Literal["before", "after"] = "before"
    after_bytes: int = 0


@dataclass
class Faults:
    """All faults of a running simulator, in the order they were added; the first due rule fires.

    ``move_on_arrival``: PeopleSoft takes a file as soon as it stands under its final name.
    ``forbid_temp_names``: the inbound folder refuses names that do not end in ``.dat``.
    """

    seed: int = 0
    move_on_arrival: bool = False
    forbid_temp_names: bool = False
    http: list[HttpRule] = field(default_factory=list)
    sftp: list[SftpRule] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._lock = threading.Lock()

    def add_http(
        self,
        kind: HttpKind,
        *,
        method: str = ".*",
        path: str = ".*",
        times: int | None = 1,
        skip: int = 0,
        probability: float = 1.0,
        status: int | None = None,
        code: str | None = None,
        message: str = "General error.",
        form: ErrorForm = "json",
        seconds: float = 0.0,
        body: Literal["html", "truncated"] = "html",
        meanwhile: Meanwhile | None = None,
    ) -> HttpRule:
        """Add a rule. ``status`` defaults to 400 for a refusal and 500 for a failure.

        ``seconds`` belongs to the two delays, ``body`` to broken_body, ``meanwhile`` to the two kinds of
        that name. Raises ValueError on an unknown kind and re.error on a pattern that is none.
        """
        if kind not in get_args(HttpKind) or form not in get_args(ErrorForm):
            raise ValueError(f"unknown fault: {kind} / {form}")
        if kind.startswith("meanwhile") != (meanwhile is not None):
            raise ValueError(f"{kind}: what happens meanwhile belongs to the kinds of that name")
        for pattern in (path, method):
            re.compile(pattern)
        rule = HttpRule(
            times=times,
            skip=skip,
            probability=probability,
            kind=kind,
            method=method,
            path=path,
            status=status or (400 if kind == "refuse" else 500),
            code=code or ("402119" if kind == "refuse" else "INTERNAL_SERVER_ERROR"),
            message=message,
            form=form,
            seconds=seconds,
            body=body,
            meanwhile=meanwhile,
        )
        with self._lock:
            self.http.append(rule)
        return rule

    def add_sftp(
        self,
        op: SftpOp,
        *,
        path: str = ".*",
        action: SftpAction = "fail",
        when: Literal["before", "after"] = "before",
        after_bytes: int = 0,
        times: int | None = 1,
        skip: int = 0,
        probability: float = 1.0,
        meanwhile: Meanwhile | None = None,
    ) -> SftpRule:
        """Add a rule. ``after_bytes``: a write fails once the file holds so many bytes.

        Raises ValueError on an unknown operation or action, re.error on a bad pattern.
        """
        if op not in get_args(SftpOp) or action not in get_args(SftpAction):
            raise ValueError(f"unknown fault: {op} / {action}")
        if (action == "meanwhile") != (meanwhile is not None):
            raise ValueError(f"{action}: what happens meanwhile belongs to the action of that name")
        re.compile(path)
        rule = SftpRule(
            times=times,
            skip=skip,
            probability=probability,
            meanwhile=meanwhile,
            op=op,
            path=path,
            action=action,
            when=when,
            after_bytes=after_bytes,
        )
        with self._lock:
            self.sftp.append(rule)
        return rule

    def due_http(self, method: str, path_and_query: str) -> HttpRule | None:
        """The rule that fires for this request, already counted, or None."""
        with self._lock:
            for rule in self.http:
                if (
                    re.fullmatch(rule.method, method)
                    and re.search(rule.path, path_and_query)
                    and self._fires(rule)
                ):
                    return rule
        return None

    def due_sftp(self, op: SftpOp, path: str, when: str = "before", size: int = 0) -> SftpRule | None:
        """The rule that fires for this act, already counted, or None. ``size``: bytes written so far."""
        with self._lock:
            for rule in self.sftp:
                if (
                    rule.op == op
                    and rule.when == when
                    and size >= rule.after_bytes
                    and re.search(rule.path, path)
                    and self._fires(rule)
                ):
                    return rule
        return None

    def clear(self) -> None:
        """Switch every fault off and forget the counts."""
        with self._lock:
            self.http.clear()
            self.sftp.clear()
            self.move_on_arrival = self.forbid_temp_names = False

    def _fires(self, rule: Rule) -> bool:
        if rule.times is not None and rule.fired >= rule.times:
            return False
        rule.matched += 1
        if rule.matched <= rule.skip:
            return False
        if rule.probability < 1.0 and self._rng.random() >= rule.probability:
            return False
        rule.fired += 1
        return True
