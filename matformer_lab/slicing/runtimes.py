"""Which runtimes load a slice, and which load it but compute wrong logits.

Every verdict comes from running slices of a random 35-layer parent (CPU, fp32) on the versions
below and comparing the logits with those of transformers 5.23. The dangerous verdict is "silently
wrong": the runtime loads the slice and says nothing.
"""

from dataclasses import dataclass
from typing import Final, Literal

from matformer_lab.gemma3n import LM_HEAD, expected_tensors, text_part
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
        _transformers_4(plan),
        _mlx_lm(plan),
        _mistral_rs(plan),
        _llama_cpp(plan),
        _vllm(plan),
    )


_OWN_HEAD: Final = "not run with an LM head of its own"


def _transformers_4(plan: Plan) -> RuntimeVerdict:
    verdict: Verdict = "untested" if _has_own_head(plan) else "ok"
    why = "only with use_cache=True: without a cache K/V are not shared and logits are wrong"
    return RuntimeVerdict(
        "transformers", "4.53-4.57", verdict, f"{_OWN_HEAD}; {why}" if verdict != "ok" else why
    )


def _mlx_lm(plan: Plan) -> RuntimeVerdict:
    """mlx-lm builds K/V for every layer and no head, and its config has two rope numbers."""
    why = _not_full_form(plan) or _lacks_kv(plan) or _lacks_rope(plan)
    if not why and _has_own_head(plan):
        why = f"does not know {LM_HEAD}: it takes the embeddings as the head"
    return RuntimeVerdict("mlx-lm", "0.32", "refuses" if why else "ok", why)


def _mistral_rs(plan: Plan) -> RuntimeVerdict:
    """mistral.rs builds K/V for every layer."""
    version = "0.9.5"
    if why := _not_full_form(plan) or _lacks_kv(plan):
        return RuntimeVerdict("mistral.rs", version, "refuses", why)
    if _has_own_head(plan):
        return RuntimeVerdict("mistral.rs", version, "untested", _OWN_HEAD)
    if why := _lacks_rope(plan):
        return RuntimeVerdict("mistral.rs", version, "untested", why)
    return RuntimeVerdict("mistral.rs", version, "ok")


def _not_full_form(plan: Plan) -> str:
    if not plan.text_only:
        return ""
    if plan.parent.multimodal:
        return "needs the full gemma3n form, with its towers"
    return "needs the full gemma3n form, the parent is text-only"


def _has_own_head(plan: Plan) -> bool:
    return LM_HEAD in plan.text_tensors()


def _lacks_kv(plan: Plan) -> str:
    """Why a runtime that builds K/V for every layer refuses; transformers 5 saves fewer."""
    there = plan.text_tensors()
    missing = sum(tensor.name not in there for tensor in expected_tensors(plan.text))
    if not missing:
        return ""
    return (
        f"builds K/V for every layer; {missing} tensors of layers that share K/V are not there "
        "(transformers 5 does not save them)"
    )


def _lacks_rope(plan: Plan) -> str:
    """Why a runtime that reads the rope numbers refuses; transformers 5 writes others."""
    text = text_part(plan.config)
    missing = [key for key in ("rope_theta", "rope_local_base_freq") if text.get(key) is None]
    return f"config.json has no {' and no '.join(missing)}" if missing else ""


def _llama_cpp(plan: Plan) -> RuntimeVerdict:
    """llama.cpp hard-codes one FFN width, K/V sharing from layer 20, PLE 256, 10 sparse layers."""
    version = "0c1e57098"
    text = plan.text
    sparse = [layer for layer, share in enumerate(text.activation_sparsity_pattern) if share > 0]
    if lacks_kv := _lacks_kv(plan):
        verdict, why = "refuses", lacks_kv
    elif len(set(text.intermediate_size)) > 1:
        verdict, why = "refuses", "reads one FFN width for all layers; widths are mixed"
    elif text.hidden_size_per_layer_input != 256:
        verdict, why = "refuses", "expects 256 per-layer inputs"
    elif text.first_kv_shared_layer != 20 and text.first_kv_shared_layer % 5:
        verdict, why = "refuses", "aborts: a layer before K/V sharing is skipped"
    elif text.first_kv_shared_layer != 20:
        verdict, why = "silently wrong", "shares K/V from layer 20 whatever the config says"
    elif sparse != list(range(10)):
        verdict, why = "silently wrong", "treats layers 0-9 as the sparse ones"
    elif _has_own_head(plan):
        verdict, why = "untested", _OWN_HEAD
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
