"""What is run rather than imported: ``python -m course_utils doctor | fetch | train | serve``.

Each command has a room of its own with ``add_options`` and ``run``. ``serve`` also has
:mod:`~course_commands.server` and :mod:`~course_commands.serving`, the web service.
"""
