# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`DistillationTrainer`: a `transformers.Trainer` whose loss is the distance to a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, set_seed
from transformers.trainer_utils import EvalLoopOutput

from hf_tc.distillation.collator import Collator, TargetsCollator, default_collator, targets_of
from hf_tc.distillation.config import LESS_MEMORY_IN_EVALUATION, LESS_MEMORY_IN_TRAINING, DistillationConfig
from hf_tc.distillation.gate_rate import GateRateMixin, check_rates
from hf_tc.distillation.input_checks import (
    check_student_and_teacher,
    upcast_trainable_parameters,
    use_one_gpu_per_process,
)
from hf_tc.distillation.trained_parts import select_trained_parts
from hf_tc.distillation.training_record import TrainingRecord
from hf_tc.distillation.weight_decay import UndecayedMemoryMixin
from hf_tc.evaluation.kd_loss import (
    IGNORE_INDEX,
    LazyLogits,
    Objective,
    chunked_metrics,
    chunked_objective,
    perplexity_from_nll,
)
from hf_tc.evaluation.lm_head import BackboneThenHead, call_through_wrapper
from hf_tc.modeling import HybridGDNConfig
from hf_tc.modeling.out_of_memory import memory_advice
from hf_tc.teachers.loading import load_causal_lm
from hf_tc.teachers.vocabulary import check_tokenizers_agree, tokenizer_of

MODEL_TAGS = ["hf_tc", "knowledge-distillation"]
EVALUATED = ("objective", "kl", "student_nll", "teacher_nll")  # sums; then come tokens, router loss, examples
BATCH_COLUMNS = ("input_ids", "attention_mask", "position_ids", "labels", "shift_labels")


class DistillationTrainer(GateRateMixin, UndecayedMemoryMixin, Trainer):
    """Trains a student to give the teacher's next-token distribution.

    `args.trains` says what trains; with "lora" `trainer.model` is PEFT's wrapper, `save_model` writes the adapter.

    The loss is the mean of `kd_loss.Objective` over the labelled tokens of the whole optimiser step: all
    accumulated batches and all processes. Position t counts if labels[t + 1] is not -100; without labels every token
    that is not padding is one. Where `output_router_logits` of the student's configuration is on, its family's
    load-balancing loss of every batch comes on top, with the family's coefficient, as under `Trainer`. Evaluation adds
    `eval_kl` (nats per token, temperature 1), `eval_student_perplexity` and `eval_teacher_perplexity`, exact over
    the labelled tokens of the dataset.

    The student's trainable weights are fp32 masters: a student in bf16 or fp16 is upcast, with a warning. Weight decay
    spares what decides how much a layer forgets. A checkpoint resumes to the same trajectory. Tested with DDP, gradient
    checkpointing, PEFT and mixed precision; several GPUs need `torchrun` or `accelerate launch`. Under FSDP or
    DeepSpeed every process holds the whole teacher.

    Args:
        model: the student, any decoder-only causal LM, PEFT-wrapped or not.
        teacher: a loaded causal LM, PEFT-wrapped or not, a folder, or a Hub id (loaded in its own dtype, without remote
            code), of an adapter as well.
        args, data_collator, train_dataset, eval_dataset, processing_class, callbacks, optimizers: as in `Trainer`.

    Raises:
        ValueError: student or teacher is wrapped (torch.compile, DataParallel, DDP), vocabularies or tokenizers differ,
            the teacher shares trainable weights with the student, the tokenizer has tokens that the teacher lacks, a
            file of the teacher's weights is damaged, or the model lacks what `args.trains` or a rate of `args` names.
    """

    args: DistillationConfig
    _tag_names = MODEL_TAGS

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel | str | Path,
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
        tokenizers = {"The processing_class": processing_class, "The student's tokenizer": tokenizer_of(model)}
        check_tokenizers_agree(tokenizers, teacher)
        if isinstance(teacher, str | Path):
            teacher = load_causal_lm(teacher, dtype="auto")
        set_seed(args.seed)  # as Trainer does, too late for an adapter's first weights
        model = select_trained_parts(model, args.trains)
        check_student_and_teacher(model, teacher, processing_class)
        check_rates(model, args.gate_learning_rate, optimizers[0])
        upcast_trainable_parameters(model, args)
        use_one_gpu_per_process(args)
        student_use_cache = getattr(model.config, "use_cache", None)
        super().__init__(
            model=model,
            args=args,
            data_collator=TargetsCollator(data_collator or default_collator(processing_class)),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if student_use_cache is not None:
            # Trainer writes args.use_cache here, and a saved student would generate without a cache for ever.
            model.config.use_cache = student_use_cache
        # Whatever the student's signature, Trainer is to count the step's targets and leave the scaling to us.
        self.model_accepts_loss_kwargs = True
        model.add_model_tags(MODEL_TAGS)
        if isinstance(model.config, HybridGDNConfig):
            self.add_callback(TrainingRecord(model.config))
        self.teacher = self._place_teacher(teacher)
        self._student_parts = BackboneThenHead(model)
        self._teacher_parts = BackboneThenHead(self.teacher)
        self._evaluation_sums = torch.zeros(len(EVALUATED) + 3, dtype=torch.float64)

    def _place_teacher(self, teacher: PreTrainedModel) -> PreTrainedModel:
        if getattr(teacher, "hf_device_map", None) is None:
            teacher.to(self.args.device)  # type: ignore[arg-type]  # `to` is wrapped
        teacher = self.accelerator.prepare_model(teacher.eval(), evaluation_mode=True)
        # Trainer takes the first prepared model for the student, and would not prepare it before an evaluation.
        self.accelerator._models.remove(teacher)
        return teacher

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer drops the columns that the student's forward does not name, input_ids too if that takes **kwargs only.
        super()._set_signature_columns_if_needed()
        self._signature_columns = sorted({*(self._signature_columns or ()), *BATCH_COLUMNS})  # type: ignore[assignment]  # None at first

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
            num_items_in_batch: labelled tokens of the whole step, over all processes if
                `args.average_tokens_across_devices`.
        """
        per_token, router_loss = self._through_both(chunked_objective, model, inputs)
        if num_items_in_batch is None:
            loss = per_token.sum() / max(per_token.numel(), 1) + router_loss
        else:
            tokens = torch.as_tensor(num_items_in_batch, device=per_token.device).clamp(min=1)
            loss = per_token.sum() / tokens + router_loss  # which the library does not divide by batches either
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes  # DDP averages the gradients of the processes
        return (loss, {}) if return_outputs else loss

    def _through_both(
        self, chunked: Callable[..., Any], model: nn.Module, inputs: Mapping[str, Any]
    ) -> tuple[Any, Tensor]:
        """Run student and teacher on a batch and give their hidden states to one of `kd_loss.chunked_*`.

        Returns:
            What that gives, and the load-balancing loss of the student's routers, a number.
        """
        student, teacher = self._student_parts, self._teacher_parts

        def forward(inputs: Mapping[str, Any]) -> Any:
            with self.accelerator.autocast():
                with torch.no_grad():
                    teacher_hidden = teacher.hidden_states(inputs)
                student_hidden, router_loss = student.hidden_states_and_router_loss(inputs)
                losses = chunked(
                    LazyLogits(student.logits, student_hidden),
                    LazyLogits(teacher.logits, teacher_hidden),
                    targets_of(inputs),
                    Objective(self.args.temperature, self.args.ce_weight),
                    chunk_tokens=self.args.chunk_tokens or student.tokens_at_once,
                )
                return losses, router_loss

        return call_through_wrapper(model, self.accelerator.unwrap_model(model), forward, inputs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """Mean objective of one evaluation batch, while the sums over its examples are kept; no logits are returned."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            metrics, router_loss = self._through_both(chunked_metrics, model, inputs)
        targets = targets_of(inputs)
        example_of_token = (targets != IGNORE_INDEX).nonzero()[:, 0].to(metrics.kl.device)
        per_token = torch.stack([getattr(metrics, name) for name in EVALUATED] + [torch.ones_like(metrics.kl)], dim=-1)
        per_example = per_token.new_zeros(len(targets), per_token.shape[1]).index_add_(0, example_of_token, per_token)
        router_columns = per_token.new_tensor([router_loss, 1.0]).expand(len(targets), 2)  # its mean is over examples
        per_example = torch.cat([per_example, router_columns], dim=1)
        # Drops the examples that a distributed sampler repeats to fill the last batch.
        gathered = self.accelerator.gather_for_metrics(per_example)
        self._evaluation_sums += gathered.cpu().double().sum(0)
        return metrics.objective.sum() / max(metrics.objective.numel(), 1) + router_loss, None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """`Trainer.evaluation_loop` with the exact token means in place of its mean over batches."""
        self._evaluation_sums.zero_()
        with memory_advice(LESS_MEMORY_IN_EVALUATION):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        *sums, tokens, router_loss, examples = self._evaluation_sums.tolist()
        if tokens == 0:
            raise ValueError(
                "No token of the evaluation dataset is labelled, so there is nothing to measure. "
                "Examples need at least two tokens, and some labels that are not -100."
            )
        objective, kl, student_nll, teacher_nll = (value / tokens for value in sums)
        metrics = {
            "loss": objective + router_loss / examples,
            "kl": kl,
            "student_perplexity": perplexity_from_nll(student_nll),
            "teacher_perplexity": perplexity_from_nll(teacher_nll),
        }
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return output._replace(metrics={**(output.metrics or {}), **prefixed})
