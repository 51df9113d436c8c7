"""Keep the notebooks in shape: one set-up cell, no outputs, clean metadata, plain Markdown.

python tools/notebooks.py          rewrite the notebooks so that they follow the rules
python tools/notebooks.py --check  change nothing; list what breaks a rule and exit with 1
"""

import re
import sys
from pathlib import Path

import nbformat
import yaml

from course_commands import terminal

ROOT = Path(__file__).resolve().parents[1]
SECONDS_PER_CELL = 900  # generous: a busy machine is slow; read by nbmake from the metadata

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# MyST roles and directives are shown as raw text in JupyterLab and Colab: not in notebooks.
MYST_ONLY = re.compile(r"^(?::::|```+)\{|\{[a-z:]+\}`", re.MULTILINE)


def repository() -> str:
    """Return the repository's address, which lives in one place: `_config.yml`."""
    return yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]


#: What a chapter needs besides the rest, an extra of pyproject.toml.
EXTRAS = {
    "03_embeddings": "embeddings",
    "09_transformer_family": "molecules",
    "10_from_model_to_product": "metrics,serving",
}


def setup_cell(name: str) -> str:
    """Return the source of the set-up cell that opens notebook ``name``."""
    course = f"git+{repository()}"
    if extras := EXTRAS.get(name):
        course = f'"course-utils[{extras}] @ {course}"'
    return (
        "# Set-up: on Colab this installs the course; elsewhere it does nothing.\n"
        "import sys\n"
        "\n"
        'if "google.colab" in sys.modules:\n'
        f"    %pip install --quiet {course}"
    )


def tidy(notebook: nbformat.NotebookNode, name: str = "") -> None:
    """Bring one notebook into shape, in place; ``name`` says which chapter it is."""
    notebook.metadata = nbformat.from_dict(
        {
            "execution": {"timeout": SECONDS_PER_CELL},
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "setup" in (tags or []):
                cell.source = setup_cell(name)


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what a person must fix: what `tidy` cannot."""
    found = []
    setups = [c for c in notebook.cells if "setup" in c.metadata.get("tags", [])]
    if len(setups) != 1:
        found.append(f"{len(setups)} cells are tagged `setup`; exactly one must be")
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and (match := MYST_ONLY.search(cell.source)):
            found.append(f"cell {number}: MyST markup {match[0]!r} is raw text in JupyterLab")
        if cell.cell_type == "code" and len(cell.source.splitlines()) > 25:
            found.append(f"cell {number}: {len(cell.source.splitlines())} lines of code; split it")
    return found


def main() -> int:
    check_only = "--check" in sys.argv[1:]
    complaints = []
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        text = path.read_text()
        notebook = nbformat.reads(text, as_version=4)
        complaints += [f"{path.relative_to(ROOT)}: {problem}" for problem in problems(notebook)]
        tidy(notebook, path.stem)
        tidied = nbformat.writes(notebook) + "\n"
        if tidied != text and check_only:
            complaints.append(f"{path.relative_to(ROOT)}: not tidy; run `make format`")
        elif tidied != text:
            path.write_text(tidied)
    print("\n".join(complaints) or "notebooks: tidy")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
