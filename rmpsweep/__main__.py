"""python -m rmpsweep."""

from rmpsweep.cli import main

main()
