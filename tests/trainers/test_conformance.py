"""What every trainer must do, checked against the reference net and a plain loop of autograd.

A new trainer joins by one line in TRAINERS. The comparison is in float64: after one step and after
200, every parameter must agree to TOLERANCE of its tensor's largest value, and every loss to the
same part of itself. The learning rates are low enough that no combination of components diverges,
so that no rounding is blown up by chaos; what happens at divergence has tests of its own.
"""

import itertools
import threading
from functools import cache, partial

import numpy as np
import pytest
import torch
from cuda_on_cpu import COMPILER, Cpu

from lecun_ablate.config.recipe import COMPONENT_FIELDS, Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.network import initial
from lecun_ablate.network.reference import NO_DIGIT, Network
from lecun_ablate.registry import registry
from lecun_ablate.trainers import native
from lecun_ablate.trainers.base import Run, State
from lecun_ablate.trainers.cuda import CudaTrainer
from lecun_ablate.trainers.native import NativeTrainer
from lecun_ablate.trainers.torch_trainer import TorchTrainer

TRAINERS = {
    "torch": TorchTrainer,
    "torch-on-cuda": partial(TorchTrainer, "cuda"),
    "native": NativeTrainer,
    "cuda": CudaTrainer,
}
if COMPILER:  # the CUDA kernels without a GPU
    TRAINERS["cuda-on-cpu"] = partial(CudaTrainer, Cpu())
if not native.availability():  # on the fastest instruction set of this CPU; on the others too
    for name in native.kernel.INSTRUCTION_SETS[1:]:
        TRAINERS[f"native-{name}"] = partial(NativeTrainer, instruction_set=name)
TOLERANCE = 1e-12
SEED = 11


def names(without: str = "", **marks):
    """Return the names of the trainers as parameters, some of them marked."""
    marks |= {"cuda": pytest.mark.gpu, "torch-on-cuda": pytest.mark.gpu}
    return [pytest.param(n, marks=marks.get(n, ())) for n in TRAINERS if n != without]


# The torch trainer claims the same bits whatever is beside a run on a CPU only: on CUDA, the
# library of matrix products may choose by the size of a batch.
EXACT = names(without="torch-on-cuda")


@pytest.fixture(params=names())
def make(request):
    """What makes each trainer: call it, perhaps with `threads`."""
    if request.param == "native" and native.availability():
        pytest.skip(native.availability())
    return TRAINERS[request.param]


@pytest.fixture(autouse=True)
def one_thread_per_operation():
    """Spare these tiny tensors the cost of handing work to PyTorch's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def split(n: int, seed: int) -> Split:
    """Return noisy versions of ten random pictures, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    pictures = np.random.default_rng(0).uniform(-1, 1, (10, 16, 16))
    images = pictures[labels] + rng.normal(0, 0.3, (n, 16, 16))
    return Split(np.clip(images, -1, 1), labels)


FIT, HELD = split(40, 1), split(25, 2)


# ---- the reference ----------------------------------------------------------------------------


@cache
def reference(recipe: Recipe, fit_size: int = len(FIT)) -> list[tuple[dict, dict]]:
    """Return, for every epoch, the parameters and the mean losses by split: a plain loop."""
    fit = FIT.take(np.arange(fit_size))
    network = Network(recipe, SEED)
    weights = list(network.parameters())
    velocity = [torch.zeros_like(w) for w in weights]
    images, labels = torch.from_numpy(fit.images), torch.from_numpy(fit.labels)
    epochs = []
    for epoch in range(1, recipe.epochs + 1):
        for i in initial.pattern_order(recipe, SEED, epoch, len(fit)).tolist():
            loss = network.loss(images[i : i + 1], labels[i : i + 1]).sum()
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for w, v, g in zip(weights, velocity, gradients, strict=True):
                    v.mul_(recipe.momentum).add_(g)
                    w.sub_(recipe.lr * v)
        with torch.no_grad():
            losses = {
                name: network.loss(torch.from_numpy(s.images), torch.from_numpy(s.labels))
                for name, s in {"fit": fit, "held": HELD}.items()
            }
        parameters = {k: w.detach().numpy().copy() for k, w in network.weights.items()}
        epochs.append((parameters, {k: v.mean().item() for k, v in losses.items()}))
    return epochs


def check(trainer, recipe: Recipe, fit_size: int = len(FIT)) -> None:
    """Assert that a trainer agrees with the reference after every epoch."""
    fit = FIT.take(np.arange(fit_size))
    expected = reference(recipe, fit_size)
    reports = list(trainer.train([Run(recipe, SEED)], fit, {"fit": fit, "held": HELD}))
    assert [r.epoch for r in reports] == list(range(1, recipe.epochs + 1))
    for report, (parameters, losses) in zip(reports, expected, strict=True):
        assert not report.diverged
        for name, weights in parameters.items():
            error = np.abs(report.state.parameters[name] - weights).max() / np.abs(weights).max()
            assert error <= TOLERANCE, f"{name} after epoch {report.epoch}: off by {error:.1e}"
        for name, loss in losses.items():
            assert report.scores[name].loss == pytest.approx(loss, rel=TOLERANCE)


# ---- every value alone, and all pairs of values ------------------------------------------------


def values(field: str) -> list:
    if field == "momentum":
        return [0.0, 0.9]
    return registry.names(COMPONENT_FIELDS[field])


FIELDS = [*COMPONENT_FIELDS, "momentum"]


def allowed(choice: dict) -> bool:
    return (choice.get("loss"), choice.get("target")) != ("cross_entropy", "bipolar")


def recipe_of(choice: dict, **more) -> Recipe:
    """Return a float64 recipe whose learning rate suits the choice: no combination diverges."""
    lr = 5e-3
    if choice.get("loss") == "half_sum_squares":
        lr /= 5  # five times mse
    if choice.get("momentum"):
        lr /= 10  # ten steps add up
    # a positive bias, so that relu outputs are not all dead
    return Recipe(dtype="float64", lr=lr, output_bias=0.3, **choice, **more)


def all_pairs() -> list[dict]:
    """Return few choices that hold every allowed pair of values of two fields, greedily."""
    missing = {
        frozenset({(f, a), (g, b)})
        for f, g in itertools.combinations(FIELDS, 2)
        for a in values(f)
        for b in values(g)
        if allowed({f: a, g: b})
    }
    rows = []
    while missing:
        row = dict(sorted(min(missing, key=lambda pair: sorted(map(str, pair)))))
        for field in FIELDS:
            if field in row:
                continue

            fitting = [v for v in values(field) if allowed({**row, field: v})]
            gains = [
                sum(frozenset({(field, v), other}) in missing for other in row.items())
                for v in fitting
            ]
            row[field] = fitting[gains.index(max(gains))]
        missing -= {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}
        rows.append(row)
    return rows


DEFAULTS = {field: Recipe.model_fields[field].default for field in FIELDS}
ALONE = [{f: v} for f in FIELDS for v in values(f) if v != DEFAULTS[f]] + [{"init": "sqrt_fan_in"}]
PAIRS = all_pairs()


def name_of(choice: dict) -> str:
    return "-".join(str(value) for value in choice.values())


def test_the_pairs_are_all_pairs():
    held = {frozenset(pair) for row in PAIRS for pair in itertools.combinations(row.items(), 2)}
    for f, g in itertools.combinations(FIELDS, 2):
        for a, b in itertools.product(values(f), values(g)):
            assert (frozenset({(f, a), (g, b)}) in held) == allowed({f: a, g: b}), (f, a, g, b)


@pytest.mark.parametrize("choice", ALONE, ids=name_of)
def test_every_value_alone(make, choice):
    check(make(), recipe_of(choice, epochs=1), fit_size=1)
    check(make(), recipe_of(choice, epochs=5))


@pytest.mark.parametrize("choice", PAIRS, ids=name_of)
def test_every_pair_of_values_after_one_step(make, choice):
    check(make(), recipe_of(choice, epochs=1), fit_size=1)


@pytest.mark.parametrize("choice", PAIRS, ids=name_of)
@pytest.mark.parametrize("make", names(torch=pytest.mark.slow), indirect=True)
def test_every_pair_of_values_after_200_steps(make, choice):
    check(make(), recipe_of(choice, epochs=5))


def test_numbers_that_are_no_components(make):
    """Padding, output bias and the pinned seeds."""
    pinned = {"init_seed": 5, "order_seed": 6, "order": "shuffled", "connectivity": "random_8"}
    check(make(), Recipe(dtype="float64", padding=0.3, output_bias=0.7, epochs=3, **pinned))


def test_a_users_init_connectivity_target_and_order(make):
    @registry.register("init")
    def ramp(generator, shape):
        return torch.linspace(-0.1, 0.1, int(np.prod(shape)), dtype=torch.float64).view(shape)

    @registry.register("connectivity")
    def triangle():
        return torch.ones(12, 12).tril().bool()

    @registry.register("target")
    def soft(labels):
        return 0.8 * torch.nn.functional.one_hot(labels, 10) + 0.1

    @registry.register("order")
    def backwards(n):
        return torch.arange(n).flip(0)

    users = {"init": "ramp", "connectivity": "triangle", "target": "soft", "order": "backwards"}
    check(make(), Recipe(dtype="float64", epochs=2, **users))


# ---- reports ----------------------------------------------------------------------------------


def bits(report) -> tuple:
    """Return all numbers of a report but its duration, exactly."""
    scores = [(k, s.loss, s.misses, s.predictions.tobytes()) for k, s in report.scores.items()]
    tensors = {**report.state.parameters, **report.state.optimizer}
    weights = [(name, tensor.dtype, tensor.tobytes()) for name, tensor in tensors.items()]
    return report.epoch, report.diverged, repr(scores), weights


def train(trainer, runs, fit=FIT, on_epoch=None) -> list[list]:
    """Return the reports of every run."""
    found = [[] for _ in runs]
    for report in trainer.train(runs, fit, {"fit": fit, "held": HELD}, on_epoch):
        found[report.index].append(report)
    return found


def all_bits(trainer, runs, fit=FIT) -> list[list[tuple]]:
    return [[bits(report) for report in reports] for reports in train(trainer, runs, fit)]


def test_reports_come_complete_and_in_order(make):
    runs = [Run(Recipe(epochs=3), 0), Run(Recipe(epochs=5), 1, until=2), Run(Recipe(), 2, until=0)]
    found = train(make(threads=2), runs)
    assert [[r.epoch for r in reports] for reports in found] == [[1, 2, 3], [1, 2], []]
    assert [[r.last for r in reports] for reports in found] == [
        [False, False, True],
        [False, True],
        [],
    ]
    for report in itertools.chain(*found):
        assert list(report.scores) == ["fit", "held"]
        assert report.seconds > 0
        assert report.state.epoch == report.epoch
        assert {k: v.shape for k, v in report.state.parameters.items()} == initial.SHAPES
        assert {v.dtype for v in report.state.parameters.values()} == {np.dtype("float32")}
        for score, part in zip(report.scores.values(), (FIT, HELD), strict=True):
            assert score.predictions.dtype == np.uint8
            assert score.misses == (score.predictions != part.labels).sum()
    assert list(make().train([], FIT, {"fit": FIT})) == []


def test_predictions_are_those_of_the_trained_network(make):
    recipe = Recipe(dtype="float64", epochs=4)
    report = train(make(), [Run(recipe, SEED)])[0][-1]
    network = Network(
        recipe, SEED, initial.Start(initial.connectivity(recipe, SEED), report.state.parameters)
    )
    with torch.no_grad():
        digits = network(torch.from_numpy(HELD.images)).argmax(1).numpy()
    assert len(set(digits)) > 3
    assert (report.scores["held"].predictions == digits).all()


def test_on_epoch_sees_every_report_and_may_end_a_run(make):
    seen, inside = [], threading.Lock()

    def on_epoch(report):
        assert inside.acquire(blocking=False), "two calls at once"
        seen.append((report.index, report.epoch))
        inside.release()
        return report.index == 1 and report.epoch == 2

    runs = [Run(Recipe(epochs=4), seed) for seed in range(3)]
    found = train(make(threads=2), runs, on_epoch=on_epoch)
    assert [len(reports) for reports in found] == [4, 2, 4]
    assert found[1][-1].last
    assert not found[1][-1].diverged
    assert sorted(seen) == [(r.index, r.epoch) for reports in found for r in reports]


def test_closing_stops_the_training(make):
    calls = []
    runs = [Run(Recipe(epochs=50), seed) for seed in range(8)]
    reports = make(threads=2).train(runs, FIT, {}, on_epoch=calls.append)
    next(reports)
    reports.close()
    assert len(calls) < 50 * len(runs)
    assert not [t.name for t in threading.enumerate() if "trainer" in t.name]


def test_an_error_in_one_run_leaves_the_others_to_finish(make):
    @registry.register("target")
    def fails(labels):
        raise RuntimeError("this target gives up")

    runs = [Run(Recipe(target="fails"), 0), Run(Recipe(epochs=2, activation="relu"), 1)]
    seen = []
    with pytest.raises(RuntimeError, match="gives up"):
        for report in make(threads=1).train(runs, FIT, {"fit": FIT}):
            seen.append((report.index, report.epoch, report.last))
    assert seen == [(1, 1, False), (1, 2, True)]


# ---- exactness --------------------------------------------------------------------------------

RECIPES = [
    {},
    {"momentum": 0.9, "lr": 0.003, "order": "shuffled"},
    {"activation": "gelu", "output_activation": "identity", "loss": "cross_entropy", "lr": 0.01},
    {"activation": "lisht", "connectivity": "random_8", "target": "bipolar", "lr": 0.003},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", EXACT, indirect=True)
def test_a_run_does_not_depend_on_the_others(make, dtype):
    """On other runs beside it, their order, its place or the number of threads: bit for bit."""
    runs = [Run(Recipe(dtype=dtype, epochs=2, **r), seed) for seed in range(2) for r in RECIPES]
    together = all_bits(make(threads=2), runs)
    assert all_bits(make(threads=1), runs[::-1]) == together[::-1]
    for i in (0, 3, 6):
        assert all_bits(make(threads=1), [runs[i]]) == [together[i]]
        assert all_bits(make(threads=3), [runs[1], runs[i], runs[i]])[1:] == [together[i]] * 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("choice", RECIPES, ids=str)
def test_resuming_changes_nothing(make, choice, dtype):
    recipe = Recipe(dtype=dtype, epochs=4, **choice)
    whole = train(make(), [Run(recipe, SEED)])[0]
    expected = [bits(report) for report in whole]
    for stop in (1, 3):
        part = train(make(), [Run(recipe, SEED, until=stop)])[0]
        assert [bits(report) for report in part] == expected[:stop]
        rest = all_bits(make(), [Run(recipe, SEED, state=part[-1].state)])[0]
        assert rest == expected[stop:]
        assert bits(part[-1]) == expected[stop - 1], "a state that was handed out has changed"


def test_resuming_from_the_start(make):
    """A state of epoch 0 is the initial network."""
    recipe = Recipe(dtype="float64", epochs=2, momentum=0.5)
    state = State(0, initial.start(recipe, SEED).parameters)
    runs = [Run(recipe, SEED), Run(recipe, SEED, state=state)]
    assert len({repr(run) for run in all_bits(make(), runs)}) == 1


# Measured, of a tensor's largest value, over ALONE: at most 1.5e-6 and 1.4e-5.
@pytest.mark.parametrize(("epochs", "fit_size", "bound"), [(1, 1, 5e-6), (5, 40, 5e-5)])
def test_float32_stays_near_float64(make, epochs, fit_size, bound):
    choices = ALONE if fit_size == 1 else [{"activation": name} for name in values("activation")]
    fit = FIT.take(np.arange(fit_size))
    for choice in choices:
        recipe = recipe_of(choice, epochs=epochs)
        narrow = recipe.model_copy(update={"dtype": "float32"})
        *_, report = make().train([Run(narrow, SEED)], fit, {"fit": fit, "held": HELD})
        parameters, losses = reference(recipe, fit_size)[-1]
        for name, weights in parameters.items():
            error = np.abs(report.state.parameters[name] - weights).max() / np.abs(weights).max()
            assert error <= bound, f"{name_of(choice)}: {name} is off by {error:.1e}"
        for name, loss in losses.items():
            assert report.scores[name].loss == pytest.approx(loss, rel=bound), name_of(choice)


# ---- divergence -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", EXACT, indirect=True)
def test_divergence_is_marked_where_it_happens_and_harms_no_other_run(make):
    @registry.register("init")
    def broken(generator, shape):
        return torch.full(shape, torch.nan, dtype=torch.float64)

    few = FIT.take(np.arange(3))  # an explosion takes a few steps, so a few epochs
    wide = {"dtype": "float64", "epochs": 6}
    sound = [Run(Recipe(**wide, **choice), 3) for choice in RECIPES]
    exploding = [
        Recipe(**wide, activation=activation, output_activation="identity", lr=lr)
        for activation, lr in (("lisht", 0.02), ("identity", 0.02), ("relu", 0.1))
    ]
    sick = [*(Run(recipe, SEED) for recipe in exploding), Run(Recipe(**wide, init="broken"), 1)]
    mixed = [*itertools.chain(*zip(sound, sick, strict=True))]
    with np.errstate(all="ignore"):
        found = train(make(threads=2), mixed, few)
        happens = []  # in the reference
        for recipe in exploding:
            finite = [
                all(np.isfinite(w).all() for w in parameters.values())
                and np.isfinite(list(losses.values())).all()
                for parameters, losses in reference(recipe, len(few))
            ]
            happens.append(finite.index(False) + 1)
    assert [[bits(r) for r in reports] for reports in found[::2]] == all_bits(make(), sound, few)
    assert not any(report.diverged for reports in found[::2] for report in reports)
    assert set(happens) == {2, 3}
    assert [len(reports) for reports in found[1::2]] == [*happens, 1]
    for reports in found[1::2]:
        assert [r.diverged for r in reports] == [r.last for r in reports]
        assert reports[-1].diverged
    for score in found[-1][-1].scores.values():
        assert (score.predictions == NO_DIGIT).all()
        assert score.error == 1
