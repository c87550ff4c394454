# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The text of a conversion: read before the teacher is loaded, sampled from it afterwards, mixed block by block."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_tc.config import ConversionConfig
from hf_tc.data.conversations import Document
from hf_tc.data.mixture import Source, blocks_of_sources, default_data, mixture_name, sources_of
from hf_tc.data.token_blocks import CalibrationDataError, read_documents, token_blocks
from hf_tc.sampling.prompts import kinds_of
from hf_tc.sampling.sampled_text import sampled_text

logger = logging.get_logger(__name__)

SAMPLED_FOLDER = "sampled"  # beside finished layers


class CalibrationText:
    """Sources of text, each with as many blocks as are its share.

    Args:
        data: what `from_teacher` takes as `calibration_data`.
        teacher_on_gpu: whether the teacher can be asked for text when there is no data.

    Raises:
        CalibrationDataError: what `sources_of` and `read_documents` refuse, or a share of less than a block.
    """

    def __init__(self, data: Any, settings: ConversionConfig, teacher_on_gpu: bool = False) -> None:
        self.settings, self.is_given = settings, data is not None
        self._wanted = settings.calibration_tokens // settings.sequence_length  # blocks of all sources
        self._take(data if self.is_given else self._default(teacher_on_gpu))
        if not self.is_given:
            logger.warning(f"No calibration_data given: calibrating on {self.name}. Your own text is better.")

    def _default(self, teacher_on_gpu: bool) -> Any:
        return default_data(self._wanted, self.settings.sequence_length, teacher_on_gpu)

    def _take(self, data: Any) -> None:
        self.data, self.sources = data, sources_of(data)
        self._read: dict[int, Tensor] = {}
        self.name = mixture_name(self.sources)
        self._blocks = blocks_of_sources(self.sources, self._wanted)
        self._documents = [
            read_documents(source.data, tokens) if source.sampled_kind is None else None
            for source, tokens in zip(self.sources, self._tokens, strict=True)
        ]

    @property
    def _tokens(self) -> list[int]:
        return [blocks * self.settings.sequence_length for blocks in self._blocks]

    @property
    def is_sampled(self) -> bool:
        """Whether any of it is sampled from the teacher."""
        return self.sampled_tokens > 0

    @property
    def sampled_tokens(self) -> int:
        """How many the teacher is to write."""
        sources = zip(self.sources, self._tokens, strict=True)
        return sum(tokens for source, tokens in sources if source.sampled_kind is not None)

    def check_sampling(self, tokenizer: Any | None) -> None:
        """Raises `CalibrationDataError` where a teacher with this tokenizer, if it is known, cannot give the text."""
        for source in self.sources if self.is_given else ():
            if source.sampled_kind is not None and tokenizer is not None:
                kinds_of(source.sampled_kind, tokenizer)

    def read(self, tokenizer: Any) -> None:
        """Cuts what is not sampled into blocks, so that too little text is refused before minutes of sampling.

        Raises:
            CalibrationDataError: see `blocks`.
        """
        for index, (source, tokens) in enumerate(zip(self.sources, self._tokens, strict=True)):
            if (documents := self._documents[index]) is not None and index not in self._read:
                self._read[index] = self._blocks_of(source, documents, tokenizer, tokens)

    def sample(self, teacher: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
        """Has the teacher write what is to be sampled, and keeps it in the folder.

        Where nothing was given and the teacher cannot write (no start token, say, or no sense), the packaged text is
        taken alone, with a warning.

        Raises:
            CalibrationDataError: text that was asked for cannot be sampled.
        """
        try:
            self._sample(teacher, tokenizer, folder)
        except CalibrationDataError as error:
            if self.is_given:
                raise
            logger.warning(f"{error} Nothing of this was asked for, so the packaged sample text is taken alone.")
            self._take(self._default(teacher_on_gpu=False))

    def _sample(self, teacher: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
        for index, (source, tokens) in enumerate(zip(self.sources, self._tokens, strict=True)):
            if (kind := source.sampled_kind) is not None:
                kept = folder / SAMPLED_FOLDER / kind
                self._documents[index] = sampled_text(
                    teacher, tokenizer, tokens, kind, seed=self.settings.seed, folder=kept
                )

    def blocks(self, tokenizer: Any) -> Tensor:
        """Token ids `[N, T]` in a seeded order, with the sources in proportion in every part of it.

        Raises:
            CalibrationDataError: a source of several has too little text; less than two blocks, one to fit and one held
                out.
        """
        self.read(tokenizer)
        return mixed([self._read[index] for index in range(len(self.sources))], self.settings.seed)

    def _blocks_of(self, source: Source, documents: list[Document], tokenizer: Any, wanted: int) -> Tensor:
        length, one_of_several = self.settings.sequence_length, len(self.sources) > 1
        try:
            blocks = token_blocks(documents, tokenizer, length, wanted)
        except CalibrationDataError as error:
            raise CalibrationDataError(f"{source.name}: {error}" if one_of_several else str(error)) from error
        if one_of_several and blocks.numel() < wanted:
            raise CalibrationDataError(
                f"{source.name} has {blocks.numel():,} tokens in blocks of {length}, its share {source.share:g} of "
                f"{self.settings.calibration_tokens:,} needs {wanted:,}. Give more of it, lower its share, or ask for "
                "fewer calibration_tokens."
            )
        if not one_of_several and len(blocks) < 2:
            raise CalibrationDataError(
                f"{source.name} has {blocks.numel()} tokens in blocks of {length}; two blocks are needed, one to fit "
                "and one held out. Give more text or a shorter sequence_length."
            )
        if blocks.numel() < wanted:
            logger.warning(
                f"{source.name} has {blocks.numel():,} of the {self.settings.calibration_tokens:,} tokens asked for; "
                "going on with those."
            )
        return blocks


def mixed(parts: Sequence[Tensor], seed: int) -> Tensor:
    """Blocks `[N_i, T]` of several sources as one tensor `[N, T]`.

    Those of a source are shuffled and then spread evenly: block j of n is put at a random place between j/n and
    (j + 1)/n of the whole, so that what is fitted, held out or compared has each source in proportion.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = [part[torch.randperm(len(part), generator=generator)] for part in parts]
    jitter = [torch.rand(len(part), generator=generator, dtype=torch.float64) for part in parts]
    places = [(torch.arange(len(part)) + offset) / len(part) for part, offset in zip(parts, jitter, strict=True)]
    return torch.cat(shuffled)[torch.cat(places).argsort(stable=True)]
