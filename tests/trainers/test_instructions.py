"""Pinning the instruction set."""

import os
import subprocess
import sys

import pytest

from lecun_ablate.errors import ConfigError
from lecun_ablate.trainers import native
from lecun_ablate.trainers.instructions import PINNED, pin

pytestmark = pytest.mark.skipif(
    len(native.instruction_sets()) < 2, reason="this CPU has one instruction set only"
)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setenv(PINNED, "")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", os.environ.get("ATEN_CPU_CAPABILITY", ""))


def test_a_pinned_set_is_in_the_identity():
    fastest, older = native.instruction_sets()[:2]
    assert native.NativeTrainer().identity().instruction_set == fastest
    pin(older)
    assert native.NativeTrainer().identity().instruction_set == older
    assert native.NativeTrainer(instruction_set=fastest).identity().instruction_set == fastest


def test_an_unknown_set_is_refused_with_those_that_are_there():
    with pytest.raises(ConfigError, match=r"--instruction-set avx3: .*valid: .*baseline"):
        pin("avx3")
    assert os.environ[PINNED] == ""


def test_pytorch_is_pinned_as_well():
    """As the command line does it: before PyTorch is imported."""
    older = native.instruction_sets()[1]
    code = (
        f"from lecun_ablate.trainers import instructions; instructions.pin({older!r}); import sys; "
        "assert 'torch' not in sys.modules; "
        "from lecun_ablate.trainers.torch_trainer import TorchTrainer; "
        "print(TorchTrainer().identity().instruction_set)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wanted = {"avx2": "avx2", "baseline": "default"}
    assert done.stdout.strip() == wanted[older]


@pytest.mark.usefixtures("tiny")
def test_the_command_line_pins(workplace, command):
    import lecun_ablate

    older = native.instruction_sets()[1]
    (workplace / "one.yaml").write_text("name: one\ndata: tiny\nrecipe: {epochs: 1}\nseeds: 1\n")
    status, _, err = command("run", "one.yaml", "--instruction-set", older)
    assert status == 0, err
    (run_id,) = lecun_ablate.load_results("one").run_id
    from mlflow_view import View

    assert View().client.get_run(run_id).data.params["instruction_set"] == older
    status, _, err = command("run", "one.yaml", "--instruction-set", "avx3")
    assert status == 2 and "--instruction-set avx3" in err
