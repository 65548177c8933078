"""Command lines that the package shows and stores."""

import pytest

from lecun_ablate.config.command import Command
from lecun_ablate.config.experiment import load_experiment


def test_a_command_survives_being_written_out():
    command = Command.of("run", "my files/x.yaml").with_options(
        {"--set": ["recipe.lr=0.1", "vary.activation=[tanh, relu]"], "--data": None, "--epochs": 3}
    )
    assert str(command) == (
        "python -m lecun_ablate run 'my files/x.yaml' --set recipe.lr=0.1 "
        "--set 'vary.activation=[tanh, relu]' --epochs 3"
    )
    assert Command.parse(str(command)) == command


@pytest.mark.parametrize(
    ("seeds", "said"), [([0, 1, 2], "3"), ([0, 3, 7], "0,3,7"), ([5], "5,"), ([0], "1")]
)
def test_seeds_are_replaced(tmp_path, seeds, said):
    file = tmp_path / "x.yaml"
    file.write_text("name: x\ndata: digits\n")
    before = load_experiment(file, seeds=2, dtype="float64").command
    command = before.with_seeds(seeds)
    assert command.words[-2:] == ("--seeds", said) and command.words.count("--seeds") == 1
    from lecun_ablate.cli import _seeds

    assert list(load_experiment(file, seeds=_seeds(said)).seeds) == seeds
