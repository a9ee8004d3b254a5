"""Scores on disk: what each depends on, and what unfinished passes have computed."""

from .key import Key as Key
from .provenance import as_run_yaml as as_run_yaml
from .store import Entry as Entry
from .store import Store as Store
