"""Text that came from hosts, made safe to show: no control characters, no bidirectional tricks, bounded."""

from __future__ import annotations

import unicodedata


def number(value: float) -> str:
    """A figure as people write it: four digits, or whole with thousands parted."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def plain(text: str, limit: int = 2000) -> str:
    """`text` on one line, with every character that could steer a terminal shown by its number."""
    # Nearly all text is: then there is nothing to replace.
    if len(text) <= limit and text.isprintable():
        return text
    shown = []
    for character in text[:limit]:
        if character in "\n\t":
            shown.append(" ")
        elif unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            shown.append(f"\\u{ord(character):04x}")
        else:
            shown.append(character)
    return "".join(shown) + ("…" if len(text) > limit else "")
