"""``python -m course_utils train``: the course's loop on one process, or on many by torchrun."""

import argparse
import errno
import json
import logging
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from course_utils import distributed, sampling
from course_utils.corpora import CharTokenizer, load_text, read_text, split
from course_utils.device import describe_device
from course_utils.files import write_whole
from course_utils.gpt import GPT
from course_utils.recipes import recipe
from course_utils.training import train

SIZES = ("n_layer", "n_head", "n_embd", "block_size")
PLAN = ("batch_size", "accumulate", "eval_every", "dtype", "seed")
STOPPED = 130  # what a shell gives a command that Ctrl-C ended


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
    for stream in (sys.stdout, sys.stderr):  # a sample may have letters that a terminal has not
        stream.reconfigure(errors="backslashreplace")
    try:
        with distributed.processes() as device:
            return _train(options, device)
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1


def _train(options: argparse.Namespace, device: torch.device) -> int:
    rank, n = distributed.place()
    level = logging.INFO if rank == 0 else logging.WARNING  # one process speaks for all
    logging.basicConfig(stream=sys.stdout, level=level, format="%(message)s", force=True)
    text = load_text() if options.data is None else read_text(options.data)
    tokenizer = CharTokenizer.from_text(text)
    build, plan = recipe(options.recipe, tokenizer.vocab_size, options.steps)
    build = replace(build, **{k: v for k in SIZES if (v := getattr(options, k)) is not None})
    plan = replace(plan, **{k: getattr(options, k) for k in PLAN})
    needed = 10 * build.block_size + 1  # a tenth is held back, and has to hold one window
    if len(text) < needed:
        raise ValueError(
            f"{options.data} has {len(text)} characters; --block-size {build.block_size} needs at "
            f"least {needed}, because a tenth of them is held back for validation."
        )
    train_ids, val_ids = split(torch.tensor(tokenizer.encode(text)))
    checkpoint = options.out / "checkpoint.pt"
    _make_folder(options.out)
    torch.manual_seed(plan.seed)
    model = GPT(build).to(device)
    logging.info(
        f"{model.num_parameters():,} parameters on {describe_device(device)}, "
        f"{n} process{'es' if n > 1 else ''}, pid {os.getpid()}"
    )
    history = train(
        model,
        train_ids,
        val_ids,
        plan,
        checkpoint=checkpoint,
        resume=options.resume and checkpoint.exists(),
        vocabulary=tokenizer.characters,
    )
    if history.interrupted:
        logging.info(f"stopped after step {len(history.batch_loss)}; --resume goes on from there.")
        return STOPPED
    if rank == 0:
        with write_whole(options.out / "history.json") as stream:
            stream.write(json.dumps(asdict(history)).encode())
        generator = torch.Generator().manual_seed(plan.seed)
        start = tokenizer.encode("\n" if "\n" in text else text[0])
        (ids,) = sampling.generate(model, [start], 200, generator=generator)
        logging.info(tokenizer.decode(ids))
    return 0


def _make_folder(out: Path) -> None:
    """Make the folder for what is written, or say now why not."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it may not be written")
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--out {out} is not a folder, but a file or below one.") from None
    except OSError as error:
        raise ValueError(f"--out {out} cannot be used: {error.strerror}.") from None
