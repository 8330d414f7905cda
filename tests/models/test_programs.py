"""The compiled programs of a tempered model, and what a finished run says."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.models.programs import FinishedRuns, Signature, potential_scale_reduction
from numpyro_disco.tempering.peaks import Peak
from numpyro_disco.tempering.status import CONVERGED, MISSED


def test_r_hat_is_one_for_runs_that_agree_and_large_for_runs_that_do_not():
    draws = jax.random.normal(jax.random.key(0), (4, 500, 2))
    apart = draws.at[0, :, 1].add(10.0)
    r_hat = potential_scale_reduction(apart)
    assert r_hat[0] < 1.01 and r_hat[1] > 3
    within, between = apart[..., 1].var(1).mean(), apart[..., 1].mean(1).var(ddof=1)
    assert r_hat[1] == pytest.approx(np.sqrt(1 + between / within), rel=1e-5)


def test_r_hat_of_one_run_or_of_constants_is_one():
    np.testing.assert_array_equal(potential_scale_reduction(jnp.zeros((1, 5, 3))), jnp.ones(3))
    np.testing.assert_array_equal(potential_scale_reduction(jnp.zeros((4, 5, 3))), jnp.ones(3))


def test_a_signature_puts_the_arguments_of_a_model_back_together():
    args, kwargs = (np.zeros(2), 3), {"y": 0.5}
    leaves, structure = jax.tree.flatten((args, kwargs))
    dynamic = tuple(not isinstance(leaf, int) for leaf in leaves)
    fixed = tuple(None if d else leaf for leaf, d in zip(leaves, dynamic, strict=True))
    signature = Signature(structure, fixed, dynamic, "rbg", None)
    new_args, new_kwargs = signature.arguments([np.ones(2), 0.7])
    np.testing.assert_array_equal(new_args[0], np.ones(2))
    assert new_args[1] == 3 and new_kwargs == {"y": 0.7}


def status_with_peak(log_normalizers, log_mass, error=0.01):
    """Status of converged runs with these evidences, beside a peak of this mass."""
    log_normalizer = np.asarray(log_normalizers)
    result = types.SimpleNamespace(
        status=np.full(len(log_normalizer), CONVERGED), log_normalizer=log_normalizer
    )
    peak = Peak(np.zeros(1), np.float32(log_mass), np.float32(error))
    runs = FinishedRuns({}, result, np.ones(1), np.ones(1), peak=peak)
    return set(runs.status.tolist())


def test_few_runs_do_not_speak_against_themselves():
    """Runs within their usual errors of a near-Gaussian target, whose peak has all its mass."""
    for runs in ([-0.3], [-0.6], [-0.30, -0.31], [-0.6, -0.65], [-0.3, -0.32, -0.35]):
        assert status_with_peak(runs, 0.0) == {CONVERGED}
    for runs in ([-2.3], [-2.30, -2.31], [-2.3, -2.31, -2.29, -2.3], [-0.3] * 4):
        assert status_with_peak(runs, 0.0) == {MISSED}
    assert status_with_peak([-2.3], 0.0, error=0.5) == {CONVERGED}
