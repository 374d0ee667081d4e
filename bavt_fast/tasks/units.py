"""The unit behind a number, far enough to tell dollars from cents; nothing is ever converted."""

from __future__ import annotations

import re

__all__ = ["PERCENT", "unit_of"]

PERCENT = "%"

_NAMES = {
    "centimeter": "cm centimetre",
    "millimeter": "mm millimetre",
    "meter": "m metre",
    "kilometer": "km kilometre",
    "inch": "in inches",
    "foot": "ft feet",
    "yard": "yd",
    "mile": "mi",
    "gram": "g",
    "kilogram": "kg",
    "milligram": "mg",
    "ounce": "oz",
    "pound": "lb lbs £ gbp",
    "second": "s sec secs",
    "minute": "min mins",
    "hour": "h hr hrs",
    "liter": "l litre",
    "milliliter": "ml millilitre",
    "dollar": "$ usd",
    "cent": "¢",
    "euro": "€ eur",
    "yen": "¥ jpy",
    "rupee": "₹ inr",
    "degree": "deg \\circ",
    PERCENT: "percent pct percentage",
}
_CANONICAL = {name: unit for unit, names in _NAMES.items() for name in (unit, *names.split())}
# What may follow a number without being its unit: "18 in all", "18 left".
_NO_UNITS = frozenset(["in", "is", "are", "of", "per", "each", "left", "more", "total", "altogether", "remaining"])
# Right behind a number they are units, and not a product of variables as in 2xy.
_SHORT = frozenset(name for name in _CANONICAL if len(name) <= 2 and name.isalpha())
_FIRST = re.compile(r"([^\W\d_]+)(?:\^\{?(\d))?")
_WORD = r"[^\W\d_]+(?:['-][^\W\d_]+)*\.?(?:\^\{?\d\}?)?"
_UNIT = re.compile(
    rf"(?P<space>[\s-]?)(?:(?P<sign>%|¢|[$€£¥₹]|\^?\{{?\\circ\}}?)(?P<rest>.*)|(?P<words>{_WORD}(?:(?:\s?/\s?|\s){_WORD}){{0,5}}))"
)


def unit_of(text: str, currency: str = "") -> str | None:
    """The unit that stands behind a number, or before it as a currency: its first word in the singular.

    Returns:
        "" for none; None where the text is not a unit, and so what stands before it not a mere number.
    """
    text = text.rstrip()
    if not text:
        return _CANONICAL.get(currency.strip(), "")
    match = _UNIT.fullmatch(text)
    if match is None:
        return None
    if match["sign"]:
        rest = match["rest"].strip()
        if rest and not re.fullmatch(rf"{_WORD}(?:\s{_WORD}){{0,5}}", rest):
            return None
        return _CANONICAL[match["sign"].strip("^{}")]
    first = _FIRST.match(match["words"])
    assert first is not None, "a word begins with a letter"
    word, whole = first[1].casefold(), len(match["words"]) == len(first[1])
    if len(word) == 1 and not (match["space"] == " " and (word in _SHORT or not whole)):
        return None
    if len(word) == 2 and match["space"] != " " and word not in _SHORT:
        return None
    if currency.strip():
        return _CANONICAL[currency.strip()]
    return "" if word in _NO_UNITS and not (whole and word in _SHORT) else _singular(word) + (first[2] or "")


def _singular(word: str) -> str:
    if word in _CANONICAL:
        return _CANONICAL[word]
    cut = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
    return _CANONICAL.get(cut, cut)
