from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.scoring.batches.prefix_tree import PrefixTree

SEQUENCES = st.lists(
    st.lists(st.integers(0, 2) | st.sampled_from([255, 256, 65536, 262143]), min_size=1).map(tuple),
    min_size=1,
    max_size=12,
)


@given(SEQUENCES)
def test_holds_every_sequence_once_in_order(sequences: list[tuple[int, ...]]) -> None:
    tree, index = PrefixTree.of(sequences)
    assert [tuple(sequence.tolist()) for sequence in tree.sequences] == sorted(set(sequences))
    assert [tuple(tree.sequences[k].tolist()) for k in index] == sequences


@given(SEQUENCES, st.data())
def test_flat_tree_has_one_node_per_distinct_prefix(
    sequences: list[tuple[int, ...]], data: st.DataObject
) -> None:
    tree, _ = PrefixTree.of(sequences)
    start = data.draw(st.integers(0, len(tree) - 1))
    stop = data.draw(st.integers(start + 1, len(tree)))
    chosen = [tuple(sequence.tolist()) for sequence in tree.sequences[start:stop]]
    prefixes = {sequence[: d + 1] for sequence in chosen for d in range(len(sequence))}

    flat = tree.flatten(start, stop)

    assert len(flat.tokens) == tree.size(start, stop) == len(prefixes)
    prefix_of: dict[int, tuple[int, ...]] = {}
    for sequence, path in zip(chosen, flat.paths, strict=True):
        assert tuple(flat.tokens[path].tolist()) == sequence
        assert flat.depth[path].tolist() == list(range(len(sequence)))
        for d, node in enumerate(path.tolist()):
            assert prefix_of.setdefault(node, sequence[: d + 1]) == sequence[: d + 1]
    for j, ancestor in prefix_of.items():
        for i, prefix in prefix_of.items():
            is_ancestor = prefix[: len(ancestor)] == ancestor
            assert (j <= i < flat.subtree_end[j]) == is_ancestor
