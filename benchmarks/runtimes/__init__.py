"""What other runtimes make of slices: run on a small random parent, compared with transformers 5.

    python -m benchmarks.runtimes.run --work /tmp/runtimes --install
    python -m benchmarks.runtimes.table benchmarks/runtimes/results.json

The first installs each runtime into an environment of its own, writes slices, runs them and leaves
`results.json`. The second writes what was found into `configs/runtimes.json`, from which
`matformer-lab plan` has its verdicts; a finding that nobody could run keeps its old date.
"""
