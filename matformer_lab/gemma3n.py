"""Gemma 3n as data: the text config, and the shape and cut of every text tensor.

This is the only module that spells the names of tensors in a Gemma 3n checkpoint
(tests/slicing/test_tensor_names.py); the modules that run a model reach its parts as attributes of
transformers' classes. Shapes are those of transformers' `Gemma3nTextModel`, written in terms of the
config's keys.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from matformer_lab.common.errors import InputError
from matformer_lab.common.validation import explain

MAX_LAYERS: Final = 1024
"""The most layers that a parent may have."""

LayerType = Literal["sliding_attention", "full_attention"]
"""The attention of a layer, as `layer_types` in config.json names it."""


def default_layer_types(layers: int) -> list[LayerType]:
    """What `layer_types` means where a config leaves it out, in transformers 4.54 and newer.

    (The default of 4.53 had full attention at layers 0, 5, 10...; no published model has that.)
    """
    return ["full_attention" if (n + 1) % 5 == 0 else "sliding_attention" for n in range(layers)]


Dimension = Annotated[int, Field(strict=True, gt=0, lt=2**31)]
"""A size in a config; the bound keeps products of sizes far from overflow."""


class TextConfig(BaseModel):
    """The text part of a config.json, checked.

    The fields are the keys of transformers' `Gemma3nTextConfig` on which tensors, cuts and sizes
    depend; other keys are ignored. Per-layer values are tuples over the layers.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    num_hidden_layers: Annotated[int, Field(strict=True, gt=0, le=MAX_LAYERS)]
    hidden_size: Dimension
    intermediate_size: tuple[Dimension, ...]
    layer_types: tuple[LayerType, ...]
    activation_sparsity_pattern: tuple[Annotated[float, Field(ge=0, lt=1)], ...]
    num_kv_shared_layers: Annotated[int, Field(strict=True, ge=0)]
    hidden_size_per_layer_input: Dimension
    vocab_size: Dimension
    vocab_size_per_layer_input: Dimension
    num_attention_heads: Dimension
    num_key_value_heads: Dimension
    head_dim: Dimension
    sliding_window: Dimension
    max_position_embeddings: Dimension
    laurel_rank: Dimension
    altup_num_inputs: Dimension
    tie_word_embeddings: Annotated[bool, Field(strict=True)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_per_layer_values(cls, raw: Any) -> Any:
        """Expand per-layer values that a config.json leaves out or writes as one number.

        The defaults are those of transformers >= 4.54.
        """
        layers = raw.get("num_hidden_layers") if isinstance(raw, Mapping) else None
        if type(layers) is not int or not 0 < layers <= MAX_LAYERS:
            return raw  # the field's own check says what is wrong
        filled = dict(raw)
        if type(filled.get("intermediate_size")) is int:
            filled["intermediate_size"] = [filled["intermediate_size"]] * layers
        if filled.get("layer_types") is None:
            filled["layer_types"] = default_layer_types(layers)
        for key in _NOTEBOOK_KEYS:
            if _is_notebooks(raw) and len(filled.get(key) or ()) == _NOTEBOOK_LAYERS:
                filled[key] = [v for n, v in enumerate(filled[key]) if n not in NOTEBOOK_SKIP]
        if filled.get("activation_sparsity_pattern") is None:
            sparse = 10 if layers > 10 else 0
            filled["activation_sparsity_pattern"] = [0.95] * sparse + [0.0] * (layers - sparse)
        return filled

    @field_validator("intermediate_size", "layer_types", "activation_sparsity_pattern")
    @classmethod
    def _one_value_per_layer(cls, value: tuple[Any, ...], info: Any) -> tuple[Any, ...]:
        layers = info.data.get("num_hidden_layers")
        if layers is not None and len(value) != layers:
            surplus = (
                "; Google's notebook leaves the parent's here, and which layers it skipped is not "
                "known: cut the slice again from its parent"
            )
            raise ValueError(
                f"has {len(value)} values for {layers} layers" + surplus * (len(value) > layers)
            )
        return value

    @field_validator("num_kv_shared_layers")
    @classmethod
    def _some_layer_owns_its_kv(cls, value: int, info: Any) -> int:
        if value >= info.data.get("num_hidden_layers", value + 1):
            raise ValueError("leaves no layer with K/V of its own")
        return value

    @property
    def first_kv_shared_layer(self) -> int:
        """Index of the first layer that reuses earlier K/V; `num_hidden_layers` if none does."""
        return self.num_hidden_layers - self.num_kv_shared_layers

    @cached_property
    def kv_sources(self) -> frozenset[int]:
        """The layers whose K/V the sharing layers read: the last one of each type before them.

        Empty if no layer shares K/V.
        """
        if not self.num_kv_shared_layers:
            return frozenset()
        own = range(self.first_kv_shared_layer)
        last_of_type = {self.layer_types[layer]: layer for layer in own}
        return frozenset(last_of_type.values())

    def kv_source(self, layer: int) -> int | None:
        """The layer whose K/V a layer reads: itself, or the last of its type before the sharing.

        None where no such layer is left, which no right checkpoint has.
        """
        if layer < self.first_kv_shared_layer:
            return layer
        kind = self.layer_types[layer]
        return next((n for n in self.kv_sources if self.layer_types[n] == kind), None)

    @cached_property
    def blocks(self) -> tuple[range, ...]:
        """The attention blocks: runs of layers that end with a full-attention layer.

        E4B has 7 blocks of 5 layers. Sliding layers after the last full one are a block too.
        """
        starts = [0]
        for layer, kind in enumerate(self.layer_types[:-1]):
            if kind == "full_attention":
                starts.append(layer + 1)
        return tuple(
            range(start, stop)
            for start, stop in zip(starts, [*starts[1:], self.num_hidden_layers], strict=True)
        )


NOTEBOOK_SKIP: Final = range(20, 25)
"""The layers that Google's notebook skips, as E2B and every other published slice that skips."""

_NOTEBOOK_LAYERS: Final = 35
_NOTEBOOK_KEYS: Final = ("layer_types", "activation_sparsity_pattern")


def _is_notebooks(text: Mapping[str, Any]) -> bool:
    """Whether Google's notebook wrote the text part of a config, skipping layers 20-24 of E4B.

    It leaves the 35 `layer_types` of the parent, of which 5 of the 15 layers that share K/V are
    gone. transformers 4.53, which it uses, takes the first 30: those of the kept layers.
    """
    types = text.get("layer_types")
    pattern = [*["sliding_attention"] * 4, "full_attention"] * 7
    counts = text.get("num_hidden_layers"), text.get("num_kv_shared_layers")
    return types == pattern and counts == (30, 10)


def is_notebooks(config: Mapping[str, Any]) -> bool:
    """Whether Google's notebook wrote a config.json, so that it has too many `layer_types`."""
    return _is_notebooks(text_part(config))


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the full `gemma3n`, with towers, rather than `gemma3n_text`."""
    return config.get("model_type") == "gemma3n"


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json with the text model's keys; empty if there is none."""
    part = config.get("text_config") if is_multimodal(config) else config
    return part if isinstance(part, Mapping) else {}


_OTHER_MODELS: Final = {
    "gemma3n": ". This is the config of a tower of it, or its name is spelled otherwise",
    "gemma4": ". Gemma 4's E2B and E4B are not nested in each other (hidden sizes 1536 and 2560)",
    "gemma": ". Those of other Gemmas were not",
    "olmo": ". MatFormer-OLMo's were too, but it has other tensors, for which there are no rules",
    "nemotron": ". Nemotron Elastic is nested too, but in other dimensions and at fixed budgets",
}
"""What is known of models that people take for this one, by a part of their `model_type`."""


def read_text_config(config: Mapping[str, Any], where: str) -> TextConfig:
    """Check the text part of a config.

    Args:
        config: The whole config.json.
        where: Names the file in an error.

    Raises:
        InputError: The model is not a Gemma 3n, or a key is missing or wrong.
    """
    model_type = config.get("model_type")
    if model_type not in ("gemma3n", "gemma3n_text"):
        kind = str(model_type).lower()
        why = next((why for part, why in _OTHER_MODELS.items() if part in kind), "")
        said = f"model_type is {model_type!r:.60}" if model_type else "there is no model_type"
        raise InputError(
            f"{where}: {said}, but only Gemma 3n (gemma3n, gemma3n_text) "
            f"can be sliced here: its FFNs were trained so that narrow ones are nested in wide "
            f"ones{why}"
        )
    try:
        return TextConfig.model_validate(text_part(config))
    except ValidationError as error:
        prefix = "text_config." if is_multimodal(config) else ""
        raise InputError(f"{where}: {prefix}{explain(error, TextConfig)}") from None


class Cut(Enum):
    """How a slice selects from a text tensor of its parent.

    FFN cuts keep the first w of the FFN's hidden units, w being the layer's width in the slice.
    Layer cuts keep the blocks of `hidden_size_per_layer_input` rows or columns that belong to kept
    layers. Tensors of a skipped layer are left out whatever their cut.
    """

    WHOLE = "whole"
    FFN_ROWS = "first w rows"
    FFN_COLUMNS = "first w columns"
    LAYER_ROWS = "row blocks of the kept layers"
    LAYER_COLUMNS = "column blocks of the kept layers"


@dataclass(frozen=True)
class TensorRule:
    """A text tensor, or one in every layer.

    Attributes:
        name: Without the checkpoint's prefix and, for a layer's tensor, without `layers.N.`.
        shape: Keys of the sizes in `expected_tensors`, or `ffn` for the layer's FFN width.
        cut: How a slice selects from it.
        absent_where_kv_shared: Whether layers that share K/V may lack it: transformers 5 does not
            build, and so does not save, their K/V tensors.
    """

    name: str
    shape: tuple[str, ...]
    cut: Cut = Cut.WHOLE
    absent_where_kv_shared: bool = False


_LAYER_RULES = (
    TensorRule("altup.correct_output_scale", ("hidden",)),
    TensorRule("altup.correction_coefs.weight", ("altup", "altup")),
    TensorRule("altup.modality_router.weight", ("altup", "hidden")),
    TensorRule("altup.prediction_coefs.weight", ("altup_squared", "altup")),
    TensorRule("altup.router_norm.weight", ("hidden",)),
    TensorRule("input_layernorm.weight", ("hidden",)),
    TensorRule("laurel.linear_left.weight", ("laurel", "hidden")),
    TensorRule("laurel.linear_right.weight", ("hidden", "laurel")),
    TensorRule("laurel.post_laurel_norm.weight", ("hidden",)),
    TensorRule("mlp.down_proj.weight", ("hidden", "ffn"), Cut.FFN_COLUMNS),
    TensorRule("mlp.gate_proj.weight", ("ffn", "hidden"), Cut.FFN_ROWS),
    TensorRule("mlp.up_proj.weight", ("ffn", "hidden"), Cut.FFN_ROWS),
    TensorRule("per_layer_input_gate.weight", ("ple", "hidden")),
    TensorRule("per_layer_projection.weight", ("hidden", "ple")),
    TensorRule("post_attention_layernorm.weight", ("hidden",)),
    TensorRule("post_feedforward_layernorm.weight", ("hidden",)),
    TensorRule("post_per_layer_input_norm.weight", ("hidden",)),
    TensorRule("pre_feedforward_layernorm.weight", ("hidden",)),
    TensorRule("self_attn.k_norm.weight", ("head",), absent_where_kv_shared=True),
    TensorRule("self_attn.k_proj.weight", ("kv", "hidden"), absent_where_kv_shared=True),
    TensorRule("self_attn.o_proj.weight", ("hidden", "query")),
    TensorRule("self_attn.q_norm.weight", ("head",)),
    TensorRule("self_attn.q_proj.weight", ("query", "hidden")),
    TensorRule("self_attn.v_proj.weight", ("kv", "hidden"), absent_where_kv_shared=True),
)

LM_HEAD = "lm_head.weight"
"""The LM head in a full or text-only checkpoint, where it is not the embeddings; no prefix."""

EMBED_TOKENS = "embed_tokens.weight"
EMBED_TOKENS_PER_LAYER = "embed_tokens_per_layer.weight"
PER_LAYER_MODEL_PROJECTION = "per_layer_model_projection.weight"

_MODEL_RULES = (
    TensorRule(EMBED_TOKENS, ("vocab", "hidden")),
    TensorRule(EMBED_TOKENS_PER_LAYER, ("ple_vocab", "all_ple"), Cut.LAYER_COLUMNS),
    TensorRule("norm.weight", ("hidden",)),
    TensorRule(PER_LAYER_MODEL_PROJECTION, ("all_ple", "hidden"), Cut.LAYER_ROWS),
    TensorRule("per_layer_projection_norm.weight", ("ple",)),
)

_ALTUP_RULES = (
    TensorRule("altup_projections.{}.weight", ("hidden", "hidden")),
    TensorRule("altup_unembed_projections.{}.weight", ("hidden", "hidden")),
)

FFN_WEIGHTS: Final[Mapping[str, str]] = {
    name: f"mlp.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")
}
"""The matrices of a layer's FFN: their names within the layer, by module."""

KV_TENSORS: Final = tuple(rule.name for rule in _LAYER_RULES if rule.absent_where_kv_shared)
"""The tensors of a layer that only its K/V need, by their names within the layer."""

LEAVE_ALONE: Final = (
    r".*\.altup",
    r".*altup_projections",
    r".*altup_unembed_projections",
    r".*\.laurel",
    r".*per_layer_input_gate",
    r".*per_layer_projection",
    r".*per_layer_model_projection",
    r".*embed_tokens",
    r".*embed_tokens_per_layer",
    r".*lm_head",
    r".*vision_tower",
    r".*audio_tower",
    r".*embed_vision",
    r".*embed_audio",
)
"""Modules that a quantiser should leave alone, as transformers 5 takes such a list: each is matched
from the start of a module's full name up to a dot or the end."""

_LAYER_NAME = re.compile(r"layers\.(0|[1-9]\d{0,3})\.(.+)", re.ASCII)
_LAYER_NAMES = {rule.name for rule in _LAYER_RULES}
_MODEL_NAMES = {rule.name for rule in _MODEL_RULES}
_CUT_BY_SUFFIX = {rule.name: rule.cut for rule in _LAYER_RULES + _MODEL_RULES}


TEXT_ONLY_PREFIX = "model."
"""The prefix of the text tensors' names in a `gemma3n_text` checkpoint."""


def layer_tensor(layer: int, rest: str) -> str:
    """The name of a layer's tensor without the prefix; `split_layer` undoes it.

    Examples:
        >>> layer_tensor(7, "mlp.up_proj.weight")
        'layers.7.mlp.up_proj.weight'
    """
    return f"layers.{layer}.{rest}"


OLD_ROPE: Final = {
    "rope_theta": "full_attention",
    "rope_local_base_freq": "sliding_attention",
}
"""The two rope numbers of Google's config.json, and whose they are in `rope_parameters`."""


def lacking_rope(text: Mapping[str, Any]) -> tuple[str, ...]:
    """The two rope numbers of Google's config.json, as far as a config's text part lacks them."""
    return tuple(key for key in OLD_ROPE if text.get(key) is None)


def rope_numbers(text: Mapping[str, Any]) -> dict[str, Any]:
    """The rope numbers that a config's text part lacks, as its `rope_parameters` have them.

    transformers 5 writes `rope_parameters` in their place. Nothing is taken from rope that is
    scaled, of which the number is not all.
    """
    parameters = text.get("rope_parameters")
    found = {}
    for key in lacking_rope(text):
        rope = parameters.get(OLD_ROPE[key]) if isinstance(parameters, Mapping) else None
        if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default":
            continue
        if isinstance(rope.get("rope_theta"), int | float):
            found[key] = rope["rope_theta"]
    return found


def says_untied(config: Mapping[str, Any]) -> bool:
    """Whether a config.json says that the LM head is not the embeddings.

    transformers 5 reads `tie_word_embeddings` of a full config at its top, 4.x in `text_config`.
    """
    return any(part.get("tie_word_embeddings") is False for part in (config, text_part(config)))


class LayerName(NamedTuple):
    """A tensor's name without the prefix, taken apart.

    Attributes:
        layer: The index of its layer; None for a tensor outside the layers.
        rest: The name inside the layer; the whole name for a tensor outside the layers.
    """

    layer: int | None
    rest: str


def split_layer(name: str) -> LayerName:
    """Take a tensor's name without the prefix apart; `layer_tensor` undoes it.

    Examples:
        >>> split_layer("layers.7.mlp.up_proj.weight")
        LayerName(layer=7, rest='mlp.up_proj.weight')
        >>> split_layer("norm.weight")
        LayerName(layer=None, rest='norm.weight')
    """
    match = _LAYER_NAME.fullmatch(name)
    return LayerName(int(match[1]), match[2]) if match else LayerName(None, name)


def is_known(name: str) -> bool:
    """Whether a text tensor, named without the prefix, is one that some config calls for."""
    layer, rest = split_layer(name)
    if layer is not None:
        return rest in _LAYER_NAMES
    return rest in _MODEL_NAMES or any(
        re.fullmatch(re.escape(rule.name).replace(r"\{\}", r"\d+"), rest) for rule in _ALTUP_RULES
    )


def cut_of(name: str) -> Cut:
    """The cut of a text tensor, named without the prefix; unknown tensors are kept whole."""
    return _CUT_BY_SUFFIX.get(split_layer(name).rest, Cut.WHOLE)


@dataclass(frozen=True)
class ExpectedTensor:
    """A text tensor that a config calls for.

    Attributes:
        name: Without the prefix.
        shape: As the parent's files hold it.
        required: False for the K/V tensors of layers that share K/V, which nothing reads.
    """

    name: str
    shape: tuple[int, ...]
    required: bool


def expected_tensors(text: TextConfig, *, head: bool = False) -> Iterator[ExpectedTensor]:
    """Every text tensor of a checkpoint with this config.

    Args:
        text: The config.
        head: Whether there is an LM head (`LM_HEAD`, named without a prefix) beside the embeddings.
    """
    dims = {
        "hidden": text.hidden_size,
        "vocab": text.vocab_size,
        "ple_vocab": text.vocab_size_per_layer_input,
        "ple": text.hidden_size_per_layer_input,
        "all_ple": text.num_hidden_layers * text.hidden_size_per_layer_input,
        "altup": text.altup_num_inputs,
        "altup_squared": text.altup_num_inputs**2,
        "laurel": text.laurel_rank,
        "head": text.head_dim,
        "query": text.num_attention_heads * text.head_dim,
        "kv": text.num_key_value_heads * text.head_dim,
    }
    for rule in _MODEL_RULES:
        yield ExpectedTensor(rule.name, tuple(dims[d] for d in rule.shape), True)
    if head:
        yield ExpectedTensor(LM_HEAD, (text.vocab_size, text.hidden_size), True)
    for rule in _ALTUP_RULES:
        for stream in range(text.altup_num_inputs - 1):
            yield ExpectedTensor(rule.name.format(stream), tuple(dims[d] for d in rule.shape), True)
    for layer, width in enumerate(text.intermediate_size):
        shared = layer >= text.first_kv_shared_layer
        for rule in _LAYER_RULES:
            shape = tuple(width if d == "ffn" else dims[d] for d in rule.shape)
            required = not (shared and rule.absent_where_kv_shared)
            yield ExpectedTensor(layer_tensor(layer, rule.name), shape, required)
