# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Layers at once: no more than threads, layers or memory allow."""

from collections.abc import Iterator

import pytest
import torch
from conversion_inputs import QWEN3_8B
from transformers import AutoConfig

from hf_tc.memory.estimate import EXPECTED_WITHIN
from hf_tc.memory.layers_at_once import MOST_AT_ONCE, layers_at_once
from hf_tc.planning import plan as planning
from hf_tc.planning.plan import plan_conversion

GB = 10**9


@pytest.fixture
def many_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(64)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("many_threads")
def test_layers_at_once_are_those_that_threads_and_memory_allow() -> None:
    assert layers_at_once(3, GB, 100 * GB) == 3
    assert layers_at_once(30, GB, 100 * GB) == MOST_AT_ONCE
    assert layers_at_once(30, GB, int(EXPECTED_WITHIN * 5 * GB)) == 5
    assert [layers_at_once(30, GB, free) for free in (int(EXPECTED_WITHIN * 2 * GB) - 1, 1, -GB)] == [1, 1, 1]
    assert layers_at_once(0, GB, 100 * GB) == 1
    for threads, at_once in ((12, 6), (20, 6), (16, 8), (9, 4)):  # none of 12 is idle, of 20 two
        torch.set_num_threads(threads)
        assert layers_at_once(30, GB, 100 * GB) == at_once
    torch.set_num_threads(2)
    assert layers_at_once(30, GB, 100 * GB) == 2
    torch.set_num_threads(1)
    assert layers_at_once(30, GB, 100 * GB) == 1


@pytest.mark.usefixtures("many_threads")
def test_a_plan_counts_the_layers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.for_model("qwen3", **QWEN3_8B)
    plan = plan_conversion(config, layer_policy="uniform", joint_steps=0)
    found = {}
    for free in (20 * GB, 130 * GB, 1000 * GB):
        monkeypatch.setattr(planning, "free_host_bytes", lambda free=free: free)
        found[plan.layers_at_once(None)] = plan.memory(None).host
        assert plan.layers_at_once(80 * GB) == 1
    assert list(found) == [1, 2, MOST_AT_ONCE]
    one, two, most = found.values()
    assert one < two < 130 * GB
    assert most - one == pytest.approx(7 * (two - one))
