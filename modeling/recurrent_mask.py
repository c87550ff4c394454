# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a recurrent layer must know of a batch: which tokens are padding, and where packed documents begin."""

from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_recurrent_attention_mask, find_packed_sequence_indices


class RecurrentMask(NamedTuple):
    """Handed to every recurrent layer. A NamedTuple, because accelerate moves those between devices.

    padding: `[B, T]` bool, True at real tokens; None where no token is padding.
    document_position: `[B, T]` tokens since the packed document began; None where every row is one document.
    """

    padding: torch.Tensor | None = None
    document_position: torch.Tensor | None = None

    @property
    def document_start(self) -> torch.Tensor | None:
        return None if self.document_position is None else self.document_position == 0


def build_recurrent_mask(
    config: PreTrainedConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
) -> RecurrentMask:
    """The mask of recurrent layers from the arguments of a model's forward.

    Packed documents are recognised as Transformers recognises them: `cu_seq_lens_q` of DataCollatorWithFlattening, or
    restarting position_ids without an attention mask and without a filled cache.

    Raises:
        ValueError: a 2-D attention mask shorter than the input.
    """
    batch, length = inputs_embeds.shape[:2]
    if attention_mask is not None and attention_mask.ndim == 2 and attention_mask.shape[-1] < length:
        raise ValueError(
            f"attention_mask covers {attention_mask.shape[-1]} tokens, the input has {length}. It must cover the input "
            "and, with a cache, every token before it."
        )
    padding = create_recurrent_attention_mask(config, inputs_embeds, attention_mask, past_key_values)
    if padding is not None:
        padding = padding.bool()
    if cu_seq_lens_q is not None:
        return RecurrentMask(padding, _position_from_bounds(cu_seq_lens_q, batch, length))
    if attention_mask is None and position_ids is not None and length > 1 and not _has_past(past_key_values):
        documents = find_packed_sequence_indices(position_ids)
        if documents is not None:
            return RecurrentMask(padding, _position_from_documents(documents.expand(batch, -1)))
    return RecurrentMask(padding, None)


def _has_past(cache: Any) -> bool:
    return cache is not None and bool(cache.get_seq_length() > 0)


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
