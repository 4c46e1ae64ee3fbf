"""Numbers about results: metrics, statistics and verdicts, results folders as one table, cost."""

from nnunetv2_salstm.evaluation.verdicts import compare_methods as compare_methods
