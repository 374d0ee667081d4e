"""What answers stand for, and which of them are equal without algebra."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bavt_fast.tasks.sentences import only_number
from bavt_fast.tasks.values import bare_answer, compare, read


def same(reference: str, answer: str) -> bool | None:
    found = compare(read(reference), read(answer))
    assert compare(read(answer), read(reference)) == found
    return found


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("18", 18),
        ("18.", 18),
        ("**18**", 18),
        ("**18** dollars.", 18),
        ("$18$", 18),
        (r"\(18\)", 18),
        (r"\[ 18 \]", 18),
        (r"\text{18}", 18),
        ("-3", -3),
        ("−3", -3),
        ("‑3", -3),
        ("2¹⁄₂", Fraction(5, 2)),
        ("- 3", -3),
        ("+3", 3),
        ("-$5", -5),
        ("$-5", -5),
        ("1,234,567.50", Fraction("1234567.5")),
        ("1 234", 1234),
        (r"1{,}234", 1234),
        (r"1,\!234", 1234),
        (r"1\,234", 1234),
        (r"11,\! 111,\! 100", 11111100),
        ("1'234’567", 1234567),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"\dfrac12", Fraction(1, 2)),
        ("½", Fraction(1, 2)),
        ("2½", Fraction(5, 2)),
        ("2 1/2", Fraction(5, 2)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        ("-4/6", Fraction(-2, 3)),
        (r"\frac{-1}{2}", Fraction(-1, 2)),
        (r"\frac{1}{-2}", Fraction(-1, 2)),
        (r"-\frac{-1}{2}", Fraction(1, 2)),
        (r"\frac{1}2", Fraction(1, 2)),
        (r"\frac1{20}", Fraction(1, 20)),
        (r"\frac{1,000}{3}", Fraction(1000, 3)),
        ("1/1,000", Fraction(1, 1000)),
        (r"\frac{1{,}000}{2{,}000}", Fraction(1, 2)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"-0.1\overline{6}", Fraction(-1, 6)),
        (r"$5.\bar6\%$", Fraction(17, 3)),
        ("2.1\u03054\u0305 km", Fraction(212, 99)),
        (r".\overline{142857}", Fraction(1, 7)),
        ("1e5", 100_000),
        ("1.5e-3", Fraction(3, 2000)),
        (r"3 \times 10^8", 300_000_000),
        ("3 x 10^{-2}", Fraction(3, 100)),
        ("3 × 10⁸", 300_000_000),
        ("１８", 18),
        ("١٨", 18),
        ("50%", 50),
        (r"50\%", 50),
        ("5 million", 5_000_000),
        ("5-million", 5_000_000),
        (r"\$2.5\text{ million}", 2_500_000),
        ("5 hundred thousand people", 500_000),
        ("5 dozen eggs", 60),
        ("1/2 dozen", 6),
        ("2 thirds", Fraction(2, 3)),
        ("3 halves of it", Fraction(3, 2)),
        ("5 hundredths", Fraction(1, 20)),
        ("2 and a half", Fraction(5, 2)),
        ("2 and a quarter hours", Fraction(9, 4)),
        ("5 times", 5),
        ("5 times as many", 5),
        ("10 positive integers", 10),
        ("3 real roots", 3),
        ("$12/ticket", 12),
        ("5/min", 5),
        ("5%/year", 5),
        ("٣٫٥", Fraction(7, 2)),
        ("١٬٢٣٤", 1234),
        ("٥٠٪", 50),
    ],
)
def test_numbers(answer: str, number: Fraction | int) -> None:
    assert read(answer).number == number


@pytest.mark.parametrize(
    "answer",
    [
        "7!",
        "10^10",
        "2x",
        "5x",
        "2 x",
        "2xy",
        "5-x",
        "1/0",
        "1/2/3",
        "1.2.3",
        "1,2",
        "0,100",
        "-0,125",
        "00,100",
        "$0,100",
        "1,23,456",
        "17_8",
        "3:4",
        "12:30",
        "--3",
        "-$-3",
        "1e9999",
        "x = 5",
        "5 and 6",
        "It is 5",
        "",
        "$",
        "三",
        "5 + 3",
        "2**3",
        r"\frac{1}{",
        r"\frac{1}{-0}",
        r"2\frac{-1}{2}",
        "1, 234",
        "∞",
        "e",
        "½x",
        "2 xy",
        "2xyz",
        "2abc",
        "5 x^2",
        "5 e^2",
        "2 pi",
        "1/2 pi",
        "1/2 π",
        "4 pi r^2",
        "3 sin x",
        "5 squared",
        "5 times two",
        "5 times x",
        "5 plus three",
        "6 or more",
        "6 apples or pears",
        "6 at least",
        "5 apples and six pears",
        "5-fold",
        "5 quarters",
        "5 third graders",
        "1 half",
        "5 square",
        "5 M",
        "$5 m",
        "$5 bn",
        "$5k",
        "$5 k",
        "5% of a million",
        "5 hundred fifty",
        "5 is wrong",
        "5 isn't it",
        "5 repeating",
        "5 doubled",
        "0.3...",
        r"0.\overline{3}4",
        r"0.\overline{AB}",
        r"1.2.\overline{3}",
        r"\overline{3}",
        "1,00/3",
        "1/1,00",
        r"0.3\ldots",
        "5 Millionen",
        "5万",
        "5/x",
        "5/ab",
        "2rs",
        "5/m",
        "5/ticket",
        "A$5",
        "5 万人",
        "5 тысяч",
    ],
)
def test_what_is_no_number(answer: str) -> None:
    assert read(answer).number is None


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("18", "18.00 dollars"),
        ("$18", "18 dollars"),
        ("1200", "1,200"),
        ("0.5", r"\frac{1}{2}"),
        ("0.3", "0.30000000000000004"),
        ("18", "17.9999999999999"),
        ("50%", "50"),
        ("50%", "0.5"),
        ("12.5%", "1/8"),
        ("5 km", "5 kilometers"),
        ("5,000,000", "5 million"),
        ("$5 million", "5,000,000 dollars"),
        ("2/3", "2 thirds"),
        ("12 ft^2", "12 square feet"),
        ("60 mph", "60 miles per hour"),
        ("60 km/h", "60 kph"),
        ("5 m/s", "5 meters a second"),
        ("$18", "$18 per day"),
        ("$5/hour", "5 dollars an hour"),
        ("60°", "60 °C"),
        ("60 °C", "60 degrees Celsius"),
        ("US$5", "$5"),
        ("USD 5", "$5"),
        ("￥500", "500 yen"),
        ("5'", "5 feet"),
        ("3:30 PM", "3:30 p.m."),
        ("10 am", "10 A. M."),
        ("ℤ", r"\mathbb{Z}"),
        ("∅", r"$\varnothing$"),
        ("1/3", r"0.\overline{3}"),
        ("1000/3", "1,000/3"),
        ("``Yes''", "yes"),
        ("'yes'", "yes"),
        ("Paris", "**paris**."),
        ("Paris", r"\text{Paris}"),
        ("The Nile", "nile!"),
        ("New  York", "new york"),
        ("“yes”", "Yes"),
        ("B", "(b)"),
        ("B", r"\text{(B)}"),
        ("B", "(B) Paris"),
        ("(b) Paris", "B. paris"),
        ("B: 18", "(B) 18"),
        ("(B)", "b"),
        ("B", "**B)** Paris"),
        ("B", "B. Paris"),
        ("B", "B: it is 18"),
        ("b", "(b) $18$"),
        ("B", r"\textbf{(B) } 18"),
        ("x = 5", "$x=5$"),
        ("5", "= 5"),
        ("18", "$= 18$ dollars"),
        (r"\left( 0, 1 \right]", "(0,1]"),
        ("x²", "x^{2}"),
        ("-0.5", r"\frac{-1}{2}"),
        ("1, 234", "1, 234"),
        ("(1, 234)", "(1,234)"),
        ("17_8", "17_{8}"),
        ("3:4", "3 : 4"),
        ("7!", "7!"),
        ("Straße", "STRASSE"),
        ("日本", "日本。"),
        ("Θήβα", "ΘΉΒΑ"),
        ("η Αθήνα", "Η Αθήνα"),
        ("90ºC", r"90^{o} \text{C}"),
        ("5 gal", "5 gallons"),
        ("5 μm", "5 µm"),
        ("α", r"\alpha"),
        ("2λ", r"2\lambda"),
        ("café", "cafe\u0301"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
        ("x_1", "x₁"),
        ("x_{12}", "x₁₂"),
        ("H2O", "H₂O"),
        ("CO₂", r"\mathrm{CO_2}"),
        ("17_8", "17₈"),
        ("2^x", "2ˣ"),
        ("5th", "5ᵗʰ"),
    ],
)
def test_equal(reference: str, answer: str) -> None:
    assert same(reference, answer) is True


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("18", "19"),
        ("18", "-18"),
        ("3 1/2", "31/2"),
        (".5", "5"),
        ("18", "18.5"),
        ("5 km", "5 miles"),
        ("5 dollars", "5 cents"),
        ("3 cm", "3 cm²"),
        ("10000000000000000000", "10000000000000000001"),
        ("1e-7", "2e-7"),
        ("50%", "5"),
        ("50%", "50 dollars"),
        ("50%", "0.5 km"),
        ("$5", "5%"),
        ("5 L/min", "5 L/s"),
        ("10 m/s", "10 m/s^2"),
        ("$5 per hour", "$5 a day"),
        ("60 mph", "60 km/h"),
        ("60 °C", "60 °F"),
        ("B", "(A) Paris"),
        ("B", "B Paris"),
        ("B", "(B) Paris, (C) Rome"),
        ("B", "B. B. King"),
        ("b", "b. Paris"),
        ("B", "the (B) Paris"),
        ("(B) Paris", "(B) Rome"),
        ("5'", '5"'),
        ("5", "5 million"),
        ("5", "5 dozen"),
        ("$5", "$5 million"),
        ("2", "2 and a half"),
        ("2", "2 thirds"),
        ("6", "6 or more"),
        ("17_8", "17"),
        ("178", "17₈"),
        (r"\frac{-1}{2}", r"\frac{1}{2}"),
        ("0.3", "0.3..."),
        ("3 am", "3 p.m."),
        (r"12\pi \text{ cm}", r"12\pi \text{ km}"),
        (r"12\pi \text{ cm}", r"12\pi cm^2"),
        ("3:4", "3/4"),
        ("12:30", "2:5"),
        ("Paris", "London"),
        ("listen", "silent"),
        ("on", "no"),
        ("12", "It is 12."),
        ("Paris", "5"),
        ("", ""),
        ("5", ""),
    ],
)
def test_different(reference: str, answer: str) -> None:
    assert same(reference, answer) is False


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("0.333333", "1/3"),
        ("0.3", r"0.\overline{3}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("√8", r"2\sqrt{2}"),
        ("2, 3", "3 and 2"),
        ("10^10^10", "5"),
        ("(0,1]", "[0,1]"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
        ("5", "x=5"),
        ("7", "7!"),
        ("2", "2 pi"),
        ("1/2", "1/2 pi"),
        ("2x", "2ˣ"),
        ("A", "A'"),
        ("3", "3 sin x"),
        ("5", "5 squared"),
        ("1, 234", "1,234"),
        ("1, 234", "1234"),
    ],
)
def test_what_takes_algebra(reference: str, answer: str) -> None:
    assert same(reference, answer) is None


@pytest.mark.parametrize(
    ("answer", "latex"),
    [
        ("x²", "x^{2}"),
        ("√2", r"\sqrt{2}"),
        ("√(2x)", r"\sqrt{2x}"),
        ("√(1 + (x - 1)) + 1", r"\sqrt{1 + (x - 1)} + 1"),
        ("sqrt(2)", r"\sqrt{2}"),
        ("sqrt 12", r"\sqrt{12}"),
        ("1 + sqrt(2)", r"1 + \sqrt{2}"),
        ("3*sqrt(2)", r"3\cdot \sqrt{2}"),
        ("sqrt(1 + sqrt(5))/2", r"\sqrt{1 + \sqrt{5}}/2"),
        (r"2\sqrt(x+1)", r"2\sqrt{x+1}"),
        (r"\sqrt[3]{2}", r"\sqrt[3]{2}"),
        ("√√2", None),
        ("2*x**3", r"2\cdot x^3"),
        ("x <= 5", r"x \le  5"),
        ("(-∞, 3)", r"(-\infty , 3)"),
        ("2 and 3", "2, 3"),
        ("sin(x)", r"\sin (x)"),
        ("2π", r"2\pi"),
        ("5 squared", "5^2"),
        ("(x + 1) cubed", "(x + 1)^3"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"50\%", r"50\%"),
        ("0.0015", "0.0015"),
        ("-2.50", "-2.5"),
        ("1e-50", rf"\frac{{1}}{{{10**50}}}"),
        (r"12\pi \text{ cm}^2", r"12\pi"),
        (r"12 \pi square inches", r"12 \pi"),
        (r"2\sqrt{3} meters", r"2\sqrt{3}"),
        (r"12\pi m", r"12\pi m"),
        (r"12\pi \text{ m}", r"12\pi"),
        (r"\frac{\pi}{3} radians", r"\frac{\pi}{3}"),
        (r"\sin 30 degrees", None),
        (r"1 + 2 + \cdots + n", None),
        ("even", None),
        ("xyz", None),
        ("No", None),
        ("5:30", None),
        ("2024-05-01", None),
        ("3/4/2024", None),
        ("x-1-y", "x-1-y"),
        ("It is x", None),
        ("?", None),
    ],
)
def test_latex(answer: str, latex: str | None) -> None:
    assert read(answer).latex == latex


@pytest.mark.parametrize(
    ("answer", "bare"),
    [
        (r"$\frac{1}{2}$.", r"\frac{1}{2}"),
        ("42.", "42"),
        ("= 5", "5"),
        ("$18", "$18"),
        (r"\(x\)", "x"),
        (r"$$\[ x \]$$", "x"),
        ("Washington D.C.", "Washington D.C."),
        ("18 dollars.", "18 dollars"),
        (".", "."),
    ],
)
def test_a_mathematical_answer_is_shown_bare(answer: str, bare: str) -> None:
    assert bare_answer(answer) == bare


@given(st.text(max_size=80) | st.text("0123456789.,/%$-+ex^_{}()\\ frac", max_size=60))
def test_any_text_is_read(text: str) -> None:
    value = read(text)
    assert compare(value, value) in (True, None) or not value.text
    assert value.number is None or value.latex is not None
    only_number(text)
    bare_answer(text)


@given(st.fractions(max_denominator=10**6), st.sampled_from(["{n}/{d}", r"\frac{{{n}}}{{{d}}}", "${n}/{d}$."]))
def test_fractions_are_exact(value: Fraction, form: str) -> None:
    text = ("-" if value < 0 else "") + form.format(n=abs(value.numerator), d=value.denominator)
    assert read(text).number in (value, None if text.startswith("-$") else value)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_decimals_are_exact_with_and_without_commas(value: object) -> None:
    for text in (f"{value:f}", f"{value:,f}"):
        assert read(text).number == Fraction(str(value))


@pytest.mark.parametrize(
    "text",
    [
        "9" * 10**6,
        "1e" + "9" * 10**5,
        "(" * 10**5,
        "a " * 10**5,
        "1 " * 10**5,
        "$" * 10**5,
        "*" * 10**5,
        r"\frac" * 10**5,
        "1," * 10**5,
        "√" * 10**5,
        r"\text{" * 10**5,
        "5 " + "kg " * 10**5,
        "1/" * 10**5,
        "-" * 10**5,
        "½" * 10**5,
    ],
)
def test_a_long_answer_is_text(text: str) -> None:
    started = time.process_time()
    value = read(text)
    only_number(text)
    assert time.process_time() - started < 2.0
    assert (value.number, value.latex) == (None, None)
    assert compare(value, value) in (True, False)


@pytest.mark.parametrize("sign", "\u00ad\u200b\u200d\u200e\u2060\u2069\ufeff")
@pytest.mark.parametrize("answer", ["42", "Paris", "x^2"])
def test_what_nobody_sees_makes_no_other_answer(answer: str, sign: str) -> None:
    assert same(answer, answer + sign) is True
    assert same(answer, sign + answer) is True
