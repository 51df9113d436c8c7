"""Rules of the house that no linter knows: who imports whom, how long things are, what is unused."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from course_checks.homework import CHAPTERS

ROOT = Path(__file__).resolve().parents[1]
#: Lines of code (no blanks, comments, docstrings) that each package may have.
CAPS = {
    "course_utils": 3200,
    "course_commands": 1150,
    "course_checks": 4150,
    "course_grader": 2150,
    "course_widgets": 290,
}
#: The rooms of course_utils. No room imports one on a floor above its own.
FLOORS = {
    "pictures": ("plots", "attention_views", "tokens_html"),
    "loop": (
        "training",
        "run",
        "optimizers",
        "recipes",
        "checkpoints",
        "distributed",
        "sampling",
    ),
    "model": ("gpt", "kv_cache", "variants", "positions", "weights", "bpe"),
    "outside": ("pretrained", "corpora", "sources", "manifest", "assets", "device", "metrics"),
    "ground": ("settings", "inputs", "markup", "progress", "files"),
}
#: Names that a library reads or calls, and what it finds by a pattern.
CALLED_BY_OTHERS = (
    *("_repr_html_", "setup", "check_*", "doctree", "templatename"),  # Jupyter, Sphinx, students
    *("nbformat_minor", "execution_count", "pre_tokenizer", "model_max_length"),  # file formats
    *("bos_token_id", "architectures", "model_config", "purpose", "redirect_slashes"),
    *("should_exit", "send_400_response", "disconnected"),  # uvicorn
    *("annotation", "returns", "exec_module", "__getattr__", "__all__"),  # Python
    *("system_raw", "getoutput", "showindentationerror", "showsyntaxerror"),  # IPython
    *("enabled", "active_types"),
)
MORE = ("tools", "benchmarks", "_ext")
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS.values()) for room in rooms}
SOURCES = [
    path for folder in (*CAPS, *MORE, "tests") for path in sorted((ROOT / folder).rglob("*.py"))
]
ROOMS = sorted((ROOT / "course_utils").glob("*.py"))


def code_lines(text):
    """Return the numbers of the lines that hold code: no blanks, comments, docstrings."""
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*nothing, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    with_docstring = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, with_docstring) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def imported(path):
    """Return the modules that a file imports, anywhere in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", CAPS)
def test_a_package_keeps_to_its_size(package):
    files = sorted((ROOT / package).rglob("*.py"))
    sizes = {path.stem: len(code_lines(path.read_text(encoding="utf-8"))) for path in files}
    assert sum(sizes.values()) <= CAPS[package], sizes


def test_the_exercises_keep_to_their_size():
    files = [
        path
        for path in sorted((ROOT / "course_checks").glob("*.py"))
        if re.search(r"^check_\w+ = Exercise\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(files) == 14
    sizes = {path.stem: len(code_lines(path.read_text(encoding="utf-8"))) for path in files}
    assert sum(sizes.values()) <= 3300, sizes


def test_the_tests_of_the_exercises_keep_to_their_size():
    files = [*(ROOT / "tests/right_answers").glob("*.py"), ROOT / "tests/test_exercises.py"]
    sizes = {path.stem: len(code_lines(path.read_text(encoding="utf-8"))) for path in files}
    assert len(sizes) == 16
    assert sum(sizes.values()) < 1500, sizes


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_a_room_imports_nothing_from_a_floor_above(path):
    if path.stem in ("__init__", "__main__"):
        return  # before all, and above all: the commands of all packages begin there
    assert path.stem in FLOOR_OF, "a new room: put it on its floor, here and in the README"
    for name in imported(path):
        package, _, room = name.partition(".")
        room = room.split(".")[0]
        if package == "course_utils" and room in FLOOR_OF:
            assert FLOOR_OF[room] >= FLOOR_OF[path.stem], f"{path.stem} imports {room}"
        else:
            assert not package.startswith("course_"), f"{path.stem} imports {name}"


def test_the_checks_know_nothing_of_the_grader():
    for path in sorted((ROOT / "course_checks").glob("*.py")):
        assert not [name for name in imported(path) if name.startswith("course_grader")], path


def test_the_map_in_the_readme_shows_every_room():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("## Where things are")[1].split("```")[1]
    missing = [room for room in FLOOR_OF if not re.search(rf"\b{room}\b", shown)]
    assert not missing
    assert " ".join(CHAPTERS) in " ".join(shown.split())  # chapter 6, the sixth: gpt2


def depth(node, name="function"):
    """Return how deep blocks are nested in ``node``; an elif is as deep as its if."""
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        deeper = isinstance(child, blocks) and not is_elif
        deepest = max(deepest, depth(child) + deeper)
    return deepest


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_flat(path):
    text = path.read_text(encoding="utf-8")
    lines = code_lines(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = sum(node.lineno <= line <= node.end_lineno for line in lines)
            assert length <= 50, f"{node.name} has {length} lines of code"
            assert depth(node) <= 4, f"{node.name} nests {depth(node)} blocks"


def test_nothing_is_there_that_nothing_uses(tmp_path):
    """Every name is used by a chapter, the homework, a tool or a benchmark: tests do not count."""
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        plain = [TransformerManager().transform_cell(cell) for cell in cells]
        name = "_".join(path.relative_to(ROOT).with_suffix(".py").parts)
        (tmp_path / name).write_text("\n".join(plain), encoding="utf-8")
    options = [
        "--ignore-names",
        ",".join(CALLED_BY_OTHERS),
        "--ignore-decorators",
        "@app.*,@_packer*",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "vulture", *CAPS, *MORE, tmp_path, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    unused = [line for line in done.stdout.splitlines() if not line.startswith(str(tmp_path))]
    assert not unused, "\n".join(unused)
    assert done.returncode in (0, 3), done.stderr
