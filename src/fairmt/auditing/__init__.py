"""Audit any model's predictions: rates by group, gaps with intervals, comparisons, reports."""

from fairmt.auditing.compare import Comparison, compare
from fairmt.auditing.consistency import Consistency, prediction_consistency
from fairmt.auditing.counterfactual import CounterfactualParity, counterfactual_parity
from fairmt.auditing.dependence import DependenceScore, dependence_score
from fairmt.auditing.models import audit_model
from fairmt.auditing.predictions import audit
from fairmt.auditing.result import AuditResult
from fairmt.auditing.tensors import from_tensors

__all__ = [
    "AuditResult",
    "Comparison",
    "Consistency",
    "CounterfactualParity",
    "DependenceScore",
    "audit",
    "audit_model",
    "compare",
    "counterfactual_parity",
    "dependence_score",
    "from_tensors",
    "prediction_consistency",
]
