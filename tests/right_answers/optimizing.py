"""Homeworks 3 and 4: loops, numpy, torch's own functions, recursion, callable objects, keywords."""

import math
import statistics
from collections import namedtuple
from itertools import accumulate, pairwise

import numpy as np
import torch

from tests.right_answers.scaling import weighed_in_a_loop


def perplexity_in_a_loop(losses, sizes):
    total = 0.0
    for loss, n in zip(losses, sizes, strict=True):
        total += loss * n
    return math.exp(total / sum(sizes))


def running_gradient(gradients, sizes):
    mean, seen = 0.0, 0
    for gradient, size in zip(gradients, sizes, strict=True):
        seen += size
        mean = mean + (gradient - mean) * size / seen
    return mean


def adamw(weight, grad, m, v, step, lr, weight_decay, beta1=0.9, beta2=0.999):
    m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad * grad
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return weight * (1 - lr * weight_decay) - lr * m_hat / (torch.sqrt(v_hat) + 1e-8), m, v


def adamw_numpy(weight, grad, m, v, step, lr, weight_decay):
    weight, grad, m, v = (np.asarray(part, dtype=np.float64) for part in (weight, grad, m, v))
    m, v = m + 0.1 * (grad - m), v + 0.001 * (grad * grad - v)
    update = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return [weight - lr * (update + weight_decay * weight), m, v]


def adamw_torch(weight, grad, m, v, step, lr, decay):
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = grad.clone()
    optimizer = torch.optim.AdamW([parameter], lr=lr, weight_decay=decay)
    state = {"step": torch.tensor(step - 1.0), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.state[parameter] = state
    optimizer.step()
    return parameter.detach(), state["exp_avg"], state["exp_avg_sq"]


def stop(steps, val_losses, patience):
    best, waited = math.inf, 0
    for step, loss in zip(steps, val_losses, strict=True):
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience:
            return step
    return steps[-1]


def stop_by_index(steps, losses, patience):
    for end in range(len(losses)):
        if end - int(np.argmin(losses[: end + 1])) >= patience:
            return torch.tensor(steps[end])
    return torch.tensor(steps[-1])


def stop_by_lows(steps, losses, patience):
    lows = list(accumulate(losses, min))
    ends = (n for n in range(patience, len(lows)) if lows[n] == lows[n - patience])
    return float(steps[next(ends, -1)])


def reach(steps, losses, target):
    if losses[0] <= target:
        return steps[0]
    for (x, y), (a, b) in zip(pairwise(steps), pairwise(losses), strict=True):
        if a > target >= b:
            return x + (y - x) * (a - target) / (a - b)
    return float("inf")


def reach_numpy(steps, losses, target):
    below = np.flatnonzero(np.asarray(losses) <= target)
    if not len(below) or below[0] == 0:
        return np.float64(steps[0] if len(below) else np.inf)
    i = below[0]
    return np.interp(target, [losses[i], losses[i - 1]], [steps[i], steps[i - 1]])


def reach_recursion(steps, losses, target):
    if losses[0] <= target:
        return torch.tensor(steps[0])
    if len(steps) == 1:
        return torch.inf
    if losses[1] > target:
        return reach_recursion(steps[1:], losses[1:], target)
    slope = (losses[1] - losses[0]) / (steps[1] - steps[0])
    return steps[0] + (target - losses[0]) / slope


def winner(losses, margin):
    means = {value: sum(seeds) / len(seeds) for value, seeds in losses.items()}
    first, second = sorted(means, key=means.get)[:2]
    return first if means[second] - means[first] > margin else None


def winner_numpy(losses, margin):
    values, means = list(losses), np.array([np.mean(seeds) for seeds in losses.values()])
    first, second = np.argsort(means)[:2]
    return values[first] if means[second] - means[first] > margin else None


def winner_of_all(losses, margin):
    Run = namedtuple("Run", "mean value")
    runs = [Run(statistics.fmean(seeds), value) for value, seeds in losses.items()]
    best = min(runs, key=lambda run: run.mean)
    if all(run.mean - best.mean > margin for run in runs if run is not best):
        return best.value


RIGHT = {
    "corpus_perplexity": [
        perplexity_in_a_loop,
        lambda a, n: (torch.tensor(a) @ torch.tensor(n).float() / sum(n)).exp(),
        lambda losses, sizes: np.exp(np.average(losses, weights=sizes)),
        lambda a, n: math.prod(math.exp(x * k / sum(n)) for x, k in zip(a, n, strict=True)),
    ],
    "mean_gradient": [
        weighed_in_a_loop,
        running_gradient,
        lambda gs, ns: np.average([g.numpy() for g in gs], axis=0, weights=ns),
        lambda gs, ns: torch.einsum("n...,n->...", torch.stack(gs), torch.tensor(ns) / sum(ns)),
    ],
    "adamw_step": [
        adamw,
        adamw_numpy,
        adamw_torch,
        lambda w, g, m, v, t, lr, d: adamw(
            step=t, weight_decay=d, lr=lr, v=v.double(), m=m, grad=g, weight=w
        ),
    ],
    "stopping_step": [
        stop,
        stop_by_index,
        stop_by_lows,
        lambda s, a, n: np.float32(stop(patience=n, val_losses=np.array(a), steps=s)),
    ],
    "steps_to_reach": [reach, reach_numpy, reach_recursion, lambda s, a, t: [reach(s, a, t)]],
    "clear_winner": [
        winner,
        winner_numpy,
        winner_of_all,
        lambda losses, margin: winner({k: np.asarray(v) for k, v in losses.items()}, margin),
    ],
}
