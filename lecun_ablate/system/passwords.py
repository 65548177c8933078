"""Masking passwords in addresses before they are shown or written."""

from __future__ import annotations

import re

_SECRET = r"[\w.-]*(?:passw|passphrase|pwd|secret|token|credential|api_?key|odbc_connect)[\w.-]*"


def without_passwords(text: str) -> str:
    """Return a text with *** for every password and token in an address."""
    text = re.sub(r"(://[^:/?#@\s]*):\S*@", r"\1:***@", text)
    text = re.sub(r"(https?://)[^:/?#@\s]+@", r"\1***@", text)  # a token instead of a user name
    return re.sub(rf"(?i)([?&;]{_SECRET}=)[^&;\s'\"]*", r"\1***", text)


def without_user(address: str) -> str:
    """Return the address of a server without user and password, as a link for a browser."""
    address = re.sub(r"^(\w+://)[^\s/?#]*@", r"\1", address)
    address = re.sub(r"^(\w+://)\S*@", r"\1", address)  # a password may contain / ? and #
    return without_passwords(address)
