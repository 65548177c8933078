"""The answer where a function of the user's cannot be compiled."""


class Refused(Exception):
    """Why a function is not compiled, in words that follow "cannot compile activation 'f': "."""
