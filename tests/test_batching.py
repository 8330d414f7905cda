"""Batches of rows."""

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._batching import in_batches, in_calls, one_by_one


def test_batches_keep_order_and_bound_memory():
    sizes = []

    def function(arrays):
        sizes.append(len(arrays["a"]))
        return arrays["a"] + 1, arrays["b"].sum(1)

    for count, rows_at_once in ((1, 1), (10, 1), (10, 3), (10, 9), (10, 10), (10, None)):
        arrays = {"a": jnp.arange(count), "b": jnp.arange(2 * count).reshape(count, 2)}
        first, second = in_batches(function, arrays, rows_at_once)
        np.testing.assert_array_equal(first, np.arange(count) + 1)
        np.testing.assert_array_equal(second, 4 * np.arange(count) + 1)
        assert sizes[-1] <= (rows_at_once or count)


def test_calls_have_one_size_and_keep_order():
    sizes = []

    def program(a, b):
        sizes.append((len(a), len(b)))
        return {"sum": a + b[:, 0], "b": jnp.asarray(b)}

    for count in (1, 3, 7):
        a, b = np.arange(count), np.arange(2 * count).reshape(count, 2)
        found = in_calls(program, (a, b), 3)
        np.testing.assert_array_equal(found["sum"], a + b[:, 0])
        np.testing.assert_array_equal(found["b"], b)
    assert set(sizes) == {(3, 3)} and len(sizes) == 5


def test_a_function_that_is_not_batched():
    ranks = []

    def function(scale, x):
        def inner(x):
            ranks.append(jnp.ndim(x))
            bits = jax.random.bits(x, dtype=jnp.uint32)
            return {"bits": bits, "scaled": scale * (1 + jnp.arange(2))}

        return one_by_one(inner, x)

    keys, scales = jax.random.split(jax.random.key(0, impl="rbg"), 3), jnp.arange(3.0)
    alone = [function(*pair) for pair in zip(scales, keys, strict=True)]
    together = jax.jit(jax.vmap(function))(scales, keys)
    # Draws of a batch of such keys would be others than those of each key.
    batched = jax.vmap(lambda key: jax.random.bits(key, dtype=jnp.uint32))(keys)
    for name, found in together.items():
        np.testing.assert_array_equal(found, np.stack([one[name] for one in alone]))
    assert (batched[1:] != together["bits"][1:]).all()
    assert set(ranks) == {0}
