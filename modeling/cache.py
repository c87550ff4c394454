# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The memory of one recurrent layer inside a Transformers cache: a state, a convolution window, a token count."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionLayer

from .gated_delta_rule import gated_delta_rule


class Recording(NamedTuple):
    """What one or more forwards fed to the recurrence, so that a rollback can be replayed exactly."""

    initial_state: torch.Tensor | None  # [B, H, K, V] before the first recorded token
    initial_conv_state: torch.Tensor | None  # [B, kernel_size - 1, channels]
    inputs: dict[str, torch.Tensor]  # k, v, log_decay, beta, each [B, T, ...]
    window: torch.Tensor | None  # [B, T, channels], what entered the convolution


class GDNCacheLayer(LinearAttentionLayer, CacheLayerMixin):
    """State of a recurrent layer, which counts tokens as an attention layer does.

    Transformers asks the first attention layer of a cache for its length and its mask sizes. Since this layer answers,
    students whose first layers, or whose layers one and all, are recurrent need nothing special.
    """

    is_sliding = False
    # The library's own types come from the values at first: None for both, a plain attribute beside its properties.
    device: torch.device | None  # type: ignore[assignment]
    dtype: torch.dtype | None  # type: ignore[assignment]

    def __init__(self, max_cache_len: int | None = None) -> None:
        LinearAttentionLayer.__init__(self)
        self.keys = self.values = None
        self.max_cache_len = max_cache_len
        # A tensor in static caches: an int would be a constant of the compiled graph and recompile at each step.
        self.cumulative_length: Any = 0 if max_cache_len is None else torch.tensor(0)
        self.rows_may_be_new = False  # whether there may be rows of which only padding came so far
        self.recording: Recording | None = None
        self.next_offloaded: CacheLayerMixin | None = None

    @property
    def is_compileable(self) -> bool:  # type: ignore[override]
        return self.max_cache_len is not None

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return self.record_past

    @property
    def is_initialized(self) -> bool:
        return self.has_previous_state[0]

    @is_initialized.setter
    def is_initialized(self, value: bool) -> None:
        self.has_previous_state[0] = value

    @property
    def recurrent_state(self) -> torch.Tensor | None:
        return self.recurrent_states[0] if self.has_previous_state[0] else None

    @property
    def conv_state(self) -> torch.Tensor | None:
        return self.conv_states[0] if self.has_previous_state[0] else None

    def store(
        self,
        state: torch.Tensor,
        window: torch.Tensor | None,
        tokens: int,
        recurrence_inputs: dict[str, torch.Tensor],
        new_conv_inputs: torch.Tensor | None,
        has_empty_rows: bool = False,
    ) -> None:
        """Takes over what a forward of `tokens` tokens left behind.

        Args:
            state: `[B, H, K, V]` after the last token.
            window: `[B, kernel_size - 1, channels]`, the last tokens that entered the convolution; None without one.
            recurrence_inputs, new_conv_inputs: as in `Recording`; kept only while rollback is on.
            has_empty_rows: whether a row of that forward was all padding.
        """
        if self.record_past:
            self._record(recurrence_inputs, new_conv_inputs)
        self.rows_may_be_new = has_empty_rows and (self.rows_may_be_new or not self.has_previous_state[0])
        self._write(self.recurrent_states, self.is_recurrent_states_initialized, state)
        if window is not None:
            self._write(self.conv_states, self.is_conv_states_initialized, window)
            self.conv_kernel_size[0] = window.shape[1] + 1
        self.device, self.dtype = state.device, state.dtype
        self.has_previous_state[0] = True
        self._count(tokens)

    def _count(self, tokens: int) -> None:
        if isinstance(self.cumulative_length, torch.Tensor):
            if self.cumulative_length.device != self.device:
                self.cumulative_length = _at_fixed_address(self.cumulative_length.to(self.device))
            self.cumulative_length.add_(tokens)
        else:
            self.cumulative_length += tokens

    def _write(self, states: dict[int, Any], initialized: dict[int, bool], value: torch.Tensor) -> None:
        if self.max_cache_len is None:
            states[0] = value
        else:  # in place: compiled graphs and CUDA graphs keep the address
            if states[0] is None:
                states[0] = _at_fixed_address(torch.zeros_like(value))
            states[0].copy_(value)
        initialized[0] = True

    def _record(self, inputs: dict[str, torch.Tensor], new_conv_inputs: torch.Tensor | None) -> None:
        if self.recording is None:
            state, window = self.recurrent_state, self.conv_state
            if self.max_cache_len is not None and state is not None:
                state, window = state.clone(), None if window is None else window.clone()
            self.recording = Recording(state, window, inputs, new_conv_inputs)
            return
        old = self.recording
        joined = {name: torch.cat([old.inputs[name], x], dim=1) for name, x in inputs.items()}
        window = None
        if new_conv_inputs is not None:
            assert old.window is not None
            window = torch.cat([old.window, new_conv_inputs], dim=1)
        self.recording = old._replace(inputs=joined, window=window)

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last `-tokens_to_remove` tokens by replaying the recorded ones that stay; 0 ends the recording.

        Raises:
            RuntimeError: no recording (call `activate_past_recording` first), or more tokens than were recorded.
            ValueError: a positive number; Transformers crops by negative ones.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop({tokens_to_remove}): pass a negative number, the tokens to remove from the end.")
        removed = -tokens_to_remove
        recorded = 0 if self.recording is None else self.recording.inputs["k"].shape[1]
        if removed > recorded:
            raise RuntimeError(
                f"crop({tokens_to_remove}) on a recurrent layer that recorded {recorded} tokens: a recurrent state "
                "cannot be undone without them. Call cache.activate_past_recording() once the cache was in a forward, "
                "before the tokens that are to be undone. Families that start their cache anew in the middle (Phi-3, "
                "where its longrope switches) cannot be decoded with an assistant across that point."
            )
        if removed:
            self._replay(recorded - removed)
            self._count(-removed)
        self.recording = None

    def _replay(self, kept: int) -> None:
        recording = self.recording
        assert recording is not None
        inputs = {name: x[:, :kept] for name, x in recording.inputs.items()}
        if kept:
            state = gated_delta_rule(q=inputs["k"], **inputs, state=recording.initial_state)[1]
        elif recording.initial_state is None:
            self._written(self.recurrent_states).zero_()
            self.has_previous_state[0] = self.rows_may_be_new = False
            return
        else:
            state = recording.initial_state
        self._write(self.recurrent_states, self.is_recurrent_states_initialized, state)
        if recording.window is not None:
            past, present = recording.initial_conv_state, self._written(self.conv_states)
            if past is None:
                past = torch.zeros_like(present)
            window = torch.cat([past, recording.window[:, :kept]], dim=1)[:, -present.shape[1] :]
            self._write(self.conv_states, self.is_conv_states_initialized, window)
        self.rows_may_be_new = bool((state == 0).flatten(1).all(-1).any())

    @staticmethod
    def _written(states: dict[int, torch.Tensor | None]) -> torch.Tensor:
        state = states[0]
        assert state is not None
        return state

    def get_seq_length(self) -> Any:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[Any, int]:
        length = self.cumulative_length + query_length if self.max_cache_len is None else self.max_cache_len
        return length, 0

    def get_max_length(self) -> int:
        return -1 if self.max_cache_len is None else self.max_cache_len

    def update(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("A recurrent layer caches a state, not keys and values: this cache is of another model.")

    def reset(self) -> None:
        LinearAttentionLayer.reset(self)
        self.recording, self.rows_may_be_new = None, False
        if isinstance(self.cumulative_length, torch.Tensor):
            self.cumulative_length.zero_()
        else:
            self.cumulative_length = 0

    def offload(self) -> None:
        """Nothing: a state is as large as a few tokens' keys."""

    def prefetch(self) -> None:
        """Fetches the next layer that was offloaded, in whose place Transformers from 5.24 on takes this one."""
        if self.next_offloaded is not None:
            self.next_offloaded.prefetch()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorders the rows, for beam search."""
        self._map_rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._map_rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._map_rows(lambda x: x[indices.to(x.device)])

    def _map_rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        def changed(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else change(x)

        for states in (self.recurrent_states, self.conv_states):
            states[0] = changed(states[0])
        if self.recording is not None:
            old = self.recording
            self.recording = Recording(
                changed(old.initial_state),
                changed(old.initial_conv_state),
                {name: change(x) for name, x in old.inputs.items()},
                changed(old.window),
            )


def _at_fixed_address(tensor: torch.Tensor) -> torch.Tensor:
    """Tells the compiler that a tensor which is written in place stays where it is: else it makes no CUDA graph."""
    if not torch.compiler.is_compiling():
        torch._dynamo.mark_static_address(tensor)
    return tensor


def recurrent_layer(cache: Cache, index: int) -> GDNCacheLayer:
    """A recurrent layer of a cache that was adopted, see `cache_adoption`."""
    layer = cache.layers[index]
    assert isinstance(layer, GDNCacheLayer), f"layer {index} of the cache is a {type(layer).__name__}"
    return layer
