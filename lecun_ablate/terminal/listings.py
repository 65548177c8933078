"""Lists in the terminal: data sets, components, and what is wrong with a store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lecun_ablate.api import Examination
from lecun_ablate.data.places import Found
from lecun_ablate.registry import KINDS, Component
from lecun_ablate.system.text import visible
from lecun_ablate.terminal.console import console

if TYPE_CHECKING:  # the store is slow to import
    from lecun_ablate.tracking.contents import Entry


def places(found: Sequence[Found]) -> None:
    """Print where each data set was looked for and what was found."""
    for place in found:
        mark = "->" if place.taken else "  "
        where = f" ({place.where})" if place.where else ""
        print(f"{mark} {place.data}: {place.place}{where}")
        if place.problem:
            print(f"     {place.problem}")
        for split, counts in (("train", place.train), ("test", place.test)):
            if counts:
                each = " ".join(map(str, counts))
                print(f"     {split:5} {sum(counts):5} images, of 0..9: {each}")
        if place.digest:
            print(f"     digest {place.digest}")
    print("-> marks what a run would use")


def contents(found: Sequence[Entry]) -> None:
    """Print the experiments and studies of a store."""
    if not found:
        print("nothing has been run yet")
        return
    on = console()
    for entry in found:
        kind = "study " if entry.kind == "study" else ""
        variant = f" {entry.variant}" if entry.variant else ""
        size = f"{entry.arms} arms, {entry.seeds} seeds, " if entry.arms else ""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_run))
        on.print(f"{kind}{entry.name} on {entry.data}{variant}: {size}{when}, {entry.status}")
        if entry.answer:
            on.print(f"  {entry.answer}")


def findings(found: Examination) -> None:
    """Print what is wrong with a store, and the remedies."""
    for finding in found.findings:
        print(f"- {visible(finding.what)}")
        print(f"    {visible(finding.help)}")
    number, able = len(found.findings), sum(f.repair is not None for f in found.findings)
    if not number:
        print(f"{found.where}: nothing is wrong")
    elif found.repaired:
        print(f"{found.where}: {number} findings, {found.repaired} of them repaired")
    elif able:
        print(f"{found.where}: {number} findings; `doctor --repair` repairs {able} of them")
    else:
        print(f"{found.where}: {number} findings")


def components(
    found: Mapping[str, Sequence[Component]],
    refusals: Mapping[Component, Mapping[str, str | None]],
) -> None:
    """Print the components of each kind, a line each, and the kind's arguments.

    For those in `refusals`, also print which trainers run them at full speed, and why others do
    not.
    """
    for kind, members in found.items():
        print(f"{kind}({', '.join(KINDS[kind].arguments)}): {KINDS[kind].contract}")
        width = max((len(c.name) for c in members), default=0)
        for component in members:
            origin = "" if component.builtin else f"  [{component.origin}]"
            print(f"  {component.name:{width}}  {component.summary}{origin}")
            for parameter in component.parameters.values():
                print(f"  {'':{width}}    {parameter}")
            if component in refusals:
                reasons = refusals[component]
                fast = [name for name, reason in reasons.items() if reason is None]
                words = f"at full speed on {' and '.join(fast)}" if fast else "on torch alone"
                print(f"  {'':{width}}    runs {words}")
                for name, reason in reasons.items():
                    if reason is not None:
                        print(f"  {'':{width}}    not on {name}: {visible(reason)}")
        print()
    if refusals:
        print("Built-in components run at full speed on native and cuda; all run on torch.")
