# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows of a fit are whole, without padding and without borders of packed documents, and the library is told so."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from transformers import masking_utils


@contextmanager
def unmasked_rows() -> Iterator[None]:
    """Inside, no model looks for padding or packed documents.

    The library finds out by reading values back from the GPU, for which every forward waits. While a CUDA graph is
    captured it cannot, and would build whole `[T, T]` masks, with which attention has no fast kernel.
    """
    with patch.multiple(
        masking_utils, find_packed_sequence_indices=lambda position_ids: None, is_tracing=lambda tensor=None: False
    ):
        yield
