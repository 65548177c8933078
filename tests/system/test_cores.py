"""The cores that trainers use."""

import os

import pytest

from lecun_ablate.system import provenance
from lecun_ablate.system.cores import usable_cores
from lecun_ablate.trainers.torch_trainer import TorchTrainer


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
