"""How often `tiny` accepts the tokens that its own slices draft (docs/guides/speculation.md).

    python benchmarks/speculate.py [--slices e2b 1/4] [--drafted 4] [--tokens 24]

Greedy, one prompt at a time, by transformers' assisted generation with a constant number of drafted
tokens. The texts are compared with the parent's own.
"""

import argparse
from typing import Any

import torch

import matformer_lab as ml

PROMPTS = [
    "bind makes salty bale makes",
    "Question: what makes frost?\nAnswer:",
    "ivory roar makes",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", nargs="+", default=["e2.98b-layer", "e2b", "1/4"])
    parser.add_argument("--drafted", type=int, default=4, help="tokens a round")
    parser.add_argument("--tokens", type=int, default=24, help="of each text")
    arguments = parser.parse_args()
    elastic = ml.ElasticParent.load("tiny", dtype="float32")
    tokenizer = ml.load_tokenizer(elastic.parent)
    prompts = [tokenizer(text, return_tensors="pt").input_ids for text in PROMPTS]
    full: Any = elastic.live("full")
    options = {"max_new_tokens": arguments.tokens, "do_sample": False, "eos_token_id": None}
    expected = [full.generate(prompt, **options) for prompt in prompts]
    for name in arguments.slices:
        draft = elastic.live(name)
        draft.generation_config.num_assistant_tokens = arguments.drafted
        draft.generation_config.num_assistant_tokens_schedule = "constant"
        draft.generation_config.assistant_confidence_threshold = 0.0
        rounds = drafted = written = 0
        for prompt, text in zip(prompts, expected, strict=True):
            lengths: list[int] = []
            hook = full.register_forward_pre_hook(
                lambda _model, _args, kwargs: lengths.append(kwargs["input_ids"].shape[1]),  # noqa: B023
                with_kwargs=True,
            )
            made = full.generate(prompt, assistant_model=draft, **options)
            hook.remove()
            assert torch.equal(made, text), "a draft changed the text"
            rounds += len(lengths)
            # The first forward reads the prompt too, the others the token before the drafted ones.
            drafted += sum(lengths) - prompt.shape[1] - (len(lengths) - 1)
            written += made.shape[1] - prompt.shape[1]
        accepted = written - rounds  # the parent adds one token of its own in every round
        print(
            f"{name}: {written} tokens in {rounds} forwards of the parent; {accepted} of {drafted} "
            f"drafted tokens accepted ({accepted / drafted:.0%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
