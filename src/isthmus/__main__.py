"""`isthmus`, and `python -m isthmus`: the command line.

An interrupt ends it with one word from its first moments on. click says that word by itself, but only once it is
loaded, and that takes a tenth of a second.
"""

import sys


def run() -> None:
    """Runs the command that was asked for."""
    try:
        from isthmus.cli import main
    except KeyboardInterrupt:
        sys.exit("\nAborted!")
    main(prog_name="isthmus")


if __name__ == "__main__":
    run()
