"""Progress bars: one place decides when they are shown."""

from __future__ import annotations

import os
from typing import Any

from tqdm.auto import tqdm


def progress(*args: Any, shown: bool, **kwargs: Any) -> Any:
    """A tqdm bar with these arguments, hidden unless `shown`, and always where `CI` is set."""
    return tqdm(*args, disable=not shown or "CI" in os.environ, **kwargs)
