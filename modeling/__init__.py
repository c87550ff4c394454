# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The student's own code: what travels to the Hub with the weights. Needs torch and transformers; uses fla."""

from .supported_versions import HF_TC_VERSION as HF_TC_VERSION  # first: it checks the release of Transformers

# isort: split
from .cache import GDNCacheLayer
from .configuration_hybrid_gdn import HybridGDNConfig
from .gated_deltanet import GatedDeltaNet
from .modeling_hybrid_gdn import (
    HybridGDNForCausalLM,
    HybridGDNForQuestionAnswering,
    HybridGDNForSequenceClassification,
    HybridGDNForTokenClassification,
    HybridGDNModel,
    HybridGDNPreTrainedModel,
)

__all__ = [
    "GDNCacheLayer",
    "GatedDeltaNet",
    "HybridGDNConfig",
    "HybridGDNForCausalLM",
    "HybridGDNForQuestionAnswering",
    "HybridGDNForSequenceClassification",
    "HybridGDNForTokenClassification",
    "HybridGDNModel",
    "HybridGDNPreTrainedModel",
]
