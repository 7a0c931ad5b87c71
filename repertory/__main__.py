"""The command line, where its script is not on the PATH: ``python -m repertory``."""

from repertory.cli.app import main

main()
