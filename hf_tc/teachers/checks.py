# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which teachers can be converted, and what is refused before anything is computed."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from hf_tc.modeling import HybridGDNConfig
from hf_tc.modeling.family_object import family_class_in
from hf_tc.teachers.adapters import check_no_adapter, load_merged, merged_copy, tokenizer_home
from hf_tc.teachers.devices import check_devices
from hf_tc.teachers.families import REFUSED_FAMILIES, REVIEWED_FAMILIES
from hf_tc.teachers.finite_weights import check_finite_weights
from hf_tc.teachers.loading import load_causal_lm
from hf_tc.teachers.offloading import is_8bit, is_dispatched

QUANTISED = (
    "The teacher is quantised in a way whose weights are not known here. Load it without quantization_config, in "
    "bfloat16 with device_map='auto' where it does not fit on the device, or in 8 bits by bitsandbytes."
)
RECURRENT_LAYER_TYPES = frozenset({"linear_attention", "mamba", "mamba2", "recurrent", "conv", "ssm", "hybrid"})


class UnreviewedTeacherError(ValueError):
    """The teacher's family was not reviewed for what its attention does beyond q.k."""

    def __init__(self, model_type: str) -> None:
        super().__init__(
            f"Teacher family {model_type!r} is not reviewed: its attention may do more than a recurrent layer "
            "preserves, and nothing would say so. Reviewed: "
            f"{', '.join(sorted(REVIEWED_FAMILIES))}. To go on all the same, pass "
            "from_teacher(..., allow_unreviewed=True), or --allow-unreviewed to the command; the parity self-check "
            "still runs."
        )


def will_be_on_one_gpu(
    teacher: nn.Module | str | Path, device: str | torch.device | None, device_map: str | dict[str, Any] | None
) -> bool:
    """Whether `load_teacher` has all of the teacher on one GPU."""
    if device_map is not None or (isinstance(teacher, nn.Module) and is_dispatched(teacher)):
        return False
    if device is None:
        device = next(teacher.parameters()).device if isinstance(teacher, nn.Module) else default_device()
    return torch.device(device).type == "cuda"


def default_device() -> str:
    """Where a teacher given by name is loaded, if nothing else is said."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_teacher(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    dtype: str | torch.dtype = "auto",
    merge_adapter: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The teacher on its device or devices, and its tokenizer; both may be given, or loaded by the teacher's name.

    Args:
        teacher, merge_adapter: what `check_no_adapter` accepts.

    Raises:
        ValueError: a device that is not there; both a device and a device map, or either of them for a teacher that is
            placed already; a device map for an adapter, or one that cannot be merged; or a damaged file of weights.
    """
    if device is not None and device_map is not None:
        raise ValueError(f"Give device or device_map, not both: they are {device!r} and {device_map!r}.")
    check_devices("device", device, words=())
    check_devices("device_map", device_map)
    if merge_adapter and device_map is not None:
        raise ValueError(
            f"device_map is {device_map!r}, and an adapter is merged on one device. Leave device_map out, or merge and "
            "save the model first."
        )
    if isinstance(teacher, str | os.PathLike):
        if device is None and device_map is None:
            device = default_device()
        model = load_merged(teacher, dtype) if merge_adapter else _load(teacher, device_map, dtype)
        home = tokenizer_home(teacher) if merge_adapter else model.name_or_path
    else:
        if device_map is not None or (device is not None and (is_dispatched(teacher) or is_8bit(teacher))):
            raise ValueError(
                "The teacher is already placed; device and device_map are for teachers given by name. Leave them out, "
                "or load the teacher where it should be."
            )
        model = merged_copy(teacher) if merge_adapter else teacher
        home = model.name_or_path
    if device is not None:
        model.to(torch.device(device))  # type: ignore[arg-type]  # `to` is wrapped, and typed as a function of nn.Module
    return model, AutoTokenizer.from_pretrained(home) if tokenizer is None else tokenizer


def _load(name: str | Path, device_map: str | dict[str, Any] | None, dtype: str | torch.dtype) -> PreTrainedModel:
    offload_folder = None
    if device_map is not None:
        # For what the loader must rewrite before it can read it piece by piece. The student may share it.
        offload_folder = tempfile.mkdtemp(prefix="hf_tc-offload-")
        atexit.register(shutil.rmtree, offload_folder, ignore_errors=True)
    return load_causal_lm(name, dtype=dtype, device_map=device_map, offload_folder=offload_folder)


def resolve_text_config(teacher: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of the causal language model that the teacher is.

    Raises:
        ValueError: encoder-decoder, multimodal wrapper, bare backbone, other head, or a class of remote code.
    """
    config = teacher.config
    name = f"{type(teacher).__name__} (model_type {config.model_type!r})"
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder-decoder; only decoder-only causal language models can be converted.")
    text_config = config.get_text_config(decoder=True)
    if type(text_config) is not type(config):
        family = _causal_lm_class(text_config)
        way_out = f"Load it with {family.__name__}.from_pretrained(...)" if family else "Load its language model alone"
        raise ValueError(f"{name} is a multimodal wrapper; only its language model can be converted. {way_out}.")
    family = _causal_lm_class(config)
    if family is None:
        raise ValueError(f"{name} has no causal language model in Transformers: encoders cannot be converted.")
    if not family.__module__.startswith("transformers."):
        raise ValueError(
            f"{name} is a class of {family.__module__.split('.')[0]}, registered in the place of the library's own, "
            "and only those were reviewed. Load the teacher before that package is imported, or with the library's "
            "class."
        )
    if type(teacher) is not family:
        raise ValueError(f"{name} is not {family.__name__}; load the teacher with AutoModelForCausalLM.")
    return config


def _causal_lm_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    try:
        return family_class_in(MODEL_FOR_CAUSAL_LM_MAPPING, config)
    except KeyError:
        return None


def check_teacher(teacher: PreTrainedModel, *, allow_unreviewed: bool = False) -> None:
    """Refuses a teacher that cannot be converted, or whose conversion would be silently wrong.

    Raises:
        UnreviewedTeacherError: a family that nobody reviewed, unless `allow_unreviewed`.
        ValueError: what `check_architecture` refuses, a quantisation that is not bitsandbytes' of 8 bits, no weights,
            NaN or infinity.
    """
    check_architecture(teacher, allow_unreviewed=allow_unreviewed)
    if getattr(teacher, "hf_quantizer", None) is not None and not is_8bit(teacher):
        raise ValueError(QUANTISED)
    check_finite_weights(teacher, "teacher")


def check_architecture(teacher: PreTrainedModel, *, allow_unreviewed: bool = False) -> None:
    """What can be refused without looking at weights; the teacher may be on the meta device.

    Raises:
        UnreviewedTeacherError: a family that nobody reviewed, unless `allow_unreviewed`.
        ValueError: what `check_no_adapter` refuses, no causal LM, a hybrid already, or a refused family.
    """
    check_no_adapter(teacher)
    if teacher.config.model_type == HybridGDNConfig.model_type:
        raise ValueError("The teacher is already a hybrid_gdn student; convert the model that it was made from.")
    model_type = resolve_text_config(teacher).model_type
    recurrent = RECURRENT_LAYER_TYPES.intersection(getattr(teacher.config, "layer_types", None) or ())
    # The library says "stateful" of a class, also where all layers of this configuration are attention.
    stateful = getattr(teacher, "_is_stateful", False) and model_type not in REVIEWED_FAMILIES
    if recurrent or stateful:
        raise ValueError(
            f"{model_type!r} already has recurrent layers ({', '.join(sorted(recurrent)) or 'stateful'}); the "
            "conversion starts from a Transformer whose layers are all attention."
        )
    if model_type in REFUSED_FAMILIES:
        raise ValueError(f"Teacher family {model_type!r} cannot be converted: {REFUSED_FAMILIES[model_type]}")
    if model_type not in REVIEWED_FAMILIES and not allow_unreviewed:
        raise UnreviewedTeacherError(model_type)
    if getattr(teacher.config, "use_bidirectional_attention", False):
        raise ValueError(
            f"This {model_type!r} has use_bidirectional_attention set: its tokens see the future, which a recurrent "
            "layer cannot. Load a causal checkpoint."
        )
