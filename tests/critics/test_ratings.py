"""Numbers read from replies: a table of them, and strings that nobody thought of."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bavt_fast.critics.ratings import read_rating

READ = {
    "8": 8.0,
    " 8 \n": 8.0,
    "\n\n8": 8.0,
    "8.": 8.0,
    "8!": 8.0,
    "+8": 8.0,
    "08": 8.0,
    "8.5": 8.5,
    ".5": 0.5,
    "0.8": 0.8,
    "0": 0.0,
    "-0": 0.0,
    "10": 10.0,
    "10.0": 10.0,
    "8/10": 8.0,
    "8 / 10": 8.0,
    "8/10.0": 8.0,
    "8 out of 10": 8.0,
    "8 OUT OF 10.": 8.0,
    "Score: 8": 8.0,
    "score 8": 8.0,
    "SCORE=8": 8.0,
    "Rating: 8/10": 8.0,
    "Score：8": 8.0,
    "**Rating：** 8/10": 8.0,
    "My final rating is 8.": 8.0,
    "The overall score of 8": 8.0,
    "**Score:** 8": 8.0,
    "Score: **8**": 8.0,
    "`8`": 8.0,
    '"8"': 8.0,
    "“8”": 8.0,
    "(8)": 8.0,
    "[8]": 8.0,
    "8\nbecause step 2 is right": 8.0,
    "8\r\nnine": 8.0,
}
NOT_READ = [
    "",
    " ",
    "\n",
    "none",
    "eight",
    "NaN",
    "nan",
    "inf",
    "-inf",
    "Score: NaN",
    "Score:",
    "Score:\n8",
    "8 or 9",
    "8 9",
    "8, 9",
    "8-9",
    "7 out of",
    "7/",
    "8,5",
    "8.5.1",
    "8..",
    "1,000",
    "1e1",
    "8e0",
    "0x8",
    "8x",
    "8th",
    "11",
    "10.01",
    "-1",
    "−1",
    "999999999",
    "9" * 400,
    "8/5",
    "8/100",
    "80/100",
    "80%",
    "8%",
    "3 + 4 = 7",
    "10 pencils",
    "1. First, we add.",
    "1) First",
    "- 8",
    "Step 8",
    "The answer is 8",
    "I would say 8",
    "8 is the number of apples",
    "10:15:15",
    "8²",
    "８",  # full-width
    "٨",  # Arabic-Indic
    "Ⅷ",
    "½",
    "8\u0338",
    "\x008",
    "ſcore: 8",  # a long s, which is an s to those who do not look at the case
]


@pytest.mark.parametrize("reply", READ)
def test_a_number_is_read(reply: str) -> None:
    assert read_rating(reply, 0, 10) == READ[reply]


@pytest.mark.parametrize("reply", NOT_READ)
def test_nothing_is_read(reply: str) -> None:
    assert read_rating(reply, 0, 10) is None


@pytest.mark.parametrize(
    ("reply", "scale", "expected"),
    [
        ("0.8", (0, 1), 0.8),
        ("8", (0, 1), None),
        ("1/1", (0, 1), 1.0),
        ("80%", (0, 100), 80.0),
        ("80 %.", (0, 100), 80.0),
        ("80/100", (0, 100), 80.0),
        ("-3", (-5, 5), -3.0),
        ("−3", (-5, 5), -3.0),
        ("-3/5", (-5, 5), -3.0),
        ("--3", (-5, 5), None),
        ("- 3", (-5, 5), None),
        ("0", (1, 5), None),
        ("4/5", (1, 5), 4.0),
        ("2.5", (0, 2.5), 2.5),
        ("2/2.5", (0, 2.5), 2.0),
    ],
)
def test_other_scales(reply: str, scale: tuple[float, float], expected: float | None) -> None:
    assert read_rating(reply, *scale) == expected


@pytest.mark.parametrize("reply", ["1", "Score: 8", "8.", "8/1", "8/10", "8 out of 10", "**8"])
def test_a_number_at_the_end_of_a_reply_cut_short_may_go_on(reply: str) -> None:
    assert read_rating(reply, 0, 10, cut=True) is None


@pytest.mark.parametrize("reply", ["8\n", "8 ", "8\nbecause 8", "**8**", "8/10\nYes"])
def test_a_number_that_something_follows_is_whole(reply: str) -> None:
    assert read_rating(reply, 0, 10, cut=True) == 8.0


@given(st.text(st.sampled_from("0123456789.-+/% \n*:ouf tscre=is"), max_size=30) | st.text(max_size=60), st.booleans())
@example("9" * 200, False)
def test_what_is_read_stands_in_the_reply_alone(reply: str, cut: bool) -> None:
    number = read_rating(reply, 0, 10, cut=cut)
    if number is None:
        return
    assert 0.0 <= number <= 10.0
    line = next(line for line in reply.split("\n") if line.strip())
    digits = "".join(c if c in string.digits + "." else " " for c in line.replace("/ ", "/"))
    found = [float(part) for part in digits.split() if part.strip(".")]
    assert found[0] == number
    assert found[1:] in ([], [10.0])
    assert not any(c.isnumeric() and c not in string.digits for c in line)
    if cut:
        assert read_rating(reply, 0, 10) == number


@given(
    st.integers(0, 100),
    st.sampled_from(["", "Score: ", "rating = "]),
    st.sampled_from(["", "/100", " out of 100", "%"]),
)
def test_every_number_of_the_scale_is_read(number: int, label: str, scale: str) -> None:
    assert read_rating(f"{label}{number}{scale}", 0, 100) == number
    assert read_rating(f"{label}{number}.25", 0, 100) == (number + 0.25 if number < 100 else None)


def test_a_huge_reply_takes_no_time() -> None:
    for text in ("score" + " " * 10**6, "the " * 10**6 + "8", "8" * 10**6, " " * 10**6 + "8", "*" * 10**6 + "8x"):
        read_rating(text, 0, 10)
    assert read_rating(" " * 10**6 + "8\n" + "9" * 10**6, 0, 10) == 8.0
