"""A shard set made from any layout is read alike by webdataset, wids, timm's reader and our own import."""

from pathlib import Path

import pytest

from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from tests.conftest import write
from tests.sharding.sources.layouts import BUILDERS, Photos, build, contents, everything
from tests.shards.test_interop import by_tarfile, timm_reader

__all__ = ["timm_reader"]  # a fixture


@pytest.mark.filterwarnings("ignore")  # webdataset, wids and timm leave tars open
@pytest.mark.parametrize("form", BUILDERS)
def test_each_layout(form: str, photos: Photos, timm_reader: type, tmp_path: Path) -> None:
    import webdataset
    import wids

    source = find_images(build(form, tmp_path / "source", photos))
    listed = {split: everything(images) for split, images in source.splits.items()}
    out = tmp_path / "set"
    write(source, out, Options("jpeg", size=16))
    again = find_images(out)
    assert again.classes == source.classes
    for split, images in listed.items():
        samples = by_tarfile(out, split, "jpg")
        assert sorted((key, label) for key, label, _ in samples) == sorted((image.key, image.label) for image in images)
        tars = sorted(str(path) for path in out.glob(f"{split}-*.tar"))
        rows = webdataset.WebDataset(tars, shardshuffle=False).to_tuple("__key__", "cls", "jpg")
        assert [(key, int(label), data) for key, label, data in rows] == samples
        rows = wids.ShardListDataset(str(out / f"{split}.wids.json"), cache_dir=str(out), keep=True, transformations=[])
        assert [(row["__key__"], int(row[".cls"].read()), row[".jpg"].read()) for row in rows] == samples
        name = "validation" if split == "val" else split
        reader = timm_reader(str(out), split=name, is_training=False, batch_size=4)
        assert [label for _, label in reader] == [label for _, label, _ in samples]
        labels = {image.key: image.label for image in everything(again.splits[split])}
        data = contents(again, split)
        assert sorted((key, labels[key], data[key]) for key in data) == sorted(samples)
