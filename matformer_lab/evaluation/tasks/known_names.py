"""The names of lm-eval's tasks, known without building its index of 14,000 files.

That index takes 7 to 60 s. A misspelt name should not: the names of one version ship with the
package, and those of any other are kept in the user's cache once they have been read.

    python -m matformer_lab.evaluation.tasks.known_names     writes the shipped file anew
"""

import gzip
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.atomic import write_atomic
from matformer_lab.common.files.content_digest import cache_folder
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small

SHIPPED: Final = Path(__file__).with_name("known_names.json.gz")


@cache
def known_names() -> frozenset[str] | None:
    """Every task, group and tag of the lm-eval that is installed; None where they are not known."""
    here = _installed()
    if here is None:
        return None
    for path in (SHIPPED, _cached(here)):
        try:
            known = strict_json(gzip.decompress(read_small(path)), str(path))
        except (InputError, OSError, EOFError):
            continue
        names = known.pop("names", None)
        if known == here and isinstance(names, list):
            return frozenset(map(str, names))
    return None


def keep_names(names: Sequence[str]) -> None:
    """Keep the names that the full index has, for the next time."""
    here = _installed()
    if here is None or known_names() is not None:
        return
    path = _cached(here)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _packed(here, names))
    except OSError:
        return  # where nothing can be kept, the index is built again
    known_names.cache_clear()


def _packed(here: dict[str, Any], names: Sequence[str]) -> bytes:
    text = json.dumps({**here, "names": sorted(names)}, ensure_ascii=False)
    return gzip.compress(text.encode(), mtime=0)


def _installed() -> dict[str, Any] | None:
    """Which lm-eval this is; None for a working copy, whose tasks may change at any time."""
    found = find_spec("lm_eval")  # without importing it, which takes seconds
    if found is None or found.origin is None:
        return None
    if '"editable"' in (distribution("lm_eval").read_text("direct_url.json") or ""):
        return None
    root = Path(found.origin).parent / "tasks"
    folders = sorted(path.name for path in root.iterdir())
    digest = hashlib.sha256("\n".join(f for f in folders if not f.startswith("__")).encode())
    return {"lm_eval": version("lm_eval"), "folders": digest.hexdigest()}


def _cached(here: dict[str, Any]) -> Path:
    return cache_folder() / "lm_eval_names" / f"{here['lm_eval']}.json.gz"


if __name__ == "__main__":
    from lm_eval.tasks import TaskManager

    installed = _installed()
    assert installed is not None, "install lm-eval from its registry first"
    SHIPPED.write_bytes(_packed(installed, TaskManager().all_tasks))
