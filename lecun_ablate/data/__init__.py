"""Data sets: handwritten digits, 16x16, in [-1, 1].

A data set is one file here (or in a file of components of the user's own) with one loader that is
decorated with `@register("data")`. Importing this package imports no library but NumPy.
"""

from lecun_ablate.data import sklearn_digits, usps  # noqa: F401  (they register themselves)
from lecun_ablate.data.digits import Digits, Split
from lecun_ablate.data.loading import PLACE_VARIABLE, Unavailable, load, load_exactly
from lecun_ablate.data.places import Found, survey
from lecun_ablate.data.sheet import contact_sheet

__all__ = [
    "PLACE_VARIABLE",
    "Digits",
    "Found",
    "Split",
    "Unavailable",
    "contact_sheet",
    "load",
    "load_exactly",
    "survey",
]
