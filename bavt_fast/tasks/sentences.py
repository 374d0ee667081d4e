"""The number that a sentence says, where it says one and nothing about it but its unit."""

from __future__ import annotations

import functools
import re

from bavt_fast.tasks.units import CHANGING, CURRENCIES, unit_of, vocabulary
from bavt_fast.tasks.values import MAX_LENGTH, NUMBER, UNENDING, read, undressed

__all__ = ["only_number"]

_IN_SENTENCE = re.compile(
    rf"(?<![\w.,/^])[-+]?(?:[{CURRENCIES}]\s?)?{NUMBER}"
    r"(?:\s?%|\s?\^\{?\\circ\}?(?:\s?[CF](?![A-Za-z]))?)?(?![\w^*!]|/(?![^\W\d_]{2})|[.,]\d)"
)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
# What stands around a number in a sentence; in a formula there are other signs.
_PLAIN = re.compile(r"[^\\^{}\[\]+*/<>|=~#@&√‰_]*")
_BEHIND = re.compile(r"(?:-|/|\s)[^\W\d_]+(?:'[^\W\d_]+)?(?:[\s/][^\W\d_]+(?:'[^\W\d_]+)?){0,5}")
_COMPARED = re.compile(r"[<>!~]|\\(?:[lgn]eq?|lt|gt|neq|not|approx|sim|geqslant|leqslant)(?![A-Za-z])")
# A variable beside a number or a minus, or within brackets: "2x = 10" does not say what x is, and "a + b = 10" may.
_UNSOLVED = re.compile(
    r"\d\s?[-+*/]?\s?(?!x\s?\d)[A-Za-z](?![A-Za-z])|(?<![A-Za-z])[A-Za-z]\s?[-+*/^]\s?[\d{(]"
    r"|(?<![\w)}])\s?-\s?[A-Za-z](?![A-Za-z])|[({|]\s?[A-Za-z](?![A-Za-z])",
    re.ASCII,
)

_DOUBTS = vocabulary(
    """
    not no never nor neither cannot wrong incorrect false impossible
    if unless without except instead suppose maybe perhaps might
    """
)
"""Words that leave a sentence's number unsaid, wherever they stand."""
_CHANGING_BEFORE = CHANGING | vocabulary(
    """
    than times and negative root cube base multiple factor divisor out some any percent function
    step case part question problem example equation figure page option choice add subtract multiply divide round
    chapter room first last next but
    """
)
_BETWEEN = vocabulary("to for the these those her his its their a")
_PREPOSITIONS = vocabulary("of by from")
# "A total of 5" is 5, and "the inverse of 5" is not.
_BEFORE_PREPOSITIONS = vocabulary(
    """
    total sum amount cost price rate profit distance length height width area volume speed age average mean result
    answer increase decrease increased decreased changed grew
    """
)
# Of one word before a number; another one may name something, such as Apollo 11, or ask for it, as does "Round 5".
_ALONE = vocabulary(
    """
    about approximately roughly around exactly only just so thus therefore hence total totally altogether answer result
    is are it that there get gets equals yes finally i in at on
    """
)


@functools.lru_cache(maxsize=4096)
def only_number(sentence: str) -> str | None:
    """The number in a sentence that has one alone, or the one behind its last equals sign, with its unit; else None.

    "She makes 18 dollars a day." has 18 dollars, and "So 3 + 4 = 7" has 7. A sentence that denies its number, limits
    it, or changes it has none: "It is not 5.", "less than 5", "half of 5".
    """
    bare = undressed(sentence[-4 * MAX_LENGTH :])
    words = _WORD.findall(bare.casefold())
    if UNENDING.search(sentence) or _DOUBTS.intersection(words) or any(word.endswith("n't") for word in words):
        return None
    before, _, behind = bare.rpartition("=")
    if before:
        is_said = not _COMPARED.search(bare) and not _UNSOLVED.search(before)
        return behind.strip() if is_said and read(behind).number is not None else None
    found = list(_IN_SENTENCE.finditer(bare))
    if len(found) != 1:
        return None
    start, end = found[0].span()
    words_behind = _behind(bare[end:])
    if words_behind is None or _is_changed(bare[:start]):
        return None
    if not _PLAIN.fullmatch(bare[:start] + bare[end + len(words_behind) :]):
        return None
    amount = found[0][0].strip() + words_behind
    return amount if read(amount).number is not None else None


def _behind(text: str) -> str | None:
    """The first words behind a number; None where they change it."""
    if re.match(r"\s?-(?![^\W\d_]{3})", text):  # 5 - x
        return None
    words = _BEHIND.match(text)
    if words is None:
        return ""
    first = re.split(r"\sand(?!\w)", words[0])[0]
    return first if first and unit_of(first) is not None else None


def _is_changed(before: str) -> bool:
    """Whether the words before a number, back to the last comma or the like, change it."""
    if re.search(r"\w\($|-\s*$", before):  # f(5), x - 5
        return True
    words = _WORD.findall(re.split(r"[.,;:?!\"]", before.casefold())[-1])
    number_of_words = len(words)
    while words and words[-1] in _BETWEEN:
        words.pop()
    if words and words[-1] in _PREPOSITIONS:
        return len(words) == 1 or words[-2] not in _BEFORE_PREPOSITIONS
    if number_of_words == 1 and words and words[0] not in _ALONE:
        return True
    return bool(words) and (words[-1] in _CHANGING_BEFORE or (len(words[-1]) == 1 and words[-1] != "i"))
