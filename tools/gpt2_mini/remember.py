"""What the published student would write itself: read again, so that it forgets nothing of it.

A network that learns something new forgets the old unless it goes on practising it; its own texts
will do (Robins, 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal"). They are lessons
like the teacher's, with the published model's expectations.
"""

import time
from pathlib import Path

import numpy as np
import torch

from course_utils.gpt import GPT
from course_utils.sampling import generate
from course_utils.weights import from_transformers
from tools.gpt2_mini.teacher import END, N_DRAW, N_EXPECTED, Lesson, save

LONGEST = 180  # tokens of the longest text


def remember(folder: Path, published: Path, minutes: float) -> None:
    """Let the published model write for ``minutes``, batch after batch."""
    model, started = from_transformers(published).float(), time.perf_counter()
    number = len(list(folder.glob("own-*.npz")))
    while True:
        lessons = write(model, torch.Generator().manual_seed(number))
        n = save(folder / f"own-{number:04d}.npz", lessons)
        seconds = time.perf_counter() - started
        print(f"own-{number:04d}.npz: {n:,} tokens after {seconds:.0f} s", flush=True)
        number += 1
        if seconds > 60 * minutes:
            return


@torch.no_grad()
def write(model: GPT, generator: torch.Generator, rows: int = 64) -> list[Lesson]:
    """Return up to ``rows`` texts from the first token on, and what the model expects at each."""
    options = {"temperature": 0.9, "top_k": N_DRAW, "generator": generator}
    texts = generate(model, [[END]] * rows, LONGEST, stop=[END], **options)
    lessons = []
    for text in texts:
        ids = text[:-1] if text[-1] == END else text
        if len(ids) < 16:
            continue
        shares, expected = model(torch.tensor([ids]))[0][0, :-1].softmax(-1).topk(N_EXPECTED)
        shares = shares / shares.sum(-1, keepdim=True)
        first = np.full((1, N_EXPECTED), END), np.full((1, N_EXPECTED), 1 / N_EXPECTED)
        lessons.append(
            Lesson(
                np.array(ids, np.uint16),
                np.concatenate([first[0], expected.numpy()]).astype(np.uint16),
                np.concatenate([first[1], shares.numpy()]).astype(np.float16),
            )
        )
    return lessons
