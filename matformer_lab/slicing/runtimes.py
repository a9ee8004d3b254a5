"""Which runtimes load a slice, and which load it but compute wrong logits.

Every verdict comes from running slices of a random 35-layer parent (CPU, fp32) on the versions
below and comparing the logits with those of transformers 5.23. The dangerous verdict is "silently
wrong": the runtime loads the slice and says nothing.
"""

from dataclasses import dataclass
from typing import Literal

from matformer_lab.slicing.plan import Plan

Verdict = Literal["ok", "refuses", "silently wrong", "untested"]
"""ok: loads it and computes the same logits, unless `why` says that they were not compared.
refuses: does not load it. silently wrong: loads it and computes other logits."""


@dataclass(frozen=True)
class RuntimeVerdict:
    """What one runtime does with a slice.

    Attributes:
        runtime: The runtime's name.
        version: The version, or versions, that the verdict was found on.
        verdict: ok, refuses, silently wrong or untested.
        why: The reason, or a condition; empty if "ok" says it all.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> plan = ml.make_plan(parent, ml.resolve_slice("e2b", parent))
        >>> ml.runtime_verdicts(plan)[0]
        RuntimeVerdict(runtime='transformers', version='5.23', verdict='ok', why='')
    """

    runtime: str
    version: str
    verdict: Verdict
    why: str = ""


def runtime_verdicts(plan: Plan) -> tuple[RuntimeVerdict, ...]:
    """What each runtime does with the child of a plan.

    Args:
        plan: Both its slice and its form (full or text-only) count.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> plan = ml.make_plan(parent, ml.resolve_slice("e2b", parent))
        >>> [one.runtime for one in ml.runtime_verdicts(plan) if one.verdict == "silently wrong"]
        ['vLLM']
    """
    return (
        RuntimeVerdict("transformers", "5.23", "ok"),
        RuntimeVerdict(
            "transformers",
            "4.53-4.57",
            "ok",
            "only with use_cache=True: without a cache K/V are not shared and logits are wrong",
        ),
        _needs_full_form(plan, "mlx-lm", "0.32"),
        _needs_full_form(plan, "mistral.rs", "0.9.5"),
        _llama_cpp(plan),
        _vllm(plan),
    )


def _needs_full_form(plan: Plan, runtime: str, version: str) -> RuntimeVerdict:
    if plan.text_only:
        why = "needs the full gemma3n form, with its towers"
        if not plan.parent.multimodal:
            why = "needs the full gemma3n form, the parent is text-only"
        return RuntimeVerdict(runtime, version, "refuses", why)
    return RuntimeVerdict(runtime, version, "ok")


def _llama_cpp(plan: Plan) -> RuntimeVerdict:
    """llama.cpp hard-codes one FFN width, K/V sharing from layer 20, PLE 256, 10 sparse layers."""
    version = "0c1e57098"
    text = plan.text
    sparse = [layer for layer, share in enumerate(text.activation_sparsity_pattern) if share > 0]
    if len(set(text.intermediate_size)) > 1:
        verdict, why = "refuses", "reads one FFN width for all layers; widths are mixed"
    elif text.hidden_size_per_layer_input != 256:
        verdict, why = "refuses", "expects 256 per-layer inputs"
    elif text.first_kv_shared_layer != 20 and text.first_kv_shared_layer % 5:
        verdict, why = "refuses", "aborts: a layer before K/V sharing is skipped"
    elif text.first_kv_shared_layer != 20:
        verdict, why = "silently wrong", "shares K/V from layer 20 whatever the config says"
    elif sparse != list(range(10)):
        verdict, why = "silently wrong", "treats layers 0-9 as the sparse ones"
    else:
        verdict, why = "ok", "loads and runs; logits were not compared"
    return RuntimeVerdict("llama.cpp", version, verdict, why)  # type: ignore[arg-type]


def _vllm(plan: Plan) -> RuntimeVerdict:
    version = "0.32 (CPU)"
    if plan.text_only:
        why = "its text-only class never feeds the per-layer embeddings, even for the parent"
        return RuntimeVerdict("vLLM", version, "silently wrong", why)
    text = plan.text
    before = text.layer_types[text.first_kv_shared_layer - 2 : text.first_kv_shared_layer]
    if text.num_kv_shared_layers and before != ("sliding_attention", "full_attention"):
        why = "takes shared K/V from the two layers before sharing; they must be sliding, then full"
        return RuntimeVerdict("vLLM", version, "silently wrong", why)
    return RuntimeVerdict("vLLM", version, "untested", "its multimodal class was not run")
