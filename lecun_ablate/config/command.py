"""A command line of the package: a list of words, formatted only when it is shown or stored."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

PROGRAM = ("python", "-m", "lecun_ablate")
FLAGS = ("--all-pairs",)  # options without a value, among those that can be removed from commands


@dataclass(frozen=True)
class Command:
    """A command with its arguments, such as `run experiments/activation.yaml --seeds 3`."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, name: str, *arguments: object) -> Command:
        """Return a command of the package with positional arguments."""
        return cls((*PROGRAM, name, *map(str, arguments)))

    @classmethod
    def parse(cls, text: str) -> Command:
        """Parse a command formatted by `str`."""
        return cls(tuple(shlex.split(text)))

    def __str__(self) -> str:
        return shlex.join(self.words)

    def with_options(self, options: dict[str, object], flags: Sequence[str] = ()) -> Command:
        """Return the command with more options; a list repeats its option, None is omitted.

        Flags are options without a value, and come first.
        """
        words = [*self.words, *flags]
        for option, value in options.items():
            values = value if isinstance(value, list | tuple) else [value]
            words += [word for one in values if one is not None for word in (option, str(one))]
        return Command(tuple(words))

    def options(self, *names: str) -> str:
        """Return the options with these names, with their values; "" if there are none."""
        found: list[str] = []
        for word, value in zip(self.words, [*self.words[1:], ""], strict=True):
            if word in names:
                found += [word] if word in FLAGS else [word, value]
        return shlex.join(found)

    def without(self, *names: str) -> Command:
        """Return the command without the options of these names."""
        words, gone = [], False
        for word in self.words:
            if not gone and word not in names:
                words.append(word)
            gone = not gone and word in names and word not in FLAGS
        return Command(tuple(words))

    def with_seeds(self, seeds: Sequence[int]) -> Command:
        """Return the command for other seeds, replacing any that it names."""
        words = list(self.words)
        if "--seeds" in words:
            at = words.index("--seeds")
            del words[at : at + 2]
        return Command(tuple(words)).with_options({"--seeds": seeds_option(seeds)})


def seeds_option(seeds: int | Sequence[int]) -> str:
    """Return the value of --seeds: n for the seeds 0 to n-1, otherwise a list with commas."""
    if isinstance(seeds, int):
        return str(seeds)
    if list(seeds) == list(range(len(seeds))):
        return str(len(seeds))
    listed = ",".join(map(str, seeds))
    return listed if len(seeds) > 1 else f"{listed},"  # the comma marks a list of one
