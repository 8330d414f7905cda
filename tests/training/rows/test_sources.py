"""Rows on disk: what is recognised, and what is read."""

import numpy as np
import pandas as pd
import pytest
from numpyro.distributions import constraints

from numpyro_disco.tables.columns import Real
from numpyro_disco.tables.reading import read_rows
from numpyro_disco.training.rows import sources
from numpyro_disco.training.rows.sources import row_source

pyarrow = pytest.importorskip("pyarrow")
dataset = pytest.importorskip("pyarrow.dataset")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
ROWS[7, 1] = np.nan
PLACES = np.array([0, 0, 3, 7, 20, 21, 49])


class Records:
    """A random-access data source of records, as grain's are."""

    def __init__(self, named):
        self.named = named

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return dict(zip("abc", ROWS[index], strict=True)) if self.named else ROWS[index]


class TogetherRecords(Records):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.fixture
def folder(tmp_path):
    """Two Parquet files with a few groups of rows each."""
    for part, rows in enumerate(np.split(ROWS, [30])):
        table = pyarrow.table(
            {name: pyarrow.array(rows[:, i], from_pandas=True) for i, name in enumerate("abc")}
            | {"text": ["x"] * len(rows)}
        )
        parquet.write_table(table, tmp_path / f"{part}.parquet", row_group_size=8)
    np.save(tmp_path / "rows.npy", ROWS)
    return tmp_path


class TestSources:
    def test_rows_of_a_memory_map(self, folder):
        source = row_source(np.load(folder / "rows.npy", mmap_mode="r"), None)
        assert (source.num_rows, source.names) == (50, None)
        np.testing.assert_array_equal(source.take(PLACES), ROWS[PLACES])

    @pytest.mark.parametrize("batch_rows", [5, 1000])
    def test_rows_of_parquet_files(self, folder, monkeypatch, batch_rows):
        monkeypatch.setattr(sources, "BATCH_ROWS", batch_rows)
        (folder / "rows.npy").unlink()
        for data in (folder, str(folder), dataset.dataset(folder)):
            source = row_source(data, ("c", "b"))
            assert (source.num_rows, source.names) == (50, ("c", "b"))
            np.testing.assert_array_equal(source.take(PLACES), ROWS[PLACES][:, [2, 1]])

    def test_all_rows_are_read_with_their_categories(self, folder):
        (folder / "rows.npy").unlink()
        rows = read_rows(row_source(folder, ("text", "b")).read())
        assert [column.kind for column in rows.columns] == ["categories", "real"]
        np.testing.assert_array_equal(rows.values[:, 1], ROWS[:, 1])
        for named in (False, True):
            rows = read_rows(row_source(Records(named), None).read())
            assert rows.names == (("a", "b", "c") if named else None)
            np.testing.assert_array_equal(rows.values, ROWS)

    @pytest.mark.parametrize("kind", [Records, TogetherRecords])
    @pytest.mark.parametrize("named", [False, True])
    def test_records(self, kind, named):
        source = row_source(kind(named), None)
        assert (source.num_rows, source.names) == (50, ("a", "b", "c") if named else None)
        np.testing.assert_array_equal(source.take(PLACES), ROWS[PLACES])

    def test_a_grain_data_set(self):
        grain = pytest.importorskip("grain")
        source = row_source(grain.MapDataset.source(Records(True)), None)
        assert source.num_rows == 50 and source.names == ("a", "b", "c")
        np.testing.assert_array_equal(source.take(PLACES), ROWS[PLACES])

    @pytest.mark.parametrize(
        "data",
        [ROWS, ROWS.tolist(), {"a": ROWS[:, 0]}, pd.DataFrame(ROWS)],
        ids=["array", "lists", "columns", "frame"],
    )
    def test_data_in_memory_are_no_source(self, data):
        assert row_source(data, None) is None

    def test_records_go_by_name(self):
        class Shuffled(Records):
            def __getitem__(self, index):
                record = super().__getitem__(index)
                if index % 2:
                    record = {name: record[name] for name in "cab"}
                if index == 7:
                    del record["b"]
                return record

        source = row_source(Shuffled(named=True), None)
        np.testing.assert_array_equal(source.take(PLACES), ROWS[PLACES])
        np.testing.assert_array_equal(read_rows(source.read()).values, ROWS)


def write_parts(path, frame, num_parts=3):
    """A Parquet file whose groups of rows have parts of the levels each."""
    parquet.write_table(
        pyarrow.Table.from_pandas(frame), path, row_group_size=-(-len(frame) // num_parts)
    )


class TestKinds:
    @pytest.fixture
    def frame(self):
        days = pd.Timestamp("2020-03-01") + pd.to_timedelta(np.arange(60)[::-1], unit="D")
        frame = pd.DataFrame(
            {
                "city": np.repeat(["Paris", "Bonn", "Rome"], 20),
                "grade": pd.Categorical(["low", "high"] * 30, ["low", "mid", "high"], ordered=True),
                "flag": np.arange(60) > 55,
                "count": np.where(np.arange(60) == 7, 5, 2),
                "wide": 100 * np.arange(60),
                "day": days,
                "time": days + pd.to_timedelta(np.where(np.arange(60) == 3, 90, 0), unit="s"),
                "x": np.linspace(0, 1, 60),
            }
        )
        frame.loc[[5, 25], "city"] = None
        frame.loc[11, "day"] = None
        return frame

    @pytest.mark.parametrize("parts", [1, 10])
    def test_they_are_those_of_all_rows(self, frame, tmp_path, monkeypatch, parts):
        monkeypatch.setattr(sources, "BATCH_ROWS", 7)
        monkeypatch.setattr(sources, "MANY_PARTS", 2)
        write_parts(tmp_path / "rows.parquet", frame, parts)
        source = row_source(tmp_path / "rows.parquet", None)
        together = read_rows(source.read())
        found = [source.kinds.get(name, (Real(), None)) for name in source.names]
        assert tuple(column for column, _ in found) == together.columns
        np.testing.assert_array_equal(source.take(np.arange(60)), together.values)
        supports = dict(zip(source.names, (support for _, support in found), strict=True))
        assert (supports["count"].lower_bound, supports["count"].upper_bound) == (2, 5)
        assert supports["wide"] is constraints.nonnegative_integer
        assert supports["city"] is supports["x"] is None

    def test_what_is_no_column_is_named(self, frame, tmp_path):
        frame["id"] = [f"number {i}" for i in range(len(frame))]
        frame["id"] += "!"
        frame = pd.concat([frame, frame.assign(id=frame.id + "!")])
        frame["raw"] = [b"x"] * len(frame)
        write_parts(tmp_path / "rows.parquet", frame)
        with pytest.raises(ValueError, match="'id' holds 120 distinct texts.*'raw' holds"):
            row_source(tmp_path / "rows.parquet", None).take(np.arange(3))
        assert row_source(tmp_path / "rows.parquet", ("x", "city")).kinds.keys() == {"city"}


class TestRefusals:
    def test_a_path_without_a_file(self, tmp_path):
        with pytest.raises(ValueError, match="Parquet file, or a folder"):
            row_source(tmp_path / "nothing.parquet", None)

    def test_a_vector(self, tmp_path):
        np.save(tmp_path / "vector.npy", ROWS[:, 0])
        with pytest.raises(ValueError, match=r"shape \(N, D\) for `data`"):
            row_source(np.load(tmp_path / "vector.npy", mmap_mode="r"), None)
