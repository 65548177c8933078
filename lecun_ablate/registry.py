"""The registry of components, of every kind.

A component is a decorated function, or a decorated class whose instances are callable:

    from lecun_ablate import register

    @register("activation")
    def squareplus(x):
        '''(x + sqrt(x^2 + 4)) / 2, Barron 2021, arXiv:2112.11687.'''
        return (x + (x * x + 4).sqrt()) / 2

`KINDS` lists the kinds and the arguments of each. A component may leave out trailing arguments
that it does not need: a fixed connectivity takes none, a random one takes the generator.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from lecun_ablate import imports
from lecun_ablate.errors import ConfigError, nearest, neighbours, unreadable
from lecun_ablate.parameters import Parameter, Value, check, declared, from_mapping, parse, spell


class NameTaken(ConfigError):
    """Another component of the same kind already has this name."""

    def __init__(self, problem: str, taken: Component):
        super().__init__(problem)
        self.taken = taken


@dataclass(frozen=True)
class Kind:
    """A kind of component, and the contract that its components fulfil."""

    name: str
    arguments: tuple[str, ...]
    required: int  # number of arguments that a component must take
    contract: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "activation", ("x",), 1, "tensor of any shape -> tensor of the same shape, elementwise"
        ),
        Kind(
            "init",
            ("generator", "shape", "fan_in", "fan_out"),
            2,
            "torch.Generator, shape, fan-in (float64 tensor that broadcasts to the shape), "
            "fan-out (float) -> float64 tensor of that shape",
        ),
        Kind(
            "connectivity",
            ("generator",),
            0,
            "torch.Generator -> 12x12 boolean matrix: [i, j] is true if H2 plane i sees H1 plane j",
        ),
        Kind(
            "loss",
            ("outputs", "targets"),
            2,
            "two tensors (..., 10) -> tensor (...): one loss per pattern",
        ),
        Kind("target", ("labels",), 1, "int64 tensor (n,) of labels 0..9 -> float tensor (n, 10)"),
        Kind(
            "optimizer",
            ("parameters", "gradients", "state", "lr", "momentum", "curvature"),
            4,
            "parameters and gradients (replicas, weights), a dict of such tensors, of tensors "
            "(replicas, 1), or of numbers that persists between steps, lr (replicas, 1), "
            "momentum (float), curvature (replicas, weights) -> None; updates the parameters",
        ),
        Kind(
            "schedule",
            ("progress",),
            1,
            "float64 tensor of progress, from 0 to 1 -> factors of the learning rate, same shape",
        ),
        Kind(
            "augmentation",
            ("images", "generator"),
            1,
            "images (n, 16, 16) in [-1, 1], torch.Generator of the epoch -> new images, same shape",
        ),
        Kind(
            "order",
            ("n", "generator"),
            1,
            "number of patterns n, torch.Generator of the epoch -> int64 permutation (n,)",
        ),
        Kind(
            "data",
            ("folder",),
            0,
            "folder (Path) given by --data-dir or LECUN_ABLATE_DATA, or None -> data.Digits; "
            "without this argument, the data set reads no folder",
        ),
    )
}


@dataclass(frozen=True)
class Component:
    """A registered component. Call it with the arguments of its kind, in order."""

    kind: str
    name: str
    function: Callable[..., Any]
    arity: int
    origin: str  # where it was registered, for messages
    file: Path | None = None  # the component file that registered it, if any
    digest: str | None = None  # SHA-256 of its source and its modules; None if built in
    source: bytes | None = field(default=None, repr=False)  # the content of `file` when it was run
    # the modules of the user's project that `file` imports: path -> content
    modules: Mapping[str, bytes] = field(default_factory=dict, repr=False, hash=False)
    parameters: Mapping[str, Parameter] = field(default_factory=dict, repr=False, hash=False)
    changed: Mapping[str, Value] = field(default_factory=dict, hash=False)  # not the defaults
    interactive: bool = False  # from a notebook or a session, where cells may be run again

    def __call__(self, *arguments: Any) -> Any:
        """Call the component, without the trailing arguments that it does not take."""
        return self.function(*arguments[: self.arity], **self.changed)

    @property
    def spelling(self) -> str:
        """Its form in a recipe, such as `sdlm(mu=0.1)`, without parameters at their defaults."""
        return spell(self.name, self.changed)

    @property
    def values(self) -> dict[str, Value]:
        """The values of all parameters."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        return defaults | dict(self.changed)

    def given(self, values: Mapping[str, Any]) -> Component:
        """Return the component with these values, and the defaults for its other parameters.

        Raises ConfigError for an unknown parameter or a value of the wrong type or out of range.
        """
        whose = f"{self.kind} {self.name!r}"
        return replace(self, changed=check(whose, self.parameters, values))

    @property
    def builtin(self) -> bool:
        """Whether the component is part of the package."""
        return self.digest is None

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())


@dataclass(frozen=True)
class _Source:
    """A component file with the modules of the user's project that it imports."""

    path: Path
    content: bytes
    files: Mapping[str, Path]  # of the modules, by name
    modules: Mapping[str, bytes]  # their contents, by name

    @classmethod
    def read(cls, path: Path) -> _Source:
        content = path.read_bytes()
        files = imports.imported(content, imports.roots(path))
        modules = {name: file.read_bytes() for name, file in files.items()}
        return cls(path, content, files, modules)

    @property
    def stored(self) -> dict[str, bytes]:
        """The contents of the modules, by the paths under which they are stored."""
        return {imports.path_of(name, self.files[name]): c for name, c in self.modules.items()}

    @property
    def digest(self) -> str:
        return imports.digest(self.content, self.modules)


class Registry:
    """Components by kind and name."""

    def __init__(self) -> None:
        self._components: dict[str, dict[str, Component]] = {kind: {} for kind in KINDS}
        self._loading: _Source | None = None
        self._ran: dict[str, str] = {}  # the user's modules -> digest of the code that was run

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind, in order of registration."""
        return list(self._of(kind))

    def get(self, kind: str, name: str) -> Component:
        """Return the component with a name, possibly with parameters: `leaky_relu(slope=0.2)`.

        Raises ConfigError, with the valid choices, if the name or a parameter is invalid.
        """
        components = self._of(kind)
        if name in components:
            return components[name]
        plain, values = parse(name) if "(" in name else (name, {})
        if plain not in components:
            raise ConfigError(f"unknown {kind} {plain!r}: {nearest(plain, components)}")
        return components[plain].given(values)

    def canonical(self, kind: str, value: str | Mapping[Any, Any]) -> str:
        """Return a component, given as a string or mapping, as run keys and tables write it.

        A mapping is {NAME: {PARAMETER: VALUE}}. Raises ConfigError as `get` does.
        """
        if isinstance(value, str):
            return self.get(kind, value).spelling
        name, values = from_mapping(value)
        return self.get(kind, name).given(values).spelling

    def with_parameter(self, kind: str, parameter: str) -> list[Component]:
        """Return the components of a kind that have a parameter of this name."""
        return [c for c in self._of(kind).values() if parameter in c.parameters]

    def _of(self, kind: str, place: str = "") -> dict[str, Component]:
        """Return the components of a kind; `place` begins the message if there is no such kind."""
        if kind not in self._components:
            raise ConfigError(f"{place}unknown kind of component {kind!r}: {nearest(kind, KINDS)}")
        # Built-in components are always registered first. Importing them is slow.
        importlib.import_module(
            "lecun_ablate.data" if kind == "data" else "lecun_ablate.components"
        )
        return self._components[kind]

    def register(self, kind: str, name: str | None = None) -> Callable[[Any], Any]:
        """Return a decorator that registers a function, or an instance of a class.

        The name defaults to that of the function or class. Raises NameTaken if another component
        has it.
        """
        caller = sys._getframe(1)
        line = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        components = self._of(kind, f"{line}: ")

        def enter(thing: Any) -> Any:
            key = name or getattr(thing, "__name__", None)
            origin, file, digest = self._origin(thing, line)
            loading = self._loading if file else None
            if not isinstance(key, str):
                raise ConfigError(
                    f"{origin}: {kind} without a name: expected @register({kind!r}, NAME)"
                )
            if not key.isprintable() or not key.strip():
                raise ConfigError(
                    f"{origin}: {kind} {key!r}: expected a name of printable characters"
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
            function: Any = thing() if inspect.isclass(thing) else thing
            arity = _arity(KINDS[kind], key, function, origin)
            try:
                parameters = declared(function)
            except ValueError as error:
                raise ConfigError(f"{origin}: {kind} {key!r}: {error}") from None
            components[key] = Component(
                kind,
                key,
                function,
                arity,
                origin,
                file,
                digest,
                loading.content if loading else None,
                loading.stored if loading else {},
                parameters,
                interactive=_interactive(thing),
            )
            return thing

        return enter

    def _origin(self, thing: Any, line: str) -> tuple[str, Path | None, str | None]:
        """Return a component's origin (for messages), file and digest.

        `line` is the file and line that register it.
        """
        module = getattr(thing, "__module__", None) or "this session"
        if module.startswith("lecun_ablate."):
            return module, None, None
        if self._loading is not None:
            return line, self._loading.path, self._loading.digest
        try:  # defined in an interactive session or a script
            lines, first = inspect.getsourcelines(thing)
        except (OSError, TypeError):
            return module, None, hashlib.sha256(repr(thing).encode()).hexdigest()
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        return f"{inspect.getsourcefile(thing)}:{first}", None, digest

    def load(self, file: str | Path) -> None:
        """Run a Python file that registers components. Loading it again changes nothing.

        It may import the user's modules, which are then part of it: from the working directory, any
        other folder of sys.path, or the file's own folder. Raises ConfigError if the file is
        missing, fails, or registers nothing. A file that fails registers nothing.
        """
        path = Path(file).resolve()
        if not path.is_file():
            raise ConfigError(f"{file}: no such component file{neighbours(file, '*.py')}")
        try:
            source = _Source.read(path)
        except OSError as error:
            raise unreadable(error.filename, error) from None
        digest = source.digest
        if any(c.file == path and c.digest == digest for c in self._all()):
            return
        module = ModuleType(f"lecun_ablate_user_{digest[:8]}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # dataclasses and inspect look there
        before = {kind: dict(components) for kind, components in self._components.items()}
        outer, self._loading = self._loading, source
        sys.path.append(str(path.parent))
        try:
            self._forget_old(source)
            with imports.as_read(source.files, source.modules):
                exec(compile(source.content, str(path), "exec"), module.__dict__)
                for name in source.modules:  # including those that only functions import
                    importlib.import_module(name)
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
            sys.path.remove(str(path.parent))

    def _forget_old(self, source: _Source) -> None:
        """Make Python reimport modules that came from other files, or whose files have changed."""
        digests = {
            name: hashlib.sha256(content).hexdigest() for name, content in source.modules.items()
        }
        ran = {name: getattr(sys.modules.get(name), "__file__", None) for name in digests}
        if any(
            self._ran.get(name, digest) != digest
            or ((place := ran[name]) and Path(place).resolve() != source.files[name])
            for name, digest in digests.items()
        ):
            for name in digests:
                sys.modules.pop(name, None)
        importlib.invalidate_caches()
        self._ran |= digests

    def _all(self) -> list[Component]:
        return [c for components in self._components.values() for c in components.values()]


def _interactive(thing: Any) -> bool:
    """Return whether a component was defined in a session or a notebook."""
    if getattr(thing, "__module__", None) != "__main__":
        return False
    return not hasattr(sys.modules["__main__"], "__file__")  # a script has one


def _failure(file: str | Path, path: Path, error: BaseException) -> str:
    """Return a message with the line at which a component file failed."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    where = f"{file}:{line}" if line else str(file)
    if isinstance(error, SystemExit):
        return f"{where}: expected a file that runs to its end, got an exit ({error.code})"
    return f"{where}: {type(error).__name__}: {error}"


def _arity(kind: Kind, name: str, function: Callable[..., Any], origin: str) -> int:
    """Return how many arguments of its kind `function` takes; ConfigError if it cannot fit."""
    expected = f"expected {kind.name}({', '.join(kind.arguments)})"
    if not callable(function):
        raise ConfigError(f"{origin}: {kind.name} {name!r} is not callable: {expected}")
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
        got = f"{name}{inspect.signature(function)}"
        raise ConfigError(
            f"{origin}: {kind.name} {name!r} has the wrong arguments: {expected}, got {got}"
        )
    return arity


registry = Registry()
register = registry.register
