"""Which columns of a table are the image and the label: by their types, names, and what the `datasets` library writes
of them beside the schema."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_fast.errors import InputError

_LABEL = re.compile(r"label|class|target|categor|^cls$", re.IGNORECASE)
"""Names of columns of numbers that may be labels: `id`, `width` are none."""


@dataclass(frozen=True)
class Columns:
    """`number`: of the image's column; `path`: where its file's name is; `names`: of the classes, in the order of their
    index. `path` and `label` are None, and `names` empty, where the table has none."""

    image: str
    number: int
    path: str | None
    label: str | None
    names: list[str]
    how_to_choose: str


def choose(path: Path, schema: Any, image_key: str | None, label_key: str | None) -> Columns:
    """Returns the columns of the parquet file `path`. Raises InputError, naming all, when it is not clear which to
    take."""
    features = _features(schema)
    columns = ", ".join(f"{field.name} ({_kind(field.type, features.get(field.name, {}))})" for field in schema)
    how_to_choose = f"; its columns are {columns}. Choose with --image-key and --label-key."
    image = _one(path, image_key, "image", images_in(schema), how_to_choose)
    if image is None:
        raise InputError(f"{path} has no column of images{f' {image_key}' * bool(image_key)}{how_to_choose}")
    labels = [name for name in _integers(schema) if features.get(name, {}).get("_type") == "ClassLabel"]
    labels = labels or [name for name in _integers(schema) if _LABEL.search(name)]
    label = _one(path, label_key, "label", _integers(schema) if label_key else labels, how_to_choose)
    if label is None and (label_key or "label") in schema.names:
        raise InputError(f"{path} has labels that are no whole numbers{how_to_choose}")
    if label is None and label_key:
        raise InputError(f"{path} has no column {label_key}{how_to_choose}")
    kind = schema.field(image).type
    has_path = any(kind.field(i).name == "path" for i in range(kind.num_fields))
    written = features.get(label or "", {}).get("names")
    names = [str(name) for name in written] if isinstance(written, list) else []
    number = schema.names.index(image)
    return Columns(image, number, f"{image}.path" if has_path else None, label, names, how_to_choose)


def images_in(schema: Any) -> list[str]:
    """Returns the columns that may be images: of bytes and path, as `datasets` stores them; else of bytes alone."""
    features = _features(schema)
    fields = [field for field in schema if features.get(field.name, {}).get("_type", "Image") in ("Image", "Value")]
    stored = [field.name for field in fields if _kind(field.type, {}) == "image"]
    return stored or [field.name for field in fields if _kind(field.type, {}) == "bytes"]


def _one(path: Path, key: str | None, usual: str, candidates: list[str], how_to_choose: str) -> str | None:
    """Returns the column `key`, or else the usual one, or else the only one. Raises InputError when there are several,
    or `key` is none of them; None is for none."""
    if key in candidates or (key is None and usual in candidates):
        return key or usual
    if key is None and len(candidates) > 1:
        raise InputError(f"{path} has several columns that may be the {usual}: {', '.join(candidates)}{how_to_choose}")
    return candidates[0] if key is None and candidates else None


def _integers(schema: Any) -> list[str]:
    import pyarrow.types

    return [field.name for field in schema if pyarrow.types.is_integer(field.type)]


def _kind(kind: Any, feature: dict[str, Any]) -> str:
    """Returns the type of a column in words."""
    import pyarrow.types

    if pyarrow.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(kind.num_fields)]:
        return "image" if feature.get("_type", "Image") == "Image" else str(feature["_type"]).lower()
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        return "bytes"
    return "class label" if feature.get("_type") == "ClassLabel" else str(kind)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Returns what `datasets` wrote of each column; nothing where it wrote none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
