# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What must hold of a student and a teacher before a distillation run starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import unset_hf_deepspeed_config
from transformers.utils import logging

from hf_tc.distillation.config import DistillationConfig
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.evaluation.sharded_head import is_sharded
from hf_tc.teachers.adapters import adapter_base, check_not_wrapped
from hf_tc.teachers.loading import load_causal_lm
from hf_tc.teachers.nope_layers import evaluating
from hf_tc.teachers.offloading import execution_device
from hf_tc.teachers.vocabulary import check_vocabularies_agree, check_vocabulary

logger = logging.get_logger(__name__)


def load_student(name: str | Path) -> PreTrainedModel:
    """The student in a folder or of a Hub id, in its own dtype, without remote code.

    Raises:
        ValueError: a PEFT adapter, or a damaged file of weights.
    """
    check_is_no_adapter(name)
    return load_causal_lm(name, dtype="auto")


def check_keeps_weights_whole(args: Any) -> None:
    """Raises ValueError where a launcher or a setting shares out weights over processes."""
    by_fsdp = args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")
    if by_fsdp or args.deepspeed_plugin is not None:
        raise ValueError(
            f"{'FSDP' if by_fsdp else 'DeepSpeed'} is asked for, and hf-tc distill measures and saves a student that "
            "every process has whole. Launch it with torchrun alone, or use DistillationTrainer in a script, which "
            "takes them."
        )


@contextmanager
def loading_whole(args: Any) -> Iterator[None]:
    """Inside, models are loaded whole under ZeRO-3 too, as what is to be checked and changed of them needs it. Else
    `from_pretrained` leaves a process its share, once there are arguments of a training with it."""
    if (plugin := args.deepspeed_plugin) is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        plugin.set_deepspeed_weakref()


def check_is_no_adapter(name: str | Path) -> None:
    """Raises ValueError for the folder or Hub id of a PEFT adapter: what is saved of it would be no student."""
    if (base := adapter_base(name)) is not None:
        raise ValueError(
            f"{name} is a PEFT adapter of {base}, not a student. Save what PeftModel.merge_and_unload() returns and "
            "give that folder; or give DistillationTrainer PeftModel.from_pretrained(..., is_trainable=True)."
        )


def check_student_and_teacher(student: nn.Module, teacher: nn.Module | None, processing_class: Any) -> None:
    """Raises ValueError for models that are wrapped, in shards already, share trained weights, or have other tokens
    than each other or the tokenizer. Without a teacher the student alone is looked at."""
    for role, model in (("student", student), ("teacher", teacher)):
        if model is None:
            continue
        check_not_wrapped(model, role)
        if is_sharded(model):
            raise ValueError(
                f"The weights of the {role} are in shards, as from_pretrained leaves them after a DistillationConfig "
                "with ZeRO-3 was made. Give its folder or Hub id, or load it before that."
            )
    if teacher is not None:
        check_vocabularies_agree(student, teacher)
        check_no_shared_parameters(student, teacher)
    if hasattr(processing_class, "get_vocab"):
        check_vocabulary(processing_class, student if teacher is None else teacher)


def check_no_shared_parameters(student: nn.Module, teacher: nn.Module) -> None:
    """Raise ValueError if training the student would change the teacher's weights."""
    teacher_storages = {_storage(parameter) for parameter in teacher.parameters()} - {0}
    shared = [
        name
        for name, parameter in student.named_parameters()
        if parameter.requires_grad and _storage(parameter) in teacher_storages
    ]
    if shared:
        raise ValueError(
            f"{len(shared)} trainable parameters of the student are the teacher's own memory (the first: {shared[0]}), "
            "so training would move the teacher. Pass a second copy, e.g. copy.deepcopy(teacher), or load the teacher "
            "again; or freeze these parameters."
        )


def _storage(parameter: nn.Parameter) -> int:
    return 0 if parameter.is_meta else parameter.untyped_storage().data_ptr()


def upcast_trainable_parameters(student: nn.Module, args: DistillationConfig) -> None:
    """Make fp32 masters of bf16 or fp16 trainable parameters, in place, and say so.

    An optimiser step of 1e-5 on a bf16 weight of 0.03 is lost in rounding. Without PEFT the whole student is upcast, so
    that its layers keep one dtype; with PEFT the frozen base keeps its own. The preset "lora" trains modules that,
    unlike PEFT's own layers, do not cast their input: without autocast the whole student is upcast there, too.
    """
    low = [p for p in student.parameters() if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)]
    if not low:
        return
    logger.warning(
        "The student's %d trainable parameter tensors in %s were upcast to float32: optimiser steps on them would be "
        "lost in rounding. Set bf16=True in DistillationConfig (--bf16) to compute in bf16 all the same.",
        len(low),
        str(low[0].dtype).removeprefix("torch."),
    )
    has_own_casts = getattr(student, "peft_config", None) is not None
    if not has_own_casts or (args.trains == "lora" and not (args.bf16 or args.fp16)):
        student.float()
        return
    for parameter in low:
        parameter.data = parameter.data.float()


def use_one_gpu_per_process(args: DistillationConfig) -> None:
    """Has `Trainer` leave other GPUs alone: its DataParallel would not run the student in two parts."""
    if args.n_gpu > 1:
        logger.warning("%d GPUs are visible, one is used. Start with torchrun or accelerate launch.", args.n_gpu)
        args._n_gpu = 1


@torch.no_grad()
def check_keeps_documents_apart(parts: BackboneThenHead, role: str) -> None:
    """Raises ValueError for a model in which the second of two documents of a row is not what it is by itself."""
    device = execution_device(parts.model.get_input_embeddings())
    tokens = torch.arange(8, device=device)[None]
    positions = torch.arange(4, device=device)[None]
    with evaluating(parts.model):
        try:
            packed = parts.hidden_states({"input_ids": tokens, "position_ids": torch.cat([positions] * 2, dim=1)})
            alone = parts.hidden_states({"input_ids": tokens[:, 4:], "position_ids": positions})
        except TypeError:  # no position_ids among its arguments
            packed = alone = torch.full((1, 4, 1), torch.nan)
    error, scale = (packed[:, 4:] - alone).float().abs().max().item(), alone.float().abs().max().item()
    if not error <= (1e-3 if alone.dtype == torch.float32 else 3e-2) * scale:
        raise ValueError(
            f"In the {role}, a {type(parts.model).__name__}, packed documents see each other: it does not tell them by "
            "position_ids. Set packing=False (--packing false)."
        )
