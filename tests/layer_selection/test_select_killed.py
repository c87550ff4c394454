# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc select` killed with SIGKILL goes on when it is given again."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from command_lines import CALIBRATION
from conversion_inputs import teacher_folder, text_file
from killed_commands import die, layer_done, status_of

from hf_tc.conversion import checkpoint
from hf_tc.evaluation import distance
from hf_tc.layer_selection import score_log

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")


def at_the_third_score() -> None:
    measure, measured = distance.DistanceFromTeacher.__call__, []

    def counted(*args: Any) -> Any:
        measured.append(1)
        return die() if len(measured) == 3 else measure(*args)

    distance.DistanceFromTeacher.__call__ = counted


def test_a_selection_killed_at_every_kind_of_moment(tmp_path: Path) -> None:
    teacher, text = teacher_folder(tmp_path / "teacher"), text_file(tmp_path / "text.txt")

    def command(out: Path) -> list[str]:
        given = ["select", str(teacher), "--out", str(out), "--data", str(text)]
        return [*given, "--layer-policy", "greedy", *CALIBRATION]

    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    assert status_of(command(whole)) == 0
    assert status_of(command(parts), layer_done) == -signal.SIGKILL
    layers = tmp_path / "parts.json.unfinished" / checkpoint.CANDIDATES
    assert [path.name for path in layers.glob("layer-*")] == ["layer-000.safetensors"]
    assert status_of(command(parts), at_the_third_score) == -signal.SIGKILL
    scores = tmp_path / "parts.json.unfinished" / checkpoint.SCORES / score_log.SCORES_FILE
    assert len(scores.read_text().splitlines()) == 2
    assert not parts.exists()
    with scores.open("a") as file:
        file.write('{"name": "conv')  # torn by a power cut
    assert status_of(command(parts)) == 0
    found, expected = (json.loads(path.read_text()) for path in (parts, whole))
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    left = ["parts.json", "parts.png", "teacher", "text.txt", "whole.json", "whole.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
