"""`python -m matformer_lab`."""

from matformer_lab.cli.main import main

main()
