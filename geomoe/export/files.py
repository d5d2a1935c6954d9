"""What every exported function takes and gives, and the two files that it becomes: PATH, and PATH.json which says what it is.

An exported function takes digital numbers and metadata pairs and gives embeddings; weights and normalisation are inside:

    embeddings = function(images, week, hour, lat, lon)

images (N, S, S, C) float32, Collection 2 digital numbers, 0 or NaN without data (which does not speak); week, hour, lat, lon
(N, 2) float32 [sin, cos] pairs, [0, 0] where unknown; embeddings (N, D) float32. N is free.
"""

import hashlib
import json
import os
from typing import Any

from geomoe.files import atomic_open
from geomoe.metadata import FIELDS
from geomoe.models.pooling import TOKENS, Pool, pool_name, pool_width
from geomoe.pretrained import PretrainedEncoder
from geomoe.version import __version__


def function_facts(encoder: PretrainedEncoder, pool: Pool) -> dict[str, Any]:
    """What an encoder's exported function takes and gives, as plain JSON values."""
    cfg = encoder.config
    return {
        "inputs": {"images": ["N", cfg.img_size, cfg.img_size, cfg.in_channels], **{name: ["N", 2] for name in FIELDS}},
        "output": ["N", *([cfg.num_tokens] * (pool == TOKENS)), pool_width(cfg, pool)],
        "bands": list(encoder.bands),
        "unit": "collection2_dn",
        "normalisation (inside)": {key: getattr(encoder.statistics, key) for key in ("mean", "std", "scale")},
        "pool": pool_name(pool),
        "encoder": encoder.source,
        "geomoe_version": __version__,
    }


def write_function(path: str | os.PathLike[str], blob: bytes, facts: dict[str, Any]) -> dict[str, Any]:
    """Write PATH and PATH.json; give the facts with the size and the SHA-256 of PATH."""
    facts = facts | {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    with atomic_open(path, "wb") as file:
        file.write(blob)
    with atomic_open(f"{os.fspath(path)}.json") as file:
        json.dump(facts, file, indent=1)
    return facts
