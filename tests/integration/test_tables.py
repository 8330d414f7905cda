"""Tables as people have them, through every function that takes rows."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pandas as pd
import polars as pl
import pytest
import xarray as xr
from numpyro.distributions import constraints
from numpyro.infer.util import log_density

import numpyro_disco as disco

KEY = jax.random.key(0)
NAMES = ("a", "b")
ROWS = np.array([[0.0, 10.0], [1.0, 12.0]])
FRAME = pd.DataFrame(ROWS, columns=list(NAMES), index=["r", "s"])
SWAPPED = FRAME[["b", "a"]]
LOG_PROB = np.array([0.0, -1.0])
MISSING = np.array([[0.0, np.nan], [1.0, 12.0]])


@pytest.fixture(scope="module")
def prior():
    """a ~ N(0, 1) and b ~ N(10, 2^2), independent and unnormalised."""
    reference = disco.GaussianReference(jnp.array([0.0, 10.0]), jnp.diag(jnp.array([1.0, 4.0])))

    def energy(x):
        return 0.5 * (x[0] ** 2 + (x[1] - 10.0) ** 2 / 4)

    return disco.EnergyDistribution(energy, reference, names=NAMES)


FORMS = {
    "pandas": SWAPPED,
    "polars": pl.from_pandas(SWAPPED),
    "pyarrow": pl.from_pandas(SWAPPED).to_arrow(),
    "dict": {name: SWAPPED[name].to_numpy() for name in SWAPPED},
    "dict of series": {"b": SWAPPED["b"][::-1], "a": SWAPPED["a"]},
    "records": SWAPPED.to_dict(orient="records"),
    "xarray": xr.DataArray(SWAPPED, dims=("row", "column")),
    "dataset": xr.Dataset.from_dataframe(SWAPPED),
}


# --- labels count, whatever takes rows


@pytest.mark.parametrize("form", FORMS)
def test_densities_go_by_names(prior, form):
    rows = FORMS[form]
    np.testing.assert_allclose(prior.log_prob(rows), LOG_PROB, atol=1e-5)
    np.testing.assert_allclose(prior.energy(rows), -LOG_PROB, atol=1e-5)
    np.testing.assert_array_equal(prior.score(rows), prior.score(ROWS))
    np.testing.assert_array_equal(prior.points(rows), ROWS)
    np.testing.assert_array_equal(disco.site_values("x", prior, rows)["x.b"], ROWS[:, 1])


@pytest.mark.parametrize("form", FORMS)
def test_models_go_by_names(prior, form):
    rows = FORMS[form]

    def vector_site(obs=None):
        numpyro.sample("x", prior, obs=obs)

    def table():
        return disco.sample("x", prior, obs=rows)

    # NumPyro itself asks for the shape of what a site is given.
    value = rows if hasattr(rows, "shape") else prior.points(rows)
    assert log_density(vector_site, (value,), {}, {})[0] == pytest.approx(-1, abs=1e-5)
    given = numpyro.handlers.condition(vector_site, {"x": value})
    assert log_density(given, (), {}, {})[0] == pytest.approx(-1, abs=1e-5)
    assert log_density(table, (), {}, {})[0] == pytest.approx(-1, abs=1e-5)
    np.testing.assert_array_equal(table(), ROWS)


@pytest.mark.parametrize(
    "row",
    [
        pd.Series({"b": 12.0, "a": np.nan}),
        {"b": 12.0, "a": None},
        xr.DataArray([12.0, np.nan], coords={"column": ["b", "a"]}),
    ],
    ids=["series", "dict", "xarray"],
)
def test_one_row_goes_by_its_labels(prior, row):
    draws = disco.sample_conditional(KEY, prior, row, num_samples=50)
    np.testing.assert_array_equal(draws[:, 1], 12.0)
    clamped = prior.clamp(row)
    assert clamped.observed == (False, True) and clamped.values[1] == 12.0
    marginal = disco.log_marginal(KEY, prior, row)
    assert marginal.log_density == pytest.approx(-0.5 - np.log(2 * np.sqrt(2 * np.pi)), abs=1e-3)


def test_checks_go_by_names(prior):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"who": ["x"] * 40, "b": rng.normal(10, 2, 40), "a": rng.normal(size=40)})
    settings = {"num_samples": 50, "num_particles": 64}
    by_name = disco.check_conditional(KEY, prior, SWAPPED, data=data, **settings)
    by_place = disco.check_conditional(KEY, prior, ROWS, data=data[list(NAMES)], **settings)
    np.testing.assert_array_equal(by_name.percentile, by_place.percentile)
    np.testing.assert_array_equal(by_name.distance_percentile, by_place.distance_percentile)
    assert by_name.typical.all()
    ranks = disco.calibration(KEY, prior, data[["b", "a"]], num_samples=19).ranks
    again = disco.calibration(KEY, prior, data[list(NAMES)].to_numpy(), num_samples=19).ranks
    np.testing.assert_array_equal(ranks["b"], again["b"])


def test_names_that_do_not_fit_are_refused(prior):
    for function in (prior.log_prob, prior.score, prior.points):
        with pytest.raises(ValueError, match="names 'c', which is not a coordinate"):
            function(FRAME.assign(c=0))
        with pytest.raises(ValueError, match=r"entries for all of .*got none for \['b'\]"):
            function(FRAME[["a"]])
    with pytest.raises(ValueError, match="for 'a' in `x`; got 'low'"):
        prior.score(FRAME.assign(a="low"))


def test_levels_at_sites_are_refused_with_their_number():
    reference = disco.GaussianReference(jnp.zeros(2), jnp.eye(2))
    columns = {"a": disco.Categories(("low", "high")), "b": disco.Dates("2020-01-01")}
    prior = disco.EnergyDistribution(
        lambda x: 0.5 * (x @ x), reference, columns=columns, names=NAMES
    )
    for value, number in (("high", 1), ("low", 0)):
        given = numpyro.handlers.condition(disco.sample, {"x.a": value, "x.b": 0.0})
        with pytest.raises(ValueError, match=f"'x.a'.*got '{value}'. Give {number}, or clamp"):
            given("x", prior)
    given = numpyro.handlers.condition(disco.sample, {"x.a": 1.0, "x.b": "2020-01-03"})
    with pytest.raises(ValueError, match="'x.b'.*Give 2, or clamp"):
        given("x", prior)


# --- missing has one meaning


@pytest.mark.parametrize(
    "table",
    [
        np.ma.array([[0, -99], [1, 12]], mask=[[False, True], [False, False]]),
        [[0.0, None], [1.0, 12.0]],
        np.array([[0.0, pd.NA], [1.0, 12.0]], object),
        {"a": [0, 1], "b": pd.array([pd.NA, 12], dtype="Int64")},
        {"b": np.ma.array([0.0, 12.0], mask=[True, False]), "a": np.array([0.0, 1.0])},
        {"b": pd.Series([12.0], ["s"]), "a": pd.Series([0.0, 1.0], ["r", "s"])},
        [{"a": 0.0}, {"b": 12.0, "a": 1.0}],
        xr.DataArray(MISSING.T, dims=("column", "row"), coords={"column": list(NAMES)}),
        MISSING,
    ],
    ids=["masked", "None", "NA", "nullable", "masked columns", "index", "records", "xarray", "NaN"],
)
def test_what_is_missing_is_drawn(prior, table):
    filled = disco.impute(KEY, prior, table, num_imputations=8, num_particles=8)
    np.testing.assert_array_equal(filled, disco.impute(KEY, prior, MISSING, 8, num_particles=8))
    pattern = prior.pattern(table)
    np.testing.assert_array_equal(pattern.observed, ~np.isnan(MISSING))


def test_a_density_of_a_missing_entry_is_refused(prior):
    for form in (pl.DataFrame({"b": [1.0, None], "a": [0.0, 1.0]}), np.ma.masked_invalid(MISSING)):
        with pytest.raises(ValueError, match="`value` without NaN"):
            prior.log_prob(form)


# --- columns of every kind


def mixed(num_rows=300):
    """A frame with a column of every kind that can be learned."""
    rng = np.random.default_rng(0)
    levels = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=num_rows).astype(np.float32),
            "color": rng.choice(["red", "green"], num_rows),
            "size": pd.Categorical.from_codes(rng.integers(0, 3, num_rows), dtype=levels),
            "flag": pd.array(rng.random(num_rows) < 0.3, dtype="boolean"),
            "count": pd.array(rng.poisson(2.0, num_rows), dtype="Int64"),
            "income": rng.integers(20_000, 90_000, num_rows),
            "when": pd.date_range("2021-03-04 01:30", periods=num_rows, freq="37h", tz="UTC"),
        }
    )
    frame.loc[2, ["color", "size", "flag", "count", "when"]] = None
    return frame


TINY = {
    "num_steps": 1,
    "network": disco.MLP(width=8, num_blocks=1),
    "reference": disco.MixtureFit(max_components=1),
    "progress_bar": False,
}


@pytest.fixture(scope="module")
def learned():
    with pytest.warns(UserWarning, match=r"whole numbers of \['income'\] in `data`"):
        return disco.fit(KEY, mixed(), **TINY).distribution


def test_columns_are_learned_as_what_they_are(learned):
    assert learned.names == tuple(mixed())
    assert learned.columns == (
        disco.Real("Float32"),
        disco.Categories(("green", "red"), dtype="String"),
        disco.Categories(("low", "mid", "high"), ordered=True, dtype="Enum"),
        disco.Boolean(),
        disco.Whole(),
        disco.Whole(),
        disco.Dates("2021-03-04", "us", "UTC"),
    )
    assert learned.temper(2.0).columns == learned.clamp({"color": "red"}).columns == learned.columns


def test_conditioning_by_levels_and_dates(learned):
    given = {
        "color": "red",
        "size": "high",
        "flag": True,
        "when": pd.Timestamp("2021-03-06", tz="UTC"),
    }
    clamped = learned.clamp(given)
    assert clamped.values[1:4].tolist() == [1, 2, 1] and clamped.values[6] == 2
    with pytest.raises(ValueError, match=r"levels for 'size' in `observed` among \('low'"):
        learned.clamp({"size": "huge"})


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_imputed_frames_come_back_as_they_were(learned, library):
    frame = mixed().iloc[:5].set_index(pd.Index(list("vwxyz")))
    filled, known = frame, [0, 1, 3, 4]
    if library == "polars":
        frame = pl.from_pandas(frame)
        (filled,) = disco.impute(KEY, learned, frame, 1)
        assert filled.schema == frame.schema and filled[known].equals(frame[known])
        assert not sum(filled.null_count().row(0))
        return
    (filled,) = disco.impute(KEY, learned, frame, 1)
    assert filled.dtypes.tolist() == frame.dtypes.tolist() and not filled.isna().any(axis=None)
    pd.testing.assert_frame_equal(filled.iloc[known], frame.iloc[known], check_exact=True)


def test_frames_of_draws(learned):
    draws = disco.sample_conditional(KEY, learned, {"color": "red"}, num_samples=20)
    frame = learned.to_frame(draws)
    assert set(frame["color"]) == {"red"} and frame["size"].dtype == mixed()["size"].dtype
    assert frame["when"].dtype == mixed()["when"].dtype and frame["x"].dtype == np.float32
    assert learned.to_frame(draws, "polars").shape == (20, 7)
    for wrong, message in ((draws[0], r"shape \(n, 7\)"), (draws * np.nan, "finite `draws`")):
        with pytest.raises(ValueError, match=message):
            learned.to_frame(wrong)
    with pytest.raises(ValueError, match="`library`; got 'excel'"):
        learned.to_frame(draws, "excel")


def test_a_file_keeps_the_columns(learned, tmp_path):
    disco.save(tmp_path / "prior.npz", learned)
    assert disco.load(tmp_path / "prior.npz").columns == learned.columns


def test_all_columns_that_need_something_are_named_in_one_error():
    """The call in the error works as it stands."""
    rng = np.random.default_rng(0)
    counts = {f"n{i}": rng.poisson(1.0, 200).astype(float) for i in range(3)}
    data = pd.DataFrame(
        {
            **counts,
            "x": rng.normal(size=200),
            "id": [f"patient {i}" for i in range(200)],
            "took": pd.to_timedelta(rng.integers(1, 9, 200), unit="h"),
            "spiked": np.where(rng.random(200) < 0.5, 0.25, rng.normal(size=200)),
            "constant": 3,
            "empty": np.nan,
            "far": np.where(rng.random(200) < 0.05, np.inf, rng.normal(size=200)),
        }
    )
    with pytest.raises(ValueError) as caught:
        disco.fit(KEY, data, **TINY)
    message = str(caught.value)
    for name in data.columns.drop("x"):
        assert f"'{name}'" in message, name
    assert "'x'" not in message and "holds a text of its own in each row" in message
    (call,) = re.findall(r"`fit\(rng_key, (data\.drop.*?), (supports=\{.*?\})\)`", message)
    scope = {"data": data, "constraints": constraints, "np": np}
    given = eval(f"dict({call[1]})", scope)
    prior = disco.fit(KEY, eval(call[0], scope), **given, **TINY).distribution
    assert prior.names == (*counts, "x", "far") and prior.columns[0] == disco.Whole("Float64")


def test_smoothed_densities_take_whole_numbers_as_they_are():
    rng = np.random.default_rng(0)
    data = {"n": rng.poisson(1.0, 60), "x": rng.normal(size=60)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "No step of training lowered the held-out loss")
        settings = {"num_steps": 1, "network": TINY["network"], "progress_bar": False}
        prior = disco.fit(KEY, data, noise_scale=0.1, **settings).distribution
    assert prior.coordinate_supports.real and prior.columns[0] == disco.Whole()
