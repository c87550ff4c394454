# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""From a teacher to a calibrated student: what `HybridGDNForCausalLM.from_teacher` and `hf-tc convert` do."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tc.config import (
    AlignmentConfig,
    ConversionConfig,
    MixerConfig,
    SelectionConfig,
)
from hf_tc.conversion.calibration_text import CalibrationText
from hf_tc.conversion.choose_layers import choose_layers
from hf_tc.conversion.run import convert
from hf_tc.conversion.stage_clock import StageClock
from hf_tc.conversion.task import ConversionTask
from hf_tc.data.contamination import check_contamination
from hf_tc.data.mixture import shown_data
from hf_tc.data.text_files import source_name
from hf_tc.data.token_blocks import read_documents, token_blocks
from hf_tc.evaluation.perplexity import EVAL_TOKENS
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.options import OPTIONS, options_of, takes_options, with_options
from hf_tc.selection import LayerSelection
from hf_tc.teachers.adapters import check_no_adapter
from hf_tc.teachers.checks import check_teacher, load_teacher, resolve_text_config, will_be_on_one_gpu
from hf_tc.teachers.nope_layers import evaluating
from hf_tc.teachers.parity import parity_self_check
from hf_tc.teachers.positions import check_fits
from hf_tc.teachers.vocabulary import check_tokenizers_agree, check_vocabulary, tokenizer_of


def from_teacher(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    calibration_data: Any = None,
    evaluation_data: Any = None,
    retained_layers: float | Sequence[int] | LayerSelection = SelectionConfig.retained_layers,
    layer_policy: str | None = None,
    calibration_tokens: int = ConversionConfig.calibration_tokens,
    sequence_length: int = ConversionConfig.sequence_length,
    alignment_steps: int = AlignmentConfig.steps,
    joint_steps: int | None = None,
    mixer_form: str = MixerConfig.form,
    recurrent_rope: bool = MixerConfig.recurrent_rope,
    conv_kernel_size: int = MixerConfig.conv_kernel_size,
    output_norm: bool = MixerConfig.output_norm,
    seed: int = ConversionConfig.seed,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    dtype: str | torch.dtype = "auto",
    allow_unreviewed: bool = False,
    merge_adapter: bool = False,
    checkpoint_dir: str | Path | None = None,
) -> HybridGDNForCausalLM:
    """Converts a pretrained Transformer into a calibrated student, by Taylor-Calibrate (arXiv 2606.16429).

    Args:
        teacher: a causal language model, a folder or a Hub id. A model stays as it is, and the student gets copies of
            its weights. What is loaded from a folder or id belongs to the student, without a second copy.
        tokenizer: defaults to the teacher's own.
        calibration_data: files, a Hub dataset, a `datasets` object, text or a list of texts or rows, see
            `hf_tc.data.token_blocks.read_documents`; "sampled" for text that the teacher writes itself, of one kind
            with "sampled:chat" or "sampled:free"; or several of these with their shares of the tokens, {"wiki.txt":
            0.5, "sampled": 0.5}. By default the sample text that ships with hf_tc, and as much or more sampled text
            where the teacher is on one GPU.
        evaluation_data: text on which the perplexity of every stage is measured, none of it among the calibration
            text; by default the calibration blocks that no fit sees.
        retained_layers: share of layers that keep softmax attention, or their indices, or what `select_layers` chose.
        layer_policy: how a share becomes layers: one of `hf_tc.config.LAYER_POLICIES`.
        calibration_tokens, sequence_length: tokens of text to use, and tokens of a block of it, which must fit the
            positions of the teacher.
        alignment_steps: gradient steps per layer, of 2,048 tokens or one block if that is longer; 0 keeps the closed
            form.
        joint_steps: gradient steps of all recurrent layers together afterwards, see `hf_tc.alignment.joint`; by default
            as many as `hf_tc.config.JOINT_STEPS` where the teacher is on a GPU with room for them, and none elsewhere.
        mixer_form: what the recurrent layers compute: "gdn", or "qwen3_5", Qwen3.5's layers, which `hf_tc.export`
            needs; those have no rotation and an output norm, whatever the options below say.
        recurrent_rope, conv_kernel_size, output_norm: see `HybridGDNConfig`.
        device, dtype: where and in what precision a teacher given by name is loaded; a model is moved to `device`.
        device_map: instead of `device`, where the parts of a teacher given by name go, as in `from_pretrained`: "auto"
            for a teacher that does not fit on one GPU. The student is laid beside it, with what does not fit on GPUs in
            host memory.
        allow_unreviewed: convert a family whose attention was not reviewed.
        merge_adapter: the teacher is a PEFT model, or the folder or Hub id of an adapter; convert its base model with
            the adapter merged into the weights. A PEFT model stays as it is, which costs a copy.
        checkpoint_dir: folder of finished layers; the same call goes on there after an interruption.

    Returns:
        The student, with the figures of the conversion in `student.conversion_report`.

    Raises:
        ValueError: the teacher, the text or an option cannot be used; the message says why.
    """
    options = {name: value for name, value in locals().items() if name in OPTIONS}
    return convert_teacher(
        teacher,
        tokenizer,
        with_options(ConversionConfig(), options),
        calibration_data=calibration_data,
        evaluation_data=evaluation_data,
        checkpoint_dir=checkpoint_dir,
    )


def convert_teacher(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None,
    settings: ConversionConfig,
    *,
    calibration_data: Any = None,
    evaluation_data: Any = None,
    checkpoint_dir: str | Path | None = None,
) -> HybridGDNForCausalLM:
    """`from_teacher`, with its settings as a tree."""
    clock, owned = StageClock(), not isinstance(teacher, PreTrainedModel)
    evaluation_tokens = max(EVAL_TOKENS, settings.sequence_length)
    with clock.stage("load"):
        # Read before the teacher is loaded: that a file is missing should not take minutes to find out.
        documents = None if evaluation_data is None else read_documents(evaluation_data, evaluation_tokens)
    with folder_for_layers(checkpoint_dir) as folder:
        given = teacher, tokenizer, calibration_data
        teacher, tokenizer, blocks, text = teacher_and_text(*given, settings, folder, clock)
        evaluation_blocks = None
        if documents is not None:
            with clock.stage("checks"):
                evaluation_blocks = token_blocks(documents, tokenizer, settings.sequence_length, evaluation_tokens)
                check_contamination(evaluation_blocks, blocks, tokenizer)
        with evaluating(teacher):
            task = ConversionTask(teacher, blocks, settings, folder, share_weights=owned, clock=clock)
            arguments = shown_arguments(settings, text.data, evaluation_data)
            student = convert(task, choose_layers(task), evaluation_blocks, data=text.name, arguments=arguments)
    student.tokenizer = tokenizer
    return student


@takes_options("alignment", "joint")
def select_layers(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    calibration_data: Any = None,
    checkpoint_dir: str | Path | None = None,
    **options: Any,
) -> LayerSelection:
    """Which layers `from_teacher` with these arguments would retain, and why; nothing is converted.

    The result can be given to `from_teacher` as `retained_layers`. Arguments and errors are those of `from_teacher`.
    """
    settings, clock = with_options(ConversionConfig(), options), StageClock()
    with folder_for_layers(checkpoint_dir) as folder:
        teacher, _, blocks, _ = teacher_and_text(teacher, tokenizer, calibration_data, settings, folder, clock)
        with evaluating(teacher):
            # The student is for measurements alone, so that it can share all that it does not train.
            return choose_layers(ConversionTask(teacher, blocks, settings, folder, share_weights=True, clock=clock))


@contextmanager
def folder_for_layers(checkpoint_dir: str | Path | None) -> Iterator[Path]:
    """The folder that was given, or one that goes with the context."""
    if checkpoint_dir is not None:
        yield Path(checkpoint_dir)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def shown_arguments(settings: ConversionConfig, calibration_data: Any, evaluation_data: Any) -> dict[str, Any]:
    """Arguments of `from_teacher` as a report can show them: text by its name, nothing that changes no result."""
    texts = {"calibration_data": (shown_data, calibration_data), "evaluation_data": (source_name, evaluation_data)}
    shown: dict[str, Any] = {name: show(text) for name, (show, text) in texts.items() if text is not None}
    shown |= {name: value for name, value in options_of(settings).items() if value is not None}
    for name in ("device", "dtype"):
        if name in shown:
            shown[name] = str(shown[name]).removeprefix("torch.")
    if isinstance(shown["retained_layers"], LayerSelection):
        shown["retained_layers"] = shown["retained_layers"].retained_layers
    left_out = {"allow_unreviewed"} if shown["merge_adapter"] else {"allow_unreviewed", "merge_adapter"}
    return {name: value for name, value in shown.items() if name not in left_out}


def teacher_and_text(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None,
    calibration_data: Any,
    settings: ConversionConfig,
    folder: Path,
    clock: StageClock,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Tensor, CalibrationText]:
    """The checked teacher, its tokenizer, the calibration blocks `[N, T]` and the text that they are of.

    What the teacher samples is kept in the folder.
    """
    loading = settings.loading
    check_no_adapter(teacher, loading.merge_adapter)
    check_fits({"teacher": teacher}, settings.sequence_length)
    with clock.stage("load"):
        on_gpu = will_be_on_one_gpu(teacher, loading.device, loading.device_map)
        text = CalibrationText(calibration_data, settings, on_gpu)
        if tokenizer is not None:
            check_tokenizers_agree({"The tokenizer given": tokenizer}, teacher)
        if text.is_sampled:
            text.check_sampling(tokenizer or tokenizer_of(teacher))
        teacher, tokenizer = load_teacher(
            teacher, tokenizer, loading.device, loading.device_map, loading.dtype, loading.merge_adapter
        )
    with clock.stage("checks"):
        check_teacher(teacher, allow_unreviewed=loading.allow_unreviewed)
        check_vocabulary(tokenizer, teacher)
        parity_self_check(resolve_text_config(teacher))
    if text.is_sampled:
        text.read(tokenizer)
        with clock.stage("sample"):
            text.sample(teacher, tokenizer, folder)
    return teacher, tokenizer, text.blocks(tokenizer), text
