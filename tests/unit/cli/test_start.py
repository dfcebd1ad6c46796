"""How the command line begins."""

import subprocess
import sys

INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from isthmus.__main__ import run
run()
"""


def test_an_interrupt_while_the_command_line_is_loaded_is_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "\nAborted!\n")
