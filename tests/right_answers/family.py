"""Chapter 9: loops and masks, slices from the end, softplus, scikit-learn, unfold."""

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F


def mask_by_where(ids, vocab_size, mask_id, generator):
    dice = torch.rand(ids.shape, generator=generator)
    words = torch.randint(0, vocab_size, ids.shape, generator=generator)
    inputs = torch.where(dice < 0.12, mask_id, torch.where(dice < 0.135, words, ids))
    return inputs, torch.where(dice < 0.15, ids, -100)


def mask_by_index(ids, vocab_size, mask_id, generator):
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    chosen = torch.rand(ids.shape, generator=generator).lt(0.15).nonzero(as_tuple=True)
    labels[chosen] = ids[chosen]
    dice = torch.rand(len(chosen[0]), generator=generator)
    words = torch.randint(vocab_size, dice.shape, generator=generator)
    inputs[chosen] = torch.where(dice < 0.8, mask_id, torch.where(dice < 0.9, words, ids[chosen]))
    return inputs, labels


def mask_in_a_loop(ids, vocab_size, mask_id, generator):
    inputs, labels = ids.flatten().tolist(), [-100] * ids.numel()
    for k, word in enumerate(ids.flatten().tolist()):
        if torch.rand((), generator=generator) < 0.15:
            labels[k], die = word, torch.rand((), generator=generator)
            if die < 0.8:
                inputs[k] = mask_id
            elif die < 0.9:
                inputs[k] = int(torch.randint(vocab_size, (), generator=generator))
    return torch.tensor(inputs).view(ids.shape), torch.tensor(labels).view(ids.shape)


def mask_bernoulli(ids, vocab_size, mask_id, generator):
    def with_chance(p):
        return torch.bernoulli(torch.full(ids.shape, p), generator=generator).bool()

    chosen = with_chance(0.15)
    masked = chosen & with_chance(0.8)
    changed = chosen & ~masked & with_chance(0.5)
    inputs = ids.masked_fill(masked, mask_id)
    inputs[changed] = torch.randint(vocab_size, ids.shape, generator=generator)[changed]
    return [inputs, ids.masked_fill(~chosen, -100)]


def spans_by_word(words, spans):
    inside = {i for start, end in spans for i in range(start, end)}
    starts = {start: f"<{k}>" for k, (start, _) in enumerate(spans)}
    inputs, targets = [], []
    for i, word in enumerate(words):
        if i in starts:
            inputs.append(starts[i])
            targets.append(starts[i])
        (targets if i in inside else inputs).append(word)
    return [inputs, [*targets, f"<{len(spans)}>"]]


def spans_from_the_end(words, spans):
    inputs, targets = list(words), [f"<{len(spans)}>"]
    for k in reversed(range(len(spans))):
        cut = slice(*spans[k])
        targets = [f"<{k}>", *words[cut], *targets]
        inputs[cut] = [f"<{k}>"]
    return inputs, targets


def spans_recursive(words, spans, first=0, at=0):
    if not spans:
        return words[at:], [f"<{first}>"]
    (start, end), mark = spans[0], f"<{first}>"
    inputs, targets = spans_recursive(words, spans[1:], first + 1, end)
    return [*words[at:start], mark, *inputs], [mark, *words[start:end], *targets]


def spans_numpy(words, spans):
    pieces = np.split(np.array(words), np.ravel(spans))
    marks = [[f"<{k}>"] for k in range(len(spans) + 1)]
    inputs = [part for pair in zip(pieces[::2], marks, strict=True) for part in pair]
    targets = [part for pair in zip(marks, [*pieces[1::2], []], strict=True) for part in pair]
    return tuple(np.concatenate(inputs[:-1])), tuple(np.concatenate(targets))


def f1_by_counts(labels, predictions):
    y, p = np.array(labels, bool), np.array(predictions, bool)
    return 2 * (y & p).sum() / (2 * (y & p).sum() + (y ^ p).sum())


def patches_in_loops(images, size):
    H, W = images.shape[1:]
    corners = [(i, j) for i in range(0, H, size) for j in range(0, W, size)]
    squares = [images.numpy()[:, i : i + size, j : j + size] for i, j in corners]
    return np.stack([square.reshape(len(images), -1) for square in squares], axis=1)


def patches_by_view(images, size):
    B, H, W = images.shape
    squares = images.view(B, H // size, size, W // size, size).transpose(2, 3)
    return squares.reshape(B, -1, size**2)


RIGHT = {
    "mask_tokens": [mask_by_where, mask_by_index, mask_in_a_loop, mask_bernoulli],
    "span_corruption": [spans_by_word, spans_from_the_end, spans_recursive, spans_numpy],
    "dpo_loss": [
        lambda c, r, rc, rr, beta: F.softplus(beta * ((r - rr) - (c - rc))),
        lambda c, r, rc, rr, beta: -torch.log(torch.sigmoid(beta * ((c - rc) - (r - rr)))),
        lambda c, r, rc, rr, beta: torch.log1p(torch.exp(-beta * (c - r - rc + rr))),
        lambda c, r, rc, rr, b: -torch.stack([b * (c - rc), b * (r - rr)]).log_softmax(0)[0],
    ],
    "f1": [
        f1_by_counts,
        lambda y, p: f1_by_counts(torch.tensor(y), torch.tensor(p)) if any(p) else 0,
        lambda y, p: f1_score(y, p, zero_division=0),
        lambda y, p: 2 * sum(map(int.__mul__, y, p)) / max(1, sum(y) + sum(p)),
    ],
    "patchify": [
        patches_in_loops,
        patches_by_view,
        lambda x, s: F.unfold(x[:, None], s, stride=s).transpose(1, 2),
        lambda x, s: x.unfold(1, s, s).unfold(2, s, s).flatten(3).flatten(1, 2),
    ],
}
