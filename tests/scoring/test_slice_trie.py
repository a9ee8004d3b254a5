import math
import weakref

from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.scoring.batches.token_budget import WAITING_STATES
from matformer_lab.scoring.slice_trie import TrieNode, build_trie, walk
from matformer_lab.sweep.passes import SLICES_PER_PASS

SLICES = st.lists(
    st.lists(st.sampled_from("abc"), max_size=6).map("".join), min_size=1, max_size=12
).map(lambda keys: {f"slice-{number}": key for number, key in enumerate(keys)})


ALIVE: "weakref.WeakSet[State]" = weakref.WeakSet()


class State:
    """The layers run so far; counts how many of its kind are alive."""

    def __init__(self, layers: str) -> None:
        self.layers = layers
        ALIVE.add(self)


def _walk(slices: dict[str, str]) -> tuple[dict[str, str], int, int]:
    """(what each slice ran through, layer forwards, most states alive at once)."""
    arrived: dict[str, str] = {}
    forwards = 0
    most = 0

    def advance(here: State, name: str, layer: int) -> State:
        nonlocal forwards, most
        forwards += 1
        most = max(most, len(ALIVE))
        return State(here.layers + slices[name][layer])

    def arrive(here: State, node: TrieNode) -> None:
        arrived.update(dict.fromkeys(node.ending, here.layers))

    walk(build_trie(slices), State(""), advance, arrive)
    return arrived, forwards, most


@given(SLICES)
def test_every_slice_runs_its_own_layers_and_shares_the_common_ones(slices: dict[str, str]) -> None:
    arrived, forwards, _ = _walk(slices)
    assert arrived == slices
    prefixes = {key[: k + 1] for key in slices.values() for k in range(len(key))}
    assert forwards == len(prefixes) == build_trie(slices).layer_forwards()


@given(st.integers(1, 40), st.booleans())
def test_states_alive_do_not_grow_with_the_slices(count: int, comb: bool) -> None:
    # A comb branches at every layer; the other shape branches once, into `count` leaves.
    slices = (
        {str(n): "a" * n + "b" * (count - n + 1) for n in reversed(range(count))}
        if comb
        else {str(n): "aaa" + chr(1000 + n) for n in range(count)}
    )
    arrived, _, most = _walk(slices)
    assert arrived == slices
    assert most <= math.log2(count) + 1


def test_the_token_budget_counts_the_states_that_wait_in_the_worst_pass() -> None:
    doubling = {f"{number:03b}": f"{number:03b}then" for number in range(SLICES_PER_PASS)}
    _, _, most = _walk(doubling)
    assert most - 1 == WAITING_STATES  # one is the layer's input


def test_a_chain_of_slices_that_end_along_the_way() -> None:
    trie = build_trie({"short": "ab", "long": "abcd", "same": "abcd"})
    assert (trie.start, trie.stop, trie.ending) == (0, 2, ("short",))
    (rest,) = trie.children
    assert (rest.start, rest.stop, rest.ending) == (2, 4, ("long", "same"))
    assert trie.layer_forwards() == 4
