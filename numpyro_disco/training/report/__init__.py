"""The report of a fit: held-out checks, each rated pass, warn or fail, with the reason.

`report` makes it from a `FitEvidence` (`evidence`) and nothing else. The lines are in `lines` (any
learned density), `training` (the reference, and the length of training), `smoothing` (the score of
a smoothed density), `draws` (draws beside held-out rows) and `focus` (the conditional in focus).
"""
