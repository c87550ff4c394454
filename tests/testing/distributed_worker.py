# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What each of two ranks runs: `distributed_worker.py MODE FOLDER`; results go to FOLDER/rank*.pt.

On two GPUs where there are two, else on the CPU, through gloo.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_models import token_ids

import hf_tc  # noqa: F401  registers the student's classes
from hf_tc.modeling import HybridGDNForCausalLM

ON_GPUS = torch.cuda.device_count() >= 2


def load(mode: str, folder: Path) -> torch.nn.Module:
    """A student sharded over both ranks, by the library's own plan or by FSDP2 layer by layer."""
    if mode == "fsdp":
        from torch.distributed.fsdp import fully_shard

        model = HybridGDNForCausalLM.from_pretrained(folder).to("cuda" if ON_GPUS else "cpu")
        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model)
    from transformers.distributed import DistributedConfig

    sharding = DistributedConfig(tp_size=2)
    return load_float8(folder, sharding) if mode == "tp-float8" else load_sharded(folder, sharding)


def load_sharded(folder: Path, sharding: Any, **kwargs: Any) -> HybridGDNForCausalLM:
    return HybridGDNForCausalLM.from_pretrained(folder, distributed_config=sharding, **kwargs)


def load_float8(folder: Path, sharding: Any = None) -> HybridGDNForCausalLM:
    """Weights that do not know among which ranks they were divided."""
    from torchao.quantization import Float8WeightOnlyConfig
    from transformers import TorchAoConfig

    return load_sharded(folder, sharding, quantization_config=TorchAoConfig(Float8WeightOnlyConfig()))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().cpu().clone()


def results(model: torch.nn.Module, ids: torch.Tensor, learns: bool = True) -> dict[str, Any]:
    """Logits, gradients and greedy tokens."""
    ids = ids.to(model.device)
    output = model.train()(ids, labels=ids)
    if learns:
        output.loss.backward()
    gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        tokens = model.eval().generate(ids, max_new_tokens=6, do_sample=False)
    return {"logits": whole(output.logits), "gradients": gradients, "tokens": tokens.cpu()}


def main(mode: str, folder: Path) -> None:
    if ON_GPUS:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if ON_GPUS else "gloo")
    model = load(mode, folder / "student")
    found = results(model, token_ids(2, 12), learns=mode != "tp-float8")
    if mode == "fsdp":
        model.save_pretrained(folder / "saved", is_main_process=dist.get_rank() == 0, state_dict=full_state(model))
    torch.save(found, folder / f"rank{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


def full_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
