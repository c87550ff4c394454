# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A short name for tensors that is another one as soon as one bit of them is."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

CHUNK_BYTES = 2**24
LETTERS = 16


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """The first hexadecimal digits of a SHA-256 over shapes, dtypes and all bytes of tensors, in order.

    Tensors are asked for, and copied to host memory if they are elsewhere, one at a time. Chunks of them are hashed in
    threads, at about one gigabyte a second and core.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for tensor in tensors:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            chunks = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
            for part in pool.map(lambda chunk: hashlib.sha256(chunk).digest(), chunks):
                digest.update(part)
    return digest.hexdigest()[:LETTERS]
