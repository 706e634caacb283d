"""The command line is a contract: its flags, messages, exit codes and JSON; and it starts without torch."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

import alexnet_fast
from alexnet_fast.cli.data import LAYOUTS
from alexnet_fast.cli.main import main
from alexnet_fast.config import TrainConfig
from alexnet_fast.sharding import sources
from tests.conftest import CLASSES

FLAGS = {
    "shard": "--background --budget --check-md5 --classes --dry-run --encoding --finish --image-key --json --keep"
    " --label-key --labels --layout --orient --out --part --quality --scheduler --seed --shape --size --split --src"
    " --strict --val-fraction --workers",
    "verify": "--json --quick --workers",
    "train": "--accumulate --arch --batch --cache --cache-size --compile --epochs --gpus --json --lr --order"
    " --parallel --precision --recipe --resume --run --save-every --seed --set --shards --threads",
    "eval": "--cache --cache-size --devkit --gpus --json --per-class --precision --predictions --shards --split"
    " --submission --views --weights",
    "paper": "--big --budget --epochs --gpus --json --list --only --out --seeds --set --shards --split",
    "predict": "--gpus --json --top --views",
    "features": "--cache --cache-size --gpus --json --layer --out --shards --split",
    "export": "--json",
    "import": "--classes --json --mean --shards",
    "bench": "--arch --batch --crop --gpus --json --picture --precision --recipe --shards --threads --turns",
    "demo": "--epochs --json --out",
    "report": "--json --out",
}
"""Scripts rely on them: take none away, and add new ones here."""


@pytest.fixture(autouse=True)
def empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of a command; never a traceback."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def assert_refused(message: str, *arguments: str | Path) -> None:
    """Exit code 2, and `message` is all that is printed."""
    assert run(*arguments) == (2, f"Error: {message}\n")


def test_the_flags_of_each_command() -> None:
    assert isinstance(main, click.Group)
    assert set(main.commands) == set(FLAGS)
    for name, command in main.commands.items():
        options = [param for param in command.params if isinstance(param, click.Option)]
        assert sorted(flag for option in options for flag in option.opts) == FLAGS[name].split()


def test_help_of_every_command_and_option() -> None:
    obvious = {"encoding", "recipe", "epochs", "precision", "seed", "split"}
    assert isinstance(main, click.Group)
    for name, command in main.commands.items():
        code, output = run(name, "--help")
        assert code == 0
        assert command.help
        assert " ".join(command.help.split()) in " ".join(output.split())
        for param in command.params:
            if isinstance(param, click.Option) and param.name not in obvious:
                assert param.help, f"{name} {param.name}"
    assert run("shard", "-h") == run("shard", "--help")


def test_version() -> None:
    assert run("--version") == (0, f"alexnet-fast, version {alexnet_fast.__version__}\n")


def test_unknown_names_are_shown_with_the_usage() -> None:
    for arguments in (["shard", "--sorce", "x"], ["shrad"], ["shard"], ["train", "--gpus", "two"]):
        code, output = run(*arguments)
        assert code == 2
        assert output.startswith("Usage: ")
        assert "--help" in output
    assert "--sorce" in run("shard", "--sorce", "x")[1]
    assert "'--src'" in run("shard")[1]
    assert "'SHARDS'" in run("verify")[1]


def test_shard_says_that_there_is_no_val_split(image_folder: Path) -> None:
    hint = "no val split, on which to measure how well a network does: --val-fraction 0.1 splits one off\n"
    assert hint in run("shard", "--src", image_folder / "train", "--out", "a", "--size", "64")[1]
    assert hint not in run("shard", "--src", image_folder / "train", "--out", "b", "--val-fraction", "0.2")[1]
    assert hint not in run("shard", "--src", image_folder, "--out", "c", "--size", "64")[1]


def test_shard_refuses_its_input(tmp_path: Path, jpeg_shards: Path, image_folder: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    wanted = "--src takes a folder of images, or of ImageNet's archives."
    assert_refused(f"nowhere does not exist. {wanted}", "shard", "--src", "nowhere", "--out", "out")
    assert_refused(f"{file} is a file. --src takes a folder, or a tar.", "shard", "--src", file, "--out", "out")
    assert_refused(f"{empty} is empty. {wanted}", "shard", "--src", empty, "--out", "out")
    assert not (tmp_path / "out").exists()
    for out, message in (
        (file, f"{file} is a file. --out takes a folder."),
        (jpeg_shards, f"{jpeg_shards} already holds a shard set. Choose another --out, or delete that one first."),
    ):
        code, output = run("shard", "--src", image_folder, "--out", out)
        assert code == 2
        first, named, a_class, error = output.splitlines()
        assert first == f"class folders: 60 train, 18 val images of 3 classes -> {out}"
        assert named == f"classes: {', '.join(CLASSES)}"
        assert a_class == "images a class: 20 in train, 6 in val"
        assert error == f"Error: {message}"


def test_the_layouts_are_those_of_the_sources() -> None:
    assert sorted(LAYOUTS) == sorted(sources.LAYOUTS)


def test_shard_refuses_options_that_do_not_fit(image_folder: Path, tmp_path: Path) -> None:
    start = ("shard", "--src", image_folder, "--out", "out")
    assert_refused(
        "--keep stores JPEGs as they are; leave it out with --encoding raw.", *start, "--keep", "--encoding", "raw"
    )
    colour = "--background whitish is no colour: give a name such as black, or #rrggbb."
    assert_refused(colour, *start, "--background", "whitish")
    together = "--encoding mixed and --budget go together: --encoding mixed --budget 100GB."
    assert_refused(together, *start, "--encoding", "mixed")
    assert_refused(together, *start, "--budget", "1GB")
    for budget in ("5", "0GB", "GB", "-1GB", "1e3GB", "nanGB", "1 000 GB", "9" * 10 + "GB", "1PB"):
        code, output = run(*start, "--encoding", "mixed", "--budget", budget)
        assert code == 2
        assert f"'{budget}' is not a size like 100GB or 93.5GiB." in output
    assert_refused(
        "--split half is --val-fraction 0.5; give one of the two.", *start, "--split", "half", "--val-fraction", "0.5"
    )
    assert_refused("--val-fraction is 1.0; it must lie between 0 and 1: 0.1 for 10 %.", *start, "--val-fraction", "1")
    assert_refused(
        "the source has a split val already. Leave out --val-fraction and --split.", *start, "--split", "half"
    )
    assert_refused("--finish ignores --src: leave that out.", *start, "--finish")
    for ignored in (
        ("--size", "96"),
        ("--part", "1/2"),
        ("--dry-run",),
        ("--encoding", "jpeg"),
    ):
        message = f"--finish ignores {ignored[0]}: leave that out."
        assert_refused(message, "shard", "--out", "out", *ignored, "--finish")
    assert_refused("out holds no unfinished shard set. Begin one with --src.", "shard", "--out", "out", "--finish")
    for part in ("0/4", "5/4", "1", "a/b"):
        code, output = run(*start, "--part", part)
        assert code == 2
        assert f"'{part}' is not I/N with I from 1 to N." in output
    code, output = run("shard", "--src", image_folder / "train", "--out", "s3://bucket/set", "--out", "x")
    assert code == 2
    assert output.splitlines()[-1] == (
        "Error: --out s3://bucket/set is a URL: give it alone. Several --out are for several local disks."
    )


def test_shard_takes_classes_and_splits_them(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("n03_cone cone\n\n# the round one\nn01_ball\n")
    arguments = ("--classes", "classes.txt", "--split", "half", "--size", "16", "--workers", "1", "--json", "-")
    code, output = run("shard", "--src", image_folder / "train", "--out", "out", *arguments)
    assert code == 0, output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["id"] for entry in manifest["classes"]] == ["n03_cone", "n01_ball"]
    assert manifest["counts"] == {"train": [10, 10], "val": [10, 10]}


def test_verify_names_what_is_corrupt(jpeg_shards: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(jpeg_shards, tmp_path / "copy")
    code, output = run("verify", copy, "--workers", "1")
    assert (code, output.splitlines()[-1]) == (0, f"78 samples are whole: {copy}")
    tar = copy / "train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    assert run("verify", copy, "--quick")[0] == 0
    code, output = run("verify", copy, "--quick", "--json", "nowhere/result.json")
    message = "Error: --json nowhere/result.json could not be written: No such file or directory. All else is done.\n"
    assert (code, output.endswith(message)) == (2, True)
    code, output = run("verify", copy, "--json", "damage.json", "--workers", "1")
    assert code == 1
    found = json.loads((tmp_path / "damage.json").read_text())
    assert found["ok"] is False
    assert {row["file"] for row in found["damaged"]} == {"train-000001.tar"}
    for row in found["damaged"]:
        assert set(row) == {"file", "sample", "problem"}
        assert row["problem"] in output
    assert_refused(
        "nowhere is not a shard set: there is no such folder. Sets beside it: copy. Give another path (--shards), or "
        "make it with: alexnet-fast shard --src IMAGES --out nowhere",
        *("verify", "nowhere"),
    )


def test_shard_writes_and_reports(source_with_a_bad_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("shard", "--src", source_with_a_bad_file, "--out", out, "--size", "16", "--workers", "1")
    code, output = run(*arguments, "--json", "result.json")
    assert code == 0
    assert re.search(rf"(?m)^2 images in 1 tar in [\d.]+ s \([\d,]+ images/s\): {re.escape(str(out))}$", output)
    assert f"\nLeft out 1 file that could not be read: {out / 'rejected.jsonl'}\n" in output
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) == {"images", "rejected", "shards", "seconds", "images_per_second", "enlarged", "not_kept"}
    assert (result["images"], result["rejected"], result["shards"]) == (2, 1, 1)
    assert result["images_per_second"] == pytest.approx((result["images"] + result["rejected"]) / result["seconds"])


def test_train_refuses_wrong_settings() -> None:
    start = ("train", "--gpus", "0")
    code, output = run(*start, "--set", "epoch=3")
    assert code == 2
    names = "expected NAME=VALUE with one of the names shards, arch, lrn, "
    assert output.startswith(f"Error: --set epoch=3: did you mean epochs? {names}")
    assert run(*start, "--set", "whirl=3")[1].startswith(f"Error: --set whirl=3: {names}")
    for other, ours in {"lerning_rate": "lr", "batch_size": "batch", "Dropout": "dropout"}.items():
        assert run(*start, "--set", f"{other}=1")[1].startswith(f"Error: --set {other}=1: did you mean {ours}? {names}")
    valueless = "--set epochs: it has no value. Write it as --set epochs=VALUE; --set help lists all."
    assert_refused(valueless, *start, "--set", "epochs")
    assert_refused("--set epochs=many: epochs takes a whole number.", *start, "--set", "epochs=many")
    assert_refused("--set dropout=half: dropout takes a number.", *start, "--set", "dropout=half")
    assert_refused("crops is maybe; it must be random, resized or central.", *start, "--set", "crops=maybe")
    assert_refused("--set compile=maybe: compile takes true or false.", *start, "--set", "compile=maybe")
    for wrong in ("0.5", "1,0.5", "0,1", "0.5,1.5", "a,b", "1/0,1"):
        message = f"scale is {wrong}; it must be two numbers above 0 such as 0.08,1, the least first."
        assert_refused(message, *start, "--set", "crops=resized", "--set", f"scale={wrong}")
    assert_refused("scale is 0.3,1; it must be 0.08,1 unless crops is resized.", *start, "--set", "scale=0.3,1")
    assert_refused("erasing is 1.5; it must be from 0 to 1.", *start, "--set", "erasing=1.5")
    assert_refused("dropout is 1.5; it must be at least 0 and below 1.", *start, "--set", "dropout=1.5")
    assert_refused("lr is -1.0; it must be 0 or more.", *start, "--lr", "-1")
    assert_refused("lr is nan; it must be 0 or more.", *start, "--lr", "nan")
    assert_refused("window is 0; it must be at least 1.", *start, "--order", "window", "--set", "window=0")
    assert_refused("order is stored; it must be random or window.", *start, "--set", "order=stored")


def test_set_help_lists_every_setting() -> None:
    code, output = run("train", "--gpus", "0", "--recipe", "fast", "--set", "help")
    assert code == 0
    assert {"epochs=30", "schedule=cosine", "crops=random"} < set(output.splitlines())
    pairs = re.findall(r"^(\w+)=.*\n    (\S.*)", output, re.M)
    assert [name for name, _ in pairs] == [field.name for field in fields(TrainConfig) if field.name != "recipe"]
    assert dict(pairs)["warmup_epochs"] == "The learning rate rises linearly from 0 over these."
    assert "One of towers, all, none." in output


def test_numbers_of_gpus_are_not_a_number_of_gpus() -> None:
    for command in (("train",), ("paper", "--shards", "s"), ("eval", "run")):
        code, output = run(*command, "--gpus", "0,2")
        assert code == 2
        assert "'0,2': it takes how many. Choose which: CUDA_VISIBLE_DEVICES=0,2, --gpus 2." in output


def test_train_refuses_folders(tmp_path: Path, jpeg_shards: Path) -> None:
    start = ("train", "--gpus", "0")
    assert_refused(
        "nowhere is not a shard set: there is no such folder. Give another path (--shards), or make it with: "
        "alexnet-fast shard --src IMAGES --out nowhere",
        *(*start, "--shards", "nowhere"),
    )
    assert list(tmp_path.iterdir()) == []  # no run folder was begun
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    assert_refused(
        "old already holds a run. Add --resume to resume it, or choose another --run.",
        *(*start, "--shards", jpeg_shards, "--run", "old"),
    )
    assert (tmp_path / "old" / "config.json").read_text() == "{}"


def test_a_refused_start_leaves_nothing_and_the_corrected_command_works(
    image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    assert run("shard", "--src", image_folder, "--out", "small", "--size", "64", "--workers", "1")[0] == 0
    train_only = ("shard", "--src", image_folder / "train", "--out", "no-val", "--size", "96", "--workers", "1")
    assert run(*train_only)[0] == 0
    start = ("train", "--gpus", "0", "--run", "runs/a", "--epochs", "1", "--set", "hidden=16", "--resume")
    sets = ("--shards", jpeg_shards, "--batch", "30")
    for wrong in (
        ("--shards", "small"),
        ("--shards", "no-val", "--set", "schedule=plateau"),
        (*sets, "--set", "crop=97"),
        (*sets, "--set", "crop=60"),
        (*sets, "--accumulate", "31"),
        (*sets, "--parallel", "towers"),
        (*sets, "--set", "init=nowhere"),
    ):
        code, output = run(*start, *wrong)
        assert (code, output.count("Error: ")) == (2, 1), output
        assert not (tmp_path / "runs").exists(), wrong
    code, output = run(*start, *sets)
    assert code == 0, output
    assert json.loads((tmp_path / "runs" / "a" / "config.json").read_text())["shards"] == str(jpeg_shards)
    assert sorted(path.name for path in (tmp_path / "runs" / "a").glob("*.pt")) == ["best.pt", "last.pt"]
    size = sum((tmp_path / "runs" / "a" / name).stat().st_size for name in ("best.pt", "last.pt"))
    assert f"\nCheckpoints kept: best.pt, last.pt ({size / 1e6:,.2f} MB)\n" in output


def test_resume_refuses_what_it_cannot_go_on_with(tmp_path: Path) -> None:
    resume = ("train", "--gpus", "0", "--resume")
    assert_refused("--resume needs --run: the folder of the run to resume.", *resume)
    message = (
        "run holds no run to resume. To begin one there that --resume finds later, give its settings too "
        "(--recipe fast, say)."
    )
    for _ in range(2):  # no such folder, then an empty one
        assert_refused(message, *resume, "--run", "run", "--threads", "1", "--epochs", "2")
        (tmp_path / "run").mkdir(exist_ok=True)
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "run" / "config.json").write_text('{"epochs": 3, "whirl": 1}')
    message = (
        "run/config.json has settings that this version of alexnet-fast does not know (whirl): it is of a newer one."
    )
    assert_refused(f"{message} Install that.", *resume, "--run", "run")
    (tmp_path / "run" / "config.json").write_text('{"epochs": 3, "recipe": "paper"}')
    assert_refused(
        "run was begun with batch 128, and --resume keeps the run's own settings: leave out batch, or choose another "
        "--run. Only epochs, shards, threads, cache, cache_bytes, parallel, accumulate, save_every, keep, log_every, "
        "tensorboard, layer_scales, cuda_graphs may differ (shards: where the same set lies).",
        *(*resume, "--run", "run", "--epochs", "2", "--recipe", "paper", "--save-every", "5", "--set", "batch=8"),
    )
    (tmp_path / "run" / "last.pt").write_bytes(b"damaged")
    message = f"run/last.pt cannot be read as a checkpoint: {CORRUPT}"
    assert_refused(message, *resume, "--run", "run")


CORRUPT = (
    "it is corrupt or another program's. Take another, or train in another --run; alexnet-fast import reads other "
    "programs' weights."
)


def test_eval_refuses_checkpoints(tmp_path: Path) -> None:
    hint = "Name a run folder, or a checkpoint (last.pt or best.pt) in it."
    assert_refused(f"nowhere.pt does not exist. {hint}", "eval", "nowhere.pt")
    (tmp_path / "run").mkdir()
    assert_refused(f"run/last.pt does not exist. {hint}", "eval", "run")
    torch.save({"model": {}}, tmp_path / "other.pt")
    assert_refused(
        "other.pt is another program's. Where it holds AlexNet's weights, make a checkpoint of it with: "
        "alexnet-fast import other.pt net.pt",
        "eval",
        "other.pt",
    )
    whole = (tmp_path / "other.pt").read_bytes()
    for data in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        (tmp_path / "bad.pt").write_bytes(data)
        message = f"bad.pt cannot be read as a checkpoint: {CORRUPT}"
        assert_refused(message, "eval", "bad.pt")
