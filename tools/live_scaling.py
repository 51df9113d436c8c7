"""What the figure of scaling shows: the losses of chapter 11's grid, and the law fitted to them."""

import csv
import html
import math
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize, nnls

CAPTION = "Losses of thirty small models and the law L = E + A/N^α + B/D^β, fitted to some of them."
GRID = Path(__file__).resolve().parents[1] / "data" / "scaling" / "grid.csv"
N_0, D_0 = 1e5, 1e6  # A and B are what N_0 parameters and D_0 tokens leave: they stay near 1


def data() -> dict[str, Any]:
    """Return sizes, lengths, and the mean loss of each pair over the seeds; all are in."""
    losses = defaultdict(list)
    with GRID.open() as stream:
        for row in csv.DictReader(stream):
            losses[int(row["parameters"]), int(row["tokens"])].append(float(row["loss"]))
    sizes, lengths = (sorted({key[k] for key in losses}) for k in (0, 1))
    mean = [[round(sum(r) / len(r), 5) for d in lengths if (r := losses[n, d])] for n in sizes]
    shown = {"sizes": [*range(len(sizes))], "lengths": [*range(len(lengths))]}
    return {"parameters": sizes, "tokens": lengths, "losses": mean, **shown}


def fit(stored: dict[str, Any], sizes: list[int], lengths: list[int]) -> dict[str, float]:
    """Return E, A, alpha, B and beta of the law with the least squares of relative errors.

    For given exponents the law is linear in E, A and B, of which none may be negative; the
    exponents are searched for.
    """
    pairs = list(product(sizes, lengths))
    n = np.array([stored["parameters"][i] for i, _ in pairs]) / N_0
    d = np.array([stored["tokens"][j] for _, j in pairs]) / D_0
    loss = np.array([stored["losses"][i][j] for i, j in pairs])

    def solve(exponents) -> tuple[np.ndarray, float]:
        alpha, beta = np.clip(exponents, 0.05, 2)
        terms = np.stack([np.ones_like(n), n**-alpha, d**-beta], axis=1) / loss[:, None]
        return nnls(terms, np.ones_like(loss))

    steps = np.arange(0.05, 2.01, 0.15)
    start = min(product(steps, steps), key=lambda pair: solve(pair)[1])
    options = {"xatol": 1e-6, "fatol": 1e-14, "maxiter": 4000, "maxfev": 4000}
    best = minimize(lambda x: solve(x)[1] ** 2, start, method="Nelder-Mead", options=options).x
    (E, A, B), _ = solve(best)
    alpha, beta = np.clip(best, 0.05, 2)
    return {"E": E, "A": A, "alpha": alpha, "B": B, "beta": beta}


def still(stored: dict[str, Any]) -> str:
    """Return the losses as a table, as it stands without JavaScript."""
    head = "".join(f"<th>{d / 1e6:.2g} million</th>" for d in stored["tokens"])
    rows = "".join(
        f"<tr><th>{n / 1e3:,.0f} thousand</th>{''.join(f'<td>{v:.2f}</td>' for v in row)}</tr>"
        for n, row in zip(stored["parameters"], stored["losses"], strict=True)
    )
    law = fit(stored, stored["sizes"][:-1], stored["lengths"])
    left = law["E"] + law["A"] * (stored["parameters"][-1] / N_0) ** -law["alpha"]
    told = left + law["B"] * (stored["tokens"][-1] / D_0) ** -law["beta"]
    found = stored["losses"][-1][-1]
    off = 100 * abs(math.log(told / found))
    sentence = (
        f"Fitted without the largest model, the law expects {told:.3f} for it at the longest "
        f"training; it reached {found:.3f}, {off:.1f}% away."
    )
    table = f"<table><tr><th>parameters</th>{head}</tr>{rows}</table>"
    return f"<p>Loss after reading so many characters:</p>{table}<p>{html.escape(sentence)}</p>"
