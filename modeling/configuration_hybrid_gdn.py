# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a hybrid student: the teacher's configuration, word for word, and which layers became recurrent."""

import dataclasses
from typing import Any

from .supported_versions import warn_if_untested  # first: it checks the release of Transformers

# isort: split
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .library_cache import CACHE_NAME
from .serve_support import RemoteLoader, make_servable

LINEAR_ATTENTION = "linear_attention"


# Fields that the library gives to every configuration; the family's code reads them from its own.
READ_BY_THE_FAMILY = ("output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward")


@strict
class HybridGDNConfig(PreTrainedConfig):
    r"""
    Configuration of [`HybridGDNForCausalLM`].

    Args:
        text_config (`dict` or `PreTrainedConfig`):
            The teacher's configuration, unchanged: the student is built from that family's own classes. Its settings
            can be read and set at the top level too, and in `from_pretrained(...)`, as with the teacher.
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
            Whether recurrent layers norm their output per head before the output gate. Without it the gate, the
            values and the queries can be solved for more exactly (see `hf_tc.calibration`).
        output_norm_eps (`float`, *optional*, defaults to 1e-5):
            What that norm adds to the mean square.
        conv_activation (`str`, *optional*):
            What follows the convolution: nothing, or `"silu"`.
        recurrent_bias (`bool`, *optional*, defaults to `True`):
            Whether recurrent layers have biases: those of the teacher's projections, of the write gate and of the
            output gate.
        recurrent_qk_norm (`bool`, *optional*, defaults to `True`):
            Whether recurrent layers have the teacher's norms of q and k. Without them their weights are part of the
            projections.
        first_token_value (`bool`, *optional*, defaults to `False`):
            Whether a text's first token adds its own value to the output of recurrent layers, which softmax attention
            gives it whole and an empty memory does not; by a weight for each channel.
        calibration (`dict`, *optional*):
            Where the weights come from: teacher, data, tokens, seed and versions of the conversion.
        hf_tc_version (`str`, *optional*):
            The release of hf_tc that saved the student; written by `save_pretrained`.
        code_sha256 (`str`, *optional*):
            SHA-256 of the code files that were saved beside the configuration; written by `save_pretrained`.
    """

    model_type = "hybrid_gdn"
    sub_configs = {"text_config": AutoConfig}
    keys_to_ignore_at_inference = [CACHE_NAME]

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    layer_types: list[str] | None = None
    conv_kernel_size: int = 4
    recurrent_rope: bool = True
    output_norm: bool = False
    output_norm_eps: float = 1e-5
    conv_activation: str | None = None
    recurrent_bias: bool = True
    recurrent_qk_norm: bool = True
    first_token_value: bool = False
    nope_layers: list[int] | None = None
    calibration: dict[str, Any] | None = None
    hf_tc_version: str | None = None
    code_sha256: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        warn_if_untested()
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        elif isinstance(self.text_config, dict):
            fields = dict(self.text_config)
            self.text_config = AutoConfig.for_model(fields.pop("model_type", "llama"), **fields)
        given = {name: vars(self).pop(name) for name in READ_BY_THE_FAMILY if name in vars(self)}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        kwargs |= {name: value for name, value in given.items() if value != defaults[name]}
        for name in [name for name in kwargs if self._is_the_teachers(name)]:
            setattr(self.text_config, name, kwargs.pop(name))
        if self.layer_types is None:
            self.layer_types = self.teacher_layer_types
        elif self._window_was_dropped():
            self.layer_types = ["full_attention" if kind == "sliding_attention" else kind for kind in self.layer_types]
        super().__post_init__(**kwargs)

    @property
    def teacher_config(self) -> PreTrainedConfig:
        """`text_config`, which is an object whatever it was given as."""
        assert isinstance(self.text_config, PreTrainedConfig)
        return self.text_config

    def _window_was_dropped(self) -> bool:
        """Whether the teacher's configuration forgets a window whose switch is off when it loads, as Qwen3-MoE's does.

        Its layers may then have been saved as sliding, by whoever set `sliding_window` and not the switch.
        """
        fields = vars(self.text_config)
        is_off = fields.get("use_sliding_window") is False and fields.get("sliding_window") is None
        return is_off and "layer_types" not in fields

    def _is_the_teachers(self, name: str) -> bool:
        """Whether a setting is one of the teacher's configuration, which the family's code reads there alone."""
        text_config = vars(self).get("text_config")
        if not isinstance(text_config, PreTrainedConfig) or name.startswith("_"):
            return False
        return name in READ_BY_THE_FAMILY or (not hasattr(type(self), name) and hasattr(text_config, name))

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_the_teachers(name):
            before = self.teacher_layer_types
            setattr(self.text_config, name, value)
            self._follow_the_teachers_layers(before)
        else:
            super().__setattr__(name, value)

    def _follow_the_teachers_layers(self, before: list[str]) -> None:
        """Retained layers are what the teacher's settings, such as `sliding_window`, make of them."""
        own, after = vars(self).get("layer_types") or [], self.teacher_layer_types
        if before != after and len(own) == len(before) == len(after):
            kinds = zip(own, before, after, strict=True)
            self.layer_types = [new if kind == old else kind for kind, old, new in kinds]

    def __getattribute__(self, name: str) -> Any:
        if name in READ_BY_THE_FAMILY and isinstance(vars(self).get("text_config"), PreTrainedConfig):
            return getattr(self.text_config, name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if self._is_the_teachers(name):
            return getattr(self.text_config, name)
        raise AttributeError(f"{type(self).__name__} has no setting {name!r}, nor has the teacher's configuration.")

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
        return tuple(i for i, kind in enumerate(self._present_layer_types) if kind == LINEAR_ATTENTION)

    @property
    def retained_layers(self) -> tuple[int, ...]:
        """Indices of the layers that keep softmax attention, ascending."""
        return tuple(i for i, kind in enumerate(self._present_layer_types) if kind != LINEAR_ATTENTION)

    @property
    def _present_layer_types(self) -> list[str]:
        """Early exit, a way of assisted decoding, lowers `num_hidden_layers` while it runs."""
        return (self.layer_types or [])[: self.num_hidden_layers]

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The rotary settings are the teacher's, whose class knows their form; some have a set a kind of layer."""
        return self.teacher_config.convert_rope_params_to_dict(**kwargs)

    def validate_rope(self) -> None:
        """As above: the teacher's configuration checks them."""
        self.teacher_config.validate_rope()

    def validate_architecture(self) -> None:
        """Raises `ValueError` where `layer_types` does not fit the teacher."""
        own, expected, family = self.layer_types or [], self.teacher_layer_types, self.teacher_config.model_type
        if len(own) != len(expected):
            raise ValueError(
                f"layer_types has {len(own)} entries; the {family} teacher has {len(expected)} layers. Give one entry "
                "a layer."
            )
        for index, (kind, teacher_kind) in enumerate(zip(own, expected, strict=True)):
            if kind not in (LINEAR_ATTENTION, teacher_kind):
                raise ValueError(
                    f"layer_types[{index}] is {kind!r}; it must be 'linear_attention' or what the teacher has there, "
                    f"{teacher_kind!r}."
                )
        if self.conv_kernel_size < 0:
            raise ValueError(f"conv_kernel_size is {self.conv_kernel_size}; it must be 0 (no convolution) or more.")
        if self.conv_activation not in (None, "silu"):
            raise ValueError(f"conv_activation is {self.conv_activation!r}; it must be None or 'silu'.")
        if self.conv_activation is not None and self.conv_kernel_size < 2:
            raise ValueError(
                f"conv_activation is {self.conv_activation!r} and conv_kernel_size {self.conv_kernel_size}; without a "
                "convolution of 2 or more nothing is activated. Leave conv_activation out."
            )


if __name__.startswith("transformers_modules"):  # the student's own code, trusted by whoever loads it
    make_servable("HybridGDNForCausalLM", RemoteLoader)

__all__ = ["HybridGDNConfig"]
