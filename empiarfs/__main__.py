"""`python -m empiarfs`."""

from empiarfs.cli import main

main(prog_name="empiarfs")
