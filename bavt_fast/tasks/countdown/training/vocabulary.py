"""The embedded model's words: one token per integer from 0 to 999, operator and bracket.

``Target: 24 (left: 5 10 24)`` is 6 tokens, ``6 * 4 = 24 (left: 5 10 24)`` is 10. A number is its own id. A closing
bracket continues the word before it, as WordPiece writes it, so that decoding gives the text back exactly.
"""

from __future__ import annotations

from bavt_fast.tasks.countdown.task import MAX_VALUE, OPERATORS

NUM_NUMBERS = MAX_VALUE + 1
EQUALS, TARGET, LEFT, CLOSE, PAD, UNKNOWN = "=", "Target:", "(left:", "##)", "[PAD]", "[UNK]"

_WORDS = [*map(str, range(NUM_NUMBERS)), *OPERATORS, EQUALS, TARGET, LEFT, CLOSE, PAD, UNKNOWN]
WORD_IDS = {word: i for i, word in enumerate(_WORDS)}
FIRST_OPERATOR_ID = WORD_IDS[OPERATORS[0]]
"""The operators' ids follow each other, in the order of `OPERATORS`."""
EQUALS_ID, TARGET_ID, LEFT_ID, CLOSE_ID, PAD_ID = (WORD_IDS[word] for word in (EQUALS, TARGET, LEFT, CLOSE, PAD))
