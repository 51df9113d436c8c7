"""python -m course_utils doctor | fetch | train | serve | grade: see :mod:`course_commands`."""

import sys

from course_commands import terminal
from course_commands.main import main

if __name__ == "__main__":
    sys.exit(terminal.run(main))
