# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""From a teacher to a calibrated student: what `HybridGDNForCausalLM.from_teacher` and `hf-tc convert` do."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tc.assets import sample_text_path
from hf_tc.config import AlignmentConfig, ConversionConfig, joint_settings
from hf_tc.conversion.choose_layers import CANDIDATES, choose_layers
from hf_tc.conversion.run import Conversion
from hf_tc.data.contamination import check_contamination
from hf_tc.data.conversations import Document
from hf_tc.data.text_files import source_name
from hf_tc.data.token_blocks import CalibrationDataError, read_documents, token_blocks
from hf_tc.evaluation.perplexity import EVAL_TOKENS
from hf_tc.layer_selection.policies import check_policy
from hf_tc.layer_selection.selection import LayerSelection
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.teachers.adapters import check_no_adapter
from hf_tc.teachers.checks import check_teacher, load_teacher, resolve_text_config
from hf_tc.teachers.nope_layers import evaluating
from hf_tc.teachers.parity import parity_self_check
from hf_tc.teachers.vocabulary import check_tokenizers_agree, check_vocabulary

logger = logging.get_logger(__name__)

SHIPPED_SAMPLE = "the sample text that ships with hf_tc"


def from_teacher(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    calibration_data: Any = None,
    evaluation_data: Any = None,
    retained_layers: float | Sequence[int] | LayerSelection = 0.25,
    layer_policy: str | None = None,
    calibration_tokens: int = ConversionConfig.calibration_tokens,
    sequence_length: int = ConversionConfig.sequence_length,
    alignment_steps: int = AlignmentConfig.steps,
    joint_steps: int = 0,
    recurrent_rope: bool = True,
    conv_kernel_size: int = 4,
    output_norm: bool = False,
    seed: int = 0,
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
            `hf_tc.data.token_blocks.read_documents`; the sample text that ships with hf_tc by default.
        evaluation_data: text on which the perplexity of every stage is measured, none of it among the calibration
            text; by default the calibration blocks that no fit sees.
        retained_layers: share of layers that keep softmax attention, or their indices, or what `select_layers` chose.
        layer_policy: how a share becomes layers: one of `hf_tc.config.LAYER_POLICIES`.
        calibration_tokens, sequence_length: tokens of text to use, and tokens of a block of it.
        alignment_steps: gradient steps per layer, of 2,048 tokens or one block if that is longer; 0 keeps the closed
            form.
        joint_steps: gradient steps of all recurrent layers together afterwards, see `hf_tc.alignment.joint`.
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
    arguments = dict(locals())
    settings = ConversionConfig(
        calibration_tokens=calibration_tokens,
        sequence_length=sequence_length,
        alignment=AlignmentConfig(steps=alignment_steps),
        joint=joint_settings(joint_steps),
        student_options={
            "recurrent_rope": recurrent_rope,
            "conv_kernel_size": conv_kernel_size,
            "output_norm": output_norm,
        },
        seed=seed,
    )
    check_policy(retained_layers, layer_policy)
    check_no_adapter(teacher, merge_adapter)
    # Read before the teacher is loaded: that a file is missing should not take minutes to find out.
    evaluation_tokens = max(EVAL_TOKENS, sequence_length)
    evaluation_documents = None if evaluation_data is None else read_documents(evaluation_data, evaluation_tokens)
    owned = not isinstance(teacher, PreTrainedModel)
    loading = {"device": device, "device_map": device_map, "dtype": dtype, "merge_adapter": merge_adapter}
    teacher, tokenizer, blocks, data = teacher_and_text(
        teacher, tokenizer, calibration_data, settings, loading, allow_unreviewed
    )
    evaluation_blocks = None
    if evaluation_documents is not None:
        evaluation_blocks = token_blocks(evaluation_documents, tokenizer, sequence_length, evaluation_tokens)
        check_contamination(evaluation_blocks, blocks, tokenizer)
    with ExitStack() as stack:
        stack.enter_context(evaluating(teacher))
        folder = Path(checkpoint_dir or stack.enter_context(tempfile.TemporaryDirectory()))
        selection = choose_layers(teacher, blocks, retained_layers, layer_policy, settings, folder)
        candidates = folder / CANDIDATES
        conversion = Conversion(
            teacher,
            blocks,
            tuple(selection.retained_layers),
            settings,
            folder,
            data=data,
            evaluation_blocks=evaluation_blocks,
            share_weights=owned,
            candidates=candidates if candidates.exists() else None,
        )
        conversion.report.selection = selection
        conversion.report.arguments = shown_arguments(arguments)
        student = conversion.run()
    student.tokenizer = tokenizer
    return student


def shown_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `from_teacher` as a report can show them: text by its name, nothing that changes no result."""
    left_out = ("teacher", "tokenizer", "checkpoint_dir", "allow_unreviewed")
    shown = {name: value for name, value in arguments.items() if name not in left_out and value is not None}
    for name in ("calibration_data", "evaluation_data"):
        if name in shown:
            shown[name] = source_name(shown[name])
    for name in ("device", "dtype"):
        if name in shown:
            shown[name] = str(shown[name]).removeprefix("torch.")
    if isinstance(shown["retained_layers"], LayerSelection):
        shown["retained_layers"] = shown["retained_layers"].retained_layers
    if not shown["merge_adapter"]:
        del shown["merge_adapter"]
    return shown


def select_layers(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    calibration_data: Any = None,
    retained_layers: float = 0.25,
    layer_policy: str | None = None,
    calibration_tokens: int = ConversionConfig.calibration_tokens,
    sequence_length: int = ConversionConfig.sequence_length,
    seed: int = 0,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    dtype: str | torch.dtype = "auto",
    allow_unreviewed: bool = False,
    merge_adapter: bool = False,
    checkpoint_dir: str | Path | None = None,
) -> LayerSelection:
    """Which layers `from_teacher` with these arguments would retain, and why; nothing is converted.

    The result can be given to `from_teacher` as `retained_layers`. Arguments and errors are those of `from_teacher`.
    """
    check_policy(retained_layers, layer_policy)
    check_no_adapter(teacher, merge_adapter)
    settings = ConversionConfig(calibration_tokens=calibration_tokens, sequence_length=sequence_length, seed=seed)
    loading = {"device": device, "device_map": device_map, "dtype": dtype, "merge_adapter": merge_adapter}
    teacher, tokenizer, blocks, _ = teacher_and_text(
        teacher, tokenizer, calibration_data, settings, loading, allow_unreviewed
    )
    with ExitStack() as stack:
        stack.enter_context(evaluating(teacher))
        folder = checkpoint_dir or stack.enter_context(tempfile.TemporaryDirectory())
        return choose_layers(teacher, blocks, retained_layers, layer_policy, settings, folder)


def teacher_and_text(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None,
    calibration_data: Any,
    settings: ConversionConfig,
    loading: dict[str, Any],
    allow_unreviewed: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Tensor, str]:
    """The checked teacher, its tokenizer, the calibration blocks `[N, T]` and the name of their text.

    Args:
        loading: options of `load_teacher`.
    """
    documents, data = calibration_documents(calibration_data, settings.calibration_tokens)
    if tokenizer is not None:
        check_tokenizers_agree({"The tokenizer given": tokenizer}, teacher)
    teacher, tokenizer = load_teacher(teacher, tokenizer, **loading)
    check_teacher(teacher, allow_unreviewed=allow_unreviewed)
    check_vocabulary(tokenizer, teacher)
    blocks = calibration_blocks(documents, data, tokenizer, settings)
    parity_self_check(resolve_text_config(teacher))
    return teacher, tokenizer, blocks, data


def calibration_documents(source: Any, max_tokens: int | None = None) -> tuple[list[Document], str]:
    """The documents to calibrate on, no more than so many tokens need, and the name of the data; the packaged sample
    where no source is given."""
    if source is None:
        logger.warning(f"No calibration_data given: calibrating on {SHIPPED_SAMPLE}. Your own text is better.")
        return read_documents(sample_text_path("calibration")), SHIPPED_SAMPLE
    return read_documents(source, max_tokens), source_name(source)


def calibration_blocks(
    documents: list[Document], name: str, tokenizer: PreTrainedTokenizerBase, settings: ConversionConfig
) -> Tensor:
    """Token ids `[N, T]` in a seeded order.

    Raises:
        CalibrationDataError: less text than two blocks, one to fit and one held out.
    """
    length, wanted = settings.sequence_length, settings.calibration_tokens
    blocks = token_blocks(documents, tokenizer, length, wanted)
    if len(blocks) < 2:
        raise CalibrationDataError(
            f"{name} has {blocks.numel()} tokens in blocks of {length}; two blocks are needed, one to fit and one held "
            "out. Give more text or a shorter sequence_length."
        )
    if len(blocks) < wanted // length:
        logger.warning(f"{name} has {blocks.numel():,} of the {wanted:,} tokens asked for; going on with those.")
    return blocks[torch.randperm(len(blocks), generator=torch.Generator().manual_seed(settings.seed))]
