"""The cores that trainers use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lecun_ablate.system import cores, provenance
from lecun_ablate.system.cores import usable_cores
from lecun_ablate.trainers.torch_trainer import TorchTrainer


@pytest.fixture(autouse=True)
def unlimited(monkeypatch, tmp_path):
    """No quota and no wish, whatever the machine and the user of the tests have."""
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(("asked", "usable"), [("2", 2), ("99", 4), ("0", 4), ("3,2", 3), ("x", 4)])
def test_omp_num_threads_limits_the_cores(monkeypatch, asked, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usable_cores() == usable


@pytest.mark.parametrize(
    ("content", "usable"), [("200000 100000", 2), ("150000 100000", 2), ("max 100000", 4), ("", 4)]
)
def test_a_containers_quota_limits_the_cores(monkeypatch, tmp_path, content, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/cpu.max").write_text(content)
    folder = tmp_path / "cgroup/cpu"
    folder.mkdir()
    if content:
        quota, period = content.replace("max", "-1").split()
        (folder / "cpu.cfs_quota_us").write_text(quota)
        (folder / "cpu.cfs_period_us").write_text(period)
    assert usable_cores() == usable


@pytest.mark.parametrize(("counted", "usable"), [(7, 7), (None, 1)])
def test_a_system_without_affinities_counts_its_cores(monkeypatch, counted, usable):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert usable_cores() == usable
    assert TorchTrainer("cpu").threads == usable
    assert provenance.machine().endswith("1 core" if usable == 1 else "7 cores")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinities here")
def test_cores_that_the_process_may_not_use_do_not_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5})
    assert usable_cores() == TorchTrainer("cpu").threads == 3


def test_threads_limits_trainers_and_libraries(tmp_path):
    """In a process of its own: libraries read the limit while they are imported."""
    (tmp_path / "x.yaml").write_text(
        "name: x\ndata: digits\nrecipe: {epochs: 1}\narms: [{name: a}]\n"
    )
    program = """
import sys
from lecun_ablate import cli
status = cli._main(["run", "x.yaml", "--dry-run", "--threads", "1"])
import torch
from lecun_ablate.trainers.torch_trainer import TorchTrainer
print(status, torch.get_num_threads(), TorchTrainer("cpu").threads)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(cores.__file__).parents[2])}
    out = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert out.stdout.splitlines()[-1] == "0 1 1", out.stderr
