"""Dataset ids that changed: what people's folders are called, and what lm-eval asks for today.

Most of these had no owner in their name until the Hub gave each one; lm-eval followed, or went to a
copy that needs no loading script. Both hold the same columns under the same names.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

FORMER_IDS: Final[Mapping[str, tuple[str, ...]]] = {
    "abisee/cnn_dailymail": ("cnn_dailymail",),
    "allenai/ai2_arc": ("ai2_arc",),
    "allenai/c4": ("c4",),
    "allenai/openbookqa": ("openbookqa",),
    "allenai/qasper": ("qasper",),
    "allenai/sciq": ("sciq",),
    "allenai/swag": ("swag",),
    "allenai/winogrande": ("winogrande",),
    "aps/super_glue": ("super_glue",),
    "baber/piqa": ("piqa", "ybisk/piqa"),
    "cais/mmlu": ("mmlu", "hails/mmlu_no_train", "hendrycks_test"),
    "cambridgeltl/xcopa": ("xcopa",),
    "cimec/lambada": ("lambada",),
    "CogComp/mc_taco": ("mc_taco",),
    "CohereForAI/Global-MMLU": ("CohereLabs/Global-MMLU",),
    "CohereForAI/Global-MMLU-Lite": ("CohereLabs/Global-MMLU-Lite",),
    "CohereForAI/include-base-44": ("CohereLabs/include-base-44",),
    "CohereLabs/Global-MMLU-Lite": ("CohereForAI/Global-MMLU-Lite",),
    "community-datasets/qa4mre": ("qa4mre",),
    "facebook/anli": ("anli",),
    "facebook/mlqa": ("mlqa",),
    "facebook/xnli": ("xnli",),
    "google-research-datasets/mbpp": ("mbpp",),
    "google-research-datasets/nq_open": ("nq_open",),
    "google-research-datasets/paws-x": ("paws-x",),
    "google-research-datasets/tydiqa": ("tydiqa",),
    "google/xquad": ("xquad",),
    "IWSLT/iwslt2017": ("iwslt2017",),
    "juletxara/mgsm": ("mgsm",),
    "lighteval/siqa": ("social_i_qa", "allenai/social_i_qa", "siqa"),
    "lighteval/winograd_wsc": ("winograd_wsc",),
    "LSDSem/story_cloze": ("story_cloze",),
    "mandarjoshi/trivia_qa": ("trivia_qa",),
    "nyu-mll/blimp": ("blimp",),
    "nyu-mll/glue": ("glue",),
    "openai/gsm8k": ("gsm8k",),
    "openai/openai_humaneval": ("openai_humaneval",),
    "regisss/math_qa": ("math_qa", "allenai/math_qa"),
    "Rowan/hellaswag": ("hellaswag",),
    "SaylorTwift/bbh": ("lukaemon/bbh", "bbh"),
    "stanfordnlp/web_questions": ("web_questions",),
    "tau/commonsense_qa": ("commonsense_qa",),
    "truthfulqa/truthful_qa": ("truthful_qa",),
    "wmt/wmt14": ("wmt14",),
    "wmt/wmt16": ("wmt16",),
    "paws-x": ("google-research-datasets/paws-x",),
    "xnli": ("facebook/xnli",),
}
"""Former ids, and ids of the same data elsewhere, by the id that lm-eval has."""


def look_alikes(dataset_id: str, root: Path) -> Iterator[Path]:
    """Folders below `root` that may hold a dataset: called as it is, but somewhere else.

    Args:
        dataset_id: As lm-eval asks for it: `aps/super_glue`.
        root: A folder laid out by dataset id, or meant to be.
    """
    wanted = _last(dataset_id)
    for depth in ("*", "*/*"):
        yield from (path for path in sorted(root.glob(depth))
                    if path.is_dir() and _last(path.name) == wanted)  # fmt: skip


def _last(name: str) -> str:
    """The last part of a dataset's name, however its parts are joined."""
    return re.split(r"/|--|___", name)[-1].lower()
