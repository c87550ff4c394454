# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The student: the family's causal language model around the hybrid backbone, and its other heads.

Logit scaling, soft-capping, router losses and the loss function are the family's own code.
"""

from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from .cache_adoption import adopt_cache, end_recording, is_recording
from .classification_heads import (
    HybridGDNForQuestionAnswering,
    HybridGDNForSequenceClassification,
    HybridGDNForTokenClassification,
)
from .configuration_hybrid_gdn import LINEAR_ATTENTION, HybridGDNConfig
from .family_object import family_class_in
from .hybrid_backbone import HybridGDNModel, HybridGDNPreTrainedModel
from .library_cache import cache_argument, cache_of, takes_cache
from .masks import padding_of
from .out_of_memory import memory_advice

LESS_MEMORY = "Set prefill_chunk_size, such as 4096, to read a prompt in parts, or generate for fewer rows at once."
NO_CONTINUOUS_BATCHING = "Continuous batching does not support recurrent layers; use generate."


class HybridGDNForCausalLM(HybridGDNPreTrainedModel, GenerationMixin):
    """The student: a causal language model for generation, training and the Hub."""

    def __init__(self, config: HybridGDNConfig) -> None:
        family_class = family_class_in(MODEL_FOR_CAUSAL_LM_MAPPING, config.teacher_config)
        self._take_family_flags(family_class)
        super().__init__(config)
        family = family_class(config.teacher_config)
        prefix = family.base_model_prefix
        setattr(family, prefix, HybridGDNModel(config, getattr(family, prefix)))
        self._adopt(family)
        # Where the family prepares its own inputs; its own masks would know no recurrent layers.
        family.__dict__["create_masks_for_generate"] = self.create_masks_for_generate
        self.post_init()

    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """The family's forward. Its arguments are named because the library looks for them in the signature.

        Trainer drops columns whose name is not there, and without `logits_to_keep` generation would compute the logits
        of the whole prompt.
        """
        return self.family(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **cache_argument(cache),
            **kwargs,
        )

    @classmethod
    def from_teacher(cls, teacher: Any, tokenizer: Any = None, **options: Any) -> "HybridGDNForCausalLM":
        """Converts a pretrained Transformer into a calibrated student, by Taylor-Calibrate (arXiv 2606.16429).

        Args:
            teacher: a causal language model, a folder or a Hub id. A model stays as it is, and the student gets copies
                of its weights. What is loaded from a folder or id belongs to the student, without a second copy.
            tokenizer: defaults to the teacher's own.
            options: `calibration_data`, `retained_layers`, `layer_policy`, `alignment_steps` and the others of
                `hf_tc.convert.from_teacher`, which does the work.

        Returns:
            The student, with the figures of the conversion in `student.conversion_report`.

        Raises:
            ImportError: hf_tc is not installed.
            ValueError: the teacher, the text or an option cannot be used; the message says why.
        """
        try:
            from hf_tc.convert import from_teacher
        except ImportError as error:
            raise ImportError("Converting a teacher needs the hf_tc package: pip install hf_tc") from error
        return from_teacher(teacher, tokenizer, **options)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in the library; early exit, which runs fewer layers for a while, is undone also where it fails."""
        layers = self.config.num_hidden_layers
        try:
            with memory_advice(LESS_MEMORY):
                return super().generate(*args, **kwargs)
        finally:
            self.config.num_hidden_layers = layers

    def _assisted_decoding(self, *args: Any, **kwargs: Any) -> Any:
        """As in the library, whose caches go on recording every token after the call that needed it."""
        cache = cache_of(kwargs)
        recorded_before = cache is not None and is_recording(cache)
        try:
            # typed for models of a protocol, which names methods that the library's own models have not either
            return super()._assisted_decoding(*args, **kwargs)  # type: ignore[misc]
        finally:
            if cache is not None and not recorded_before:
                end_recording(cache)

    @property
    def init_continuous_batching(self) -> Any:
        """Not there, see `__getattr__`. `transformers serve` asks by `hasattr` and does without."""
        raise AttributeError(NO_CONTINUOUS_BATCHING)

    def __getattr__(self, name: str) -> Any:
        if name == "init_continuous_batching":  # asked of nn.Module next, which has another message
            raise AttributeError(NO_CONTINUOUS_BATCHING)
        return super().__getattr__(name)

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Raises NotImplementedError: paged caches know no recurrent layers."""
        raise NotImplementedError(NO_CONTINUOUS_BATCHING)

    def continuous_batching_context_manager(self, *args: Any, **kwargs: Any) -> Any:
        """Raises NotImplementedError: paged caches know no recurrent layers."""
        raise NotImplementedError(NO_CONTINUOUS_BATCHING)

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Adopts the cache before decoding starts, so that recurrent layers hear of it when rollback is switched on.

        Raises:
            ValueError: an offloaded cache on a machine without accelerator, where the library fails in CUDA's name, or
                of a release of the library that offloads wrongly, see `adopt_cache`.
        """
        implementation = generation_config.cache_implementation or ""
        if implementation.startswith("offloaded") and not torch.accelerator.is_available():
            raise ValueError(
                f"cache_implementation={implementation!r} moves the cache between an accelerator and the CPU; there is "
                "no accelerator, and the cache is in the CPU's memory in any case. Leave it out."
            )
        # typed as in `_assisted_decoding`
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]
        cache = cache_of(model_kwargs)
        if cache is not None:
            adopt_cache(cache, self.config.linear_layers, self.config.num_hidden_layers)
            if generation_config.is_assistant:
                cache.activate_past_recording()
        return result

    @staticmethod
    def create_masks_for_generate(config: PreTrainedConfig, **kwargs: Any) -> dict[str, torch.Tensor | None]:
        """The masks of the teacher's layers and, beside them, the padding mask of the recurrent ones.

        `generate` calls it before compiled forwards, where masks cannot be made; the result must be a flat dictionary.
        """
        text_config = config.get_text_config()
        family_class = family_class_in(MODEL_FOR_CAUSAL_LM_MAPPING, text_config)
        make_masks = getattr(family_class, "create_masks_for_generate", create_masks_for_generate)
        masks = make_masks(config=text_config, **kwargs)
        if not isinstance(masks, dict):
            masks = {"full_attention": masks}
        padding = padding_of(kwargs["attention_mask"], kwargs["inputs_embeds"].shape[1])
        return {**masks, LINEAR_ATTENTION: padding}


__all__ = [
    "HybridGDNForCausalLM",
    "HybridGDNForQuestionAnswering",
    "HybridGDNForSequenceClassification",
    "HybridGDNForTokenClassification",
    "HybridGDNModel",
    "HybridGDNPreTrainedModel",
]
