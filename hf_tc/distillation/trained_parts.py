# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What of a student trains.

| preset | recurrent mixers | norms | attention that was retained | all else |
|---|---|---|---|---|
| all | as they came | as they came | as it came | as it came |
| mixers | train | | | |
| mixers_and_norms | train | train | | |
| attention_too | train | train | trains | |
| lora | new parts train, projections by LoRA | | LoRA | LoRA, but the embeddings and the head |

"Norms" are those around mixers and feed-forward blocks; a norm on q or k goes with its mixer or its attention.
"""

from __future__ import annotations

from itertools import compress
from typing import Any

from torch import nn

from hf_tc.modeling import GatedDeltaNet, HybridGDNForCausalLM
from hf_tc.modeling.configuration_hybrid_gdn import LINEAR_ATTENTION
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers
from hf_tc.teachers.new_student import NEW_IN_MIXER

LORA_RANK, LORA_ALPHA = 16, 32
ADAPTED_IN_MIXER = "g_proj"  # new, but as large as the teacher's projections: LoRA adapts it as it does those


def select_trained_parts(student: Any, trains: str) -> Any:
    """Has the parts of a student train that a preset names, in place, and freezes the rest.

    Args:
        student: any model for "all", a student without an adapter for the others.
        trains: one of `hf_tc.config.TRAINS`.

    Returns:
        The student; with "lora" PEFT's wrapper of it.

    Raises:
        ValueError: another preset than "all" for a model that is no student, or that has an adapter or a wrapper.
    """
    if trains == "all":
        return student
    if not isinstance(student, HybridGDNForCausalLM):
        raise ValueError(
            f"trains is {trains!r}, which names parts of a student of hf_tc, and the model is a "
            f"{type(student).__name__}. Load a student where hf_tc is imported, "
            "without trust_remote_code; or leave trains at 'all', as any model can be trained."
        )
    if getattr(student, "peft_config", None) is not None:
        raise ValueError(
            f"trains is {trains!r}, and the student has an adapter, which says what trains. Leave trains at 'all'."
        )
    if trains == "lora":
        return _with_lora(student)
    mixers: list[nn.Module] = [module for module in student.modules() if isinstance(module, GatedDeltaNet)]
    attention = _retained_attention(student)
    chosen = {
        "mixers": mixers,
        "mixers_and_norms": [*mixers, *_norms_outside(student, mixers + attention)],
        "attention_too": [*mixers, *_norms_outside(student, mixers + attention), *attention],
    }
    student.requires_grad_(False)
    for module in chosen[trains]:
        module.requires_grad_(True)
    return student


def _retained_attention(student: HybridGDNForCausalLM) -> list[nn.Module]:
    """Those of layers with attention; some families have layers of a third kind, which are retained, too."""
    kinds = student.config.layer_types or []
    attends = ["attention" in kind and kind != LINEAR_ATTENTION for kind in kinds]
    return [find_attention(layer)[1] for layer in compress(find_decoder_layers(student.base_model), attends)]


def _norms_outside(student: nn.Module, parts: list[nn.Module]) -> list[nn.Module]:
    inside = {module for part in parts for module in part.modules()}
    return [module for module in student.modules() if "Norm" in type(module).__name__ and module not in inside]


def _with_lora(student: HybridGDNForCausalLM) -> Any:
    """The student under LoRA on every linear layer but the head, with its new modules trained whole and saved beside.

    PEFT saves whole modules. `A_log`, `dt_bias` and `first_token_weight`, bare parameters of a mixer, and the bias
    below an adapter (of `g_proj`) it would leave out, so they stay as they are; what `a_proj` learns moves the decay of
    every token.
    """
    whole = [name for name in NEW_IN_MIXER if name != ADAPTED_IN_MIXER]
    saved = [
        f"{path}.{name}"  # whole paths: PEFT compares the ends of names, and families may have a q_a_proj
        for path, mixer in student.named_modules()
        if isinstance(mixer, GatedDeltaNet)
        for name, module in mixer.named_children()
        if name in whole
    ]
    more_than_linear = [  # PhiMoE's router, an nn.Linear by its class, gives a pair, which LoRA cannot add to
        path
        for path, module in student.named_modules()
        if isinstance(module, nn.Linear) and type(module).__module__.startswith("transformers.models.")
    ]
    from peft import LoraConfig, TaskType, get_peft_model  # seconds, for those who want it

    adapter = LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        target_modules="all-linear",
        exclude_modules=more_than_linear or None,
        modules_to_save=saved,
        task_type=TaskType.CAUSAL_LM,
    )
    return get_peft_model(student, adapter)
