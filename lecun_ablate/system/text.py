"""Texts of users, made harmless for where they are shown: terminal, Markdown, spreadsheet."""

from __future__ import annotations

import re
import unicodedata

# controls, invisible format characters such as those that turn the direction of writing around,
# lone surrogates, and what breaks lines
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # format characters that words of some languages need


def is_invisible(character: str) -> bool:
    """Tell whether a character shows nothing by itself, but changes what is around it."""
    return unicodedata.category(character) in _INVISIBLE and character not in _JOINERS


def visible(text: str, keep: str = "\n") -> str:
    """Return a text with every control or format character but those in `keep` written out."""
    if text.isprintable():
        return text
    return "".join(_written_out(c) if is_invisible(c) and c not in keep else c for c in text)


def _written_out(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def markdown(text: str) -> str:
    """Return a text as one line of Markdown without HTML, links or pictures; for inside a line."""
    line = visible(" ".join(text.split()))
    return line.replace("<", "&lt;").replace("](", "]\\(")


def markdown_line(text: str) -> str:
    """Return the same for the beginning of a line, where a '#' would make a heading."""
    return re.sub(r"^(#|>|[-+*](?=\s)|`{3}|~{3}|[-=*_]{3,}$)", r"\\\1", markdown(text))


def csv_cell(value: object) -> object:
    """Return a value of a CSV file that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = visible(value, keep="\n\t")
    formula = text[:1] in ("=", "@", "\t", "\r") or (
        text[:1] in ("+", "-") and re.search(r"[|(!]", text)
    )
    return f"'{text}" if formula else text
