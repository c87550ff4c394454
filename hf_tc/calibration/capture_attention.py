# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Walks a decoder layer by layer over all calibration blocks and records what its attention reads and writes.

A layer's tensors need not outlive its fit, so memory does not grow with depth, and they may be kept in host memory,
from where they come to the device a few blocks at a time. Hooks live inside `with` alone: whatever happens, the model
is left as it was found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers, output_projection
from hf_tc.teachers.offloading import execution_device


class HostRows:
    """A tensor in host memory whose rows are read on a device, in float32: `x[rows]` as of a tensor that is there.

    Args:
        tensor: `[N, ...]` in any floating-point dtype.
        device: where rows are wanted.
    """

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        self.tensor, self.device, self.shape = tensor, device, tensor.shape

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        rows = rows.to(self.tensor.device) if isinstance(rows, Tensor) else rows
        return self.tensor[rows].to(self.device, torch.float32)


@dataclass
class CapturedAttention:
    """What one attention layer read and wrote on all calibration blocks, read by rows, in float32 on its device.

    attn_input: `[N, T, C]`, after the input norm.
    teacher_context: `[N, T, H * D]`, attention x values, before the output projection.
    teacher_output: `[N, T, C]`, after the output projection.
    position_embeddings: cos and sin `[1, T, D]` as the layer received them, or None where the family passes none.
    """

    attn_input: Tensor | HostRows
    teacher_context: Tensor | HostRows
    teacher_output: Tensor | HostRows
    position_embeddings: tuple[Tensor, Tensor] | None

    @property
    def in_host_memory(self) -> bool:
        """Whether what is captured did not fit on the device; then nothing that grows with it should stay there."""
        return isinstance(self.attn_input, HostRows)

    def first(self, blocks: int) -> "CapturedAttention":
        """What was captured on the first blocks, without a copy."""
        return replace(
            self,
            attn_input=_first_rows(self.attn_input, blocks),
            teacher_context=_first_rows(self.teacher_context, blocks),
            teacher_output=_first_rows(self.teacher_output, blocks),
        )


def _first_rows(tensor: Tensor | HostRows, count: int) -> Tensor | HostRows:
    return HostRows(tensor.tensor[:count], tensor.device) if isinstance(tensor, HostRows) else tensor[:count]


class _FirstLayerReached(Exception):
    """Ends a forward once the inputs of the first layer are known."""


class LayerStream:
    """Hidden states of all calibration blocks on their way through a decoder, one layer at a time.

    Args:
        backbone: the decoder without its LM head.
        blocks: token ids `[N, T]`.
        batch_size: blocks that go through a layer together.
        in_host_memory: keep hidden states, and what is captured, in host memory in the teacher's dtype.
    """

    def __init__(self, backbone: nn.Module, blocks: Tensor, batch_size: int, *, in_host_memory: bool = False) -> None:
        self.layers, self.in_host_memory = find_decoder_layers(backbone), in_host_memory
        # nn.Module is what the library says of `base_model`
        device = execution_device(backbone.get_input_embeddings())  # type: ignore[operator]
        batches = [batch.to(device) for batch in blocks.split(batch_size)]
        # One forward for each size of batch (the last is smaller): batches of one size share masks and positions.
        sizes = {len(batch): batch for batch in reversed(batches)}
        self._arguments = {size: _layer_arguments(backbone, self.layers, batch) for size, batch in sizes.items()}
        self.hidden = [self._kept(_embedded(backbone, self.layers[0], batch)) for batch in batches]

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor.to("cpu") if self.in_host_memory else tensor

    def position_embeddings(self, index: int) -> tuple[Tensor, Tensor] | None:
        """cos and sin of layer `index`, one row: blocks all start at position 0."""
        embeddings = next(iter(self._arguments.values()))[index].get("position_embeddings")
        return None if embeddings is None else (embeddings[0][:1], embeddings[1][:1])

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Replaces the hidden states by those after layer `index`."""
        layer, device = self.layers[index], execution_device(self.layers[index])
        for number, hidden in enumerate(self.hidden):
            output = layer(hidden.to(device), **self._arguments[len(hidden)][index])
            self.hidden[number] = self._kept(output if isinstance(output, Tensor) else output[0])

    @torch.no_grad()
    def advance_and_capture(self, index: int) -> CapturedAttention:
        """As `advance`, recording the layer's attention on the way."""
        device, blocks = execution_device(self.layers[index]), sum(len(batch) for batch in self.hidden)
        with _recording(self.layers[index], blocks, self.in_host_memory) as records:
            self.advance(index)
        joined: dict[str, Any] = {name: rows.joined for name, rows in records.items()}
        if self.in_host_memory:
            joined = {name: HostRows(tensor, device) for name, tensor in joined.items()}
        rotation = self.position_embeddings(index)
        if rotation is not None:
            rotation = rotation[0].to(device), rotation[1].to(device)
        return CapturedAttention(**joined, position_embeddings=rotation)


class _GrowingRows:
    """Batches of rows written one after the other into one tensor, so that there is never a second copy of them."""

    def __init__(self, blocks: int, in_host_memory: bool) -> None:
        self.blocks, self.in_host_memory, self.filled = blocks, in_host_memory, 0
        self.joined = torch.empty(0)

    def add(self, batch: Tensor) -> None:
        if not self.filled:
            kind = {"device": "cpu"} if self.in_host_memory else {"dtype": torch.float32}
            self.joined = batch.new_empty(self.blocks, *batch.shape[1:], **kind)
        self.joined[self.filled : self.filled + len(batch)] = batch
        self.filled += len(batch)


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
def _recording(layer: nn.Module, blocks: int, in_host_memory: bool) -> Iterator[dict[str, _GrowingRows]]:
    attention = find_attention(layer)[1]
    names = ("attn_input", "teacher_context", "teacher_output")
    records = {name: _GrowingRows(blocks, in_host_memory) for name in names}

    def before_attention(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        records["attn_input"].add(_hidden_states(args, kwargs))

    def around_projection(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        records["teacher_context"].add(args[0])
        records["teacher_output"].add(output)

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
