"""Fits that are killed, and continue from what they saved."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from helpers.fits import SMALL

import numpyro_disco as disco
from numpyro_disco.training import checkpoints, learning

ROOT = pathlib.Path(disco.__file__).parents[1]
# Only programs that are compiled alike give the same rounding.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}
SETTINGS = SMALL | {"reference": disco.MixtureFit(max_components=2), "num_steps": 200}

KILLED = """
import os, signal, sys
import jax, numpy as np, numpyro_disco as disco
from helpers.fits import SMALL
from numpyro_disco import _compiling
from numpyro_disco.training import checkpoints

# As conftest.py has it.
_compiling._OPTIONS.pop("xla_backend_optimization_level")
checkpoints.SECONDS_BETWEEN = 0
rows, path, last = sys.argv[1:]

def kill(event, arguments):
    # The last step of a save renames the folder that was written.
    if event == "os.rename" and str(arguments[1]) == last:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
settings = SMALL | {"reference": disco.MixtureFit(max_components=2), "num_steps": 200}
disco.fit(jax.random.key(0), np.load(rows), checkpoint=path, **settings)
"""


@pytest.fixture(scope="module")
def whole(few):
    return disco.fit(jax.random.key(0), few, **SETTINGS)


@pytest.fixture(scope="module")
def killed(few, tmp_path_factory):
    """The folder of a fit that was killed while it was saving its third round."""
    folder = tmp_path_factory.mktemp("killed")
    np.save(folder / "rows.npy", few)
    last = folder / "checkpoint" / "fit" / "rounds" / "300"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, folder / "rows.npy", folder / "checkpoint", last],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-3000:]
    return folder / "checkpoint"


@pytest.fixture
def checkpoint(killed, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(killed, tmp_path / "checkpoint")


def assert_same(one, other):
    for a, b in zip(
        jax.tree.leaves(one.distribution), jax.tree.leaves(other.distribution), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(one.history, other.history, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert one.best_step == other.best_step
    assert one.components == other.components
    np.testing.assert_array_equal(one.evidence.held_out, other.evidence.held_out)


def forbid(*args, **kwargs):
    raise AssertionError("this was done before")


class TestAKilledFit:
    def test_continues_to_the_same_end(self, checkpoint, few, whole, monkeypatch):
        rounds = checkpoint / "fit" / "rounds"
        names = {path.name for path in rounds.iterdir()}
        assert "200" in names and "300" not in names, "two rounds are complete"
        assert any(name.startswith("300.") for name in names), "the third is half written"
        monkeypatch.setattr(learning, "fit_reference", forbid)
        rest = disco.fit(jax.random.key(0), few, checkpoint=checkpoint, **SETTINGS)
        assert_same(rest, whole)
        assert [path.name for path in rounds.iterdir()] == ["401"]
        monkeypatch.setattr(learning, "train", forbid)
        assert_same(disco.fit(jax.random.key(0), few, checkpoint=checkpoint, **SETTINGS), whole)

    def test_a_twin_that_starts_the_round_again_is_noticed(
        self, checkpoint, few, whole, monkeypatch
    ):
        """Weights of one round with the optimiser state of none lead elsewhere."""
        original = checkpoints.Checkpoint.read_run

        def forgetful(self, weights, plan):
            saved = original(self, weights, plan)
            state = jax.tree.map(np.zeros_like, saved.run.carry.optimizer)
            carry = saved.run.carry._replace(optimizer=state)
            return saved._replace(run=saved.run._replace(carry=carry))

        monkeypatch.setattr(checkpoints.Checkpoint, "read_run", forgetful)
        rest = disco.fit(jax.random.key(0), few, checkpoint=checkpoint, **SETTINGS)
        with pytest.raises(AssertionError):
            assert_same(rest, whole)


class TestOtherCalls:
    @pytest.mark.parametrize(
        ("key", "part", "settings", "differing"),
        [
            (1, slice(None), {}, "`rng_key`"),
            (0, slice(1, None), {}, "`data`"),
            (0, slice(None), {"num_steps": 250}, "`num_steps`"),
            (0, slice(None), {"names": ("a", "b"), "batch_size": 32}, "`names`, `batch_size`"),
            (0, slice(None), {"optimizer": optax.adam(1e-3)}, "`optimizer`"),
            (
                0,
                slice(None),
                {
                    "reference": disco.GaussianReference(np.zeros(2), np.eye(2)),
                    "objective": "contrastive",
                },
                "`reference`",
            ),
        ],
        ids=["key", "rows", "steps", "two", "optimizer", "reference"],
    )
    def test_are_refused(self, killed, few, key, part, settings, differing):
        with pytest.raises(disco.CheckpointError, match=f"other values of {differing}\\."):
            disco.fit(jax.random.key(key), few[part], checkpoint=killed, **(SETTINGS | settings))

    def test_rates_of_optax_optimisers_are_told_apart(self, few, tmp_path):
        settings = SETTINGS | {"reference": "gaussian", "num_steps": 50}
        once = [jax.random.key(0), few]
        disco.fit(*once, checkpoint=tmp_path / "a", optimizer=optax.adam(1e-3), **settings)
        disco.fit(*once, checkpoint=tmp_path / "a", optimizer=optax.adam(1e-3), **settings)
        with pytest.raises(disco.CheckpointError, match="`optimizer`"):
            disco.fit(*once, checkpoint=tmp_path / "a", optimizer=optax.adam(2e-3), **settings)


class TestDamage:
    @pytest.mark.parametrize("part", ["reference", "rounds"])
    def test_a_cut_file_is_refused(self, checkpoint, few, part):
        files = [path for path in (checkpoint / "fit" / part).rglob("d/*") if path.is_file()]
        for path in files:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(disco.CheckpointError, match=f"damaged: {part} .*Delete the folder"):
            disco.fit(jax.random.key(0), few, checkpoint=checkpoint, **SETTINGS)

    def test_changed_numbers_are_refused(self, tmp_path):
        folder = tmp_path / "fit" / "rounds"
        checkpoints._write(folder, 0, {"a": np.arange(3.0)}, {"marks": {}})
        found, _ = checkpoints._read(folder, {})
        np.testing.assert_array_equal(found["a"], np.arange(3.0))
        about = folder / "0" / "about" / "metadata"
        about.write_text(about.read_text().replace('"digest": "', '"digest": "0'))
        with pytest.raises(disco.CheckpointError, match="numbers have changed"):
            checkpoints._read(folder, {})

    def test_other_folders_and_files_are_left_alone(self, few, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        for path, found in [(tmp_path, "holds .'notes.txt'."), (tmp_path / "notes.txt", "a file")]:
            with pytest.raises(disco.CheckpointError, match=found):
                disco.fit(jax.random.key(0), few, checkpoint=path, **SETTINGS)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_states_are_saved_when_they_are_due(few, whole, monkeypatch):
    saved = []
    monkeypatch.setattr(
        checkpoints.Checkpoint, "write_run", lambda self, run, finished: saved.append(run)
    )
    checkpoint = checkpoints.Checkpoint("nowhere", {})
    run = whole.resumable.run
    checkpoint.after_round(run)
    assert not saved
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    checkpoint.after_round(run)
    assert saved == [run]
    checkpoints.Checkpoint(None, {}).after_round(run)
    assert len(saved) == 1


def test_imputed_rows_are_kept(few, tmp_path, monkeypatch):
    rows = few[:200].copy()
    rows[:20, 0] = np.nan
    settings = SETTINGS | {"missing": disco.Refit(num_refits=1), "num_steps": 50}
    monkeypatch.setattr(
        "numpyro_disco.training.incomplete_rows.impute",
        lambda key, prior, table, num_imputations: np.nan_to_num(table)[None],
    )
    first = disco.fit(jax.random.key(0), rows, checkpoint=tmp_path, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit", "refit_1"]
    shutil.rmtree(tmp_path / "refit_1" / "rounds")
    monkeypatch.setattr("numpyro_disco.training.incomplete_rows.impute", forbid)
    assert_same(disco.fit(jax.random.key(0), rows, checkpoint=tmp_path, **settings), first)
