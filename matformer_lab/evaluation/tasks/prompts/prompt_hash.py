"""A hash of what a task asks: prompts, documents, settings."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def hash_of_prompts(tasks: Mapping[str, Any]) -> str:
    """sha256 (hex) over every request, document and setting that enters the score.

    Args:
        tasks: lm-eval's leaf tasks by name, with their requests built.
    """
    digest = hashlib.sha256()
    for name, task in sorted(tasks.items()):
        config = {
            key: value
            for key, value in task.dump_config().items()
            if key not in ("dataset_path", "metadata")  # where the data is does not matter
        }
        digest.update(_stable_json([name, task.VERSION, config]))
        last_doc = None
        for request in task.instances:
            digest.update(
                _stable_json([request.doc_id, request.idx, request.request_type, request.args])
            )
            if request.doc_id != last_doc:
                digest.update(_stable_json(request.doc))
                last_doc = request.doc_id
    return digest.hexdigest()


def _stable_json(value: Any) -> bytes:
    """JSON that is the same in every process: functions by name, not by address."""

    def name_of(value: Any) -> str:
        if callable(value):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        return str(value)

    return json.dumps(value, sort_keys=True, default=name_of, ensure_ascii=False).encode()
