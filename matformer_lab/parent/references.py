"""What people write for a parent: understood where it can be, else told apart."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small

_GOOGLES: Final = (
    "google/gemma-3n-E4B",
    "google/gemma-3n-E4B-it",
    "google/gemma-3n-E2B",
    "google/gemma-3n-E2B-it",
)
_URL = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://(?:models/)?|"
    r"(?:ssh://)?git@(?:huggingface\.co|hf\.co)[:/])"
    r"(?:models/)?([\w.-]+/[\w.-]+?)(?:\.git)?(?:@([^/?#]+))?"
    r"(?:/(?:tree|blob|resolve|raw|commit)/(refs/(?:pr|convert)/[^/?#]+|[^/?#]+)[^?#]*"
    r"|/(?:discussions|commits|settings)[^?#]*|/[\w.-]+\.(?:json|safetensors))?"
    r"/?(?:[?#].*)?",
    re.ASCII | re.I,
)
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)", re.ASCII)


def without_url(ref: str) -> str:
    """A model's address on the Hub as `org/name` or `org/name@revision`; else `ref` as it is.

    Examples:
        >>> without_url("https://huggingface.co/google/gemma-3n-E4B/tree/main")
        'google/gemma-3n-E4B@main'
    """
    match = _URL.fullmatch(ref)
    if not match:
        return ref
    revision = match[2] or match[3]
    return match[1] + (f"@{unquote(revision)}" if revision else "")


def cached_repo(folder: Path) -> str | None:
    """The Hub id of a repository's root in a Hub cache (`models--org--name`); None for others."""
    match = _CACHED.fullmatch(folder.resolve().name)
    return f"{match[1]}/{match[2]}" if match and (folder / "snapshots").is_dir() else None


def cached_snapshot(folder: Path) -> Path:
    """The snapshot that a repository's root in a Hub cache stands for: `main`'s, or the only one.

    Raises:
        InputError: There is none, or there are several and none is `main`.
    """
    snapshots = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    if main.is_file():
        commit = read_small(main, 1 << 10).decode(errors="replace").strip()
        snapshots = [path for path in snapshots if path.name == commit] or snapshots
    if len(snapshots) != 1:
        names = ", ".join(path.name for path in snapshots)
        raise InputError(
            f"{folder}: is a Hub cache with {len(snapshots)} snapshots ({names:.200}); give one, "
            f"as {folder / 'snapshots'}/COMMIT"
        )
    return snapshots[0]


def why_no_config(folder: Path) -> str:
    """What a folder without config.json is, and what to give instead."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        try:
            base = strict_json(read_small(adapter), str(adapter)).get("base_model_name_or_path")
        except InputError:
            base = None
        of = f" of {base}" if isinstance(base, str) else ""
        return (
            f"is an adapter{of}, not a checkpoint; `matformer-lab slice` cuts it to a slice. Else "
            "merge it into its base model first (PEFT: merge_and_unload) and give the result"
        )
    if folder.name in ("snapshots", "refs", "blobs") and cached_repo(folder.parent):
        return f"is a part of a Hub cache; give {folder.parent}"
    cached = sorted(filter(None, map(cached_repo, folder.glob("models--*"))))
    if cached:
        return f"is a Hub cache; give one of its models by its id ({', '.join(cached):.200})"
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f"no config.json, but checkpoints lie in it ({', '.join(inside):.200}); give one"
    if any(folder.glob("*.gguf")):
        return "holds a GGUF, which is made from a checkpoint; give the checkpoint in safetensors"
    return "no config.json; is this a checkpoint folder?"


def folder_of_file(path: Path) -> Path:
    """The checkpoint folder that a file was named for: one of its weights, its config or index.

    Raises:
        InputError: No checkpoint is read from such a file.
    """
    if path.suffix == ".gguf":
        raise InputError(
            f"{path}: is a GGUF, which is made from a checkpoint; give the checkpoint that it was "
            "made from: a folder in safetensors, or a Hub id"
        )
    if path.suffix in (".safetensors", ".json") and (path.parent / "config.json").exists():
        return path.parent
    raise InputError(
        f"{path}: is a file; a parent is a checkpoint folder, with config.json beside the weights"
    )


def unknown(ref: str) -> InputError:
    """The error for what is neither a folder nor a Hub id."""
    if "://" in ref or ref.startswith(("git@", "huggingface.co/", "hf.co/")):
        return InputError(
            f"{ref}: is not a model's address on the Hub; give its id (org/name), or a checkpoint "
            "folder"
        )
    if ref.startswith(("/", "./", "../", "~/")) or ref.count("/") > 1:
        return InputError(f"{ref}: no such folder")
    if ref.endswith((".gguf", ".safetensors")):
        return InputError(f"{ref}: no such file; a parent is a checkpoint folder or a Hub id")
    return InputError(
        f"{ref}: no such folder; a parent is a checkpoint folder, a Hub id (org/name) or `tiny`"
        f"{did_you_mean(ref)}"
    )


def did_you_mean(ref: str) -> str:
    """The Hub id of Google's that is nearest to `ref`, as the end of a sentence; or nothing."""
    from difflib import get_close_matches

    by_spelling = {_plain(name): name for name in _GOOGLES}
    for name in _GOOGLES:
        short = name.partition("/")[2]
        by_spelling |= {_plain(short): name, _plain(short.removeprefix("gemma-3n-")): name}
    repo = ref.partition("@")[0]
    if repo.strip("/").lower() == "tiny":
        return "; did you mean `tiny`?"
    near = get_close_matches(_plain(repo), by_spelling, n=1, cutoff=0.75)
    guess = by_spelling[near[0]] if near else None
    return f"; did you mean {guess}?" if guess and guess != repo else ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.lower())


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for what no file can be named."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; False for what no folder can be named."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
