# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Models inside a wrapper and models with a PEFT adapter: what each is, the way out, and the merge of an adapter."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.peft_utils import find_adapter_config_file

from hf_tc.teachers.loading import check_is_model

INNER_MODEL = ("_orig_mod", "module")  # where torch.compile, and DataParallel, DDP or FSDP, keep what they wrap
MERGE = "merge_adapter=True (--merge-adapter), which merges it into a copy of the weights"


def check_not_wrapped(model: Any, role: str) -> None:
    """Raises ValueError for a "teacher" or "student" that is no Transformers model, nor PEFT's wrapper of one."""
    if isinstance(model, PreTrainedModel) or is_peft_model(model):
        return
    kind = type(model).__name__
    inner = next((name for name in INNER_MODEL if isinstance(getattr(model, name, None), nn.Module)), None)
    if inner is not None:
        wrapped = type(getattr(model, inner)).__name__
        raise ValueError(f"The {role} is wrapped, {kind} around {wrapped}; give the model itself, {role}.{inner}.")
    raise ValueError(f"The {role} is of type {kind}; give a Transformers model, as AutoModelForCausalLM loads it.")


def is_peft_model(model: Any) -> bool:
    """Whether it is PEFT's wrapper of a model; a model into which an adapter was loaded is not."""
    return isinstance(model, nn.Module) and hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def check_no_adapter(teacher: Any, merge_adapter: bool = False) -> None:
    """What can be refused of the teacher of a conversion at once, be it a model, a folder or a Hub id.

    Raises:
        ValueError: a wrapper, a model with an adapter in it, an adapter that is not to be merged, or nothing to merge.
    """
    if isinstance(teacher, str | os.PathLike):
        base = adapter_base(teacher)
        if base is not None and not merge_adapter:
            raise ValueError(
                f"{teacher} is a PEFT adapter of {base}, not a model; a conversion needs whole weights. Use {MERGE}; "
                "or save what PeftModel.merge_and_unload() returns and give that folder."
            )
        if base is None and merge_adapter:
            raise ValueError(f"merge_adapter is set, and {teacher} is no PEFT adapter. Leave merge_adapter out.")
        return
    check_not_wrapped(teacher, "teacher")
    if is_peft_model(teacher):
        if not merge_adapter:
            raise ValueError(
                f"The teacher is wrapped, {type(teacher).__name__} around {type(teacher.get_base_model()).__name__}; a "
                f"conversion needs whole weights. Give teacher.merge_and_unload(), or {MERGE}."
            )
        return
    if _has_adapter_layers(teacher):
        raise ValueError(
            f"The teacher, {type(teacher).__name__}, has a PEFT adapter in it; a conversion needs whole weights. Give "
            "PeftModel.from_pretrained(base, ADAPTER).merge_and_unload(), or the adapter's folder with "
            "merge_adapter=True (--merge-adapter)."
        )
    if merge_adapter:
        raise ValueError("merge_adapter is set, and the teacher has no PEFT adapter. Leave merge_adapter out.")


def adapter_base(name: str | os.PathLike[str]) -> str | None:
    """The base model of a PEFT adapter's folder or Hub id; None of a model that is no adapter.

    Raises:
        OSError: there is neither, see `check_is_model`.
    """
    if Path(name).is_file():
        return None
    try:
        path = find_adapter_config_file(str(name))
    except OSError:  # no name that the Hub could know
        path = None
    if path is None:
        check_is_model(str(name))
        return None
    return str(json.loads(Path(path).read_text(encoding="utf-8"))["base_model_name_or_path"])


def _has_adapter_layers(model: nn.Module) -> bool:
    tuners = sys.modules.get("peft.tuners.tuners_utils")  # nobody has made such layers where it was not imported
    return tuners is not None and any(isinstance(module, tuners.BaseTunerLayer) for module in model.modules())


def load_merged(adapter: str | os.PathLike[str], dtype: Any) -> PreTrainedModel:
    """The base model of an adapter's folder or Hub id with the adapter in its weights; named after the adapter.

    Raises:
        ValueError: an adapter that is not part of the weights (prompt tuning), or a quantised base model.
        ImportError: PEFT is not installed.
    """
    try:
        from peft import AutoPeftModelForCausalLM
    except ImportError as error:
        raise ImportError(f"{adapter} is a PEFT adapter, and merging it needs peft: pip install peft") from error
    merged = _merge(AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=dtype))
    merged.name_or_path = merged.config._name_or_path = str(adapter)
    return merged


def merged_copy(model: Any) -> PreTrainedModel:
    """A PEFT model's base model with the adapter in its weights; the model itself stays as it is."""
    return _merge(copy.deepcopy(model))


def _merge(model: Any) -> PreTrainedModel:
    if model.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"The teacher's adapter is {model.active_peft_config.peft_type.value}: tokens before the text, which no "
            "weights can hold. Convert its base model."
        )
    if getattr(model.get_base_model(), "hf_quantizer", None) is not None:
        raise ValueError(
            "The teacher's adapter sits on a quantised model, whose rounding would swallow it. Merge it into the base "
            "model in bfloat16, save that, and convert the result."
        )
    return model.merge_and_unload(safe_merge=True)


def tokenizer_home(adapter: str | os.PathLike[str]) -> str:
    """Where the tokenizer of an adapter is: beside it, or with its base model."""
    return str(adapter) if get_tokenizer_config(adapter) else str(adapter_base(adapter))
