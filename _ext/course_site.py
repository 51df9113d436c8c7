"""Sphinx extension: the site asks nothing from third parties.

Third-party JavaScript is copied at build time out of the Python packages that carry it, with
its licence, into ``_static/vendor``. Pages load only what they use.
"""

import os
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
    app.connect("build-finished", copy_vendored)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
