# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The teacher with any of its layers converted: one student whose layers go back and forth."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers
from hf_tc.teachers.offloading import dispatched_like


class Hybrid:
    """A student in which every layer was calibrated, and the teacher's attention to put back into any of them.

    Args:
        student: all layers recurrent.
        teacher: the student's; its attention modules are used in place, and only read.
    """

    def __init__(self, student: HybridGDNForCausalLM, teacher: PreTrainedModel) -> None:
        self.student = student
        self._places = []
        layers = zip(find_decoder_layers(student.base_model), find_decoder_layers(teacher.base_model), strict=True)
        for ours, theirs in layers:
            name, attention = find_attention(theirs)
            self._places.append((ours, name, getattr(ours, name), attention))

    def with_converted(self, layers: Collection[int]) -> HybridGDNForCausalLM:
        """The student, recurrent in these layers and the teacher in all others."""
        for index, (layer, name, mixer, attention) in enumerate(self._places):
            setattr(layer, name, mixer if index in layers else attention)
        return self.student


@contextmanager
def hybrids_of(student: HybridGDNForCausalLM, teacher: PreTrainedModel) -> Iterator[Hybrid]:
    """Inside, hybrids compute where their teacher does; afterwards the student is recurrent in all layers again."""
    with dispatched_like(student, teacher):
        hybrid = Hybrid(student, teacher)
        try:
            yield hybrid
        finally:
            hybrid.with_converted(range(student.config.num_hidden_layers))
