# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""However the layers are chosen, the teacher is hashed once, the student built once, and every layer solved once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conversion_inputs import QUICK, equal_states, letter_teacher, state_of, text_file
from student_folders import letter_tokenizer

from hf_tc.config import LAYER_POLICIES
from hf_tc.conversion import fit_layer, task
from hf_tc.convert import from_teacher


@pytest.mark.parametrize("retained", [{"retained_layers": [1]}, *({"layer_policy": name} for name in LAYER_POLICIES)])
def test_a_conversion_does_nothing_twice(
    retained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: (calls.update([name]), function(*args, **kwargs))[1])

    count(task, "stored_weights")
    count(task, "fingerprint")
    count(task, "build_student")
    count(fit_layer, "solve")
    options = {"retained_layers": 0.34, "calibration_data": text_file(tmp_path / "text.txt"), **QUICK, **retained}
    student = from_teacher(letter_teacher(), letter_tokenizer(), **options)
    measures = retained.get("layer_policy") in ("kl", "recall", "restore", "greedy")
    assert calls == {"stored_weights": 1, "fingerprint": 2, "build_student": 1, "solve": 3 if measures else 2}
    assert len(student.conversion_report.linear_layers) == 2


@pytest.mark.parametrize("owned", [False, True])
def test_the_student_built_to_compare_layers_is_that_of_the_layers_chosen(owned: bool, tmp_path: Path) -> None:
    teacher: Any = letter_teacher("gpt_neox")
    if owned:
        teacher.save_pretrained(tmp_path / "teacher")
        teacher = tmp_path / "teacher"
    options = {"calibration_data": text_file(tmp_path / "text.txt"), "device": "cpu", **QUICK}
    chosen = from_teacher(teacher, letter_tokenizer(), retained_layers=0.34, layer_policy="kl", **options)
    listed = from_teacher(teacher, letter_tokenizer(), retained_layers=chosen.config.retained_layers, **options)
    assert equal_states(state_of(chosen), state_of(listed))
    assert chosen.conversion_report.perplexity == listed.conversion_report.perplexity
    assert chosen.config.layer_types == listed.config.layer_types
    assert [type(module) for module in chosen.modules()] == [type(module) for module in listed.modules()]
