# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""vLLM's classes of students, one a family, made when they are asked for: `student_classes.HybridGDNQwen3ForCausalLM`.

Each is vLLM's own class of the family, in whose recurrent layers the attention module is replaced after it was built.
"""

import types
from functools import cache
from typing import Any

import torch
from vllm import ModelRegistry
from vllm.model_executor.layers.mamba.mamba_utils import MambaStateCopyFuncCalculator
from vllm.model_executor.models.interfaces import HasInnerState, IsHybrid, SupportsMambaPrefixCaching
from vllm.model_executor.models.utils import PPMissingLayer

from .families import served_architectures
from .mixer import RecurrentMixer
from .paged_states import state_dtypes, state_shapes


class WithRecurrentLayers:
    """Comes before vLLM's class of a family among the bases of a student's class."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        student = vllm_config.model_config.hf_config
        super().__init__(vllm_config=vllm_config.with_hf_config(student.text_config), prefix=prefix)  # type: ignore[call-arg]
        for index in student.linear_layers:
            replace_attention(self.model.layers[index], index, vllm_config)  # type: ignore[attr-defined]

    @classmethod
    def get_mamba_state_shape_from_config(cls, vllm_config: Any) -> tuple[tuple[int, ...], ...]:
        return state_shapes(vllm_config)

    @classmethod
    def get_mamba_state_dtype_from_config(cls, vllm_config: Any) -> tuple[torch.dtype, ...]:
        return state_dtypes(vllm_config)

    @classmethod
    def get_mamba_state_copy_func(cls) -> tuple[Any, ...]:
        return MambaStateCopyFuncCalculator.gated_delta_net_state_copy_func()


def replace_attention(layer: Any, index: int, vllm_config: Any) -> None:
    """Puts a recurrent mixer where a decoder layer has its attention; a layer of another pipeline rank has none.

    Raises:
        ValueError: no child of the layer looks like an attention module.
    """
    if isinstance(layer, PPMissingLayer):
        return
    for name, child in layer.named_children():
        if hasattr(child, "qkv_proj") and hasattr(child, "attn"):
            attention_name = child.attn.layer_name
            del vllm_config.compilation_config.static_forward_context[attention_name]  # it needs no cache
            setattr(layer, name, RecurrentMixer(child, index, vllm_config, attention_name.rpartition(".")[0]))
            return
    raise ValueError(f"{type(layer).__name__} has no attention with a qkv_proj; vLLM's class of this family differs.")


@cache
def student_class(name: str) -> Any:
    """A student's class by its name in vLLM."""
    family_class = ModelRegistry.models[served_architectures()[name]].load_model_cls()
    bases = (WithRecurrentLayers, family_class, HasInnerState, IsHybrid, SupportsMambaPrefixCaching)
    return types.new_class(name, bases, exec_body=lambda body: body.update(__module__=__name__))


def __getattr__(name: str) -> Any:
    if name not in served_architectures():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return student_class(name)
