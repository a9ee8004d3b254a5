"""Parents on a Hub, through the real client and real HTTP on loopback."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.checkpoint.verification.verify import compare_checkpoints
from matformer_lab.common.spans import merged, missing
from matformer_lab.parent.opening import open_parent
from tests.support.command import CommandResult
from tests.support.hub_server import COMMIT, Hub, serving
from tests.support.pico import PICO, write_parent

Cli = Callable[..., CommandResult]
REPO = "someone/gemma-3n-pico"

WIDE = {**PICO, "intermediate_size": 4096, "hidden_size": 64}
"""FFNs of half a megabyte each, so that their unneeded halves are holes worth leaving."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    return write_parent(folder, config=WIDE, multimodal=True, shard_size="3MB")


@pytest.fixture
def hub(wide: Path) -> Iterator[Hub]:
    with serving(REPO, wide) as server:
        yield server


@pytest.fixture
def online(hub: Hub, tmp_path: Path, cli: Cli) -> Cli:
    """The command line, with this Hub for the Hub and an empty home."""

    def run(*arguments: object) -> CommandResult:
        home = tmp_path / "hf-home"
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": ""}
        return cli(*arguments, env=env)

    return run


def size_of_weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_plan_reads_config_and_headers_only(hub: Hub, wide: Path, online: Cli) -> None:
    done = online("plan", REPO, "--slice", "1/2", "--json")
    assert done.code == 0, done.err
    parent = open_parent(str(wide))
    headers = {info.file: 0 for info in parent.tensors.values()}
    for info in parent.tensors.values():
        headers[info.file] = min(headers[info.file] or info.offset, info.offset)
    for file, header in headers.items():
        # One request of 128 KiB per file, which is more than a header.
        assert header <= hub.served[file] <= 1 << 17
    assert set(hub.served) <= {*headers, "config.json", "model.safetensors.index.json"}


def same_as_local(out: Path, parent: Path, slice_: str, cli: Cli) -> None:
    assert cli("slice", parent, "--slice", slice_, "--out", "local").code == 0
    assert compare_checkpoints(out, out.parent / "local").ok


def test_a_slice_downloads_what_it_needs_and_resumes(
    hub: Hub, wide: Path, online: Cli, cli: Cli, tmp_path: Path
) -> None:
    """Widths of 1/8 without three layers: much of the parent is not needed, nor fetched."""
    (tmp_path / "s.yaml").write_text("{name: small, widths: 1/8, skip: [5, 7-8]}\n")
    done = online("slice", REPO, "--slice", "s.yaml", "--out", tmp_path / "child")
    assert done.code == 0, done.err
    same_as_local(tmp_path / "child", wide, "s.yaml", cli)
    assert hub.weights_served() < 0.75 * size_of_weights(wide)
    served = hub.weights_served()
    again = online("slice", REPO, "--slice", "s.yaml", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    # Only the headers once more, at most 128 KiB a file: what was fetched is kept.
    assert hub.weights_served() - served <= len(list(wide.glob("*.safetensors"))) * (1 << 17)
    assert online("verify", tmp_path / "again", "--parent", REPO).code == 0


def test_the_manifest_knows_the_commit(online: Cli, tmp_path: Path) -> None:
    import json

    done = online("slice", REPO, "--slice", "1/8", "--out", tmp_path / "child")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "child" / "matformer_lab.json").read_text())
    assert manifest["parent"]["name"] == REPO
    assert manifest["parent"]["revision"] == COMMIT
    assert f"base_model: {REPO}" in (tmp_path / "child" / "README.md").read_text()


@pytest.mark.parametrize("fault", ["drop_every", "short_every"])
def test_broken_connections_and_short_bodies(
    fault: str, hub: Hub, wide: Path, online: Cli, cli: Cli, tmp_path: Path
) -> None:
    setattr(hub, fault, 3)
    done = online("slice", REPO, "--slice", "1/8", "--out", tmp_path / "child")
    assert done.code == 0, done.err
    assert hub.large > 6
    same_as_local(tmp_path / "child", wide, "1/8", cli)


def test_a_hub_that_goes_away_and_comes_back(
    hub: Hub, wide: Path, online: Cli, cli: Cli, tmp_path: Path
) -> None:
    """Half-way the Hub refuses: one line, nothing written; later only the rest is fetched."""
    hub.fail_after = size_of_weights(wide) // 4
    done = online("slice", REPO, "--slice", "1/8", "--out", tmp_path / "child")
    assert done.code == 2
    assert done.err.startswith(f"error: {REPO}: ") and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "child").exists()
    before = hub.weights_served()
    hub.fail_after = None
    done = online("slice", REPO, "--slice", "1/8", "--out", tmp_path / "child")
    assert done.code == 0, done.err
    same_as_local(tmp_path / "child", wide, "1/8", cli)
    assert hub.weights_served() - before < 0.75 * size_of_weights(wide)


def test_a_family_from_a_hub(hub: Hub, wide: Path, online: Cli, tmp_path: Path) -> None:
    slices = ("--slice", "1/8", "--slice", "1/4")
    done = online("slice", REPO, *slices, "--out", tmp_path / "family")
    assert done.code == 0, done.err
    assert hub.weights_served() < size_of_weights(wide) * 1.1
    assert online("verify", tmp_path / "family", "--parent", REPO).code == 0


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository(status: int, hub: Hub, online: Cli, tmp_path: Path) -> None:
    hub.gated = status
    done = online("slice", REPO, "--slice", "1/2", "--out", tmp_path / "child")
    assert done.code == 2
    assert done.err.count("\n") == 1 and done.err.startswith("error: "), done.err
    assert f"https://huggingface.co/{REPO}" in done.err and "hf auth login" in done.err
    assert not (tmp_path / "child").exists()


def test_a_repository_that_is_not_there(online: Cli, tmp_path: Path) -> None:
    done = online("plan", "someone/else", "--slice", "1/2")
    assert done.code == 2 and "no such repository" in done.err and done.err.count("\n") == 1


def test_offline_uses_the_cache_or_says_so(
    hub: Hub, wide: Path, online: Cli, cli: Cli, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    cache = tmp_path / "hf-home" / "hub"
    env = {"HF_HOME": str(tmp_path / "hf-home"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = cli("plan", REPO, "--slice", "1/2", env=env)
    assert done.code == 2 and "HF_HUB_OFFLINE" in done.err and done.err.count("\n") == 1
    snapshot_download(REPO, endpoint=hub.url, cache_dir=cache, token=False)
    assert cli("slice", REPO, "--slice", "1/2", "--out", tmp_path / "c", env=env).code == 0
    same_as_local(tmp_path / "c", wide, "1/2", cli)
    # On line, what the cache has is not fetched again, headers aside.
    before = hub.weights_served()
    assert online("slice", REPO, "--slice", "1/4", "--out", tmp_path / "d").code == 0
    assert hub.weights_served() - before <= len(list(wide.glob("*.safetensors"))) * (1 << 17)


def test_the_cache_is_used_while_the_hub_is_away(hub: Hub, cli: Cli, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    home = tmp_path / "hf-home"
    env = {"HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    snapshot = Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=home / "hub", token=False))
    done = cli("plan", REPO, "--slice", "1/2", env=env)
    assert done.code == 0, done.err
    assert done.err.count("\n") == 1 and "the Hub's cache" in done.err and COMMIT in done.err
    min(snapshot.glob("*.safetensors")).unlink()  # no longer whole
    done = cli("plan", REPO, "--slice", "1/2", env=env)
    assert done.code == 2 and "the Hub cannot be reached" in done.err, done.err


def test_shards_without_an_index_on_the_hub(wide: Path, cli: Cli, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wide, tmp_path / "repo"))
    (folder / "model.safetensors.index.json").unlink()
    with serving(REPO, folder) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": ""}
        done = cli("slice", REPO, "--slice", "1/8", "--out", tmp_path / "child", env=env)
    assert done.code == 0, done.err
    same_as_local(tmp_path / "child", wide, "1/8", cli)


spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda pair: (pair[0], sum(pair)))
)


@given(wanted=spans, have=spans)
def test_what_is_missing(wanted: list[tuple[int, int]], have: list[tuple[int, int]]) -> None:
    def bytes_of(spans: object) -> set[int]:
        return {n for start, stop in spans for n in range(start, stop)}  # type: ignore[attr-defined]

    assert bytes_of(merged(wanted)) == bytes_of(wanted)
    left = list(missing(merged(wanted), merged(have)))
    assert bytes_of(left) == bytes_of(wanted) - bytes_of(have)
    assert sum(stop - start for start, stop in left) == len(bytes_of(left))
