# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Either name of the cache reaches every layer, the library's shows in signatures, and nothing of ours warns."""

import inspect
import warnings

import pytest
import torch
from tiny_models import student, token_ids
from transformers import DynamicCache, LlamaForCausalLM

from hf_tc.modeling import HybridGDNForCausalLM, HybridGDNModel
from hf_tc.modeling.library_cache import CACHE_NAME, SUCCESSIVE_NAMES, cache_argument, cache_of


@pytest.mark.parametrize("name", SUCCESSIVE_NAMES)
@pytest.mark.parametrize("linear", [(), (1,), (0, 1, 2, 3)])
@pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning")
def test_the_cache_may_be_given_by_either_name(name, linear):
    model, ids = student(linear=linear), token_ids(1, 9)
    for part in (model, model.model):
        cache = DynamicCache(config=model.config)
        part(ids[:, :6], **{name: cache})
        assert cache.get_seq_length() == 6
        torch.testing.assert_close(part(ids[:, 6:], **{name: cache})[0], part(ids)[0][:, 6:], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning")
def test_two_caches_are_refused():
    both = {name: DynamicCache() for name in SUCCESSIVE_NAMES}
    with pytest.raises(ValueError, match="given twice"):
        student(linear=(1,))(token_ids(1, 3), **both)


def test_signatures_show_what_the_library_calls_it():
    library = inspect.signature(LlamaForCausalLM.forward).parameters
    assert CACHE_NAME in library
    for ours in (HybridGDNForCausalLM, HybridGDNModel):
        parameters = list(inspect.signature(ours.forward).parameters)
        assert [name for name in parameters if name in SUCCESSIVE_NAMES] == [CACHE_NAME]
        assert parameters.index(CACHE_NAME) == list(library).index(CACHE_NAME)  # for those who pass it by position


def test_the_old_name_warns_where_the_library_warns_of_it():
    model, ids = student(linear=(1,)), token_ids(1, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(ids, past_key_values=DynamicCache(config=model.config))
    warned = [str(warning.message) for warning in caught if warning.category is FutureWarning]
    assert len(warned) == (CACHE_NAME == "cache"), warned


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}, {"use_cache": False}])
def test_no_call_of_ours_uses_a_deprecated_name(mode):
    model, ids = student(linear=(0, 2)), token_ids(1, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        output = model(ids, labels=ids, **cache_argument(DynamicCache(config=model.config)))
        assert cache_of(output).get_seq_length() == 6
        model.generate(ids, max_new_tokens=4, do_sample=False, **mode)
