"""What all tests share."""

import jax


def pytest_collection_modifyitems(items):
    """Start with the longest file: two workers share whole files, and neither should wait long."""
    items.sort(key=lambda item: item.path.name != "test_training.py")


def pytest_runtest_setup(item):
    """Compile quickly where nothing runs for long: most tests do little else than compile."""
    training = item.get_closest_marker("training") is not None
    jax.config.update("jax_disable_most_optimizations", not training)
