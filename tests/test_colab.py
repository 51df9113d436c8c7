"""The set-up cell as Colab runs it: in a clean environment that already has torch."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]

SCRIPT = """
import sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
result = shell.run_cell(open(sys.argv[1]).read())
result.raise_error()
import torch, course_utils
from course_utils import assets
print("torch", torch.__version__)
print("installed in", course_utils.__file__)
print("text at", assets.get("shakespeare"))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A clean virtual environment with what Colab has before the course: torch and IPython."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pins = dict(
        line.split(" ;")[0].split("==")
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    wanted = [f"torch=={pins['torch']}", f"ipython=={pins['ipython']}"]
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    subprocess.run(command, check=True)
    yield python
    shutil.rmtree(folder)


def test_the_set_up_cell_installs_the_course_and_leaves_torch_alone(environment, tmp_path):
    before = version(environment)
    chapter = ROOT / "notebooks" / "02_tokenization.ipynb"
    notebook = nbformat.read(chapter, as_version=4)
    (cell,) = [c for c in notebook.cells if "setup" in c.metadata.get("tags", [])]
    assert f"git+{REPOSITORY}" in cell.source
    # The repository as it is committed here, in place of its public address.
    source = cell.source.replace(f"git+{REPOSITORY}", f"git+{ROOT.as_uri()}")
    (tmp_path / "cell.py").write_text(source)
    done = subprocess.run(
        [environment, "-c", SCRIPT, str(tmp_path / "cell.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert version(environment) == before
    assert "site-packages/course_utils" in done.stdout
    assert "text at" in done.stdout

    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (tmp_path / "chapter.ipy").write_text("\n\n".join([*cells, 'print("the chapter ran")']))
    done = subprocess.run(
        [environment, "-m", "IPython", "--no-banner", "--colors=NoColor", "chapter.ipy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "the chapter ran" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


def version(python):
    command = [python, "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("notebooks/**/*.ipynb")), ids=lambda path: path.stem
)
def test_the_set_up_cell_installs_what_its_notebook_imports(path):
    """And no extra that no import of the notebook asks for."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    (setup,) = [cell.source for cell in cells if "setup" in cell.metadata.get("tags", [])]
    asked = re.findall(r'"course-utils\[(.*?)\] @ git', setup)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    installed = names_of(project["dependencies"])
    # What these bring with them, and what Colab is made of.
    installed |= {"ipython", "scipy", "threadpoolctl", "pandas", "tokenizers", "requests"}
    imported = set()
    for cell in cells:
        for node in ast.walk(ast.parse("" if cell.source == setup else cell.source)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                found = metadata.packages_distributions().get(name.split(".")[0], [])
                imported |= {each.lower().replace("_", "-") for each in found}
    imported -= {"course-utils"}
    for extra in asked[0].split(",") if asked else []:
        assert imported & names_of(extras[extra]), f"nothing needs {extra}"
        installed |= names_of(extras[extra])
    assert imported <= installed


def names_of(requirements):
    return {Requirement(line).name.lower().replace("_", "-") for line in requirements}


def test_every_chapter_begins_with_the_same_set_up_cell():
    command = [sys.executable, "tools/notebooks.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
