# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The projection behind the decay and behind the write gate."""

from torch import nn


class GateProjection(nn.Linear):
    """A row per head, which says how much is forgotten or written.

    A class of its own, since quantisers replace what is exactly `nn.Linear`: these few rows save nothing, their errors
    add up over all tokens, and 4-bit kernels for CPUs want multiples of 32 rows.
    """
