"""The grid of noise levels."""

import numpy as np
import pytest

from numpyro_disco.training.objectives.noise import geometric_noise_scales


def test_noise_scales():
    scales = geometric_noise_scales(0.05, 3.0, 20)
    assert scales.shape == (20,)
    np.testing.assert_allclose(scales[[0, -1]], [0.05, 3.0])
    np.testing.assert_allclose(np.diff(np.log(scales)), np.log(60) / 19)
    with pytest.raises(ValueError, match="Expected `max_noise_scale` above `noise_scale`; got 0.1"):
        geometric_noise_scales(0.2, 0.1, 20)
    with pytest.raises(ValueError, match="`noise_scale`; got -1"):
        geometric_noise_scales(-1, 0.1, 20)
    with pytest.raises(ValueError, match="`num_noise_scales`; got 1"):
        geometric_noise_scales(0.1, 1.0, 1)
