"""How many iterations are enough."""

from __future__ import annotations

import math

__all__ = ["iterations_needed"]


def iterations_needed(progress_probability: float, successes: int, failure_probability: float) -> int:
    """Iterations after which a search has made ``successes`` steps of progress with probability >= 1 - failure.

    If every iteration makes progress with probability at least p, whatever happened before it, then

        M = (K + sqrt(2 K L) + 2 L) / p   with K = successes, L = ln(1 / failure_probability)

    iterations make K successes but with probability at most exp(-L): the lower Chernoff bound of a binomial with mean
    m = M p, P(X < K) <= exp(-(m - K)^2 / (2 m)), holds with m as chosen (arXiv 2603.12634).

    Args:
        progress_probability: p, in (0, 1].
        successes: K >= 1, such as the depth of an answer.
        failure_probability: in (0, 1).

    Raises:
        ValueError: an argument is outside its range.
    """
    if not 0.0 < progress_probability <= 1.0:
        raise ValueError(f"progress_probability: expected a number in (0, 1], got {progress_probability}")
    if isinstance(successes, bool) or successes != int(successes) or successes < 1:
        raise ValueError(f"successes: expected an integer of at least 1, got {successes}")
    if not 0.0 < failure_probability < 1.0:
        raise ValueError(f"failure_probability: expected a number in (0, 1), got {failure_probability}")
    log_odds = math.log(1.0 / failure_probability)
    return math.ceil((successes + math.sqrt(2.0 * successes * log_odds) + 2.0 * log_odds) / progress_probability)
