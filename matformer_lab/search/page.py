from __future__ import annotations

from matformer_lab.search.result import SearchResult


def render(result: SearchResult) -> str:
    return "<!doctype html>"
