# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Bytes of the tensors that are alive, counted as they come and go: peak memory that no allocator or import blurs."""

import weakref
from threading import RLock
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Inside, counts the storages that operations make; `peak` is the most that were alive at once.

    What existed before does not count. Temporary memory inside an operation is not seen.

    Args:
        whole: of another thread, that counts what this one sees too: a mode is of one thread alone.
    """

    def __init__(self, whole: "LiveBytes | None" = None) -> None:
        super().__init__()
        self.whole, self.lock = whole or self, RLock()
        self.now = self.peak = 0
        self.seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                storage = tensor.untyped_storage()
                if id(storage) not in self.whole.seen and id(storage) not in known:
                    self.whole._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        with self.lock:
            self.now += size
            self.peak = max(self.peak, self.now)

        def gone(_: Any) -> None:
            with self.lock:
                self.seen.pop(key, None)
                self.now -= size

        self.seen[key] = weakref.ref(storage, gone)
