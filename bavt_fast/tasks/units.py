"""The words behind a number: a unit, far enough to tell dollars from cents, or words that make it another number.

Nothing is ever converted from one unit to another. "5 million" and "2 thirds" are multiplied out; what else would
change the number, as in "5 squared", "2 pi" or "6 or more", is no unit.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from typing import NamedTuple

__all__ = ["CHANGING", "CURRENCIES", "PERCENT", "Unit", "is_name", "unit_of", "vocabulary"]

PERCENT = "%"
CURRENCIES = "$€£¥₹₩₽"


def vocabulary(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


_NAMES = {
    "centimeter": "cm centimetre",
    "millimeter": "mm millimetre",
    "meter": "m metre",
    "kilometer": "km kilometre kph kmh",
    "inch": 'in inches "',
    "foot": "ft feet '",
    "yard": "yd",
    "mile": "mi mph",
    "gram": "g",
    "kilogram": "kg",
    "milligram": "mg",
    "ounce": "oz",
    "pound": "lb lbs £ gbp",
    "second": "s sec secs",
    "minute": "min mins",
    "hour": "h hr hrs",
    "day": "",
    "week": "wk wks",
    "month": "",
    "year": "yr yrs",
    "liter": "l litre",
    "milliliter": "ml millilitre",
    "gallon": "gal",
    "quart": "qt",
    "tablespoon": "tbsp",
    "teaspoon": "tsp",
    "rpm": "",
    "unit": "",
    "dollar": "$ usd",
    "cent": "¢",
    "euro": "€ eur",
    "yen": "¥ jpy",
    "rupee": "₹ inr",
    "won": "₩ krw",
    "ruble": "₽",
    "degree": "deg \\circ",
    "radian": "rad rads",
    "am": "",
    "pm": "",
    PERCENT: "percent pct percentage",
}
_CANONICAL = {name: unit for unit, names in _NAMES.items() for name in (unit, *names.split())}
_BEFORE = {**_CANONICAL, "us$": "dollar", "rs": "rupee"}  # as currencies; 2rs is a product
_PER_HOUR = frozenset(["mph", "kph", "kmh"])
_SCALES_OF_DEGREES = {"C": "celsius", "Celsius": "celsius", "F": "fahrenheit", "Fahrenheit": "fahrenheit"}
_PER = vocabulary("per a an each every")
# As capitals they are millions, and variables.
_SMALL = frozenset(["m", "g", "s", "h", "mm"])
# What may follow a number without being its unit: "18 in all", "18 left".
_NO_UNITS = vocabulary(
    """
    in is are was were of per each left more less fewer than total altogether remaining a an at by for from on so to as
    every extra additional
    """
)
_POWERS = {"squared": "2", "cubed": "3"}
_POWERS_BEFORE = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}

# ---- Words that make a number another one

_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2,
    "third": 3,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
    "twelfth": 12,
    "sixteenth": 16,
    "twentieth": 20,
    "hundredth": 100,
    "thousandth": 1000,
    "millionth": 10**6,
}
_SCALED: dict[str, Fraction] = {
    **{name + ending: Fraction(scale) for name, scale in _SCALES.items() for ending in ("", "s")},
    **{"halves" if name == "half" else name + "s": Fraction(1, part) for name, part in _PARTS.items()},
}
CHANGING = frozenset([*_SCALED, *_PARTS]) | vocabulary(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    quarter quarters score scores gross grand mil kilo mega giga lakh lakhs crore crores myriad quadrillion quintillion
    googol zillion thou bil tril tens double twice triple thrice quadruple fold doubled tripled halved inverse
    repeating recurring nothing raised
    pi tau theta phi infinity sqrt cbrt sin cos tan cot csc arcsin arccos arctan log ln exp
    mod modulo gcd lcm det squared cubed square cubic power powers factorial
    plus minus divided multiplied added subtracted over abc xyz
    or least most up above below under beyond nearly almost minimum maximum upwards between
    not no never nor neither cannot wrong incorrect false impossible too
    tausend millionen milliarde milliarden dutzend mille milliard milliards douzaine douzaines demi
    millones millón docena docenas mitad milhões milhão mila milioni
    тысяч тысячи миллион миллиона миллионов миллиард миллиардов
    """
)
"""Words that change the number beside them, or what is said of it."""
_NOT_BEHIND = frozenset([*CHANGING, "and", "times"])
_SCALE_SIGN = re.compile("[十百千万億亿兆萬半倍]")
# "5 times", and "5 times as many", are numbers; "5 times two" and "5 times x" are not.
_AFTER_TIMES = frozenset(["as", "more", "per", "a", "each", "every", "in"])

_WORD = r"[^\W\d_]+(?:['-][^\W\d_]+)*\.?(?:\^\{?\d\}?)?"
_WORDS = rf"{_WORD}(?:(?:\s?/\s?|\s){_WORD}){{0,5}}"
_UNIT = re.compile(
    rf"(?P<space>[\s-]?)(?:(?P<sign>%|¢|'|\"|[{CURRENCIES}]|\^?\{{?\\circ\}}?)\s?(?P<rest>(?:/\s?)?{_WORDS})?"
    rf"|(?P<words>(?:/\s?)?{_WORDS}))"
)
_PART = re.compile(r"(?P<name>[^\W\d_]+(?:['-][^\W\d_]+)*)\.?(?:\^\{?(?P<power>\d)\}?)?")
_SPOKEN = re.compile(r"[^b-df-hj-np-tv-xz]")


class Unit(NamedTuple):
    """What stands behind a number.

    Attributes:
        name: the unit in the singular; "" for none.
        scale: what the words multiply the number with: "5 million" is 5, times a million.
        detail: the unit behind "per", such as the hour of "km/h", or the scale of degrees; "" for none.
    """

    name: str = ""
    scale: Fraction = Fraction(1)
    detail: str = ""


def unit_of(text: str, currency: str = "") -> Unit | None:
    """The unit that stands behind a number, or before it as a currency.

    Known units are told by their names, and any other word behind a space is taken for a noun, such as "apples".

    Returns:
        None where the text is not a unit, and so what stands before it not a mere number.
    """
    text, before = text.rstrip(), _BEFORE.get(currency.strip(" .").casefold(), "")
    if not text:
        return Unit(before)
    match = _UNIT.fullmatch(text)
    if match is None:
        return None
    if match["sign"]:
        unit = _CANONICAL[match["sign"].strip("^{}")]
        words = _parts(match["rest"] or "")
        detail = _detail([(unit, ""), *words])
        if unit == "degree" and words and words[0][0] in _SCALES_OF_DEGREES:
            del words[0]
        return Unit(unit, detail=detail) if _leave_it(words) else None
    words = _parts(match["words"])
    if match["words"].startswith("/") and not (len(words[1][0]) > 1 and (before or is_name(words[1][0]))):
        return None  # 5/x
    scale, detail = Fraction(1), _detail(words)
    while words and not words[0][1] and words[0][0].casefold() in _SCALED:
        scale *= _SCALED[words.pop(0)[0].casefold()]
    if not words:
        return Unit(before, scale)
    if detail in _SCALES_OF_DEGREES.values():
        del words[1]
    if before:  # $5 m are millions
        is_short = len(words[0][0]) <= 2 and words[0][0] != "in" and is_name(words[0][0])
        return Unit(before, scale, detail) if _leave_it(words) and not is_short else None
    name = _name(words, is_apart=match["space"] == " " or match["words"].startswith("/") or scale != 1)
    return None if name is None else Unit(name, scale, detail)


def _parts(text: str) -> list[tuple[str, str]]:
    """The words of a text, each with its power; a slash is "per"."""
    parts: list[tuple[str, str]] = []
    for part in _PART.finditer(text.replace("/", " per ")):
        parts.append((part["name"], part["power"] or ""))
        if part["name"].casefold() in _PER_HOUR:
            parts += [("per", ""), ("hour", "")]
    return parts


def _detail(words: list[tuple[str, str]]) -> str:
    """The unit behind the first "per", or what kind of degrees they are; "" for none."""
    for (word, _), (following, power) in itertools.pairwise(words):
        if word.casefold() in _PER and (unit := _known(following)) is not None:
            return unit + power
        if _known(word) == "degree" and following in _SCALES_OF_DEGREES:
            return _SCALES_OF_DEGREES[following]
    return ""


def is_name(word: str) -> bool:
    """Whether a word is the name of a unit, such as "km" or "dollars"."""
    return _known(word) is not None


def _name(words: list[tuple[str, str]], is_apart: bool) -> str | None:
    """The unit that words begin with; "" for none; None where they are something else.

    Args:
        is_apart: a space stands before them. "5km" is an amount, and "2xy" a product.
    """
    (first, power), *rest = words
    word, second = first.casefold(), rest[0][0].casefold() if rest else ""
    if word in _POWERS_BEFORE and second and not power:  # square feet, and square tiles
        unit = _known(rest[0][0])
        if unit is None or rest[0][1]:
            return word if is_apart and _leave_it(rest) else None
        return unit + _POWERS_BEFORE[word] if is_apart and _leave_it(rest[1:]) else None
    if word == "per" and second == "cent":
        return PERCENT if _leave_it(rest[1:]) else None
    unit = _known(first) if is_apart or len(first) > 1 else None
    if unit is not None and second in _POWERS and not power:
        return unit + _POWERS[second] if _leave_it(rest[1:]) else None
    if unit is not None and not (word == "in" and rest and not power):
        return unit + power if _leave_it(rest) else None
    if not is_apart or not _leave_it(words):
        return None
    if word in _NO_UNITS:
        return ""
    return _singular(word) if len(word) > 2 else None


def _known(word: str) -> str | None:
    """A known unit by one of its names."""
    if word.casefold() in _SMALL and word not in _SMALL:
        return None
    return _CANONICAL.get(_singular(word.casefold()))


def _singular(word: str) -> str:
    if word in _CANONICAL:
        return _CANONICAL[word]
    cut = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
    return _CANONICAL.get(cut, cut)


def _leave_it(words: list[tuple[str, str]]) -> bool:
    """Whether words behind a number leave it as it is.

    They do not where one of them changes it, nor where one is a variable, or several, such as x, xyz or r^2.
    """
    for place, (word, power) in enumerate(words):
        known, parts = is_name(word), re.split("['-]", word.casefold())
        if known or (word == "a" and not power):
            continue
        if power or len(word) == 1 or _SCALE_SIGN.search(word):
            return False
        if not _SPOKEN.search(word.casefold()) and not re.fullmatch("[A-Z]{2,}s", word):  # TVs
            return False
        if word == "over" and place and words[place - 1][0] == "left":
            continue
        if parts == ["times"] and (place + 1 == len(words) or words[place + 1][0].casefold() in _AFTER_TIMES):
            continue
        if _NOT_BEHIND.intersection(parts) or word.casefold().endswith("n't"):
            return False
    return True
