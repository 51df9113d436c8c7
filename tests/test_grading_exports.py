"""What learning platforms export, as it comes: who, which homework, which attempt, what is left out."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from course_grader import command, exports, report
from course_grader.scoring import Graded, Judged, Scored
from course_grader.store import Store
from course_grader.submissions import find_submissions

ROOT = Path(__file__).resolve().parents[1]
HOMEWORK = ROOT / "notebooks" / "homework"
ASSIGNMENTS = command.assignments()


def data(key, solved=True, extra="", kind="markdown"):
    folder = HOMEWORK / "solved" if solved else HOMEWORK
    notebook = json.loads((folder / f"{ASSIGNMENTS[key].notebook}.ipynb").read_text())
    cell = {"cell_type": kind, "metadata": {}, "source": extra}
    notebook["cells"].append(
        cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})
    )
    return json.dumps(notebook).encode()


HW4, HW5, LATER = data("hw4"), data("hw5"), data("hw4", extra="later")

CASES = {
    "canvas": (
        {
            "muellerada_101_9001_hw4_sweep.ipynb": HW4,
            "muellerada_101_9004_hw4_sweep-2.ipynb": LATER,
            "muellerada_101_9003_hw4_sweep-1.ipynb": HW4,
            "muellerada_101_9002_hw5_from_scratch.ipynb": HW5,
            "doejane_LATE_102_9005_Untitled.ipynb": HW4,
            "doejane_102_9006_essay.pdf": b"%PDF",
        },
        {
            ("muellerada", "101", "hw4", "muellerada_101_9004_hw4_sweep-2.ipynb"),
            ("muellerada", "101", "hw5", "muellerada_101_9002_hw5_from_scratch.ipynb"),
            ("doejane", "102", "hw4", "doejane_LATE_102_9005_Untitled.ipynb"),
        },
        {"muellerada_101_9001_hw4_sweep.ipynb", "muellerada_101_9003_hw4_sweep-1.ipynb", "doejane_102_9006_essay.pdf"},
    ),
    "canvas, two of one name": (
        {"smithj_1_11_hw4.ipynb": HW4, "smithj_2_12_hw4.ipynb": LATER},
        {("smithj (1)", "1", "hw4", "smithj_1_11_hw4.ipynb"), ("smithj (2)", "2", "hw4", "smithj_2_12_hw4.ipynb")},
        set(),
    ),
    "moodle": (
        {
            "Ada Müller_77_assignsubmission_file_/hw4_sweep.ipynb": HW4,
            "Bo_Li_78_assignsubmission_file/my work.ipynb": HW4,
            "Cy Ä_79_assignsubmission_onlinetext_/onlinetext.html": b"<p>",
            "Di_80_assignsubmission_file_hw5.ipynb": HW5,
        },
        {
            ("Ada Müller", "77", "hw4", "Ada Müller_77_assignsubmission_file_/hw4_sweep.ipynb"),
            ("Bo_Li", "78", "hw4", "Bo_Li_78_assignsubmission_file/my work.ipynb"),
            ("Cy Ä", "79", "", ""),
            ("Di", "80", "hw5", "Di_80_assignsubmission_file_hw5.ipynb"),
        },
        {"Cy Ä_79_assignsubmission_onlinetext_/onlinetext.html"},
    ),
    "blackboard": (
        {
            "Homework 4_jdoe_attempt_2024-03-05-14-22-33_a.ipynb": LATER,
            "Homework 4_jdoe_attempt_2024-03-04-14-22-33_b.ipynb": HW4,
            "Homework 4_jdoe_attempt_2024-03-05-14-22-33.txt": b"Name: Jo Doe",
            "Homework 4_ed_attempt_2024-03-05-10-00-00.txt": b"Name: Ed",
        },
        {
            ("jdoe", "", "hw4", "Homework 4_jdoe_attempt_2024-03-05-14-22-33_a.ipynb"),
            ("ed", "", "", ""),
        },
        {
            "Homework 4_jdoe_attempt_2024-03-04-14-22-33_b.ipynb",
            "Homework 4_jdoe_attempt_2024-03-05-14-22-33.txt",
            "Homework 4_ed_attempt_2024-03-05-10-00-00.txt",
        },
    ),
    "github classroom": (
        {
            "homework-4-submissions/homework-4-ada-l/.git/config": b"x",
            "homework-4-submissions/homework-4-ada-l/notebooks/hw4_sweep.ipynb": HW4,
            "homework-4-submissions/homework-4-bob/hw4_sweep.ipynb": HW4,
            "homework-4-submissions/homework-4-bob/README.md": b"x",
        },
        {
            ("ada-l", "", "hw4", "homework-4-ada-l/notebooks/hw4_sweep.ipynb"),
            ("bob", "", "hw4", "homework-4-bob/hw4_sweep.ipynb"),
        },
        {"homework-4-ada-l/.git/config", "homework-4-bob/README.md"},
    ),
    "extras": (
        {
            "ada/hw4_sweep.ipynb": HW4,
            "ada/._hw4_sweep.ipynb": b"\0\5\26\7",
            "ada/.ipynb_checkpoints/hw4_sweep-checkpoint.ipynb": HW4,
            "__MACOSX/ada/._hw4_sweep.ipynb": b"\0",
            ".DS_Store": b"x",
            "Thumbs.db": b"x",
            ".hidden/hw4.ipynb": HW4,
            "=1+1/hw4.ipynb": HW4,
            "\u202eevil/hw4.ipynb": HW4,
            "two\nlines/hw4.ipynb": HW4,
            f"{'n' * 250}/hw4.ipynb": HW4,
            "zed-hw4.ipynb": HW4,
            "eve/hw5.ipynb.txt": HW5,
        },
        {
            ("ada", "", "hw4", "ada/hw4_sweep.ipynb"),
            (".hidden", "", "hw4", ".hidden/hw4.ipynb"),
            ("=1+1", "", "hw4", "=1+1/hw4.ipynb"),
            ("�evil", "", "hw4", "�evil/hw4.ipynb"),
            ("two�lines", "", "hw4", "two�lines/hw4.ipynb"),
            ("n" * 250, "", "hw4", f"{'n' * 250}/hw4.ipynb"),
            ("zed", "", "hw4", "zed-hw4.ipynb"),
            ("eve", "", "hw5", "eve/hw5.ipynb.txt"),
        },
        None,
    ),
    "content before name": (
        {"ada/hw1.ipynb": HW4, "bo/sub/final FINAL.ipynb": HW5, "cy/hw2.ipynb": b"{}"},
        {
            ("ada", "", "hw4", "ada/hw1.ipynb"),
            ("bo", "", "hw5", "bo/sub/final FINAL.ipynb"),
            ("cy", "", "hw2", "cy/hw2.ipynb"),
        },
        set(),
    ),
}  # fmt: skip


def lay_out(files, place):
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def zipped(files, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def found(place, attempt=None):
    submissions, skipped = find_submissions(place, ASSIGNMENTS, attempt)
    who = {
        (s.student, s.number, s.assignment.key if s.assignment else "", s.file) for s in submissions
    }
    return who, skipped


@pytest.mark.parametrize("how", ["folder", "zip"])
@pytest.mark.parametrize("case", CASES)
def test_exports_are_read_as_they_come(case, how, tmp_path):
    files, expected, left_out = CASES[case]
    make = lay_out if how == "folder" else zipped
    place = make(files, tmp_path / ("export" if how == "folder" else "export.zip"))
    who, skipped = found(place)
    assert who == expected
    if left_out is not None and how == "zip":
        assert set(skipped) == left_out
    assert all(skipped.values())


def test_every_file_is_graded_or_named(tmp_path):
    files, _, _ = CASES["extras"]
    who, skipped = found(lay_out(files, tmp_path / "class"))
    graded = {file for *_, file in who}
    assert graded.isdisjoint(skipped)
    names = {
        "ada/._hw4_sweep.ipynb",
        "ada/.ipynb_checkpoints",
        "__MACOSX",
        ".DS_Store",
        "Thumbs.db",
    }
    assert set(skipped) == names


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["hw4.ipynb"], "not a notebook: the file is empty"),
        (["hw4.py", "plot.png", ".DS_Store"], "no notebook was handed in, but hw4.py, plot.png"),
    ],
)
def test_who_handed_in_no_notebook_is_told_what_is_there(names, problem, tmp_path):
    (tmp_path / "ada").mkdir()
    for name in names:
        (tmp_path / "ada" / name).touch()
    (one,), _ = find_submissions(tmp_path, ASSIGNMENTS)
    assert (one.student, one.problem) == ("ada", problem)


@pytest.mark.parametrize(
    ("attempt", "file"), [(None, "-2"), (1, "9001"), (2, "-1"), (3, "-2"), (4, None)]
)
def test_the_attempt_can_be_chosen(attempt, file, tmp_path):
    files = {name: content for name, content in CASES["canvas"][0].items() if "sweep" in name}
    who, skipped = found(lay_out(files, tmp_path), attempt)
    graded = [path for *_, path in who if path]
    assert len(skipped) == 3 - len(graded)
    assert (file is None and not graded) or (len(graded) == 1 and file in graded[0])


def test_names_that_are_no_utf8_are_read_as_they_were_meant(tmp_path):
    folder = os.fsencode(tmp_path) + "/Jörg_5_assignsubmission_file_".encode("latin-1")
    os.mkdir(folder)
    with open(folder + b"/hw4.ipynb", "wb") as stream:
        stream.write(HW4)
    ((student, number, key, _),) = found(tmp_path)[0]
    assert (student, number, key) == ("Jörg", "5", "hw4")


def test_zips_in_folders_zips_in_zips_and_no_way_out(tmp_path):
    inner = zipped({"x/hw4.ipynb": HW4}, tmp_path / "inner.zip").read_bytes()
    place = tmp_path / "class"
    place.mkdir()
    zipped({"../../evil/hw4.ipynb": HW4, "/abs/hw5.ipynb": HW5}, place / "slip.zip")
    zipped({"deep.zip": inner}, place / "ada_1_2_hw4.zip")
    (place / "broken.zip").write_bytes(b"PK\3\4 not really")
    who, skipped = found(place)
    assert {(student, key) for student, _, key, _ in who} == {
        ("slip", "hw4"), ("slip", "hw5"), ("ada", "hw4"),
    }  # fmt: skip
    assert "cannot be read" in skipped["broken.zip"]
    assert not (tmp_path / "evil").exists() and not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(("member", "problem"), [(5, "larger than"), (1, "unpacks to too much")])
def test_zip_bombs_are_cut_off(member, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "MAX_FILE", 1 << 20)
    monkeypatch.setattr(exports, "MAX_UNPACKED", 6 << 20)
    place = tmp_path / "class"
    place.mkdir()
    with zipfile.ZipFile(place / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(12):
            archive.writestr(f"{n}.ipynb", bytes(member << 20))
    files = exports.read(place)
    assert sum(len(file.data) for file in files) < 6 << 20
    assert any(problem in file.problem for file in files)


def test_links_of_both_kinds_are_not_followed(tmp_path):
    secret = tmp_path / "hers.ipynb"
    secret.write_bytes(HW4)
    for name in ("soft", "hard", "folder", "pipe"):
        (tmp_path / "class" / name).mkdir(parents=True)
    (tmp_path / "class" / "soft" / "hw4.ipynb").symlink_to(secret)
    os.link(secret, tmp_path / "class" / "hard" / "hw4.ipynb")
    (tmp_path / "class" / "folder" / "all").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "class" / "pipe" / "hw4.ipynb")
    submissions, skipped = find_submissions(tmp_path / "class", ASSIGNMENTS)
    assert all(one.problem for one in submissions) and len(submissions) == 4
    assert "link" in skipped["soft/hw4.ipynb"] and "link" in skipped["hard/hw4.ipynb"]
    assert "link" in skipped["folder/all"]


# --- tables, marks, going on ---------------------------------------------------------------------


def results_of(submissions, points=2):
    judged = Judged(bool(points), "Müller")
    return {
        one.file: Graded("ok", [Scored(e.function, e.points, judged, None, points) for e in one.assignment.exercises])
        for one in submissions
    }  # fmt: skip


@pytest.fixture
def moodle(tmp_path):
    files = {
        f"{who}_{n}_assignsubmission_file_/hw4.ipynb": HW4
        for n, who in enumerate(("Ada Müller", "Bo", "=Cy"))
    }
    submissions, _ = find_submissions(lay_out(files, tmp_path / "class"), ASSIGNMENTS)
    return report.Class(submissions, results_of(submissions))


def read_back(table):
    assert table.startswith(b"\xef\xbb\xbf")  # without which Excel shows "MÃ¼ller"
    return list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"))))


def test_the_table_is_for_excel(moodle):
    rows = read_back(report.table(moodle))
    assert [row["student"] for row in rows] == ["'=Cy", "Ada Müller", "Bo"]
    assert {(row["total"], row["max"], row["written"], row["written_max"]) for row in rows} == {
        ("4", "4", "", "16")
    }


def test_canvas_gets_its_columns_and_the_most_points(moodle):
    most, *rows = read_back(report.canvas(moodle))
    title = "Homework 4, A sweep"
    assert list(most) == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", title]
    assert (most["Student"].strip(), most[title]) == ("Points Possible", "20")
    assert {(row["ID"], row[title]) for row in rows} == {("0", "4"), ("1", "4"), ("2", "4")}


def test_moodle_gets_its_columns(moodle):
    rows = read_back(report.moodle(moodle, moodle.assignments()["hw4"]))
    assert {(row["Identifier"], row["Grade"], row["Maximum Grade"]) for row in rows} == {
        (f"Participant {n}", "4", "20") for n in range(3)
    }
    assert {"'=Cy", "Ada Müller"} <= {row["Full name"] for row in rows}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_marks_by_hand_are_added_up_and_never_changed(delimiter, encoding, moodle, tmp_path):
    store = Store(tmp_path / "grades.csv")
    store.lengthen_marks(moodle.submissions[:2])
    lines = list(csv.reader(store.marks.read_text("utf-8-sig").splitlines()))
    row = next(line for line in lines if line[0] == "Ada Müller")
    row[lines[0].index("hw4-w1")], row[lines[0].index("hw4 steps_to_reach")] = "3,5", "1"
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines)
    store.marks.write_bytes(text.encode(encoding))
    before = store.marks.read_bytes()
    store.lengthen_marks(moodle.submissions)
    assert store.marks.read_bytes().startswith(before)
    moodle.marks, complaints = store.read_marks()
    assert complaints == []
    assert set(moodle.marks) == {(who, "hw4") for who in ("Ada Müller", "Bo", "'=Cy")}
    rows = {row["student"]: row for row in read_back(report.table(moodle))}
    assert (rows["Ada Müller"]["total"], rows["Ada Müller"]["written"]) == ("3", "3.5")
    assert (rows["Bo"]["total"], rows["Bo"]["written"]) == ("4", "")


@pytest.mark.parametrize("value", ["two", "1;5", "nan", "inf"])
def test_a_mark_that_is_no_number_is_named(value, moodle, tmp_path):
    store = Store(tmp_path / "grades.csv")
    store.lengthen_marks(moodle.submissions)
    text = store.marks.read_text("utf-8-sig").replace("Bo,hw4,", f'Bo,hw4,"{value}"')
    store.marks.write_text(text)
    marks, (complaint,) = store.read_marks()
    assert marks["Bo", "hw4"] == {} and "Bo" in complaint and repr(value) in complaint


def test_a_file_of_marks_without_its_columns_is_left_alone(moodle, tmp_path):
    store = Store(tmp_path / "grades.csv")
    store.marks.write_text("name,points\nBo,3\n")
    store.lengthen_marks(moodle.submissions)
    assert store.marks.read_text() == "name,points\nBo,3\n"
    assert "no columns" in store.read_marks()[1][0]


def test_what_a_person_changed_is_set_aside(tmp_path, capsys):
    store = Store(tmp_path / "grades.csv")
    for path in (store.out, store.overview, store.feedback / "ada.html"):
        store.write(path, b"ours")
        store.write(path, b"ours again")
        path.write_text("hers")
        Store(store.out).write(path, b"ours once more")
        assert path.read_text() == "ours once more"
        assert path.with_stem(f"{path.stem}-yours-1").read_text() == "hers"
    assert "is now" in capsys.readouterr().out


def test_one_result_is_lost_at_most_when_a_line_is_cut_off(tmp_path):
    store = Store(tmp_path / "grades.csv")
    for n in range(3):
        store.keep(f"key{n}", Graded("ok"))
    whole = store.results.read_bytes()
    for cut in (1, 10, 30):
        store.results.write_bytes(whole[:-cut])
        again = Store(store.out)
        assert again.get("key1") == Graded("ok") and again.get("key2") in (None, Graded("ok"))
        again.keep("key3", Graded("empty"))
        assert Store(store.out).get("key3") == Graded("empty")


def test_pages_have_short_and_different_names():
    names = report.page_names(["x" * 254, "x" * 253, "Ä/Ö", "ä_ö", "..", "", "con\n", "=1+1"])
    assert len({name.casefold() for name in names.values()}) == 8
    assert all(len(name.encode()) < 110 and "/" not in name for name in names.values())


def test_near_copies_are_hinted_at_and_common_answers_are_not(tmp_path):
    long = [f"v0 = v{n} * {n}" for n in range(20)]
    answers = {"ada": long, "bob": [*long[:18], "x", "y"], "cy": [f"z{n}" for n in range(20)]}
    answers |= {f"s{n}": ["return max(a)", f"return {n}"] for n in range(9)}
    files = {f"{name}/hw4.ipynb": HW4 for name in answers}
    submissions, _ = find_submissions(lay_out(files, tmp_path), ASSIGNMENTS)
    results = {s.file: Graded("ok", written={"f": answers[s.student]}) for s in submissions}
    alike = report.alike(report.Class(submissions, results))  # by the submission's name
    assert alike == {"ada/hw4.ipynb": ["bob/hw4.ipynb"], "bob/hw4.ipynb": ["ada/hw4.ipynb"]}


def test_a_class_interrupted_three_times_loses_nothing(tmp_path):
    """Ctrl-C, an end by signal and one by kill -9; then only what is new is graded."""
    place, out = tmp_path / "class", tmp_path / "out" / "grades.csv"
    slow = {"extra": "import time\ntime.sleep(0.7)", "kind": "code"}  # time for the signal to come
    unanswered = [data(key, solved=False, **slow) for key in ("hw1", "hw2", "hw4")]
    lay_out({f"student{n:02}/hw.ipynb": data("hw4", **slow) if n % 9 == 0 else unanswered[n % 3] for n in range(24)}, place)  # fmt: skip
    run = [sys.executable, "-m", "course_utils", "grade", place, "--out", out, "--seed", "3"]
    kept = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lines = 0
        for line in process.stdout:
            lines += line.startswith("[")
            if lines >= 4:
                process.send_signal(number)
                break
        process.communicate(timeout=120)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130)
        results = (out.parent / "grades-results.jsonl").read_text()
        now = sum('"graded"' in line for line in results.splitlines())
        assert kept + 4 <= now < 24
        kept = now
    shutil.copy(HOMEWORK / "solved" / "hw4_sweep.ipynb", place / "student01" / "hw.ipynb")
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    graded = [line for line in done.stdout.splitlines() if line.startswith("[")]
    again = 24 - len(graded)
    assert again in (kept, kept - 1)  # the new one may have been graded before
    assert f"{again} of 24 submissions were graded before" in done.stdout
    assert any("student01/hw.ipynb: ok, 4 points" in line for line in graded)
    with out.open(encoding="utf-8-sig") as lines:
        rows = {row["student"]: row["total"] for row in csv.DictReader(lines)}
    right = {f"student{n:02}" for n in (1, *range(0, 24, 9))}
    assert rows == {f"student{n:02}": "4" if f"student{n:02}" in right else "0" for n in range(24)}
