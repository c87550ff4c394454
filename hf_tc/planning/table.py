# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A conversion plan as the table that `hf-tc convert --dry-run` prints."""

import sys

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hf_tc.layer_selection.policies import MEASURING_POLICIES, SELECTION_TOKENS
from hf_tc.memory.estimate import EXPECTED_WITHIN
from hf_tc.planning.plan import ConversionPlan
from hf_tc.planning.time import order_of_time, passes, seconds_per_pass

CONTEXTS = (1_000, 8_192, 32_768)


def plan_table(
    plan: ConversionPlan, device: torch.device, *, sampled_tokens: int = 0, may_offload: bool = False
) -> Table:
    """The plan for a device: what is counted, and below it what is estimated, with the speed measured there now.

    Args:
        sampled_tokens: of the text, how many the teacher writes first, whose time is not known.
        may_offload: weights that do not fit on the device may stay in host memory (`device_map`).
    """
    title = f"Plan: {plan.teacher} ({str(plan.dtype).removeprefix('torch.')})"
    caption = (
        "Parameters, caches and files are counted. Memory is the peak of all tensors, expected within a factor of "
        f"{EXPECTED_WITHIN}, libraries (about 1 GB) not counted. Time is an order of magnitude, measured on one layer."
    )
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in (*_counted(plan), *_memory(plan, device, may_offload), *_time(plan, device, sampled_tokens)):
        table.add_row(name, value)
    return table


def _counted(plan: ConversionPlan) -> list[tuple[str, str]]:
    cache = plan.cache
    before, after = cache.growth
    contexts = [tokens for tokens in CONTEXTS if plan.longest_context is None or tokens <= plan.longest_context]
    review = "not reviewed, converted on request" if plan.preserved is None else f"reviewed: {plan.preserved}"
    return [
        ("family", f"{plan.family}, {review}"),
        ("layers", _layers(plan)),
        (
            "parameters",
            f"{plan.teacher_parameters:,} -> {plan.student_parameters:,} (+{plan.added_parameters:,}, "
            f"{plan.added_parameters / plan.teacher_parameters:.1%})",
        ),
        ("student on disk", f"{size(plan.student_bytes)}; {size(plan.checkpoint_bytes)} more while converting"),
        ("cache of 1,000 more tokens", f"{size(before)} -> {size(after)} a sequence"),
        *(
            (f"cache at {tokens:,} tokens", f"{size(cache.teacher(tokens))} -> {size(cache.student(tokens))}")
            for tokens in contexts
        ),
        ("recurrent state", f"{size(cache.state_bytes)} a sequence, at any length"),
        ("student's cache is smaller", _break_even(plan)),
    ]


def _layers(plan: ConversionPlan) -> str:
    kept = ", ".join(map(str, plan.retained_layers))
    chosen = f"chosen by {plan.policy}" if plan.policy in MEASURING_POLICIES else f"{kept or 'none'} ({plan.policy})"
    return (
        f"{len(plan.retained_layers)} of {len(plan.cache.layers)} keep attention: {chosen}; "
        f"{len(plan.linear_layers)} become recurrent"
    )


def _break_even(plan: ConversionPlan) -> str:
    tokens = plan.cache.break_even_tokens
    if not plan.linear_layers:
        return "never: no layer is converted"
    return "never: the state is larger than the windows it replaces" if tokens is None else f"from {tokens:,} tokens on"


def _memory(plan: ConversionPlan, device: torch.device, may_offload: bool) -> list[tuple[str, str]]:
    settings = plan.settings
    text = f"{settings.calibration_tokens:,} tokens in blocks of {settings.sequence_length:,}"
    if device.type != "cuda":
        at_once = plan.layers_at_once(None)
        found = f"about {size(plan.memory(None).host)} of host memory"
        found += f", with {at_once} layers at once" if at_once > 1 else ""
        return [("calibration", text), ("peak memory", found), ("peak memory on a GPU", _on_a_gpu(plan))]
    total = torch.cuda.get_device_properties(device).total_memory
    peak = plan.memory(total)
    if peak.device > total and may_offload:
        peak = plan.memory(total, weights_fit=False)
    found = f"about {size(peak.device)} of {size(total)} on {device}, {size(peak.host)} of host memory"
    if peak.device > total:
        found += "; too much: shorten the blocks, load the teacher with --dtype bfloat16, or give --device-map auto "
        found += "where the weights are what does not fit"
    elif peak.text_in_host_memory:
        found += "; activations of the text do not fit on the device and come from there"
    return [("calibration", text), ("peak memory", found)]


def _on_a_gpu(plan: ConversionPlan) -> str:
    """What a GPU must have, for those who plan on a machine without one."""
    whole, least = plan.memory(sys.maxsize).device, plan.memory(0)
    shown = f"about {size(whole)}"
    if least.device < whole:
        shown += f"; {size(least.device)} at least, with activations of the text ({size(least.host)}) in host memory"
    return shown


def _time(plan: ConversionPlan, device: torch.device, sampled_tokens: int) -> list[tuple[str, str]]:
    memory = None if device.type != "cuda" else torch.cuda.get_device_properties(device).total_memory
    joint = plan.joint_steps(memory)
    at_once = plan.layers_at_once(memory)
    seconds = passes(plan, joint) * seconds_per_pass(plan.widths, plan.settings.sequence_length, device, at_once)
    sampling = f", beside sampling {sampled_tokens:,} tokens from the teacher" if sampled_tokens else ""
    rows = [("time", f"{order_of_time(seconds)} on {device}{sampling}")]
    if joint:
        rows.append(("joint alignment", f"{joint:,} steps of all recurrent layers together"))
    if plan.selection_forwards:
        closed = " after a closed form of every layer" if MEASURING_POLICIES[plan.policy].calibrates else ""
        rows.append(("selection", f"{plan.selection_forwards} forward passes of {SELECTION_TOKENS:,} tokens{closed}"))
    return rows


def size(count: int) -> str:
    """Bytes in powers of 1,000, as the figures of model cards are."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
