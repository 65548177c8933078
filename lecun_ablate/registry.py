"""One registry for every kind of component.

A component is a decorated function, or a small class whose instances can be called:

    from lecun_ablate import register

    @register("activation")
    def squareplus(x):
        '''(x + sqrt(x^2 + 4)) / 2, Barron 2021, arXiv:2112.11687.'''
        return (x + (x * x + 4).sqrt()) / 2

`KINDS` says what each kind is called with. A component may leave out trailing arguments
that it has no use for: a fixed connectivity takes none, a random one takes the generator.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lecun_ablate.errors import ConfigError, nearest, neighbours


class NameTaken(ConfigError):
    """A component whose kind and name another one has already."""

    def __init__(self, problem: str, taken: Component):
        super().__init__(problem)
        self.taken = taken


@dataclass(frozen=True)
class Kind:
    """A pluggable part of the experiment and the contract its components keep."""

    name: str
    arguments: tuple[str, ...]
    required: int  # a component must take at least this many of the arguments
    contract: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind("activation", ("x",), 1, "tensor of any shape -> the same shape, element by element"),
        Kind(
            "init",
            ("generator", "shape", "fan_in", "fan_out"),
            2,
            "torch.Generator, shape, fan-in (float64 tensor that broadcasts over the shape), "
            "fan-out (float) -> float64 tensor of that shape",
        ),
        Kind(
            "connectivity",
            ("generator",),
            0,
            "torch.Generator -> 12x12 boolean matrix, [i, j] true where H2 plane i sees H1 plane j",
        ),
        Kind(
            "loss",
            ("outputs", "targets"),
            2,
            "two tensors (..., 10) -> tensor (...): one loss per pattern, over the last axis",
        ),
        Kind("target", ("labels",), 1, "int64 tensor (n,) of labels 0..9 -> float tensor (n, 10)"),
        Kind(
            "optimizer",
            ("parameters", "gradients", "state", "lr", "momentum"),
            4,
            "parameters and gradients (replicas, weights), a dict of such tensors that is kept "
            "between steps, lr (replicas, 1), momentum (float): updates parameters in place",
        ),
        Kind(
            "order",
            ("n", "generator"),
            1,
            "number of patterns, torch.Generator of this epoch -> int64 tensor (n,), a permutation",
        ),
        Kind(
            "data",
            ("folder",),
            0,
            "folder (Path) that --data-dir or LECUN_ABLATE_DATA names, or None -> data.Digits; "
            "one that takes no folder has none to be named",
        ),
    )
}


@dataclass(frozen=True)
class Component:
    """A named part of a recipe. Call it with its kind's arguments, in order."""

    kind: str
    name: str
    function: Callable[..., Any]
    arity: int
    origin: str  # where it was registered, for people
    file: Path | None = None  # the user's file of components it came from
    digest: str | None = None  # SHA-256 of its source; None for what is built in
    source: bytes | None = field(default=None, repr=False)  # of that file, as it was run
    interactive: bool = False  # from a notebook or a session, where a cell may be run again

    def __call__(self, *arguments: Any) -> Any:
        """Call the component without those trailing arguments that it does not take."""
        return self.function(*arguments[: self.arity])

    @property
    def builtin(self) -> bool:
        """Whether the component is part of the package."""
        return self.digest is None

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())


class Registry:
    """Components by kind and name."""

    def __init__(self) -> None:
        self._components: dict[str, dict[str, Component]] = {kind: {} for kind in KINDS}
        self._loading: tuple[Path, str, bytes] | None = None

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind, in order of registration."""
        return list(self._of(kind))

    def get(self, kind: str, name: str) -> Component:
        """Return a component; a wrong name raises a ConfigError that lists the valid ones."""
        components = self._of(kind)
        if name not in components:
            raise ConfigError(f"unknown {kind} {name!r}: {nearest(name, components)}")
        return components[name]

    def _of(self, kind: str) -> dict[str, Component]:
        if kind not in self._components:
            raise ConfigError(f"unknown kind of component {kind!r}: {nearest(kind, KINDS)}")
        # what is built in comes first, whoever asks or registers; it takes seconds to import
        importlib.import_module(
            "lecun_ablate.data" if kind == "data" else "lecun_ablate.components"
        )
        return self._components[kind]

    def register(self, kind: str, name: str | None = None) -> Callable[[Any], Any]:
        """Return a decorator that enters a function, or a class without arguments, as `name`.

        The name defaults to the function's own. A name that is taken raises NameTaken.
        """
        components = self._of(kind)

        def enter(thing: Any) -> Any:
            key = name or getattr(thing, "__name__", None)
            origin, file, digest, source = self._origin(thing)
            if not isinstance(key, str):
                raise ConfigError(
                    f"{origin}: {kind} without a name: expected @register({kind!r}, NAME)"
                )
            if not key.isprintable() or not key.strip():
                raise ConfigError(
                    f"{origin}: {kind} {key!r}: expected a name of characters that can be printed"
                )
            old = components.get(key)
            again = old is not None and file is None and _interactive(thing) and old.interactive
            if (
                old is not None
                and not again
                and (old.file is None or old.file != file or old.digest == digest)
            ):
                where = "built in" if old.builtin else f"registered by {old.origin}"
                raise NameTaken(
                    f"{origin}: {kind} {key!r} is already {where}: give yours another name", old
                )
            function = thing() if inspect.isclass(thing) else thing
            arity = _arity(KINDS[kind], key, function, origin)
            components[key] = Component(
                kind, key, function, arity, origin, file, digest, source, _interactive(thing)
            )
            return thing

        return enter

    def _origin(self, thing: Any) -> tuple[str, Path | None, str | None, bytes | None]:
        """Return where a component comes from: for people, its file, its digest, the source."""
        module = getattr(thing, "__module__", None) or "this session"
        if module.startswith("lecun_ablate."):
            return module, None, None, None
        if self._loading is not None:
            path, digest, source = self._loading
            return str(path), path, digest, source
        try:  # defined in a session or a script of the user's
            lines, first = inspect.getsourcelines(thing)
        except (OSError, TypeError):
            return module, None, hashlib.sha256(repr(thing).encode()).hexdigest(), None
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        return f"{inspect.getsourcefile(thing)}:{first}", None, digest, None

    def load(self, file: str | Path) -> None:
        """Run a Python file that registers components; loading it again changes nothing.

        Raises ConfigError when the file is missing, does not run to its end, or registers nothing;
        then none of its components is registered.
        """
        path = Path(file).resolve()
        if not path.is_file():
            raise ConfigError(f"{file}: no such file of components{neighbours(file, '*.py')}")
        try:
            source = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
        digest = hashlib.sha256(source).hexdigest()
        if any(c.file == path and c.digest == digest for c in self._all()):
            return
        module = ModuleType(f"lecun_ablate_user_{digest[:8]}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # so that dataclasses and inspect find their source
        before = {kind: dict(components) for kind, components in self._components.items()}
        outer, self._loading = self._loading, (path, digest, source)
        try:
            exec(compile(source, str(path), "exec"), module.__dict__)
            if not any(c.file == path and c.digest == digest for c in self._all()):
                raise ConfigError(
                    f"{file}: registers no component: decorate one with @register(kind)"
                )
        except BaseException as error:
            for kind, components in self._components.items():
                builtin = {name: c for name, c in components.items() if c.builtin}
                components.clear()
                components.update(builtin | before[kind])
            del sys.modules[module.__name__]
            if isinstance(error, Exception | SystemExit) and not isinstance(error, ConfigError):
                raise ConfigError(_failure(file, path, error)) from error
            raise
        finally:
            self._loading = outer

    def _all(self) -> list[Component]:
        return [c for components in self._components.values() for c in components.values()]


def _interactive(thing: Any) -> bool:
    """Tell whether a component was defined in a session or a notebook."""
    return getattr(thing, "__module__", None) == "__main__"


def _failure(file: str | Path, path: Path, error: BaseException) -> str:
    """Say at which line of a file of components what went wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    where = f"{file}:{line}" if line else str(file)
    if isinstance(error, SystemExit):
        return f"{where}: expected a file that runs to its end, came an exit ({error.code})"
    return f"{where}: {type(error).__name__}: {error}"


def _arity(kind: Kind, name: str, function: Callable[..., Any], origin: str) -> int:
    """Count the contract's arguments that `function` takes; raise ConfigError if it cannot fit."""
    expected = f"expected {kind.name}({', '.join(kind.arguments)})"
    if not callable(function):
        raise ConfigError(f"{origin}: {kind.name} {name!r} cannot be called: {expected}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a C function without a signature, such as torch.tanh
        return len(kind.arguments)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return len(kind.arguments)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    arity = min(len(positional), len(kind.arguments))
    keyword_only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if keyword_only or needed > len(kind.arguments) or arity < kind.required:
        came = f"{name}{inspect.signature(function)}"
        raise ConfigError(
            f"{origin}: {kind.name} {name!r} has the wrong arguments: {expected}, came {came}"
        )
    return arity


registry = Registry()
register = registry.register
