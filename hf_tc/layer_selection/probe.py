# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a policy may ask of a teacher: what it makes of a text without one attention, and with some layers converted."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tc.data.repeated_passages import near_and_far
from hf_tc.data.token_blocks import NO_START
from hf_tc.evaluation.distance import DistanceFromTeacher
from hf_tc.evaluation.perplexity import perplexity
from hf_tc.layer_selection.hybrid import Hybrid
from hf_tc.layer_selection.score_log import ScoreLog
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers


class Probe:
    """Answers from measurements on one text and on passages of it that come twice, each measured once.

    Args:
        teacher: in eval mode; it is only read.
        blocks: token ids `[N, T]` to measure on.
        batch_size: blocks per forward.
        log: where scores are kept.
        start: `[P]`, what every block begins with: bos, or nothing.
        hybrid: the teacher with any of its layers converted, for policies that ask for it.

    Attributes:
        progress: counts the answers; to be closed.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        blocks: Tensor,
        batch_size: int,
        log: ScoreLog,
        hybrid: Hybrid | None = None,
        start: Tensor = NO_START,
    ) -> None:
        self.teacher, self.blocks, self.batch_size, self.log, self.hybrid = teacher, blocks, batch_size, log, hybrid
        self.start = start
        self.layers = range(len(find_decoder_layers(teacher.base_model)))
        self.progress = tqdm(desc="Comparing layers", unit="hybrid", mininterval=1.0)
        self._asked: set[str] = set()

    def perplexity_without(self, layer: int) -> float:
        """Perplexity of the teacher when a layer's attention adds nothing."""

        def measure() -> float:
            with bypassed(self.teacher, layer):
                return perplexity(self.teacher, self.blocks, batch_size=self.batch_size)

        return self._score(f"without {layer}", measure)

    def kl_of(self, converted: Iterable[int]) -> float:
        """KL(teacher || hybrid) on the text, nats per token, of the hybrid with these layers converted."""
        layers = sorted(converted)
        return self._score(f"converted {_listed(layers)}", lambda: self._on_text(self._hybrid_of(layers))[0])

    def recall_kl_of(self, converted: Iterable[int]) -> float:
        """The same on second copies of passages of the text, see `near_and_far`.

        Raises:
            ValueError: the blocks are too short for passages that come twice.
        """
        layers = sorted(converted)
        name = f"converted {_listed(layers)}, second copies"
        return self._score(name, lambda: self._on_second_copies(self._hybrid_of(layers))[0])

    @property
    def forwards(self) -> int:
        """Forward passes behind the answers given so far."""
        return len(self._asked)

    @property
    def seconds(self) -> float:
        """What the answers given so far took, in this process or an earlier one."""
        return self.log.seconds(self._asked)

    def _score(self, name: str, measure: Callable[[], float]) -> float:
        score = self.log.score(name, measure)
        if name not in self._asked:
            self._asked.add(name)
            self.progress.update()
        return score

    def _hybrid_of(self, layers: list[int]) -> PreTrainedModel:
        assert self.hybrid is not None
        return self.hybrid.with_converted(layers)

    @cached_property
    def _on_text(self) -> DistanceFromTeacher:
        return DistanceFromTeacher(self.teacher, self.blocks, self.batch_size)

    @cached_property
    def _on_second_copies(self) -> DistanceFromTeacher:
        half = self.blocks[: -(-len(self.blocks) // 2)]  # half as many: every token of their rows tells
        rows = near_and_far(half, self.start)
        return DistanceFromTeacher(self.teacher, rows.input_ids, self.batch_size, rows.second_copies)


def _listed(layers: list[int]) -> str:
    return ",".join(map(str, layers))


@contextmanager
def bypassed(model: PreTrainedModel, layer: int) -> Iterator[None]:
    """Within, the attention of a layer adds nothing to the residual stream; norms around it see zeros."""

    def silence(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (output[0].new_zeros(output[0].shape), *output[1:])

    handle = find_attention(find_decoder_layers(model.base_model)[layer])[1].register_forward_hook(silence)
    try:
        yield
    finally:
        handle.remove()
