"""The torch trainer: many replicas at once, with autograd; any component, CPU or CUDA.

Replicas that share their operations (activation, loss, ...) form a group and differ only in data:
seed, learning rate, weights, connectivity, targets, order. Every tensor has the replicas first.

A replica's numbers must not depend on its neighbours, bit for bit. Two rules see to it:
- element-by-element operations treat the last few elements of a tensor with scalar code that may
  round differently, so every replica's share of a tensor is a multiple of LANES elements;
- a product with 30 or 10 columns picks its kernel by the number of replicas, so the dense layers
  are padded to LANES columns too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lecun_ablate.data.digits import Split
from lecun_ablate.initial import SHAPES, connectivity, pattern_order, start
from lecun_ablate.network import forward, predictions
from lecun_ablate.recipe import Recipe
from lecun_ablate.trainers.base import EpochReport, OnEpoch, Run, Scores, State
from lecun_ablate.trainers.workers import Finish, Job, reports_of

LANES = 32  # twice the widest vector register, in float32
GROUP = {"float32": 32, "float64": 16}  # replicas whose working set stays in a CPU's cache
CUDA_GROUP = 512  # a GPU's time for a step hardly grows with the replicas
LOSS_ROWS = 16  # replicas are padded to a multiple of this for the loss: 16 x 10 outputs = 5 LANES
EVALUATION_BATCH = {"cpu": 512, "cuda": 8192}  # images
WARM_UP, GRAPH_STEPS = 3, 20  # steps before a CUDA graph is captured, and steps in it
# the fields that decide a group's operations; all the others are data
OPERATIONS = (
    "activation", "output_activation", "loss", "optimizer", "momentum", "order", "dtype", "padding",
)  # fmt: skip


class TorchTrainer:
    """Trains any recipe with PyTorch's autograd, on `device`, groups of replicas on all cores."""

    name = "torch"
    numerics = 1

    def __init__(self, device: str = "cpu", threads: int | None = None):
        self.device = device
        self.threads = threads or len(os.sched_getaffinity(0))

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers, for the run key."""
        if self.device == "cpu":
            chip = torch.backends.cpu.get_cpu_capability().lower()
        else:
            chip = "sm_{}{}".format(*torch.cuda.get_device_capability())
        return {
            "name": self.name,
            "device": self.device,
            "instruction_set": chip,
            "numerics": self.numerics,
        }

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
                _train_group([runs[i] for i in members], members, splits, finish)

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
        begin = run.state.epoch if run.state else 0
        alike.setdefault((operations, begin, run.last_epoch), []).append(index)
    groups = []
    for members in alike.values():
        largest = most[runs[members[0]].recipe.dtype]
        share = -(-len(runs) // threads)  # so that one big group does not leave cores idle
        size = max(1, min(largest, max(8, share)))
        parts = -(-len(members) // size)
        groups += [part.tolist() for part in np.array_split(members, parts)]
    return sorted(groups, key=len, reverse=True)


class _Splits:
    """The images on the device, prepared once per dtype and padding value."""

    def __init__(self, fit: Split, evaluate: dict[str, Split], device: torch.device):
        self.fit = fit
        self.evaluate = evaluate
        self.device = device
        self._cache: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def patches(self, recipe: Recipe) -> Tensor:
        """Return the fit split's 5x5 neighbourhoods, (n, 25, 64), borders padded."""
        return self._once(("patches", recipe.dtype, recipe.padding), self._patches, recipe)

    def images(self, name: str, recipe: Recipe) -> Tensor:
        """Return an evaluation split's images, (n, 16, 16)."""
        return self._once((name, recipe.dtype), self._tensor, self.evaluate[name], recipe)

    def _once(self, key: Any, make: Any, *arguments: Any) -> Any:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = make(*arguments)
            return self._cache[key]

    def _tensor(self, split: Split, recipe: Recipe) -> Tensor:
        return torch.tensor(split.images, dtype=getattr(torch, recipe.dtype), device=self.device)

    def _patches(self, recipe: Recipe) -> Tensor:
        images = F.pad(self._tensor(self.fit, recipe)[:, None], (2, 2, 2, 2), value=recipe.padding)
        return F.unfold(images, 5, stride=2).contiguous()


@dataclass
class _Layout:
    """Where each parameter lies in a replica's row of the flat (replicas, width) tensor."""

    slices: dict[str, slice]
    shapes: dict[str, tuple[int, ...]]
    width: int

    @classmethod
    def make(cls) -> _Layout:
        # the dense layers get LANES columns, so that a replica's units fill whole registers
        shapes = SHAPES | {
            "h3_weight": (192, LANES),
            "h3_bias": (LANES,),
            "out_weight": (30, LANES),
            "out_bias": (LANES,),
        }
        slices, offset = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            slices[name] = slice(offset, offset + size)
            offset += -(-size // LANES) * LANES
        return cls(slices, shapes, offset)

    def pack(self, named: Mapping[str, np.ndarray], row: np.ndarray) -> None:
        """Write a replica's parameters into its row of the flat array."""
        for name, value in named.items():
            view = row[self.slices[name]].reshape(self.shapes[name])
            view[tuple(slice(0, size) for size in SHAPES[name])] = value

    def unpack(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Read a replica's parameters from its row of the flat array."""
        return {
            name: row[self.slices[name]]
            .reshape(self.shapes[name])[tuple(slice(0, size) for size in SHAPES[name])]
            .copy()
            for name in SHAPES
        }


LAYOUT = _Layout.make()


class _Group:
    """Replicas that one sequence of operations advances together."""

    def __init__(self, runs: Sequence[Run], splits: _Splits):
        self.runs = runs
        self.splits = splits
        self.recipe = recipe = runs[0].recipe
        self.dtype = getattr(torch, recipe.dtype)
        device = splits.device
        rows = np.zeros((len(runs), LAYOUT.width), dtype=recipe.dtype)
        optimizer: dict[str, np.ndarray] = {}
        seen = []
        for row, run in zip(rows, runs, strict=True):
            seen.append(connectivity(run.recipe, run.seed))
            state = run.state or State(0, start(run.recipe, run.seed).parameters)
            LAYOUT.pack(state.parameters, row)
        for i, run in enumerate(runs):
            for key, value in (run.state.optimizer if run.state else {}).items():
                slot, name = key.split("/", 1)
                table = optimizer.setdefault(slot, np.zeros_like(rows))
                LAYOUT.pack({name: value}, table[i])
        self.weights = torch.from_numpy(rows).to(device)  # (R, width)
        self.state = {slot: torch.from_numpy(v).to(device) for slot, v in optimizer.items()}
        self.lr = self._column([run.recipe.lr for run in runs])  # (R, 1)
        self.connected = torch.from_numpy(np.stack(seen)).to(device, self.dtype)[..., None]
        codes = [run.recipe.component("target")(torch.arange(10)) for run in runs]
        self.codes = torch.stack(codes).to(device, self.dtype)  # (R, 10 labels, 10 outputs)
        self.labels = torch.tensor(splits.fit.labels, device=device)
        # leaves for autograd that share their memory with the flat tensor
        self.leaves = [
            self.weights[:, LAYOUT.slices[name]].view(-1, *shape).detach().requires_grad_()
            for name, shape in LAYOUT.shapes.items()
        ]
        self.gradients = torch.zeros_like(self.weights)
        self.presentation: _Presentation | None = None

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(self.splits.device, self.dtype)[:, None]

    def outputs(self, x: Tensor) -> Tensor:
        """Return the outputs, (R, 10), for each replica's patches x: (R or 1, 25, 64)."""
        replicas = len(self.runs)
        act = self.recipe.component("activation")
        h1_w, h1_b, h2_w, h2_b, h3_w, h3_b, out_w, out_b = self.leaves
        h = torch.bmm(h1_w.view(replicas, 12, 25), x.expand(replicas, 25, 64))  # (R, 12, 64)
        h = act(h.view(replicas, 12, 8, 8) + h1_b)
        h = F.pad(h, (2, 2, 2, 2), value=self.recipe.padding)  # (R, 12, 12, 12)
        h = F.unfold(h, 5, stride=2)  # (R, 12 planes x 25 taps, 16)
        w = (h2_w.view(replicas, 12, 12, 25) * self.connected).view(replicas, 12, 300)
        h = act(torch.bmm(w, h).view(replicas, 12, 4, 4) + h2_b).view(replicas, 1, 192)
        h = act(torch.bmm(h, h3_w)[:, 0] + h3_b)  # (R, LANES)
        h = torch.bmm(h[:, None, :30], out_w)[:, 0] + out_b  # (R, LANES)
        return self.recipe.component("output_activation")(h)[:, :10]

    def step(self, x: Tensor, targets: Tensor) -> None:
        """Present one pattern to every replica; x: (R or 1, 25, 64), targets: (R, 10)."""
        spare = (0, 0, 0, -len(self.runs) % LOSS_ROWS)
        outputs = F.pad(self.outputs(x), spare)
        losses = self.recipe.component("loss")(outputs, F.pad(targets, spare))
        found = torch.autograd.grad(losses[: len(self.runs)].sum(), self.leaves)
        with torch.no_grad():
            for where, gradient in zip(LAYOUT.slices.values(), found, strict=True):
                self.gradients[:, where] = gradient.view(len(self.runs), -1)
            self.recipe.component("optimizer")(
                self.weights, self.gradients, self.state, self.lr, self.recipe.momentum
            )

    def epoch(self, epoch: int) -> None:
        """Present every pattern of the fit split once."""
        patches, labels = self.splits.patches(self.recipe), self.labels
        n = len(labels)
        orders = [pattern_order(run.recipe, run.seed, epoch, n) for run in self.runs]
        order = torch.stack(orders, dim=1).to(labels.device)  # (n, R)
        if labels.is_cuda:
            self.presentation = self.presentation or _Presentation(self, order)
            self.presentation.epoch(order)
        elif (order == order[:, :1]).all():  # all replicas see the same pattern
            shared = order[:, 0].tolist()
            digits = self.splits.fit.labels[shared].tolist()
            for pattern, digit in zip(shared, digits, strict=True):
                self.step(patches[pattern : pattern + 1], self.codes[:, digit])
        else:
            replica = torch.arange(len(self.runs), device=labels.device)
            for row in order:
                self.step(patches[row], self.codes[replica, labels[row]])

    def keep(self, replicas: Sequence[int], runs: Sequence[Run]) -> _Group:
        """Return a group of some of the replicas, as they are now."""
        group = object.__new__(_Group)
        group.__dict__.update(self.__dict__)
        group.runs = runs
        group.presentation = None  # it holds the tensors of the old group
        for field in ("weights", "lr", "connected", "codes", "gradients"):
            setattr(group, field, getattr(self, field)[list(replicas)].clone())
        group.state = {slot: value[list(replicas)].clone() for slot, value in self.state.items()}
        group.leaves = [
            group.weights[:, LAYOUT.slices[name]].view(-1, *shape).detach().requires_grad_()
            for name, shape in LAYOUT.shapes.items()
        ]
        return group

    def current(self, replica: int, epoch: int) -> State:
        """Return a replica's state, copied to the host."""
        optimizer = {
            f"{slot}/{name}": value
            for slot, table in self.state.items()
            for name, value in LAYOUT.unpack(table[replica].cpu().numpy()).items()
        }
        return State(epoch, LAYOUT.unpack(self.weights[replica].cpu().numpy()), optimizer)

    @torch.no_grad()
    def score(self, replica: int, name: str) -> Scores:
        """Score one replica alone on a split: its numbers cannot depend on the others."""
        recipe = self.runs[replica].recipe
        images = self.splits.images(name, recipe)
        labels = self.splits.evaluate[name].labels
        own = {
            key: self.weights[replica, where].view(LAYOUT.shapes[key])
            for key, where in LAYOUT.slices.items()
        }
        own["h2_weight"] = own["h2_weight"] * self.connected[replica].unsqueeze(-1)
        for key in ("h3_weight", "h3_bias"):
            own[key] = own[key][..., :30]
        for key in ("out_weight", "out_bias"):
            own[key] = own[key][..., :10]
        act, out = recipe.component("activation"), recipe.component("output_activation")
        batches = images.split(EVALUATION_BATCH[images.device.type])
        outputs = torch.cat([forward(b, own, act, out, recipe.padding) for b in batches])
        targets = self.codes[replica, torch.tensor(labels, device=outputs.device)]
        losses = recipe.component("loss")(outputs, targets)
        digits = predictions(outputs.cpu().numpy())
        return Scores(float(losses.double().mean()), int((digits != labels).sum()), digits)


class _Presentation:
    """An epoch whose place in the order is kept on the device, so that nothing waits for the host.

    On a GPU, GRAPH_STEPS steps are captured as a CUDA graph and replayed. Only built-in components
    are: a user's may keep its state in new tensors, of which a graph would know nothing.
    """

    def __init__(self, group: _Group, order: Tensor):
        self.group = group
        self.order = torch.empty_like(order)  # (n, R)
        self.at = torch.zeros(1, dtype=torch.int64, device=order.device)
        self.replica = torch.arange(order.shape[1], device=order.device)
        self.patches = group.splits.patches(group.recipe)
        self.capturable = order.is_cuda and not group.recipe.user_components
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self) -> None:
        """Present to every replica the pattern whose turn it is."""
        pattern = self.order.index_select(0, self.at)[0]  # (R,)
        self.at += 1
        group = self.group
        group.step(self.patches[pattern], group.codes[self.replica, group.labels[pattern]])

    def epoch(self, order: Tensor) -> None:
        """Present every pattern once; order: (n, R)."""
        self.order.copy_(order)
        self.at.zero_()
        left = len(order)
        if self.capturable and self.graph is None and left >= WARM_UP + GRAPH_STEPS:
            for _ in range(WARM_UP):  # steps that count: a capture needs all tensors in place
                self.step()
            left -= WARM_UP
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, does not run
                for _ in range(GRAPH_STEPS):
                    self.step()
        while self.graph and left >= GRAPH_STEPS:
            self.graph.replay()
            left -= GRAPH_STEPS
        for _ in range(left):
            self.step()


def _train_group(runs: list[Run], members: list[int], splits: _Splits, finish: Finish) -> None:
    """Train one group to its last epoch, dropping replicas that end earlier."""
    group = _Group(runs, splits)
    members = list(members)
    first = (runs[0].state.epoch if runs[0].state else 0) + 1
    for epoch in range(first, runs[0].last_epoch + 1):
        began = time.perf_counter()
        group.epoch(epoch)
        results = []
        for replica in range(len(members)):
            scores = {name: group.score(replica, name) for name in splits.evaluate}
            state = group.current(replica, epoch)
            finite = all(np.isfinite(v).all() for v in state.parameters.values())
            diverged = not (finite and all(np.isfinite(s.loss) for s in scores.values()))
            results.append((scores, state, diverged))
        seconds = (time.perf_counter() - began) / len(members)
        going_on = []
        for replica, (scores, state, diverged) in enumerate(results):
            last = diverged or epoch == runs[0].last_epoch
            report = EpochReport(members[replica], epoch, scores, seconds, diverged, last, state)
            if not finish(report):
                going_on.append(replica)
        if not going_on:
            return
        if len(going_on) < len(members):
            members = [members[replica] for replica in going_on]
            group = group.keep(going_on, [group.runs[replica] for replica in going_on])
