"""What Airflow's trigger forms ask. They are read by people who start a run by hand, often in a hurry."""

from __future__ import annotations

from airflow.sdk import Param

from alma_hook.campus import METHODS
from alma_hook.operators.base import AS_IN_SETTINGS

_NOW = "A run started by hand takes what is there now: a logical date or data interval in this form changes nothing."
_FOUND = {
    "analytics_report": "fees of Alma's newest report whose balance differs from the ledger, and those it no longer shows.",
    "sis_profile": "accounts in Alma's exports that were not taken in yet, and those with open fees.",
    "open_fees": "accounts with fees in PeopleSoft, or unsettled in Alma when last read; no new fees on others.",
    "all_users": "every user, one call each: it may spend the day's allowance.",
}


def method(default: str) -> Param:
    """Return the question how fees are found; ``default`` is what the settings say."""
    return Param(
        AS_IN_SETTINGS,
        type="string",
        enum=[AS_IN_SETTINGS, *METHODS],
        title="How fees are found",
        values_display={AS_IN_SETTINGS: f"{AS_IN_SETTINGS}: {default}"},
        description_md="\n".join(
            [
                *(f"- **{name}**: {_FOUND[name]}" for name in METHODS),
                "",
                f"Whatever is found is read live before anything is sent. {_NOW}",
            ]
        ),
    )


def dry_run(live: bool, nothing: str, *, alone: bool = False) -> Param:
    """Return the question whether anything leaves. ``alone``: it is the form's only one."""
    text = (
        nothing
        if live
        else "The settings say **live = false**: every run is a dry run, whatever is chosen here."
    )
    return Param(
        False,
        type="boolean",
        title="Dry run",
        description_md=f"{text} {_NOW}" if alone else text,
    )


def batch() -> Param:
    """Return the question which batch is to be answered for."""
    return Param(
        type="string",
        pattern="^[0-9]{1,12}$",
        title="Batch",
        description_md="These runs are started by alma_to_sis, with both answers filled in. By hand: the batch's number, such "
        "as 000012. The command **python -m alma_hook held** lists it.",
    )


def digest() -> Param:
    """Return the question which lines of the batch are meant."""
    return Param(
        type="string",
        pattern="^[0-9a-f]{12}$",
        title="Digest",
        description_md="The twelve letters and digits that stand beside it: the answer holds for these lines only.",
    )
