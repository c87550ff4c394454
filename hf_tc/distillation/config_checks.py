# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What is refused of the settings of a distillation before anything is loaded: numbers that cannot be, settings without
effect and packages that are not installed."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

AT_LEAST_0 = ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "num_train_epochs")
BELOW_1 = ("adam_beta1", "adam_beta2")
COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
OFF = {"weight_decay": "Use 0 for none.", "max_grad_norm": "Use 0 to leave gradients as they are."}

# Where the package has another name than the tracker.
TRACKER_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet_ml", "flyte": "flytekit"}
UNLISTED_TRACKERS = {"azure_ml": "azureml", "flyte": "flytekit"}  # the library may leave these out; their modules
# Modules of optimisers whose names have such a part, and their packages; the first that fits.
OPTIMISERS = {
    "torch_8bit": ("torchao", "torchao"),
    "torch_4bit": ("torchao", "torchao"),
    "anyprecision": ("torchdistx", "torchdistx"),
    "lion": ("bitsandbytes", "bitsandbytes"),
    "bnb": ("bitsandbytes", "bitsandbytes"),
    "8bit": ("bitsandbytes", "bitsandbytes"),
    "paged": ("bitsandbytes", "bitsandbytes"),
    "ademamix": ("bitsandbytes", "bitsandbytes"),
    "galore": ("galore_torch", "galore-torch"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
}


def check_no_text(config: Any) -> None:
    """Raises `ValueError` for text where a number is expected, as YAML reads 1e-3, which has no point."""
    for field in fields(config):
        value, kind = getattr(config, field.name), str(field.type)
        if isinstance(value, str) and re.search("float|int", kind) and "str" not in kind:
            raise ValueError(
                f"{field.name} is {value!r}, which is text; it must be a number. Leave out the quotation marks, and in "
                "YAML write 1.0e-3 and 20000000, not 1e-3 and 2e7."
            )


def check_numbers(config: Any) -> None:
    """Raises `ValueError` for a number of `TrainingArguments` that is NaN or out of its range, which the library takes
    as it comes."""
    for name in AT_LEAST_0:
        value = getattr(config, name)
        is_endless = name == "max_grad_norm" and value in (None, math.inf)
        if not is_endless and not (_is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} is {value}; it must be a number of 0 or more. {_way_out(config, name)}")
    for name in BELOW_1:
        value = getattr(config, name)
        if not (_is_number(value) and 0 <= value < 1):
            raise ValueError(f"{name} is {value}; it must be at least 0 and below 1. {_way_out(config, name)}")
    for name in COUNTS:
        value = getattr(config, name)
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} is {value}; it must be a whole number of at least 1. Use 1 for the least memory.")


def check_settings_have_effect(config: Any) -> None:
    """Raises `ValueError` for a setting that is not at its default and that another one puts out of use."""
    names: tuple[str, ...]
    if config.distribution_weight == 0:
        reason, names = "distribution_weight is 0", ("temperature", "ce_weight", "divergence", "jsd_beta")
        way_out = "or raise distribution_weight"
    elif config.ce_weight == 1:
        reason, names = "ce_weight is 1, which leaves no KL", ("temperature", "divergence", "jsd_beta")
        way_out = "or lower ce_weight"
    elif config.divergence != "jsd":
        reason, names = f"divergence is {config.divergence!r}", ("jsd_beta",)
        way_out = "or set divergence='jsd' (--divergence jsd)"
    else:
        return
    for name in names:
        value = getattr(config, name)
        if value != _default(config, name):
            raise ValueError(f"{name} is {value!r}, which has no effect: {reason}. Leave {name} out, {way_out}.")


def check_packages(config: Any) -> None:
    """Raises `ValueError` for a tracker that is not known, `ImportError` for a setting that needs a package which is
    not installed."""
    for tracker in config.report_to or ():
        if tracker not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"report_to has {tracker!r}; it must be one of none, all, {', '.join(sorted(INTEGRATION_TO_CALLBACK))}."
            )
        there = tracker in get_available_reporting_integrations()
        if not there and not _is_installed(UNLISTED_TRACKERS.get(tracker)):
            package = TRACKER_PACKAGES.get(tracker, tracker)
            raise ImportError(
                f"report_to has {tracker!r}, and its package is not installed, or is switched off: pip install "
                f"{package}; or leave it out (report_to='none', --report-to none)."
            )
    optimiser = str(getattr(config.optim, "value", config.optim))
    needed = [(f"optim is {optimiser!r}", *found) for part, found in OPTIMISERS.items() if part in optimiser][:1]
    if config.teacher_in_8bit:
        needed.append(("teacher_in_8bit is set", "bitsandbytes", "bitsandbytes"))
    if config.trains == "lora":
        needed.append(("trains is 'lora'", "peft", "peft"))
    for reason, module, package in needed:
        if not _is_installed(module):
            raise ImportError(f"{reason}, which needs a package that is not installed: pip install {package}")


def _is_installed(module: str | None) -> bool:
    return module is not None and find_spec(module) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _default(config: Any, name: str) -> Any:
    return type(config).__dataclass_fields__[name].default


def _way_out(config: Any, name: str) -> str:
    return OFF.get(name, f"By default it is {_default(config, name)}.")
