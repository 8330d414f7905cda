"""Training: from rows of data to a learned prior, and a report on it.

`fit.py` is the public function, and `learning.py` puts the steps of one training together. Data is
parsed once into a `Table` (`table.py`), mapped to unconstrained space and standardised
(`units.py`, `transforms.py`). Everything that was chosen, by the user or by default, is in
`FitSettings` (`settings.py`, `network.py`, `optimizer.py`, `objectives/`). `loop.py` trains in
rounds and judges on held-out rows, with batches from `batches.py` and losses from `losses.py`;
`row_posterior.py` holds the posterior over training rows that is the target of DISCO, `noise.py`
and `noise_scale.py` its noise levels.

A `FitResult` (`result.py`) holds the learned distribution; `storage.py` saves it. Its report
(`report.py`, `report_lines.py`, `report_smoothing.py`) is made from a `FitEvidence` (`evidence.py`)
and nothing else.
"""
