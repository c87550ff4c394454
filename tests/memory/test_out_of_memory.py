# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Where a GPU's memory does not suffice: the error says what to change, and what was finished is not lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import letter_teacher
from distillation_runs import config
from layer_conversion import BLOCKS, convert, interrupt_at_layer
from student_folders import letter_tokenizer, tiny_student
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from transformers import GenerationMixin

from hf_tc import evaluate
from hf_tc.config import ConversionConfig, JointConfig, SelectionConfig
from hf_tc.conversion import fit_layer, run
from hf_tc.conversion.choose_layers import choose_layers
from hf_tc.conversion.stage_clock import LESS_MEMORY
from hf_tc.conversion.task import ConversionTask
from hf_tc.distillation import DistillationTrainer
from hf_tc.layer_selection import probe
from hf_tc.modeling.out_of_memory import memory_advice

WORDS = "CUDA out of memory. Tried to allocate 20.00 GiB."


def runs_out(*args: Any, **kwargs: Any) -> None:
    raise torch.OutOfMemoryError(WORDS)


def test_the_outermost_advice_is_the_last_line() -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught, memory_advice("outer"), memory_advice("inner"):
        runs_out()
    assert str(caught.value) == f"{WORDS}\nouter"
    assert type(caught.value.__cause__) is torch.OutOfMemoryError
    assert str(caught.value.__cause__) == WORDS


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"\Aother\Z"), memory_advice("advice"):
        raise RuntimeError("other")


@pytest.mark.parametrize(
    ("stage", "module", "function", "knobs"),
    [
        ("capture", "hf_tc.conversion.layer_by_layer", "LayerStream", ["sequence_length", "device_map"]),
        ("solve", "hf_tc.conversion.fit_layer", "solve", ["calibration_tokens", "sequence_length"]),
        ("align", "hf_tc.conversion.fit_layer", "align_layer", ["sequence_length", "alignment_steps=0"]),
        ("joint", "hf_tc.conversion.run", "align_jointly", ["joint_steps=0", "sequence_length"]),
        ("evaluate", "hf_tc.conversion.run", "perplexity", ["sequence_length"]),
    ],
)
def test_each_stage_of_a_conversion_names_its_settings(
    stage: str, module: str, function: str, knobs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{module}.{function}", runs_out)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        convert(tmp_path, joint=JointConfig(2))
    words, advice = str(caught.value).split("\n")
    assert (words, advice) == (WORDS, LESS_MEMORY[stage])
    assert all(knob in advice for knob in knobs)


def test_the_choice_of_layers_names_what_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "perplexity", runs_out)
    settings = ConversionConfig(BLOCKS.numel(), BLOCKS.shape[1], selection=SelectionConfig(0.5, "bypass"))
    task = ConversionTask(letter_teacher(), BLOCKS, settings, tmp_path)
    with pytest.raises(torch.OutOfMemoryError, match=r'GiB\.\nSet .*sequence_length.*layer_policy="uniform"'):
        choose_layers(task)


def test_joint_alignment_is_given_up_without_aligning_layers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(run, "align_jointly", runs_out)
        with pytest.raises(torch.OutOfMemoryError, match="joint_steps=0"):
            convert(tmp_path, joint=JointConfig(2))
    begun = interrupt_at_layer(monkeypatch, 99)
    student = convert(tmp_path)
    assert begun == []
    assert list(student.conversion_report.perplexity) == ["teacher", "copied", "closed_form", "aligned"]


def test_layers_that_were_finished_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    align, calls = fit_layer.align_layer, []

    def second_runs_out(*args: Any, **kwargs: Any) -> float:
        calls.append(args)
        return runs_out() if len(calls) == 2 else align(*args, **kwargs)

    monkeypatch.setattr(fit_layer, "align_layer", second_runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        convert(tmp_path)
    convert(tmp_path)
    assert len(calls) == 3  # layer 1, layer 2 in vain, layer 2


@pytest.mark.parametrize("inside", ["compute_loss", "prediction_step"])
def test_training_and_its_evaluation_name_the_trainers_settings(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistillationTrainer, inside, runs_out)
    examples = labelled_examples(4)
    trainer = DistillationTrainer(
        tiny_llama(), tiny_qwen3(), config(tmp_path), train_dataset=examples, eval_dataset=examples
    )
    run_it = trainer.train if inside == "compute_loss" else trainer.evaluate
    knobs = "per_device_train.*gradient_checkpointing" if inside == "compute_loss" else "per_device_eval_batch_size"
    with pytest.raises(torch.OutOfMemoryError, match=rf"GiB\.\nSet a smaller {knobs}.*\Z"):
        run_it()


def test_evaluation_names_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_tc.evaluation.evaluate.evaluate_blocks", runs_out)
    with pytest.raises(torch.OutOfMemoryError, match=r"GiB\.\nSet a smaller batch_size, .*sequence_length"):
        evaluate(tiny_student(), letter_tokenizer(), [{"text": "abcdefgh" * 8}], sequence_length=8)


def test_generation_names_what_reads_a_prompt_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GenerationMixin, "generate", runs_out)
    with pytest.raises(torch.OutOfMemoryError, match=r"GiB\.\nSet prefill_chunk_size, .*\Z"):
        tiny_student().generate(torch.ones(1, 4, dtype=torch.long))
