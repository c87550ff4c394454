# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Order of magnitude of a conversion's time: passes of a token through a recurrent layer, times one that is measured.

A pass is forward and backward, as in alignment. A forward of the teacher's whole layer counts as one, since that has
about three times the parameters. What is left out, such as attention's T x T part, made a factor of three at most on
the CPUs tried; a GPU needs less for the teacher than is counted.
"""

import torch
from torch.nn.functional import normalize
from torch.utils.benchmark import Timer

from hf_tc.calibration.solve_order import SOLVED_TOKENS
from hf_tc.layer_selection.policies import MEASURING_POLICIES, SELECTION_TOKENS
from hf_tc.memory.estimate import Widths, streamed_tokens
from hf_tc.modeling.gated_delta_rule import gated_delta_rule
from hf_tc.planning.plan import ConversionPlan

CLOSED_FORM_PASSES = 15  # of a token that layers are solved on
JOINT_PASSES = 4  # of a token of joint alignment: the teacher's forward, the student's forward and backward
ORDERS = ((25, "seconds"), (190, "about a minute"), (1500, "about ten minutes"), (11_000, "about an hour"))  # below


def order_of_time(seconds: float) -> str:
    """The order of magnitude in words; borders are geometric means."""
    return next((words for border, words in ORDERS if seconds < border), "many hours")


def passes(plan: ConversionPlan, joint_steps: int = 0) -> int:
    """How often a token passes through a recurrent layer, or what takes as long, in the whole conversion."""
    settings, layers, converted = plan.settings, len(plan.cache.layers), len(plan.linear_layers)
    compares_solved = plan.policy in MEASURING_POLICIES and MEASURING_POLICIES[plan.policy].calibrates
    solved_tokens = min(SOLVED_TOKENS, settings.calibration_tokens)
    per_step = settings.alignment.step_tokens(settings.sequence_length)
    jointly = joint_steps * settings.joint.budget(has_room=True).step_tokens(settings.sequence_length)
    through_all = streamed_tokens(settings) + plan.selection_forwards * SELECTION_TOKENS + JOINT_PASSES * jointly
    closed_form = CLOSED_FORM_PASSES * solved_tokens * (layers if compares_solved else converted)
    return layers * through_all + closed_form + converted * settings.alignment.steps * per_step


def seconds_per_pass(widths: Widths, sequence_length: int, device: torch.device, at_once: int = 1) -> float:
    """Measured on the device: a matrix product with all parameters of a recurrent layer, and its delta rule; with so
    many layers at once, each with its part of the threads."""
    tokens = 2048 if device.type == "cuda" else 256  # fewer do not keep a GPU busy
    length = min(tokens, sequence_length)
    shape = (tokens // length, length, widths.heads, widths.head_dim)
    q, k, v = (normalize(torch.randn(shape, device=device), dim=-1).requires_grad_() for _ in "qkv")
    gate = torch.full(shape[:3], 0.5, device=device)
    x = torch.randn(shape[0] * length, widths.hidden, device=device, requires_grad=True)
    weight = torch.randn(widths.hidden, widths.mixer_parameters // widths.hidden, device=device, requires_grad=True)

    def one_pass() -> None:
        outputs = [x @ weight, gated_delta_rule(q=q, k=k, v=v, log_decay=-gate, beta=gate)[0]]
        torch.autograd.grad(outputs, [x, weight, q, k, v], grad_outputs=outputs)

    threads = max(1, torch.get_num_threads() // at_once)
    timer = Timer("one_pass()", globals={"one_pass": one_pass}, num_threads=threads)
    return min(timer.blocked_autorange().times) / (shape[0] * length) / at_once  # the least disturbed
