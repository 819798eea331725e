"""Kills a task's process at chosen moments: when the far sides see it act.

    deaths = Deaths(airflow, campus.faults)
    deaths.await_(BEFORE_UPLOAD, RENAMED)
    ... run the DAG ...
    assert [death.moment for death in deaths.happened] == [BEFORE_UPLOAD, RENAMED]

Alma and the SFTP server wait in the middle of the request until the process is dead, so nothing depends
on luck. The package knows nothing of it: what is killed is the process that runs it, by SIGKILL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simulator.airflow_home import AirflowHome
from simulator.faults import Faults

#: A cluster policy for `AirflowHome`: Airflow's own retries, at once instead of minutes later.
RETRY_AT_ONCE = """\
from datetime import timedelta


def task_policy(task):
    task.retry_delay = timedelta(seconds=1)
"""

UPLOAD, POST, ARCHIVE = "upload_sfs_files", "post_payments", "archive_files"
_PART = r"^/sfs/inbound/.*\.part$"
_FINAL = r"^/sfs/inbound/[^/]*\.dat$"
_PAID = r"^/sfs/outbound/archive/"


@dataclass(frozen=True)
class Moment:
    """When a task dies. ``http`` and ``sftp`` are a rule's arguments (one of the two).

    ``arrives``: what the dead process had sent still takes effect at the far side.
    """

    told: str
    task_id: str
    http: Mapping[str, Any] = field(default_factory=dict)
    sftp: Mapping[str, Any] = field(default_factory=dict)
    arrives: bool = True
    skip: int = 0


def _http(told: str, task_id: str, when: str, *, method: str, path: str, arrives: bool = True) -> Moment:
    return Moment(
        told, task_id, http={"kind": f"meanwhile_{when}", "method": method, "path": path}, arrives=arrives
    )


def _sftp(told: str, task_id: str, op: str, path: str, *, arrives: bool = True, **rule: Any) -> Moment:
    return Moment(told, task_id, sftp={"op": op, "path": path, **rule}, arrives=arrives)


READING_FEES = _http("while it reads fees", "read_fees", "before", method="GET", path="/fees", arrives=False)
ARCHIVING = _sftp(
    "while it writes the archive's copy", UPLOAD, "write", r"^/sfs/archive/", after_bytes=100, arrives=False
)
BEFORE_UPLOAD = _sftp("before the upload", UPLOAD, "open", _PART, arrives=False)
UPLOADED = _sftp("uploaded, not acknowledged", UPLOAD, "close", _PART, when="after")
READING_BACK = _sftp("while it reads the upload back", UPLOAD, "read", _PART, arrives=False)
BEFORE_RENAME = _sftp("before the rename", UPLOAD, "rename", _FINAL, arrives=False)
RENAMED_LATE = _sftp("before the rename, which is done all the same", UPLOAD, "rename", _FINAL)
RENAMED = _sftp("renamed, before the answer", UPLOAD, "rename", _FINAL, when="after")


def uploading(after_bytes: int) -> Moment:
    """In the middle of the upload: so many bytes are there, and the rest never comes."""
    return _sftp(
        "in the middle of the upload", UPLOAD, "write", _PART, after_bytes=after_bytes, arrives=False
    )


READING_ACCOUNT = _http(
    "while it reads an account", POST, "before", method="GET", path="/fees", arrives=False
)
BEFORE_POST = _http(
    "before a payment reaches Alma", POST, "before", method="POST", path="op=pay", arrives=False
)
POSTED_LATE = _http(
    "before Alma applies a payment, which it does all the same", POST, "before", method="POST", path="op=pay"
)
POSTED = _http("payment applied in Alma, before the answer", POST, "after", method="POST", path="op=pay")
BEFORE_ARCHIVING = _sftp("before a payment file is archived", ARCHIVE, "rename", _PAID, arrives=False)
ARCHIVED = _sftp("payment file archived, before the answer", ARCHIVE, "rename", _PAID, when="after")


@dataclass(frozen=True)
class Death:
    """One that happened. ``seen``: what the books showed just then."""

    moment: Moment
    seen: Any


class Deaths:
    """Lets tasks die at moments, one after the other.

    ``strike`` does it, given the moment (default: SIGKILL to the task's process); ``look`` is asked right
    after. Both are called in a server's thread, before the far side goes on.
    """

    def __init__(
        self,
        airflow: AirflowHome,
        faults: Faults,
        *,
        strike: Callable[[Moment], object] | None = None,
        look: Callable[[Moment], Any] = lambda _: None,
    ) -> None:
        self.happened: list[Death] = []
        self._faults = faults
        self._strike = strike or (lambda moment: airflow.kill_task(moment.task_id))
        self._look = look
        self._waiting: list[Moment] = []

    def await_(self, *moments: Moment) -> None:
        """From now on, let a task die at each of these moments: the next is waited for once one was there."""
        idle = not self._waiting
        self._waiting += moments
        if idle:
            self._arm()

    def _arm(self) -> None:
        if not self._waiting:
            return
        moment = self._waiting[0]
        if moment.http:
            self._faults.add_http(**moment.http, skip=moment.skip, meanwhile=lambda: self._happen(moment))
        else:
            self._faults.add_sftp(
                **moment.sftp, action="meanwhile", skip=moment.skip, meanwhile=lambda: self._happen(moment)
            )

    def _happen(self, moment: Moment) -> bool:
        self._strike(moment)
        self.happened.append(Death(moment, self._look(moment)))
        self._waiting.remove(moment)
        self._arm()
        return moment.arrives
