# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The command line as a whole: help, and what does not parse."""

import pytest

from hf_tc.cli import build_parser, main

COMMANDS = ["demo", "select", "convert", "distill", "evaluate", "push", "serve"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    example = words.split("example: hf-tc ")[1].split()
    assert example[0] == command
    build_parser().parse_args(example)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["convert", "teacher", "--out", "x", "--retain", "0.5", "--retained-layers", "0"],
        ["convert", "teacher", "--out", "x", "--retained-layers", "0,a"],
        ["convert", "teacher", "--out", "x", "--dtype", "float17"],
        ["distill", "student", "--teacher", "t", "--data", "d", "--out", "o"],
    ],
)
def test_a_command_line_that_does_not_parse_ends_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err
