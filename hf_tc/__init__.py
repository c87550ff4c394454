# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""hf_tc turns pretrained Transformer language models into hybrids with Gated DeltaNet layers.

Importing it registers the student's classes with Transformers, so that `AutoModelForCausalLM.from_pretrained` loads a
converted student without further arguments.
"""

from hf_tc.modeling.supported_versions import HF_TC_VERSION  # first: it checks the release of Transformers

# isort: split
from hf_tc.distillation import DistillationConfig, DistillationTrainer
from hf_tc.hub.registration import register
from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM, HybridGDNModel

register()

__version__ = HF_TC_VERSION
__all__ = ["DistillationConfig", "DistillationTrainer", "HybridGDNConfig", "HybridGDNForCausalLM", "HybridGDNModel"]
