# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Can what a model does be a CUDA graph? Not where it reads a value back to decide what it launches."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)


def waits_for_the_gpu(function: Callable[[], Any]) -> bool:
    """Whether a function reads a value back from the GPU, as routers of experts do. Calls it twice."""
    function()  # compiles and tunes kernels, which waits too
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        function()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        logger.info("Kernels are launched one by one, since the model waits for values from the GPU: %s", error)
        return True
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return False
