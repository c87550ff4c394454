# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Two ranks compute what one process computes, on two GPUs where there are two; offloaded weights too."""

import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import load_float8, results
from fresh_processes import SCRIPT, run_side_by_side
from optional_packages import needs_extra
from packaging.version import Version
from servers import free_port
from tiny_models import student, token_ids

from hf_tc.modeling import HybridGDNForCausalLM

WORKER = Path(__file__).parents[1] / "testing" / "distributed_worker.py"
NEEDS_WHOLE_EXPERTS = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.13"),
    reason="PyTorch 2.11 cannot read gradients of divided experts whole, 2.13 can",
)


def run_on_two_ranks(mode: str, folder: Path) -> list[dict]:
    """As torchrun starts them."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    if torch.cuda.device_count() < 2:
        common["CUDA_VISIBLE_DEVICES"] = ""  # FSDP and tensor parallelism would take the only one twice
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    code = f"import sys; sys.path[:0] = {[str(WORKER.parent), *sys.path]}\n{SCRIPT}"
    runs = run_side_by_side(code, [str(WORKER), mode, str(folder)], ranks)
    assert not any(run.returncode for run in runs), "".join(run.stderr[-3000:] for run in runs)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def own_part(name: str, whole: torch.Tensor, shape: torch.Size, rank: int) -> torch.Tensor:
    """A rank's part; older releases of the library divide plain tensors, newer ones DTensors, which know the whole."""
    for dim, size in enumerate(shape):
        if size != whole.shape[dim]:
            fused = whole.chunk(2, dim) if "gate_up_proj" in name else (whole,)  # two matrices, each divided
            whole = torch.cat([matrix.chunk(2, dim)[rank] for matrix in fused], dim)
    return whole


@pytest.mark.parametrize(
    ("family", "mode"), [("qwen2", "fsdp"), ("llama", "tp"), pytest.param("qwen3_moe", "tp", marks=NEEDS_WHOLE_EXPERTS)]
)
def test_two_ranks_equal_one_process(family: str, mode: str, tmp_path) -> None:
    model = student(family, (0, 2), output_norm=True, vocab_size=62)
    model.save_pretrained(tmp_path / "student")
    expected = results(HybridGDNForCausalLM.from_pretrained(tmp_path / "student"), token_ids(2, 12))
    for rank, found in enumerate(run_on_two_ranks(mode, tmp_path)):
        torch.testing.assert_close(found["logits"], expected["logits"], rtol=0, atol=2e-4)
        assert found["tokens"].tolist() == expected["tokens"].tolist()
        assert set(found["gradients"]) == set(expected["gradients"])
        for name, gradient in expected["gradients"].items():
            part = own_part(name, gradient, found["gradients"][name].shape, rank)
            assert (found["gradients"][name] - part).norm() <= 1e-3 * gradient.norm() + 1e-6, name
    if mode == "fsdp":
        own_code = {path.name for path in Path(sys.modules["hf_tc.modeling"].__file__).parent.glob("*.py")}
        assert {path.name for path in (tmp_path / "saved").glob("*.py")} <= own_code
        again = HybridGDNForCausalLM.from_pretrained(tmp_path / "saved")
        assert again.config.architectures == ["HybridGDNForCausalLM"]
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@needs_extra("test", "torchao")
def test_two_ranks_with_quantised_weights_equal_one_process(tmp_path) -> None:
    model = student("llama", (0, 2), vocab_size=62)
    model.save_pretrained(tmp_path / "student")
    exact = results(model, token_ids(2, 12), learns=False)["logits"]
    rounded = results(load_float8(tmp_path / "student"), token_ids(2, 12), learns=False)["logits"]
    for found in run_on_two_ranks("tp-float8", tmp_path):
        # Each rank scales its own part of o_proj and down_proj, so it rounds otherwise; by far less than rounding does.
        assert (found["logits"] - rounded).norm() < 0.5 * (rounded - exact).norm()


def test_more_ranks_than_key_value_heads_are_refused(tmp_path) -> None:
    student(num_key_value_heads=1, vocab_size=62).save_pretrained(tmp_path / "student")
    with pytest.raises(
        AssertionError, match=r"ValueError: 4 query heads and 1 key/value heads cannot be divided among 2"
    ):
        run_on_two_ranks("tp", tmp_path)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_layers_compute_the_same(where: str, tmp_path) -> None:
    model, ids = student("qwen2", (0, 2)), token_ids(2, 9)
    model.save_pretrained(tmp_path / "student", max_shard_size="20KB")
    device_map = {name: "cpu" for name in ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")}
    device_map.update({f"model.layers.{i}": where if i in (0, 3) else "cpu" for i in range(4)})
    offloaded = HybridGDNForCausalLM.from_pretrained(
        tmp_path / "student", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    if where == "disk":
        assert offloaded.model.layers[0].self_attn.A_log.device.type == "meta"
    torch.testing.assert_close(offloaded(ids).logits, model(ids).logits, rtol=0, atol=0)
    arguments = dict(max_new_tokens=5, do_sample=False)
    assert offloaded.generate(ids, **arguments).tolist() == model.generate(ids, **arguments).tolist()


def test_an_automatic_device_map(tmp_path) -> None:
    model, ids = student("qwen3_moe", (0, 2)), token_ids(1, 9)
    model.save_pretrained(tmp_path)
    mapped = HybridGDNForCausalLM.from_pretrained(tmp_path, device_map="auto")
    allowed = 2e-4 if mapped.device.type == "cpu" else 2e-2  # a GPU's kernels multiply in TF32; logits are up to 3.9
    torch.testing.assert_close(mapped(ids.to(mapped.device)).logits.cpu(), model(ids).logits, rtol=0, atol=allowed)
