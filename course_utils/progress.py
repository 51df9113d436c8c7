"""A progress bar for notebooks and terminals that stays silent while the book is built."""

import os
from typing import Any

from tqdm.auto import tqdm


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """Return ``tqdm(*args, **options)``, disabled when ``TQDM_DISABLE`` is set.

    tqdm's notebook bar does not read that variable itself, and a bar saved in a page would
    pull scripts from a third party.
    """
    return tqdm(*args, disable=bool(os.environ.get("TQDM_DISABLE")), **options)
