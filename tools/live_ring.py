"""What the figure of the ring shows: some numbers for each worker, and how they are added up."""

from typing import Any

import numpy as np

CAPTION = (
    "Two workers or eight: in a ring none sends more than twice its own numbers until all have "
    "every sum. A pipeline of p stages with m micro-batches idles for (p − 1) / (m + p − 1) of the "
    "time."
)


def data() -> dict[str, Any]:
    """Return small numbers for up to eight workers and pieces, and what is shown at first."""
    own = np.random.default_rng(11).integers(1, 10, size=(8, 8))
    return {"own": own.tolist(), "workers": 4, "stages": 4, "microbatches": 4}


def moved(own: np.ndarray, moves: int) -> np.ndarray:
    """Return what each worker holds of each piece, ``(n, n)``, after so many moves of the ring.

    Each move hands one piece of every worker to the next worker: the first n - 1 moves add it,
    the others copy it. Source: Patarasuk and Yuan, 2009
    (https://doi.org/10.1016/j.jpdc.2008.09.002).
    """
    held, workers = own.copy(), np.arange(len(own))
    for move in range(1, moves + 1):
        to, piece = np.roll(workers, -1), (workers + 1 - move) % len(own)
        came = held[workers, piece]
        held[to, piece] = came + held[to, piece] * (move < len(own))
    return held


def still(stored: dict[str, Any]) -> str:
    """Return the numbers before, between and after the two rounds, without JavaScript."""
    n = stored["workers"]
    own = np.array(stored["own"])[:n, :n]
    heads = {
        0: "Each has its own numbers",
        n - 1: f"After {n - 1} moves each has one finished sum",
        2 * (n - 1): f"After {2 * (n - 1)} moves all have all sums",
    }
    parts = []
    for moves, head in heads.items():
        held = moved(own, moves)
        whole = held == own.sum(0)
        rows = "".join(
            f'<tr><th scope="row">{w}</th>'
            + "".join(
                f"<td{' class=live-whole' if done else ''}>{value}</td>"
                for value, done in zip(held[w], whole[w], strict=True)
            )
            + "</tr>"
            for w in range(n)
        )
        parts.append(f'<div><p>{head}</p><table class="live-held">{rows}</table></div>')
    return f'<div class="live-rings">{"".join(parts)}</div>'
