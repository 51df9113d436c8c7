"""Make the students' homework from the solved one.

python -m tools.homework          write notebooks/homework/*.ipynb from notebooks/homework/solved
python -m tools.homework --check  change nothing; exit with 1 where the two have drifted apart

In a solved notebook an answer is between the lines ``# BEGIN SOLUTION`` and
``# END SOLUTION``, and the cell below, tagged ``solution``, says why. Students get
``raise NotImplementedError`` and no such cell; the book gets both, folded, see :func:`folded`.
A cell tagged ``written`` holds an example of a good answer; only the solved notebook has it.
"""

import ast
import copy
import re
import sys
from pathlib import Path

import nbformat

from course_commands import terminal
from tools.notebooks import tidy

ROOT = Path(__file__).resolve().parents[1]
HOMEWORK = ROOT / "notebooks" / "homework"
SOLVED = HOMEWORK / "solved"

PLACEHOLDER = "**Your answer:**\n\n*(write here)*"
ANSWER = re.compile(r"^( *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION$", re.DOTALL | re.MULTILINE)


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def student(solved: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook as students get it: tidy, without answers."""
    made = copy.deepcopy(solved)
    made.cells = [cell for cell in made.cells if "solution" not in tags(cell)]
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.source = ANSWER.sub(r"\1raise NotImplementedError", cell.source)
        elif "written" in tags(cell):
            cell.source = PLACEHOLDER
    tidy(made)
    return made


def folded(solved: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook as the book shows it: the student's, with each solution folded."""
    made = student(solved)
    cells = iter(made.cells)
    shown = []
    for number, cell in enumerate(solved.cells):
        if "solution" in tags(cell):
            shown.append(nbformat.v4.new_markdown_cell(_fold(solved.cells[number - 1], cell)))
        else:
            shown.append(next(cells))
    made.cells = shown
    tidy(made)
    return made


def _fold(exercise: nbformat.NotebookNode, why: nbformat.NotebookNode) -> str:
    return (
        "<details><summary>Solution</summary>\n\n"
        f"{why.source.strip()}\n\n```python\n{_answer(exercise.source)}\n```\n\n</details>"
    )


def _lines(node: ast.stmt) -> set[int]:
    return set(range(node.lineno - 1, node.end_lineno or node.lineno))


def _answer(source: str) -> str:
    """Return the functions of a solved cell without markers, docstrings and the check."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    lines = source.splitlines()
    keep = set()
    for node in functions:
        keep |= _lines(node)
        if ast.get_docstring(node) is not None:
            keep -= _lines(node.body[0])
    markers = ("# BEGIN SOLUTION", "# END SOLUTION")
    return "\n".join(lines[i] for i in sorted(keep) if lines[i].strip() not in markers)


def all_right(path: Path) -> bool:
    """Return True if every check of an executed notebook said "right"; else print what it said."""
    exercises = [cell for cell in read(path).cells if "exercise" in tags(cell)]
    wrong = []
    for cell in exercises:
        texts = [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
        if not any(text.startswith("✓") for text in texts):
            wrong.append(f"{cell.source.splitlines()[-1]}: {' '.join(texts) or 'no verdict'}")
    print("\n".join(wrong), end="\n" if wrong else "")
    return bool(exercises) and not wrong


def read(path: Path) -> nbformat.NotebookNode:
    """Return the notebook in ``path``."""
    return nbformat.read(path, as_version=4)


def main() -> int:
    check_only = "--check" in sys.argv[1:]
    drifted = []
    sources = sorted(SOLVED.glob("*.ipynb"))
    for source in sources:
        target = HOMEWORK / source.name
        made = nbformat.writes(student(read(source))) + "\n"
        if not target.exists() or target.read_text() != made:
            drifted.append(target)
            if not check_only:
                target.write_text(made)
    for orphan in sorted(set(HOMEWORK.glob("*.ipynb")) - {HOMEWORK / s.name for s in sources}):
        drifted.append(orphan)
        if not check_only:
            orphan.unlink()
    for path in drifted:
        state = "differs from its solved source; run `make format`" if check_only else "written"
        print(f"{path.relative_to(ROOT)}: {state}")
    return 1 if drifted and check_only else 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
