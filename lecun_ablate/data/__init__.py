"""Data sets of handwritten digits: 16x16 pixels in [-1, 1].

A data set is a loader decorated with `@register("data")`, in a module here or in a component file.
Importing this package imports no library but NumPy.
"""

from lecun_ablate.data import sklearn_digits, usps  # noqa: F401  (registers the data sets)
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
