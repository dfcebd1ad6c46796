"""`isthmus`, and `python -m isthmus`: the command line.

An interrupt ends it with one word from its first moments on. click says that word by itself, but only once it is
loaded, and that takes a tenth of a second. What cannot be written to standard output ends every command alike.
"""

import sys


def run() -> None:
    """Runs the command that was asked for."""
    try:
        from isthmus.cli import main
        from isthmus.cli.output import told_if_lost
    except KeyboardInterrupt:
        sys.exit("\nAborted!")
    with told_if_lost():
        main(prog_name="isthmus")


if __name__ == "__main__":
    run()
