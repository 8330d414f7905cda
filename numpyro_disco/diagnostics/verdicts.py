"""Verdicts of checks: pass, warn or fail, and the rule that compares a value with its limits."""

from __future__ import annotations

PASS, WARN, FAIL = "pass", "warn", "fail"
"""Nothing wrong was found; look closer before relying on it; do not rely on it."""


def verdict_of(
    value: float, pass_limit: float, warn_limit: float, standard_error: float = 0.0
) -> str:
    """Verdict on a value that should be small.

    With e the standard error, the value passes if value - 2 e <= pass_limit, warns if
    value - 2 e <= warn_limit, and fails otherwise. Noise may therefore excuse a large value, but it
    never makes one pass: if 2 e > warn_limit, a failure could hide behind the noise, and the best
    verdict is a warning. A value that is not a number fails.

    Args:
        value: the number to judge.
        pass_limit: the largest value that passes.
        warn_limit: the largest value that does not fail.
        standard_error: standard error of `value`; 0 if it is exact.

    Returns:
        `PASS`, `WARN` or `FAIL`.

    Example:
        >>> verdict_of(0.05, 0.1, 1.0), verdict_of(0.5, 0.1, 1.0), verdict_of(0.05, 0.1, 1.0, 3.0)
        ('pass', 'warn', 'warn')
    """
    lower = value - 2 * standard_error
    # Written so that NaN fails.
    if not lower <= warn_limit:
        return FAIL
    return PASS if lower <= pass_limit and 2 * standard_error <= warn_limit else WARN


def worst(*verdicts: str) -> str:
    """The most severe of some verdicts.

    Example:
        >>> worst("pass", "fail", "warn")
        'fail'
    """
    return max(verdicts, key=(PASS, WARN, FAIL).index)
