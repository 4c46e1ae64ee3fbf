"""Numbers about results: metrics, statistics and verdicts, results folders as one table, cost."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2_salstm.evaluation.verdicts import compare_methods as compare_methods


def __getattr__(name: str) -> Any:
    # Not at once: commands import this package for their help, which needs no pandas.
    if name == "compare_methods":
        from nnunetv2_salstm.evaluation.verdicts import compare_methods

        return compare_methods
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
