# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The backbone: the teacher family's own classes with the attention of some layers replaced by Gated DeltaNet.

`HybridGDNModel` builds the family's object from the teacher's configuration, swaps the attention of the recurrent
layers, and shares the family object's modules, so that parameter names are the teacher's and everything outside the
recurrent layers (norms, experts, activation checkpointing) is the family's own code.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from .cache import recurrent_layer
from .cache_adoption import adopt_cache
from .configuration_hybrid_gdn import LINEAR_ATTENTION, HybridGDNConfig
from .family_object import AroundFamilyObject, family_class_in
from .fla_kernels import row_bounds
from .gate_projection import GateProjection
from .gated_deltanet import GatedDeltaNet
from .library_cache import cache_argument, takes_cache
from .masks import RecurrentMask, check_mask, has_empty_rows, has_past, packed_positions, padding_of
from .saving import SelfContainedSaveMixin
from .short_convolution import ShortConvolution
from .teacher_attention import find_attention, find_decoder_layers
from .tensor_parallel import check_heads_divide


class HybridGDNPreTrainedModel(SelfContainedSaveMixin, AroundFamilyObject):
    """What the backbone and the causal LM share: the family object behind them, weight initialisation, saving."""

    config: HybridGDNConfig
    config_class = HybridGDNConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Loads a student, as in the library.

        Raises:
            ValueError: the weights have recurrent layers where the configuration has none, or the other way round; or
                more tensor-parallel ranks than key/value heads.
        """
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        check_recurrent_layers(model, report["missing_keys"], report["unexpected_keys"])
        for mixer in model.modules():
            if isinstance(mixer, GatedDeltaNet):
                check_heads_divide(mixer.num_heads, mixer.num_kv_heads, model.tp_size or 1)
                mixer.device_mesh = model._device_mesh
        return (model, report) if output_loading_info else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, GatedDeltaNet):
            init_gates(module)
        elif isinstance(module, ShortConvolution):
            init.zeros_(module.weight)
            if not getattr(module.weight, "_is_hf_initialized", False):
                init.ones_(module.weight[0])
        elif isinstance(module, GateProjection):
            init.normal_(module.weight, std=getattr(self.config, "initializer_range", None) or 0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        else:
            self.family._init_weights(module)


def check_recurrent_layers(model: PreTrainedModel, missing: set[str], unexpected: set[str]) -> None:
    """Raises `ValueError` for gates that would stay random in a layer whose other weights were found, or go unused."""
    unused = {name for name in unexpected if name.endswith(".A_log")}
    random = {
        name
        for name, module in model.named_modules()
        if isinstance(module, GatedDeltaNet) and f"{name}.A_log" in missing
        # A model without any weights may be initialised; one with some is not what the configuration says.
        if not all(f"{name}.{parameter}" in missing for parameter, _ in module.named_parameters())
    }
    if random or unused:
        raise ValueError(
            f"The weights do not fit layer_types of the configuration: no gates for {sorted(random)}, gates of no use "
            f"in {sorted(unused)}. Load a student with the configuration it was saved with; a teacher becomes one "
            "by `HybridGDNForCausalLM.from_teacher`."
        )


def init_gates(mixer: GatedDeltaNet) -> None:
    """The usual initialisation of decay parameters (Mamba-2, Gated DeltaNet): time steps spread over [1e-3, 1e-1]."""
    heads, device = mixer.num_heads, mixer.dt_bias.device
    steps = torch.exp(torch.linspace(math.log(1e-3), math.log(1e-1), heads, device=device))
    init.copy_(mixer.dt_bias, steps + torch.log(-torch.expm1(-steps)))  # softplus(dt_bias) = steps
    init.copy_(mixer.A_log, torch.log(torch.linspace(1.0, 16.0, heads, device=device)))
    if mixer.first_token_weight is not None:
        init.zeros_(mixer.first_token_weight)


class HybridGDNModel(HybridGDNPreTrainedModel):
    """The backbone: token ids or embeddings in, hidden states out."""

    def __init__(self, config: HybridGDNConfig, family: PreTrainedModel | None = None) -> None:
        family_class = family_class_in(MODEL_MAPPING, config.teacher_config) if family is None else type(family)
        self._take_family_flags(family_class)
        super().__init__(config)
        if family is None:
            family = family_class(config.teacher_config)
        self._adopt(family)
        self.gradient_checkpointing = False  # switched by the library, which does not see the family object
        layers = find_decoder_layers(family)
        for index in config.linear_layers:
            name, attention = find_attention(layers[index])
            setattr(layers[index], name, GatedDeltaNet(config, index, attention))
        self.post_init()

    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The family's forward, with a cache and a mask that also serve the recurrent layers.

        Raises:
            ValueError: a cache of another model, a mask that does not fit, or packed documents together with a cache.
        """
        config, tokens = self.config, input_ids if inputs_embeds is None else inputs_embeds
        if tokens is None:
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds.")
        if cache is not None:
            adopt_cache(cache, config.linear_layers, config.num_hidden_layers)
        if config.linear_layers:
            recurrent_mask = self._recurrent_mask(tokens, attention_mask, position_ids, cache, kwargs)
            kwargs["recurrent_mask"] = recurrent_mask
            if recurrent_mask.document_position is not None and not torch.compiler.is_compiling():
                if use_cache or cache is not None:
                    raise ValueError(
                        "Packed documents (restarting position_ids or cu_seq_lens_q) came with a cache, by which "
                        "attention would read across documents. Pass use_cache=False, or pad the documents instead."
                    )
                use_cache = False
        if use_cache is None:
            use_cache = bool(config.use_cache)
        if self.training and self.gradient_checkpointing:
            use_cache = False
        if use_cache and cache is None:
            cache = DynamicCache(config=config.teacher_config)
            adopt_cache(cache, config.linear_layers, config.num_hidden_layers)
        if isinstance(attention_mask, dict):
            attention_mask = {kind: mask for kind, mask in attention_mask.items() if kind != LINEAR_ATTENTION}
            if not hasattr(config.teacher_config, "layer_types"):  # such families take one mask, not one for each type
                attention_mask = next(iter(attention_mask.values()), None)
        return self.family(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **cache_argument(cache),
            **kwargs,
        )

    def _recurrent_mask(
        self,
        tokens: torch.Tensor,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None,
        position_ids: torch.Tensor | None,
        cache: Cache | None,
        kwargs: dict[str, Any],
    ) -> RecurrentMask:
        (batch, length), first = tokens.shape[:2], self.config.linear_layers[0]
        if isinstance(attention_mask, dict):
            padding = attention_mask.get(LINEAR_ATTENTION)
        else:
            check_mask(attention_mask, length, 0 if cache is None else recurrent_layer(cache, first).get_seq_length())
            padding = padding_of(attention_mask, length)
        if attention_mask is not None or has_past(cache, first):
            position_ids = None
        positions = packed_positions(batch, length, position_ids, kwargs.get("cu_seq_lens_q"))
        bounds = None
        if positions is not None and positions.is_cuda and not torch.compiler.is_compiling():
            bounds = row_bounds(positions.eq(0))
        return RecurrentMask(padding, positions, bounds, has_empty_rows(padding))
