# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`DistillationTrainer`: a `transformers.Trainer` whose loss is the distance to a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, set_seed

from hf_tc.distillation.both_models import BothModelsMixin
from hf_tc.distillation.cached_data import cached_blocks, check_is_no_cache, check_known_teacher
from hf_tc.distillation.checkpoints import WholeCheckpointMixin
from hf_tc.distillation.collator import Collator, TargetsCollator, default_collator, weights_of
from hf_tc.distillation.config import LESS_MEMORY_IN_TRAINING, DistillationConfig
from hf_tc.distillation.data_checks import CheckedDataMixin, KnownTokensCollator, check_steps_are_known
from hf_tc.distillation.datasets import DataPreparation
from hf_tc.distillation.exact_evaluation import ExactEvaluationMixin
from hf_tc.distillation.finite_training import FiniteTrainingMixin
from hf_tc.distillation.gate_rate import GateRateMixin, check_rates
from hf_tc.distillation.given_data import check_given, training_split
from hf_tc.distillation.input_checks import (
    check_keeps_documents_apart,
    check_student_and_teacher,
    load_student,
    loading_whole,
    upcast_trainable_parameters,
    use_one_gpu_per_process,
)
from hf_tc.distillation.layer_outputs import ConvertedLayers
from hf_tc.distillation.row_collator import RowCollator, wants_flat_rows
from hf_tc.distillation.teacher_placement import check_placement, load_distillation_teacher, place_teacher
from hf_tc.distillation.throughput import ThroughputMixin
from hf_tc.distillation.trained_parts import select_trained_parts
from hf_tc.distillation.training_record import TrainingRecord, about_data
from hf_tc.distillation.weight_decay import UndecayedMemoryMixin
from hf_tc.distillation.weighted_count import WeightedCountMixin
from hf_tc.evaluation.chunked_objective import chunked_objective
from hf_tc.evaluation.kd_loss import TOKEN_WEIGHTS
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.modeling import HybridGDNConfig
from hf_tc.modeling.out_of_memory import memory_advice
from hf_tc.teachers.finite_weights import check_finite_weights
from hf_tc.teachers.vocabulary import check_tokenizers_agree, tokenizer_of

MODEL_TAGS = ["hf_tc", "knowledge-distillation"]


class DistillationTrainer(
    WholeCheckpointMixin,
    BothModelsMixin,
    FiniteTrainingMixin,
    CheckedDataMixin,
    ExactEvaluationMixin,
    ThroughputMixin,
    GateRateMixin,
    WeightedCountMixin,
    UndecayedMemoryMixin,
    Trainer,
):
    """Trains a student to give the teacher's next-token distribution.

    `args.trains` says what trains; with "lora" `trainer.model` is PEFT's wrapper, `save_model` writes the adapter.

    The loss is the mean of `kd_loss.Objective` over the labelled tokens of the whole optimiser step: all
    accumulated batches and all processes. Position t counts if labels[t + 1] is not -100; without labels every token
    that is not padding is one. A column `token_weights` [B, T], 0 or more, makes every mean a weighted one: position t
    weighs the prediction of token t + 1. Where `output_router_logits` of the student's configuration is on, its
    family's load-balancing loss of every batch comes on top, with the family's coefficient, as under `Trainer`.
    Evaluation adds `eval_kl` (nats per token, temperature 1), `eval_student_perplexity` and `eval_teacher_perplexity`,
    exact over the labelled tokens of the dataset, and `eval_layer_error` with a `layer_weight`. Data that
    `cache_teacher` made need no teacher; their KL is over the tokens that it kept, see `hf_tc.evaluation.top_k`.

    The student's trainable weights are fp32 masters: a student in bf16 or fp16 is upcast, with a warning. Weight decay
    spares what decides how much a layer forgets. Training stops with `DivergedError` before a step whose gradient is
    not finite. A checkpoint resumes to the same trajectory. Tested with DDP, gradient checkpointing, PEFT and mixed
    precision; several GPUs need `torchrun` or `accelerate launch`. Under FSDP2 (accelerate's `fsdp_version: 2`) and
    DeepSpeed's ZeRO-3 the teacher is sharded, as the student is; else every process holds it whole. Under DeepSpeed it
    computes in the dtype that it has. For ZeRO-3 give folders or Hub ids, or load both models before `args` are made.

    Args:
        model: the student, any decoder-only causal LM, PEFT-wrapped or not; or its folder or Hub id, then with the
            tokenizer beside it unless there is a `processing_class`. Loaded as the teacher is.
        teacher: a loaded causal LM, PEFT-wrapped or not, a folder, or a Hub id (loaded in its own dtype, without remote
            code), of an adapter as well; None where all data bring its predictions.
        train_dataset, eval_dataset: rows with `input_ids`; or with a column `text`, `messages`, `conversations` or
            `conversation`, which `processing_class` makes tokens of, see `DataSettings`. In memory or streamed. Or
            text, as `read_documents` takes it: a file, a text, a list of these. Without a `data_collator` alone: what
            has its own is left to it. Of data sets by split the one called train; to evaluate on, each by its name.
        args, data_collator, processing_class, callbacks, optimizers: as in `Trainer`.

    Raises:
        ValueError: student or teacher is wrapped (torch.compile, DataParallel, DDP) or in shards, vocabularies or
            tokenizers differ, the teacher shares trainable weights with the student, the tokenizer has tokens that the
            teacher lacks, a weight of either is NaN or infinite, a file of the teacher's weights is damaged, the model
            has not what `args.trains` or `gate_learning_rate` are for, predictions in the data are of another teacher,
            a data set is empty or has none of these columns, sequences are longer than the positions of a model, a
            stream has no `args.max_steps`, or packed documents see each other in one of the models.
    """

    args: DistillationConfig
    teacher: PreTrainedModel | None
    _tag_names = MODEL_TAGS

    def __init__(
        self,
        model: PreTrainedModel | str | Path,
        teacher: PreTrainedModel | str | Path | None,
        args: DistillationConfig,
        data_collator: Collator | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        if not isinstance(args, DistillationConfig):
            raise TypeError(f"args is a {type(args).__name__}; use hf_tc.distillation.DistillationConfig, a subclass.")
        check_is_no_cache(teacher)
        check_placement(teacher, args)
        train_dataset = training_split(train_dataset)
        data = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        check_given(data, {"student": model, "teacher": teacher}, args, data_collator is not None)
        if isinstance(model, str | Path):
            processing_class = processing_class or tokenizer_of(model)
        with loading_whole(args):
            student = load_student(model) if isinstance(model, str | Path) else model
        tokenizers = {"The processing_class": processing_class, "The student's tokenizer": tokenizer_of(student)}
        if args.teacher_cache is not None:
            train_dataset = cached_blocks(args.teacher_cache, train_dataset, processing_class, args.tokens)
        if teacher is not None:
            check_tokenizers_agree(tokenizers, teacher)
            with loading_whole(args):
                teacher = load_distillation_teacher(teacher, args)
        set_seed(args.seed)  # as Trainer does, too late for an adapter's first weights
        student = select_trained_parts(student, args.trains)
        check_student_and_teacher(student, teacher, processing_class)
        data = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        check_known_teacher(data, student, teacher, tokenizers, args)
        check_rates(student, args.gate_learning_rate, optimizers[0])
        upcast_trainable_parameters(student, args)
        use_one_gpu_per_process(args)
        student_use_cache = getattr(student.config, "use_cache", None)
        self.about_run = about_data(train_dataset)  # further facts for the student's report
        self._data = DataPreparation(processing_class, args, args.seed, has_own_collator=data_collator is not None)
        if data_collator is None:
            lengths, flatten = [stage.sequence_length for stage in args.stages], wants_flat_rows(student, teacher)
            data_collator = RowCollator(default_collator(processing_class), lengths, flatten)
        in_whole_rows = data_collator.of_whole_rows() if isinstance(data_collator, RowCollator) else data_collator
        self._evaluation_collator = KnownTokensCollator(TargetsCollator(in_whole_rows), student, teacher)
        train_dataset = self._data.for_training(train_dataset)
        check_steps_are_known(train_dataset, args)
        super().__init__(
            model=student,
            args=args,
            data_collator=KnownTokensCollator(TargetsCollator(data_collator), student, teacher),
            train_dataset=train_dataset,
            eval_dataset=self._data.for_evaluation(eval_dataset),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if student_use_cache is not None:
            # Trainer writes args.use_cache here, and a saved student would generate without a cache for ever.
            student.config.use_cache = student_use_cache
        # Whatever the student's signature, Trainer is to count the step's targets and leave the scaling to us.
        self.model_accepts_loss_kwargs = True
        student.add_model_tags(MODEL_TAGS)
        if isinstance(student.config, HybridGDNConfig):
            self.add_callback(TrainingRecord(self, student.config))
        self.teacher, self._converted_layers = teacher, None
        self._split_models(student, teacher)

    def _split_models(self, student: PreTrainedModel, teacher: PreTrainedModel | None) -> None:
        # Under FSDP other processes get the weights later, and a model has its own together only within a forward.
        is_packed = self._data.is_packed and not self.is_fsdp_enabled
        if has_weights := self.is_local_process_zero() or not self.is_fsdp_enabled:
            check_finite_weights(student, "student")
        self._student_parts = BackboneThenHead(student, has_weights)
        if is_packed:
            check_keeps_documents_apart(self._student_parts, "student")
        if teacher is None:
            return
        self._teacher_parts = place_teacher(teacher, self.accelerator, self.args, is_packed)
        if self.args.layer_weight:
            self._converted_layers = ConvertedLayers(self._student_parts.model, self._teacher_parts.model)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As in `Trainer`; a data set of text becomes one of examples."""
        own = getattr(self, "eval_dataset", None)
        is_name = isinstance(eval_dataset, str) and isinstance(own, Mapping) and eval_dataset in own
        if eval_dataset is not None and not is_name:
            eval_dataset = self._data.for_evaluation(eval_dataset)
        collator, self.data_collator = self.data_collator, self._evaluation_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = collator

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes Trainer's card only where saving the student has not written its own."""
        if not (Path(self.args.output_dir or ".") / "README.md").exists():
            super().create_model_card(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`; where memory runs out, the error says what needs less."""
        with memory_advice(LESS_MEMORY_IN_TRAINING):
            return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean objective per labelled token of the step; `Trainer` calls this.

        Args:
            model: the student in its wrapper (DDP, FSDP) or bare.
            inputs: `input_ids` [B, T] and `labels` or `shift_labels` [B, T], with what else the backbone takes.
            num_items_in_batch: labelled tokens of the whole step, or their weights, over all processes if
                `args.average_tokens_across_devices`.
        """
        weights = weights_of(inputs) if TOKEN_WEIGHTS in inputs else None
        chunked = partial(chunked_objective, weights=weights) if self.args.distribution_weight else None
        distance, layer_errors, router_loss = self._through_both(chunked, model, inputs)
        summed = self.args.layer_weight * layer_errors.sum()
        if distance is not None:
            summed = self.args.distribution_weight * distance + summed.to(distance.device)
        alone = num_items_in_batch is None
        tokens = torch.as_tensor(weights_of(inputs).sum() if alone else num_items_in_batch, device=summed.device)
        tokens = tokens.masked_fill(tokens <= 0, 1)
        loss = summed / tokens + router_loss.to(summed.device)  # which the library does not divide by batches either
        if not alone and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP averages the gradients of the processes
        return (loss, {}) if return_outputs else loss
