# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What vLLM calls, in each of its processes and for every model, by the entry point group `vllm.general_plugins`."""

import logging

from .families import served_architectures

logger = logging.getLogger(__name__)


def register() -> None:
    """Makes vLLM know students; safe to call twice, and without effect on other models.

    A vLLM that lacks what this is built on goes on without students, which it then does not know.
    """
    import hf_tc  # noqa: F401, registers the configuration

    try:
        from vllm import ModelRegistry
        from vllm.config import CompilationConfig
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP
        from vllm.transformers_utils.model_arch_config_convertor import MODEL_ARCH_CONFIG_CONVERTORS

        from .engine_hooks import RECURRENT_OP, StudentArchitecture, StudentEngine
    except ImportError as error:
        logger.warning("hf_tc: this vLLM cannot serve students (%s). Versions: pip show hf_tc", error)
        return
    MODEL_ARCH_CONFIG_CONVERTORS["hybrid_gdn"] = StudentArchitecture
    for name in served_architectures():
        ModelRegistry.register_model(name, f"hf_tc.vllm_plugin.student_classes:{name}")
        MODELS_CONFIG_MAP[name] = StudentEngine
    if RECURRENT_OP not in CompilationConfig._attention_ops:  # where compiled graphs are split, as at attention
        CompilationConfig._attention_ops.append(RECURRENT_OP)
