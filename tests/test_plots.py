"""Figures and tables: a text alternative always, and nothing on the page that runs by accident."""

import functools
import json
import re

import matplotlib.pyplot as plt
import plotly.graph_objects as go
import pytest

import course_checks
from course_utils import plots

EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def shown(monkeypatch):
    """Collect what is displayed."""
    displayed = []
    monkeypatch.setattr(plots, "display", displayed.append)
    return displayed


def test_matplotlib_figure_has_a_text_alternative(shown):
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    plots.show(figure, alt='a "rising" line')
    assert 'alt="a &quot;rising&quot; line"' in shown[0].data
    assert "data:image/png;base64," in shown[0].data


def test_plotly_in_the_book_holds_data_and_no_address(shown, monkeypatch):
    monkeypatch.setenv("COURSE_BOOK", "1")
    plots.show(go.Figure(go.Scatter(x=[1], y=[2], text=[EVIL])), alt="one point")
    html = shown[0].data
    assert "http" not in html
    assert html.count("</script>") == 1  # its own
    data = json.loads(re.search(r"json\">(.*)</script>", html)[1])
    assert data["data"][0]["text"] == [EVIL]


def test_plotly_in_a_notebook_is_the_figure_itself(shown, monkeypatch):
    monkeypatch.delenv("COURSE_BOOK", raising=False)
    figure = go.Figure(go.Scatter(x=[1], y=[2]))
    plots.show(figure, alt="one point")
    assert shown == [figure]


def test_show_says_what_is_wrong():
    with pytest.raises(TypeError, match="got a list; it expects a matplotlib or plotly figure"):
        plots.show([1, 2], alt="x")
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show(plt.figure(), alt=" ")


def test_table_escapes(shown):
    plots.table([{"token": EVIL, EVIL: 3}], EVIL)
    assert "<img" not in shown[0].data
    assert shown[0].data.count("&lt;img") == 3


def test_snapshots_are_escaped_and_the_last_is_shown(shown):
    plots.show_snapshots([("step 0", EVIL), ('step "1" & 2', "a <b>")], "<step>")
    page = shown[0].data
    assert "<img" not in page and "<script" not in page and "<step>" not in page
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in page
    assert page.count("step &quot;1&quot; &amp; 2") == 3  # shown, and spoken by slider and panel
    assert page.index(" hidden>") < page.index("alert(1)") < page.index("a &lt;b&gt;")
    assert page.count(" hidden>") == 1
    assert 'min="0" max="1" value="1"' in page
    assert "http" not in page
    with pytest.raises(ValueError, match="nothing to show for the slider 'step'"):
        plots.show_snapshots([], "step")


def test_a_verdict_never_raises_and_escapes():
    def tests(answer):
        if answer() == 1:
            raise course_checks.Wrong(EVIL)
        return "Notice this."

    def stub():
        raise NotImplementedError

    check_it = functools.partial(course_checks.verdict_on, "check_it", tests)
    assert check_it(stub).passed is None
    assert check_it(lambda: 2) == course_checks.Verdict(True, "Notice this.")
    wrong = check_it(lambda: 1)
    assert wrong.passed is False
    assert "<img" not in wrong._repr_html_()
    crashed = check_it(lambda: 1 / 0)
    assert crashed.passed is False
    assert "ZeroDivisionError" in crashed.message
