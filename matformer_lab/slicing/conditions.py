"""What a runtime's verdict depends on: conditions that a checkpoint meets or not.

A checkpoint is judged as it lies in a folder, or as a plan would write it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.gemma3n import (
    LM_HEAD,
    TextConfig,
    expected_tensors,
    is_multimodal,
    is_notebooks,
    lacking_rope,
    rope_numbers,
    text_part,
)
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.quantised import QuantisedCheckpoint
from matformer_lab.parent.weights.head import has_head
from matformer_lab.parent.weights.links import path_inside
from matformer_lab.slicing.plan import Plan

_DEFAULT_ROPE: Final = {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
"""What transformers 4.53 to 4.57 take where config.json has none."""

_TOWERS: Final = ("model.vision_tower.", "model.audio_tower.")


@dataclass(frozen=True)
class Facts:
    """A checkpoint, as far as runtimes look at it.

    Attributes:
        config: Its config.json.
        text: The text part of that, checked.
        names: Its text tensors, by name without the prefix; with the LM head, if there is one.
        text_only: Whether it is a `gemma3n_text`.
        towers: Whether it has the tensors of vision and audio towers.
        own_head: Whether the LM head is a tensor of its own, not the embeddings.
        renamed: Whether tensor names are not the published ones.
        folder: Where its tokenizer is; None if that is not known.
        quantised: By whom its weights are quantised; empty if they are not.
    """

    config: Mapping[str, Any]
    text: TextConfig
    names: frozenset[str]
    text_only: bool
    towers: bool
    own_head: bool
    renamed: bool
    folder: Path | None
    quantised: str = ""

    @cached_property
    def missing_kv(self) -> int:
        """How many K/V tensors of layers that share K/V are not there."""
        return sum(tensor.name not in self.names for tensor in expected_tensors(self.text))

    @cached_property
    def missing_rope(self) -> str:
        """The rope numbers that config.json lacks, as words; empty if it has both."""
        return " and no ".join(lacking_rope(text_part(self.config)))

    @cached_property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """Empty if there is none, or it cannot be read."""
        try:
            assert self.folder is not None
            path = path_inside(self.folder, "tokenizer_config.json", str(self.folder))
            return strict_json(read_small(path), str(path)) if path.is_file() else {}
        except (AssertionError, InputError, OSError):
            return {}


def facts_of_plan(plan: Plan) -> Facts:
    """The checkpoint that a plan describes."""
    return Facts(
        config=plan.config,
        text=plan.text,
        names=frozenset(plan.text_tensors()),
        text_only=plan.text_only,
        towers=any(tensor.name.startswith(_TOWERS) for tensor in plan.tensors),
        own_head=plan.parent.separate_head,
        renamed=False,
        folder=plan.parent.folder,
    )


def facts_of_folder(parent: Parent) -> Facts:
    """A checkpoint as it lies there."""
    names = {
        name.removeprefix(parent.prefix)
        for name in parent.tensors
        if name.startswith(parent.prefix) or name == LM_HEAD
    }
    return Facts(
        config=parent.config,
        text=parent.text,
        names=frozenset(names),
        text_only=not parent.multimodal,
        towers=any(name.startswith(_TOWERS) for name in parent.tensors),
        own_head=parent.separate_head,
        renamed=bool(parent.stored),
        folder=parent.folder,
    )


def facts_of_quantised(checkpoint: QuantisedCheckpoint) -> Facts:
    """A quantised checkpoint as it lies there, by the weights that its tensors stand for.

    Raises:
        InputError: Their names are spelled in no known way.
    """
    spelling = checkpoint.spelling
    names = {name.removeprefix(spelling.prefix) for name in spelling.published.values()}
    return Facts(
        config=checkpoint.config,
        text=checkpoint.text,
        names=frozenset(names),
        text_only=not is_multimodal(checkpoint.config),
        towers=any(name.startswith(_TOWERS) for name in spelling.published.values()),
        own_head=has_head(checkpoint.config, names, checkpoint.ref),
        renamed=spelling.note is not None,
        folder=checkpoint.folder,
        quantised=checkpoint.how,
    )


class Condition(StrEnum):
    """What may hold for a checkpoint; `holds` says whether it does."""

    ALWAYS = "always"
    TEXT_ONLY = "text_only"
    NOTEBOOK = "notebook"
    RENAMED = "renamed"
    NO_TOWERS = "no_towers"
    NO_TOKENIZER = "no_tokenizer"
    SPECIAL_TOKENS_LIST = "special_tokens_list"
    NO_KV = "no_kv"
    NO_ROPE = "no_rope"
    ROPE_NOT_DEFAULT = "rope_not_default"
    NO_LAYER_TYPES = "no_layer_types"
    OWN_HEAD = "own_head"
    REPEATED_HEAD = "repeated_head"
    MIXED_WIDTHS = "mixed_widths"
    WIDTH_LIST = "width_list"
    PLE_NOT_256 = "ple_not_256"
    LOW_RANK_NOT_64 = "low_rank_not_64"
    SHARES_MID_BLOCK = "shares_mid_block"
    SHARES_NOT_FROM_20 = "shares_not_from_20"
    SPARSE_NOT_FIRST_TEN = "sparse_not_first_ten"
    KV_SOURCES_APART = "kv_sources_apart"
    QUANTISED_TORCHAO = "quantised_torchao"
    QUANTISED_BITSANDBYTES = "quantised_bitsandbytes"
    QUANTISED = "quantised"


def holds(condition: Condition, facts: Facts) -> bool:
    """Whether a condition holds for a checkpoint."""
    return _HOLDS[condition](facts)


def _rope_not_default(facts: Facts) -> bool:
    text = text_part(facts.config)
    lacking = lacking_rope(text)
    if not lacking or not text.get("rope_parameters"):
        return False
    numbers = rope_numbers(text)
    return any(numbers.get(key) != _DEFAULT_ROPE[key] for key in lacking)


def _kv_sources_apart(facts: Facts) -> bool:
    text = facts.text
    first = text.first_kv_shared_layer
    before = text.layer_types[first - 2 : first]
    return bool(text.num_kv_shared_layers) and before != ("sliding_attention", "full_attention")


def _sparse(facts: Facts) -> list[int]:
    return [n for n, share in enumerate(facts.text.activation_sparsity_pattern) if share > 0]


_HOLDS: Final[Mapping[Condition, Callable[[Facts], bool]]] = {
    Condition.ALWAYS: lambda _: True,
    Condition.TEXT_ONLY: lambda facts: facts.text_only,
    Condition.NOTEBOOK: lambda facts: is_notebooks(facts.config),
    Condition.RENAMED: lambda facts: facts.renamed,
    Condition.NO_TOWERS: lambda facts: not facts.text_only and not facts.towers,
    Condition.NO_TOKENIZER: lambda facts: (
        facts.folder is not None and not (facts.folder / "tokenizer.json").exists()
    ),
    Condition.SPECIAL_TOKENS_LIST: lambda facts: isinstance(
        facts.tokenizer_config.get("extra_special_tokens"), list
    ),
    Condition.NO_KV: lambda facts: facts.missing_kv > 0,
    Condition.NO_ROPE: lambda facts: bool(facts.missing_rope),
    Condition.ROPE_NOT_DEFAULT: _rope_not_default,
    Condition.NO_LAYER_TYPES: lambda facts: text_part(facts.config).get("layer_types") is None,
    Condition.OWN_HEAD: lambda facts: facts.own_head,
    Condition.REPEATED_HEAD: lambda facts: LM_HEAD in facts.names and not facts.own_head,
    Condition.MIXED_WIDTHS: lambda facts: len(set(facts.text.intermediate_size)) > 1,
    Condition.WIDTH_LIST: lambda facts: isinstance(
        text_part(facts.config).get("intermediate_size"), list
    ),
    Condition.PLE_NOT_256: lambda facts: facts.text.hidden_size_per_layer_input != 256,
    Condition.LOW_RANK_NOT_64: lambda facts: facts.text.laurel_rank != 64,
    Condition.SHARES_MID_BLOCK: lambda facts: (
        facts.text.first_kv_shared_layer != 20 and facts.text.first_kv_shared_layer % 5 != 0
    ),
    Condition.SHARES_NOT_FROM_20: lambda facts: facts.text.first_kv_shared_layer != 20,
    Condition.SPARSE_NOT_FIRST_TEN: lambda facts: _sparse(facts) != list(range(10)),
    Condition.KV_SOURCES_APART: _kv_sources_apart,
    Condition.QUANTISED_TORCHAO: lambda facts: facts.quantised.startswith("torchao"),
    Condition.QUANTISED_BITSANDBYTES: lambda facts: facts.quantised.startswith("bitsandbytes"),
    Condition.QUANTISED: lambda facts: bool(facts.quantised),
}
