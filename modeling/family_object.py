# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The family object behind a student: what the student takes over from it, and what keeps the two in step.

The student is built around an object of the teacher's own class. Both hold the same modules and parameters under the
same names, and the student answers the library as that class would: flags, parallel plans, and methods that the family
overrides, such as Phi-3's `prepare_inputs_for_generation`, which starts the cache anew where its RoPE switches.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel

# Class attributes by which Transformers asks a model what it can do: the student answers as its family does.
FAMILY_FLAGS = (
    "_supports_sdpa",
    "_supports_flash_attn",
    "_supports_flex_attn",
    "_supports_attention_backend",
    "_can_set_experts_implementation",
    "_can_compile_fullgraph",
    "_can_record_outputs",
    "_no_split_modules",
    "_skip_keys_device_placement",
    "_keep_in_fp32_modules",
    "_keep_in_fp32_modules_strict",
    "_keys_to_ignore_on_load_unexpected",
    "_tied_weights_keys",
    "base_model_prefix",
)
PARALLEL_PLANS = ("_tp_plan", "_ep_plan", "_fsdp_plan")
SHARED_STATE = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")
# What the student has of its own in any case.
OWN_METHODS = {"forward", "_init_weights", "get_input_embeddings", "set_input_embeddings", "create_masks_for_generate"}


def family_class_in(mapping: Mapping[type[PreTrainedConfig], Any], config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The family's class in one of the library's mappings, such as MODEL_MAPPING, which are typed for tokenizers too.

    Raises:
        KeyError: the family has no such class.
    """
    return mapping[type(config)]


def overridden_methods(family_class: type[PreTrainedModel]) -> set[str]:
    """Names of the library's general methods that a family has in a version of its own."""
    general = {name for name in {*dir(PreTrainedModel), *dir(GenerationMixin)} if not name.startswith("__")}
    return {name for name in general if _is_a_familys(family_class, name)}


def _is_a_familys(family_class: type[PreTrainedModel], name: str) -> bool:
    owner = next((base for base in family_class.__mro__ if name in vars(base)), object)
    return owner.__module__.startswith("transformers.models.") and inspect.isroutine(vars(owner)[name])


class AroundFamilyObject(PreTrainedModel):
    """A model that shares the modules of an object of the teacher's own class, its `family`."""

    family: PreTrainedModel

    def _take_family_flags(self, family_class: type[PreTrainedModel]) -> None:
        for name in FAMILY_FLAGS:
            if hasattr(family_class, name):
                self.__dict__[name] = getattr(family_class, name)

    def _adopt(self, family: PreTrainedModel) -> None:
        """Makes the family object's modules and parameters this model's own, under the same names.

        The dictionaries are shared, not copied: whatever is replaced in one (an LM head, a wrapped layer) is replaced
        in both. The family object itself stays out of `_modules`, or each parameter would be found twice.
        """
        for name in SHARED_STATE:
            self.__dict__[name] = family.__dict__[name]
        self.__dict__["family"] = family
        for name in overridden_methods(type(family)) - OWN_METHODS:
            self.__dict__[name] = getattr(family, name)

    def init_parallel_plans(self) -> None:
        """The plans for sharding are the family's, which are attributes of its classes and of its configuration."""
        super().init_parallel_plans()
        if self._modules is self.family._modules:
            for name in PARALLEL_PLANS:
                setattr(self, name, {**(getattr(self.family, name, None) or {}), **(getattr(self, name) or {})})

    def __setattr__(self, name: str, value: Any) -> None:
        """Whoever sets the mode or the configuration of one sets it for both; all else they share or have alone."""
        super().__setattr__(name, value)
        family = self.__dict__.get("family")
        if family is not None and name == "training":
            family.training = value
        elif family is not None and name == "config":
            family.config = value.get_text_config()

    def set_experts_implementation(self, experts_implementation: str | dict[str, str]) -> None:
        """As in the library, and in the teacher's configuration too, which is the one that experts read."""
        super().set_experts_implementation(experts_implementation)
        self.config._experts_implementation = experts_implementation

    def get_input_embeddings(self) -> nn.Module:
        return self.family.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.family.set_input_embeddings(value)
