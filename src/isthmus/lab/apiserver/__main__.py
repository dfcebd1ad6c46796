"""Runs one API server: `python -m isthmus.lab.apiserver`."""

from isthmus.lab.apiserver.command import main

if __name__ == "__main__":
    main()
