"""What a verification found: problems, and what became of a slice that was tuned or saved again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest
from matformer_lab.checkpoint.verification.saved_again import Kind


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        tensors: How many tensors were compared, byte by byte or by digest.
        problems: One line for each problem found; the first says what became of a slice that was
            tuned or saved again.
        kind: `exact`, the slice byte for byte, which alone is `ok`; `saved again`, its tensors in
            other files; `tuned`, other tensors in its shapes; `quantised`; or `different`.
        differing: The names of the tensors of such a slice that are not the parent's.

    Examples:
        >>> import matformer_lab as ml
        >>> checkpoint = ml.write_slices("tiny", "1/8", "eighth").folder
        >>> result = ml.verify_checkpoint(checkpoint, "tiny", "1/4")
        >>> result.ok
        False
        >>> result.problems[0]
        'config.json: intermediate_size[0] is 8, expected 16'
    """

    tensors: int
    problems: tuple[str, ...]
    kind: Kind = "different"
    differing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Nothing to find fault with is the slice itself."""
        if not self.problems:
            object.__setattr__(self, "kind", "exact")

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def name_problems(expected: Iterable[str], found: Iterable[str]) -> Iterator[str]:
    """Where the names of the tensors are not those expected."""
    expected, found = set(expected), set(found)
    yield from (f"tensor {name}: missing" for name in sorted(expected - found))
    yield from (f"tensor {name}: not part of the slice" for name in sorted(found - expected))


def seal_problems(manifest: Manifest) -> Iterator[str]:
    """Where a manifest is not what was written."""
    if manifest.seal is not None and manifest.seal != manifest.expected_seal:
        yield f"{MANIFEST_FILE}: was changed since it was written"
