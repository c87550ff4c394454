# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Offline by default: a test that reached for the Hub would hang where there is none. And nothing deprecated is called.

The library says what is deprecated by a FutureWarning, which .pytest.ini makes an error, or by its logger, where it is
said once in a process and so easily missed: a test during which it is said fails.
"""

import importlib
import logging
import os
import sys
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests run in several processes, which would fight over the cores. And with one thread a result is bit for bit that of
# another run, which many tests hold against each other, whatever the caller's environment says.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if torch.cuda.is_available():  # where joint alignment is done by default: in a few steps, not in minutes
    from hf_tc import config

    config.JOINT_STEPS = 2

# What the library's own code says of its own calls, whoever the model is.
OF_THE_LIBRARY = (
    "Passing `generation_config` together with generation-related arguments",  # its assisted decoding does
    "`past_key_values`/`cache_params` are deprecated",  # only its own common tests ask for these
)


class Deprecations(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "deprecated" in message and not any(known in message for known in OF_THE_LIBRARY):
            self.messages.append(message)


@pytest.fixture(autouse=True)
def nothing_deprecated_is_called() -> Iterator[None]:
    handler, logger = Deprecations(), logging.getLogger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not handler.messages


def _library_layers_in_torch() -> None:
    """Gives Transformers' Gated DeltaNet its torch form, which tests hold ours against on a CPU, GPU or not: where
    flash-linear-attention and Triton are installed it takes their kernels as soon as it is imported, for a CPU too."""
    if "fla" in sys.modules:
        return
    sys.modules["fla"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("transformers.models.qwen3_5.modeling_qwen3_5")
    finally:
        del sys.modules["fla"]


_library_layers_in_torch()
