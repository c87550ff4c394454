# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Run a causal language model in two parts: its backbone once, then its head on any chosen token positions.

Logits of [B, T, V] are the largest tensor of distillation (2 x 8 x 4096 positions x 150k tokens in fp32 are 39 GB);
the hidden states below them are small. Between the two, families differ: Gemma 2 soft-caps, Cohere and Granite scale,
some heads have a bias, PEFT may have wrapped the linear layer. So the head is never re-implemented here: the family's
own `forward` is called with its backbone replaced, for the duration of that call, by one that returns the given
hidden states.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_tc.evaluation.finite_outputs import not_finite
from hf_tc.evaluation.float32_linear import Float32Linear
from hf_tc.evaluation.kd_loss import IGNORE_INDEX, TOKEN_WEIGHTS, LazyLogits, tokens_at_once
from hf_tc.evaluation.linear_head import is_linear, linear_head
from hf_tc.evaluation.sharded_head import gather_head, without_sharding_hooks
from hf_tc.evaluation.top_k import TOP_K_COLUMNS
from hf_tc.teachers.nope_layers import evaluating
from hf_tc.teachers.offloading import execution_device

logger = logging.get_logger(__name__)

# What a batch may hold for the loss or the head, and no backbone takes.
NOT_FOR_THE_BACKBONE = frozenset(
    {"labels", "shift_labels", "num_items_in_batch", "logits_to_keep", "use_cache", TOKEN_WEIGHTS, *TOP_K_COLUMNS}
)


class NotFiniteError(ValueError):
    """A model whose logits are NaN or infinite."""


class BackboneThenHead:
    """A causal LM (PEFT-wrapped or not) split at the input of its language-model head.

    The split is checked once, on two tokens, against the model's own logits. A model that cannot be split is run whole,
    with a warning: its "hidden states" are then its full logits, right but large.

    Raises:
        ValueError: the model is an encoder-decoder, or a PEFT prompt-learning model (its virtual tokens shift the
            positions).
        NotFiniteError: its logits of two tokens are NaN or infinite. Not without `has_weights`, as where FSDP brings
            them later.
    """

    def __init__(self, model: nn.Module, has_weights: bool = True) -> None:
        peft_config = getattr(model, "active_peft_config", None)
        if peft_config is not None and peft_config.is_prompt_learning:
            raise ValueError(
                f"The student uses PEFT method {peft_config.peft_type}, which prepends virtual tokens, so its "
                "positions do not match the teacher's. Use a method that changes weights, such as LoRA."
            )
        self.model: PreTrainedModel = model if peft_config is None else model.get_base_model()  # type: ignore[operator, assignment]
        if getattr(self.model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(self.model).__name__} is an encoder-decoder; a decoder-only causal language model is needed."
            )
        self._backbone_output_class: type | None = None
        self._balances_nothing = self._is_linear = False
        self.is_split = self._split_agrees_with_forward(has_weights)
        if not self.is_split:
            logger.warning(
                "%s could not be split into backbone and head: its full [batch, seq, vocab] logits are kept in memory. "
                "Use smaller batches.",
                type(self.model).__name__,
            )

    @property
    def tokens_at_once(self) -> int:
        """Tokens whose logits may exist together, see `kd_loss.tokens_at_once`."""
        on_cpu = execution_device(self.model).type == "cpu"
        return tokens_at_once(self.model.config.get_text_config().vocab_size, on_cpu=on_cpu)

    def hidden_states(self, inputs: Mapping[str, Any]) -> Tensor:
        """Input of the head [B, T, C] for a batch (`input_ids`, `attention_mask`, `position_ids`, ...)."""
        inputs = {name: value for name, value in inputs.items() if name not in NOT_FOR_THE_BACKBONE}
        if not self.is_split:
            return self.model.forward(**inputs, use_cache=False).logits
        return self._run_backbone(inputs).last_hidden_state

    def hidden_states_and_router_loss(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """`hidden_states`, and the load-balancing loss of the family's routers times its coefficient, a number.

        It is 0 (on the CPU) unless the family has such a loss and `output_router_logits` of its configuration is on.
        The family's own `forward` computes it: where no token is labelled, nothing else is left of its loss.

        Raises:
            ValueError: this release of Transformers records no router logits of a family whose loss is to balance them.
        """
        inputs = {name: value for name, value in inputs.items() if name not in NOT_FOR_THE_BACKBONE}
        if not self.is_split:
            balances = getattr(self.model.config.get_text_config(), "output_router_logits", False)
            labels = _no_labels(inputs["input_ids"]) if balances else {}
            outputs = self.model.forward(**inputs, use_cache=False, **labels)
            return outputs.logits, outputs.loss if balances else torch.zeros(())
        outputs = self._run_backbone(inputs)
        hidden = outputs.last_hidden_state
        if getattr(outputs, "router_logits", None) is None:
            if self._balances_nothing:
                family = self.model.config.get_text_config().model_type
                raise ValueError(
                    f"output_router_logits is on, and Transformers {version('transformers')} records no router logits "
                    f"of {family!r}. Turn it off, or use a newer release."
                )
            return hidden, torch.zeros(())
        first = hidden[:1, :1].detach()
        shortened = type(outputs)(last_hidden_state=first)
        shortened["router_logits"] = outputs.router_logits
        with _replaced_backbone(self.model, lambda *args, **kwargs: shortened):
            mask, labels = inputs.get("attention_mask"), _no_labels(first)
            outputs = self.model.forward(inputs_embeds=first, attention_mask=mask, use_cache=False, **labels)
        return hidden, outputs.loss

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] of hidden states [N, C], with all that the family does after its linear layer.

        A linear layer in 16 bits gives what it summed in float32, see `Float32Linear`.
        """
        if not self.is_split:
            return hidden
        hidden = hidden.unsqueeze(0)
        assert self._backbone_output_class is not None
        outputs = self._backbone_output_class(last_hidden_state=hidden)
        head = self.model.get_output_embeddings()
        with (
            _replaced_backbone(self.model, lambda *args, **kwargs: outputs),
            without_sharding_hooks(head),
            Float32Linear(),
        ):
            # `forward`, not `__call__`: module hooks (FSDP, capture) belong to whole forward passes.
            return self.model.forward(inputs_embeds=hidden, use_cache=False).logits.squeeze(0)

    def lazy_logits(self, hidden: Tensor) -> LazyLogits:
        """Logits of `hidden_states` [B, T, C], for a loss that computes them in chunks.

        To be called where the loss is: FSDP has the whole parameters only inside the model's forward.
        """
        if not self.is_split:
            return LazyLogits(self.logits, hidden, ())
        gather_head(self.model.get_output_embeddings())
        children = [child for name, child in self.model.named_children() if name != self.model.base_model_prefix]
        modules = [self.model, *(module for child in children for module in child.modules())]
        # Where FSDP flattens parameters, the forward has views of them, as plain attributes: those, or the flat one,
        # which is the model's own parameter then, but not both.
        attributes = (x for module in modules for x in (*module._parameters.values(), *vars(module).values()))
        trained = {id(x): x for x in attributes if isinstance(x, Tensor) and x.requires_grad}
        viewed = {id(x._base) for x in trained.values()}
        named = tuple(x for x in trained.values() if id(x) not in viewed)
        linear = linear_head(self.model.get_output_embeddings()) if self._is_linear else None
        return LazyLogits(self.logits, hidden, named, linear)

    def _run_backbone(self, inputs: Mapping[str, Any]) -> Any:
        outputs = getattr(self.model, self.model.base_model_prefix)(**inputs, use_cache=False)
        self._backbone_output_class = type(outputs)
        return outputs

    @torch.no_grad()
    def _split_agrees_with_forward(self, has_weights: bool) -> bool:
        self.is_split = True
        inputs = {"input_ids": torch.tensor([[0, 1]], device=execution_device(self.model.get_input_embeddings()))}
        try:
            with evaluating(self.model):
                outputs = self.model.forward(**inputs, use_cache=False)
                # Where no router logits reach the family's loss, that is the number 0, not a tensor.
                self._balances_nothing = isinstance(getattr(outputs, "aux_loss", None), int)
                expected = outputs.logits[0]
                # Of a model on several devices, forward alone brings its logits back to where its inputs were.
                hidden = self.hidden_states(inputs)[0]
                logits = self.logits(hidden)
                self._is_linear = has_weights and is_linear(self.model.get_output_embeddings(), hidden, logits)
                logits = logits.to(expected)
        except (AttributeError, TypeError, ValueError) as error:
            logger.warning("Running the head of %s alone failed: %s", type(self.model).__name__, error)
            return False
        if has_weights and not expected.isfinite().all():
            raise NotFiniteError(not_finite(self.model, inputs))
        if logits.shape != expected.shape:
            return False
        # The same operations on the same numbers: a hundredth of the largest logit leaves room for bf16 rounding only.
        tolerance = 1e-2 * expected.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
        return torch.allclose(logits, expected, rtol=0.0, atol=tolerance, equal_nan=True)


def _no_labels(tokens: Tensor) -> dict[str, Any]:
    """Arguments of a forward whose cross-entropy is a sum over no token of `[B, T, ...]`: 0, where a mean is NaN."""
    labels = torch.full(tokens.shape[:2], IGNORE_INDEX, device=tokens.device)
    return {"labels": labels, "num_items_in_batch": 1}


class _GivenBackbone(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@contextlib.contextmanager
def _replaced_backbone(model: PreTrainedModel, function: Callable[..., Any]) -> Iterator[None]:
    backbone = getattr(model, model.base_model_prefix)
    setattr(model, model.base_model_prefix, _GivenBackbone(function))
    try:
        yield
    finally:
        setattr(model, model.base_model_prefix, backbone)


def forward_restorer(module: nn.Module) -> Callable[[], None]:
    """What makes `module.forward` again what it is now, an attribute of the module or of its class."""
    had_own_forward, original = "forward" in vars(module), module.forward

    def restore() -> None:
        if had_own_forward:
            module.forward = original
        else:
            vars(module).pop("forward", None)

    return restore


def call_through_wrapper(wrapper: nn.Module, module: nn.Module, function: Callable[[Any], Any], inputs: Any) -> Any:
    """Call `function(inputs)` as if it were `module.forward`, by calling `wrapper` (DDP, FSDP or the module).

    The wrapper's hooks then fire around the whole computation and DDP sees every parameter that the result depends on.
    While `function` runs, `module.forward` is the module's own again.
    """
    restore = forward_restorer(module)

    def redirected(inner_inputs: Any) -> Any:
        restore()
        return function(inner_inputs)

    module.forward = redirected
    try:
        return wrapper(inputs)
    finally:
        restore()
