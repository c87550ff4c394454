# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Walks a decoder layer by layer over all calibration blocks and records what its attention reads and writes.

Only one layer's tensors exist at a time, so memory does not grow with depth. Hooks live inside `with` alone: whatever
happens, the model is left as it was found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers, output_projection


@dataclass
class CapturedAttention:
    """What one attention layer read and wrote on all calibration blocks, in float32 on the layer's device.

    attn_input: `[N, T, C]`, after the input norm.
    teacher_context: `[N, T, H * D]`, attention x values, before the output projection.
    teacher_output: `[N, T, C]`, after the output projection.
    position_embeddings: cos and sin `[1, T, D]` as the layer received them, or None where the family passes none.
    """

    attn_input: Tensor
    teacher_context: Tensor
    teacher_output: Tensor
    position_embeddings: tuple[Tensor, Tensor] | None


class _FirstLayerReached(Exception):
    """Ends a forward once the inputs of the first layer are known."""


class LayerStream:
    """Hidden states of all calibration blocks on their way through a decoder, one layer at a time.

    Args:
        backbone: the decoder without its LM head.
        blocks: token ids `[N, T]`.
        batch_size: blocks that go through a layer together.
    """

    def __init__(self, backbone: nn.Module, blocks: Tensor, batch_size: int) -> None:
        self.layers = find_decoder_layers(backbone)
        device = backbone.get_input_embeddings().weight.device  # type: ignore[operator]
        batches = [batch.to(device) for batch in blocks.split(batch_size)]
        # One forward for each size of batch (the last is smaller): batches of one size share masks and positions.
        sizes = {len(batch): batch for batch in reversed(batches)}
        self._arguments = {size: _layer_arguments(backbone, self.layers, batch) for size, batch in sizes.items()}
        self.hidden = [_embedded(backbone, self.layers[0], batch) for batch in batches]

    def position_embeddings(self, index: int) -> tuple[Tensor, Tensor] | None:
        """cos and sin of layer `index`, one row: blocks all start at position 0."""
        embeddings = next(iter(self._arguments.values()))[index].get("position_embeddings")
        return None if embeddings is None else tuple(x[:1] for x in embeddings)  # type: ignore[return-value]

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Replaces the hidden states by those after layer `index`."""
        for number, hidden in enumerate(self.hidden):
            output = self.layers[index](hidden, **self._arguments[len(hidden)][index])
            self.hidden[number] = output if isinstance(output, Tensor) else output[0]

    @torch.no_grad()
    def advance_and_capture(self, index: int) -> CapturedAttention:
        """As `advance`, recording the layer's attention on the way."""
        with _recording(self.layers[index]) as records:
            self.advance(index)
        joined = {name: torch.cat(parts).float() for name, parts in records.items()}
        return CapturedAttention(**joined, position_embeddings=self.position_embeddings(index))


def _layer_arguments(backbone: nn.Module, layers: nn.ModuleList, batch: Tensor) -> list[dict[str, Any]]:
    """The keyword arguments that every layer gets for a batch of this size (masks, rotary embeddings)."""
    arguments: list[dict[str, Any]] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad():
            backbone(input_ids=batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return arguments


def _embedded(backbone: nn.Module, first_layer: nn.Module, batch: Tensor) -> Tensor:
    """Hidden states `[B, T, C]` as they enter the first layer."""
    found: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(_hidden_states(args, kwargs))
        raise _FirstLayerReached

    handle = first_layer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad():
            backbone(input_ids=batch, use_cache=False)
    except _FirstLayerReached:
        return found[0]
    finally:
        handle.remove()
    raise RuntimeError(
        f"{type(backbone).__name__} did not call its first layer; it cannot be calibrated layer by layer."
    )


@contextmanager
def _recording(layer: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    attention = find_attention(layer)[1]
    records: dict[str, list[Tensor]] = {"attn_input": [], "teacher_context": [], "teacher_output": []}

    def before_attention(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        records["attn_input"].append(_hidden_states(args, kwargs))

    def around_projection(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        records["teacher_context"].append(args[0])
        records["teacher_output"].append(output)

    handles = [
        attention.register_forward_pre_hook(before_attention, with_kwargs=True),
        output_projection(attention).register_forward_hook(around_projection),
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]
