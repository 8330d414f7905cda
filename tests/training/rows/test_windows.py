"""Training on rows that are read in windows."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from helpers.fits import SMALL, weights_of
from numpyro.distributions import constraints

import numpyro_disco as disco
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.training.rows import windows
from numpyro_disco.training.rows.sources import MappedRows
from numpyro_disco.training.rows.table import Table
from numpyro_disco.training.rows.units import Units
from numpyro_disco.training.rows.windows import Stream, WindowedRows, read_sample, rows_by_round

SETTINGS = SMALL | {"reference": disco.MixtureFit(max_components=2), "names": ("a", "b")}


@pytest.fixture
def few_fit(monkeypatch):
    """Samples of 1,000 rows, and windows of 3,200, one round of 50 batches of 64."""
    monkeypatch.setattr(windows, "SAMPLE_ROWS", 1000)
    monkeypatch.setattr(windows, "WINDOW_NUMBERS", 100)


@pytest.fixture(scope="module")
def path(rows, tmp_path_factory):
    """The rows, sorted by their first column."""
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, rows[np.argsort(rows[:, 0])])
    return path


def mapped(path):
    return np.load(path, mmap_mode="r")


class Records:
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"b": self.rows[index, 1], "a": self.rows[index, 0]}


def numbered(num_rows, held_out, window_rows, **values):
    """A reader of rows that hold their own number."""
    numbers = np.arange(float(num_rows))[:, None]
    for place, value in values.items():
        numbers[int(place[1:])] = value
    supports = CoordinateSupports((constraints.real,))
    table = Table(numbers[:0], ("number",), supports.supports)
    units = Units(numbers, numbers, np.zeros(1), np.ones(1), np.eye(1), np.eye(1))
    stream = Stream(jax.random.key(0), MappedRows(numbers), np.zeros(0, int), np.arange(1), table)
    return WindowedRows(stream, np.asarray(held_out), supports, units, window_rows // 50)


class TestWindows:
    def test_held_out_rows_are_never_read_and_all_others_are(self, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW_NUMBERS", 1)
        held_out = [0, 3, 4, 599]
        reader = numbered(600, held_out, 100)
        assert reader.shape == (100, 1) and reader.num_rounds == 1
        read = [reader.read(index).values[:, 0] for index in range(60)]
        assert sorted(set(range(600)) - set(np.concatenate(read))) == held_out
        np.testing.assert_array_equal(reader.read(7).values[:, 0], read[7])
        assert not np.array_equal(read[0], read[1])

    def test_rows_with_missing_entries_are_replaced(self):
        read = numbered(100, [5], 100, r7=np.nan, r8=np.nan).read(0).values
        assert read.shape == (99, 1) and np.isfinite(read).all()
        assert not {5, 7, 8} & set(read[:, 0])

    def test_infinite_values_are_refused(self):
        with pytest.raises(ValueError, match="Expected finite numbers"):
            numbered(100, [5], 100, r7=np.inf).read(0)

    def test_a_window_serves_as_many_rounds_as_its_rows_last(self, monkeypatch):
        reader, read = numbered(1000, [5], 150), []
        monkeypatch.setattr(windows, "WINDOW_NUMBERS", 300)
        original = WindowedRows.read
        monkeypatch.setattr(
            WindowedRows, "read", lambda self, index: read.append(index) or original(self, index)
        )
        with rows_by_round(reader, in_tree_order=False, num_rounds=7) as rows_of:
            found = [np.asarray(rows_of(index).values) for index in range(3, 7)]
        assert read == [1, 2, 3]
        for index, rows in zip(range(3, 7), found, strict=True):
            np.testing.assert_array_equal(rows, original(reader, index // 2).values)

    def test_rows_keep_their_weights_and_those_of_weight_zero_are_replaced(self):
        reader = numbered(100, [5], 100)
        weights = np.arange(100.0) % 3
        stream = dataclasses.replace(reader.stream, weights=weights)
        read = dataclasses.replace(reader, stream=stream).read(0)
        places = read.values[:, 0].astype(int)
        assert len(places) == 99 and (weights[places] > 0).all()
        np.testing.assert_array_equal(read.weights, weights[places])
        assert read.ends is not None
        refused = dataclasses.replace(reader.stream, weights=0)
        refused.source.array[:] = -1
        with pytest.raises(ValueError, match="are negative"):
            dataclasses.replace(reader, stream=refused).read(0)


class TestFits:
    def test_all_sources_give_the_same_fit(self, path, rows, few_fit, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = mapped(path)
        parquet.write_table(
            pyarrow.table({"b": table[:, 1], "a": table[:, 0]}), tmp_path / "rows.parquet"
        )
        one, *others = [
            disco.fit(jax.random.key(0), data, **SETTINGS)
            for data in (table, tmp_path / "rows.parquet", Records(table))
        ]
        assert one.evidence.rows.shape[0] + one.evidence.held_out.shape[0] == pytest.approx(
            1000, abs=50
        )
        for other in others:
            for a, b in zip(weights_of(one), weights_of(other), strict=True):
                np.testing.assert_array_equal(a, b)
        assert one.history.held_out_loss[-1] < one.history.held_out_loss[0] - 0.1

    def test_levels_that_the_sample_lacks_are_learned(self, few_fit, tmp_path):
        pytest.importorskip("pyarrow")
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"c": rng.choice(["x", "y"], 20_000), "n": rng.integers(0, 3, 20_000)})
        frame["a"] = rng.normal(size=20_000) + (frame.c == "x")
        # The places of the sample are random, so that it has no more than a few of these rows.
        frame.loc[7777:7780, ["c", "n"]] = ["rare", 9]
        frame.to_parquet(tmp_path / "rows.parquet")
        settings = SETTINGS | {"names": ("a", "c", "n"), "num_steps": 50}
        prior = disco.fit(jax.random.key(0), tmp_path / "rows.parquet", **settings).distribution
        assert prior.columns[1].levels == ("rare", "x", "y")
        assert prior.coordinate_supports.num_levels == (0, 3, 10)
        draws = prior.to_frame(prior.sample(jax.random.key(1), (2000,)))
        gap = draws.a[draws.c == "x"].mean() - draws.a[draws.c == "y"].mean()
        assert abs(gap - 1) < 0.25

    def test_weights_are_a_column_or_an_array(self, path, few_fit, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = mapped(path)
        weights = np.where(table[:, 0] > 0, 1.0, 0.0)
        columns = {"w": weights, "b": table[:, 1], "a": table[:, 0]}
        parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
        by_column = disco.fit(jax.random.key(0), tmp_path / "rows.parquet", weights="w", **SETTINGS)
        by_array = disco.fit(jax.random.key(0), table, weights=weights, **SETTINGS)
        for a, b in zip(weights_of(by_column), weights_of(by_array), strict=True):
            np.testing.assert_array_equal(a, b)
        assert by_column.distribution.names == ("a", "b")
        draws = np.asarray(by_column.distribution.sample(jax.random.key(1), (500,)))
        assert (draws[:, 0] > -0.5).mean() > 0.99

    def test_checkpoints_of_rows_on_disk(self, path, few_fit, tmp_path):
        whole = disco.fit(jax.random.key(0), mapped(path), **SETTINGS)
        kwargs = SETTINGS | {"checkpoint": tmp_path}
        disco.fit(jax.random.key(0), mapped(path), **kwargs)
        again = disco.fit(jax.random.key(0), mapped(path), **kwargs)
        for a, b in zip(weights_of(whole), weights_of(again), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_few_rows_are_read_into_memory(self, path, rows):
        few = mapped(path)[:500]
        assert isinstance(few, np.memmap)
        table, stream = read_sample(jax.random.key(0), few, None, {})
        assert stream is None
        np.testing.assert_array_equal(table.values, few)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"objective": "disco", "reference": "gaussian"}, "got Disco, .* `disco.Contrastive"),
            ({"objective": "joint"}, "got Joint"),
            ({"missing": disco.Refit()}, "Expected no `missing=disco.Refit"),
        ],
    )
    def test_what_needs_all_rows_is_refused(self, path, few_fit, settings, message):
        with pytest.raises(ValueError, match=message):
            disco.fit(jax.random.key(0), mapped(path), **(SETTINGS | settings))

    def test_values_outside_of_a_support_are_refused_wherever_they_are(self, few_fit, tmp_path):
        rows = np.abs(np.random.default_rng(0).normal(size=(20_000, 2))) + 0.1
        rows[10_000:10_400, 0] *= -1
        rows[::20, 0] = np.abs(rows[::20, 0])
        np.save(tmp_path / "rows.npy", rows)
        reader = {"supports": {"a": constraints.positive}}
        with pytest.raises(ValueError, match="'a' in `data` to be in its support"):
            disco.fit(jax.random.key(0), mapped(tmp_path / "rows.npy"), **SETTINGS, **reader)
