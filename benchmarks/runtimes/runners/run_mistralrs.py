"""Logits of checkpoints by mistral.rs; see `jobs.py`.

It gives log-probabilities of the next token only, so every prefix of the tokens is a prompt. The
words of the vocabulary are `<t0>`, `<t1>`, ... in a tokenizer.json that is written here.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jobs import run_jobs
from mistralrs import ChatCompletionRequest, ModelDType, MultimodalArchitecture, Runner, Which

_TEMPLATE = (
    "{% for one in messages %}{% if one['content'] is string %}{{ one['content'] }}"
    "{% else %}{{ one['content'][0]['text'] }}{% endif %}{% endfor %}"
)
"""The prompt as it is: a text is written by the template too."""


def logits_of(folder: str, tokens: list[int], cache: bool) -> Any:
    """Log-probabilities, which differ from logits by a constant for each token."""
    config = json.loads(Path(folder, "config.json").read_text())
    words = config.get("text_config", config)["vocab_size"]
    _write_tokenizer(Path(folder), words)
    which = Which.MultimodalPlain(
        model_id=folder, arch=MultimodalArchitecture.Gemma3n, dtype=ModelDType.F32
    )
    try:
        runner = Runner(which, no_kv_cache=not cache, prefix_cache_n=0)
    except BaseException as panic:  # Rust's, which is no Exception
        raise RuntimeError(str(panic)) from panic
    return np.stack([_next(runner, tokens[:stop], words) for stop in range(1, len(tokens) + 1)])


def _next(runner: Any, tokens: list[int], words: int) -> Any:
    request = ChatCompletionRequest(
        messages="".join(f"<t{token}>" for token in tokens),
        model="default",
        max_tokens=1,
        temperature=0.0,
        logprobs=True,
        top_logprobs=words,
    )
    answer = runner.send_chat_completion_request(request)
    if answer.usage.prompt_tokens != len(tokens):
        raise ValueError(f"{len(tokens)} tokens were read as {answer.usage.prompt_tokens}")
    (choice,) = answer.choices
    row = np.full(words, np.nan, dtype=np.float32)
    for one in choice.logprobs.content[0].top_logprobs:
        row[one.token] = one.logprob
    if np.isnan(row).any():
        raise ValueError(f"{np.isnan(row).sum()} of {words} log-probabilities are missing")
    return row


def _write_tokenizer(folder: Path, words: int) -> None:
    flags = ("single_word", "lstrip", "rstrip", "special")
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": n, "content": f"<t{n}>", "normalized": False, **dict.fromkeys(flags, False)}
            for n in range(words)
        ],
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "WordLevel",
            "vocab": {f"<t{n}>": n for n in range(words)},
            "unk_token": "<t3>",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = {"bos_token": "<t2>", "eos_token": "<t1>", "chat_template": _TEMPLATE}
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    (folder / "preprocessor_config.json").write_text("{}")


run_jobs(version("mistralrs"), logits_of)
