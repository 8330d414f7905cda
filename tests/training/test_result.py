"""The result of a fit: its score, its report and its figures."""

import jax
import numpy as np
import pytest
from helpers.fits import quick_fit


def test_plot_history(few, tmp_path):
    fit = quick_fit(few)
    axes = fit.plot_history()
    assert [axis.get_xlabel() for axis in axes] == ["step", "step"]
    axes[0].figure.savefig(tmp_path / "history.png")
    with pytest.raises(ValueError, match="2 matplotlib `axes`"):
        fit.plot_history(axes[:1])


def test_the_score_is_that_of_the_distribution(few):
    fit = quick_fit(few)
    x = few[:20]
    np.testing.assert_allclose(fit.score(x), fit.distribution.score(x), rtol=1e-3, atol=1e-3)
    assert fit.transform is None


@pytest.mark.training
def test_the_report_is_made_once_unless_a_key_is_given(few):
    fit = quick_fit(few, num_steps=50)
    assert fit.report() is fit.report()
    other = fit.report(jax.random.key(7))
    assert other is not fit.report()
    assert [line.name for line in other.lines] == [line.name for line in fit.report().lines]
