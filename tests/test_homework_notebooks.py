"""The homework: student version from the solved one, checks, points, and what it covers."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from course_checks.homework import assignments
from tools import homework
from tools.homework import folded, read, student, tags

ROOT = Path(__file__).resolve().parents[1]
SOLVED = sorted(homework.SOLVED.glob("*.ipynb"))
ASSIGNMENTS = assignments()


def exercises(notebook):
    return [cell.source for cell in notebook.cells if "exercise" in tags(cell)]


def check_and_function(source):
    """Return the names in the last line of an exercise, ``check_name(function_name)``."""
    call = ast.parse(source).body[-1].value
    return call.func.id, call.args[0].id


def namespace_of(notebook):
    """Return what the notebook's cells of nothing but imports define."""
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "setup" not in tags(cell):
            body = ast.parse(cell.source).body
            if all(isinstance(node, ast.Import | ast.ImportFrom) for node in body):
                exec(cell.source, names)
    return names


def verdict_of(source, names):
    """Run an exercise cell and return what its last line gives."""
    body = ast.parse(source).body
    exec(compile(ast.Module(body[:-1], []), "exercise", "exec"), names)
    return eval(ast.unparse(body[-1]), names)


def test_there_are_five_and_no_student_version_has_drifted(monkeypatch, capsys):
    assert [path.stem[:3] for path in SOLVED] == ["hw1", "hw2", "hw3", "hw4", "hw5"]
    monkeypatch.setattr("sys.argv", ["homework", "--check"])
    assert homework.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", SOLVED, ids=lambda path: path.stem)
def test_stubs_are_not_attempted_and_answers_are_right(path):
    solved = read(path)
    for stub, answer in zip(exercises(student(solved)), exercises(solved), strict=True):
        assert "raise NotImplementedError" in stub
        assert verdict_of(stub, namespace_of(solved)).passed is None
        verdict = verdict_of(answer, namespace_of(solved))
        assert verdict.passed is True, verdict


@pytest.mark.parametrize("path", SOLVED, ids=lambda path: path.stem)
def test_the_solutions_in_the_book_are_right(path):
    solved = read(path)
    page = folded(solved).cells
    names = namespace_of(solved)
    for number, cell in enumerate(page):
        if "exercise" in tags(cell):
            below = page[number + 1].source
            assert below.startswith("<details><summary>Solution</summary>")
            code = re.search(r"```python\n(.*?)```", below, re.DOTALL)[1]
            exec(code, names)
            verdict = eval(ast.unparse(ast.parse(cell.source).body[-1]), names)
            assert verdict.passed is True, verdict


@pytest.mark.parametrize("path", SOLVED, ids=lambda path: path.stem)
def test_students_get_no_answer(path):
    solved = read(path)
    for cell in solved.cells:
        if "written" in tags(cell):
            assert cell.source.startswith("**Your answer:**")
            assert len(cell.source) > 300, "the solved notebook has an example of a good answer"
    made = student(solved)
    text = "\n".join(cell.source for cell in made.cells)
    assert "BEGIN SOLUTION" not in text
    assert "END SOLUTION" not in text
    assert not any("solution" in tags(cell) for cell in made.cells)
    for cell in made.cells:
        if "written" in tags(cell):
            assert cell.source == homework.PLACEHOLDER


@pytest.mark.parametrize("path", SOLVED, ids=lambda path: path.stem)
def test_every_notebook_says_what_it_asks_for(path):
    solved = read(path)
    text = "\n".join(cell.source for cell in solved.cells if cell.cell_type == "markdown")
    assert solved.cells[0].source.startswith("# Homework ")
    assert "Afterwards you can" in text or "When you are done you can" in text
    assert "You need" in text
    assert "**Predict.**" in text
    assert any(f'overview("{path.stem[:3]}")' in cell.source for cell in solved.cells)
    assert solved.cells[-1].source.endswith(f'homework.panel("{path.stem[:3]}")')
    for link in re.findall(r"\]\((\.\./[^)]+\.ipynb)\)", text):
        assert (homework.HOMEWORK / link).exists(), link
    bibliography = (ROOT / "references.bib").read_text()
    for paper in re.findall(r"https://(?:arxiv|doi|aclanthology)\.org/[^\s)]+", text):
        assert paper in bibliography


@pytest.mark.parametrize("path", SOLVED, ids=lambda path: path.stem)
def test_the_points_are_those_of_the_notebook(path):
    solved, assignment = read(path), ASSIGNMENTS[path.stem[:3]]
    assert assignment["notebook"] == path.stem
    listed = [(task["check"], task["function"]) for task in assignment["exercises"]]
    assert listed == [check_and_function(source) for source in exercises(solved)]
    answers = [cell for cell in solved.cells if "written" in tags(cell)]
    asked = [tag for cell in answers for tag in tags(cell) if tag != "written"]
    assert [task["id"] for task in assignment["written"]] == asked
    text = "\n".join(cell.source for cell in solved.cells)
    for task in assignment["written"]:
        assert f"{task['title']} ({task['points']} points)" in text
    assert all(task["points"] > 0 for task in assignment["exercises"])


#: What the exercises of chapters and homework must cover together, and the check that does.
COVERED = {
    "softmax": "check_softmax",
    "BPE merge step": "check_merge_pair",
    "BPE training": "check_train_bpe",
    "embedding lookup": "check_embed",
    "cosine": "check_cosine_similarity",
    "analogy": "check_analogy",
    "sinusoidal table": "check_sinusoidal_table",
    "rotary": "check_rotate_pairs",
    "scaled attention": "check_attention",
    "causal mask": "check_causal_weights",
    "multi-head split": "check_split_heads",
    "multi-head attention": "check_multi_head_attention",
    "layer norm": "check_layer_norm",
    "GELU block": "check_mlp",
    "parameter count": "check_count_parameters",
    "cross-entropy": "check_cross_entropy",
    "loss of a language model": "check_lm_loss",
    "perplexity": "check_perplexity",
    "batch maker": "check_make_batch",
    "learning-rate schedule": "check_learning_rate",
    "AdamW step": "check_adamw_step",
    "gradient accumulation": "check_mean_gradient",
    "temperature": "check_temper",
    "top-k": "check_keep_top_k",
    "top-p": "check_nucleus",
    "a whole sampler": "check_sampling_probabilities",
    "KV cache": "check_cached_step",
    "bigram model": "check_bigram_probabilities",
    "statistics of heads": "check_head_entropy",
    "diversity": "check_distinct_n",
}


def test_the_exercises_cover_the_subject():
    paths = [*(ROOT / "notebooks").glob("*.ipynb"), *SOLVED]
    asked = {check_and_function(source)[0] for path in paths for source in exercises(read(path))}
    assert set(COVERED.values()) <= asked


def test_an_answer_that_is_not_right_fails_the_solved_notebook(tmp_path, capsys):
    def page(text):
        cell = nbformat.v4.new_code_cell("def f(x):\n    return x\n\n\ncheck_f(f)")
        cell.metadata["tags"] = ["exercise"]
        data = {"text/plain": text}
        cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1)]
        path = tmp_path / "page.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
        return path

    assert homework.all_right(page("✓ Right. Well done."))
    assert not homework.all_right(page("✗ Not yet. The sign is missing."))
    assert "The sign is missing" in capsys.readouterr().out
    assert not homework.all_right(page("○ Not attempted yet."))


def test_a_solution_in_the_middle_of_a_function_is_cut_out():
    source = (
        'def f(x):\n    """Double x."""\n    y = x\n    # BEGIN SOLUTION\n    y = 2 * x\n\n'
        "    return y\n    # END SOLUTION\n\n\ncheck_f(f)"
    )
    exercise = nbformat.v4.new_code_cell(source, metadata={"tags": ["exercise"]})
    why = nbformat.v4.new_markdown_cell("Because.", metadata={"tags": ["solution"]})
    solved = nbformat.v4.new_notebook(cells=[exercise, why])
    [cell] = student(solved).cells
    stub = (
        'def f(x):\n    """Double x."""\n    y = x\n    raise NotImplementedError\n\n\ncheck_f(f)'
    )
    assert cell.source == stub
    shown = folded(solved).cells
    assert shown[0].source == stub
    code = "```python\ndef f(x):\n    y = x\n    y = 2 * x\n\n    return y\n```"
    assert shown[1].source == (
        f"<details><summary>Solution</summary>\n\nBecause.\n\n{code}\n\n</details>"
    )
