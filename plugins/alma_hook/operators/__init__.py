"""The tasks of the DAGs: each fetches what it needs, calls one function, and says what came of it.

XCom carries ids and counts, never rows, names or amounts of a person. What the next task needs lies
in the ledger. Heavy modules are imported when a task runs, never when a DAG file is parsed.
"""

from alma_hook.operators.back import ArchiveFiles, FindPaymentFiles, PostPayments, TakeInPayments
from alma_hook.operators.base import AS_IN_SETTINGS, CampusOperator, Report, ReportRedRun
from alma_hook.operators.out import (
    AllUsers,
    AnalyticsReport,
    ChooseRetrieval,
    OpenFees,
    PlanBatches,
    ReadFees,
    SisProfile,
    UploadSfsFiles,
    WaitForExport,
    WriteSfsFiles,
)

__all__ = [
    "AS_IN_SETTINGS",
    "AllUsers",
    "AnalyticsReport",
    "ArchiveFiles",
    "CampusOperator",
    "ChooseRetrieval",
    "FindPaymentFiles",
    "OpenFees",
    "PlanBatches",
    "PostPayments",
    "ReadFees",
    "Report",
    "ReportRedRun",
    "SisProfile",
    "TakeInPayments",
    "UploadSfsFiles",
    "WaitForExport",
    "WriteSfsFiles",
]
