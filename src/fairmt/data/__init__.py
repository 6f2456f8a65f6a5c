"""From tables to tensors: schema, splits, leakage checks, a catalog of real data, a generator."""

from fairmt.data.bundle import Bundle
from fairmt.data.catalog import card, datasets, load
from fairmt.data.generator import generate
from fairmt.data.leakage import LeakageError, check_leakage, proxy_strength, warn_of_proxies
from fairmt.data.parquet import ParquetTable
from fairmt.data.schema import Schema
from fairmt.data.split import split
from fairmt.data.table import TensorTable, read_table

__all__ = [
    "Bundle",
    "LeakageError",
    "ParquetTable",
    "Schema",
    "TensorTable",
    "card",
    "check_leakage",
    "datasets",
    "generate",
    "load",
    "proxy_strength",
    "read_table",
    "split",
    "warn_of_proxies",
]
