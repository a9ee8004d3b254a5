"""Pico Gemma 3n parents, written to disk by transformers itself, and a real CLI."""

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.command import CommandResult, run_offline
from tests.support.fork_server import ForkServer
from tests.support.pico import E4B_IN_MINIATURE, PICO, write_parent

# A slow example says that the machine is busy, not that the code is wrong.
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=50)
hypothesis.settings.load_profile("untimed")

# Pico models are too small for a second thread to help, and two threads on a busy machine wait for
# each other. Set before torch is imported; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Digests that tests compute are kept apart from the user's, and for one run only.
os.environ["MATFORMER_LAB_CACHE"] = tempfile.mkdtemp(prefix="matformer-lab-tests-")

# A script's background job ignores Ctrl-C; so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text-only, bf16, 10 layers, K/V shared from layer 5, one file."""
    return write_parent(tmp_path_factory.mktemp("pico"))


@pytest.fixture(scope="session")
def pico_full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full form (text plus towers), sharded."""
    return write_parent(tmp_path_factory.mktemp("pico-full"), multimodal=True, shard_size="60KB")


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full form with E4B's 35 layers, fp32."""
    return write_parent(
        tmp_path_factory.mktemp("miniature"),
        config=E4B_IN_MINIATURE,
        dtype="float32",
        multimodal=True,
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference files and benchmark data that lie beside the repository, where they do."""
    folder = Path(os.environ.get("MATFORMER_LAB_SHARED", "../shared"))
    if not folder.is_absolute():
        folder = Path(__file__).resolve().parent.parent / folder
    if not (folder / "reference").is_dir():
        pytest.skip(f"needs the reference files of {folder.name}/, which are not here")
    return folder


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def cli(tmp_path: Path, fork_server: ForkServer) -> Callable[..., CommandResult]:
    """Runs `matformer-lab` as a user does: a process of its own, offline, in an empty folder.

    With an environment of its own (`env`) it is started anew; else forked off its imports.
    """

    def run(*arguments: object, **kwargs: Any) -> CommandResult:
        if set(kwargs) <= {"cwd", "timeout"}:
            return fork_server.run(*arguments, **{"cwd": tmp_path, **kwargs})
        return run_offline("-m", "matformer_lab", *arguments, **{"cwd": tmp_path, **kwargs})

    return run


@pytest.fixture(scope="session")
def scorable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten random layers with the embedded parent's tokenizer: what tasks can be scored on."""
    return _scorable(tmp_path_factory.mktemp("scorable"), "float32")


@pytest.fixture(scope="session")
def scorable_bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in bf16."""
    return _scorable(tmp_path_factory.mktemp("scorable-bf16"), "bfloat16")


def _scorable(folder: Path, dtype: str) -> Path:
    import shutil

    from matformer_lab import tiny

    vocabulary = json.loads((tiny.model_dir() / "config.json").read_text())["vocab_size"]
    sizes = {"vocab_size": vocabulary, "vocab_size_per_layer_input": vocabulary}
    write_parent(folder, config={**PICO, **sizes, "max_position_embeddings": 4096}, dtype=dtype)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(tiny.model_dir() / name, folder / name)
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.fixture(scope="session")
def instruction_tuned(scorable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a chat template like that of gemma-3n-E4B-it, for which it stands in.

    The template writes the BOS itself, and what the system says into the first user's turn.
    """
    import shutil

    folder = tmp_path_factory.mktemp("instruction-tuned") / "pico-it"
    shutil.copytree(scorable, folder)
    template = Path(__file__).parent / "support" / "gemma_chat_template.jinja"
    shutil.copy(template, folder / "chat_template.jinja")
    return folder
