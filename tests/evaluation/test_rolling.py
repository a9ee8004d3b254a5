"""Rolling log-likelihoods: lm-eval's own wikitext task, on a few pages in its real format."""

from pathlib import Path
from typing import Any

import pytest
import torch

from matformer_lab.evaluation.evaluate import score
from matformer_lab.evaluation.models.lm import make_lm
from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.loading import load_tasks
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from tests.support.written_tasks import write_wikitext

PAGES = [
    " = A town = \n The town , which has 3 @,@ 000 people , is old . \n",
    " = A river = \n " + "It runs past the mill and the old bridge . " * 30,
]


@pytest.mark.slow
def test_wikitext_scores_as_lm_eval_scores_it(
    scorable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elastic = ElasticParent.load(open_parent(str(scorable)), dtype=torch.float32)
    model, tokenizer = elastic.live("1/2"), load_tokenizer(elastic.parent)
    monkeypatch.setattr(model.config, "max_position_embeddings", 128)  # several windows
    (task,) = load_tasks(
        [TaskEntry(name="wikitext")],
        limit=None,
        seed=1234,
        datasets=write_wikitext(tmp_path, PAGES),
    )
    windows: list[list[int]] = []
    compute: Any = PrefixScorer._loglikelihood_tokens

    def recorded(lm: Any, requests: Any, **options: Any) -> Any:
        windows.extend([*context, *continuation] for _, context, continuation in requests)
        return compute(lm, requests, **options)

    monkeypatch.setattr(PrefixScorer, "_loglikelihood_tokens", recorded)
    ours = score(make_lm(model, tokenizer, scorer="prefix", batch_size=2), task)
    theirs = score(make_lm(model, tokenizer, scorer="lm-eval", batch_size=2), task)
    assert [metric.metric for metric in ours.metrics] == [
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
    ]
    for one, other in zip(ours.metrics, theirs.metrics, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4)
    for item, other_item in zip(ours.items, theirs.items, strict=True):
        assert item["logprobs"] == pytest.approx(other_item["logprobs"], abs=1e-2)
    # lm-eval encodes a text with its BOS and puts another before it; only the first window has any.
    bos = tokenizer.bos_token_id
    counts = [window.count(bos) for window in windows]
    assert len(windows) > 3 and counts.count(2) == len(PAGES) and set(counts) == {0, 2}
    assert all(window[:2] == [bos, bos] for window in windows if bos in window)
