# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion would do and cost, from the teacher's configuration alone: `hf-tc convert --dry-run`.

Teacher and student are built on the meta device, so their parameters are counted, not estimated; caches and states
follow from their modules' shapes. Memory is an estimate, see `memory.estimate`.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from hf_tc.alignment.joint_progress import progress_bytes
from hf_tc.config import DEFAULT_POLICY, ConversionConfig, SelectionConfig
from hf_tc.layer_selection.policies import MEASURING_POLICIES, checked_indices
from hf_tc.layer_selection.uniform import uniform
from hf_tc.memory.cache_size import CacheSizes, cache_sizes
from hf_tc.memory.estimate import PeakMemory, Widths, has_room, joint_pass, peak_memory, widths_of
from hf_tc.memory.free_host_memory import free_host_bytes
from hf_tc.memory.layers_at_once import layers_at_once
from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.options import takes_options, with_options
from hf_tc.selection import LayerSelection
from hf_tc.teachers.adapters import adapter_base, check_no_adapter
from hf_tc.teachers.checks import QUANTISED, check_architecture
from hf_tc.teachers.families import REVIEWED_FAMILIES
from hf_tc.teachers.positions import check_fits


@dataclass(frozen=True)
class ConversionPlan:
    """Counted figures of a conversion.

    Attributes:
        preserved: what of the family's attention a recurrent layer preserves; None for a family nobody reviewed.
        policy: how the retained layers are chosen. Where it has to measure, `retained_layers` are as many as it will
            retain, but `uniform`'s.
        teacher_parameters, student_parameters: tied ones once.
        mixer_parameters: of each recurrent layer.
    """

    teacher: str
    family: str
    preserved: str | None
    dtype: torch.dtype
    policy: str
    retained_layers: tuple[int, ...]
    linear_layers: tuple[int, ...]
    longest_context: int | None
    cache: CacheSizes
    teacher_parameters: int
    student_parameters: int
    mixer_parameters: tuple[int, ...]
    settings: ConversionConfig
    widths: Widths

    @property
    def added_parameters(self) -> int:
        return self.student_parameters - self.teacher_parameters

    @property
    def teacher_bytes(self) -> int:
        """The teacher's weights, loaded in `dtype`."""
        return self.teacher_parameters * self.dtype.itemsize

    @property
    def student_bytes(self) -> int:
        """The student's weights on disk."""
        return self.student_parameters * self.dtype.itemsize

    @property
    def checkpoint_bytes(self) -> int:
        """The folder of finished layers at its largest: every recurrent layer at each stage, and a joint alignment
        under way."""
        layers = self.settings.stages * sum(self.mixer_parameters) * self.dtype.itemsize
        return layers + (progress_bytes(sum(self.mixer_parameters)) if self.settings.stages == 3 else 0)

    @property
    def selection_forwards(self) -> int:
        """Forward passes of SELECTION_TOKENS that choose the layers."""
        if self.policy not in MEASURING_POLICIES:
            return 0
        return MEASURING_POLICIES[self.policy].forwards(len(self.cache.layers), len(self.retained_layers))

    def memory(self, device_bytes: int | None, weights_fit: bool = True) -> PeakMemory:
        """Expected peak of a conversion by name, whose student shares what it retains with the loaded teacher.

        Arguments as in `memory.estimate.peak_memory`.
        """
        joint = self._joint_bytes(device_bytes) if self.joint_steps(device_bytes, weights_fit) else 0
        return peak_memory(
            self.widths,
            self.settings,
            self._weights,
            joint,
            device_bytes=device_bytes,
            weights_fit=weights_fit,
            at_once=self.layers_at_once(device_bytes),
        )

    def layers_at_once(self, device_bytes: int | None) -> int:
        """Layers that are fitted at once on a GPU of that memory, or for None by this machine, as it is now."""
        if device_bytes is not None:
            return 1
        one = peak_memory(self.widths, self.settings, 0, device_bytes=None).host
        layers = len(self.cache.layers) if self._calibrates_all else len(self.linear_layers)
        return layers_at_once(layers, one, free_host_bytes() - self._weights)

    def joint_steps(self, device_bytes: int | None, weights_fit: bool = True) -> int:
        """Steps of joint alignment, as asked for or by the room there is; arguments as in `memory`."""
        fits = has_room(self._joint_bytes(device_bytes), self._beside_weights(device_bytes))
        return self.settings.joint.budget(weights_fit and bool(self.linear_layers) and fits).steps

    def _joint_bytes(self, device_bytes: int | None) -> int:
        layers, free = (len(self.cache.layers), len(self.linear_layers)), self._beside_weights(device_bytes)
        return joint_pass(self.widths, self.settings.sequence_length, *layers, free)[1]

    def _beside_weights(self, device_bytes: int | None) -> int | None:
        return None if device_bytes is None else device_bytes - self._weights

    @property
    def _weights(self) -> int:
        return self.teacher_bytes + self._mixers_at_once * self.dtype.itemsize

    @property
    def _mixers_at_once(self) -> int:
        """Parameters of the recurrent layers; of all layers as such, where the policy compares them."""
        others = len(self.retained_layers) if self._calibrates_all else 0
        return sum(self.mixer_parameters) + others * max(self.mixer_parameters, default=0)

    @property
    def _calibrates_all(self) -> bool:
        """Whether the policy compares layers that are calibrated, and so every layer is."""
        return self.policy in MEASURING_POLICIES and MEASURING_POLICIES[self.policy].calibrates


@takes_options()
def plan_conversion(
    teacher: str | Path | PreTrainedConfig, *, settings: ConversionConfig | None = None, **options: Any
) -> ConversionPlan:
    """The plan of a conversion, from a Hub id (of which config.json alone is fetched), a folder, a JSON file or a
    configuration; with `merge_adapter` from those of an adapter's base model.

    Args:
        settings: of the conversion; the options of `from_teacher` change single ones.

    Raises:
        OSError: there is no such configuration.
        ValueError: what `from_teacher` would refuse before it looks at weights and text.
    """
    settings = with_options(settings or ConversionConfig(), options)
    config = _configuration(teacher, settings.loading.merge_adapter)
    _check_quantisation(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    check_architecture(model, allow_unreviewed=settings.loading.allow_unreviewed)
    check_fits({"teacher": config}, settings.sequence_length)
    policy, retained = _retained(settings.selection, config.num_hidden_layers)
    student = _student_on_meta(config, retained, settings)
    mixers = tuple(_parameters(module) for module in student.modules() if isinstance(module, GatedDeltaNet))
    dtype = _dtype(settings.loading.dtype, config)
    return ConversionPlan(
        teacher=str(config.name_or_path if isinstance(teacher, PreTrainedConfig) else teacher),
        family=config.model_type,
        preserved=REVIEWED_FAMILIES.get(config.model_type),
        dtype=dtype,
        policy=policy,
        retained_layers=retained,
        linear_layers=student.config.linear_layers,
        longest_context=getattr(config, "max_position_embeddings", None),
        cache=cache_sizes(model, student, dtype.itemsize),
        teacher_parameters=_parameters(model),
        student_parameters=_parameters(student),
        mixer_parameters=mixers,
        settings=settings,
        widths=widths_of(model, max(mixers, default=0), dtype.itemsize),
    )


def _retained(selection: SelectionConfig, layers: int) -> tuple[str, tuple[int, ...]]:
    """The policy and the layers, for one that measures as many as it will retain."""
    retained = selection.retained_layers
    if isinstance(retained, LayerSelection):
        retained = retained.retained_layers
    if isinstance(retained, int | float):
        return selection.layer_policy or DEFAULT_POLICY, uniform(float(retained), layers)
    return "list", checked_indices(retained, layers)


def _configuration(teacher: str | Path | PreTrainedConfig, merge_adapter: bool) -> PreTrainedConfig:
    if isinstance(teacher, PreTrainedConfig):
        return teacher
    check_no_adapter(teacher, merge_adapter)
    if isinstance(teacher, nn.Module):
        raise ValueError(
            f"A plan is made from a configuration; the teacher is a {type(teacher).__name__}. Give its config."
        )
    base = adapter_base(teacher) if merge_adapter else None
    return AutoConfig.from_pretrained(base or teacher)


def _dtype(dtype: str | torch.dtype, config: PreTrainedConfig) -> torch.dtype:
    if dtype == "auto":
        dtype = config.dtype or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _check_quantisation(config: PreTrainedConfig) -> None:
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None:
        fields = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
        if not fields.get("load_in_8bit"):
            raise ValueError(QUANTISED)


def _student_on_meta(
    config: PreTrainedConfig, retained: tuple[int, ...], settings: ConversionConfig
) -> HybridGDNForCausalLM:
    kinds = HybridGDNConfig(text_config=copy.deepcopy(config)).teacher_layer_types
    layer_types = [kind if index in retained else "linear_attention" for index, kind in enumerate(kinds)]
    student_config = HybridGDNConfig(
        text_config=copy.deepcopy(config), layer_types=layer_types, nope_layers=[], **settings.mixer.fields(config)
    )
    with torch.device("meta"):
        return HybridGDNForCausalLM(student_config)


def _parameters(module: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
