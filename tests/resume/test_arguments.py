# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Arguments beside unfinished work: the same go on, others are refused by name; files are whole or absent."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hf_tc.config import MixerConfig
from hf_tc.distillation.weight_decay import UNDECAYED
from hf_tc.resume.arguments import record_arguments, replace_file

ARGUMENTS = {"data": [Path("a.txt"), "b.txt"], "settings": {"seed": 0, "deep": {"rope": True}}, "none": None}


def test_the_same_arguments_may_be_recorded_again(tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    record_arguments(path, ARGUMENTS)
    before = path.read_text()
    record_arguments(path, {**ARGUMENTS, "data": ["a.txt", Path("b.txt")]})
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["arguments.json"]


def test_each_other_argument_is_named_with_both_values_and_no_equal_one(tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    record_arguments(path, ARGUMENTS)
    changed = {"data": "a.txt", "settings": {"seed": 0, "deep": {"rope": False}}, "new": 1.5}
    with pytest.raises(ValueError, match="holds unfinished work with other arguments") as error:
        record_arguments(path, changed)
    assert (
        "(data: ['a.txt', 'b.txt'] there, 'a.txt' now; new: None there, 1.5 now; "
        "settings.deep.rope: True there, False now)"
    ) in str(error.value)
    record_arguments(path, ARGUMENTS)  # still the first ones


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, lambda part: part.write_text("first"))

    def dies(part: Path) -> None:
        part.write_text("sec")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, dies)
    assert path.read_text() == "first"
    replace_file(path, lambda part: part.write_text("second"))
    assert path.read_text() == "second"


def test_work_that_an_earlier_release_began_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    path.write_text(
        '{"calibration_seq_len": 64, "settings": {"held_out_share": 0.5, "alignment": {"warmup_share": 0.1}}}'
    )
    now = {"sequence_length": 64, "settings": {"held_out_fraction": 0.5, "alignment": {"warmup_ratio": 0.1}}}
    record_arguments(path, now)
    now["settings"]["held_out_fraction"] = 0.25
    with pytest.raises(ValueError, match=r"settings\.held_out_fraction: 0\.5 there, 0\.25 now"):
        record_arguments(path, now)


@pytest.mark.parametrize(
    "written",
    [{"recurrent_rope": True, "conv_kernel_size": 4, "output_norm": False}, {}],
    ids=["convert", "select"],
)
def test_options_of_the_mixers_had_another_name_and_were_not_written_by_select(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"settings": {"student_options": written, "seed": 0}, "retained_layers": []}))
    now = {"settings": {"mixer": asdict(MixerConfig()), "seed": 0}, "retained_layers": []}
    record_arguments(path, now)
    now["settings"]["mixer"] = asdict(MixerConfig(output_norm=True))
    with pytest.raises(ValueError, match=r"\(settings\.mixer\.output_norm: False there, True now\)"):
        record_arguments(path, now)


def test_a_distillation_from_before_passages_could_come_twice_goes_on_without(tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"learning_rate": 3e-4}))
    record_arguments(path, {"learning_rate": 3e-4, "repeated_passages": 0.0})
    record_arguments(path, {"learning_rate": 3e-4})
    with pytest.raises(ValueError, match=r"\(repeated_passages: 0\.0 there, 0\.25 now\)"):
        record_arguments(path, {"learning_rate": 3e-4, "repeated_passages": 0.25})


def test_a_distillation_from_before_output_gates_were_spared_does_not_go_on(tmp_path: Path) -> None:
    """Its optimiser has other groups of weights."""
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"learning_rate": 3e-4}))
    with pytest.raises(ValueError, match=r"\(undecayed: .*\[ab\]_proj.* there, .*\[abg\]_proj.* now\)"):
        record_arguments(path, {"learning_rate": 3e-4, "undecayed": UNDECAYED.pattern})
