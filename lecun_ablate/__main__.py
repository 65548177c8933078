"""`python -m lecun_ablate`."""

from lecun_ablate.cli import main

main()
