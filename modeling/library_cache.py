# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the installed Transformers calls a cache: `cache` since 5.24, `past_key_values` before. All others ask here."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.import_utils import is_tracing

SUCCESSIVE_NAMES = ("past_key_values", "cache")  # oldest first
CACHE_NAME = next(field.name for field in fields(BaseModelOutputWithPast) if field.name in SUCCESSIVE_NAMES)
# What single families call it inside their layers.
NAMES_IN_LAYERS = (*SUCCESSIVE_NAMES, "layer_past", "past_key_value")


def cache_argument(cache: Cache | None) -> dict[str, Cache | None]:
    """The keyword argument by which the library's own functions take a cache: `model(ids, **cache_argument(cache))`."""
    return {CACHE_NAME: cache}


def cache_of(output_or_inputs: Mapping[str, Any]) -> Any:
    """The cache in a model's output, or among the keyword arguments of `generate`; None where there is none."""
    return output_or_inputs.get(CACHE_NAME)


def cache_in_layer(kwargs: Mapping[str, Any]) -> Cache | None:
    """The cache among the keyword arguments that a family's decoder layer hands to its attention."""
    return next((kwargs[name] for name in NAMES_IN_LAYERS if kwargs.get(name) is not None), None)


def takes_cache(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a method with an argument `cache`: callers may use either name, and the signature shows the library's.

    The library looks arguments up in signatures, and warns of its old name; so does the decorated method.
    """
    signature = inspect.signature(forward)
    shown = [
        parameter.replace(name=CACHE_NAME) if name == "cache" else parameter
        for name, parameter in signature.parameters.items()
    ]

    @functools.wraps(forward)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "past_key_values" in kwargs:
            if kwargs.get("cache") is not None:
                raise ValueError("The cache was given twice, as `past_key_values` and as `cache`. Give it once.")
            kwargs["cache"] = kwargs.pop("past_key_values")
            if CACHE_NAME == "cache" and not is_tracing():
                method = f"{type(self).__name__}.{forward.__name__}"
                message = f"`past_key_values` is deprecated in `{method}`, as in Transformers. Use `cache` instead."
                warnings.warn(message, FutureWarning, stacklevel=2)
        return forward(self, *args, **kwargs)

    call.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return call
