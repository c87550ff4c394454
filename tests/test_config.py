# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What settings refuse, and what follows from them."""

from dataclasses import replace

import pytest

from hf_tc.config import AlignmentConfig, ConversionConfig, JointConfig, MixerConfig


def test_too_little_text_for_two_blocks_is_refused() -> None:
    ConversionConfig(calibration_tokens=64, sequence_length=32)
    with pytest.raises(ValueError, match="calibration_tokens is 63; at least two blocks of sequence_length 32"):
        ConversionConfig(calibration_tokens=63, sequence_length=32)


def test_a_block_without_a_token_to_predict_and_negative_steps_are_refused() -> None:
    for length in (1, 0, -4):
        with pytest.raises(ValueError, match=f"sequence_length is {length}; a block needs at least 2 tokens"):
            ConversionConfig(calibration_tokens=64, sequence_length=length)
    with pytest.raises(ValueError, match="joint_steps is -1"):
        JointConfig(-1)


def test_the_closed_form_alone_has_no_steps_and_all_else() -> None:
    settings = ConversionConfig(
        512, 64, 0.25, AlignmentConfig(steps=7), JointConfig(5), mixer=MixerConfig(output_norm=True), seed=3
    )
    alone = settings.closed_form_alone()
    assert (alone.alignment.steps, alone.joint.steps) == (0, 0)
    assert replace(alone, alignment=settings.alignment, joint=settings.joint) == settings
    assert (settings.stages, alone.stages) == (3, 2)
