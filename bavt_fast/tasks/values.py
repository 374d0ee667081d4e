r"""What an answer stands for: a number with its unit, LaTeX for other mathematics, normalised text for the rest.

    "$18", "18.00 dollars", "\text{18 dollars}"     the number 18, in dollars
    "5 million", "$5 million", "2 and a half"       the numbers 5000000, the same in dollars, and 5/2
    "1/2", "\frac12", "0.5", "½", "50%"             the number 1/2
    "x^2 - 1", "(0, 1]", "√2", "\pm 3"              LaTeX, which a computer algebra system can compare
    "Paris.", "**paris**", "\text{Paris}"           the text "paris"
    "B", "(b)", "B) Paris", "(B) Paris"             the choice "b"

Numbers are compared here, exactly. Nothing is ever evaluated, so an answer such as 10^10^10 costs nothing.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from bavt_fast.tasks.announced import UNSEEN, plain
from bavt_fast.tasks.units import CURRENCIES, PERCENT, is_name, unit_of

__all__ = ["MAX_LENGTH", "NUMBER", "UNENDING", "Value", "bare_answer", "compare", "read", "undressed"]

MAX_LENGTH = 400
"""Characters of an answer above which it is compared as text alone."""
CLOSE = Fraction(1, 10**9)
"""Relative difference within which two decimals are equal: what arithmetic in floating point leaves."""


class Value(NamedTuple):
    """An answer as it is compared.

    Attributes:
        text: the answer normalised: without markdown, LaTeX's dressing, capitals and punctuation around it.
        number: what it is as a number; None where it is none.
        decimal: whether the number is written as a decimal, so that it may be rounded.
        unit: its unit in the singular; "%" for a percentage; "" for none.
        latex: what it is as mathematics; None where it is none.
        detail: of the unit: the "hour" of miles per hour, the "celsius" of degrees; "" for none.
        choice: the letter before what it stands for, such as the "b" of "(B) Paris"; "" for none.
    """

    text: str
    number: Fraction | None = None
    decimal: bool = False
    unit: str = ""
    latex: str | None = None
    detail: str = ""
    choice: str = ""


def compare(reference: Value, answer: Value) -> bool | None:
    """Whether two answers are equal; None where it takes algebra to tell.

    Two numbers are equal where their values are (decimals up to rounding in floating point) and their units do not
    differ; a unit, or what follows its "per", that only one of them has is passed over. A percentage equals the number
    before its sign and that number's hundredth part, unless that number has another unit.
    """
    if reference.number is not None and answer.number is not None:
        return _compare_numbers(reference, answer)
    if reference.text and reference.text in (answer.text, answer.choice):
        return True
    if answer.text and answer.text == reference.choice:
        return True
    if reference.latex is None or answer.latex is None or _units_differ(reference, answer):
        return False
    return None


def _units_differ(reference: Value, answer: Value) -> bool:
    units, details = (reference.unit, answer.unit), (reference.detail, answer.detail)
    return any(all(both) and both[0] != both[1] for both in (units, details))


def _compare_numbers(reference: Value, answer: Value) -> bool | None:
    a, b = reference.number, answer.number
    assert a is not None, "both are numbers"
    assert b is not None, "both are numbers"
    if _units_differ(reference, answer):
        return False
    if PERCENT in (reference.unit, answer.unit) and reference.unit != answer.unit:
        percentage, other = (a, b) if reference.unit == PERCENT else (b, a)
        return other in (percentage, percentage / 100)
    if a == b or not (reference.decimal or answer.decimal):
        return a == b
    if abs(a - b) <= CLOSE * max(abs(a), abs(b)):
        return True
    exact = a if answer.decimal else b
    # 0.333333 and 1/3: how many places count is for the algebra to say.
    return None if reference.decimal != answer.decimal and exact.denominator > 1 else False


@functools.lru_cache(maxsize=4096)  # a vote compares each answer with many
def read(answer: str) -> Value:
    """What an answer stands for."""
    if len(answer) > MAX_LENGTH:
        return Value(" ".join(unicodedata.normalize("NFC", answer).split()).casefold())
    bare = undressed(answer)
    choice = _choice(bare)
    text = _normalised(_CHOSEN.sub(f"({choice}) ", bare, count=1) if choice else bare)
    if UNENDING.search(answer):  # 0.3... is not 0.3
        return Value(text + "...", choice=choice)
    number = _number(bare)
    if number is not None:
        return number._replace(text=text)
    formula, unit = _without_unit(bare)
    latex = _latex(formula)
    return Value(text, latex=latex, unit=unit if latex is not None else "", choice=choice)


def bare_answer(answer: str) -> str:
    """A mathematical answer without LaTeX's delimiters, a first "=" and the full stop; any other as it is."""
    value = read(answer)
    if value.number is None and value.latex is None:
        return answer
    bare = plain(answer).rstrip(".")
    while (match := _DELIMITED.fullmatch(bare)) and (inner := match[1] or match[2] or match[3]):
        bare = inner.strip()
    return bare.removeprefix("=").lstrip() or answer


# ---- Signs and dressing

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–‒‐‑﹣－", "-"),
        **dict.fromkeys("×⋅·∙", "*"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000\t\r\n", " "),
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("‘’‚", "'"),
        **dict.fromkeys(UNSEEN, ""),
        "。": ".",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "％": "%",
        # Arabic's percent sign, decimal point and comma; wide currencies; primes; a ratio's sign.
        "٪": "%",
        "٫": ".",
        "٬": ",",
        "￥": "¥",
        "￡": "£",
        "￦": "₩",
        "′": "'",
        "″": '"',
        "∶": ":",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∞": r"\infty ",
        "∅": r"\emptyset ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "°": r"^\circ ",
        **{sign: rf"\mathbb{{{letter}}}" for sign, letter in zip("ℝℕℤℚℂ", "RNZQC", strict=True)},
    }
)
_GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu mu nu xi pi rho sigma tau upsilon phi phi chi psi
    omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
"""
_GREEK = dict(zip("αβγδεζηθικλμµνξπρστυφϕχψωΓΔΘΛΞΠΣΥΦΨΩ", _GREEK_NAMES.split(), strict=True))
_IN_GREEK = re.compile("[\u00b5\u0370-\u03ff\u1f00-\u1fff]+")
_GREEK_WORD = re.compile("[\u0370-\u03ff\u1f00-\u1fff]{3}")
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ"
_ON_THE_LINE = str.maketrans(
    _RAISED + _LOWERED, "0123456789+-()abcdefghijklmnoprstuvwxyz" + "0123456789+-()aehijklmnoprstuvx"
)
_RAISED_OVER_LOWERED = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹]+)/([₀₁₂₃₄₅₆₇₈₉]+)")
_OFF_THE_LINE = re.compile(f"([{_RAISED}]+)|[{_LOWERED}]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_BOLD = re.compile(r"(?<![\w)])\*\*(?=\S)(.+?)(?<=\S)\*\*(?![\w(])")
_THIN = re.compile(r"(?<=\d)(?:\\[,!;:]\s?|\{,\}|,\\!\s?|')(?=\d{3}(?!\d))")
_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d/])")
_HALF_DAY = re.compile(r"(?<=\d)\s?([AaPp])\.\s?([Mm])(?![A-Za-z])\.?")
_QUOTED = re.compile(r"(?<!`)``([^`]+)''")
_SPACES = re.compile(r"(?<!\\)\\[!,;: ]|(?<!\\)~|\\q?quad(?![A-Za-z])|\\(?:left|right|displaystyle)(?![A-Za-z])")
_FRACTION_COMMAND = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_DEGREES = re.compile(r"(?<=\d)\s?(?:\^\s?\{\s?(?:o|\\degree)\s?\}|(?:\^\s?o|\^?\s?\\degree)(?![A-Za-z])|º|ᵒ)")
_WORDS_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}"
    r"|\{\\(?:rm|bf|it|sf|tt)(?![A-Za-z])([^{}]*)\}"
)
_DELIMITER = re.compile(r"(?<!\\)\\[\[\]()]")
_DELIMITED = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL)
_DOLLAR = re.compile(r"(?<!\\)\$")


def undressed(answer: str) -> str:
    """In ASCII signs as far as there are some, without markdown and the dressing that LaTeX gives a formula."""
    text = _DEGREES.sub(r"^\\circ ", answer.translate(_SIGNS))
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        if not _GREEK_WORD.search(text):
            text = _IN_GREEK.sub(_greek, text)
        text = _RAISED_OVER_LOWERED.sub(lambda match: f" {match[0].translate(_ON_THE_LINE)}", text)
        text = _NOT_ASCII.sub(_as_ascii, _OFF_THE_LINE.sub(_on_the_line, text))
    text = _DELIMITER.sub(" ", _QUOTED.sub(r'"\1"', text))
    if len(_DOLLAR.findall(text)) % 2 == 0:  # one that is left over is a currency's
        text = _DOLLAR.sub(" ", text)
    text = _THIN.sub(",", text).replace("\\$", "$").replace("\\%", "%")
    text = _BOLD.sub(r"\1", _FRACTION_COMMAND.sub(r"\\frac", _SPACES.sub(" ", text)))
    text = _HALF_DAY.sub(r" \1\2", text).replace(r"\varnothing", r"\emptyset")
    for _ in range(2):  # \text{ \mathrm{} }
        text = _WORDS_COMMAND.sub(_words, text)
    text = plain(plain(" ".join(text.split()).replace(" ^", "^")).rstrip(".,;: ")).removeprefix("=").lstrip()
    return _GROUPS.sub(lambda match: match[0].replace(" ", ""), text)


def _words(match: re.Match[str]) -> str:
    """What LaTeX sets as words; a unit of one letter, which would be a variable without it, by its name."""
    words = match[1] if match[2] is None else match[2]
    word = words.strip()
    unit = unit_of(" " + word) if len(word) == 1 and match.start() else None
    return f" {unit.name} " if unit is not None else f" {words} "


def _as_ascii(match: re.Match[str]) -> str:
    """A vulgar fraction as "1/2" with a space before it; a digit of any script, and wide letters, as ASCII's."""
    sign = match[0]
    if unicodedata.category(sign) == "Nd":
        return str(unicodedata.decimal(sign))
    folded = unicodedata.normalize("NFKC", sign).translate(_SIGNS)
    if "/" in folded:
        return f" {folded}"
    return folded if folded.isascii() else sign


def _greek(match: re.Match[str]) -> str:
    """Letters as LaTeX has them, where it has all."""
    names = [_GREEK.get(letter) for letter in match[0]]
    return match[0] if None in names else "".join(rf"\{name} " for name in names)


def _on_the_line(match: re.Match[str]) -> str:
    """Raised and lowered signs as LaTeX has them; those of 1ˢᵗ as letters."""
    signs = match[0].translate(_ON_THE_LINE)
    if signs in ("st", "nd", "rd", "th"):
        return signs
    return f"{'^' if match[1] else '_'}{{{signs}}}"


# ---- Text

_CHOICE = re.compile(r"\(?([a-z])\)?")
_CHOSEN = re.compile(r"(?<!\w)(?:\(([A-Ja-j])\)|([A-J])[).:])\s+(?=\S)")
_AND_ANOTHER = re.compile(r"(?:and|or)(?![^\W_])|[,;&/+*^=<>-]", re.IGNORECASE)
_LIST = re.compile(r"[-+]?\d{1,3}(?:,\d{3})*, \d{3}(?:, ?\d{3})*")  # 1, 234 is not 1,234
_ONE_IN_BRACES = re.compile(r"\{(\w)\}")
_INDEX = re.compile(r"(?<=[a-z])(?<!log)_(?:(\d+)|\{(\d+)\})(?!\d)")  # x_1 and x1, H_2O and H2O
_SPACE = re.compile(r"(?<!\d) | (?!\d)")  # 3 1/2 is not 31/2


def _choice(bare: str) -> str:
    """The letter of an answer such as "(B) Paris"; "" for none, or where there are several."""
    found = _CHOSEN.match(bare)
    if found is None or _CHOSEN.search(bare, found.end()) or _AND_ANOTHER.match(bare, found.end()):
        return ""
    return (found[1] or found[2]).casefold()


def _normalised(bare: str) -> str:
    text = bare.casefold().strip(' "')
    if text.startswith("'"):  # A' is not A
        text = text.strip(" \"'")
    if choice := _CHOICE.fullmatch(text):  # (B)
        return choice[1]
    if _LIST.fullmatch(text):
        return text
    text = _ONE_IN_BRACES.sub(r"\1", _INDEX.sub(r"\1\2", text)).removeprefix("the ")
    return text.rstrip("!? ") if _WORD.search(text) else _SPACE.sub("", text)


# ---- Numbers

# No thousands begin with 0: "0,100" is a list, or a decimal.
_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_POWER = r"(?:[eE](?P<e>[-+]?\d{1,3})|\s?(?:\\times|\\cdot|\*|x)\s?10\s?(?:\^|\*\*)\s?\{?(?P<ten>[-+]?\d{1,3})\}?)?"
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_RATIO = (
    rf"(?:\\frac\s?(?:\{{\s?(?P<n>[-+]?\s?{_WHOLE})\s?\}}|(?P<n1>\d))"
    rf"\s?(?:\{{\s?(?P<d>[-+]?\s?{_WHOLE})\s?\}}|(?P<d1>\d))"
    rf"|(?<![\d,])(?P<n2>{_WHOLE})\s?/\s?(?P<d2>{_WHOLE}))"
)
NUMBER = rf"(?:(?P<whole>\d+)??\s?{_RATIO}(?!\s?/)|(?P<digits>{_DIGITS}){_POWER})"
_CURRENCY = rf"(?:US)?\$|[{CURRENCIES}]|(?:USD|EUR|GBP|JPY|INR)(?![A-Za-z])|Rs(?:\.|(?![A-Za-z]))"
_AMOUNT = re.compile(
    rf"(?P<sign>[-+])?\s?(?P<currency>(?:{_CURRENCY})\s?)?(?P<sign2>[-+])?"
    rf"{NUMBER}(?P<unit>(?![\d,.]).*)?"
)
_PART_WORDS = {"half": 2, "third": 3, "quarter": 4}
_REPEATING = re.compile(
    r"(?<![\d,.])(?P<whole>\d*)\.(?P<once>\d*)"
    r"(?:\\(?:overline|bar|dot)\s?(?:\{(?P<braces>\d+)\}|(?P<one>\d))|(?P<above>(?:\d[\u0304\u0305])+))(?![\d\\])"
)
_AND_A_PART = re.compile(r"(?<=\d) and an? (half|third|quarter)(?![\w'-])")


def _number(bare: str) -> Value | None:
    match = _AMOUNT.fullmatch(_AND_A_PART.sub(_part, _REPEATING.sub(_repeating, bare)))
    if match is None or (match["sign"] and match["sign2"]):
        return None
    unit = unit_of(match["unit"] or "", match["currency"] or "")
    if unit is None:
        return None
    numerator = match["n"] or match["n1"] or match["n2"]
    if numerator is None:
        digits = match["digits"].replace(",", "")
        value = Fraction(digits) * Fraction(10) ** int(match["e"] or match["ten"] or 0)
    else:
        part = _fraction(numerator, match["d"] or match["d1"] or match["d2"])
        if part is None or (match["whole"] and part < 0):  # 2\frac{-1}{2} is a product
            return None
        value = int(match["whole"] or 0) + part
    value = (-value if "-" in (match["sign"], match["sign2"]) else value) * unit.scale
    decimal = numerator is None and "." in match["digits"]
    if numerator is None and value.denominator > 1:
        latex = _decimal_latex(value)
    else:
        latex = str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return Value("", value, decimal, unit.name, latex + r"\%" * (unit.name == PERCENT), unit.detail)


def _fraction(numerator: str, denominator: str) -> Fraction | None:
    above, below = [int(re.sub("[ ,]", "", part)) for part in (numerator, denominator)]
    return Fraction(above, below) if below else None


def _part(match: re.Match[str]) -> str:
    return f" 1/{_PART_WORDS[match[1]]}"


def _repeating(match: re.Match[str]) -> str:
    r"""A decimal with digits that repeat, such as ``0.1\overline{6}``, as the fraction that it is."""
    again = match["braces"] or match["one"] or re.sub(r"\D", "", match["above"])
    places, first = len(match["once"]), int(f"0{match['whole']}{match['once']}")
    value = (first + Fraction(int(again), 10 ** len(again) - 1)) / 10**places
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _decimal_latex(value: Fraction) -> str:
    """A decimal fraction as LaTeX; as a fraction where it has more than forty places."""
    places = next((n for n in range(1, 41) if (value * 10**n).denominator == 1), None)
    if places is None:
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    whole, part = divmod(abs(value * 10**places).numerator, 10**places)
    return f"{'-' if value < 0 else ''}{whole}.{part:0{places}}"


# ---- Other mathematics

UNENDING = re.compile(r"\.\d+\s?(?:\.\.|…)|\\[lcv]?dots(?![A-Za-z])")
"""An answer that goes on: a decimal, or a list or sum, with dots."""
_UNIT_BEHIND = re.compile(
    r"(?<=[\w)}\]])(?P<unit> (?:(?:square|sq|cubic|cu)\.? )?(?P<name>[A-Za-z]{2,})\.?(?:\^\{?\d\}?)?)$", re.IGNORECASE
)

_COMMAND = re.compile(r"\\(?:begin|end)\s?\{\w+\}|\\[A-Za-z]+")
_WORD = re.compile(
    r"(?<![\\A-Za-z])(?:[^\W\d_]{3,}|(?:is|it|of|to|in|at|or|so|no|an|as|he|we|if|by|on|be|do)(?![A-Za-z]))",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_NOT_VALUES = re.compile(r"\d\s?_|:|\$|\d['\"]\d|(?<!\d)\d+([-/])\d+\1\d")  # 17_8, 3:4, $, 5'6", 2024-05-01
_SIGNED_EXPONENT = re.compile(r"\^\s?([-+]\s?(?:\d+|[A-Za-z](?![A-Za-z])))")
_FRACTION_BEFORE = re.compile(r"(?<![\w.,)}\]/^])(?<!\d )(\d+) ?/ ?(\d+)(?= )")  # 1/2 x is not 1/(2x)
_UNION = re.compile(r"(?<=[)\]]) ?U ?(?=[(\[])")
_PRIMES = re.compile(r"(?<![\\A-Za-z])([A-Za-z])(?:\^\{?((?:\\prime)+)\}?|('+))")
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|sqrt|pi|theta|infty|pm|cup)(?![A-Za-z])"
)
_ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt(?![A-Za-z])|\\sqrt(?=\s*\())\s*")
_UNDER_ROOT = re.compile(r"\d+(?:\.\d+)?|\w")
_POWER_WORD = re.compile(r"(?<=[\w)}]) (squared|cubed)(?![A-Za-z])")
_AND = re.compile(r",?\s(?:and|or)\s")
_REPLACED = (("**", "^"), ("*", r"\cdot "), ("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "), ("infinity", r"\infty "))


def _without_unit(bare: str) -> tuple[str, str]:
    """A formula without the known unit behind it, such as "12\\pi cm", and that unit; "" for none.

    Degrees stay: they are part of what a formula says.
    """
    match = _UNIT_BEHIND.search(bare)
    if match is None or not is_name(match["name"]) or not re.search(r"\d|\\", bare[: match.start()]):
        return bare, ""
    unit = unit_of(match["unit"])
    return (bare, "") if unit is None or unit.name in ("degree", PERCENT) else (bare[: match.start()], unit.name)


def _latex(bare: str) -> str | None:
    """LaTeX of an answer that is mathematics but not a number; None of one that is not.

    A product of letters would be equal to any other word of the same letters, so what has words in it is text. A number
    to another base (``17_8``), a ratio or a time (``3:4``) and a date are text too.
    """
    text = _PRIMES.sub(_index, _REPEATING.sub(_repeating, bare))
    text = _POWER_WORD.sub(lambda match: "^2" if match[1] == "squared" else "^3", text)
    text = _with_roots(text)
    for sign, command in _REPLACED:
        text = text.replace(sign, command)
    text = _FRACTION_BEFORE.sub(r"\\frac{\1}{\2}", _SIGNED_EXPONENT.sub(r"^{\1}", text))
    text = _UNION.sub(r"\\cup ", text)
    text = _AND.sub(", ", _FUNCTION.sub(r"\\\1 ", text))
    without = _COMMAND.sub(" ", text)
    if not text.isascii() or _NOT_VALUES.search(text) or _WORD.search(without):
        return None
    is_formula = _COMMAND.search(text) or re.search(r"\d|[-+=<>|^/]", text)
    if not re.search(r"[A-Za-z\d]", text) or (not is_formula and _LETTERS.search(text)):
        return None
    return text


def _index(match: re.Match[str]) -> str:
    """A letter with primes, which algebra would pass over, as another letter."""
    return f"{match[1]}_{{{'p' * (len(match[3] or '') or match[2].count('prime'))}}}"


def _with_roots(text: str) -> str:
    """With "√2", "sqrt 2" and "sqrt(1 + sqrt(5))" as LaTeX has them."""
    for match in reversed(list(_ROOT.finditer(text))):
        start, behind = match.span()
        end = _closing(text, behind) if text.startswith("(", behind) else None
        if end is not None:
            text = f"{text[:start]}\\sqrt{{{text[behind + 1 : end]}}}{text[end + 1 :]}"
        elif operand := _UNDER_ROOT.match(text, behind):
            text = f"{text[:start]}\\sqrt{{{operand[0]}}}{text[operand.end() :]}"
    return text


def _closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes; None where it does not."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    return None
