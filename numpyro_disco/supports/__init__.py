"""Supports: the set each coordinate lives in, and the maps from the real line onto it.

NumPyro's samplers move in the unconstrained space that a support defines. Three spaces follow each
other here,

    standardised u  ->  unconstrained y = loc + L u  ->  x = T(y) in the user's units,

with L a lower-triangular matrix and T one bijection for each coordinate. A learned prior knows the
location, scale and correlations of its coordinates, so its supports include the first map: samplers
start at the scale of the data and do not have to learn it.

Which part to use:

- `coordinates.CoordinateSupports`: the supports of D coordinates, and T for all of them at once.
  `check_supports` makes the constraints that it takes from a user's mapping.
- `clamped.StandardizedVector`: the support of a prior's single vector site, possibly with some
  coordinates held fixed. A sampler then moves in the free coordinates only.
- `rows.StandardizedRows`: the support of the missing entries of a table, with one L for each row.
- `clamped.StandardizedReal`: the support of a single coordinate, for a site of its own.
- `variables.StandardizedVariable`: the support of a variable of any shape, for a site of its own.
- `sinh_arcsinh.SinhArcsinhReal`: all real numbers, with a T that removes the skew and heavy tails
  of a column. `fit` uses it with `transform="sinh_arcsinh"`.
"""
