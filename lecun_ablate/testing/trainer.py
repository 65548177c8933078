"""What every trainer must do, compared with the reference network and a plain autograd loop.

In float64, after every epoch, each parameter must agree with the reference to `TOLERANCE` of its
tensor's largest value, and each loss to the same relative error. The learning rates are low enough
for no combination of components to diverge, because chaos would amplify rounding errors. Divergence
has its own test.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from lecun_ablate.config.recipe import COMPONENT_FIELDS, Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.network import initial
from lecun_ablate.network.curvature import curvature
from lecun_ablate.network.epoch import (
    augmented,
    batches,
    dropout_masks,
    learning_rates,
    steps_of,
)
from lecun_ablate.network.reference import NO_DIGIT, Network
from lecun_ablate.registry import registry
from lecun_ablate.trainers.base import EpochReport, OnEpoch, Run, State, Trainer

Make = Callable[..., Trainer]
Choice = dict[str, Any]  # some fields of a recipe
Parameters = dict[str, NDArray[np.floating[Any]]]
Bits = tuple[Any, ...]

TOLERANCE = 1e-12
SEED = 11


# ---- data -------------------------------------------------------------------------------------


def split(n: int, seed: int) -> Split:
    """Return n noisy copies of ten random pictures, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    pictures = np.random.default_rng(0).uniform(-1, 1, (10, 16, 16))
    images = pictures[labels] + rng.normal(0, 0.3, (n, 16, 16))
    return Split(np.clip(images, -1, 1), labels)


FIT, HELD = split(40, 1), split(25, 2)


# ---- choices: every value alone, and all pairs of values ----------------------------------------

# The fields of a plain step, and those of everything else that a trainer may support. Pairs are #
# tested within each group, so that a trainer that only has plain steps still gets all their pairs.
PLAIN = ("activation", "output_activation", "init", "connectivity", "loss", "target", "order",
         "momentum")  # fmt: skip
INGREDIENTS = ("optimizer", "loss", "schedule", "schedule_per", "augmentation", "batch_size",
               "dropout", "weight_decay", "label_smoothing", "average", "order", "momentum",
               "activation")  # fmt: skip
FIELDS = list(dict.fromkeys((*PLAIN, *INGREDIENTS)))
OTHER_VALUES: dict[str, list[Any]] = {
    "momentum": [0.0, 0.9],
    "schedule_per": ["epoch", "step"],
    "batch_size": [1, 7, 1000],  # 1000 is more than the number of patterns
    "dropout": [0.0, 0.25],
    "weight_decay": [0.0, 0.01],
    "label_smoothing": [0.0, 0.1],
    "average": [0.0, 0.9],
}
# The steps of these optimizers do not shrink with the gradient: a larger eps limits the rounding #
# errors of tiny gradients.
SPELLED = {name: f"{name}(eps=0.01)" for name in ("adam", "adamw", "rmsprop")}
WITH_PARAMETERS = {
    "activation": ["leaky_relu(slope=0.2)"],
    "output_activation": ["leaky_relu(slope=0.2)"],
    "target": ["bipolar(value=0.9)"],
    "optimizer": ["sdlm(estimate=running, gamma=0.1)", "lion(weight_decay=0.1)"],
    "schedule": ["cosine(to=0.1, warmup=0.3)"],
    "augmentation": ["shift(pixels=2, wrap=false)"],
}


def values(field: str) -> list[Any]:
    """Return the tested values of a recipe field: for components, all built-in ones."""
    if field in OTHER_VALUES:
        return OTHER_VALUES[field]
    kind = COMPONENT_FIELDS[field]
    names = [name for name in registry.names(kind) if registry.get(kind, name).builtin]
    return [SPELLED.get(name, name) for name in names] + WITH_PARAMETERS.get(field, [])


def allowed(choice: Choice) -> bool:
    """Return whether a recipe may combine these values."""
    try:
        Recipe(**choice)
    except ValidationError:
        return False
    return True


def all_pairs(fields: Sequence[str], values: Callable[[str], list[Any]]) -> list[Choice]:
    """Return a few choices that contain every allowed pair of values of two fields. Greedy."""
    missing = {
        frozenset({(f, a), (g, b)})
        for f, g in itertools.combinations(fields, 2)
        for a in values(f)
        for b in values(g)
        if allowed({f: a, g: b})
    }
    rows = []
    while missing:
        row = dict(sorted(min(missing, key=lambda pair: sorted(map(str, pair)))))
        for field in fields:
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
ALONE: list[Choice] = [
    *({f: v} for f in FIELDS for v in values(f) if v != DEFAULTS[f]),
    {"init": DEFAULTS["init"]},  # only defaults
]
PAIRS: list[Choice] = all_pairs(PLAIN, values)
MIXES: list[Choice] = all_pairs(
    INGREDIENTS, lambda field: ["tanh", "relu"] if field == "activation" else values(field)
)
EXACT: list[Choice] = [
    {},
    {"momentum": 0.9, "lr": 0.003, "order": "shuffled"},
    {"activation": "gelu", "output_activation": "identity", "loss": "cross_entropy", "lr": 0.01},
    {"activation": "lisht", "connectivity": "random_8", "target": "bipolar", "lr": 0.003},
    {"optimizer": "adamw", "lr": 0.001, "dropout": 0.25, "schedule": "cosine", "average": 0.9},
    {"optimizer": "sdlm", "lr": 0.001, "momentum": 0.5, "augmentation": "shift"},
    {"optimizer": "sdlm(estimate=running)", "lr": 0.001, "weight_decay": 0.01, "batch_size": 7},
    {"optimizer": "lion", "lr": 0.0001, "schedule": "linear", "schedule_per": "step"},
]


def name_of(choice: Choice) -> str:
    """Return a choice's name for use in the name of a test."""
    return "-".join(str(value) for value in choice.values())


RATES = {"adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "lion": 1e-4, "sdlm": 5e-4}


def recipe_of(choice: Choice, **more: Any) -> Recipe:
    """Return a float64 recipe with a learning rate at which the choice does not diverge."""
    lr = RATES.get(str(choice.get("optimizer")).partition("(")[0], 5e-3)
    if choice.get("loss") == "half_sum_squares":
        lr /= 5  # five times mse
    if choice.get("momentum"):
        lr /= 10  # ten steps add up
    # a positive bias, so that the outputs of relu are not all dead
    return Recipe(dtype="float64", lr=lr, output_bias=0.3, **choice, **more)


# ---- the reference ----------------------------------------------------------------------------


@cache
def reference(
    recipe: Recipe, fit_size: int = len(FIT)
) -> list[tuple[Parameters, dict[str, float]]]:
    """Return the parameters, and the mean losses by split, after every epoch of a plain loop."""
    fit = FIT.take(np.arange(fit_size))
    network, scored = Network(recipe, SEED), Network(recipe, SEED)
    weights = list(network.parameters())
    step = _stepper(recipe, network)
    labels, n = torch.from_numpy(fit.labels), len(fit)
    epochs = []
    for epoch in range(1, recipe.epochs + 1):
        images = augmented(recipe, SEED, epoch, torch.from_numpy(fit.images))
        masks = dropout_masks(recipe, SEED, epoch, n)
        order = initial.pattern_order(recipe, SEED, epoch, n)
        rates = learning_rates(recipe, epoch, steps_of(recipe, n))
        for i, places in enumerate(batches(recipe, n)):
            some = order[places]
            kept = None
            if masks is not None:
                kept = torch.from_numpy(masks)[some].double() / (1 - recipe.dropout)
            loss = network.training_loss(images[some], labels[some], kept).mean()
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for w, g in zip(weights, gradients, strict=True):
                    w.grad = g + recipe.weight_decay * w
                step(float(rates[i]), images, labels, some, kept, i == 0)
                for w, mean in zip(weights, scored.parameters(), strict=True):
                    mean.mul_(recipe.average).add_((1 - recipe.average) * w)
        with torch.no_grad():
            losses = {
                name: scored.loss(torch.from_numpy(s.images), torch.from_numpy(s.labels))
                for name, s in {"fit": fit, "held": HELD}.items()
            }
        parameters = {k: w.detach().numpy().copy() for k, w in network.weights.items()}
        epochs.append((parameters, {k: v.mean().item() for k, v in losses.items()}))
    return epochs


def _stepper(recipe: Recipe, network: Network) -> Callable[..., None]:
    """Return a function that takes a step with the gradients in `grad`; torch.optim if it can."""
    optimizer, momentum = recipe.component("optimizer"), recipe.momentum
    p: dict[str, Any] = optimizer.values
    weights = list(network.parameters())
    name = optimizer.name
    if name == "nesterov" and not momentum:
        name = "sgd"
    betas: Any = (p.get("beta1"), p.get("beta2"))
    make: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(weights, momentum=momentum),
        "nesterov": lambda: torch.optim.SGD(weights, momentum=momentum, nesterov=True),
        "adam": lambda: torch.optim.Adam(weights, betas=betas, eps=p["eps"]),
        "adamw": lambda: torch.optim.AdamW(
            weights,
            betas=betas,
            eps=p["eps"],
            weight_decay=p["weight_decay"],
        ),
        "rmsprop": lambda: torch.optim.RMSprop(weights, alpha=p["alpha"], eps=p["eps"]),
    }
    if name in make:
        found = make[name]()

        def by_torch(rate: float, *_: Any) -> None:
            found.param_groups[0]["lr"] = rate
            found.step()

        return by_torch
    kept_state: dict[str, list[torch.Tensor]] = {
        "mean": [torch.zeros_like(w) for w in weights],
        "h": [],
    }

    def lion(rate: float, *_: Any) -> None:
        for w, m in zip(weights, kept_state["mean"], strict=True):
            beta1, beta2, g = float(p["beta1"]), float(p["beta2"]), w.grad
            assert g is not None
            update = torch.sign(beta1 * m + (1 - beta1) * g) + float(p["weight_decay"]) * w
            w.sub_(rate * update)
            m.copy_(beta2 * m + (1 - beta2) * g)

    def estimate(*patterns: Any) -> list[torch.Tensor]:
        found = curvature(network, *patterns)
        return [found[name] for name in network.weights]  # in the order of `weights`

    def sdlm(
        rate: float,
        images: torch.Tensor,
        labels: torch.Tensor,
        some: torch.Tensor,
        kept: torch.Tensor | None,
        begins: bool,
    ) -> None:
        h = kept_state["h"]
        if begins and (p["estimate"] == "pass" or not h):
            first = slice(0, int(p["patterns"]))
            h[:] = estimate(images[first], labels[first])
        if p["estimate"] == "running":
            now = estimate(images[some], labels[some], kept)
            h[:] = [old + float(p["gamma"]) * (new - old) for old, new in zip(h, now, strict=True)]
        for w, v, each in zip(weights, kept_state["mean"], h, strict=True):
            assert w.grad is not None
            v.mul_(momentum).add_(w.grad / (each + float(p["mu"])))
            w.sub_(rate * v)

    return {"lion": lion, "sdlm": sdlm}[name]


def check(trainer: Trainer, recipe: Recipe, fit_size: int = len(FIT)) -> None:
    """Assert that a trainer agrees with the reference after every epoch."""
    supported_or_skip(trainer, recipe)
    fit = FIT.take(np.arange(fit_size))
    expected = reference(recipe, fit_size)
    reports = list(trainer.train([Run(recipe, SEED)], fit, {"fit": fit, "held": HELD}))
    assert [r.epoch for r in reports] == list(range(1, recipe.epochs + 1))
    for report, (parameters, losses) in zip(reports, expected, strict=True):
        assert not report.diverged
        for name, weights in parameters.items():
            error = relative_error(report.state.parameters[name], weights)
            assert error <= TOLERANCE, f"{name} after epoch {report.epoch}: off by {error:.1e}"
        for name, loss in losses.items():
            assert report.scores[name].loss == pytest.approx(loss, rel=TOLERANCE)


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference, relative to the largest expected value."""
    error, scale = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    return error / scale if scale else error


# ---- training -----------------------------------------------------------------------------------


def supported_or_skip(trainer: Trainer, recipe: Recipe) -> None:
    """Skip the test if the trainer does not support a recipe."""
    reason = trainer.unsupported(recipe)
    if reason is not None:
        pytest.skip(f"unsupported: {reason}")


def supported(trainer: Trainer, recipes: Iterable[Recipe]) -> list[Recipe]:
    """Return the recipes that the trainer supports; skip the test if there are none."""
    reasons = [(recipe, trainer.unsupported(recipe)) for recipe in recipes]
    found = [recipe for recipe, reason in reasons if reason is None]
    if not found:
        pytest.skip(f"unsupported: {reasons[0][1]}")
    return found


def train(
    trainer: Trainer,
    runs: Sequence[Run],
    fit: Split = FIT,
    on_epoch: OnEpoch | None = None,
) -> list[list[EpochReport]]:
    """Return the reports of every run."""
    found: list[list[EpochReport]] = [[] for _ in runs]
    for report in trainer.train(runs, fit, {"fit": fit, "held": HELD}, on_epoch):
        found[report.index].append(report)
    return found


def bits(report: EpochReport) -> Bits:
    """Return all numbers of a report except its duration, exactly."""
    scores = [(k, s.loss, s.misses, s.predictions.tobytes()) for k, s in report.scores.items()]
    tensors = {**report.state.parameters, **report.state.optimizer}
    weights = [(name, tensor.dtype, tensor.tobytes()) for name, tensor in tensors.items()]
    return report.epoch, report.diverged, repr(scores), weights


def all_bits(trainer: Trainer, runs: Sequence[Run], fit: Split = FIT) -> list[list[Bits]]:
    """Return the bits of all reports of every run."""
    return [[bits(report) for report in reports] for reports in train(trainer, runs, fit)]


# ---- divergence ---------------------------------------------------------------------------------

FEW = FIT.take(np.arange(3))  # an explosion takes a few steps, and so a few epochs
WIDE: Mapping[str, Any] = {"dtype": "float64", "epochs": 6}
EXPLODING = (("lisht", 0.02), ("identity", 0.02), ("relu", 0.1))  # activation, learning rate


def sound_and_diverging(trainer: Trainer) -> tuple[list[Run], list[Run], list[int]]:
    """Return runs that converge, runs that diverge, and the epochs after which they diverge.

    The last diverging run starts with weights that are not finite.
    """

    @registry.register("init")
    def broken(generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.full(shape, torch.nan, dtype=torch.float64)

    exploding = supported(
        trainer,
        (
            Recipe(**WIDE, activation=activation, output_activation="identity", lr=lr)
            for activation, lr in EXPLODING
        ),
    )
    epochs = []
    for recipe in exploding:
        finite = [
            all(np.isfinite(w).all() for w in parameters.values())
            and np.isfinite(list(losses.values())).all()
            for parameters, losses in reference(recipe, len(FEW))
        ]
        epochs.append(finite.index(False) + 1)
    assert set(epochs) <= {2, 3}
    sick = [Run(recipe, SEED) for recipe in exploding]
    nowhere = Recipe(**WIDE, init="broken")
    if trainer.unsupported(nowhere) is None:
        sick.append(Run(nowhere, 1))
        epochs.append(1)
    recipes = supported(trainer, (Recipe(**WIDE, **choice) for choice in EXACT))
    sound = [Run(recipes[i % len(recipes)], 3) for i in range(len(sick))]
    return sound, sick, epochs


# ---- the suites ---------------------------------------------------------------------------------


class TrainerConformance:
    """What every trainer must do. Subclasses have a fixture `make`."""

    @pytest.fixture
    def make(self) -> Make:
        """Return a factory of trainers, which is called with or without `threads`."""
        raise NotImplementedError("expected a fixture `make` that returns a factory of trainers")

    @pytest.fixture(autouse=True)
    def one_thread_per_operation(self) -> Iterator[None]:
        """Avoid the cost of PyTorch's threads for these tiny tensors."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)

    @pytest.fixture(autouse=True)
    def own_components(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Forget the components that a test registers."""
        copy = {kind: dict(components) for kind, components in registry._components.items()}
        monkeypatch.setattr(registry, "_components", copy)

    # -- agreement with the reference

    def test_the_default_recipe_is_supported(self, make: Make) -> None:
        assert make().unsupported(Recipe()) is None

    @pytest.mark.parametrize("choice", ALONE, ids=name_of)
    def test_every_value_alone(self, make: Make, choice: Choice) -> None:
        check(make(), recipe_of(choice, epochs=1), fit_size=1)
        check(make(), recipe_of(choice, epochs=5))

    @pytest.mark.parametrize("choice", PAIRS, ids=name_of)
    def test_every_pair_of_values_after_one_step(self, make: Make, choice: Choice) -> None:
        check(make(), recipe_of(choice, epochs=1), fit_size=1)

    @pytest.mark.parametrize("choice", PAIRS, ids=name_of)
    def test_every_pair_of_values_after_200_steps(self, make: Make, choice: Choice) -> None:
        check(make(), recipe_of(choice, epochs=5))

    @pytest.mark.parametrize("choice", MIXES, ids=name_of)
    def test_every_pair_of_ingredients(self, make: Make, choice: Choice) -> None:
        check(make(), recipe_of(choice, epochs=2))

    def test_numbers_that_are_no_components(self, make: Make) -> None:
        """Padding, output bias and the fixed seeds."""
        pinned: Choice = {
            "init_seed": 5,
            "order_seed": 6,
            "order": "shuffled",
            "connectivity": "random_8",
        }
        check(make(), Recipe(dtype="float64", padding=0.3, output_bias=0.7, epochs=3, **pinned))

    def test_a_users_init_connectivity_target_and_order(self, make: Make) -> None:
        @registry.register("init")
        def ramp(generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
            n = int(np.prod(shape))
            return torch.linspace(-0.1, 0.1, n, dtype=torch.float64).view(shape)

        @registry.register("connectivity")
        def triangle() -> torch.Tensor:
            return torch.ones(12, 12).tril().bool()

        @registry.register("target")
        def soft(labels: torch.Tensor) -> torch.Tensor:
            return 0.8 * torch.nn.functional.one_hot(labels, 10) + 0.1

        @registry.register("order")
        def backwards(n: int) -> torch.Tensor:
            return torch.arange(n).flip(0)

        users: Choice = {"init": "ramp", "connectivity": "triangle", "target": "soft"}
        check(make(), Recipe(dtype="float64", epochs=2, order="backwards", **users))

    # Measured over ALONE, relative to a tensor's largest value: at most 1.5e-6 and 1.4e-5.
    @pytest.mark.parametrize(("epochs", "fit_size", "bound"), [(1, 1, 5e-6), (5, 40, 5e-5)])
    def test_float32_stays_near_float64(
        self, make: Make, epochs: int, fit_size: int, bound: float
    ) -> None:
        activations = [{"activation": name} for name in values("activation")]
        fit, trainer, compared = FIT.take(np.arange(fit_size)), make(), 0
        for choice in ALONE if fit_size == 1 else activations:
            recipe = recipe_of(choice, epochs=epochs)
            narrow = recipe.model_copy(update={"dtype": "float32"})
            if trainer.unsupported(narrow) is not None:
                continue
            *_, report = make().train([Run(narrow, SEED)], fit, {"fit": fit, "held": HELD})
            parameters, losses = reference(recipe, fit_size)[-1]
            for name, weights in parameters.items():
                error = relative_error(report.state.parameters[name], weights)
                assert error <= bound, f"{name_of(choice)}: {name} is off by {error:.1e}"
            for name, loss in losses.items():
                assert report.scores[name].loss == pytest.approx(loss, rel=bound), name_of(choice)
            compared += 1
        assert compared, "expected a trainer that supports some recipe in float32"

    # -- reports

    def test_reports_come_complete_and_in_order(self, make: Make) -> None:
        runs = [Run(Recipe(epochs=3), 0), Run(Recipe(epochs=5), 1, until=2)]
        runs.append(Run(Recipe(), 2, until=0))
        found = train(make(threads=2), runs)
        assert [[r.epoch for r in reports] for reports in found] == [[1, 2, 3], [1, 2], []]
        last = [[r.last for r in reports] for reports in found]
        assert last == [[False, False, True], [False, True], []]
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

    def test_predictions_are_those_of_the_trained_network(self, make: Make) -> None:
        recipe = Recipe(dtype="float64", epochs=4)
        supported_or_skip(make(), recipe)
        report = train(make(), [Run(recipe, SEED)])[0][-1]
        trained = initial.Start(initial.connectivity(recipe, SEED), report.state.parameters)
        with torch.no_grad():
            outputs = Network(recipe, SEED, trained)(torch.from_numpy(HELD.images))
        digits = outputs.argmax(1).numpy()
        assert len(set(digits)) > 3
        assert (report.scores["held"].predictions == digits).all()

    def test_on_epoch_sees_every_report_and_may_end_a_run(self, make: Make) -> None:
        seen, inside = [], threading.Lock()

        def on_epoch(report: EpochReport) -> bool:
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

    def test_closing_stops_the_training(self, make: Make) -> None:
        calls: list[EpochReport] = []
        runs = [Run(Recipe(epochs=50), seed) for seed in range(8)]
        before = set(threading.enumerate())
        reports = make(threads=2).train(runs, FIT, {}, on_epoch=calls.append)
        next(reports)
        reports.close()  # type: ignore[attr-defined]  # a generator has it
        assert len(calls) < 50 * len(runs)
        assert set(threading.enumerate()) <= before

    def test_an_error_in_one_run_leaves_the_others_to_finish(self, make: Make) -> None:
        @registry.register("target")
        def fails(labels: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("this target gives up")

        runs = [Run(Recipe(target="fails"), 0), Run(Recipe(epochs=2, activation="relu"), 1)]
        for run in runs:
            supported_or_skip(make(), run.recipe)
        seen = []
        with pytest.raises(RuntimeError, match="gives up"):
            for report in make(threads=1).train(runs, FIT, {"fit": FIT}):
                seen.append((report.index, report.epoch, report.last))
        assert seen == [(1, 1, False), (1, 2, True)]

    # -- resuming

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("choice", EXACT, ids=str)
    def test_resuming_changes_nothing(self, make: Make, choice: Choice, dtype: str) -> None:
        recipe = Recipe(**{"dtype": dtype, "epochs": 4, **choice})
        supported_or_skip(make(), recipe)
        whole = train(make(), [Run(recipe, SEED)])[0]
        expected = [bits(report) for report in whole]
        for stop in (1, 3):
            part = train(make(), [Run(recipe, SEED, until=stop)])[0]
            assert [bits(report) for report in part] == expected[:stop]
            rest = all_bits(make(), [Run(recipe, SEED, state=part[-1].state)])[0]
            assert rest == expected[stop:]
            assert bits(part[-1]) == expected[stop - 1], "a state that was handed out has changed"

    def test_resuming_from_the_start(self, make: Make) -> None:
        """A state of epoch 0 is the initial network."""
        recipe = Recipe(dtype="float64", epochs=2, momentum=0.5)
        supported_or_skip(make(), recipe)
        state = State(0, initial.start(recipe, SEED).parameters)
        runs = [Run(recipe, SEED), Run(recipe, SEED, state=state)]
        assert len({repr(run) for run in all_bits(make(), runs)}) == 1

    # -- divergence

    def test_divergence_is_marked_where_it_happens(self, make: Make) -> None:
        sound, sick, epochs = sound_and_diverging(make())
        mixed = [*itertools.chain(*zip(sound, sick, strict=True))]
        with np.errstate(all="ignore"):
            found = train(make(threads=2), mixed, FEW)
        assert not any(report.diverged for reports in found[::2] for report in reports)
        assert [len(reports) for reports in found[1::2]] == epochs
        for reports in found[1::2]:
            assert [r.diverged for r in reports] == [r.last for r in reports]
            assert reports[-1].diverged
        if sick[-1].recipe.init == "broken":
            for score in found[-1][-1].scores.values():
                assert (score.predictions == NO_DIGIT).all()
                assert score.error == 1


class ExactTrainerConformance(TrainerConformance):
    """The same; in addition, a run's bits do not depend on other runs, threads or order."""

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_run_does_not_depend_on_the_others(self, make: Make, dtype: str) -> None:
        """On other runs, their order, its position or the number of threads."""
        choices = ({"dtype": dtype, "epochs": 2, **choice} for choice in EXACT)
        recipes = supported(make(), (Recipe(**choice) for choice in choices))
        runs = [Run(recipe, seed) for seed in range(2) for recipe in recipes]
        together = all_bits(make(threads=2), runs)
        assert all_bits(make(threads=1), runs[::-1]) == together[::-1]
        for i in range(0, len(runs), 3):
            assert all_bits(make(threads=1), [runs[i]]) == [together[i]]
            assert all_bits(make(threads=3), [runs[1], runs[i], runs[i]])[1:] == [together[i]] * 2

    def test_one_split_after_another_leaves_nothing_behind(self, make: Make) -> None:
        """As if each seed drew its own training and test images: same sizes, different content."""
        trainer, runs = make(), [Run(Recipe(epochs=2), SEED)]
        supported_or_skip(trainer, runs[0].recipe)
        rows = np.arange(len(FIT))
        parts = [FIT.take((rows * step) % len(FIT)) for step in (1, 7, 1)]
        found = [all_bits(trainer, runs, part) for part in parts]
        assert found[0] == found[2] != found[1]
        assert found[1] == all_bits(make(), runs, parts[1])

    def test_divergence_harms_no_other_run(self, make: Make) -> None:
        sound, sick, _ = sound_and_diverging(make())
        mixed = [*itertools.chain(*zip(sound, sick, strict=True))]
        with np.errstate(all="ignore"):
            found = all_bits(make(threads=2), mixed, FEW)
        assert found[::2] == all_bits(make(), sound, FEW)
