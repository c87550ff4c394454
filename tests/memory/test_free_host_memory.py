"""Free memory under the limits of hand-made control groups, in both layouts."""

from pathlib import Path

import psutil
import pytest

from hf_tc.memory import free_host_memory as module
from hf_tc.memory.free_host_memory import SPLIT, UNIFIED, Layout, free_host_bytes

GB = 10**9


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    memory = psutil.virtual_memory()._replace(available=50 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(module, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(module, "OWN_GROUPS", tmp_path / "own")
    return tmp_path


def write_group(folder: Path, layout: Layout, limit: int | str, used: int, reclaimable: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.limit).write_text(f"{limit}\n")
    (folder / layout.used).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{layout.reclaimable} {reclaimable}\nactive_file 3\n")


def test_without_groups_it_is_the_machines() -> None:
    assert free_host_bytes() == 50 * GB


@pytest.mark.parametrize(("limit", "free"), [("max", 50), (8 * GB, 6), (80 * GB, 50), (GB, 0)])
def test_a_container_sees_its_own_group_as_the_root(machine: Path, limit: int | str, free: int) -> None:
    (machine / "own").write_text("0::/\n")
    write_group(machine / "groups", UNIFIED, limit, used=5 * GB, reclaimable=3 * GB)
    assert free_host_bytes() == free * GB


def test_the_tightest_of_the_groups_above_counts(machine: Path) -> None:
    (machine / "own").write_text("0::/job/step/task\n")
    write_group(machine / "groups" / "job", UNIFIED, 16 * GB, used=5 * GB, reclaimable=0)
    write_group(machine / "groups" / "job" / "step", UNIFIED, 20 * GB, used=2 * GB, reclaimable=0)
    write_group(machine / "groups" / "job" / "step" / "task", UNIFIED, "max", used=GB, reclaimable=0)
    assert free_host_bytes() == 11 * GB


def test_the_layout_with_a_folder_for_memory(machine: Path) -> None:
    (machine / "own").write_text("5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    write_group(machine / "groups" / "memory", SPLIT, 2**63 - 4096, used=40 * GB, reclaimable=0)
    write_group(machine / "groups" / "memory" / "job", SPLIT, 10 * GB, used=4 * GB, reclaimable=GB)
    assert free_host_bytes() == 7 * GB
