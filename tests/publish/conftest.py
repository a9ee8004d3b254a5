"""A Hub to push to, the real client turned towards it, and what there is to push."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.support.synthetic import SLICES, write_sweep
from tests.support.writable_hub import WritableHub, writable_hub

SCORED = ("e4b", "e2b")

GOOGLES_CARD = """---
license: gemma
extra_gated_heading: Access Gemma on Hugging Face
extra_gated_prompt: >-
  To access Gemma on Hugging Face, you're required to review and agree to Google's usage license.
extra_gated_button_content: Acknowledge license
extra_gated_fields:
  Company: text
  I agree: checkbox
---
# Gemma
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WritableHub]:
    """A Hub with nothing on it; who asks is logged in and may write."""
    from huggingface_hub import HfFileSystem, constants
    from huggingface_hub.utils import _http

    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    for name, value in (
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
        ("HF_HUB_CACHE", str(tmp_path / "hub-cache")),
        ("HF_TOKEN_PATH", str(tmp_path / "token")),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))  # between retries
    HfFileSystem.clear_instance_cache()
    with writable_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
    HfFileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices of `tiny`."""
    import matformer_lab as ml

    out = tmp_path_factory.mktemp("to-push") / "tiny-slices"
    return ml.write_slices("tiny", ["e2b", "e2.98b-layer"], out, progress=False).folder


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slice of a parent whose card is like Google's."""
    import matformer_lab as ml
    from matformer_lab import tiny

    parent = tmp_path_factory.mktemp("google") / "gemma-3n-E4B"
    shutil.copytree(tiny.model_dir(), parent)
    (parent / "README.md").write_text(GOOGLES_CARD)
    out = tmp_path_factory.mktemp("child") / "half"
    return ml.write_slices(parent, "1/2", out, progress=False).folder


@pytest.fixture
def mine(child: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(child, tmp_path / "half"))


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of slices of `tiny`, with made-up scores."""
    import matformer_lab as ml

    slices = tuple(made for made in SLICES if made.name in SCORED)
    out = write_sweep(
        tmp_path_factory.mktemp("scored") / "sweep", slices=slices, scale=0.005, parent="tiny"
    )
    parent = ml.open_parent("tiny")
    described = json.loads((out / "slices.json").read_text())
    described["parent"] |= {
        "fingerprint": parent.fingerprint,
        "hidden_size": parent.text.hidden_size,
        "intermediate_size": [*parent.text.intermediate_size],
    }
    for one in described["slices"]:
        one["widths"] = [width // 256 for width in one["widths"]]
    (out / "slices.json").write_text(json.dumps(described))
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    recipe["as_run"]["parent"]["fingerprint"] = parent.fingerprint
    recipe |= {"limit": 50, "device": "cpu", "datasets": str(out)}
    recipe["as_run"]["tasks"]["boolq"]["datasets"] = ["super_glue"]
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return out
