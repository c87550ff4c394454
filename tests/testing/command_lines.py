# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Quick conversions and distillations by command line, commands that are refused, and what `evaluate --json` prints."""

import json
from typing import Any

import pytest

from hf_tc.cli.main import main

UNIFORM = ["--layer-policy", "uniform"]
CALIBRATION = ["--calibration-tokens", "256", "--sequence-length", "32", "--device", "cpu"]
QUICK = [*CALIBRATION, "--alignment-steps", "1"]
DISTILLATION = ["--tokens", "320", "--sequence-length", "32", "--batch-size", "1"]  # ten steps, a checkpoint after each


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line on stderr with which a command ends; nothing is on stdout."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    line = shown.err.splitlines()[-1]
    assert line.startswith(f"hf-tc {arguments[0]}: ")
    return line


def unparsed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line on stderr, and all there is, of a command line that does not parse."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    return line


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """The JSON object that `evaluate --json` prints, which is all that is on stdout."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--json", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])
