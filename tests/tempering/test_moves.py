"""The number of moves at one inverse temperature: when states are kept, and when moves stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.tempering import moves as module
from numpyro_disco.tempering.kernels import Move
from numpyro_disco.tempering.moves import (
    copies,
    largest_correlation,
    record,
    standardized_traces,
    start_moves,
)
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import Chains, Level, Tuning
from numpyro_disco.tempering.tuning import initial_tuning


def chains_at(value, num_chains=4):
    one = jnp.full(num_chains, value)
    return Chains(jnp.tile(one[:, None], 2), one, one, jnp.zeros((num_chains, 2)))


def sequence(correlations, b=0.5, acceptance=0.8, chain_length=3, max_moves=8, crowded=0):
    """Record moves with given correlations until enough states are kept."""
    settings = TemperingSettings(
        num_particles=4 * chain_length, chain_length=chain_length, max_moves=max_moves
    )
    level = Level(jnp.float32(b), jnp.ones(2), jnp.ones(2), jnp.ones(()))
    progress = start_moves(chains_at(0.0), initial_tuning(2, jnp.float32), level, settings)
    for index, correlation in enumerate(correlations, start=1):
        if progress.num_kept == chain_length:
            break
        move = Move(
            chains_at(float(index)), Tuning(index, index), jnp.full(4, acceptance), jnp.array(5)
        )
        progress = record(
            progress,
            move,
            jnp.float32(correlation),
            jnp.full(4, index <= crowded),
            level.inverse_temperature,
            settings,
        )
    assert progress.num_kept == chain_length
    return progress, np.asarray(progress.kept.log_base)[:, 0].tolist()


def test_states_are_kept_as_far_apart_as_the_first_is_from_the_start():
    progress, kept = sequence([0.9, 0.3, 0.05] + 20 * [0.0])
    assert kept == [3, 6, 9]
    assert progress.between == 3 and progress.total == 9
    assert progress.num_gradients == 45
    np.testing.assert_allclose(progress.correlation, 0.05)


def test_moves_stop_once_correlation_stops_falling():
    # The second fall is within the noise of a correlation of four chains, 1 / sqrt(4).
    progress, kept = sequence([0.9, 0.6] + 20 * [0.0])
    assert kept == [2, 4, 6]
    np.testing.assert_allclose(progress.correlation, 0.6)


def test_one_move_is_enough_where_chains_forget_their_start():
    assert sequence([0.05] * 9)[1] == [1, 2, 3]


def test_twice_as_many_moves_are_made_at_inverse_temperature_one():
    progress, kept = sequence([0.05] * 9, b=1.0)
    assert kept == [2, 3, 4] and progress.between == 1


def test_largest_number_of_moves():
    # Moves that are almost never accepted do not count as having forgotten their start.
    _, kept = sequence([0.0] * 20, acceptance=0.01, max_moves=4)
    assert kept == [4, 8, 12]


def test_moves_at_the_end_go_on_until_few_chains_are_copies():
    assert sequence([0.05] * 9, b=1.0, chain_length=1, crowded=4)[1] == [5]
    # At most four times as many moves as usual.
    assert sequence([0.05] * 40, b=1.0, chain_length=1, max_moves=3, crowded=40)[1] == [12]
    # Before the end, and within chains of several states, copies do not count.
    assert sequence([0.05] * 9, chain_length=1, crowded=4)[1] == [1]
    assert sequence([0.05] * 9, b=1.0, crowded=4)[1] == [2, 3, 4]


def test_copies_are_counted_but_for_one():
    position = jnp.array([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [3.0, 4.0], [0.0, 1.0], [3.0, 4.0]])
    chains = chains_at(0.0, 6)._replace(position=position, log_target=position.sum(1))
    assert copies(chains).sum() == 3
    one = jax.tree.map(lambda leaf: leaf[:1], chains)
    assert not copies(one).any()


def test_largest_correlation_decides(monkeypatch):
    monkeypatch.setattr(module, "MAX_CORRELATION", 0.95)
    assert sequence([0.9] * 9)[1] == [1, 2, 3]


def test_smallest_number_of_moves(monkeypatch):
    monkeypatch.setattr(module, "MIN_MOVES", 3)
    assert sequence([0.05] * 20)[1] == [3, 6, 9]
    assert sequence([0.05] * 20, b=1.0)[1] == [6, 9, 12]


@pytest.mark.parametrize("free, expected", [([1.0, 1.0], 1.0), ([0.0, 1.0], 0.5)])
def test_correlation_of_traces(free, expected):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 5))
    x = np.linalg.qr(x - x.mean(0))[0].astype(np.float32)

    def traces(a, b, ratio):
        position = jnp.stack([a, b], axis=1)
        chains = Chains(3 * position + 7, jnp.zeros(50), 2 * ratio, jnp.zeros((50, 2)))
        return standardized_traces(chains)

    before = traces(x[:, 0], x[:, 1], x[:, 2])
    after = traces(x[:, 0], 0.5 * x[:, 1] + 0.75**0.5 * x[:, 3], x[:, 4])
    np.testing.assert_allclose(
        largest_correlation(before, after, jnp.array(free)), expected, atol=1e-5
    )
