"""Checks of a learned density, to be made before its conditionals are relied on.

A conditional draw can be wrong in three ways, and each has its own check.

- The conditioning values lie where the training data has no rows. `check_conditional` compares
  them with draws of the prior and with the rows, and says how far conditionals of the nearest rows
  are off. Use it whenever new values are conditioned on.
- The conditional is shifted, too wide or too narrow. `calibration` hides known entries of new rows
  and ranks each among draws of its conditional. Use it once for each prior, on rows that the prior
  was not trained on.
- The density was not learned well. `FitResult.report` compares it with held-out rows. Use it
  after each fit.

All three rate what they find as pass, warn or fail (`numpyro_disco.diagnostics.verdicts`), and
`numpyro_disco.diagnostics.plots` draws it. `plot_conditional` and `plot_pairs` show a prior beside
rows.
"""
