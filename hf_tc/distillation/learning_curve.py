# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How a student comes closer to its teacher while it is trained: evaluated at token counts that double."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_tc.assets import sample_text_path
from hf_tc.data.contamination import MOST_SHARED, SHORTEST_NGRAM, check_contamination, text_overlap
from hf_tc.data.repeated_passages import passages_of
from hf_tc.data.text_files import source_name
from hf_tc.data.token_blocks import begin_with, read_documents, start_of_texts, token_blocks
from hf_tc.distillation.datasets import TOKENS_COLUMN, Examples
from hf_tc.evaluation.evaluate import Evaluator, Measures
from hf_tc.evaluation.figures import Evaluation
from hf_tc.evaluation.lm_head import NotFiniteError
from hf_tc.evaluation.perplexity import EVAL_TOKENS
from hf_tc.evaluation.recall import DISTANCES, RecallRows, recall_rows
from hf_tc.teachers.adapters import is_peft_model
from hf_tc.teachers.positions import most_positions

if TYPE_CHECKING:
    from hf_tc.distillation.trainer import DistillationTrainer

logger = logging.get_logger(__name__)

PREFIX = "heldout_"  # of the figures in the log
EVALUATIONS = 8
BLOCK_TOKENS = 1024  # of a block, or fewer where the student is trained on shorter sequences or has fewer positions
SEARCHED_TOKENS = 20_000_000  # of the training data, for held-out text in them
TOKENS_PER_PASS = 4096
OF_THE_CONVERSION = "the held-out text of the conversion"
OF_THE_PACKAGE = "the held-out sample text that ships with hf_tc"


class LearningCurve(TrainerCallback):
    """Measures the student before training, at its end and at halves of it, quarters and so on, on held-out text.

    Perplexity, KL, agreement with the teacher, recall, and what is kept of the teacher's go to the log, and so to
    `trainer.state.log_history`, to checkpoints and to trackers (`report_to`), as `heldout_...`. In the end they are
    added to the student's conversion report, and with them the curve, so that its model card tells them.

    Use: `trainer.add_callback(LearningCurve(trainer))`.

    Args:
        trainer: it has the student, the teacher and the tokenizer (`processing_class`).
        text: to measure on, none of it trained on; see `hf_tc.data.token_blocks.read_documents`. By default the text
            on which the conversion's own figures were measured, where it is beside the student, else the sample text
            that ships with hf_tc. Of all the first 16,384 tokens. They are looked for in the first 20 million tokens of
            the training data, a second a million, where these are at hand: made of text in memory, or in a column of a
            `datasets.Dataset` or a teacher's cache. Streams and other data sets are not read for it.
        evaluations: how many there are at most, beside the one before training; at least 1.

    Raises:
        ValueError: there is no tokenizer or no teacher, weights are sharded (FSDP, DeepSpeed), or the text is too short
            for a block.
        CalibrationDataError: more than 1 % of the text stands in the training data. Of the default text, in which it
            may be that of the conversion, this is a warning.
    """

    def __init__(self, trainer: DistillationTrainer, text: Any = None, *, evaluations: int = EVALUATIONS) -> None:
        if evaluations < 1:
            raise ValueError(f"evaluations is {evaluations}; it must be at least 1.")
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                "LearningCurve needs all weights in one place. Leave it out under FSDP and DeepSpeed, and evaluate the "
                "saved student."
            )
        if trainer.processing_class is None:
            raise ValueError("LearningCurve needs a tokenizer. Give one as processing_class.")
        if getattr(trainer, "teacher", None) is None:
            raise ValueError("LearningCurve needs a teacher in memory. Give the trainer one, or leave the curve out.")
        self.trainer, self.evaluations = trainer, evaluations
        teacher: Any = trainer.teacher
        models = (self._student, teacher)
        known = (most_positions(model) or BLOCK_TOKENS for model in models)
        length = min(BLOCK_TOKENS, trainer.args.row_length, *known)
        blocks, self.data = held_out_blocks(self._student, trainer.processing_class, text, length)
        check_is_held_out(blocks, self.data, text is not None, trainer)
        rows = recall_of(blocks, trainer.processing_class, models)
        self._evaluator = Evaluator(
            Measures(trainer.processing_class, blocks, rows),
            teacher,
            batch_size=max(1, TOKENS_PER_PASS // blocks.shape[1]),
            show_progress=False,
        )
        self._last: Evaluation | None = None

    @property
    def _student(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures what there is before the first step."""
        self._last = None
        if state.global_step == 0:
            self._measure()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures at the steps that are due, and where training ends before its time."""
        due = {-(-state.max_steps // 2**half) for half in range(self.evaluations)}
        if state.global_step in due or control.should_training_stop:
            self._measure()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Puts the figures into the student's report; those of an adapter's student once it is merged, by hand."""
        if not is_peft_model(self._student):
            self._add_to_report(self._student, None if self.trainer.args.load_best_model_at_end else self._last)

    def add_to_report(self, student: PreTrainedModel) -> None:
        """Measures a student and puts the figures into its conversion report, if it has one."""
        self._add_to_report(student, None)

    def _add_to_report(self, student: Any, known: Evaluation | None) -> None:
        report = getattr(student, "conversion_report", None)
        if report is not None:
            report.add_evaluation(known or self._evaluator.evaluation_of(student), student, self.data)

    def _measure(self) -> None:
        step = self.trainer.state.global_step
        try:
            self._last = self._evaluator.evaluation_of(self._student)
        except NotFiniteError:
            if step == 0:
                raise
            self.trainer.stop_diverged(f"the student's logits are not finite after step {step}")
        control = self.trainer.control
        should_log = control.should_log  # the loss of this step, too; `log` takes it for done
        self.trainer.log({f"{PREFIX}{name}": value for name, value in figures_of(self._last).items()})
        control.should_log = should_log


def held_out_blocks(student: Any, tokenizer: Any, text: Any, length: int) -> tuple[Tensor, str]:
    """Blocks `[N, T]` to measure on, and what they are called; arguments as in `LearningCurve`."""
    kept = getattr(getattr(student, "conversion_report", None), "held_out_tokens", None)
    if text is None and kept:
        blocks = torch.tensor(kept)
        if begin_with(blocks, start_of_texts(tokenizer)):  # those of an earlier hf_tc had no bos
            return blocks, OF_THE_CONVERSION
    name = OF_THE_PACKAGE if text is None else source_name(text)
    source = sample_text_path("heldout") if text is None else text
    return token_blocks(read_documents(source, EVAL_TOKENS), tokenizer, length, EVAL_TOKENS), name


def check_is_held_out(blocks: Tensor, name: str, is_given: bool, trainer: DistillationTrainer) -> None:
    """Raises CalibrationDataError for blocks `[N, T]` that stand in the training data, as far as it is at hand; of text
    that nobody gave, warns."""
    rows = token_rows(trainer.train_dataset)
    if max(map(len, rows), default=0) < SHORTEST_NGRAM:  # so short ones are found in any text
        return
    if is_given:
        otherwise = f"for {OF_THE_CONVERSION} or of the package"
        check_contamination(blocks, rows, trainer.processing_class, "training text", otherwise)
    elif (share := text_overlap(blocks, rows).share) > MOST_SHARED and trainer.is_world_process_zero():
        logger.warning(
            f"{share:.1%} of {name} also stands in the training text: figures measured on it look better than they "
            "are. Give text of its own to evaluate on (--evaluation-data)."
        )


def token_rows(dataset: Any) -> list[Tensor]:
    """The tokens `[T]` of each example of a data set that has them at hand, SEARCHED_TOKENS at most; none of others."""
    if isinstance(dataset, Examples):
        return list(_at_most(SEARCHED_TOKENS, dataset.token_rows()))
    if TOKENS_COLUMN not in (getattr(dataset, "column_names", None) or ()) or not hasattr(dataset, "__len__"):
        return []
    plain = dataset.with_format(None)  # a transform may want other columns
    batches = plain.select_columns(TOKENS_COLUMN).iter(batch_size=1_000)
    rows = (torch.as_tensor(row, dtype=torch.int32) for batch in batches for row in batch[TOKENS_COLUMN])
    return list(_at_most(SEARCHED_TOKENS, rows))


def _at_most(tokens: int, rows: Iterable[Tensor]) -> Iterator[Tensor]:
    """The first rows, until they have so many tokens."""
    for row in rows:
        yield row
        tokens -= len(row)
        if tokens <= 0:
            return


def recall_of(blocks: Tensor, tokenizer: Any, models: Iterable[Any]) -> RecallRows | None:
    """Rows for recall made of the text, at those of the usual distances that fit into text and models, if any does."""
    most = min(most_positions(model) or blocks.numel() for model in models)
    prefix = start_of_texts(tokenizer)
    text = blocks[:, len(prefix) :] if begin_with(blocks, prefix) else blocks
    passages = passages_of(text.flatten())
    for count in range(len(DISTANCES), 0, -1):
        try:
            rows = recall_rows(passages, prefix, DISTANCES[:count])
        except ValueError:  # too little text for the longest of them
            continue
        if rows.longest <= most:
            return rows
    logger.warning("The held-out text or a model's positions are too short for recall, which is not measured.")
    return None


def figures_of(evaluation: Evaluation) -> dict[str, float]:
    """The figures of an evaluation with a teacher that a curve is made of; what is kept is a share of the teacher's."""
    names = ("perplexity", "teacher_perplexity", "kl", "top1_agreement")
    figures: dict[str, float] = {name: getattr(evaluation, name) for name in names}
    if evaluation.recall is not None and evaluation.teacher is not None and evaluation.teacher.recall is not None:
        own, teacher = evaluation.recall, evaluation.teacher.recall
        found, known = (sum(x.lookup_accuracy.values()) / len(x.lookup_accuracy) for x in (own, teacher))
        figures |= {"second_copy_nll": own.second_copy_nll, "lookup_accuracy": found}
        figures |= {"lookup_kept": found / known} if known else {}
    return figures


def curve_of(log_history: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The points of a curve, by what they are called in `figures_of`, with "tokens" and "step"."""
    return [
        {"tokens": entry.get("num_input_tokens_seen", 0), "step": entry["step"]}
        | {name.removeprefix(PREFIX): value for name, value in entry.items() if name.startswith(PREFIX)}
        for entry in log_history
        if f"{PREFIX}kl" in entry
    ]
