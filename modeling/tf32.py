# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Float32 products of a GPU in TF32, which are twice as fast and read 10 bits of each factor's fraction.

That is three bits more than bfloat16 has, and sums stay in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32_products() -> Iterator[None]:
    """Products in TF32 inside alone; what a CUDA graph captures inside stays so."""
    settings = torch.backends.cuda.matmul
    # The older of the two names, the only one before PyTorch 2.9, cannot be read where a user has set the newer one.
    name, tf32 = ("fp32_precision", "tf32") if hasattr(settings, "fp32_precision") else ("allow_tf32", True)
    before = getattr(settings, name)
    setattr(settings, name, tf32)
    try:
        yield
    finally:
        setattr(settings, name, before)
