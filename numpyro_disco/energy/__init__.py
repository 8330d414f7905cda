"""Energies: unnormalised densities that can be conditioned on any of their coordinates.

An *energy* E maps a vector x of D numbers to a number in nats; it defines the density
p(x) = exp(-E(x)) / Z. Every energy carries a *reference* q, a Gaussian or a mixture of Gaussians
over the same coordinates: a normalised density that can be drawn from and conditioned in closed
form. With E + log q bounded below, exp(-E) is integrable, and tempering can start from q, whose own
log Z is 0.

*Conditioning* costs nothing: for fixed x_o, E(x_o, x_f) is, up to a constant, the energy of the
free coordinates x_f given the observed ones, for any choice of which are observed. The constant
depends on x_o, so x_o must not be inferred; `guard` raises where it would be.

- Exact: energies, scores, the density of a conditional up to its constant, and the conditionals of
  the reference.
- Asymptotically exact as the number of points and particles grows: draws, imputations, log Z and
  marginal log densities, by importance sampling or by tempered SMC. Estimates of log Z and of
  marginals come with a standard error from independent runs.
- Up to a constant: `log_prob`, until `normalize` has estimated log Z.

The modules:

- `density`: energy, score and log density at points; `requirements`, the checks of its parts;
  `stacking`, evaluation under `scan` and `vmap`.
- `coordinates`: the unconstrained coordinates in which samplers move.
- `distribution`: `EnergyDistribution`, which adds conditioning, tempering and draws to the density.
- `guard`: `NormalizerError`, raised where an unknown normaliser would matter.
- `pattern`: `Pattern`, the one parser of observations.
- `drawing`: draws of many conditionals, each by the quickest way that is exact enough:
  `importance`, weighted points of the reference, or `sampling`, tempered runs.
- `conditionals`: `sample_conditional` and `log_marginal`; `imputation`: `impute`.
- `networks`: residual networks; `learned`: a network beside a reference, as training leaves it.
- `storage`: a prior as arrays and a description; `archive`, files of these; `support_codes`,
  constraints as JSON.
"""
