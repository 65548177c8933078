"""Fair, paired, reproducible ablations of LeCun's 1989 zip-code network."""

from lecun_ablate.registry import register

__version__ = "0.1.0"
__all__ = ["load_results", "register", "run"]


def __getattr__(name: str):
    """Import the heavy entry points only when they are asked for."""
    if name in ("run", "load_results"):
        from lecun_ablate import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
