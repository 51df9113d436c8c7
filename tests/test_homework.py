"""The table of what is done, and the panel that follows the checks."""

import importlib

import nbformat
import pytest
from nbclient import NotebookClient

from course_checks import assignments, exercises, homework, record


@pytest.fixture
def in_a_notebook(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(record, "wanted", lambda: True)


def test_every_exercise_is_in_the_table_once(in_a_notebook):
    names = [each.check for part in homework.status().parts for each in part.exercises]
    assert len(names) == len(set(names))
    for module in homework.CHAPTERS:
        found = importlib.import_module(f"course_checks.{module}")
        assert {name for name in dir(found) if name.startswith("check_")} <= set(names)


def test_status_counts_right_tried_and_open(in_a_notebook):
    first, second, *rest = homework.assignments()["hw1"]["exercises"]
    record.note(first["check"], False)
    record.note(first["check"], True)
    record.note(second["check"], False)
    (part,) = homework.status("hw1").parts
    assert [part.count(state) for state in ("right", "tried", "open")] == [1, 1, len(rest)]
    record.note(first["check"], False)
    (broken,) = homework.status("hw1").parts
    assert [broken.count(state) for state in ("right", "broken", "tried")] == [0, 1, 1]
    assert broken.points.startswith("0 of")
    assert "was right, now wrong" in repr(homework.status("hw1"))
    record.note(first["check"], True)
    total = sum(each["points"] for each in homework.assignments()["hw1"]["exercises"])
    assert part.points == f"{first['points']} of {total}"
    shown = homework.status("hw1")
    for text in (repr(shown), shown._repr_html_()):
        assert "1 of 3 exercises right" in text
        assert first["check"].removeprefix("check_") in text
    assert part.title in repr(homework.status())


@pytest.mark.parametrize("name", ["hw3", "HW3", "Hw3", "HW 3"])
def test_names_of_assignments_are_read_without_regard_to_case(in_a_notebook, name, capsys):
    assert homework.status(name) == homework.status("hw3")
    homework.panel(name)
    assignments.overview(name)


@pytest.mark.parametrize("result", [3, None, "text", [1, 2]])
def test_answered_and_checks_say_that_a_function_was_called(result):
    with pytest.raises(TypeError, match="functions themselves"):
        assignments.answered(result)
    message = exercises.find("check_softmax")(result).message
    assert "you called the function" in message
    assert "`check_softmax(name_of_your_function)`" in message
    assert assignments.answered(len, len)


def test_an_unknown_assignment_is_told_the_known_ones(in_a_notebook):
    with pytest.raises(ValueError, match="hw1, hw2"):
        homework.status("hw9")


def test_the_panel_follows_the_checks_in_a_real_kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.delenv("COURSE_BOOK", raising=False)
    check = homework.assignments()["hw1"]["exercises"][0]["check"]
    cells = [
        "from course_checks import homework\nhomework.panel('hw1')",
        f"from course_checks.measuring import {check}\n{check}(lambda *_: None)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    panel = notebook.cells[0].outputs[-1]["data"]["text/html"]
    assert "not yet right" in panel
    assert record.read()[check]["attempts"] == 1
    assert "widget" not in str(notebook)
