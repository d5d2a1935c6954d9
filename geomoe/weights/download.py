"""Weights by name or address: fetched once, verified, kept.

The cache is the folder `weights` in $GEOMOE_CACHE, or else in ~/.cache/geomoe. Beside each file `NAME.json` keeps its address
and its SHA-256, which every later use verifies. What is in the cache needs no network.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

from geomoe.files import atomic_open, atomic_path

_MAX_BYTES = 1 << 30
_TIMEOUT = 30  # seconds without an answer
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights that go by a name."""

    address: str
    git_blob: str  # SHA-1 by which Git names the file, which verifies what is fetched
    what: str  # for a reader


PUBLISHED = {
    "moe_mae_s_bigearthnet": Published(
        "https://github.com/AlbughdadiM/geo-moe-mae/raw/main/weights/moe_mae_bigearthnet_ls/pretrained_S_best.pth",
        "600cdf535fa7fefbf89fbfaeda25bf47285b0a8b",
        "MoE-MAE-S of arXiv 2509.10919, pretrained on BigEarthNet-L",
    )
}


def is_address(path: str) -> bool:
    """Whether a path is the name of published weights, or an address: `https://...` or `hf://owner/name`."""
    return path in PUBLISHED or re.match(r"(https?|hf)://", path) is not None


def fetch(path: str) -> str:
    """Give the local path of weights by name or address, from the cache or fetched to it.

    Args:
        path: a name of `PUBLISHED`; `https://...`, which may end in `#sha256=HEX`, the sum that the file must have; or
            `hf://owner/name[/file]`, which needs huggingface_hub.

    Raises:
        OSError: the file cannot be fetched, and is not in the cache.
        ValueError: it is not the file that it should be; nothing is kept.
    """
    if path.startswith("hf://"):
        return _from_hub(path)
    published = PUBLISHED.get(path)
    address, _, fragment = (published.address if published else path).partition("#")
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError(f"{address}: weights are fetched by https:// alone")
    wanted = fragment.removeprefix("sha256=").lower() if fragment else ""
    if fragment and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", fragment):
        raise ValueError(f"{path}: what follows # must be sha256= and 64 hexadecimal digits")
    folder = os.path.join(_cache(), hashlib.sha256(address.encode()).hexdigest()[:16])
    file = os.path.join(folder, os.path.basename(parts.path) or "weights")

    def check(found: dict[str, str]) -> None:
        if wanted and found["sha256"] != wanted:
            raise ValueError(f"{address} has the SHA-256 {found['sha256']}, and {wanted} was asked for")
        if published and found["git_blob"] != published.git_blob:
            raise ValueError(
                f"{address} is not {path}: its Git blob is {found['git_blob']}, and should be {published.git_blob}"
            )

    if os.path.exists(file):
        _verify(file, check)
        return file
    _download(address, file, check)
    return file


def _cache() -> str:
    base = os.environ.get("GEOMOE_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "geomoe")
    return os.path.join(base, "weights")


def _sums(path: str) -> dict[str, str]:
    """SHA-256 of a file, and the SHA-1 by which Git names it, in hex."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {os.path.getsize(path)}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            sha256.update(part)
            blob.update(part)
    return {"sha256": sha256.hexdigest(), "git_blob": blob.hexdigest()}


def _verify(file: str, check: Callable[[dict[str, str]], None]) -> None:
    """Check a file of the cache against the sum that was kept when it was fetched."""
    found = _sums(file)
    with contextlib.suppress(FileNotFoundError), open(f"{file}.json", encoding="utf-8") as facts:
        kept = json.load(facts)["sha256"]
        if kept != found["sha256"]:
            raise ValueError(f"{file} is damaged: its SHA-256 is no longer {kept}; remove it, and it is fetched again")
    check(found)


def _download(address: str, file: str, check: Callable[[dict[str, str]], None]) -> None:
    """Fetch a file whole or not at all."""
    request = urllib.request.Request(address, headers={"User-Agent": "geomoe"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer, atomic_path(file) as partial:
            length = int(answer.headers.get("Content-Length") or -1)
            if length > _MAX_BYTES:
                raise ValueError(f"{address} holds {length / 1e9:.1f} GB, more than weights have")
            size = 0
            with open(partial, "wb") as out:
                while part := answer.read(1 << 20):
                    size += len(part)
                    if size > _MAX_BYTES:
                        raise ValueError(f"{address} holds more than {_MAX_BYTES >> 30} GB, which no weights have")
                    out.write(part)
            if length >= 0 and size != length:
                raise OSError(f"broken off after {size:,} of {length:,} bytes")
            found = _sums(partial)
            check(found)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{address} cannot be fetched: {reason}; with a file at hand, load its path") from None
    with atomic_open(f"{file}.json") as facts:
        json.dump({"address": address, **found}, facts, indent=1)
    print(f"fetched {address}: {size / 1e6:.1f} MB, SHA-256 {found['sha256']}, kept as {file}", file=sys.stderr)


def _from_hub(path: str) -> str:
    """`hf://owner/name` or `hf://owner/name/file` by huggingface_hub, which keeps and verifies its own cache."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("hf:// addresses need huggingface_hub: pip install 'geomoe[hub]'") from error
    owner, _, rest = path.removeprefix("hf://").partition("/")
    name, _, file = rest.partition("/")
    if not owner or not name:
        raise ValueError(f"{path}: a model on the hub is hf://owner/name, or hf://owner/name/file")
    repository = f"{owner}/{name}"
    if not file:
        known = [n for n in huggingface_hub.list_repo_files(repository) if n.endswith((".safetensors", ".pth"))]
        if len(known) != 1:
            raise ValueError(f"{path} holds {', '.join(known) or 'no weights'}; name one: {path}/FILE")
        (file,) = known
    local: str = huggingface_hub.hf_hub_download(repository, file)
    print(f"{path}: SHA-256 {_sums(local)['sha256']}, kept as {local}", file=sys.stderr)
    return local
