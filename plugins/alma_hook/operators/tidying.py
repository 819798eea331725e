"""Removing patrons' data that is older than the settings say."""

from __future__ import annotations

from alma_hook.operators.base import CampusOperator, Run, rehearses


class RemoveOld(CampusOperator):
    """Remove files, dry runs and fees never charged once they are older than `[retention]` says.

    What means money stays. It goes a part at a time, so that it may be killed and run again.
    """

    def work(self, run: Run) -> dict[str, int]:
        """Remove by kind; return how many of each. A dry run only counts."""
        from alma_hook import tidying

        counts: dict[str, int] = {}
        only_count = rehearses(run.context)
        verb = "would go" if only_count else "are gone"
        for done in tidying.tidy_up(run.ledger, run.campus.retention, run.owner, only_count=only_count):
            oldest = f"the oldest that is there is of {done.oldest[:10]}" if done.oldest else "none is there"
            if done.count is None:
                self.say("%s: retention.%s is not set; %s", done.kind.name, done.kind.setting, oldest)
            else:
                self.say("%s: %d %s; %s", done.kind.name, done.count, verb, oldest)
                counts[done.kind.name] = done.count
        return counts
