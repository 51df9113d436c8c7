"""Exercises of chapter 4: sines, added positions, left padding, rotary positions, ALiBi."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_checks import Wrong
from course_checks.answers import as_tensor, draw
from course_checks.exercises import Exercise, Way, changed

BASE = 10_000.0
Frequency = Callable[[Tensor, int], Tensor]
#: The frequency of pairs i = 0, 1, 2, … of C channels, instead of 10000^(-2i / C).
FREQUENCIES: dict[str, Frequency | tuple[Frequency, ...]] = {
    "With i counting the pairs, the exponent is 2i / C, not i / C.": lambda i, C: BASE ** (-i / C),
    "The exponent is 2i / C, with i counting the pairs.": lambda i, C: BASE ** (-4 * i / C),
    "You multiply by 10000^(2i / C); divide by it.": lambda i, C: BASE ** (2 * i / C),
    "The base is 10,000.": (lambda i, C: 1e3 ** (-2 * i / C), lambda i, C: 1e5 ** (-2 * i / C)),
    "Count the pairs from i = 0.": lambda i, C: BASE ** (-2 * (i + 1) / C),
    "The exponent is 2i / C, not i / (C/2 - 1).": lambda i, C: BASE ** (-i / (C / 2 - 1)),
    "The angles are in radians as they are: no degrees, no π.": (
        *(lambda i, C: paired(i, C) * math.radians(1), lambda i, C: paired(i, C) * 2 * math.pi),
    ),
    "Each pair has a frequency of its own, 10000^(-2i / C).": lambda i, C: torch.ones(len(i)),
}


def paired(i: Tensor, C: int) -> Tensor:
    """Return the right frequencies."""
    return BASE ** (-2 * i / C)


def _angles(where: Tensor, C: int, frequency: Frequency = paired) -> Tensor:
    return where[:, None] * frequency(torch.arange(C // 2), C)  # (T, C / 2)


def _in_turns(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], dim=-1).flatten(-2)


def _halves(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], dim=-1)


# --- 1 ---------------------------------------------------------------------------------------


def _sines(
    frequency: Frequency = paired,
    even: Way = torch.sin,
    odd: Way = torch.cos,
    join: Way = _in_turns,
) -> Way:
    def table(n_position: int, n_embd: int) -> Tensor:
        angles = _angles(torch.arange(n_position), n_embd, frequency)
        return join(even(angles), odd(angles))

    return table


def _by_channel(power: int) -> Way:
    def table(T: int, C: int) -> Tensor:
        angles = torch.arange(T)[:, None] / BASE ** (power * torch.arange(C) / C)
        return _in_turns(angles[:, ::2].sin(), angles[:, 1::2].cos())

    return table


check_sinusoidal_table = Exercise(
    name="sinusoidal_table",
    task="The sinusoidal encoding, sin, cos, sin, cos, … of positions 0 to n_position - 1.",
    right=lambda n_position, n_embd: _sines()(n_position, n_embd),
    inputs=lambda seed: [(T + seed % 3, C) for T, C in ((2, 4), (5, 6), (4, 8), (3, 12), (50, 16))],
    shape="(n_position, n_embd)",
    tolerance=3e-3,
    mistakes=changed(_sines, FREQUENCIES)
    | {
        "They alternate, sin, cos, sin, cos, …, unlike in some code.": _sines(join=_halves),
        "The even channels are sines, the odd ones cosines.": _sines(even=torch.cos, odd=torch.sin),
        "There are sines only; the odd channels are cosines.": _sines(odd=torch.sin),
        "`/ 10000 * …` is not a power: `**`.": _sines(lambda i, C: 2 * i / C / BASE),
        "Positions start at 0, yours at 1.": lambda T, C: _sines()(T + 1, C)[1:],
        "These are the angles: take sines and cosines.": _sines(even=torch.abs, odd=torch.abs),
        "A cosine has the frequency of the sine before it: the exponent counts pairs, not "
        "channels.": (_by_channel(1), _by_channel(2)),
    },
    notice="The fastest pair repeats after 6.3 positions, the slowest of 16 channels after 19,869.",
)

# --- 2 ---------------------------------------------------------------------------------------


def _add_inputs(seed: int) -> list[tuple]:
    shapes = ((1, 2, 3), 4), ((3, 5, 6), 8), ((4, 2, 5), 7), ((3, 3, 4), 6), ((2, 6, 3), 6)
    return [(draw(*x, seed=seed), draw(rows, x[-1], seed=seed + 1)) for x, rows in shapes]


check_add_positions = Exercise(
    name="add_positions",
    task="x (B, T, C) plus the first T rows of the table of positions.",
    right=lambda x, table: x + table[: x.shape[1]],
    inputs=_add_inputs,
    shape="(B, T, C)",
    mistakes={
        "Right where T is block_size; a shorter text needs table[:T].": lambda x, p: x + p,
        "Side by side; add them.": lambda x, p: _halves(x, p[: x.shape[1]].expand_as(x)),
        "These are the positions alone; add them to x.": lambda x, p: p[: x.shape[1]],
        "x came back unchanged.": lambda x, p: x,
        "Only the first text is left.": lambda x, p: x[0] + p[: x.shape[1]],
        "All tokens got one vector; token t gets row t: table[:T].": (
            lambda x, p: x + p[0],
            lambda x, p: x + p[x.shape[1] % len(p)],
            lambda x, p: x + p[: x.shape[1]].mean(0),
        ),
        "The first position is 0, not 1.": lambda x, p: x + p.roll(-1, 0)[: x.shape[1]],
        "You took the last T rows; a text begins at position 0.": lambda x, p: x + p[-x.shape[1] :],
        "The positions run backwards.": lambda x, p: x + p[: x.shape[1]].flip(0),
        "The rows went along the batch, not along time, dimension 1: x + table[:T].": (
            lambda x, p: x + p[: len(x), None],
            lambda x, p: x + p[: x.shape[1], None],
            lambda x, p: x + p[: len(x)],
        ),
        "You multiplied; add.": lambda x, p: x * p[: x.shape[1]],
    },
    notice="(T, C) was added to all B texts at once: broadcasting matches shapes from the right.",
)

# --- 3 ---------------------------------------------------------------------------------------


def _padded_inputs(seed: int) -> list[tuple]:
    lengths = [[2]], [[3], [5], [4]], [[1], [9], [4], [7]], [[2], [3], [1]], [[4], [3], [4], [2]]
    sizes = zip((3 + seed % 3, 6, 9, 3, 4), lengths, strict=True)
    return [((torch.arange(T) >= T - torch.tensor(n)).long(),) for T, n in sizes]


def _real_tokens(answer: Callable, attention_mask: Tensor) -> Tensor:
    """Return the positions with 0 for all padding that has a row in a table of T rows."""
    found = torch.as_tensor(answer(attention_mask))
    if found.is_floating_point():
        raise Wrong("The numbers are floats.")
    if found.shape not in (attention_mask.shape, attention_mask.shape[1:]):
        return found
    inside = (found >= 0) & (found < found.shape[-1])
    return found.masked_fill(inside & (attention_mask == 0), 0)


def _after(padding: Way) -> Way:
    return lambda mask: (torch.arange(mask.shape[-1]) - padding(mask)).clamp(min=0)


check_padded_positions = Exercise(
    name="padded_positions",
    task="The position of each token in rows that are padded on the left.",
    right=lambda attention_mask: (attention_mask.cumsum(-1) - 1).clamp(min=0),
    use=_real_tokens,
    inputs=_padded_inputs,
    shape="(B, T)",
    mistakes={
        "These are the column numbers: the padding was counted.": _after(lambda m: 0),
        "The first real token has position 0, not 1.": lambda m: m.cumsum(-1),
        "The table has no row -1: clamp at 0.": lambda m: m.cumsum(-1) - 1,
        "Count along rows, dim=-1, not down the batch.": lambda m: (m.cumsum(0) - 1).clamp(min=0),
        "Each row has its own padding; you took one number for all rows.": (
            *(_after(lambda m: (m[0] == 0).sum()), _after(lambda m: (m == 0).sum())),
        ),
        "A sum for each row needs keepdim=True here, (B, 1).": _after(lambda m: (m == 0).sum(-1)),
        "Subtract the padding, not the real tokens.": _after(lambda m: m.sum(-1, keepdim=True)),
        "Each token has a position, not each row.": lambda m: m.sum(-1, keepdim=True) - 1,
        "The positions run backwards.": lambda m: m.flip(-1).cumsum(-1).flip(-1) - 1,
        "This is the mask; count its ones.": lambda m: m,
        "Positions are rows of a table: whole numbers.": lambda m: (m.cumsum(-1) - 1.0).clamp(
            min=0
        ),
    },
    notice="Each text starts at 0 now, wherever its row begins.",
)

# --- 4 ---------------------------------------------------------------------------------------


def _rotary_inputs(seed: int) -> list[tuple]:
    places = [3, 1, 2], [3, 0, 7, 12, 5], [2, 1, 4, 0, 3], [5, 3, 1, 2], [0, 1, 2]
    shapes = zip(((3, 4), (5, 6), (2, 3, 5, 8), (4, 4), (3, 12)), places, strict=True)
    return [(draw(*shape, seed=seed), torch.tensor(where)) for shape, where in shapes]


def _turned(
    frequency: Frequency = paired,
    split: Way = lambda x: x.chunk(2, -1),
    join: Way = _halves,
    turn: Way = lambda a, b, cos, sin: (a * cos - b * sin, b * cos + a * sin),
) -> Way:
    def turned(x: Tensor, where: Tensor) -> Tensor:
        angles = _angles(where, x.shape[-1], frequency)
        return join(*turn(*split(x), angles.cos(), angles.sin()))

    return turned


def _neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., ::2], x[..., 1::2]


def _overwriting(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    a = a * cos - b * sin
    return a, b * cos + a * sin


check_rotate_pairs = Exercise(
    name="rotate_pairs",
    task="Each pair of channels (i, i + d_k / 2) turned by where · 10000^(-2i / d_k).",
    right=lambda x, where: _turned()(x, where),
    inputs=_rotary_inputs,
    shape="(..., T, d_k)",
    tolerance=3e-3,
    mistakes=changed(_turned, FREQUENCIES)
    | {
        "You paired neighbours, (0, 1), (2, 3), …, as the paper does; here channel i goes with "
        "i + d_k / 2.": (_turned(split=_neighbours, join=_in_turns), _turned(split=_neighbours)),
        "The pairs are right; now put all a before all b.": _turned(join=_in_turns),
        "Turned the wrong way: (a, b) becomes (a cos - b sin, b cos + a sin).": (
            _turned(turn=lambda a, b, cos, sin: (a * cos + b * sin, b * cos - a * sin))
        ),
        "This is not a rotation: lengths change. (a, b) becomes (a cos - b sin, b cos + a sin).": (
            _turned(turn=lambda a, b, cos, sin: (a * cos + b * sin, b * cos + a * sin)),
            _turned(turn=lambda a, b, cos, sin: (a * cos + a * sin, b * cos + b * sin)),
        ),
        "The second line used the new a: keep the old one.": _turned(turn=_overwriting),
        "Sine and cosine are swapped: at position 0 nothing turns.": (
            _turned(turn=lambda a, b, cos, sin: (a * sin - b * cos, b * sin + a * cos))
        ),
        "Use `where`, not the row's number.": lambda x, w: _turned()(x, torch.arange(len(w))),
        "The positions are one too high.": lambda x, where: _turned()(x, where + 1),
        "You added sines and cosines, as at the start of chapter 4; turn each pair.": (
            lambda x, where: x + _sines(join=_halves)(99, x.shape[-1])[where]
        ),
        "x came back unchanged.": lambda x, where: x,
    },
    notice="Only the distance counts: moved together, query and key keep their score.",
)

# --- 5 ---------------------------------------------------------------------------------------


def _up_to_the_diagonal(answer: Callable, n_head: int, T: int) -> Tensor:
    found = as_tensor(answer(n_head, T))
    return found.tril() if found.shape == (n_head, T, T) else found


def _bias(
    slope: Callable[[Tensor, int], Tensor] = lambda h, H: 2.0 ** (-8 * h / H),
    distance: Callable[[Tensor, Tensor], Tensor] = lambda m, n: m - n,
) -> Way:
    def bias(n_head: int, T: int) -> Tensor:
        n = torch.arange(T)
        return -slope(torch.arange(1, n_head + 1)[:, None, None], n_head) * distance(n[:, None], n)

    return bias


check_alibi_bias = Exercise(
    name="alibi_bias",
    task="Minus 2^(-8h / n_head) times the distance m - n, for n up to m.",
    right=lambda n_head, T: _bias()(n_head, T),
    use=_up_to_the_diagonal,
    inputs=lambda seed: [(H, T + seed % 3) for H, T in ((1, 2), (4, 4), (2, 5), (8, 7), (16, 3))],
    shape="(n_head, T, T)",
    mistakes={
        "All heads have one slope; head h has 2^(-8h / n_head).": (
            *(_bias(lambda h, H: h**0), _bias(lambda h, H: 2.0 ** (-8 / H) * h**0)),
        ),
        "The slopes are those of 8 heads: the exponent is 8h / n_head.": _bias(
            lambda h, H: 2.0**-h
        ),
        "Count the heads from 1.": _bias(lambda h, H: 2.0 ** (-8 * (h - 1) / H)),
        "The slopes run the wrong way.": _bias(lambda h, H: 2.0 ** (-8 * (H + 1 - h) / H)),
        "The slope is a power of 2, not of e.": _bias(lambda h, H: (-8 * h / H).exp()),
        "The exponent is negative, -8h / n_head.": _bias(lambda h, H: 2.0 ** (8 * h / H)),
        "The slope is 2 to the power of -8h / n_head.": _bias(lambda h, H: 8 * h / H),
        "Far keys are rewarded: minus slope times m - n.": _bias(distance=lambda m, n: n - m),
        "This is slope times the key's position, as in Bloom's code. The softmax gives the same "
        "result, but the exercise asks for the distance.": _bias(distance=lambda m, n: -n * m**0),
        "The distance is m - n, not m.": _bias(distance=lambda m, n: m * n**0),
        "The distance to oneself is 0.": _bias(distance=lambda m, n: m - n + 1),
        "The distance is not squared.": _bias(distance=lambda m, n: (m - n) ** 2),
        "Multiply by the distance m - n.": _bias(distance=lambda m, n: (m - n) ** 0),
        "The heads come last; they come first.": lambda H, T: _bias()(H, T).permute(1, 2, 0),
    },
    notice="Of four heads the first halves a key's weight every 2.8 tokens, the last every 177.",
)
