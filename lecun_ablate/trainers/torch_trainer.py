"""The torch trainer: many replicas at once, with autograd; any component, CPU or CUDA.

Replicas that share their operations (activation, loss, ...) form a group and differ only in data:
seed, learning rate, weights, connectivity, targets, order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError
from lecun_ablate.network.epoch import (
    augmented,
    batches,
    dropout_masks,
    learning_rates,
    smoothed,
    steps_of,
)
from lecun_ablate.network.reference import NO_DIGIT
from lecun_ablate.system.cores import usable_cores
from lecun_ablate.trainers.base import (
    AVERAGE,
    CURVATURE,
    EpochReport,
    Identity,
    OnEpoch,
    Run,
    Scores,
    State,
)
from lecun_ablate.trainers.download import download
from lecun_ablate.trainers.orders import Orders
from lecun_ablate.trainers.shared import begin, epoch_report
from lecun_ablate.trainers.torch_network import LAYOUT, Net, Workspace, image_windows
from lecun_ablate.trainers.workers import Finish, Job, reports_of

GROUP = {"float32": 32, "float64": 16}  # replicas whose working set stays in a CPU's cache
CUDA_GROUP = 512  # a GPU's time for a step grows less than the replicas
# Replicas and images of one pass of evaluation: on a CPU one replica alone, so that its numbers
# cannot depend on the others.
EVALUATED_TOGETHER = {"cpu": (1, 128), "cuda": (32, 512)}
WARM_UP, GRAPH_STEPS = 3, 20  # steps before a CUDA graph is captured, and steps in it
# the fields that decide a group's operations; all the others are data
OPERATIONS = (
    "activation",
    "output_activation",
    "loss",
    "optimizer",
    "momentum",
    "order",
    "dtype",
    "padding",
    "batch_size",
    "augmentation",
    "dropout",
    "weight_decay",
    "average",
)
CURVATURE_ARITY = 6  # of an optimizer that takes it
CHUNK = 64  # patterns of a batch whose gradients are computed at once


class TorchTrainer:
    """Trains any recipe with PyTorch's autograd, on `device`, groups of replicas on all cores.

    On CUDA, `graph_steps` are replayed as one graph; with 0, each step is launched by itself.
    """

    name = "torch"
    numerics = 2
    cuda_numerics = 3

    def __init__(
        self, device: str = "cpu", threads: int | None = None, graph_steps: int = GRAPH_STEPS
    ):
        self.device = device
        self.graph_steps = graph_steps
        self.threads = threads or usable_cores()
        self.together = GROUP["float32"] if device == "cpu" else CUDA_GROUP

    def identity(self) -> Identity:
        """Return what about the trainer decides a run's numbers; see trainers.base."""
        if self.device == "cpu":
            chip = torch.backends.cpu.get_cpu_capability().lower()
        else:
            chip = "sm_{}{}".format(*torch.cuda.get_device_capability())
        numerics = self.numerics if self.device == "cpu" else self.cuda_numerics
        return Identity(self.name, self.device, chip, numerics)

    def unsupported(self, recipe: Recipe) -> str | None:
        """Return None: there is no recipe that this trainer cannot train."""
        return None

    def train(
        self,
        runs: Sequence[Run],
        fit: Split,
        evaluate: Mapping[str, Split],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[EpochReport]:
        """Train `runs` as trainers.base.Trainer.train says, groups of like runs in parallel."""
        splits = _Splits(fit, dict(evaluate), torch.device(self.device))

        def job(members: list[int]) -> Job:
            def work(finish: Finish) -> None:
                torch.set_num_threads(1)  # the groups are the parallelism
                _train_group([runs[i] for i in members], members, splits, self.graph_steps, finish)

            return work

        on_cpu = self.device == "cpu"
        threads = self.threads if on_cpu else 1
        groups = _groups(runs, threads, GROUP if on_cpu else dict.fromkeys(GROUP, CUDA_GROUP))
        yield from reports_of(list(map(job, groups)), threads, on_epoch, "torch-trainer")


def _groups(runs: Sequence[Run], threads: int, most: Mapping[str, int] = GROUP) -> list[list[int]]:
    """Split runs into groups of like operations, small enough for the cache and for the cores.

    `most` is how many replicas a group may have, by dtype.
    """
    alike: dict[Any, list[int]] = {}
    for index, run in enumerate(runs):
        operations = tuple(getattr(run.recipe, field) for field in OPERATIONS)
        alike.setdefault((operations, run.first_epoch, run.last_epoch), []).append(index)
    groups = []
    for members in alike.values():
        recipe = runs[members[0]].recipe
        largest = most[recipe.dtype]
        if most is GROUP and (recipe.batch_size > 1 or _estimate(recipe) == "running"):
            largest = 1  # products of several patterns round by the number of replicas
        share = -(-len(runs) // threads)  # so that one big group does not leave cores idle
        size = max(1, min(largest, max(8, share)))
        parts = -(-len(members) // size)
        groups += [part.tolist() for part in np.array_split(members, parts)]
    return sorted(groups, key=len, reverse=True)


def _estimate(recipe: Recipe) -> str | None:
    """Return how the recipe's optimizer has its curvature estimated; None if it takes none.

    A user's own optimizer may have parameters of the same names as sdlm.
    """
    optimizer = recipe.component("optimizer")
    if optimizer.arity < CURVATURE_ARITY:
        return None
    return str(optimizer.values.get("estimate", "pass"))


class _Splits:
    """The splits on the device, each prepared once per dtype and padding value."""

    def __init__(self, fit: Split, evaluate: dict[str, Split], device: torch.device):
        self.fit = fit
        self.evaluate = evaluate
        self.device = device
        self._cache: dict[Any, Tensor] = {}
        self._lock = threading.Lock()

    def windows(self, split: Split, recipe: Recipe) -> Tensor:
        """Return what the units of H1 see of each image, (n, 64, 25)."""

        def make() -> Tensor:
            return image_windows(self.images(split, recipe).to(self.device), recipe.padding)

        return self._once((id(split), recipe.dtype, recipe.padding), make)

    def images(self, split: Split, recipe: Recipe) -> Tensor:
        """Return the images, (n, 16, 16), on the host."""
        return torch.tensor(split.images, dtype=getattr(torch, recipe.dtype))

    def labels(self, split: Split) -> Tensor:
        """Return the labels, (n,) int64."""
        return self._once(id(split), lambda: torch.tensor(split.labels, device=self.device))

    def _once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = make()
            return self._cache[key]


def _digits(outputs: Tensor) -> Tensor:
    """Return the digit of the largest output, as network.predictions does, on the device."""
    digits = outputs.argmax(-1).to(torch.uint8)
    return digits.masked_fill(~outputs.isfinite().all(-1), NO_DIGIT)


class _Group:
    """Replicas that one sequence of operations advances together."""

    def __init__(self, runs: Sequence[Run], splits: _Splits, graph_steps: int = GRAPH_STEPS):
        self.runs = runs
        self.splits = splits
        self.recipe = recipe = runs[0].recipe
        # a user's optimizer may keep its state in new tensors, which a graph would not know
        self.optimizer = recipe.component("optimizer")
        self.graph_steps = graph_steps if self.optimizer.builtin else 0
        self.dtype = getattr(torch, recipe.dtype)
        device = splits.device
        rows = np.zeros((len(runs), LAYOUT.width), dtype=recipe.dtype)
        optimizer: dict[str, np.ndarray] = {}
        numbers: dict[str, Any] = {}
        seen = []
        for row, run in zip(rows, runs, strict=True):
            connected, state = begin(run)
            seen.append(connected)
            LAYOUT.pack(state.parameters, row)
        for i, run in enumerate(runs):
            for key, value in (run.state.optimizer if run.state else {}).items():
                slot, *rest = key.split("/", 1)
                if not value.ndim:  # a number of all replicas, such as a step count
                    numbers[slot] = value.item()
                    continue
                if not rest:  # one number of each
                    table = optimizer.setdefault(slot, np.zeros((len(runs), 1), value.dtype))
                    table[i] = value
                    continue
                (name,) = rest
                table = optimizer.setdefault(slot, np.zeros_like(rows))
                LAYOUT.pack({name: value}, table[i])
        self.weights = torch.from_numpy(rows).to(device)  # (R, width)
        held = {slot: torch.from_numpy(v).to(device) for slot, v in optimizer.items()}
        self.extra = {slot: held.pop(slot) for slot in (AVERAGE, CURVATURE) if slot in held}
        self.state: dict[str, Any] = held | numbers  # the optimizer's own
        if recipe.average and AVERAGE not in self.extra:
            self.extra[AVERAGE] = self.weights.clone()
        self.lr = self._column([run.recipe.lr for run in runs])  # (R, 1)
        self.connected = torch.from_numpy(np.stack(seen)).to(device, self.dtype)[:, :, None]
        codes = [run.recipe.component("target")(torch.arange(10)) for run in runs]
        self.codes = torch.stack(codes).to(device, self.dtype)  # (R, 10 labels, 10 outputs)
        wanted = [smoothed(run.recipe, c) for run, c in zip(runs, codes, strict=True)]
        self.wanted = torch.stack(wanted).to(device, self.dtype)  # the same, for training
        self.estimate = _estimate(recipe)
        self._prepare()

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(self.splits.device, self.dtype)[:, None]

    def _prepare(self) -> None:
        """Make what follows from the replicas' tensors."""
        self.space = Workspace(self.weights)
        self.net = Net(self.weights, self.connected, self.recipe, self.space)
        self.gradients = torch.zeros_like(self.weights)
        self.gradient_views = LAYOUT.views(self.gradients)
        self.part = torch.zeros_like(self.weights)  # of a batch, or one step's curvature
        self.part_views = LAYOUT.views(self.part)
        self.orders = Orders(self.runs, len(self.splits.fit.labels))
        self.presentation: _Presentation | None = None

    def step(self, windows: Tensor, targets: Tensor) -> None:
        """Present one pattern to every replica; windows: (R or 1, 64, 25), targets: (R, 10)."""
        self._step(windows[:, None], targets[:, None], None)

    def _step(self, windows: Tensor, targets: Tensor, kept: Tensor | None) -> None:
        """Take one step with a batch of p patterns for every replica.

        windows: (R or 1, p, 64, 25); targets: (R, p, 10); kept: (R, p, 192), see Net.forward.
        """
        n, first = targets.shape[1], slice(0, CHUNK)
        masks = kept[:, first] if kept is not None else None
        self.net.gradients(windows[:, first], targets[:, first], self.gradient_views, masks)
        with torch.no_grad():
            for at in range(CHUNK, n, CHUNK):
                some = slice(at, at + CHUNK)
                masks = kept[:, some] if kept is not None else None
                with torch.enable_grad():
                    self.net.gradients(windows[:, some], targets[:, some], self.part_views, masks)
                self.gradients.add_(self.part)
            if n > 1:
                self.gradients.div_(n)
            if self.recipe.weight_decay:
                self.gradients.add_(self.weights, alpha=self.recipe.weight_decay)
            if self.estimate == "running":
                self._sum_curvature(self.net, self.part, windows, targets, kept)
                h, gamma = self.extra[CURVATURE], float(self.optimizer.values.get("gamma", 0.002))
                h.add_(self.part.div_(n).sub_(h), alpha=gamma)
            self.optimizer(
                self.weights,
                self.gradients,
                self.state,
                self.lr,
                self.recipe.momentum,
                self.extra.get(CURVATURE),
            )
            if self.recipe.average:
                average = self.extra[AVERAGE].mul_(self.recipe.average)
                average.add_(self.weights, alpha=1 - self.recipe.average)

    def _sum_curvature(
        self, net: Net, into: Tensor, windows: Tensor, targets: Tensor, kept: Tensor | None
    ) -> None:
        """Write the sum over the patterns of h, a chunk of them at a time."""
        into.zero_()
        part = torch.zeros_like(into)
        for at in range(0, targets.shape[1], CHUNK):
            some = slice(at, at + CHUNK)
            masks = kept[:, some] if kept is not None else None
            net.curvature(windows[:, some], targets[:, some], LAYOUT.views(part), masks)
            into.add_(part)

    def _estimate_curvature(self, windows: Sequence[Tensor]) -> None:
        """Estimate every replica's curvature from the first of its images, (1, n, 64, 25) each."""
        patterns = int(self.optimizer.values.get("patterns", 500))
        labels = self.splits.labels(self.splits.fit)[:patterns]
        h = self.extra.setdefault(CURVATURE, torch.zeros_like(self.weights))
        for i, seen in enumerate(windows):  # one by one, so that no replica depends on others
            some = slice(i, i + 1)
            net = Net(self.weights[some], self.connected[some], self.recipe, self.space)
            targets = self.wanted[some][:, labels]
            self._sum_curvature(net, h[some], seen[:, :patterns], targets, None)
        h.div_(len(labels))

    def epoch(self, epoch: int) -> None:
        """Present every pattern of the fit split once."""
        splits, recipe, device = self.splits, self.recipe, self.splits.device
        n, replicas = len(splits.fit), range(len(self.runs))
        orders, rows = self.orders.take(epoch, replicas)
        windows, labels = splits.windows(splits.fit, recipe), splits.labels(splits.fit)
        images = self._images(epoch)
        steps = [learning_rates(run.recipe, epoch, steps_of(recipe, n)) for run in self.runs]
        rates = torch.from_numpy(np.stack(steps, 1)).to(device, self.dtype)  # (steps, R)
        changing = bool(n) and bool((rates != rates[:1]).any())
        if n:
            self.lr.copy_(rates[0][:, None])
        if self.estimate == "pass" or (self.estimate and CURVATURE not in self.extra):
            self._estimate_curvature(
                [windows[None]] * len(self.runs)
                if images is None
                else [image_windows(own, recipe.padding)[None] for own in images]
            )
        masks = self._masks(epoch)
        plain = recipe.batch_size == 1 and images is None and masks is None and not changing
        if labels.is_cuda and plain:
            self.presentation = self.presentation or _Presentation(self)
            on_device = (torch.from_numpy(array).to(device) for array in (orders, rows))
            self.presentation.epoch(self, *on_device)
            return
        replica = torch.arange(len(self.runs), device=device)[:, None]
        shared = len(orders) == 1 and images is None  # all replicas see the same pattern
        order = torch.from_numpy(orders if shared else orders[rows]).to(device)  # (1 or R, n)
        for i, places in enumerate(batches(recipe, n)):
            patterns = order[:, places]  # (1 or R, p)
            if images is None:
                seen = windows[patterns]
            else:
                shown = images[replica, patterns].flatten(0, 1)
                seen = image_windows(shown, recipe.padding).unflatten(0, patterns.shape)
            kept = masks[replica, patterns].to(self.dtype) if masks is not None else None
            if kept is not None:
                kept /= 1 - recipe.dropout
            if changing:
                self.lr.copy_(rates[i][:, None])
            self._step(seen, self.wanted[replica, labels[patterns]], kept)

    def _images(self, epoch: int) -> Tensor | None:
        """Return the images that an epoch presents to each replica, (R, n, 16, 16).

        None if there is no augmentation.
        """
        if self.recipe.augmentation == "none":
            return None
        images = self.splits.images(self.splits.fit, self.recipe)
        each = [augmented(run.recipe, run.seed, epoch, images) for run in self.runs]
        return torch.stack(each).to(self.splits.device)

    def _masks(self, epoch: int) -> Tensor | None:
        """Return which of H3's inputs each pattern keeps in an epoch, (R, n, 192) bool."""
        n = len(self.splits.fit)
        each = [dropout_masks(run.recipe, run.seed, epoch, n) for run in self.runs]
        kept = [torch.from_numpy(mask) for mask in each if mask is not None]
        return torch.stack(kept).to(self.splits.device) if kept else None

    def keep(self, replicas: Sequence[int]) -> _Group:
        """Return a group of some of the replicas, as they are now."""
        group = object.__new__(_Group)
        group.__dict__.update(self.__dict__)
        group.runs = [self.runs[replica] for replica in replicas]
        for field in ("weights", "lr", "connected", "codes", "wanted"):
            setattr(group, field, getattr(self, field)[list(replicas)].clone())
        group.state = {
            slot: value[list(replicas)].clone() if isinstance(value, Tensor) else value
            for slot, value in self.state.items()
        }
        group.extra = {slot: value[list(replicas)].clone() for slot, value in self.extra.items()}
        group._prepare()
        return group

    def results(self, epoch: int) -> list[tuple[State, dict[str, Scores]]]:
        """Evaluate all replicas; return their states and scores, fetched in one wait."""
        self._check_state()
        names = list(self.splits.evaluate)
        answers = [tensor for name in names for tensor in self._answers(name)]
        numbers = {s: np.array(v) for s, v in self.state.items() if isinstance(v, int | float)}
        kept = {s: v for s, v in self.state.items() if s not in numbers} | self.extra
        if self.estimate == "pass":
            del kept[CURVATURE]  # estimated anew before every epoch
        weights, *rest = download([self.weights, *answers, *kept.values()])
        tables = dict(zip(kept, rest[len(answers) :], strict=True))
        found = []
        for i in range(len(self.runs)):
            optimizer = dict(numbers)
            for slot, table in tables.items():
                if table.shape[1] == 1:
                    optimizer[slot] = table[i].copy()
                    continue
                for name, value in LAYOUT.unpack(table[i]).items():
                    optimizer[f"{slot}/{name}"] = value
            state = State(epoch, LAYOUT.unpack(weights[i]), optimizer)
            scores = {}
            for name, digits, losses in zip(names, rest[0::2], rest[1::2], strict=False):
                labels = self.splits.evaluate[name].labels
                misses = int((digits[i] != labels).sum())
                scores[name] = Scores(float(losses[i]), misses, len(labels), digits[i].copy())
            found.append((state, scores))
        return found

    def _check_state(self) -> None:
        """Raise ConfigError if a user's optimizer keeps what cannot be stored."""
        weights = tuple(self.weights.shape)
        shapes = (weights, (weights[0], 1))
        for slot, value in self.state.items():
            it = f"{self.optimizer.origin}: optimizer {self.optimizer.name!r}: state[{slot!r}]"
            if not isinstance(slot, str) or "/" in slot or slot in (AVERAGE, CURVATURE):
                raise ConfigError(
                    f"{it}: expected a name without a slash, and neither {AVERAGE!r} nor "
                    f"{CURVATURE!r}, which the trainer uses itself"
                )
            if isinstance(value, int | float):  # one number for all
                continue
            if not isinstance(value, Tensor) or tuple(value.shape) not in shapes:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise ConfigError(
                    f"{it}: expected a number, or a tensor of shape (replicas, weights), here "
                    f"{weights}, or (replicas, 1), here {shapes[1]}, got {got}"
                )

    @torch.no_grad()
    def _answers(self, name: str) -> tuple[Tensor, Tensor]:
        """Return each replica's digits, (R, n) uint8, and mean loss, (R,) float64, on a split."""
        splits, recipe = self.splits, self.recipe
        split = splits.evaluate[name]
        weights = self.extra.get(AVERAGE, self.weights)
        at_once, images = EVALUATED_TOGETHER[splits.device.type]
        parts = list(
            zip(
                splits.windows(split, recipe).split(images),
                splits.labels(split).split(images),
                strict=True,
            )
        )
        digits, losses = [], []
        for first in range(0, len(self.runs), at_once):
            some = slice(first, first + at_once)
            net = Net(weights[some], self.connected[some], recipe, self.space)
            codes = self.codes[some]
            named, sums = [], []
            for windows, labels in parts:
                outputs = net.forward(windows[None])[0]  # (r, p, 10)
                lost = net.loss(outputs.reshape(-1, 10), codes[:, labels].reshape(-1, 10))
                named.append(_digits(outputs))
                sums.append(lost.view(len(codes), -1).double().sum(1))
            digits.append(torch.cat(named, 1))
            losses.append(torch.stack(sums).sum(0) / len(split))
        return torch.cat(digits), torch.cat(losses)


class _Presentation:
    """An epoch whose place in the order is kept on the device, so that nothing waits for the host.

    On a GPU, the group's `graph_steps` are captured as a CUDA graph and replayed.

    It is handed its group with every call and does not keep it: the two would keep each other, and
    a dropped group's memory on the GPU, until Python looks for cycles.
    """

    def __init__(self, group: _Group):
        fit, device = group.splits.fit, group.splits.device
        self.windows = group.splits.windows(fit, group.recipe)
        self.labels = group.splits.labels(fit)
        self.replica = torch.arange(len(group.runs), device=device)
        self.order = torch.empty(len(fit), len(group.runs), dtype=torch.int64, device=device)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.graph: Any = None

    def step(self, group: _Group) -> None:
        """Present to every replica the pattern whose turn it is."""
        pattern = self.order.index_select(0, self.at)[0]  # (R,)
        self.at += 1
        group.step(self.windows[pattern], group.wanted[self.replica, self.labels[pattern]])

    def epoch(self, group: _Group, orders: Tensor, rows: Tensor) -> None:
        """Present every pattern once; orders, rows: on the device, as from Orders.take.

        The replicas' orders are put side by side here: hundreds would keep the host for long.
        """
        self.order.copy_(orders.T[:, rows])
        self.at.zero_()
        left = len(self.order)
        if group.graph_steps and self.graph is None and left >= WARM_UP + group.graph_steps:
            for _ in range(WARM_UP):  # steps that count: a capture needs all tensors in place
                self.step(group)
            left -= WARM_UP
            self._capture(group)
        while self.graph and left >= group.graph_steps:
            self.graph.replay()
            left -= group.graph_steps
        for _ in range(left):
            self.step(group)

    def _capture(self, group: _Group) -> None:
        """Record steps without running them.

        If that fails, as a user's component can make it, the group and what `keep` makes of it
        go on without a graph.
        """
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                for _ in range(group.graph_steps):
                    self.step(group)
        except Exception:  # a real fault will show again in the next step
            group.graph_steps = 0
        else:
            self.graph = graph
        finally:
            torch.cuda.set_stream(stream)  # if ending a capture fails, PyTorch leaves its own


def _train_group(
    runs: list[Run], members: list[int], splits: _Splits, graph_steps: int, finish: Finish
) -> None:
    """Train one group to its last epoch, dropping replicas that end earlier."""
    group = _Group(runs, splits, graph_steps)
    members = list(members)
    last_epoch = runs[0].last_epoch
    for epoch in range(runs[0].first_epoch, last_epoch + 1):
        began = time.perf_counter()
        group.epoch(epoch)
        if epoch < last_epoch:
            group.orders.draw_ahead(epoch + 1, range(len(members)))
        results = group.results(epoch)
        seconds = (time.perf_counter() - began) / len(members)
        going_on = []
        for replica, (state, scores) in enumerate(results):
            report = epoch_report(members[replica], runs[0], state, scores, seconds)
            if not finish(report):
                going_on.append(replica)
        if not going_on:
            return
        if len(going_on) < len(members):
            members = [members[replica] for replica in going_on]
            group = group.keep(going_on)
