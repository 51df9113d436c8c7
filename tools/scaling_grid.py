"""Measure the loss of models of several sizes after trainings of several lengths.

python -m tools.scaling_grid    train what data/scaling/grid.csv lacks, and write it there

Chapter 11 fits a scaling law to the table. To measure it anew, delete the file first. Each finished
run is kept at once, so that the command can be stopped and started again.
"""

import csv
import functools
import sys
from dataclasses import replace
from pathlib import Path

import torch

from course_utils import corpora, recipes, terminal, training
from course_utils.device import describe_device, pick_device
from course_utils.gpt import GPT

TABLE = Path(__file__).parents[1] / "data" / "scaling" / "grid.csv"
COLUMNS = ("n_layer", "n_embd", "parameters", "tokens", "seed", "loss")
SIZES = ((2, 16), (2, 32), (3, 48), (4, 64), (4, 96), (4, 128))  # n_layer, n_embd
TOKENS = (250_000, 500_000, 1_000_000, 2_000_000, 4_000_000)
SEEDS = (0, 1)


@functools.cache
def corpus() -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return the size of the vocabulary and the two splits."""
    text = corpora.load_text("shakespeare")
    tokenizer = corpora.CharTokenizer.from_text(text)
    return tokenizer.vocab_size, *corpora.split(torch.tensor(tokenizer.encode(text)))


def loss_of_run(n_layer: int, n_embd: int, tokens: int, seed: int) -> tuple[int, int, float]:
    """Train one model; return its parameters, the tokens it read, and its validation loss."""
    vocab_size, train_ids, val_ids = corpus()
    build, plan = recipes.scaled(vocab_size, n_layer, n_embd, tokens)
    plan = replace(plan, seed=seed)
    torch.manual_seed(seed)
    model = GPT(build).to(pick_device())
    training.train(model, train_ids, val_ids, plan)
    read = plan.steps * plan.batch_size * build.block_size
    return model.num_parameters(), read, training.evaluate(model, val_ids)


def read_table() -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as stream:
        return list(csv.DictReader(stream))


def main(sizes=SIZES, lengths=TOKENS, seeds=SEEDS) -> None:
    """Train what the table lacks, the cheap runs first."""
    print(describe_device(pick_device()))
    done = {
        (int(r["n_layer"]), int(r["n_embd"]), round(int(r["tokens"]), -4), int(r["seed"]))
        for r in read_table()
    }
    wanted = [(*size, tokens, seed) for seed in seeds for tokens in lengths for size in sizes]
    for n_layer, n_embd, tokens, seed in wanted:
        if (n_layer, n_embd, tokens, seed) in done:
            continue
        parameters, read, loss = loss_of_run(n_layer, n_embd, tokens, seed)
        new = not TABLE.exists()
        TABLE.parent.mkdir(exist_ok=True)
        with TABLE.open("a", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow((n_layer, n_embd, parameters, read, seed, f"{loss:.4f}"))
        print(f"{parameters:,} parameters, {read:,} tokens, seed {seed}: {loss:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(terminal.run(main))
