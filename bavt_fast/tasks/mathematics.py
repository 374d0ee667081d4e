r"""Mathematical questions: steps in text, answers announced as `TextTask` reads them, compared as mathematics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bavt_fast._checks import as_amount
from bavt_fast.protocols import Description
from bavt_fast.tasks import algebra
from bavt_fast.tasks.sentences import only_number
from bavt_fast.tasks.text import ENDS, TextState, TextTask
from bavt_fast.tasks.values import Value, bare_answer, compare, read

__all__ = ["Mathematics", "make_task"]


class Mathematics(TextTask):
    r"""`TextTask` whose answers are compared as mathematics.

    Numbers are compared exactly, with their units (`values.compare`); other formulas by math-verify, a computer algebra
    system; what is neither as normalised text. So ``\frac{1}{2}``, ``0.5`` and ``50\%`` are equal, ``(x+1)^2`` and
    ``x^2 + 2x + 1``, ``2, 3`` and ``\{3, 2\}``, but not ``(0, 1]`` and ``[0, 1]``.

    A sentence is taken for its number, where it has one alone or one behind an equals sign ("So she makes 18 dollars a
    day."), when it is compared with a formula or a number; not where it denies that number, limits or changes it ("It
    is not 5.", "less than 5"). Mathematical answers come without ``$`` and full stop.

    Needs math-verify: ``pip install 'bavt_fast[mathematics]'``.

    Args:
        end, max_depth, answers, prompt: see `TextTask`.
        limit_s: processor time of a comparison, in seconds. Answers that take longer to compare, such as
            ``10^10^10`` and a number written out, are not equal.

    Raises:
        ModuleNotFoundError: math-verify is not installed.
    """

    def __init__(
        self,
        end: str | Sequence[str] = ENDS,
        max_depth: int = 10,
        answers: str | Mapping[str, str] | None = None,
        limit_s: float = 2.0,
        prompt: Callable[[str], str] | None = None,
    ) -> None:
        algebra.require()
        super().__init__(end, max_depth, answers, prompt)
        self.limit_s = as_amount("limit_s", limit_s)

    def describe(self, state: TextState) -> Description:
        about = super().describe(state)
        return about._replace(answer=bare_answer(about.answer)) if about.answer else about

    def same_answer(self, reference: str, answer: str) -> bool:
        """Whether two answers are equal. Not quite symmetric: a reference is never taken for less than it says."""
        if reference == answer:
            return True
        right, found = read(reference), read(answer)
        equal = compare(right, found)
        if equal is False and _is_mathematics(right) and not _is_mathematics(found):
            number = only_number(answer)
            found = found if number is None else read(number)
            equal = compare(right, found)
        if equal is None:
            assert right.latex is not None, "what is left to algebra is a formula"
            assert found.latex is not None, "what is left to algebra is a formula"
            equal = algebra.same_formula(right.latex, found.latex, self.limit_s)
        return equal


def _is_mathematics(value: Value) -> bool:
    return value.number is not None or value.latex is not None


make_task = Mathematics
"""What a model folder that names this module is given."""
