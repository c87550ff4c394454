# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Where a teacher's weights are and where they compute: one device or several, offloaded to CPU or disk, 8-bit.

A teacher loaded with `device_map` computes through accelerate's hooks, which bring weights that live elsewhere, layer
by layer. A conversion also reads the weights themselves, and lays the student's beside them: on the GPU where the
teacher's are on a GPU, in host memory where they are offloaded or quantised. There the student is an ordinary model,
whose weights can be read and written; it computes inside `dispatched_like` alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.accelerate import load_offloaded_parameter
from transformers.utils.quantization_config import QuantizationMethod

OFFLOADED = ("cpu", "disk")


def execution_device(module: nn.Module) -> torch.device:
    """The device a module computes on: its hook's where its weights are offloaded, else that of its weights."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(module.parameters()).device


def device_name(device: torch.device) -> str:
    """The model of a GPU, or the threads that a CPU computes with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, threads: {torch.get_num_threads()}"


def is_dispatched(model: nn.Module) -> bool:
    """Whether accelerate's hooks move the model's weights or inputs between devices."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def is_8bit(model: PreTrainedModel) -> bool:
    """Whether the model was quantised to 8 bits by bitsandbytes, the one quantisation that can be converted from."""
    config: Any = getattr(getattr(model, "hf_quantizer", None), "quantization_config", None)
    is_bitsandbytes = getattr(config, "quant_method", None) == QuantizationMethod.BITS_AND_BYTES
    return is_bitsandbytes and bool(config.load_in_8bit)


def stored_weights(model: PreTrainedModel, role: str = "teacher", within: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of `state_dict()`, offloaded ones read from where they are, 8-bit ones in the model's dtype.

    One tensor exists at a time. Those in memory are the model's own, not copies; what was quantised is in host memory.
    With `within`, those alone whose name begins so.

    Raises:
        ValueError: a tensor without data (meta device) that was not offloaded.
    """
    quantised = dict(_quantised_linears(model)) if is_8bit(model) else {}
    for name, tensor in model.state_dict().items():
        owner, _, kind = name.rpartition(".")
        if not name.startswith(within):
            continue
        if tensor.is_meta:
            tensor = _read_offloaded(model, name, role)
        if owner not in quantised:
            yield name, tensor
        elif kind == "weight":
            yield name, _dequantised(quantised[owner], tensor, model).to(model.dtype)
        elif kind == "bias":
            yield name, tensor.to("cpu", model.dtype)


def _read_offloaded(model: PreTrainedModel, name: str, role: str) -> Tensor:
    try:
        return load_offloaded_parameter(model, name)
    except ValueError as error:
        raise ValueError(
            f"The {role}'s {name} has no data (it is on the meta device and was not offloaded). Load its "
            "weights: AutoModelForCausalLM.from_pretrained(...)."
        ) from error


def _quantised_linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    from bitsandbytes.nn import Linear8bitLt

    return ((name, module) for name, module in model.named_modules() if isinstance(module, Linear8bitLt))


def _dequantised(linear: Any, weight: Tensor, model: PreTrainedModel) -> Tensor:
    """Rows of int8 times their scale: bitsandbytes keeps the largest magnitude of each row, which 127 stands for."""
    scale = linear.weight.SCB if linear.state.SCB is None else linear.state.SCB
    return weight.cpu().float() * (scale.cpu().float() / 127.0)[:, None]


def student_device_map(teacher: PreTrainedModel) -> dict[str, Any] | None:
    """Where the student's modules go, or None for a teacher that lives on one device as it is.

    As the teacher's, with host memory for what is on disk; all of it in host memory for a quantised teacher, whose
    student is larger than itself.
    """
    if is_8bit(teacher):
        return {"": "cpu"}
    if not is_dispatched(teacher):
        return None
    device_map: Mapping[str, Any] = getattr(teacher, "hf_device_map", {"": "cpu"})
    return {name: "cpu" if device in OFFLOADED else device for name, device in device_map.items()}


def dispatch_like(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Makes the student compute where its teacher computes, with its weights where they are."""
    device_map, device = student_device_map(teacher), execution_device(teacher)
    if device_map is None:
        return
    if set(device_map.values()) != {"cpu"}:
        skipped = getattr(student, "_skip_keys_device_placement", None)
        dispatch_model(student, device_map, main_device=device, skip_keys=skipped)
    elif device.type != "cpu":
        cpu_offload(student, device)
        vars(student)["hf_device_map"] = device_map


def gather(student: PreTrainedModel) -> None:
    """Takes accelerate's hooks off again: every weight is where it is stored."""
    if is_dispatched(student):
        remove_hook_from_submodules(student)
        student.tie_weights()
        vars(student).pop("hf_device_map", None)


@contextmanager
def dispatched_like(student: PreTrainedModel, teacher: PreTrainedModel) -> Iterator[None]:
    """Inside, the student computes where its teacher does; outside, its weights can be read and written."""
    dispatch_like(student, teacher)
    try:
        yield
    finally:
        gather(student)
