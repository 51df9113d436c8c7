"""A progress bar for notebooks and terminals that stays silent while the book is built."""

import os
from typing import Any

from tqdm.auto import tqdm


def progress_bar(*args: Any, disable: bool = False, **options: Any) -> tqdm:
    """Return ``tqdm(*args, disable=disable, **options)``, also disabled by ``TQDM_DISABLE``.

    tqdm's notebook bar does not read that variable itself, and a bar saved in a page would
    pull scripts from a third party.
    """
    return tqdm(*args, disable=disable or bool(os.environ.get("TQDM_DISABLE")), **options)
