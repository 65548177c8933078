"""The modules of a user's own project that a Python file imports: found without running any, and
imported as they were read.

Their code affects a component's numbers as much as the component's own file does.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType


def roots(file: Path) -> list[Path]:
    """Return the folders of the user's own modules: those of sys.path, then the file's own.

    Folders of Python itself and of installed packages are left out.
    """
    found = [Path(entry or ".").resolve() for entry in [*sys.path, str(file.parent)]]
    own = [folder for folder in found if folder.is_dir() and not _is_installed(folder)]
    return list(dict.fromkeys(own))


def imported(source: bytes, roots: Sequence[Path]) -> dict[str, Path]:
    """Return the modules in `roots` that a file imports, and those that these import, by name.

    Imports inside functions count. Modules that are imported by a computed name are not found.
    """
    found: dict[str, Path] = {}
    waiting = list(_names(source, ""))
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        if parts[0] in sys.stdlib_module_names or parts[0] == "lecun_ablate" or _known(parts[0]):
            continue
        for module in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
            file = _file(module, roots)
            if file is None or module in found:
                continue
            found[module] = file
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            waiting += _names(file.read_bytes(), package)
    return dict(sorted(found.items()))


def digest(source: bytes, modules: Mapping[str, bytes]) -> str:
    """Return a SHA-256 of a file and of the modules that it imports; of the file alone, if none."""
    own = hashlib.sha256(source).hexdigest()
    if not modules:
        return own
    each = {name: hashlib.sha256(content).hexdigest() for name, content in modules.items()}
    content = json.dumps({"file": own, "modules": each}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


@contextlib.contextmanager
def as_read(files: Mapping[str, Path], contents: Mapping[str, bytes]) -> Iterator[None]:
    """Let modules be imported with these contents, in which their digest was computed.

    Python itself would read the file again, which may have changed, or take its bytecode cache,
    which goes by size and second: an edit of one digit can escape it.
    """
    finder = _Finder(files, contents)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    def __init__(self, files: Mapping[str, Path], contents: Mapping[str, bytes]):
        self._files, self._contents = files, contents

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._files:
            return None
        file = str(self._files[name])
        return spec_from_file_location(name, file, loader=_Loader(name, file, self._contents[name]))


class _Loader(SourceFileLoader):
    def __init__(self, name: str, file: str, content: bytes):
        super().__init__(name, file)
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._content, self.path, "exec", dont_inherit=True)


def path_of(module: str, file: Path) -> str:
    """Return a module's path relative to its root, such as `package/module.py`."""
    folder = module.replace(".", "/")
    return f"{folder}/__init__.py" if file.name == "__init__.py" else f"{folder}.py"


def _names(source: bytes, package: str) -> Iterator[str]:
    """Yield the names of modules, or of their contents, that a source imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # running it will report the error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # each dot after the first goes up one package
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join(filter(None, [*parts, base]))
            if base:
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _file(module: str, roots: Sequence[Path]) -> Path | None:
    place = module.replace(".", "/")
    for root in roots:
        for file in (root / place / "__init__.py", root / f"{place}.py"):
            if file.is_file():
                return file
    return None


def _known(name: str) -> bool:
    """Return whether a top-level module has been imported from an installed package."""
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
    return isinstance(origin, str) and _is_installed(Path(origin).resolve().parent)


def _is_installed(folder: Path) -> bool:
    """Return whether a folder belongs to Python itself or to installed packages."""
    if {"site-packages", "dist-packages"} & set(folder.parts):
        return True
    paths = sysconfig.get_paths()
    return any(folder.is_relative_to(Path(paths[k]).resolve()) for k in ("stdlib", "platstdlib"))
