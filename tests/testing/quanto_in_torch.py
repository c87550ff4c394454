# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""quanto without its extension in C++, which it would compile at its first use: a minute."""

from types import SimpleNamespace

import pytest
import torch


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """What the extension does."""
    return torch.cat([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)])


def use_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from optimum.quanto.library.extensions import cpp

    monkeypatch.setattr(cpp.ext, "_lib", SimpleNamespace(unpack=unpack))
