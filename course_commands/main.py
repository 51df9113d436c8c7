"""python -m course_utils doctor | fetch | train | serve | grade"""

import argparse
import importlib
import importlib.util
import sys

from course_commands import environment

#: Each command with the room that has its ``add_options`` and ``run``. Only the one that is
#: called is loaded: some import torch, and students do not have the grader.
COMMANDS = {
    "doctor": ("course_commands.doctor", "say what this machine has and what to do about the rest"),
    "fetch": ("course_commands.fetch", "get models and texts in advance, for a classroom"),
    "train": ("course_commands.train", "train a small GPT, alone or under torchrun"),
    "serve": ("course_commands.serve", "answer POST /generate with a model's text"),
    "grade": ("course_grader.command", "grade a folder of homework, see grading.md"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands and return its exit status; 2 for wrong arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m course_utils")
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=text) for name, (_, text) in COMMANDS.items()}
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        parser.parse_args(arguments)  # prints the choices and exits
    if name != "doctor":  # which reports them itself, and goes on
        for sentence in (*(refused := environment.refused()), *environment.odd()):
            print(sentence, file=sys.stderr)
        if refused:
            return 2
    if name == "grade" and not importlib.util.find_spec("course_grader"):
        parser.error("the grader is for teachers: run this in a clone of the course's repository.")
    room = importlib.import_module(COMMANDS[name][0])
    room.add_options(parsers[name])
    return room.run(parser.parse_args(arguments))
