"""`matformer`: a slice as an lm-eval model, for those who run lm-eval themselves.

In Python, importing `matformer_lab` registers it:

    import lm_eval
    import matformer_lab

    lm_eval.simple_evaluate(
        model="matformer", model_args={"parent": "tiny", "slice": "e2b"}, tasks=["hellaswag"]
    )

lm-eval loads no plugins, so its command line has to be started from Python:

    python -c "import matformer_lab; from lm_eval.__main__ import cli_evaluate; cli_evaluate()" \\
        run --model matformer --model_args parent=tiny,slice=e2b --tasks hellaswag --device cpu

`--device cpu` where there is no GPU: the command's default is `cuda:0`.

lm-eval does not know the embedded parent's tasks. They need their folder and their data:

    from matformer_lab import tiny
    from matformer_lab.evaluation.tasks import mapped_datasets

    with mapped_datasets(None, tiny.datasets_dir()):
        lm_eval.simple_evaluate(
            model="matformer",
            model_args="parent=tiny,slice=e2b",
            tasks=["tiny_boolq"],
            task_manager=lm_eval.tasks.TaskManager(include_path=tiny.tasks_dir()),
        )
"""

from __future__ import annotations

from matformer_lab.evaluation.models.lm import check_bos, cpu_batch_size
from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.live.compute_dtype import compute_dtype
from matformer_lab.live.devices import resolve_device
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slice


class MatformerLM(PrefixScorer):
    """A slice of a parent, opened by name. Its scores equal those of a sweep's `prefix` scorer.

    The arguments are lm-eval's `model_args`, except for `device`, `batch_size` and
    `max_batch_size`, which `simple_evaluate` passes itself.

    Args:
        parent: As `open_parent` takes it.
        slice: As `resolve_slice` takes it.
        dtype: float32, bfloat16 or float16; `auto` is the parent's own, or float32 on a CPU that
            does not multiply that.
        device: A torch device; None or `auto` is the first GPU, else the CPU.
        batch_size: Requests in one forward pass of rolling windows, and of generation that lm-eval
            does; `auto` and None choose.
        max_batch_size: The most requests that `auto` tries; None is lm-eval's limit.
        max_length: Longest input in tokens; longer ones lose their left end. None is the model's.
        seed: Of texts that are drawn.

    Raises:
        InputError: When the parent or slice cannot be opened, the dtype or device is not available,
            or the tokenizer puts no BOS or two before a prompt.
        TypeError: For an unknown argument, which it names.
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
        seed: int = 1234,
    ) -> None:
        opened = open_parent(parent)
        chosen = resolve_slice(slice, opened)
        device = resolve_device(device or "auto")
        elastic = ElasticParent.load(
            opened,
            slices=[chosen],
            dtype=compute_dtype(dtype, opened.dtype, device).name,
            device=device,
        )
        model = elastic.live(chosen)
        if batch_size in (None, "auto") and model.device.type == "cpu":
            batch_size = cpu_batch_size(model.config.vocab_size)
        super().__init__(
            model,
            load_tokenizer(elastic.parent),
            max_length=max_length,
            batch_size=batch_size or "auto",
            seed=seed,
        )
        if max_batch_size is not None:
            self.max_batch_size = max_batch_size
        check_bos(self)
