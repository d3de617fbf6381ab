"""`python -m hashzoo`."""

from hashzoo.cli import main

main()
