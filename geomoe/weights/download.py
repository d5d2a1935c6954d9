"""Weights by name or address: fetched once, verified, kept.

The cache is the folder `weights` in $GEOMOE_CACHE, or else in ~/.cache/geomoe. Beside each file `NAME.json` keeps its address
and its SHA-256, which every later use verifies; a file without it is fetched anew. What is in the cache needs no network.
"""

import dataclasses
import hashlib
import http.client
import json
import os
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import IO

from geomoe.files import atomic_open, atomic_path
from geomoe.weights.formats import PTH, SAFETENSORS, format_of

_MAX_BYTES = 1 << 30
_TIMEOUT = 30  # seconds without an answer
_HUB = "hf://"
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
    return path in PUBLISHED or re.match(r"(https?|hf)://", path, re.IGNORECASE) is not None


def fetch(path: str) -> str:
    """Give the local path of weights by name or address, from the cache or fetched to it.

    Args:
        path: a name of `PUBLISHED`; `https://...`, which may end in `#sha256=HEX`, the sum that the file must have; or
            `hf://owner/name[/file]`, which needs huggingface_hub.

    Raises:
        OSError: the file cannot be fetched, and is not in the cache.
        ValueError: it is not the file that it should be, or none of weights; nothing is kept.
    """
    if path.lower().startswith(_HUB):
        return _from_hub(path)
    published = PUBLISHED.get(path)
    address, _, fragment = (published.address if published else path).partition("#")
    _check_address(address)
    wanted = fragment.removeprefix("sha256=").lower() if fragment else ""
    if fragment and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", fragment):
        raise ValueError(f"{path}: what follows # must be sha256= and 64 hexadecimal digits")
    folder = os.path.join(_cache(), hashlib.sha256(address.encode()).hexdigest()[:16])
    file = os.path.join(folder, os.path.basename(urllib.parse.urlsplit(address).path).strip(".") or "weights")

    def check(found: dict[str, str]) -> None:
        if wanted and found["sha256"] != wanted:
            raise ValueError(f"{address} has the SHA-256 {found['sha256']}, and {wanted} was asked for")
        if published and found["git_blob"] != published.git_blob:
            raise ValueError(
                f"{address} is not {path}: its Git blob is {found['git_blob']}, and should be {published.git_blob}"
            )

    kept = _kept_sum(file)
    if kept is None:
        _download(address, file, check)
        return file
    sums = _sums(file)
    if sums["sha256"] != kept:
        raise ValueError(f"{file} is damaged: its SHA-256 is no longer {kept}; remove it, and it is fetched again")
    check(sums)
    return file


def _check_address(address: str) -> None:
    """ValueError for an address that weights are not fetched from: `http://` is for servers of this machine alone."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _LOOPBACK):
        raise ValueError(f"{address}: weights are fetched by https:// alone")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses that could have been given as well."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _check_address(newurl)
        except ValueError as error:
            raise ValueError(f"{req.full_url} redirects to {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


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


def _kept_sum(file: str) -> str | None:
    """The SHA-256 that was kept when a file of the cache was fetched; None where the file, or a whole note, is not there."""
    try:
        with open(f"{file}.json", encoding="utf-8") as note:
            kept = str(json.load(note)["sha256"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return kept if os.path.exists(file) else None


def _download(address: str, file: str, check: Callable[[dict[str, str]], None]) -> None:
    """Fetch a file whole or not at all."""
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "geomoe"})
        with urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT) as answer, atomic_path(file) as partial:
            size = _receive(answer, address, partial)
            if format_of(partial) is None:
                kind = answer.headers.get_content_type()
                raise ValueError(
                    f"{address} gives no .safetensors or .pth file but {size:,} bytes of {kind}; open it in a browser"
                )
            sums = _sums(partial)
            check(sums)
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        reason = repr(error) if isinstance(error, http.client.HTTPException) else getattr(error, "reason", None) or error
        raise OSError(f"{address} cannot be fetched: {reason}; with a file at hand, load its path") from None
    with atomic_open(f"{file}.json") as note:
        json.dump({"address": address, **sums}, note, indent=1)
    print(f"fetched {address}: {size / 1e6:.1f} MB, SHA-256 {sums['sha256']}, kept as {file}", file=sys.stderr)


def _receive(answer: http.client.HTTPResponse, address: str, path: str) -> int:
    """Write the body of an answer to a file, and give its size in bytes."""
    length, size = answer.length, 0  # None: the answer does not say
    if length is None and (stated := answer.headers.get("Content-Length")) and not answer.chunked:
        raise OSError(f"its Content-Length {stated!r} is no size")
    if length is not None and length > _MAX_BYTES:
        raise ValueError(f"{address} holds {length / 1e9:.1f} GB, more than weights have")
    with open(path, "wb") as out:
        while part := answer.read(1 << 20):
            size += len(part)
            if size > _MAX_BYTES:
                raise ValueError(f"{address} holds more than {_MAX_BYTES >> 30} GB, which no weights have")
            out.write(part)
    if length is not None and size != length:
        raise OSError(f"broken off after {size:,} of {length:,} bytes")
    return size


def _from_hub(path: str) -> str:
    """`hf://owner/name` or `hf://owner/name/file` by huggingface_hub, which keeps and verifies its own cache."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("hf:// addresses need huggingface_hub: pip install 'geomoe[hub]'") from error
    owner, _, rest = path[len(_HUB) :].partition("/")
    name, _, file = rest.partition("/")
    if not owner or not name:
        raise ValueError(f"{path}: a model on the hub is hf://owner/name, or hf://owner/name/file")
    repository = f"{owner}/{name}"
    if not file:
        known = [n for n in huggingface_hub.list_repo_files(repository) if n.lower().endswith((SAFETENSORS, PTH))]
        if len(known) != 1:
            raise ValueError(f"{path} holds {', '.join(known) or 'no weights'}; name one: {path}/FILE")
        (file,) = known
    local: str = huggingface_hub.hf_hub_download(repository, file)
    print(f"{path}: SHA-256 {_sums(local)['sha256']}, kept as {local}", file=sys.stderr)
    return local
