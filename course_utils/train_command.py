"""``python -m course_utils train``: the course's loop on one process, or on many by torchrun."""

import argparse
import json
import logging
import os
import sys
import tempfile
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
PLAN = ("batch_size", "accumulation_steps", "eval_every", "dtype", "seed")
STOPPED = 130  # what a shell gives a command that Ctrl-C ended


def run(options: argparse.Namespace) -> int:
    """Train as the options say; return 1, with a line that says why, if that cannot be done."""
    try:
        with distributed.processes() as device:
            return _train(options, device)
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1


def _train(options: argparse.Namespace, device: torch.device) -> int:
    rank, n = distributed.rank(), distributed.world_size()
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
    resume = {"checkpoint": checkpoint, "resume": options.resume and checkpoint.exists()}
    history = train(model, train_ids, val_ids, plan, **resume, vocabulary=tokenizer.characters)
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
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ValueError(f"--out {out} is no folder to write into: {error.strerror}.") from None
