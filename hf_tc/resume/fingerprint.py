# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Short names for tensors: of their every bit, or of a model's weights in whatever precision and files they are."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

CHUNK_BYTES = 2**24
LETTERS = 16
SAMPLES = 64  # of every tensor
SPREAD = 2_654_435_761  # a prime beyond any tensor's rows and columns, so that samples are of all of both
CASTS = (torch.bfloat16, torch.float16)


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


def weights_fingerprint(tensors: Iterable[Tensor]) -> dict[str, str]:
    """What a model's weights have in common with their own copies in lower precision, and with no other weights.

    It is over shapes and 64 values of every tensor, rounded to bfloat16 and, the other entry, to float16: a model saved
    in one of them has the same entry still. Names, order, repetitions (tied weights) and shards do not matter. Training
    changes values of every tensor it trains, and so both entries; a change to a few single values may go unnoticed.

    Returns:
        By precision, the first hexadecimal digits of a SHA-256.
    """
    found: dict[str, set[bytes]] = {str(cast).removeprefix("torch."): set() for cast in CASTS}
    for tensor in tensors:
        count = tensor.numel()
        places = torch.arange(min(count, SAMPLES)) * SPREAD % max(count, 1)
        values = tensor.detach().reshape(-1)[places.to(tensor.device)].float().cpu()
        for cast, digests in zip(CASTS, found.values(), strict=True):
            data = values.to(cast).view(torch.uint8).numpy().tobytes()
            digests.add(hashlib.sha256(f"{tuple(tensor.shape)} ".encode() + data).digest())
    return {name: hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:LETTERS] for name, digests in found.items()}


def same_weights(one: dict[str, str] | None, other: dict[str, str] | None) -> bool:
    """Whether two results of `weights_fingerprint` are of the same weights, in whatever precision each is."""
    return any((one or {}).get(name) == value for name, value in (other or {}).items())
