"""A saved fit keeps the prior, the report and the history, but not the rows."""

import json
import zipfile

import numpy as np
import pytest
from helpers.fits import quick_fit

import numpyro_disco as disco
from numpyro_disco.training.storage import FORMAT_VERSION, SavedFit


@pytest.fixture(scope="module")
def fit():
    rows = np.random.default_rng(0).normal(size=(200, 2))
    return quick_fit(rows, names=("a", "b"), noise_scale="auto", num_steps=50)


@pytest.fixture(scope="module")
def path(fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("fits") / "fit.npz"
    disco.save(path, fit)
    return path


def test_prior_report_and_history_are_loaded_unchanged(fit, path):
    loaded = disco.load(path)
    assert isinstance(loaded, SavedFit)
    x = np.random.default_rng(1).normal(size=(20, 2))
    np.testing.assert_array_equal(loaded.distribution.log_prob(x), fit.distribution.log_prob(x))
    assert str(loaded.report()) == str(fit.report())
    np.testing.assert_array_equal(loaded.report().draws, fit.report().draws)
    for one, other in zip(loaded.history, fit.history, strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.settings == str(fit.settings)
    for name in ("best_step", "components", "noise_scales", "interrupted"):
        assert getattr(loaded, name) == getattr(fit, name)
    assert len(loaded.plot_history()) == 2


def test_a_loaded_fit_can_be_saved_again(path, tmp_path):
    loaded = disco.load(path)
    disco.save(tmp_path / "again.npz", loaded)
    assert str(disco.load(tmp_path / "again.npz").report()) == str(loaded.report())


def test_rows_are_not_in_the_file(fit, path):
    held = {array.tobytes() for array in (fit.evidence.rows, fit.evidence.held_out)}
    with np.load(path) as file:
        assert not held & {file[name].tobytes() for name in file.files if name.endswith("npy")}


def test_a_damaged_fit_is_refused(path, tmp_path):
    for change, match in (
        (lambda text: text.update(format_version=FORMAT_VERSION + 1), "Upgrade numpyro_disco"),
        (lambda text: text["fit"].pop("report"), "do not fit together"),
    ):
        damaged = tmp_path / "damaged.npz"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(damaged, "w") as new:
            for member in old.namelist():
                data = old.read(member)
                if member == "description.json":
                    text = json.loads(data)
                    change(text)
                    data = json.dumps(text)
                new.writestr(member, data)
        with pytest.raises(disco.LoadError, match=match):
            disco.load(damaged)
