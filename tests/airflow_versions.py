"""What lies elsewhere in the oldest Airflow that is supported."""

from inspect import signature

from airflow.models.dagrun import DagRun

try:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization
try:
    from airflow.sdk.exceptions import ParamValidationError
except ImportError:  # Airflow 3.1
    from airflow.exceptions import ParamValidationError

__all__ = ["NAMES_WHAT_FAILED", "DagBag", "DagSerialization", "ParamValidationError"]

#: Whether the callback of a run is told which task made it fail.
NAMES_WHAT_FAILED = (
    hasattr(DagRun, "produce_dag_callback")
    and "relevant_ti" in signature(DagRun.produce_dag_callback).parameters
)
