"""What the command line tells, as numbers."""

import re


def taken_back(said: str) -> int:
    """Return how many runs a start took back: a kill came between their files and their rows."""
    notice = re.search(r"NOTICE: (\d+) finished runs? that the store had lost", said)
    return int(notice[1]) if notice else 0
