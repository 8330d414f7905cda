"""Reference densities: normalised densities that can be sampled and conditioned exactly.

Every learned energy is written relative to a reference q,

    p(x) = q(x) exp(-f(x)) / Z,    Z = E_q[exp(-f)],

with f the output of a network, bounded below. The reference makes p a proper density. It is where
tempering starts, and its conditionals propose the draws when one conditions on some coordinates.
It must therefore be normalised, easy to sample, and known in closed form given *any* subset of
its coordinates. A reference close to p makes sampling cheap.

Which part to use:

- `GaussianReference`: one Gaussian. The choice for data with a single mode, and for an energy of
  your own when you know its rough location and scale. It should be at least as wide as p.
- `MixtureReference`: a mixture of Gaussians. The choice for data with several modes or curved
  shapes, and what `fit` uses by default with the contrastive objective.
- `MixedReference`: a mixture whose components also have categorical parts, for tables with both
  continuous and discrete columns. `categorical` holds what is particular to these parts.
- `MixtureFit`: the settings with which `fit` chooses and fits such a mixture.
- `constrained.ConstrainedReference`: either of the two for coordinates with bounds, in the
  user's units. `EnergyDistribution.reference` returns one; you rarely construct it yourself.
- `moments`: mean and covariance given any coordinates, from which samplers get their units.
- `redraws`: draws given part of a point, along directions that need not be coordinate axes; the
  contrastive objective uses them.

Conditioning keeps the shape: the conditional of a reference over D coordinates is again a
reference over D coordinates, with the observed ones held at their values and the density taken
over the free ones. Which coordinates are observed is a boolean array, so one compiled program
serves every pattern of missing entries.
"""
