"""Log-probabilities, fast."""
