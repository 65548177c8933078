"""Components of the user's own through the compiled trainers, against plain loops of autograd."""

from functools import partial

import numpy as np
import pytest
import torch
from by_hand import by_hand, split
from cuda_on_cpu import COMPILER, Cpu
from users_components import (
    ACTIVATIONS,
    LOSSES,
    MORE_LOSSES,
    MORE_OPTIMIZERS,
    OPTIMIZERS,
    only_first_fast,
)

from lecun_ablate.compiled import build
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.cuda.compiler import compile_kernels
from lecun_ablate.registry import registry
from lecun_ablate.testing.trainer import bits
from lecun_ablate.trainers import cuda, native
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.cuda import CudaTrainer
from lecun_ablate.trainers.native import NativeTrainer
from lecun_ablate.trainers.torch_trainer import TorchTrainer

if native.availability():
    pytest.skip(native.availability(), allow_module_level=True)
if build.Compiler.find() is None or COMPILER is None:
    pytest.skip(build.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("own_cache")
each = pytest.mark.parametrize
TRAINERS = {"cuda-on-cpu": partial(CudaTrainer, Cpu(), own_components=True)}
for name in native.kernel.INSTRUCTION_SETS:
    TRAINERS[f"native-{name}"] = partial(NativeTrainer, instruction_set=name, own_components=True)
FASTEST = ["cuda-on-cpu", f"native-{native.kernel.INSTRUCTION_SETS[0]}"]
LR = {"heavy_ball": 1e-3, "own_rmsprop": 1e-3, "own_lion": 1e-4, "sign_sgd": 1e-4}


def enter(kind, function):
    registry.register(kind, "own")(function)


def check(trainer, recipe, expected, loss, fit):
    (report,) = TRAINERS[trainer]().train([Run(recipe, 3)], fit, {"train": fit})
    for tensor, found in report.state.parameters.items():
        np.testing.assert_allclose(found, expected[tensor], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(report.scores["train"].loss, loss, rtol=1e-9)


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in TRAINERS if name not in FASTEST]
ON_THE_FASTEST = [(name, trainer) for name in MORE_LOSSES for trainer in FASTEST]


@pytest.mark.slow
@each(("name", "trainer"), ON_THE_FASTEST)
def test_losses_written_in_other_ways_are_those_of_autograd(name, trainer):
    test_losses_are_those_of_autograd(name, trainer)


@each("trainer", [*FASTEST, *OTHERS])
@each("name", LOSSES)
def test_losses_are_those_of_autograd(name, trainer):
    enter("loss", (LOSSES | MORE_LOSSES)[name])
    fit = split(40)
    recipe = Recipe(dtype="float64", epochs=1, lr=0.003, loss="own", label_smoothing=0.1)
    check(trainer, recipe, *by_hand(recipe, 3, fit), fit)


@each("field", only_first_fast(["activation", "output_activation"]))
@each("name", ACTIVATIONS)
def test_activations_of_the_cuda_kernels_are_those_of_autograd(name, field):
    """Those of the native trainer are in test_compiled.py."""
    enter("activation", ACTIVATIONS[name])
    fit = split(20)
    recipe = Recipe(dtype="float64", epochs=1, lr=0.01, **{field: "own"})
    check("cuda-on-cpu", recipe, *by_hand(recipe, 3, fit), fit)


def stepper(name, lr):
    """Return what takes a step by a second implementation of an optimizer."""
    kept, made = {}, {}

    def of_torch(network):
        if not made:
            weights = list(network.parameters())
            made[0] = {
                "heavy_ball": lambda: torch.optim.SGD(weights, lr, momentum=0.9),
                "own_rmsprop": lambda: torch.optim.RMSprop(weights, lr, alpha=0.99, eps=1e-2),
            }[name]()
        made[0].step()

    def lion(network):
        for key, w in network.weights.items():
            m = kept.get(key, torch.zeros_like(w))
            w.sub_(lr * (torch.sign(0.9 * m + 0.1 * w.grad) + 0.01 * w))
            kept[key] = 0.99 * m + 0.01 * w.grad

    def signs(network):
        for w in network.weights.values():
            w.sub_(lr * torch.sign(w.grad))

    return {"own_lion": lion, "sign_sgd": signs}.get(name, of_torch)


@each("trainer", [*FASTEST, *OTHERS])
@each("name", OPTIMIZERS)
def test_optimizers_are_those_of_a_second_implementation(name, trainer):
    enter("optimizer", OPTIMIZERS[name])
    fit, lr = split(40), LR[name]
    momentum = 0.9 if name == "heavy_ball" else 0.0
    recipe = Recipe(dtype="float64", epochs=1, lr=lr, optimizer="own", momentum=momentum)
    check(trainer, recipe, *by_hand(recipe, 3, fit, stepper(name, lr)), fit)


MIXED = {
    "all": {"batch_size": 3, "weight_decay": 0.01, "dropout": 0.25, "average": 0.9},
    "schedule": {"schedule": "cosine", "schedule_per": "step", "connectivity": "random_8"},
}


@each("trainer", FASTEST)
@each("fields", MIXED)
@each("name", OPTIMIZERS | MORE_OPTIMIZERS)
def test_optimizers_are_those_of_the_torch_trainer_with_all_they_keep(name, fields, trainer):
    enter("optimizer", (OPTIMIZERS | MORE_OPTIMIZERS)[name])
    fit = split(20)
    momentum = 0.9 if name == "heavy_ball" else 0.0
    lr = LR.get(name, 1e-3)
    recipe = Recipe(
        dtype="float64", epochs=2, lr=lr, optimizer="own", momentum=momentum, **MIXED[fields]
    )
    runs = [Run(recipe, 1), Run(recipe, 2)]
    states = []
    for each_trainer in (TRAINERS[trainer](), TorchTrainer()):
        reports = [r for r in each_trainer.train(runs, fit, {"fit": fit}) if r.last]
        states.append([r.state for r in sorted(reports, key=lambda r: r.index)])
    for state, expected in zip(*states, strict=True):
        found = state.parameters | state.optimizer
        wanted = expected.parameters | expected.optimizer
        assert found.keys() == wanted.keys()
        for key, value in found.items():
            assert (value.dtype, value.shape) == (wanted[key].dtype, wanted[key].shape)
            if not key.endswith("h2_weight"):  # where some planes are not connected
                np.testing.assert_allclose(value, wanted[key], rtol=1e-9, atol=1e-9)
        seen = found["h2_weight"] != 0
        for key in found:
            if key.endswith("h2_weight"):
                np.testing.assert_allclose(found[key][seen], wanted[key][seen], atol=1e-9)


@each("trainer", FASTEST)
@each("dtype", ["float32", "float64"])
@each("name", ["heavy_ball", "counting_adam", "adam_of_columns", "averaged", "warming_up"])
def test_a_run_is_continued_bit_for_bit(name, dtype, trainer):
    enter("optimizer", (OPTIMIZERS | MORE_OPTIMIZERS)[name])
    enter("loss", LOSSES["focal"])
    enter("activation", ACTIVATIONS["squareplus"])
    fit = split(12, dtype)
    momentum = 0.9 if name == "heavy_ball" else 0.0
    own = {"optimizer": "own", "loss": "own", "activation": "own", "momentum": momentum}
    recipe = Recipe(dtype=dtype, epochs=3, lr=1e-3, **own)
    make = TRAINERS[trainer]
    whole = list(make().train([Run(recipe, 1)], fit, {"fit": fit}))
    rest = list(make().train([Run(recipe, 1, state=whole[0].state)], fit, {"fit": fit}))
    assert [bits(r) for r in rest] == [bits(r) for r in whole[1:]]


@each("trainer", FASTEST)
def test_trainers_with_different_components_work_side_by_side(trainer):
    """Two at once, their reports taken in turns, give what each gives alone."""
    fit = split(12)
    runs = {}
    for name in ("focal", "huber"):
        registry.register("loss", name)(LOSSES[name])
        registry.register("optimizer", name)(
            {"focal": MORE_OPTIMIZERS["counting_adam"], "huber": OPTIMIZERS["sign_sgd"]}[name]
        )
        recipe = Recipe(dtype="float64", epochs=3, lr=1e-3, loss=name, optimizer=name)
        runs[name] = [Run(recipe, seed) for seed in range(3)]

    def reports(name):
        return TRAINERS[trainer](threads=2).train(runs[name], fit, {"fit": fit})

    def ordered(found):
        return [bits(r) for r in sorted(found, key=lambda r: (r.index, r.epoch))]

    alone = {name: ordered(reports(name)) for name in runs}
    together = list(zip(reports("focal"), reports("huber"), strict=True))
    for name, found in zip(runs, zip(*together, strict=True), strict=True):
        assert ordered(found) == alone[name]


@each("trainer", FASTEST)
def test_a_loss_without_a_second_derivative_is_not_for_sdlm(trainer):
    enter("loss", LOSSES["huber"])
    reason = TRAINERS[trainer]().unsupported(Recipe(loss="own", optimizer="sdlm"))
    assert "has no second derivative of loss 'own'" in reason


@each("trainer", FASTEST)
def test_without_own_components_a_trainer_refuses_them(trainer):
    enter("loss", LOSSES["huber"])
    plain = {"cuda-on-cpu": CudaTrainer(Cpu())}.get(trainer, NativeTrainer())
    assert "has no loss 'own'" in plain.unsupported(Recipe(loss="own"))
    assert "compiler" not in plain.identity().stored
    assert TRAINERS[trainer]().identity().stored["compiler"]


DTYPES = ["float32", "float64"] * 3
SOME = list(
    zip(
        DTYPES,
        LOSSES,
        [*OPTIMIZERS] * 2,
        list(ACTIVATIONS)[::4],
        list(ACTIVATIONS)[2::4],
        strict=False,
    )
)


@each(("dtype", "own_loss", "own_optimizer", "hidden", "output"), SOME)
def test_nvrtc_compiles_them(dtype, own_loss, own_optimizer, hidden, output):
    pytest.importorskip("cuda.core", reason="NVIDIA's compiler is not installed")
    registry.register("loss", "own")(LOSSES[own_loss])
    registry.register("optimizer", "own")(OPTIMIZERS[own_optimizer])
    registry.register("activation", "own")(ACTIVATIONS[hidden])
    registry.register("activation", "other")(ACTIVATIONS[output])
    recipe = Recipe(
        dtype=dtype, loss="own", optimizer="own", activation="own", output_activation="other"
    )
    choices = cuda._choices(recipe)
    assert "struct Own" in choices.own
    code = compile_kernels(choices, "sm_90", fresh=True)
    assert len(code.code) > 10_000
