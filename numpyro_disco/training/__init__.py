"""Training: from rows of data to a learned prior, and a report on it.

`fit.py` is the public function, and `learning.py` puts the steps of one training together. Data is
parsed once, standardised and dealt to batches in `rows/`. Everything that was chosen, by the user
or by default, is in `FitSettings` (`settings.py`, `network.py`, `optimizer.py`, `objectives/`).
`loop.py` trains in rounds and judges on held-out rows. Stacks of arrays have their own preparation
(`arrays.py`), as have rows with missing entries (`incomplete_rows.py`).

A `FitResult` (`result.py`) holds the learned distribution; `storage.py` saves it. Its report is in
`report/`.
"""
