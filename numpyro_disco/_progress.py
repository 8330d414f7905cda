"""The progress bar of everything that takes a while."""

from __future__ import annotations

import os
from typing import Any

from tqdm.auto import tqdm


def progress(*args: Any, shown: bool, **kwargs: Any) -> Any:
    """A tqdm bar that is hidden if `shown` is false or the environment variable `CI` is set.

    Args:
        *args: positional arguments of `tqdm`.
        shown: the user's `progress_bar` argument.
        **kwargs: keyword arguments of `tqdm`.
    """
    return tqdm(*args, disable=not shown or "CI" in os.environ, **kwargs)
