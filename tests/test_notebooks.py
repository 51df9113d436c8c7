"""The notebooks' exercises, sources and assets, read without executing the chapters."""

import ast
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_checks import exercises
from course_utils import assets

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells_of(path):
    return nbformat.read(path, as_version=4).cells


def exercise_cells():
    """Yield every exercise cell with the first code block of the solution folded below it."""
    for path in NOTEBOOKS:
        cells = cells_of(path)
        for number, cell in enumerate(cells):
            if "exercise" in cell.metadata.get("tags", []):
                below = cells[number + 1].source
                yield pytest.param(cell.source, below, id=f"{path.stem}-{number}")


def namespace_of(source):
    """Return the names that every solution may use, and the checks that the cell calls."""
    namespace = {"torch": torch, "math": math, "np": np, "F": F}
    checks = set(re.findall(r"\bcheck_\w+", source))
    return namespace | {name: exercises.find(name).check for name in checks}


def last_call(source):
    """Return the last line of the cell, which calls the check."""
    return ast.unparse(ast.parse(source).body[-1])


@pytest.mark.parametrize(("exercise", "below"), exercise_cells())
def test_exercise(exercise, below):
    assert "<details>" in below, "a folded solution must follow the exercise"
    solution = re.search(r"```python\n(.*?)```", below, flags=re.DOTALL)
    assert solution, "the solution must hold a python block"

    stub = namespace_of(exercise)
    body = ast.parse(exercise).body
    exec(compile(ast.Module(body[:-1], []), "exercise", "exec"), stub)
    verdict = eval(last_call(exercise), stub)
    assert verdict.passed is None, f"the stub must count as not attempted: {verdict}"

    solved = namespace_of(exercise)
    exec(solution[1], solved)
    verdict = eval(last_call(exercise), solved)
    assert verdict.passed is True, f"the solution must pass: {verdict}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_chapter_has_its_parts(path):
    cells = cells_of(path)
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
    assert cells[0].source.startswith("# ")
    assert tags.count("exercise") >= 3
    assert text.count("**Predict") >= 3
    for heading in ("## Summary", "## Check yourself", "## Sources"):
        assert heading in text


BUILT = re.compile(r'chapter (\d+),\s+"([^"]+)"')


def docstrings(path):
    """Yield the name and the docstring of every class and function in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, " ".join((ast.get_docstring(node) or "").split())


@pytest.mark.parametrize("path", sorted((ROOT / "course_utils").glob("*.py")), ids=lambda p: p.stem)
def test_a_section_that_a_docstring_names_exists(path):
    for name, text in docstrings(path):
        for number, section in BUILT.findall(text):
            [chapter] = (ROOT / "notebooks").glob(f"{int(number):02d}_*.ipynb")
            cells = [c.source for c in cells_of(chapter) if c.cell_type == "markdown"]
            headings = re.findall(r"^#+ (.+)$", "\n".join(cells), flags=re.MULTILINE)
            assert section in headings, f"{path.name}: {name} names chapter {number}, {section!r}"


def test_every_part_of_the_model_says_where_it_is_built_by_hand():
    files = [ROOT / f"course_utils/{name}.py" for name in ("gpt", "kv_cache", "variants")]
    named = {name for file in files for name, text in docstrings(file) if BUILT.search(text)}
    assert {"causal_mask", "attention_weights", "KVCache", "MultiHeadAttention"} <= named
    assert {"GPTConfig", "make_norm", "MLP", "swiglu", "Block", "GPT"} <= named


def papers(text):
    return set(re.findall(r"https?://(?:arxiv\.org|doi\.org|aclanthology\.org)/[^\s)\"'}>]+", text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cited_paper_is_in_the_bibliography(path):
    bibliography = papers((ROOT / "references.bib").read_text())
    text = "\n".join(cell.source for cell in cells_of(path))
    assert papers(text) - bibliography == set()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_manifest_names_what_each_chapter_loads(path):
    code = "\n".join(cell.source for cell in cells_of(path) if cell.cell_type == "code")
    used = set(re.findall(r"pretrained\.load\(\s*\"(\w+)\"", code))
    used |= set(re.findall(r"load_(?:text|table)\(\s*\"([\w-]+)\"", code))
    used |= {"bert"} if "load_masked_lm(" in code else set()
    tokenizers = {"gpt2": "gpt2-tokenizer", "bert": "bert-vocabulary", "smollm2": "smollm2"}
    loaded = re.findall(r"load_tokenizer\(\s*\"(\w+)\"", code)
    used |= {tokenizers[name] for name in loaded}
    used |= {tokenizers[name] for name in used & {"gpt2", "bert"}}
    used |= {"glove"} if "load_glove(" in code else set()
    named = {name for name, asset in assets.manifest().items() if path.stem in asset.chapters}
    assert used == named
