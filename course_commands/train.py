"""``python -m course_utils train``: the course's loop on one process, or on many by torchrun."""

import argparse
import json
import logging
import os
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import torch

from course_utils import checkpoints, distributed, sampling
from course_utils.corpora import CharTokenizer, load_text, read_text, split
from course_utils.device import describe_device
from course_utils.files import write_whole
from course_utils.gpt import GPT, GPTConfig
from course_utils.recipes import RECIPES, recipe
from course_utils.training import train

SIZES = ("n_layer", "n_head", "n_embd", "block_size")
PLAN = ("batch_size", "accumulation_steps", "eval_every", "dtype", "seed")
LESS_MEMORY = "Take a smaller --batch-size; --accumulation-steps makes up for it."
STOPPED = 130  # the exit status of a command that Ctrl-C ended


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--out", type=_path, required=True, help="the output folder")
    parser.add_argument("--data", type=_path, help="a UTF-8 text (default: ten plays)")
    parser.add_argument("--recipe", default="fast", choices=RECIPES)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=16, help="of all processes together")
    parser.add_argument("--accumulation-steps", type=int, default=1, help="batches per step")
    parser.add_argument("--eval-every", type=int, default=100, help="also writes the checkpoint")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--seed", type=int, default=0)
    for size in SIZES:
        parser.add_argument(f"--{size.replace('_', '-')}", type=int, help="default: the recipe's")
    parser.add_argument("--resume", action="store_true", help="continue if --out has a checkpoint")


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, but got an empty string")
    return Path(text)


def run(options: argparse.Namespace) -> int:
    """Train as the options say; if that is impossible, print a line that says why and return 1."""
    try:
        _prepare(options.out, options.resume)  # before anything is read
        with distributed.processes() as device:
            return _train(options, device)
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
    except RuntimeError as error:  # torch raises it when memory runs out
        if "memory" not in str(error):
            raise
        said = str(error).splitlines()[0].rpartition("] ")[2]  # without the place in torch's source
        print(f"{said.removesuffix('.')}. {LESS_MEMORY}", file=sys.stderr)
    return 1


def _train(options: argparse.Namespace, device: torch.device) -> int:
    rank, n = distributed.rank(), distributed.world_size()
    level = logging.INFO if rank == 0 else logging.WARNING  # only one process reports
    logging.basicConfig(stream=sys.stdout, level=level, format="%(message)s", force=True)
    text = load_text() if options.data is None else read_text(options.data)
    tokenizer = CharTokenizer.from_text(text)
    build, plan = recipe(options.recipe, tokenizer.vocab_size, options.steps)
    build = replace(build, **{k: v for k in SIZES if (v := getattr(options, k)) is not None})
    plan = replace(plan, **{k: getattr(options, k) for k in PLAN})
    _check_memory(build, plan.batch_size // n, device)
    needed = 10 * build.block_size + 1  # a tenth is held back, and must contain one window
    if len(text) < needed:
        raise ValueError(
            f"{options.data or 'The text'} has {len(text)} characters; --block-size "
            f"{build.block_size} needs at least {needed}, because a tenth of them is held back for "
            "validation."
        )
    train_ids, val_ids = split(torch.tensor(tokenizer.encode(text)))
    torch.manual_seed(plan.seed)
    model = GPT(build).to(device)
    logging.info(
        f"{model.num_parameters():,} parameters on {describe_device(device)}, "
        f"{n} process{'es' if n > 1 else ''}, pid {os.getpid()}"
    )
    checkpoint = options.out / "checkpoint.pt"
    resume = {"checkpoint": checkpoint, "resume": options.resume and checkpoint.exists()}
    history = train(model, train_ids, val_ids, plan, **resume, vocabulary=tokenizer.characters)
    if history.interrupted:
        logging.info(f"stopped after step {len(history.batch_loss)}; --resume continues the run.")
        return STOPPED
    if rank == 0:
        with write_whole(options.out / "history.json") as stream:
            stream.write(json.dumps(asdict(history)).encode())
        generator = torch.Generator().manual_seed(plan.seed)
        start = tokenizer.encode("\n" if "\n" in text else text[0])
        (ids,) = sampling.generate(model, [start], 200, generator=generator)
        logging.info(tokenizer.decode(ids))
    return 0


def _prepare(out: Path, resume: bool) -> None:
    """Create the output folder, or say at once why that is impossible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()  # can it be written to?
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--out {out} is not a folder: it is a file or lies below one.") from None
    except OSError as error:
        raise ValueError(f"--out {out} cannot be used: {error.strerror}.") from None
    for name in ("checkpoint.pt", "history.json"):
        if (path := out / name).exists() and not path.is_file():
            raise ValueError(f"{path} is not a file, so {name} cannot be written. Rename it.")
    if not resume:
        checkpoints.refuse_to_overwrite(out / "checkpoint.pt")


def _memory(device: torch.device) -> int:
    """Return how many bytes of memory ``device`` has in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return psutil.virtual_memory().total


def _check_memory(build: GPTConfig, windows: int, device: torch.device) -> None:
    """Refuse a model or a batch for which even the least that a step needs is too much."""
    weights = 12 * build.n_layer * build.n_embd**2  # each with a gradient and two averages
    logits = windows * build.block_size * build.vocab_size  # and their gradient
    needed, here = 4 * (4 * weights + 2 * logits), _memory(device)  # bytes, in float32
    if needed > here:
        raise ValueError(
            f"a step needs at least {needed / 1e9:,.0f} GB, for {windows} windows and {weights:,} "
            f"weights in matrices; {device.type} has {here / 1e9:,.0f} GB. "
            + (LESS_MEMORY if logits > weights else "Take a smaller --n-embd or --n-layer.")
        )
