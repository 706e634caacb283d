"""A shard set that is there already, whole, unfinished, in parts or on several disks."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from alexnet_fast.cli.main import main
from alexnet_fast.errors import InputError
from alexnet_fast.sharding import output as outputs
from alexnet_fast.sharding import write as writing
from alexnet_fast.sharding.output import Output, check_apart, open_output
from alexnet_fast.sharding.plan import Options, begin, jobs, make_plan
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.tars import write_tar
from alexnet_fast.sharding.write import Part, finish_shard_set
from alexnet_fast.shards.format import MANIFEST, WORK
from tests import conftest
from tests.conftest import CLASSES, SIZE, files
from tests.sharding.sources.layouts import Photos, build, everything
from tests.sharding.test_write import write


def test_an_existing_shard_set_is_not_touched(image_folder: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    out = shutil.copytree(jpeg_shards, tmp_path / "out")
    with pytest.raises(InputError) as error:
        write(find_images(image_folder), out, seed=1)
    assert str(error.value) == f"{out} already holds a shard set. Choose another --out, or delete that one first."
    assert files(out) == files(jpeg_shards)


def test_out_must_be_a_folder_that_can_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError) as error:
        open_output([str(file)])
    assert str(error.value) == f"{file} is a file. --out takes a folder."
    with pytest.raises(InputError) as error:
        open_output([str(file / "out")])
    assert str(error.value) == f"{file / 'out'} cannot be made (Not a directory). Choose another --out."


def test_a_finished_set_is_left_alone_by_the_same_command(
    image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(jpeg_shards, tmp_path / "out")
    before = [path.stat().st_mtime_ns for path in sorted(out.iterdir())]
    summary = write(find_images(image_folder), out)
    assert (summary.images, summary.written, summary.shards, summary.complete) == (78, 0, 6, True)
    assert [path.stat().st_mtime_ns for path in sorted(out.iterdir())] == before


def test_a_set_that_another_run_finishes_just_before_the_lock_is_left_alone(
    image_folder: Path, jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, locked = find_images(image_folder), tmp_path / "out", outputs.locked
    times = {}

    @contextmanager
    def late(output: Output, part: str | None) -> Iterator[None]:
        monkeypatch.setattr(writing, "locked", locked)
        assert conftest.write(source, out, Options(size=SIZE)).written == 78
        times.update({path: path.stat().st_mtime_ns for path in out.iterdir()})
        with locked(output, part):
            yield

    monkeypatch.setattr(writing, "locked", late)
    summary = conftest.write(source, out, Options(size=SIZE))
    assert (summary.written, summary.images, summary.complete) == (0, 78, True)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    assert files(out) == files(jpeg_shards)


def test_of_two_that_begin_at_once_the_second_goes_by_the_first_one_s_plan(image_folder: Path, tmp_path: Path) -> None:
    source = find_images(image_folder)
    plans = [make_plan(source, Options("mixed", size=SIZE, seed=seed, budget=10**7)) for seed in (0, 1)]
    output = open_output([str(tmp_path)])

    def meanwhile() -> float:
        begin(plans[1], output, lambda: 0.25)
        return 0.5

    with pytest.raises(InputError, match=r"holds an unfinished shard set of .* \(seed 1, now 0\)"):
        begin(plans[0], output, meanwhile)
    assert begin(plans[1], output, meanwhile).raw_share == 0.25


def test_an_unfinished_set_of_other_options_is_refused(image_folder: Path, tmp_path: Path) -> None:
    source = find_images(image_folder)
    write(source, tmp_path / "out", part=Part(1, 2))
    with pytest.raises(InputError) as error:
        write(source, tmp_path / "out", seed=3)
    assert str(error.value) == (
        f"{tmp_path / 'out'} holds an unfinished shard set of other images or options (seed 0, now 3). Give the same "
        f"as then, choose another --out, or delete {tmp_path / 'out'}/.work to start afresh."
    )
    (extra := tmp_path / "more").mkdir()
    shutil.copytree(image_folder / "train", extra / "train")
    with pytest.raises(InputError, match=r"of other images or options \(other images\)"):
        write(find_images(extra), tmp_path / "out")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_write_the_same_bytes(
    order: tuple[int, ...], image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    source = find_images(image_folder)
    for index in order:
        assert not (tmp_path / "out" / "manifest.json").exists()
        summary = write(source, tmp_path / "out", part=Part(index, 3))
        assert summary.complete == (index == order[-1])
    assert files(tmp_path / "out") == files(jpeg_shards)
    again = write(source, tmp_path / "out", part=Part(2, 3))
    assert (again.written, again.complete) == (0, True)


def test_finish_names_the_missing_tars_and_completes_a_set(
    image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    destination = open_output([str(out)])
    with pytest.raises(InputError, match=r"holds no unfinished shard set\. Begin one with --src"):
        finish_shard_set(destination)
    source = find_images(image_folder)
    write(source, out, part=Part(1, 6))
    with pytest.raises(InputError) as error:
        finish_shard_set(destination)
    assert str(error.value) == (
        f"5 of 6 tars of {out} are missing: train-000001.tar, train-000002.tar, train-000003.tar, val-000000.tar, "
        "val-000001.tar. Run the parts that write them (--part I/N), or all with --src."
    )
    plan = make_plan(source, Options(size=SIZE))
    names = set(plan.tar_names())
    for job in jobs(source, plan, destination, names - {("train", 0)}):
        write_tar(job)
    assert finish_shard_set(destination).images == 78
    assert files(out) == files(jpeg_shards)


def test_tars_on_several_disks_are_one_set(image_folder: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    destination = open_output([str(first), str(second)])
    assert conftest.write_to(destination, find_images(image_folder), Options(size=SIZE)).images == 78
    assert files(first) == files(jpeg_shards)
    linked = [path.name for path in sorted(first.iterdir()) if path.is_symlink()]
    assert linked == ["train-000001.tar", "train-000003.tar", "val-000001.tar"]
    assert sorted(path.name for path in second.iterdir()) == linked


def test_a_record_that_speaks_of_another_tar_is_not_believed(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = find_images(image_folder)
    write(source, out, part=Part(1, 2))
    (out / "train-000000.tar").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"train-000000.tar is damaged: not .* bytes. Run the same command again."):
        write(source, out)
    assert write(source, out).complete


def test_fsync_comes_before_every_rename(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not leave a renamed file whose bytes never reached the disk."""
    events: list[str] = []

    def fsync(descriptor: int) -> None:
        events.append("fsync")

    def replace(source: Path, target: Path) -> None:
        events.append(f"> {target.name}")
        source.rename(target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    source = find_images(image_folder)
    plan = make_plan(source, Options(size=SIZE))
    (job,) = jobs(source, plan, open_output([str(tmp_path / "out")]), {("val", 0)})
    write_tar(job)
    names = ["val-000000.tar", "val-000000.idx", "val-000000.tar.json"]
    assert events == [event for name in names for event in ("fsync", f"> {name}", "fsync")]


def test_an_output_in_the_source_is_refused(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(image_folder)
    (tmp_path / "outside").mkdir()
    before = sorted(image_folder.rglob("*"))
    for src, out in (
        (image_folder, image_folder),
        (image_folder, image_folder / "train" / "new" / "set"),
        (image_folder, tmp_path / "link" / "set"),
        (tmp_path / "link", image_folder / "set"),
        (tmp_path, tmp_path / "outside" / "set"),
    ):
        for place in (str(out), f"file://{out}"):
            result = CliRunner().invoke(main, ["shard", "--src", str(src), "--out", place])
            assert result.exit_code == 2
            assert f"--out {place} lies in --src {src}, where" in result.output
    assert sorted(image_folder.rglob("*")) == before
    check_apart(image_folder, [f"{image_folder}2", str(image_folder.parent), "s3://bucket/set"])


def test_a_shard_set_among_the_images_is_left_out(image_folder: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    """Whole or unfinished, as a class folder or inside one, also through a link; its tars do not count as images."""
    source = shutil.copytree(image_folder / "train", tmp_path / "source")
    expected = find_images(source)
    shutil.copytree(jpeg_shards, source / "shards")
    (source / CLASSES[0] / "old").symlink_to(jpeg_shards)
    shutil.copytree(jpeg_shards, source / CLASSES[1] / "set")
    (source / "begun" / WORK).mkdir(parents=True)
    (source / "begun" / WORK / "plan.json").touch()
    (source / "begun" / "train-000000.tar").write_bytes(b"")
    found = find_images(source)
    assert found.classes == expected.classes == list(CLASSES)
    assert found.splits["train"].fingerprint() == expected.splits["train"].fingerprint()
    in_a_set = len(list(jpeg_shards.iterdir()))
    assert found.left_out.counts == {"shard sets": 2 * in_a_set + 1 + 2}  # the link counts as one file
    assert found.left_out.found == expected.left_out.found + found.left_out.total()


@pytest.mark.parametrize("form", ["parquet", "WebDataset"])
def test_a_shard_set_beside_tars_or_tables_is_left_out(
    form: str, jpeg_shards: Path, tmp_path: Path, photos: Photos
) -> None:
    source = build(form, tmp_path, photos)
    expected = find_images(source)
    shutil.copytree(jpeg_shards, source / "set")
    found = find_images(source)
    assert everything(found.splits["train"]) == everything(expected.splits["train"])
    in_a_set = len(list(jpeg_shards.iterdir()))
    assert found.left_out.counts == {**expected.left_out.counts, "shard sets": in_a_set}
    assert found.left_out.found == expected.left_out.found + in_a_set


def test_a_shard_set_beside_class_folders_has_two_readings(
    image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(jpeg_shards, tmp_path / "source")
    shutil.copytree(image_folder / "train", source, dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"can be read in two ways: as the shard set .* or as the folders n01_ball"):
        find_images(source)
    assert list(find_images(source, "webdataset").splits) == ["train", "val"]
    assert list(find_images(source, "folders").splits) == ["train"]


def test_an_unfinished_shard_set_is_no_source(jpeg_shards: Path, tmp_path: Path) -> None:
    source = shutil.copytree(jpeg_shards, tmp_path / "source")
    (source / MANIFEST).unlink()
    (source / WORK).mkdir()
    (source / WORK / "plan.json").touch()
    with pytest.raises(InputError, match=r"holds an unfinished shard set. Finish it"):
        find_images(source)
