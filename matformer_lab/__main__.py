"""`python -m matformer_lab`."""

from matformer_lab.cli.cli import main

main()
