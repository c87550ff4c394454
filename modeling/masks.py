# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a recurrent layer must know of a batch: which tokens are padding, and where packed documents begin."""

from typing import NamedTuple

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import find_packed_sequence_indices
from transformers.utils.import_utils import is_tracing

from .cache import recurrent_layer


class RecurrentMask(NamedTuple):
    """Handed to every recurrent layer. A NamedTuple, because accelerate moves those between devices.

    padding: `[B, T]` bool, True at real tokens; None where no token is padding.
    document_position: `[B, T]` tokens since the packed document began; None where every row is one document.
    document_bounds: `[D + 1]` where the documents of the flattened batch begin, and its length; for GPU kernels, worked
        out once a forward and not in each layer.
    has_empty_rows: whether a row is all padding, or may be, while a compiler traces.
    """

    padding: torch.Tensor | None = None
    document_position: torch.Tensor | None = None
    document_bounds: torch.Tensor | None = None
    has_empty_rows: bool = False

    @property
    def document_start(self) -> torch.Tensor | None:
        return None if self.document_position is None else self.document_position == 0

    def part(self, tokens: slice) -> "RecurrentMask":
        """The same of some tokens of each row."""
        of = lambda x: None if x is None else x[:, tokens].contiguous()  # noqa: E731
        padding = of(self.padding)
        return RecurrentMask(padding, of(self.document_position), has_empty_rows=has_empty_rows(padding))


def padding_of(attention_mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """`[B, T]` bool, True at real tokens among the last `length`; None where all are real.

    As in the library, a single traced token counts as real: a generated token is never padding, and its mask would
    keep growing inside a compiled graph.
    """
    if attention_mask is None or (length == 1 and is_tracing(attention_mask)):
        return None
    padding = attention_mask[:, -length:].bool().contiguous()
    return None if not is_tracing(padding) and padding.all() else padding


def has_empty_rows(padding: torch.Tensor | None) -> bool:
    """Whether a row of `[B, T]` has no real token; what a compiler traces may have one."""
    return padding is not None and (is_tracing(padding) or not bool(padding.any(-1).all()))


def check_mask(attention_mask: torch.Tensor | None, length: int, past_length: int | torch.Tensor) -> None:
    """Raises `ValueError` for a mask that is not `[B, tokens before + T]`: its padding could not be told."""
    if attention_mask is None or is_tracing(attention_mask):
        return
    if attention_mask.ndim != 2:
        raise ValueError(
            f"attention_mask has {attention_mask.ndim} dimensions. Recurrent layers read a `[batch, tokens]` mask of "
            "padding; they cannot follow an arbitrary mask from token to token."
        )
    covered, expected = attention_mask.shape[-1], int(past_length) + length
    if covered != expected:
        raise ValueError(
            f"attention_mask covers {covered} tokens; it must cover {expected}: {int(past_length)} in the cache and "
            f"{length} of the input."
        )


def packed_positions(
    batch: int,
    length: int,
    position_ids: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None,
) -> torch.Tensor | None:
    """`[B, T]` positions inside packed documents; None where every row is one document.

    Documents are recognised as Transformers recognises them: by `cu_seq_lens_q` of DataCollatorWithFlattening, or by
    position_ids `[B or 1, T]` that restart.
    """
    if cu_seq_lens_q is not None:
        return _position_from_bounds(cu_seq_lens_q, batch, length)
    if position_ids is None or length == 1:
        return None
    documents = find_packed_sequence_indices(position_ids)
    return None if documents is None else _position_from_documents(documents.expand(batch, -1))


def has_past(cache: Cache | None, layer: int) -> bool:
    """Whether a recurrent layer's cache has tokens in it; assumed where a traced length cannot be read."""
    if cache is None:
        return False
    length = recurrent_layer(cache, layer).get_seq_length()
    return True if is_tracing(length) else bool(length > 0)


def _position_from_documents(documents: torch.Tensor) -> torch.Tensor:
    """`[B, T]` ascending document numbers to `[B, T]` positions inside the document."""
    position = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return position - torch.where(begins, position, 0).cummax(1).values


def _position_from_bounds(bounds: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    """Cumulative lengths `[D + 1]` over the flattened batch to `[B, T]` positions inside the document."""
    tokens = torch.arange(batch * length, device=bounds.device)
    documents = torch.searchsorted(bounds[1:].contiguous().to(tokens.dtype), tokens, right=True)
    return _position_from_documents(documents.view(batch, length))
