"""A number read strictly from a model's reply.

Only the first line that is not blank counts. Without the white space, quotes, brackets and markdown around it, it must
be a rating and nothing else:

    rating   = [ label ] number [ scale ] [ "." | "!" ]
    label    = [ words ] name [ ":" | "：" | "=" | "is" | "of" ]
    words    = any of "the", "my", "your", "final", "overall"
    name     = "score" | "rating" | "grade" | "value" | "number" | "probability" | "confidence"
    number   = [ "+" | "-" ] ASCII digits with at most one decimal point, at most 9 digits on either side of it
    scale    = ( "/" | "out of" ) the highest number of the scale, or "%" where that is 100

So "8", "8/10", "8 out of 10", "**Score: 8**" and "My rating is 8." are 8 on a scale to 10. A number is taken on the
scale as it stands: "0.8" is 0.8 of 10. There is no rating in "8 or 9", "3 + 4 = 7", "10 pencils", "1. First", "80%" and
"8/5" on that scale, "NaN", "the answer is 7" (which solves the problem instead), nor in a number outside the scale.
"""

from __future__ import annotations

import re

__all__ = ["read_rating"]

_AROUND = " \t\r*_`~\"'“”‘’«»()[]{}"
_LONGEST = 100
_RATING = re.compile(
    r"""(?: (?: (?:the|my|your|final|overall) \s+ )*
            (?: score | rating | grade | value | number | probability | confidence )
            [\s*_`]* (?: (?: [:：=] | is\b | of\b ) [\s*_`]* )? )?
        (?P<number> [+−-]? (?: [0-9]{1,9} (?:\.[0-9]{1,9})? | \.[0-9]{1,9} ) )
        (?: \s* (?: / | out\s+of\b ) \s* (?P<highest> [0-9]{1,9} (?:\.[0-9]{1,9})? ) | \s? (?P<percent> %) )?
        [*_`]* [.!]?""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def read_rating(reply: str, low: float, high: float, *, cut: bool = False) -> float | None:
    """The number in a reply, from ``low`` to ``high``; None where there is none by the grammar of this module.

    Args:
        cut: whether a limit cut the reply short. A number that nothing follows may then be the beginning of another
            ("1" of "10"), and is none.
    """
    line, newline, _ = reply.lstrip().partition("\n")
    line = line.strip(_AROUND)
    rating = _RATING.fullmatch(line) if len(line) <= _LONGEST else None
    if rating is None or (cut and not newline and reply.endswith(line)):
        return None
    if rating["highest"] is not None and float(rating["highest"]) != high:
        return None
    if rating["percent"] is not None and high != 100.0:
        return None
    number = float(rating["number"].replace("−", "-"))
    return number if low <= number <= high else None
