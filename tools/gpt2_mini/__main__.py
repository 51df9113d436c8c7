"""Command line of the stand-in's making; see the package's docstring."""

import argparse
import sys
import time
from pathlib import Path

import torch

from course_commands import terminal
from tools.gpt2_mini import addresses, bar, publish, remember, train
from tools.gpt2_mini.teacher import Teacher, save

STEPS = ("write", "read", "remember", "train", "measure", "publish")
FOLDER = Path("checkpoints/gpt2-mini")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.gpt2_mini", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where everything is kept")
    parser.add_argument("--minutes", type=float, default=60, help="time for this step")
    parser.add_argument("--batch-size", type=int, default=384, help="texts written at once")
    parser.add_argument("--seed", type=int, default=0, help="of the first round of requests")
    parser.add_argument("--longest", type=int, default=180, help="tokens of the longest text")
    parser.add_argument("--decay", type=float, default=15, help="minutes of it on the way down")
    parser.add_argument("--full", type=float, default=4, help="minutes with all tokens, at the end")
    parser.add_argument("--rate", type=float, default=1, help="share of the recipe's learning rate")
    parser.add_argument("--start", type=Path, help="published weights to go on from")
    parser.add_argument("--eval-every", type=int, default=100, help="steps between evaluations")
    parser.add_argument(
        "--target",
        type=Path,
        default=Path("data/gpt2-mini"),
        help="the published model",
    )
    parser.add_argument("--brief", action="store_true", help="measure only what takes seconds")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.step == "write":
        write(options.folder, options.minutes, options.batch_size, options.longest, options.seed)
    elif options.step == "read":
        addresses.read(options.folder)
    elif options.step == "remember":
        remember.remember(options.folder, options.target, options.minutes)
    elif options.step == "train":
        names = ("minutes", "decay", "full", "rate", "eval_every", "start")
        plan = train.Plan(**{name: getattr(options, name) for name in names})
        train.train(options.folder, plan)
    elif options.step == "measure":
        measure(options.target, options.brief)
    else:
        publish.publish(options.folder, options.target, options.brief)


def write(folder: Path, minutes: float, batch_size: int, longest: int, seed: int) -> None:
    """Let the teacher write for ``minutes``; go on with the batch after the last one written."""
    teacher, started, n = Teacher(), time.perf_counter(), 0
    while True:
        for number, (prompts, begins) in enumerate(teacher.batches(batch_size, seed)):
            name = f"texts-{seed}-{number:04d}.npz"
            if (folder / name).exists():
                continue
            generator = torch.Generator().manual_seed(1000 * seed + number)
            written = teacher.write(prompts, begins, longest, generator)
            lessons = [lesson for text in written if (lesson := teacher.lesson(text))]
            n += save(folder / name, lessons)
            seconds = time.perf_counter() - started
            print(
                f"{name}: {len(lessons)} of {len(prompts)} kept; {n:,} tokens, {n / seconds:.0f}/s",
                flush=True,
            )
            if seconds > 60 * minutes:
                return
        seed += 1


def measure(target: Path, brief: bool) -> None:
    """Print what the model in ``target`` reaches of the bar."""
    for result in bar.examine(publish.subject(target), brief):
        sign = "+" if result.met() else "-"
        print(f"{sign} {result.what}: {result.shown()}  {result.note}", flush=True)


if __name__ == "__main__":
    sys.exit(terminal.run(main))
