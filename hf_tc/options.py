# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The settings of `hf_tc.config` by the flat names under which functions and the command line take them.

Nothing heavy is imported: `hf-tc --help` reads this module.
"""

import functools
import inspect
import numbers
from collections.abc import Callable, Iterator
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, NamedTuple, ParamSpec, TypeVar, get_type_hints

from hf_tc import config
from hf_tc.config import ConversionConfig

P = ParamSpec("P")
R = TypeVar("R")


# The parts of a `ConversionConfig` by the names of its fields; "" for what it has of its own.
PARTS: dict[str, type] = {"": ConversionConfig} | {
    item.name: item.type for item in fields(ConversionConfig) if isinstance(item.type, type) and is_dataclass(item.type)
}


class Option(NamedTuple):
    """A field that is an option, and the part that it is in."""

    part: str
    field: Field[Any]


def _fields() -> Iterator[Option]:
    for item in fields(ConversionConfig):
        if item.name in PARTS:
            yield from (Option(item.name, inner) for inner in fields(PARTS[item.name]))
        else:
            yield Option("", item)


# By name, in the order in which `from_teacher` has them.
OPTIONS = {
    option.field.metadata.get("name", option.field.name): option
    for option in _fields()
    if "help" in option.field.metadata
}


def options_of(settings: ConversionConfig) -> dict[str, Any]:
    """The values of all options, by name."""
    return {
        name: getattr(getattr(settings, part) if part else settings, field.name)
        for name, (part, field) in OPTIONS.items()
    }


def with_options(settings: ConversionConfig, options: dict[str, Any]) -> ConversionConfig:
    """The settings with some options, given by name, changed.

    Raises:
        ValueError: one that is no whole number, or not True or False, where it has to be.
    """
    changed: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        part, field = OPTIONS[name]
        _check_kind(name, value, field.type)
        changed.setdefault(part, {})[field.name] = value
    own = changed.pop("", {})
    return replace(settings, **own, **{part: replace(getattr(settings, part), **new) for part, new in changed.items()})


def _check_kind(name: str, value: Any, kind: Any) -> None:
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be True or False.")
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)  # NumPy's are Integral too
    if kind in (int, int | None) and not (is_whole or (value is None and kind is not int)):
        raise ValueError(f"{name} is {value!r}; it must be a whole number.")


def takes_options(*left_out: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function whose `**options` are for `with_options`: it shows and takes all but those of some parts."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature, known = inspect.signature(function), vars(config) | function.__globals__  # types, for annotations
        types = {part: get_type_hints(kind, globalns=known) for part, kind in PARTS.items()}
        own = [item for item in signature.parameters.values() if item.kind != item.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[part][field.name]
            )
            for name, (part, field) in OPTIONS.items()
            if part not in left_out
        ]
        shown = signature.replace(parameters=[*own, *options])

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            shown.bind(*args, **kwargs)
            return function(*args, **kwargs)

        checked.__signature__ = shown  # type: ignore[attr-defined]
        return checked

    return decorate
