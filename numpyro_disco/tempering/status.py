"""The status of a tempered run: a code for programs and a message for users."""

from __future__ import annotations

RUNNING = 0
"""Inverse temperature 1 has not been reached yet."""
CONVERGED = 1
"""Inverse temperature 1 was reached, and nothing speaks against the draws."""
STUCK = 2
"""`max_temperatures` steps were taken without reaching inverse temperature 1."""
NON_FINITE = 3
"""The log density is NaN or +infinity at draws of the base."""
COLLAPSED = 4
"""Every particle has weight zero."""
FROZEN = 5
"""Almost every proposal of the last moves was rejected."""
DISAGREE = 6
"""Independent runs found different distributions; a single run never returns this code."""
MISSED = 7
"""A peak holds more mass than the runs found; a single run never returns this code."""

LEAST_ACCEPTANCE = 0.01
"""Mean acceptance of the last moves below which a run is `FROZEN`."""

_MESSAGES = {
    CONVERGED: "converged: inverse temperature 1 was reached.",
    STUCK: (
        "after {num_steps} steps the inverse temperature is only {inverse_temperature:.3g}, not "
        "1. The target is very far from the base: use more particles, a lower `target_ess`, more "
        "`max_temperatures`, or a base that is closer to the target."
    ),
    NON_FINITE: (
        "the log density is NaN or +infinity at draws of the base, or many of these draws lie on "
        "the edge of their support. Check the energy and the model where their priors reach (a log "
        "of a negative number, an overflow or underflow), or narrow the reference."
    ),
    COLLAPSED: (
        "every particle has weight zero at inverse temperature {inverse_temperature:.3g}: the log "
        "density is -infinity at all particles. Widen the reference or the priors until they reach "
        "the region that the data allow, or use more particles."
    ),
    FROZEN: (
        "inverse temperature 1 was reached, but almost every proposal of the last moves was "
        "rejected, so most particles are near-duplicates. Increase `max_moves` or `num_particles`, "
        "or write the model with sites whose posterior scales differ less."
    ),
    DISAGREE: (
        "inverse temperature 1 was reached, but independent runs found different distributions, as "
        "happens when only some of them find a mode. Use more particles or a higher `target_ess`."
    ),
    MISSED: (
        "inverse temperature 1 was reached, but the particles missed a narrow mode: near a peak of "
        "the density that was found by climbing there is more mass than they found in all. Give a "
        "`base` that covers this peak, or use many more particles."
    ),
}


def status_message(status: int, inverse_temperature: float, num_steps: int) -> str:
    """Describe how a run ended and, where it failed, what to do about it.

    Args:
        status: one of the codes of this module, except RUNNING.
        inverse_temperature: the last inverse temperature of the run.
        num_steps: number of steps that the run took.

    Returns:
        A message that starts in lower case, to follow the name of the run.

    Example:
        >>> status_message(CONVERGED, 1.0, 12)
        'converged: inverse temperature 1 was reached.'
    """
    return _MESSAGES[status].format(inverse_temperature=inverse_temperature, num_steps=num_steps)
