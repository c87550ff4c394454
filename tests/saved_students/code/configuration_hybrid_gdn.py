# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a hybrid student: the teacher's configuration, word for word, and which layers became recurrent."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .serve_support import RemoteLoader, make_servable

LINEAR_ATTENTION = "linear_attention"


def _forwarded(name: str) -> property:
    """A property of the student's configuration that lives in `text_config`; tools read it at the top level."""

    def read(self: "HybridGDNConfig") -> Any:
        return getattr(self.text_config, name)

    def write(self: "HybridGDNConfig", value: Any) -> None:
        setattr(self.text_config, name, value)

    return property(read, write)


@strict
class HybridGDNConfig(PreTrainedConfig):
    r"""
    Configuration of [`HybridGDNForCausalLM`].

    Args:
        text_config (`dict` or `PreTrainedConfig`):
            The teacher's configuration, unchanged: the student is built from that family's own classes.
        layer_types (`list[str]`, *optional*):
            One entry a layer. `"linear_attention"` marks a Gated DeltaNet layer; any other entry must be what the
            teacher has there. Defaults to the teacher's layers, none converted.
        conv_kernel_size (`int`, *optional*, defaults to 4):
            Taps of the depthwise convolution over q, k and v of recurrent layers. 0 leaves it out.
        recurrent_rope (`bool`, *optional*, defaults to `True`):
            Whether recurrent layers rotate q and k as the teacher's attention does.
        nope_layers (`list[int]`, *optional*):
            Layers whose attention ignored positions in the teacher, where q and k are not rotated in any case.
        output_norm (`bool`, *optional*, defaults to `False`):
            Whether recurrent layers norm their read-out per head before the output gate. Without it the gate, the
            values and the queries can be solved for more exactly (see `hf_tc.calibration`).
        calibration (`dict`, *optional*):
            Where the weights come from: teacher, data, tokens, seed and versions of the conversion.
    """

    model_type = "hybrid_gdn"
    sub_configs = {"text_config": AutoConfig}
    keys_to_ignore_at_inference = ["past_key_values"]

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    layer_types: list[str] | None = None
    conv_kernel_size: int = 4
    recurrent_rope: bool = True
    output_norm: bool = False
    nope_layers: list[int] | None = None
    calibration: dict[str, Any] | None = None

    vocab_size = _forwarded("vocab_size")
    hidden_size = _forwarded("hidden_size")
    num_hidden_layers = _forwarded("num_hidden_layers")
    num_attention_heads = _forwarded("num_attention_heads")
    max_position_embeddings = _forwarded("max_position_embeddings")
    use_cache = _forwarded("use_cache")
    pad_token_id = _forwarded("pad_token_id")
    bos_token_id = _forwarded("bos_token_id")
    eos_token_id = _forwarded("eos_token_id")
    tie_word_embeddings = _forwarded("tie_word_embeddings")

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        elif isinstance(self.text_config, dict):
            fields = dict(self.text_config)
            self.text_config = AutoConfig.for_model(fields.pop("model_type", "llama"), **fields)
        # Fields of the text configuration may be given at the top level, as tests and `from_pretrained(...)` do.
        for name in list(kwargs):
            if isinstance(getattr(type(self), name, None), property) and name in _FORWARDED_NAMES:
                setattr(self.text_config, name, kwargs.pop(name))
        if self.layer_types is None:
            self.layer_types = self.teacher_layer_types
        super().__post_init__(**kwargs)

    @property
    def teacher_layer_types(self) -> list[str]:
        """What each layer was in the teacher, one name a layer."""
        teacher_types = getattr(self.text_config, "layer_types", None)
        if teacher_types is not None:
            return list(teacher_types)
        sliding = getattr(self.text_config, "sliding_window", None) is not None
        return ["sliding_attention" if sliding else "full_attention"] * self.num_hidden_layers

    @property
    def linear_layers(self) -> tuple[int, ...]:
        """Indices of the recurrent layers, ascending."""
        return tuple(i for i, kind in enumerate(self.layer_types or []) if kind == LINEAR_ATTENTION)

    @property
    def retained_layers(self) -> tuple[int, ...]:
        """Indices of the layers that keep softmax attention, ascending."""
        return tuple(i for i, kind in enumerate(self.layer_types or []) if kind != LINEAR_ATTENTION)

    def validate_architecture(self) -> None:
        """Raises `ValueError` where `layer_types` does not fit the teacher."""
        expected = self.teacher_layer_types
        if len(self.layer_types or []) != len(expected):
            raise ValueError(
                f"layer_types has {len(self.layer_types or [])} entries; the {self.text_config.model_type} teacher has "
                f"{len(expected)} layers. Give one entry a layer."
            )
        for index, (kind, teacher_kind) in enumerate(zip(self.layer_types or [], expected, strict=True)):
            if kind not in (LINEAR_ATTENTION, teacher_kind):
                raise ValueError(
                    f"layer_types[{index}] is {kind!r}; it must be 'linear_attention' or what the teacher has there, "
                    f"{teacher_kind!r}."
                )
        if self.conv_kernel_size < 0:
            raise ValueError(f"conv_kernel_size is {self.conv_kernel_size}; it must be 0 (no convolution) or more.")


_FORWARDED_NAMES = frozenset(
    name for name, value in vars(HybridGDNConfig).items() if isinstance(value, property) and value.fset is not None
)

if __name__.startswith("transformers_modules"):  # the student's own code, trusted by whoever loads it
    make_servable("HybridGDNForCausalLM", RemoteLoader)

__all__ = ["HybridGDNConfig"]
