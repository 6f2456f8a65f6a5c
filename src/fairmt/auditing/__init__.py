"""Audit any model's predictions: rates by group, gaps with intervals, and a report."""

from fairmt.auditing.predictions import audit
from fairmt.auditing.result import AuditResult
from fairmt.auditing.tensors import from_tensors

__all__ = ["AuditResult", "audit", "from_tensors"]
