"""Learned priors inside NumPyro models.

A learned prior becomes part of a model in one of two ways:

- `numpyro_disco.sample("x", prior)` makes one scalar site for each coordinate, "x.a", "x.b", ...,
  and one factor for their joint log density. Choose it to condition on single coordinates with
  NumPyro's own handlers, or to see them by name in summaries.
- `numpyro.sample("x", prior)` makes one vector site. Choose it to draw the site, for instance with
  `Predictive`: a coordinate on its own cannot be drawn.

Data with missing entries goes in as `numpyro_disco.sample("x", prior, obs=table)`. Each NaN becomes
a latent entry of the site "x.missing" and is inferred with everything else in the model.

NumPyro's samplers then run on the model unchanged. `TemperedSMC` is an alternative to them that
finds several modes and estimates the evidence. It starts from a base (priors, and references in
the place of learned priors) and moves its draws to the posterior in steps. `RowRefresh` adds moves
between modes to NUTS.

Which file owns what:

- `sites.py`: `sample` and `site_values`, the sites that a learned prior has in a model.
- `coordinate.py`: the distribution of one coordinate's site.
- `missing.py`: the distributions of missing entries; `entries.py`, the coordinates they move in.
- `refresh.py`: `RowRefresh`, NUTS with fresh draws from references.
- `structure.py`: the sites of a model, read once.
- `groups.py`: coordinate sites that start together.
- `bases.py`: where sites start, and the checks of `base=`.
- `reading.py`: a model as a base and two log densities.
- `programs.py`: the compiled programs of all runs of a model.
- `runs.py`: what is compiled when, devices and checkpoints.
- `tempered_smc.py`: `TemperedSMC`, its arguments and results.
- `arviz.py`: `to_arviz`, labelled ArviZ objects.
"""
