"""Components that break their contract are refused before training, with their file and line."""

import sys
from pathlib import Path

import pytest

from lecun_ablate.registry import registry

pytestmark = pytest.mark.usefixtures("plain_reports")
HEAD = "import random, numpy, torch\nfrom lecun_ablate import register\n"  # two lines
BROKEN = {
    "the mean over everything": (
        "activation: mine",
        "@register('activation')\ndef mine(x):\n    return x - x.mean()\n",
        "when another is trained beside it",
    ),
    "dropout": (
        "activation: mine",
        "@register('activation')\ndef mine(x):\n    return torch.dropout(x, 0.5, True)\n",
        "draws from a global random generator",
    ),
    "noise of numpy": (
        "activation: mine",
        "@register('activation')\ndef mine(x):\n    return x * numpy.random.rand()\n",
        "draws from a global random generator",
    ),
    "noise of Python": (
        "activation: mine",
        "@register('activation')\ndef mine(x):\n    return x * random.random()\n",
        "draws from a global random generator",
    ),
    "calls that are counted": (
        "activation: mine",
        "@register('activation', 'mine')\nclass Mine:\n    n = 0\n    def __call__(self, x):\n"
        "        self.n += 1\n        return torch.tanh(x) / self.n\n",
        "other numbers the second time",
    ),
    "the norm over all replicas": (
        "optimizer: mine",
        "@register('optimizer')\ndef mine(p, g, state, lr, momentum):\n"
        "    p.sub_(lr * g / (g.norm() + 1e-8))\n",
        "when another is trained beside it",
    ),
    "an init of the global generator": (
        "init: mine",
        "@register('init')\ndef mine(generator, shape, fan_in, fan_out):\n"
        "    return torch.randn(shape, dtype=torch.float64) / 10\n",
        "draws from a global random generator",
    ),
    "new parameters": (
        "optimizer: mine",
        "@register('optimizer')\ndef mine(p, g, state, lr, momentum):\n    return p - lr * g\n",
        "changes no parameter",
    ),
    "numpy inside": (
        "activation: mine",
        "@register('activation')\ndef mine(x):\n    return torch.tensor(numpy.tanh(x.numpy()))\n",
        "activation 'mine'",
    ),
    "an activation of another shape": (
        "activation: mine",
        "@register('activation')\ndef mine(x):\n    return x[..., :1]\n",
        "of its argument's shape, here (2, 3, 4), got (2, 3, 1)",
    ),
    "a loss of another shape": (
        "loss: mine",
        "@register('loss')\ndef mine(outputs, targets):\n    return (outputs - targets) ** 2\n",
        "loss 'mine' of 2 patterns: expected shape (2,), got (2, 10)",
    ),
    "a state that cannot be divided": (
        "optimizer: mine",
        "@register('optimizer')\ndef mine(p, g, state, lr, momentum):\n"
        "    state['t'] = torch.tensor(1.0)\n    p.sub_(lr * g)\n",
        "state['t']: expected a number, or a tensor of shape (replicas, weights), here (2",
    ),
    "another shape": (
        "activation: mine",
        "@register('activation')\ndef mine(x):\n    return x[..., :1]\n",
        "activation 'mine'",
    ),
}
SOUND = {
    "an activation": (
        "activation: mine",
        "@register('activation')\ndef mine(x):\n    return x * torch.sigmoid(x)\n",
    ),
    "an optimizer with a state": (
        "optimizer: mine",
        "@register('optimizer')\ndef mine(p, g, state, lr, momentum):\n"
        "    v = state.setdefault('v', torch.zeros_like(p))\n"
        "    v.mul_(0.5).add_(g)\n    p.sub_(lr * v)\n",
    ),
    "an init of its generator": (
        "init: mine",
        "@register('init')\ndef mine(generator, shape, fan_in, fan_out):\n"
        "    return torch.randn(shape, generator=generator, dtype=torch.float64) / 10\n",
    ),
}


def prepare(recipe: str, source: str) -> None:
    Path("mine.py").write_text(HEAD + source)
    Path("own.yaml").write_text(
        f"name: own\ndata: tiny\ncomponents: mine.py\nseeds: 1\n"
        f"recipe: {{epochs: 1, {recipe}, lr: 0.01}}\n"
    )


@pytest.mark.parametrize("case", BROKEN)
def test_what_nobody_could_reproduce_is_refused(workplace, tiny, command, case):
    recipe, source, said = BROKEN[case]
    prepare(recipe, source)
    status, out, err = command("run", "own.yaml", "--device", "cpu", "--trainer", "torch")
    assert status == 2 and said in err, out + err
    assert "mine.py:" in err and "bug" not in err
    assert "to train" not in err


@pytest.mark.parametrize("case", SOUND)
def test_what_is_sound_is_trained(workplace, tiny, command, case):
    prepare(*SOUND[case])
    status, _, err = command("run", "own.yaml", "--device", "cpu", "--trainer", "torch")
    assert status == 0, err


def test_the_component_that_breaks_it_is_named_among_several(workplace, tiny, command):
    _, noisy, _ = BROKEN["noise of numpy"]
    _, sound = SOUND["an init of its generator"]
    prepare("activation: mine, init: mine", sound + noisy)
    status, _, err = command("run", "own.yaml", "--device", "cpu", "--trainer", "torch")
    assert status == 2 and "activation 'mine'" in err and "init 'mine'" not in err
    for kind in ("activation", "init"):
        del registry._components[kind]["mine"]


def test_a_component_that_prints_does_not_break_json(workplace, tiny, command):
    import json

    prepare(
        "activation: mine",
        "print('loading')\n@register('activation')\ndef mine(x):\n    print('called')\n"
        "    return torch.tanh(x)\n",
    )
    status, out, err = command("run", "own.yaml", "--device", "cpu", "--trainer", "torch", "--json")
    assert status == 0 and json.loads(out)["experiment"] == "own"
    assert "called" in err


def test_a_notebook_cell_can_be_run_again(monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)

    def cell(factor):
        def bent(x):
            return factor * x

        bent.__module__ = "__main__"
        return bent

    registry.register("activation")(cell(1))
    registry.register("activation")(cell(2))
    assert registry.get("activation", "bent")(3) == 6
