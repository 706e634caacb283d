"""Small files that let other tools open a shard set as it is; all follow from the manifest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from alexnet_fast.shards.format import MANIFEST, Manifest

TIMM = "_info.json"
SUMS = "SHA256SUMS"


def side_files(manifest: Manifest) -> dict[str, bytes]:
    """File name -> content: `_info.json` for timm, an index a split for wids, and `SHA256SUMS` for sha256sum. wids' md5
    sums are optional and left out. `SHA256SUMS` is of the manifest, the other side files and the tars."""
    files = {TIMM: _json(_timm(manifest))}
    for split, tars in manifest.splits.items():
        shards = [{"url": tar.file, "nsamples": tar.samples, "filesize": tar.bytes} for tar in tars]
        wids = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
        files[f"{split}.wids.json"] = _json(wids)
    hashed = {**files, MANIFEST: manifest.to_json().encode()}
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in hashed.items()}
    sums |= {tar.file: tar.sha256 for tars in manifest.splits.values() for tar in tars}
    return {**files, SUMS: "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()}


def _timm(manifest: Manifest) -> dict[str, Any]:
    """timm's `_info.json`. Its scripts use the split `validation` by default, so `val` is listed under both names."""
    splits = {
        split: {
            "name": split,
            "num_samples": sum(tar.samples for tar in tars),
            "filenames": [tar.file for tar in tars],
            "shard_lengths": [tar.samples for tar in tars],
        }
        for split, tars in manifest.splits.items()
    }
    if "val" in splits:
        splits.setdefault("validation", splits["val"])
    return {"splits": splits}


def _json(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1) + "\n").encode()
