"""`python -m isthmus` is the same as `isthmus`."""

from isthmus.cli import main

main(prog_name="isthmus")
