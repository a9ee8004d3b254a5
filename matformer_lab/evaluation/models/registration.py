"""Registers `matformer` with lm-eval, without importing the model class or torch."""

from lm_eval.api.registry import model_registry

NAME = "matformer"


def register_model() -> None:
    """Let `lm_eval.simple_evaluate(model="matformer", ...)` find `MatformerLM`."""
    if NAME not in model_registry:
        model_registry.register(
            NAME, target="matformer_lab.evaluation.models.matformer_lm:MatformerLM"
        )
