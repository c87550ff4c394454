# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Where the teacher of a distillation computes.

| the teacher | is |
|---|---|
| in host memory; with several processes wherever it is | moved beside the student, whole on every process |
| the same under FSDP2 or DeepSpeed's ZeRO-3 | in shards over the processes, as the student is |
| on another GPU, or with a device map (host memory, disk, several devices) | left where it is; its inputs go there |
| in 8 bits | left where it is, whole on every process |
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import BitsAndBytesConfig, PreTrainedModel

from hf_tc.distillation.input_checks import check_keeps_documents_apart
from hf_tc.evaluation.lm_head import BackboneThenHead, call_through_wrapper
from hf_tc.evaluation.sharded_head import gather_with_model, is_sharded
from hf_tc.teachers.finite_weights import check_finite_weights
from hf_tc.teachers.loading import load_causal_lm
from hf_tc.teachers.offloading import execution_device, is_8bit, is_dispatched

Result = TypeVar("Result")


def load_distillation_teacher(teacher: PreTrainedModel | str | Path, args: Any) -> PreTrainedModel:
    """The teacher, loaded as a `DistillationConfig` says if it is a name; raises `ValueError` as `check_placement`."""
    check_placement(teacher, args)
    if not isinstance(teacher, str | Path):
        return teacher
    options: dict[str, Any] = {"device_map": args.teacher_device_map} if args.teacher_device_map else {}
    if args.teacher_in_8bit:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    return load_causal_lm(teacher, dtype="auto", **options)


def check_placement(teacher: PreTrainedModel | str | Path | None, args: Any) -> None:
    """Raises `ValueError` for a placement by a `DistillationConfig` of a teacher that is loaded already or is not
    there, or devices that several processes would share."""
    asked = [name for name in ("teacher_device_map", "teacher_in_8bit") if getattr(args, name)]
    if asked and not isinstance(teacher, str | Path):
        found = "there is no teacher" if teacher is None else f"a {type(teacher).__name__} was given"
        way_out = f"Leave {'it' if len(asked) == 1 else 'them'} out"
        raise ValueError(
            f"{_names_and_verb(asked)} for a teacher given by name, and {found}. {way_out}, or give its folder or Hub "
            "id."
        )
    if args.teacher_device_map and args.world_size > 1:
        raise ValueError(
            f"teacher_device_map is {args.teacher_device_map!r}, and each of {args.world_size} processes would put its "
            "teacher on the same devices. Leave it out; FSDP2 and ZeRO-3 shard the teacher, as the student."
        )


def _names_and_verb(names: list[str]) -> str:
    """Names as the subject of a sentence: "a is", "a and b are"."""
    *others, last = names
    return f"{', '.join(others)} and {last} are" if others else f"{last} is"


def place_teacher(teacher: PreTrainedModel, accelerator: Accelerator, args: Any, is_packed: bool) -> BackboneThenHead:
    """Puts a teacher where it computes, in eval mode and in place, and splits it. What is looked at in forwards is
    looked at before it is in shards: ZeRO-3 would keep for good what such a forward uses twice.

    Args:
        is_packed: its inputs are packed documents. Not looked at under FSDP2.

    Raises:
        ValueError: weights of it, or logits, are NaN or infinite; or packed documents see each other in it.
    """
    teacher.eval()
    has_its_place = bool(args.teacher_device_map) or _has_its_place(teacher, accelerator)
    if getattr(accelerator, "is_fsdp2", False) and not has_its_place:  # accelerate 1.6 and later have it
        parts = BackboneThenHead(teacher, has_weights=False)  # the first process brings the others theirs below
        _shard_by_fsdp2(teacher, accelerator)
        check_finite_weights(teacher, "teacher")
        return parts
    by_zero3 = not has_its_place and getattr(accelerator.deepspeed_plugin, "zero_stage", 0) == 3
    if not (has_its_place or by_zero3):
        teacher.to(args.device)
    check_finite_weights(teacher, "teacher")
    parts = BackboneThenHead(teacher)
    if is_packed:
        check_keeps_documents_apart(parts, "teacher")
    if by_zero3:
        _shard_by_zero3(teacher, accelerator)
    return parts


def _has_its_place(teacher: PreTrainedModel, accelerator: Accelerator) -> bool:
    if getattr(teacher, "hf_device_map", None) is not None or is_dispatched(teacher) or is_8bit(teacher):
        return True
    on_another_gpu = teacher.device.type != "cpu" and teacher.device != accelerator.device
    return on_another_gpu and accelerator.num_processes == 1


def _shard_by_fsdp2(teacher: PreTrainedModel, accelerator: Accelerator) -> None:
    """As accelerate shards the student: the same layers, mesh and precision."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    teacher.requires_grad_(False)
    plugin = accelerator.state.fsdp_plugin
    accelerator.state.fsdp_plugin = copy.copy(plugin)  # it notes the layers of the model that it sees first
    try:
        fsdp2_prepare_model(accelerator, teacher)
    finally:
        accelerator.state.fsdp_plugin = plugin


def _shard_by_zero3(teacher: PreTrainedModel, accelerator: Accelerator) -> None:
    """By the student's settings, those of offloading too. DeepSpeed has no autocast, so weights keep their dtype."""
    import deepspeed

    given = accelerator.deepspeed_plugin.deepspeed_config["zero_optimization"]
    settings = {name: value for name, value in given.items() if value != "auto" and name != "offload_optimizer"}
    config = {"zero_optimization": settings, "train_micro_batch_size_per_gpu": 1}  # which it wants, and does not use
    # Weight by weight: the engine would move a teacher that is whole to the GPU before it parts it.
    deepspeed.zero.Init(module=teacher, config_dict_or_path=config, dtype=teacher.dtype)
    for buffer in teacher.buffers():
        buffer.data = buffer.data.to(accelerator.device)
    engine, *_ = deepspeed.initialize(model=teacher, config=config)
    vars(teacher)["deepspeed_engine"] = engine  # it takes its hooks off the teacher when it is freed
    gather_with_model(teacher.get_output_embeddings(), teacher)


def inside_forward(teacher: Any, compute: Callable[[], Result]) -> Result:
    """`compute()`, all of it within one forward of a teacher in shards, where parts of it may be called one by one."""
    if teacher is None or not is_sharded(teacher):
        return compute()
    # Not as what the forward returns: the teacher would be prepared for a backward that never comes.
    results: list[Result] = []
    call_through_wrapper(teacher, teacher, lambda _: results.append(compute()), None)
    for module in teacher.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # some wait for that backward
    return results[0]


def beside(parts: BackboneThenHead, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch on the device where a model begins."""
    if isinstance(parts.model.get_input_embeddings(), FSDPModule):
        return dict(inputs)
    device = execution_device(parts.model.get_input_embeddings())
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
