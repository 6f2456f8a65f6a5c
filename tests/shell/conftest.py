"""The command line, called as a user would, in this process."""

import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest

Shell = Callable[..., "Result"]


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    from rich.console import Console

    from fairmt import cli

    # Wide, so that no line is broken in the middle of what a test looks for.
    monkeypatch.setattr(cli, "out", Console(width=400))
    monkeypatch.setattr(cli, "err", Console(width=400, stderr=True))

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["fairmt", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            try:
                cli.main()
            except SystemExit as end:
                status = int(end.code or 0)
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run
