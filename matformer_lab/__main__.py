"""`python -m matformer_lab`."""

from matformer_lab.cli import main

main()
