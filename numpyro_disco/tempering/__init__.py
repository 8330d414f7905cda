"""Tempered sequential Monte Carlo (SMC): a pure functional core on log densities.

We have a *base* density that can be drawn exactly, and a *target* density that cannot and whose
mass is unknown. Tempering connects the two by a path of densities over a flat vector u,

    p_b(u) proportional to base(u)^(1 - b) target(u)^b,

where the inverse temperature b rises from 0 to 1. A population of particles follows the path. At
each step we

1. raise b as far as the effective sample size of the particles' weights allows (`schedule.py`),
2. weight the particles by (target / base)^(change of b) and resample them (`resampling.py`),
3. move them by Markov chain Monte Carlo that leaves p_b invariant (`moves.py`).

The last step is at b = 1, so the particles that come out are equally weighted draws of the target.
The product of the mean weights estimates the mass of the target relative to that of the base.
Finally, a Gaussian mixture is fitted to the particles (`proposals.py`), and its draws are proposed
to them by independence Metropolis (`sweep.py`). This moves particles between modes and gives a
second estimate of the mass.

What is exact: with a schedule and moves that are fixed in advance, the product of the mean weights
is an unbiased estimate of the mass. Here the moves, and the schedule unless it is given, are tuned
from the particles themselves. The estimate remains consistent as the number of particles grows,
with a bias of order 1 / num_particles. The distribution of the draws is exact only asymptotically.

Each file owns one part:

- `settings.py`: how a run is made (`TemperingSettings`).
- `status.py`: how a run ended, as codes and as messages to the user.
- `state.py`: the records that the other files exchange.
- `noise.py`: the random numbers of a run.
- `schedule.py`: the path and the next inverse temperature on it.
- `resampling.py`: weights and resampling schemes.
- `whitening.py`: the scale of the particles, in whose units moves are made.
- `tuning.py`: the step size and the length of trajectories.
- `kernels.py`: one move of all chains.
- `discrete.py`: moves of discrete coordinates.
- `moves.py`: the sequence of moves at one inverse temperature.
- `proposals.py`: the Gaussian mixture that is fitted to the particles.
- `sweep.py`: independence Metropolis with that mixture.
- `peaks.py`: a search for narrow modes that particles missed.
- `program.py`: a whole run, as `init`, `step` and `result`, and as one call (`tempered_smc`).
- `checkpoints.py`: runs on disk, between two inverse temperatures.

References:
    Del Moral, Doucet & Jasra 2006; Chopin & Papaspiliopoulos 2020, chapter 17.
"""
