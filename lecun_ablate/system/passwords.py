"""Passwords in addresses: what is shown or written anywhere goes without them."""

from __future__ import annotations

import re


def without_passwords(text: str) -> str:
    """Return a text in which *** stands for the password of every address."""
    text = re.sub(r"(://[^:/@\s]*):[^\s]*@", r"\1:***@", text)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", text)
