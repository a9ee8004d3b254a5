"""Loads lm-eval's tasks once for a whole sweep: names, datasets, prompts."""

from .datasets import mapped_datasets as mapped_datasets
from .entry import TaskEntry as TaskEntry
from .loading import LoadedTask as LoadedTask
from .loading import load_tasks as load_tasks
