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
"""Names of columns that may be labels: `id`, `width` are none."""


@dataclass(frozen=True)
class Columns:
    """`number`: of the image's column; `path`: where its file's name is; `has_texts`: whether the labels are names of
    classes, not their numbers; `names`: of the classes, in the order of their index. `path` and `label` are None, and
    `names` empty, where the table has none."""

    image: str
    number: int
    path: str | None
    label: str | None
    has_texts: bool
    names: list[str]
    how_to_choose: str


def choose(path: Path, schema: Any, image_key: str | None, label_key: str | None) -> Columns:
    """Returns the columns of the parquet file `path`. Raises InputError, naming all, when it is not clear which to
    take."""
    features = _features(schema)
    columns = ", ".join(f"{field.name} ({_kind(field.type, features.get(field.name, {}))})" for field in schema)
    how_to_choose = f"; its columns are {columns}. Choose with --image-key and --label-key."
    if not images_in(schema):
        raise InputError(
            f"{path} has no column of images; its columns are {columns}. A table must hold the bytes of the images' "
            "files: names and URLs alone are not read."
        )
    image = _one(path, image_key, "image", images_in(schema), how_to_choose)
    if image is None:
        raise InputError(f"{path} has no column of images{f' {image_key}' * bool(image_key)}{how_to_choose}")
    integers, texts = _integers(schema), _texts(schema)
    labels = [name for name in integers if features.get(name, {}).get("_type") == "ClassLabel"]
    for columns_of in (integers, texts):
        labels = labels or [name for name in columns_of if _LABEL.search(name)]
    label = _one(path, label_key, "label", integers + texts if label_key else labels, how_to_choose)
    if label is None and (label_key or "label") in schema.names:
        raise InputError(f"{path} has labels that are neither whole numbers nor texts{how_to_choose}")
    if label is None and label_key:
        raise InputError(f"{path} has no column {label_key}{how_to_choose}")
    kind = schema.field(image).type
    has_path = any(kind.field(i).name == "path" for i in range(kind.num_fields))
    written = features.get(label or "", {}).get("names")
    names = [str(name) for name in written] if isinstance(written, list) else []
    number = schema.names.index(image)
    return Columns(image, number, f"{image}.path" if has_path else None, label, label in texts, names, how_to_choose)


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


def _texts(schema: Any) -> list[str]:
    import pyarrow.types

    kinds = ((field.name, getattr(field.type, "value_type", field.type)) for field in schema if not _is_list(field))
    return [name for name, kind in kinds if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)]


def _is_list(field: Any) -> bool:
    import pyarrow.types

    return bool(pyarrow.types.is_nested(field.type))


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
