# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One conversion over the layers: what stays, what is fitted to what, and what the result depends on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import circumstances, equal_states, letter_teacher, state_of, without_times
from layer_conversion import BLOCKS, convert
from planted import random_blocks

from hf_tc.config import MixerConfig
from hf_tc.conversion import fit_layer
from hf_tc.memory import estimate
from hf_tc.teachers.new_student import mixer_of


def test_retained_layers_are_the_teachers(tmp_path: Path) -> None:
    teacher = letter_teacher()
    student = convert(tmp_path, (0, 2), teacher=teacher)
    assert student.config.layer_types == ["full_attention", "linear_attention", "full_attention"]
    weights, expected = student.state_dict(), teacher.state_dict()
    kept = [name for name in expected if "layers.1.self_attn" not in name]
    assert len(kept) > 20
    for name in kept:
        assert torch.equal(weights[name], expected[name]), name
    with torch.no_grad():
        before = [model.base_model(BLOCKS, output_hidden_states=True).hidden_states[1] for model in (student, teacher)]
    assert torch.equal(*before)


def test_all_layers_retained_is_the_teacher(tmp_path: Path) -> None:
    teacher = letter_teacher()
    student = convert(tmp_path, (0, 1, 2), teacher=teacher)
    assert torch.equal(student(BLOCKS).logits, teacher(BLOCKS).logits)
    assert student.conversion_report.layers == []
    assert set(student.conversion_report.perplexity.values()) == {student.conversion_report.perplexity["teacher"]}


def test_no_layer_retained(tmp_path: Path) -> None:
    student = convert(tmp_path, ())
    assert student.config.linear_layers == (0, 1, 2)
    assert [row.layer for row in student.conversion_report.layers] == [0, 1, 2]
    assert bool(student(BLOCKS).logits.isfinite().all())


def test_layers_are_fitted_to_the_teachers_own_inputs_whatever_else_is_converted(tmp_path: Path) -> None:
    alone = convert(tmp_path / "a", (0, 1))
    together = convert(tmp_path / "b", ())
    assert equal_states(state_of(mixer_of(alone, 2)), state_of(mixer_of(together, 2)))


def test_layers_are_solved_on_the_start_of_a_long_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, solve = [], fit_layer.solve

    def watched(mixer: Any, captured: Any, **options: Any) -> Any:
        seen.append(captured.attn_input.shape[:2])
        return solve(mixer, captured, **options)

    monkeypatch.setattr(fit_layer, "solve", watched)
    convert(tmp_path / "all", (0, 1))
    length = BLOCKS.shape[1]
    monkeypatch.setattr(fit_layer, "SOLVED_TOKENS", 2 * length + 1)
    convert(tmp_path / "some", (0, 1))
    monkeypatch.setattr(fit_layer, "SOLVED_TOKENS", 1)
    convert(tmp_path / "one", (0, 1))
    assert [tuple(shape) for shape in seen] == [(len(BLOCKS) - 1, length), (2, length), (1, length)]


def test_teacher_is_only_read(tmp_path: Path) -> None:
    teacher = letter_teacher()
    weights, before = state_of(teacher), circumstances(teacher)
    student = convert(tmp_path, teacher=teacher)
    assert equal_states(state_of(teacher), weights)
    assert circumstances(teacher) == before
    shared = {p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in student.parameters()}
    assert not shared


def test_shared_weights_are_those_of_the_retained_part_alone(tmp_path: Path) -> None:
    teacher = letter_teacher()
    weights = state_of(teacher)
    student = convert(tmp_path, teacher=teacher, share_weights=True)
    storage = {name: p.data_ptr() for name, p in teacher.named_parameters()}
    shared = {name for name, p in student.named_parameters() if storage.get(name) == p.data_ptr()}
    assert "model.layers.0.self_attn.q_proj.weight" in shared
    assert not any("layers.1.self_attn" in name or "layers.2.self_attn" in name for name in shared)
    assert equal_states(state_of(teacher), weights)


def test_bfloat16_teacher_gives_a_bfloat16_student(tmp_path: Path) -> None:
    student = convert(tmp_path, teacher=letter_teacher().bfloat16())
    assert {value.dtype for value in student.state_dict().values()} == {torch.bfloat16}
    report = student.conversion_report
    assert all(row.error_aligned <= row.error_closed_form < row.error_copied for row in report.layers)
    assert bool(student(BLOCKS).logits.isfinite().all())


def test_options_of_the_mixers_shape_the_recurrent_layers(tmp_path: Path) -> None:
    options = MixerConfig(recurrent_rope=False, conv_kernel_size=0, output_norm=True)
    mixer = mixer_of(convert(tmp_path, mixer=options), 1)
    assert mixer.o_norm is not None
    assert mixer.short_conv is None
    assert not mixer.recurrent_rope


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("mistral", {"sliding_window": 5}, [5, 5, 5]),
        ("llama", {}, [None] * 3),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
            [None, None, 5],
        ),
        (
            "exaone4",
            {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
            [None, 5, None],
        ),
    ],
)
def test_each_layer_is_measured_with_the_window_and_scaling_it_has(
    family: str, changes: dict, windows: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, solve = [], fit_layer.solve

    def recorded(mixer: Any, captured: Any, *, scaling: float, window: int | None, **others: Any) -> Any:
        seen.append((scaling, window))
        return solve(mixer, captured, scaling=scaling, window=window, **others)

    monkeypatch.setattr(fit_layer, "solve", recorded)
    convert(tmp_path, (), steps=0, teacher=letter_teacher(family, **changes))
    assert seen == [(8**-0.5, window) for window in windows]


def test_held_out_blocks_are_fitted_by_nobody(tmp_path: Path) -> None:
    other = torch.cat([BLOCKS[:-1], random_blocks(1, 32, seed=5)])
    a, b = (convert(tmp_path / name, steps=0, blocks=blocks) for name, blocks in (("a", BLOCKS), ("b", other)))
    assert equal_states(state_of(a), state_of(b))
    errors = [[row.error_closed_form for row in student.conversion_report.layers] for student in (a, b)]
    assert errors[0] != errors[1]


def test_result_depends_on_the_seed_alone(tmp_path: Path) -> None:
    students = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        students.append(convert(tmp_path / str(number), seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    assert equal_states(state_of(students[0]), state_of(students[1]))
    assert without_times(students[0].conversion_report) == without_times(students[1].conversion_report)
    assert not equal_states(state_of(students[0]), state_of(students[2]))


def test_result_does_not_depend_on_how_many_blocks_stream_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for tokens in (1, 96, 8192):  # one block at a time, three, all
        monkeypatch.setattr(estimate, "STREAM_BATCH_TOKENS", tokens)
        found[tokens] = convert(tmp_path / str(tokens), steps=0)
    for tokens in (1, 96):
        for name, value in state_of(found[tokens]).items():
            torch.testing.assert_close(value, state_of(found[8192])[name], rtol=1e-4, atol=1e-5)
        for row, expected in zip(
            found[tokens].conversion_report.layers, found[8192].conversion_report.layers, strict=True
        ):
            assert row.error_closed_form == pytest.approx(expected.error_closed_form, rel=1e-4)
