# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Lets `transformers serve` find a class that is not one of the library's own."""

import sys
from typing import Any

MODEL_MANAGER = "transformers.cli.serving.model_manager"


def make_servable(name: str, loader: Any) -> None:
    """Makes `transformers.NAME` the class, or whatever else has its `from_pretrained`.

    `transformers serve` looks a model's class up as an attribute of the library, and so knows the library's classes
    only. There can be two modules of that name: `transformers.processing_utils` executes the library once more and
    puts the result in the place of the first one, which the server may hold since before.
    """
    held_by_server = getattr(sys.modules.get(MODEL_MANAGER), "transformers", None)
    for library in (sys.modules["transformers"], held_by_server):
        if library is not None:
            setattr(library, name, loader)


class RemoteLoader:
    """Stands for the class in a server that loads a student's own code, where that is no attribute of any module."""

    @staticmethod
    def from_pretrained(*args: Any, **kwargs: Any) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(*args, **kwargs)
