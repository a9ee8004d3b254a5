"""lm-eval: tasks, datasets, prompts, metrics."""
