"""State on disk: safetensors for tensors, JSON for the rest. Never pickle.

A state is written whole or not at all, and is read only if its tensors are those it was written
with.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

FORMAT = "fairmt.state/1"
_TENSORS, _STRUCTURE = "tensors.safetensors", "state.json"


class StoreError(ValueError):
    """A stored state is truncated, altered, or of another kind."""


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a nested mapping of tensors, numbers, strings, lists and None as a folder.

    The folder is written beside its place and moved there when it is complete, so that a full
    disk or an interrupt leaves the former state as it was.

    Raises
    ------
    TypeError
        For values that neither safetensors nor JSON can hold.
    """
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "", tensors, {})
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        save_file(tensors, work / _TENSORS)
        text = json.dumps(
            {
                "format": FORMAT,
                "sha256": _digest(work / _TENSORS),
                "state": structure,
            }
        )
        checked = {"check": hashlib.sha256(text.encode()).hexdigest(), "content": text}
        (work / _STRUCTURE).write_text(json.dumps(checked))
        for name in (_TENSORS, _STRUCTURE):
            with open(work / name, "rb") as file:
                os.fsync(file.fileno())
        work.chmod(0o755)
        _swap(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _swap(work: Path, path: Path) -> None:
    """Put `work` in the place of `path`; the former folder survives until the new one stands."""
    if not path.exists():
        os.rename(work, path)
        return
    old = path.with_name(f".{path.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(path, old)
    os.rename(work, path)
    shutil.rmtree(old, ignore_errors=True)


def load_state(path: str | Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such state.
    StoreError
        If it is truncated, altered, or of another format.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if not path.exists():
        # A move interrupted half-way leaves the former state under its second name.
        old = path.with_name(f".{path.name}-old")
        if not old.exists():
            raise FileNotFoundError(f"No saved state at '{path}'.")
        path = old
    try:
        outer = json.loads((path / _STRUCTURE).read_text())
        text = outer["content"]
        if hashlib.sha256(text.encode()).hexdigest() != outer["check"]:
            raise StoreError(f"'{path / _STRUCTURE}' was altered after it was written.")
        content = json.loads(text)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise StoreError(f"'{path}' holds no complete saved state: {error}.") from error
    if content.get("format") != FORMAT:
        raise StoreError(
            f"'{path}' has format {content.get('format')!r}; this version reads '{FORMAT}'."
        )
    if not (path / _TENSORS).exists() or _digest(path / _TENSORS) != content["sha256"]:
        raise StoreError(f"'{path / _TENSORS}' is truncated or was altered after it was written.")
    result = _restore(content["state"], load_file(path / _TENSORS))
    assert isinstance(result, dict)
    return result


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flatten(
    value: Any, key: str, tensors: dict[str, Tensor], kept: dict[int, tuple[str, Tensor]]
) -> Any:
    """The structure around the tensors; one that stands in several places is kept once."""
    if isinstance(value, Tensor):
        # Held while its identity stands for it.
        first, _ = kept.setdefault(id(value), (key, value))
        if first == key:
            tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": first}
    if isinstance(value, Mapping):
        return {"dict": [[k, _flatten(v, f"{key}/{k}", tensors, kept)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(v, f"{key}/{i}", tensors, kept) for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"Cannot store {type(value).__name__} at '{key}'.")


def _restore(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {k: _restore(v, tensors) for k, v in value}
    if kind == "list":
        return [_restore(v, tensors) for v in value]
    return value
