"""Grading a folder of submissions without ever trusting them.

Two processes share each submission. The *worker* (``worker``, ``confine``) holds the student's
code, cut off from files, network and other processes as far as the system allows. The *grader*
(``command``, ``submissions``, ``sandbox``, ``scoring``, ``report``) holds the checks and what they
expect; it asks the worker for one call at a time and gets back plain data (``protocol``), which
cannot execute anything.

This file imports nothing of the course, because the worker imports it too.
"""

import sys

if sys.platform == "win32":
    raise SystemExit(
        "Nothing was run: Windows cannot fence in a student's code. Grade in WSL or in a "
        "container; grading.md has the lines."
    )
