"""Models and adapters of the Hugging Face hub, by name: hf://owner/name[@revision][:file or quantisation].

huggingface_hub downloads them into the cache that every program of that ecosystem shares; its environment variables
(HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN) hold here too. Without a network, what is cached is used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

SCHEME = "hf://"
PREFERRED = "q8_0"  # among several GGUF files
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::(.+))?")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_SHOWN = 40  # files in a message

_MODEL_FILES = (".json", ".safetensors", ".jinja")
_POOLING = "1_Pooling/config.json"  # of sentence-transformers
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapters.safetensors", "adapter_model.bin")
_NO_WEIGHTS = ("rust_model.", "tf_model.", "flax_model.", "consolidated.", "training_args", "trainer_state")


class Name(NamedTuple):
    """repo: owner/name; revision: a branch, tag or commit; choice: a file, or part of a GGUF's name; "": any."""

    repo: str
    revision: str
    choice: str


def is_name(path: object) -> bool:
    return isinstance(path, str) and path.startswith(SCHEME)


def parse(name: str) -> Name:
    """ValueError: it is not of the form above."""
    found = _NAME.fullmatch(name.removeprefix(SCHEME))
    if found is None:
        raise ValueError(f"[hub] {name!r} is not {SCHEME}owner/name, {SCHEME}owner/name:file or …@revision:file")
    return Name(found.group(1), found.group(2) or "main", found.group(3) or "")


def title(path: object) -> str | None:
    """The name without its owner; None for what is no hf:// name."""
    return parse(str(path)).repo.split("/")[1] if is_name(path) else None


def local(path: Any) -> Any:
    """Where the file or folder of an hf:// name lies, downloaded if need be; any other path as it is.

    A GGUF file, or a folder with a model's or adapter's files. ValueError: the name is malformed, the extra `hub` is
    missing, nothing there fits, several files do (they are listed), or the hub can't be reached and the cache has none.
    """
    if not is_name(path):
        return path
    name = parse(path)
    files = _files(name)
    chosen = choose(name, files)
    first = Path(_download(name, chosen[0], name.revision))
    if len(chosen) == 1 and chosen[0].endswith(".gguf"):
        return first
    commit = first.parent.name  # all files of one state of the repository
    for file in chosen[1:]:
        _download(name, file, commit)
    return first.parent


def choose(name: Name, files: list[str]) -> list[str]:
    """The files to download: one GGUF, or those of a model's or an adapter's folder, config first."""
    ggufs = [file for file in files if file.endswith(".gguf")]
    if name.choice in files:
        if not name.choice.endswith(".gguf"):
            raise ValueError(
                f"[hub] {name.repo}: {name.choice!r} is no GGUF file; leave it out to take the whole folder"
            )
        return [_whole(name, name.choice)]
    if name.choice:
        return [_whole(name, _one(name, _of_kind(ggufs, name.choice), ggufs, f"fits {name.choice!r}"))]
    if ggufs:
        models = [file for file in ggufs if "mmproj" not in file.lower()] or ggufs
        found = models if len(models) == 1 else _of_kind(models, PREFERRED)
        return [_whole(name, _one(name, found, ggufs, f"is the one to take (none or several are {PREFERRED})"))]
    if "adapter_config.json" in files:
        kept = [file for file in _ADAPTER_FILES if file in files]
        return kept[:-1] if len(kept) > 2 and kept[-1].endswith(".bin") else kept
    top = [file for file in files if file.endswith(_MODEL_FILES) and ("/" not in file or file == _POOLING)]
    if "config.json" in top and any(file.endswith(".safetensors") for file in top):
        wanted = [file for file in top if not file.startswith(_NO_WEIGHTS)]
        return sorted(wanted, key=lambda file: file != "config.json")
    raise ValueError(f"[hub] {name.repo} holds no GGUF file, no safetensors model and no adapter: {_listed(files)}")


def _of_kind(ggufs: list[str], kind: str) -> list[str]:
    """Those whose name has `kind` as a part of its own, in any case: model-Q8_0.gguf, not model-IQ8_0.gguf."""
    part = re.compile(rf"(^|[-._/]){re.escape(kind.removesuffix('.gguf'))}([-._]|$)", re.IGNORECASE)
    return [file for file in ggufs if part.search(file)]


def _one(name: Name, found: list[str], ggufs: list[str], what: str) -> str:
    if len(found) == 1:
        return found[0]
    how = "none of its GGUF files" if not found else "more than one of its GGUF files"
    some = found or ggufs
    raise ValueError(
        f"[hub] {name.repo}: {how} {what}; name one, as in {SCHEME}{name.repo}:{(some or ['model.gguf'])[0]}: "
        f"{_listed(some)}"
    )


def _whole(name: Name, file: str) -> str:
    if _SPLIT.search(file):
        raise ValueError(f"[hub] {name.repo}: {file} is a part of a split GGUF; join the parts with llama-gguf-split")
    return file


def _listed(files: list[str]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return (", ".join(files[:_SHOWN]) or "it is empty") + more


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(f"[hub] {SCHEME} names need huggingface_hub: pip install 'lora_edge[hub]'") from None
    return huggingface_hub


def _files(name: Name) -> list[str]:
    """Of the repository at that revision; where the hub can't be asked, those in the cache."""
    hub = _library()
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = hub.HfApi().model_info(name.repo, revision=name.revision)
        return [entry.rfilename for entry in info.siblings or []]
    except RevisionNotFoundError:
        raise ValueError(f"[hub] {name.repo} has no revision {name.revision!r}") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"[hub] there is no model {name.repo!r}, or it is private or gated: log in (hf auth login), or set HF_TOKEN"
        ) from None
    except Exception as error:  # no network, offline mode, a proxy: each version of the library has its own classes
        cached = _cached_files(hub, name)
        if not cached:
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"[hub] {name.repo}@{name.revision} is not in the cache, and the hub can't be asked: {reason}"
            ) from None
        return cached


def _cached_files(hub: Any, name: Name) -> list[str]:
    try:
        repos = hub.scan_cache_dir().repos
    except hub.CacheNotFound:
        return []
    for repo in repos:
        if (repo.repo_id, repo.repo_type) != (name.repo, "model"):
            continue
        for revision in repo.revisions:
            if name.revision in revision.refs or revision.commit_hash == name.revision:
                return sorted(os.path.relpath(file.file_path, revision.snapshot_path) for file in revision.files)
    return []


def _download(name: Name, file: str, revision: str) -> str:
    hub = _library()
    try:
        return str(hub.hf_hub_download(name.repo, file, revision=revision))
    except Exception as error:  # as above; a full disk is OSError and says so itself
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise ValueError(f"[hub] {name.repo}@{revision}: {file} can't be downloaded: {reason}") from None
