# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What vLLM asks about a student's configuration before it builds anything."""

from typing import Any

import vllm
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

from .checks import check_engine, check_student
from .families import student_architecture

RECURRENT_OP = "vllm::hf_tc_gated_delta_net"


class StudentArchitecture(ModelArchConfigConvertorBase):
    """All students have one class in Transformers; in vLLM they have one for each family."""

    def get_architectures(self) -> list[str]:
        """Raises `ValueError` for students that are not served."""
        check_student(self.hf_config, vllm.__version__)
        teacher = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[self.hf_text_config.model_type]
        return [student_architecture(teacher)]


class StudentEngine(VerifyAndUpdateConfig):
    """Checks and completes what the engine was asked for."""

    @classmethod
    def verify_and_update_model_config(cls, model_config: Any) -> None:
        """Where vLLM builds the model, it looks the class up by the configuration's own field."""
        model_config.hf_config.architectures = model_config.architectures

    @classmethod
    def verify_and_update_config(cls, vllm_config: Any) -> None:
        """Raises `ValueError` for what students cannot do."""
        check_engine(vllm_config, not current_platform.is_cpu())
        cache = vllm_config.cache_config
        if cache.mamba_ssm_cache_dtype == "auto":  # a state adds up what rounding loses
            cache.mamba_ssm_cache_dtype = "float32"
