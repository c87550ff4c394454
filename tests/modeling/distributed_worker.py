# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What each of two gloo ranks runs: `torchrun distributed_worker.py MODE FOLDER`; results go to FOLDER/rank*.pt."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hf_tc.modeling import HybridGDNForCausalLM
from tiny_models import token_ids

import hf_tc  # noqa: F401  registers the student's classes


def load(mode: str, folder: Path) -> torch.nn.Module:
    """A student sharded over both ranks, by the library's own plan or by FSDP2 layer by layer."""
    if mode == "single":
        return HybridGDNForCausalLM.from_pretrained(folder)
    if mode == "fsdp":
        from torch.distributed.fsdp import fully_shard

        model = HybridGDNForCausalLM.from_pretrained(folder)
        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model)
    from transformers.distributed import DistributedConfig

    return HybridGDNForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(**{f"{mode}_size": 2}))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def results(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, Any]:
    """Logits, gradients and greedy tokens."""
    output = model.train()(ids, labels=ids)
    output.loss.backward()
    gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        tokens = model.eval().generate(ids, max_new_tokens=6, do_sample=False)
    return {"logits": whole(output.logits), "gradients": gradients, "tokens": tokens}


def main(mode: str, folder: Path) -> None:
    dist.init_process_group("gloo")
    model = load(mode, folder / "student")
    found = results(model, token_ids(2, 12))
    if mode == "fsdp":
        model.save_pretrained(folder / "saved", is_main_process=dist.get_rank() == 0, state_dict=full_state(model))
    torch.save(found, folder / f"rank{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


def full_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
