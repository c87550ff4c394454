# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Bytes that generation keeps for one sequence: keys and values of attention, states of recurrent layers."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers, head_shape

STATE_ITEMSIZE = 4  # recurrent states are float32
LONGEST_CONTEXT = 2**30  # tokens; where the student's cache is larger up to here, it always is


@dataclass(frozen=True)
class KeyValueShape:
    """What one layer's attention caches: K/V heads, their size, and the window that it keeps, if any."""

    kv_heads: int
    head_dim: int
    window: int | None

    def values(self, tokens: int) -> int:
        """2 x heads x head size x tokens, at most window - 1 of them.

        Transformers' sliding cache keeps one token less than the window: the next token is in it too.
        """
        kept = tokens if self.window is None else min(tokens, self.window - 1)
        return 2 * self.kv_heads * self.head_dim * kept


@dataclass(frozen=True)
class CacheSizes:
    """Caches of a teacher and of its student, in bytes a sequence.

    Attributes:
        layers: of the teacher; retained: indices of those that the student keeps.
        itemsize: bytes of a cached key or value.
        state_bytes: states of the recurrence and of the convolution, the same at any length.
    """

    layers: tuple[KeyValueShape, ...]
    retained: tuple[int, ...]
    itemsize: int
    state_bytes: int

    def teacher(self, tokens: int) -> int:
        return sum(layer.values(tokens) for layer in self.layers) * self.itemsize

    def student(self, tokens: int) -> int:
        return self.state_bytes + sum(self.layers[index].values(tokens) for index in self.retained) * self.itemsize

    @property
    def growth(self) -> tuple[int, int]:
        """What 1,000 further tokens take in teacher and student once every window is full."""
        full = max(layer.window or 0 for layer in self.layers)
        return self.teacher(full + 1000) - self.teacher(full), self.student(full + 1000) - self.student(full)

    @property
    def break_even_tokens(self) -> int | None:
        """The shortest context at which the student's cache is smaller than the teacher's; None if it never is.

        The difference never falls as the context grows, so bisection finds where it turns positive.
        """
        low, high = 0, LONGEST_CONTEXT
        if self.student(high) >= self.teacher(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.student(middle) < self.teacher(middle) else (middle, high)
        return high


def cache_sizes(teacher: PreTrainedModel, student: HybridGDNForCausalLM, itemsize: int) -> CacheSizes:
    """From the modules of both, which may be on the meta device."""
    config, shapes = student.config, []
    for layer, kind in zip(find_decoder_layers(teacher.base_model), config.teacher_layer_types, strict=True):
        _, kv_heads, head_dim = head_shape(find_attention(layer)[1], teacher.config)
        window = getattr(teacher.config, "sliding_window", None) if kind == "sliding_attention" else None
        shapes.append(KeyValueShape(kv_heads, head_dim, window))
    mixers = (module for module in student.modules() if isinstance(module, GatedDeltaNet))
    return CacheSizes(
        tuple(shapes), config.retained_layers, itemsize, sum(_state_bytes(mixer, itemsize) for mixer in mixers)
    )


def _state_bytes(mixer: GatedDeltaNet, itemsize: int) -> int:
    """heads x head size^2 in float32, and kernel size - 1 tokens of what enters the convolution."""
    channels = (mixer.num_heads + 2 * mixer.num_kv_heads) * mixer.head_dim
    conv_tokens = 0 if mixer.short_conv is None else mixer.short_conv.kernel_size - 1
    return mixer.num_heads * mixer.head_dim**2 * STATE_ITEMSIZE + conv_tokens * channels * itemsize
