"""What the figure of positions shows: one query and one key at every pair of places."""

import base64
import io
import math
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from course_utils.positions import alibi_bias, rotary_table, rotate, sinusoidal

CAPTION = "The score of one query and one key at every pair of places, told in three ways."


def data() -> dict[str, Any]:
    """Return a query and a key, drawn once, and where they stand at first."""
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(5))
    near = k + 0.6 * q  # alike enough for a clear score
    return {
        "q": [round(v, 3) for v in q.tolist()],
        "k": [round(v, 3) for v in near.tolist()],
        **{"n": 32, "n_head": 8, "kind": "sinusoidal", "a": 20, "b": 12, "base": 10_000, "head": 2},
    }


def scores_of_pairs(stored: dict[str, Any], kind: str) -> Tensor:
    """Return the score of the query at each place and the key at each place, ``(n, n)``."""
    q, k = (torch.tensor(stored[name], dtype=torch.float64) for name in "qk")
    places, d = torch.arange(stored["n"]).double(), len(stored["q"])
    if kind == "sinusoidal":
        table = sinusoidal(places, d, stored["base"])
        q, k = q + table, k + table
    elif kind == "rotary":
        turn = rotary_table(places, d, stored["base"])
        q, k = rotate(q, *turn), rotate(k, *turn)
    scores = (q @ k.mT if q.dim() == 2 else q @ k) / math.sqrt(d)
    if kind == "alibi":
        n = stored["n"]
        scores = scores + alibi_bias(stored["n_head"], n, n, dtype=torch.float64)[stored["head"]]
    return scores


def still(stored: dict[str, Any]) -> str:
    """Return the three maps of scores side by side, as they stand without JavaScript."""
    maps = []
    for kind, name in (("sinusoidal", "sinusoids"), ("rotary", "RoPE"), ("alibi", "ALiBi")):
        picture = io.BytesIO()
        plt.imsave(picture, scores_of_pairs(stored, kind).numpy(), cmap="RdBu_r", format="png")
        data = base64.b64encode(picture.getvalue()).decode("ascii")
        image = f'<img src="data:image/png;base64,{data}" alt="scores of all pairs with {name}">'
        maps.append(f"<div>{image}<p>{name}</p></div>")
    return f'<div class="live-maps">{"".join(maps)}</div>'
