"""Text as it is shown: counted nouns; users' text escaped for terminal, Markdown, spreadsheet."""

from __future__ import annotations

import re
import unicodedata

# controls, invisible format characters such as those that reverse the writing direction, # lone
# surrogates, and line separators
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # format characters that words of some languages need


def is_invisible(character: str) -> bool:
    """Return whether a character is invisible but affects the text around it."""
    return unicodedata.category(character) in _INVISIBLE and character not in _JOINERS


def visible(text: str, keep: str = "\n") -> str:
    """Return a text with control and format characters escaped, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(_written_out(c) if is_invisible(c) and c not in keep else c for c in text)


def _written_out(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def markdown(text: str) -> str:
    """Return a text as inline Markdown, on one line, without HTML, links or pictures."""
    line = visible(" ".join(text.split()))
    return line.replace("<", "&lt;").replace("](", "]\\(")


def markdown_line(text: str) -> str:
    """Return the same for the start of a line, where a '#' would make a heading."""
    return re.sub(r"^(#|>|[-+*](?=\s)|`{3}|~{3}|[-=*_]{3,}$)", r"\\\1", markdown(text))


def csv_cell(value: object) -> object:
    """Return a CSV value that no spreadsheet interprets as a formula."""
    if not isinstance(value, str):
        return value
    text = visible(value, keep="\n\t")
    formula = text[:1] in ("=", "@", "\t", "\r") or (
        text[:1] in ("+", "-") and re.search(r"[|(!]", text)
    )
    return f"'{text}" if formula else text


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 seed", "12 seeds", "5 searches"."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a noun: "seeds", "searches"."""
    return f"{noun}{'es' if noun.endswith('search') else 's'}"
