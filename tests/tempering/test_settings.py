"""Settings of a tempered run are checked when they are made."""

import pytest

from numpyro_disco.tempering.settings import TemperingSettings


@pytest.mark.parametrize(
    "settings",
    [
        {"num_particles": 1},
        {"base_draws": 0},
        {"target_ess": 1.5},
        {"max_moves": 0},
        {"max_leapfrog": 2.5},
        {"max_temperatures": 0},
        {"num_sweeps": -1},
        {"particles_at_once": 0},
        {"kernel": "nuts"},
        {"resampling": "none"},
        {"chain_length": 5},
        {"chain_length": 1024},
        {"schedule": []},
        {"schedule": [0.5, 0.2, 1.0]},
        {"schedule": [0.5, 0.9]},
    ],
)
def test_errors_name_the_setting(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        TemperingSettings(**settings)


def test_schedule_sets_the_number_of_temperatures_and_can_be_hashed():
    settings = TemperingSettings(schedule=[0.1, 0.5, 1])
    assert settings.schedule == (0.1, 0.5, 1.0)
    assert settings.max_temperatures == 3
    assert hash(settings) == hash(TemperingSettings(schedule=(0.1, 0.5, 1.0)))


def test_survivors_are_the_starts_of_chains():
    assert TemperingSettings(num_particles=60, chain_length=4).num_survivors == 15


def test_mass_matrix_is_dense_with_sixteen_particles_to_a_coordinate():
    settings = TemperingSettings(num_particles=160)
    assert settings.is_dense(10) and not settings.is_dense(11)
    assert TemperingSettings(num_particles=2, dense_mass=True).is_dense(100)
    assert not TemperingSettings(dense_mass=False).is_dense(1)
