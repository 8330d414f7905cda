"""The rows that a fit learns from: parsed, checked, standardised, and dealt to batches.

- `table`: data parsed once into a `Table`; `faults` and `dependence`, what is refused;
  `table_warnings` and `determined`, what is warned of; `row_weights`, weights of the rows.
- `units`: the maps to unconstrained space and to standardised units; `transforms`, the choice of a
  map for columns with skew or heavy tails.
- `sources`: rows that stay on disk; `windows`, training on a part of them at a time.
- `batches`: batches of rows and of draws of the reference; `levels`, rows at other levels of their
  discrete columns.
- `row_posterior`: the posterior over training rows behind a noisy point; `column_order`, the order
  in which a normalised density draws the columns.
"""
