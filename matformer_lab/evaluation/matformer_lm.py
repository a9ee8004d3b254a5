"""`matformer`: a slice as an lm-eval model, for whoever drives lm-eval themselves.

import lm_eval
import matformer_lab

lm_eval.simple_evaluate(
    model="matformer", model_args={"parent": "tiny", "slice": "e2b"}, tasks=["hellaswag"]
)
"""

from __future__ import annotations

from matformer_lab.evaluation.lm import check_bos, cpu_batch_size
from matformer_lab.evaluation.prefix_scorer import PrefixScorer
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.live.devices import resolve_device
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slice


class MatformerLM(PrefixScorer):
    """A slice of a parent, opened by name. Its scores are those of a sweep's `prefix` scorer.

    Args:
        parent: As `open_parent` takes it.
        slice: As `resolve_slice` takes it.
        dtype: float32, bfloat16 or float16; `auto` is the parent's own.
        device: A torch device; None or `auto`: the first GPU, else the CPU.
        batch_size: Of lm-eval's own generation.
        max_length: Longest input in tokens; None: the model's.

    Raises:
        InputError: When parent, slice, dtype or device is not there, or the tokenizer would give
            no BOS or two.
    """

    def __init__(
        self,
        parent: str,
        slice: str = "full",  # noqa: A002 - the name that model_args shows
        *,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str | None = "auto",
        max_batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        opened = open_parent(parent)
        chosen = resolve_slice(slice, opened)
        elastic = ElasticParent.load(
            opened,
            slices=[chosen],
            dtype=None if dtype == "auto" else dtype,
            device=resolve_device(device or "auto"),
        )
        model = elastic.live(chosen)
        if batch_size in (None, "auto") and model.device.type == "cpu":
            batch_size = cpu_batch_size(model.config.vocab_size)
        super().__init__(
            model,
            load_tokenizer(elastic.parent),
            max_length=max_length,
            batch_size=batch_size or "auto",
        )
        check_bos(self)
