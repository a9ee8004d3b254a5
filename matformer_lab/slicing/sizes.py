"""How large a child is: parameters, bytes, K/V cache, compute. All computed from its plan alone."""

from dataclasses import dataclass

from matformer_lab.gemma3n import EMBED_TOKENS, EMBED_TOKENS_PER_LAYER, LM_HEAD
from matformer_lab.parent.weights.headers import ITEM_SIZE
from matformer_lab.slicing.plan import Plan
from matformer_lab.slicing.slice import Slice


@dataclass(frozen=True)
class Sizes:
    """Sizes of a child. Parameters are tensor elements.

    Attributes:
        total: Parameters of all tensors.
        text: Parameters of the text model as the parent's files hold them, including K/V tensors
            of layers that share K/V, and the LM head where it is not the embeddings.
        effective: `text` without the two embedding tables, which is how Google counts "effective
            parameters" (E4B: 3,980,491,248).
        nbytes: Bytes of all tensors on disk.
        accelerator_bytes: Bytes of the effective parameters and `embed_tokens`: what must be on the
            accelerator if `embed_tokens_per_layer` stays in host memory.
        context: Tokens in the K/V cache.
        kv_cache_bytes: Bytes of the K/V cache of one sequence of `context` tokens in the weights'
            dtype. A sliding layer caches at most `sliding_window` tokens, a layer that shares K/V
            none.
        flops_per_token: 2 x (effective parameters + those of the LM head), without attention scores
            (Kaplan et al. 2020, section 2.1).

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> sizes = ml.sizes_of(ml.make_plan(parent, ml.resolve_slice("e2b", parent)))
        >>> sizes.effective, sizes.text, sizes.nbytes
        (86996, 226260, 452520)
    """

    total: int
    text: int
    effective: int
    nbytes: int
    accelerator_bytes: int
    context: int
    kv_cache_bytes: int
    flops_per_token: int


def sizes_of(plan: Plan, context: int | None = None) -> Sizes:
    """Sizes of the child of a plan.

    Args:
        plan: The plan.
        context: Tokens in the K/V cache; the child's `max_position_embeddings` if None.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> plan = ml.make_plan(parent, ml.resolve_slice("full", parent))
        >>> ml.sizes_of(plan, context=100).kv_cache_bytes
        20992
    """
    text_tensors = plan.text_tensors()
    text = sum(tensor.numel for tensor in text_tensors.values())
    embed = text_tensors[EMBED_TOKENS]
    per_layer = text_tensors[EMBED_TOKENS_PER_LAYER]
    effective = text - embed.numel - per_layer.numel
    context = plan.text.max_position_embeddings if context is None else context
    return Sizes(
        total=sum(tensor.numel for tensor in plan.tensors),
        text=text,
        effective=effective,
        nbytes=plan.nbytes,
        accelerator_bytes=sum(t.nbytes for t in text_tensors.values()) - per_layer.nbytes,
        context=context,
        kv_cache_bytes=_kv_cache_tokens(plan, context) * _kv_bytes_per_token(plan),
        flops_per_token=2 * (effective + (0 if LM_HEAD in text_tensors else embed.numel)),
    )


def _kv_cache_tokens(plan: Plan, context: int) -> int:
    """Cached tokens summed over the layers that own K/V."""
    text = plan.text
    own = text.layer_types[: text.first_kv_shared_layer]
    return sum(
        context if kind == "full_attention" else min(context, text.sliding_window) for kind in own
    )


def _kv_bytes_per_token(plan: Plan) -> int:
    """Bytes of the keys and values of one token in one layer."""
    text = plan.text
    return 2 * text.num_key_value_heads * text.head_dim * ITEM_SIZE[plan.parent.dtype]


@dataclass(frozen=True)
class SizedPlan:
    """The plan of a slice with its sizes."""

    plan: Plan
    sizes: Sizes

    @property
    def slice(self) -> Slice:
        """The slice."""
        return self.plan.slice

    @property
    def name(self) -> str:
        """The slice's name."""
        return self.plan.slice.name
