"""``python -m course_utils train``: the course's loop on one process, or on many by torchrun."""

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from course_utils import distributed, sampling
from course_utils.corpora import CharTokenizer, load_text, split
from course_utils.device import describe_device
from course_utils.files import write_whole
from course_utils.gpt import GPT
from course_utils.recipes import recipe
from course_utils.training import train

SIZES = ("n_layer", "n_head", "n_embd", "block_size")
PLAN = ("batch_size", "accumulate", "eval_every", "dtype", "seed")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--data", type=Path, help="a UTF-8 text (default: ten plays)")
    parser.add_argument("--recipe", default="fast", choices=("classic", "fast"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=16, help="of all processes together")
    parser.add_argument("--accumulate", type=int, default=1, help="batches for one step")
    parser.add_argument("--eval-every", type=int, default=100, help="also writes the checkpoint")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--seed", type=int, default=0)
    for size in SIZES:
        parser.add_argument(f"--{size.replace('_', '-')}", type=int, help="default: the recipe's")
    parser.add_argument("--resume", action="store_true", help="go on, if --out has a checkpoint")


def run(options: argparse.Namespace) -> int:
    """Train as the options say; return 1, with a line that says why, if that cannot be done."""
    try:
        with distributed.processes() as device:
            _train(options, device)
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _train(options: argparse.Namespace, device: torch.device) -> None:
    rank, n = distributed.place()
    level = logging.INFO if rank == 0 else logging.WARNING  # one process speaks for all
    logging.basicConfig(stream=sys.stdout, level=level, format="%(message)s", force=True)
    text = load_text() if options.data is None else options.data.read_text(encoding="utf-8")
    tokenizer = CharTokenizer.from_text(text)
    train_ids, val_ids = split(torch.tensor(tokenizer.encode(text)))
    build, plan = recipe(options.recipe, tokenizer.vocab_size, options.steps)
    build = replace(build, **{k: v for k in SIZES if (v := getattr(options, k)) is not None})
    plan = replace(plan, **{k: getattr(options, k) for k in PLAN})
    torch.manual_seed(plan.seed)
    model = GPT(build).to(device)
    logging.info(
        f"{model.num_parameters():,} parameters on {describe_device(device)}, "
        f"{n} process{'es' if n > 1 else ''}, pid {os.getpid()}"
    )
    checkpoint = options.out / "checkpoint.pt"
    resume = options.resume and checkpoint.exists()
    history = train(model, train_ids, val_ids, plan, checkpoint=checkpoint, resume=resume)
    if rank == 0:
        with write_whole(options.out / "history.json") as stream:
            stream.write(json.dumps(asdict(history)).encode())
        dice = torch.Generator().manual_seed(plan.seed)
        (ids,) = sampling.generate(model, [tokenizer.encode("\n")], 200, generator=dice)
        logging.info(tokenizer.decode(ids))
