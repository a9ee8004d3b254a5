"""Which of the Hub's two storages files are sent to: xet, or LFS where a Hub has no xet."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@contextmanager
def storage_of(api: "HfApi", repo_id: str, revision: str) -> Iterator[None]:
    """Have huggingface_hub send files to the storage that the Hub has.

    With `hf_xet` installed, huggingface_hub 2 sends to xet alone. huggingface.co has it; a mirror,
    a proxy or a Hub of one's own may not. `HF_HUB_DISABLE_XET` says so for all of a process; this,
    for one upload.

    Args:
        api: The Hub.
        repo_id: The repository.
        revision: The branch, which exists.

    Raises:
        OSError: The Hub cannot be reached.
    """
    from huggingface_hub import constants

    uses_xet = not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
    if not uses_xet or _has_xet(api, repo_id, revision):
        yield
        return
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = False


def _has_xet(api: "HfApi", repo_id: str, revision: str) -> bool:
    """Whether the Hub gives tokens for its xet storage; another refusal is the client's to word."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
    )

    url = f"{api.endpoint}/api/models/{repo_id}/xet-write-token/{revision}"
    answer = get_session().get(url, headers=build_hf_headers(token=api.token))
    return bool(answer.status_code != HTTPStatus.NOT_FOUND)
