"""What ``bavt-fast ask`` tells a model of how to answer.

Measured with SmolLM2-135M-Instruct (Q4) on 20 word problems, the share of texts that announced an answer within 110
tokens (one greedy text each) or 90 (three samples each at temperature 0.7):

    instructions alone, as system prompt or behind the question    0.50 to 0.65    not measured
    the same and one example as a turn                             1.00            0.80
    the same and three examples                                    not measured    0.88
    two examples without instructions                              not measured    0.82

With the announcement ``Answer:`` alone, instead of all of `ask.ENDS`, instructions alone got 0 to 0.30. How many of the
answers were right differed by less than the noise between examples (0.05 to 0.12 of the samples; 0.20 to 0.25 greedily
with examples, 0.05 without).

A search of each of the 20 problems, 300 tokens each, by temperature; with these examples (seed 0), and with another
second example (seeds 0, 1; alone: seed 1), with which the three examples above were measured too:

    temperature                            0.4    0.7      0.2    0.4       0.55    0.7
    problems with an answer                20     20       20     20, 20    20      18, 20
    right by majority                      5      3        6      4, 3      2       3, 2
    right by the best path, V = 1          0      1        2      1, 1      0       0, 0
    a right answer among those reached     7      8        9      9, 6      6       5, 6

The second example is one that no question asks for again: the other was about capitals, and its lines answered "What is
the capital of France?".
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["EXAMPLES", "SYSTEM", "plain_prompt"]

SYSTEM = 'Answer step by step, one short step per line. The last line is "Answer: " and the answer.'

EXAMPLES = (
    (
        "Kim has 13 stamps. She buys 8 more and gives 5 away. How many stamps does she have?",
        "After buying she has 13 + 8 = 21 stamps.\nAfter giving some away she has 21 - 5 = 16 stamps.\nAnswer: 16",
    ),
    (
        "Rosa is taller than Ivan, and Ivan is taller than Lena. Who is the shortest?",
        "Rosa is taller than Ivan, so it is not Rosa.\nIvan is taller than Lena, so it is not Ivan.\nAnswer: Lena",
    ),
    (
        "A pack holds 6 eggs. How many eggs are there in 4 packs and a pack that is half full?",
        "4 packs hold 4 * 6 = 24 eggs.\nHalf a pack is 6 / 2 = 3 eggs.\nTogether that is 24 + 3 = 27 eggs.\nAnswer: 27",
    ),
)
"""Turns that stand before the question. A small model follows examples rather than instructions."""


def plain_prompt(question: str, system: str, examples: Sequence[tuple[str, str]] = ()) -> str:
    """The same for a model without a chat template: instructions, examples and the question one after the other."""
    turns = [f"Question: {asked}\n{answer}\n" for asked, answer in examples]
    parts = [f"{system}\n"] * bool(system) + [*turns, f"Question: {question}\n"]
    return "\n".join(parts)
