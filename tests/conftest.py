"""What all tests share."""


def pytest_collection_modifyitems(items):
    """Start with the longest file: two workers share whole files, and neither should wait long."""
    items.sort(key=lambda item: item.path.name != "test_training.py")
