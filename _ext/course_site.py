"""Sphinx extension: the site asks nothing from third parties.

Third-party JavaScript is copied at build time out of the Python packages that carry it, with
its licence, into ``_static/vendor``. Pages load only what they use.
"""

import html
import json
import os
import re
import shutil
from importlib import metadata, util
from pathlib import Path

#: What is copied: target below ``_static/vendor``, the distribution that carries it, the path.
VENDORED = (
    ("plotly.min.js", "plotly", "plotly/package_data/plotly.min.js"),
    ("d3.min.js", "mpld3", "mpld3/js/d3.v5.min.js"),
    ("jquery.min.js", "xstatic-jquery", "xstatic/pkg/jquery/data/jquery.min.js"),
    ("mathjax", "sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax"),
)
#: Full text of the Apache License 2.0, which MathJax and BertViz are under.
APACHE = ("LICENSE-Apache-2.0.txt", "transformers", "LICENSE")


def copy_vendored(app, exception):
    """Copy the third-party files into the finished site."""
    if exception or app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "vendor"
    target.mkdir(parents=True, exist_ok=True)
    for name, distribution, path in VENDORED:
        source = Path(metadata.distribution(distribution).locate_file(path))
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        shutil.rmtree(target / name, ignore_errors=True)
        copy(source, target / name)
    name, distribution, ending = APACHE
    files = metadata.files(distribution) or []
    licence = next(file for file in files if file.name == ending)
    shutil.copyfile(licence.locate(), target / name)


def choose_scripts(app, pagename, templatename, context, doctree):
    """Load plotly only on pages that have a figure of it, and nothing of the unused thebe."""
    scripts = context.get("script_files", [])
    scripts[:] = [  # in place: Sphinx resets this list for every page
        script
        for script in scripts
        if "thebe" not in str(getattr(script, "filename", script))
        and "THEBE_JS_URL" not in str(getattr(script, "attributes", ""))
    ]
    if "course-plotly" in context.get("body", ""):
        app.add_js_file("vendor/plotly.min.js", loading_method="defer", priority=400)


def mark_items(app, pagename, templatename, context, doctree):
    """Give every exercise and every question of "Check yourself" an id for the reader's progress.

    An exercise has the name of its check, a question the beginning of its text: ids that stay when
    other cells come and go.
    """
    body = context.get("body", "")
    if "tag_exercise" not in body and 'id="check-yourself"' not in body:
        return

    def exercise(found):
        check = re.findall(r"\bcheck_\w+", re.sub(r"<[^>]+>", "", body[found.end() :]))
        return f'{found[0]} data-course-id="{pagename}#{check[0]}"' if check else found[0]

    body = re.sub(r'<div class="cell[^"]*\btag_exercise\b[^"]*"', exercise, body)
    start = body.find('id="check-yourself"')
    if start >= 0:
        end = body.find("</section>", start)
        end = len(body) if end < 0 else end

        def question(found):
            text = re.sub(r"<[^>]+>", " ", found[1]).split(".", 1)[-1].lower()
            slug = "-".join(re.findall(r"[a-z0-9]+", html.unescape(text))[:10])
            return f'{found[1]}<details data-course-id="{pagename}#{slug}"'

        part = re.sub(r"(<p>(?:(?!<p>).)*?)<details", question, body[start:end], flags=re.DOTALL)
        body = body[:start] + part + body[end:]
    context["body"] = body


def list_items(app, exception):
    """Write the ids of all pages, in reading order, where the progress panel finds them."""
    if exception or app.builder.format != "html":
        return
    pages = []
    for name in app.env.toctree_includes.get(app.config.root_doc, []):
        path = Path(app.builder.get_outfilename(name))
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = re.findall(r'<(div|details)\b[^>]*data-course-id="([^"]+)"', text)
        if found:
            exercises = [key for tag, key in found if tag == "div"]
            questions = [key for tag, key in found if tag == "details"]
            title, page = app.env.titles[name].astext(), app.builder.get_target_uri(name)
            pages.append(
                {"page": page, "title": title, "exercises": exercises, "questions": questions}
            )
    target = Path(app.outdir) / "_static" / "course-pages.js"
    target.write_text(f"window.coursePages = {json.dumps(pages)};\n", encoding="utf-8")


def one_search_field(app, config):
    """Keep the search field of the sidebar only; the theme would show a second one on top."""
    config.html_theme_options["navbar_persistent"] = []


def setup(app):
    """Register the hooks; Sphinx calls this."""
    for module in ("plotly", "mpld3", "xstatic"):
        if util.find_spec(module) is None:
            raise RuntimeError(f"{module} is not installed: pip install -r requirements.txt")
    os.environ.setdefault("COURSE_BOOK", "1")  # notebooks executed by Sphinx itself see it too
    app.connect("config-inited", one_search_field)
    app.connect("html-page-context", choose_scripts, priority=900)
    app.connect("html-page-context", mark_items, priority=950)
    app.connect("build-finished", copy_vendored)
    app.connect("build-finished", list_items)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
