"""The living figures in a notebook, with the numbers of whatever model is loaded.

Two rooms: :mod:`~course_widgets.kernel` has the numbers of a model, :mod:`~course_widgets.live` the
figures. The figures' scripts are those of the built book, in ``live/``.
"""
