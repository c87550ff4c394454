# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The library's common tests on students of three families; everything that a checkout holds where one is given."""

import os
import unittest
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from build_root import checkout

if "HF_TC_COMMON_SUITE_UNREACHABLE" in os.environ:
    pytest.skip(os.environ["HF_TC_COMMON_SUITE_UNREACHABLE"], allow_module_level=True)

import tests.generation.test_utils as generation_tests
from student_tester import StudentClasses, StudentTester
from tests.test_configuration_common import ConfigTester
from tests.test_fsdp_mixin import FSDPTesterMixin
from tests.test_modeling_common import ModelTesterMixin
from tests.test_tensor_parallel_mixin import TensorParallelTesterMixin
from tests.test_training_mixin import TrainingTesterMixin
from transformers.testing_utils import torch_device

import hf_tc  # noqa: F401  registers the student's classes
from hf_tc.modeling import GDNCacheLayer, HybridGDNConfig

if checkout() is None:

    class CommonTests(
        ModelTesterMixin,
        generation_tests.GenerationTesterMixin,
        TrainingTesterMixin,
        TensorParallelTesterMixin,
        FSDPTesterMixin,
    ):
        model_tester_class: ClassVar[type]
        model_tester = None

        def setUp(self) -> None:
            self.model_tester = self.model_tester_class(self)
            self.all_model_classes = self.model_tester.all_model_classes
            self.config_tester = ConfigTester(self, config_class=self.model_tester.config_class)

        def test_config(self) -> None:
            self.config_tester.run_common_tests()

    BASES: tuple[type, ...] = (StudentTester,)
else:
    from tests.causal_lm_tester import CausalLMModelTest, CausalLMModelTester

    generation_tests.LinearAttentionLayer = GDNCacheLayer  # compared with `type(layer) is`
    # Otherwise distributed tests run on a list of the library's own models.
    for kind, mixin in {"FSDP": "fsdp", "TP": "tensor_parallel", "EP": "expert_parallel"}.items():
        if find_spec(f"tests.test_{mixin}_mixin") is not None:  # older releases have no file of its own for experts
            setattr(import_module(f"tests.test_{mixin}_mixin"), f"{kind}_DISTRIBUTED_TEST_MODEL_TYPES", None)
    BASES = (StudentClasses, CausalLMModelTester)

    class CommonTests(CausalLMModelTest):
        @unittest.skip("refused: a recurrent state cannot follow a mask from token to token (test_recurrent_mask.py)")
        def test_custom_4d_attention_mask(self) -> None:
            pass

        @unittest.skip("every layer is to be quantised; recurrent ones are not (test_generation.py)")
        def test_generate_with_quant_cache(self) -> None:
            pass

        # Asks the decoder's configuration, the teacher's, whether there are recurrent layers.
        def test_recurrent_layers_mask_padding_on_continued_forward(self) -> None:
            with patch.object(HybridGDNConfig, "get_text_config", lambda config, *args, **kwargs: config):
                super().test_recurrent_layers_mask_padding_on_continued_forward()


class StudentTests(CommonTests):
    """The shapes are asked of the teacher's part of the configuration, which is the decoder's for the library."""

    def _has_ep_plan(self) -> bool:
        """Some releases ask the student's configuration; the plans are in the teacher's."""
        return bool(self.model_tester.get_config().text_config.base_model_ep_plan)

    def _has_tp_plan(self) -> bool:
        return bool(self.model_tester.get_config().text_config.base_model_tp_plan)

    def _get_conv_state_shape(self, batch_size: int, config: Any) -> tuple[int, ...]:
        channels = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
        return batch_size, HybridGDNConfig.conv_kernel_size - 1, channels

    def _get_recurrent_state_shape(self, batch_size: int, config: Any) -> tuple[int, ...]:
        return batch_size, config.num_attention_heads, config.head_dim, config.head_dim

    def test_attention_outputs(self) -> None:
        """The library's own asks every layer for weights; recurrent layers have none to give."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config._attn_implementation = "eager"
        batch, length = inputs["input_ids"].shape
        for model_class in self.all_model_classes:
            model = model_class(config).to(torch_device).eval()
            attentions = model(**inputs, output_attentions=True).attentions
            shapes = [None if weights is None else tuple(weights.shape) for weights in attentions]
            heads = config.num_attention_heads
            assert [shape for shape in shapes if shape is not None] == [(batch, heads, length, length)]


def student_tester(family: str) -> type:
    return type("Tester", BASES, {"family": family})


class TestLlamaStudent(StudentTests, unittest.TestCase):
    model_tester_class = student_tester("llama")


class TestQwen2Student(StudentTests, unittest.TestCase):
    model_tester_class = student_tester("qwen2")


class TestQwen3MoeStudent(StudentTests, unittest.TestCase):
    model_tester_class = student_tester("qwen3_moe")

    def setUp(self) -> None:
        """The library asks the class whether experts can be chosen. Ours knows only once there is a teacher family."""
        super().setUp()
        for model_class in self.all_model_classes:
            answer = patch.object(model_class, "_can_set_experts_implementation_cached_value", True, create=True)
            answer.start()
            self.addCleanup(answer.stop)
