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
from course_utils.device import describe_device, memory
from course_utils.files import write_whole
from course_utils.gpt import GPT, GPTConfig
from course_utils.recipes import recipe
from course_utils.training import refuse_to_overwrite, train

SIZES = ("n_layer", "n_head", "n_embd", "block_size")
PLAN = ("batch_size", "accumulate", "eval_every", "dtype", "seed")
LESS_MEMORY = "Take a smaller --batch-size; --accumulate makes up for it."
STOPPED = 130  # what a shell gives a command that Ctrl-C ended


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--out", type=_path, required=True, help="folder for what is written")
    parser.add_argument("--data", type=_path, help="a UTF-8 text (default: ten plays)")
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


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, and got an empty word")
    return Path(text)


def run(options: argparse.Namespace) -> int:
    """Train as the options say; return 1, with a line that says why, if that cannot be done."""
    for stream in (sys.stdout, sys.stderr):  # a sample may have letters that a terminal has not
        stream.reconfigure(errors="backslashreplace")
    try:
        _prepare(options.out, options.resume)  # what can be known is said before anything is read
        with distributed.processes() as device:
            return _train(options, device)
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
    except RuntimeError as error:  # so does torch call a lack of memory
        if "memory" not in str(error):
            raise
        print(f"{_first_line(error)} {LESS_MEMORY}", file=sys.stderr)
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
    _check_memory(build, plan.batch_size // n, device)
    needed = 10 * build.block_size + 1  # a tenth is held back, and has to hold one window
    if len(text) < needed:
        raise ValueError(
            f"{options.data or 'The text'} has {len(text)} characters; --block-size "
            f"{build.block_size} needs at least {needed}, because a tenth of them is held back for "
            "validation."
        )
    train_ids, val_ids = split(torch.tensor(tokenizer.encode(text)))
    checkpoint = options.out / "checkpoint.pt"
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


def _prepare(out: Path, resume: bool) -> None:
    """Make the folder for what is written, or say now why not."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it may not be written")
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--out {out} is not a folder, but a file or below one.") from None
    except OSError as error:
        raise ValueError(f"--out {out} cannot be used: {error.strerror}.") from None
    for name in ("checkpoint.pt", "history.json"):
        if (path := out / name).exists() and not path.is_file():
            raise ValueError(f"{path} is not a file, so {name} cannot be written. Move it away.")
    if not resume:
        refuse_to_overwrite(out / "checkpoint.pt")


def _check_memory(build: GPTConfig, windows: int, device: torch.device) -> None:
    """Refuse what needs more memory than there is, by the least that a step could need."""
    here = memory(device)
    weights = 12 * build.n_layer * build.n_embd**2  # each with a gradient and two averages
    logits = windows * build.block_size * build.vocab_size  # and their gradient
    if here and (needed := 4 * (4 * weights + 2 * logits)) > here:
        raise ValueError(
            f"a step needs at least {needed / 1e9:,.0f} GB, for {windows} windows and {weights:,} "
            f"weights in matrices; {device.type} has {here / 1e9:,.0f} GB. "
            + (LESS_MEMORY if logits > weights else "Take a smaller --n-embd or --n-layer.")
        )


def _first_line(error: Exception) -> str:
    line = str(error).splitlines()[0].rpartition("] ")[2]  # without the place in torch's source
    return line if line.endswith(".") else f"{line}."
