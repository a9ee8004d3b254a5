"""Search: the best slice for a budget, found by measuring slices and proven on unseen items."""
