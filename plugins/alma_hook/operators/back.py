"""The tasks from PeopleSoft to Alma."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from alma_hook.errors import BadFile, Fault
from alma_hook.operators.base import BACK_SHARE, CampusOperator, Run, alma_of, archive_of, marks_now
from alma_hook.operators.links import SummaryOfRun


class FindPaymentFiles(CampusOperator):
    """Fetch PeopleSoft's query output; a file's bytes are kept in the ledger until it is archived."""

    def work(self, run: Run) -> dict[str, int]:
        """Fetch every file of the pattern; the same file twice is one."""
        from alma_hook import payment_intake, sftp

        with run.lease("back") as lease, sftp.connect(run.campus.connections.sfs) as folder:
            found, new = payment_intake.find_files(folder, run.ledger, lease, run.campus)
        self.say(
            "%d files in %s now, whatever the run's interval: %d new",
            found,
            run.campus.sis_to_alma.directory,
            new,
        )
        return {"found": found, "new": new}


class TakeInPayments(CampusOperator):
    """Take each payment line into the ledger once."""

    operator_extra_links = (SummaryOfRun(),)

    def work(self, run: Run) -> dict[str, Any]:
        """Take every file that can be taken; say what is wrong with the others: `archive_files` fails for refused ones."""
        from alma_hook.ledger import payments as entries
        from alma_hook.payment_intake import TakeInCounts, take_in

        with run.ledger.read() as tx:
            waiting = entries.files(tx, "found", "refused")
        counts = TakeInCounts()
        with ExitStack() as stack:
            if waiting:
                marks = marks_now(run, stack)
                lease = stack.enter_context(run.lease("back"))
                counts = take_in(run.ledger, lease, run.campus, marks)
        self.say(
            "%d files, %d lines: %d new, %d known, %d refused and listed",
            counts.files, counts.lines, counts.new, counts.known, counts.refused,
        )  # fmt: skip
        if counts.lists:
            self.say(
                "%d lists of items, %d items, %d lines refused and listed: %d lines of ours seen for the first time",
                counts.lists, counts.items, counts.items_refused, counts.confirmed,
            )  # fmt: skip
        for fault in counts.faults:
            self.log.error("%s", fault)
        return {name: value for name, value in asdict(counts).items() if name != "faults"}


class PostPayments(CampusOperator):
    """Post every waiting payment to Alma, each exactly once."""

    operator_extra_links = (SummaryOfRun(),)

    def work(self, run: Run) -> dict[str, Any]:
        """Post account by account; a campus that is not live posts nothing."""
        from alma_hook import payments, sftp
        from alma_hook.ledger import institutions, notes
        from alma_hook.ledger import payments as entries
        from alma_hook.money import amount

        if not run.live:
            self.say("Rehearsal: nothing is posted to Alma.")
            return {}
        with run.ledger.read() as tx:
            institutions.require_opened(tx)
            idle = not entries.to_post(tx) and not notes.unnoted(tx)
        if idle:
            # Nobody has to be asked, neither Alma nor the archive.
            with run.lease("back") as lease:
                payments.settle_by_credits(run.ledger, lease)
            self.say("Nothing to post.")
            return asdict(payments.PostCounts())
        hook, api = alma_of(run, BACK_SHARE)
        with ExitStack() as stack:
            folder = stack.enter_context(sftp.connect(run.campus.connections.sfs))
            archive = archive_of(run, folder, stack)
            lease = stack.enter_context(run.lease("back"))
            counts = payments.post(
                run.ledger, lease, run.campus, api, archive, run.marks(archive), progress=self.progress(hook),
                workers=hook.workers,
            )  # fmt: skip
        self.say(
            "%d payments posted (%s; %d found posted), %d listed, %d waiting; %s calls left today",
            counts.posted, amount(counts.cents), counts.found_posted, counts.listed, counts.waiting, hook.remaining,
        )  # fmt: skip
        return asdict(counts)


class ArchiveFiles(CampusOperator):
    """Move files that are taken in out of PeopleSoft's output folder."""

    def work(self, run: Run) -> dict[str, int]:
        """Move each file whose bytes are those taken in; a file that changed meanwhile stays."""
        from alma_hook import payment_intake, sftp
        from alma_hook.ledger import payments as entries

        if not run.live:
            self.say("Rehearsal: files stay where they are.")
            return {}
        moved = 0
        with run.ledger.read() as tx:
            taken, refused = entries.files(tx, "taken"), entries.files(tx, "refused")
        if taken:
            with ExitStack() as stack:
                lease = stack.enter_context(run.lease("back"))
                folder = stack.enter_context(sftp.connect(run.campus.connections.sfs))
                marks = run.marks(archive_of(run, folder, stack))
                moved = payment_intake.archive_files(folder, run.ledger, lease, run.campus, marks)
        self.say("%d files archived", moved)
        if refused:
            raise BadFile(
                "Payment files were refused; they stay where they lie, the others are done.",
                [
                    Fault(str(row["name"]), "see the log of take_in_payments; remove it or send it again")
                    for row in refused
                ],
            )
        return {"archived": moved}
