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
from lecun_ablate.network.reference import NO_DIGIT
from lecun_ablate.system.cores import usable_cores
from lecun_ablate.trainers.base import EpochReport, Identity, OnEpoch, Run, Scores, State
from lecun_ablate.trainers.download import download
from lecun_ablate.trainers.orders import Orders
from lecun_ablate.trainers.shared import begin, epoch_report
from lecun_ablate.trainers.torch_network import LAYOUT, Net, Workspace, image_windows
from lecun_ablate.trainers.workers import Finish, Job, reports_of

GROUP = {"float32": 32, "float64": 16}  # replicas whose working set stays in a CPU's cache
CUDA_GROUP = 512  # a GPU's time for a step hardly grows with the replicas
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
)


class TorchTrainer:
    """Trains any recipe with PyTorch's autograd, on `device`, groups of replicas on all cores.

    On CUDA, `graph_steps` are replayed as one graph; with 0, each step is launched by itself.
    """

    name = "torch"
    numerics = 2

    def __init__(
        self, device: str = "cpu", threads: int | None = None, graph_steps: int = GRAPH_STEPS
    ):
        self.device = device
        self.graph_steps = graph_steps
        self.threads = threads or usable_cores()

    def identity(self) -> Identity:
        """Return what about the trainer decides a run's numbers; see trainers.base."""
        if self.device == "cpu":
            chip = torch.backends.cpu.get_cpu_capability().lower()
        else:
            chip = "sm_{}{}".format(*torch.cuda.get_device_capability())
        return Identity(self.name, self.device, chip, self.numerics)

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
        largest = most[runs[members[0]].recipe.dtype]
        share = -(-len(runs) // threads)  # so that one big group does not leave cores idle
        size = max(1, min(largest, max(8, share)))
        parts = -(-len(members) // size)
        groups += [part.tolist() for part in np.array_split(members, parts)]
    return sorted(groups, key=len, reverse=True)


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
            images = torch.tensor(split.images, dtype=getattr(torch, recipe.dtype))
            return image_windows(images.to(self.device), recipe.padding)

        return self._once((id(split), recipe.dtype, recipe.padding), make)

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
        seen = []
        for row, run in zip(rows, runs, strict=True):
            connected, state = begin(run)
            seen.append(connected)
            LAYOUT.pack(state.parameters, row)
        for i, run in enumerate(runs):
            for key, value in (run.state.optimizer if run.state else {}).items():
                slot, name = key.split("/", 1)
                table = optimizer.setdefault(slot, np.zeros_like(rows))
                LAYOUT.pack({name: value}, table[i])
        self.weights = torch.from_numpy(rows).to(device)  # (R, width)
        self.state = {slot: torch.from_numpy(v).to(device) for slot, v in optimizer.items()}
        self.lr = self._column([run.recipe.lr for run in runs])  # (R, 1)
        self.connected = torch.from_numpy(np.stack(seen)).to(device, self.dtype)[:, :, None]
        codes = [run.recipe.component("target")(torch.arange(10)) for run in runs]
        self.codes = torch.stack(codes).to(device, self.dtype)  # (R, 10 labels, 10 outputs)
        self._prepare()

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(self.splits.device, self.dtype)[:, None]

    def _prepare(self) -> None:
        """Make what follows from the replicas' tensors."""
        self.space = Workspace(self.weights)
        self.net = Net(self.weights, self.connected, self.recipe, self.space)
        self.gradients = torch.zeros_like(self.weights)
        self.gradient_views = LAYOUT.views(self.gradients)
        self.orders = Orders(self.runs, len(self.splits.fit.labels))
        self.presentation: _Presentation | None = None

    def step(self, windows: Tensor, targets: Tensor) -> None:
        """Present one pattern to every replica; windows: (R or 1, 64, 25), targets: (R, 10)."""
        self.net.gradients(windows, targets, self.gradient_views)
        with torch.no_grad():
            self.optimizer(self.weights, self.gradients, self.state, self.lr, self.recipe.momentum)

    def epoch(self, epoch: int) -> None:
        """Present every pattern of the fit split once."""
        splits = self.splits
        orders, rows = self.orders.take(epoch, range(len(self.runs)))
        windows, labels = splits.windows(splits.fit, self.recipe), splits.labels(splits.fit)
        if labels.is_cuda:
            self.presentation = self.presentation or _Presentation(self)
            on_device = (torch.from_numpy(array).to(labels.device) for array in (orders, rows))
            self.presentation.epoch(self, *on_device)
        elif len(orders) == 1:  # all replicas see the same pattern
            for pattern, digit in zip(orders[0], splits.fit.labels[orders[0]], strict=True):
                self.step(windows[pattern : pattern + 1], self.codes[:, digit])
        else:
            replica = torch.arange(len(self.runs))
            for row in torch.from_numpy(orders.T[:, rows].copy()):
                self.step(windows[row], self.codes[replica, labels[row]])

    def keep(self, replicas: Sequence[int]) -> _Group:
        """Return a group of some of the replicas, as they are now."""
        group = object.__new__(_Group)
        group.__dict__.update(self.__dict__)
        group.runs = [self.runs[replica] for replica in replicas]
        for field in ("weights", "lr", "connected", "codes"):
            setattr(group, field, getattr(self, field)[list(replicas)].clone())
        group.state = {slot: value[list(replicas)].clone() for slot, value in self.state.items()}
        group._prepare()
        return group

    def results(self, epoch: int) -> list[tuple[State, dict[str, Scores]]]:
        """Evaluate all replicas; return their states and scores, fetched in one wait."""
        names = list(self.splits.evaluate)
        answers = [tensor for name in names for tensor in self._answers(name)]
        weights, *rest = download([self.weights, *answers, *self.state.values()])
        tables = dict(zip(self.state, rest[len(answers) :], strict=True))
        found = []
        for i in range(len(self.runs)):
            optimizer = {
                f"{slot}/{name}": value
                for slot, table in tables.items()
                for name, value in LAYOUT.unpack(table[i]).items()
            }
            state = State(epoch, LAYOUT.unpack(weights[i]), optimizer)
            scores = {}
            for name, digits, losses in zip(names, rest[0::2], rest[1::2], strict=False):
                misses = int((digits[i] != self.splits.evaluate[name].labels).sum())
                scores[name] = Scores(float(losses[i]), misses, digits[i].copy())
            found.append((state, scores))
        return found

    @torch.no_grad()
    def _answers(self, name: str) -> tuple[Tensor, Tensor]:
        """Return each replica's digits, (R, n) uint8, and mean loss, (R,) float64, on a split."""
        splits, recipe = self.splits, self.recipe
        split = splits.evaluate[name]
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
            net = Net(self.weights[some], self.connected[some], recipe, self.space)
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
        group.step(self.windows[pattern], group.codes[self.replica, self.labels[pattern]])

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
