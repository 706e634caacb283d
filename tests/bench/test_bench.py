"""The advice on made-up rates; and the command from shards to table, JSON and picture."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from alexnet_fast import native
from alexnet_fast.bench import run
from alexnet_fast.bench.advice import BenchSetup, advise, expected, find_limit, imagenet, noise, number
from alexnet_fast.bench.report import STAGES, BenchReport
from alexnet_fast.cli.main import main
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.loading import decoders, share
from alexnet_fast.loading.share import ShareTrials
from alexnet_fast.recipes import make_config
from alexnet_fast.text import duration

CPU = BenchSetup(
    shards="shards/imagenet",
    encoding="jpeg",
    size=256,
    image_bytes=15_000,
    arch="bn",
    batch=128,
    crop=224,
    precision="bf16",
    device="cpu",
    gpus=0,
    threads=2,
    cores=2,
)
GPU = replace(CPU, device="NVIDIA H100", gpus=1, threads=16, cores=16)
RATES = {"read": 400_000.0, "decode": 5_500.0, "loader": 5_000.0, "step": 200.0, "joint": 190.0}


def test_a_slow_network_is_the_limit() -> None:
    assert find_limit(RATES) == "step"
    assert advise(RATES, CPU) == [
        "The network is the limit: the loader alone is 25 times as fast.",
        "What would help: a GPU, a smaller crop, or more cores.",
    ]
    rates = {**RATES, "copy": 90_000.0}
    assert advise(rates, GPU) == [
        "The network is the limit: the loader alone is 25 times as fast.",
        "A larger batch often uses a GPU better: try --batch 256.",
    ]
    assert "--precision bf16" in advise(rates, replace(GPU, precision="fp32"))[1]
    assert "What would help: a GPU (--gpus 1)," in advise(RATES, replace(CPU, gpus=1))[1]
    rates = {**RATES, "step": 4_900.0, "joint": 2_400.0}
    assert advise(rates, CPU)[0] == "The network is the limit, but only just: the loader alone is about as fast."


def test_a_loader_on_the_network_s_cores_may_take_much_of_them() -> None:
    rates = {**RATES, "step": 1_000.0, "joint": 800.0}
    assert expected(rates, CPU) == pytest.approx(1 / (1 / 5_000 + 1 / 1_000))
    raw = "Raw images in the shard set would give most of that back."
    assert advise(rates, CPU)[1] == f"The loader takes 17 % of the cores' time. {raw}"
    assert raw not in " ".join(advise(rates, replace(CPU, encoding="raw")))


@pytest.mark.parametrize(
    ("setup", "ways"),
    [
        (CPU, "{raw}, or the decoder of a GPU."),
        (
            replace(CPU, cores=8, gpus=1),
            "more --threads (2 of 8 cores used), {raw}, or the decoder of a GPU (--gpus 1).",
        ),
        (GPU, "{raw}, or a larger batch (--batch 256)."),
        (replace(CPU, encoding="mixed"), "a larger share of raw images in the set, or the decoder of a GPU."),
    ],
)
def test_slow_decoding_is_the_limit(setup: BenchSetup, ways: str) -> None:
    rates = {**RATES, "copy": 90_000.0, "step": 16_000.0, "joint": expected({**RATES, "step": 16_000.0}, setup)}
    assert find_limit(rates) == "decode"
    raw = "a raw or mixed shard set (alexnet-fast shard --encoding raw: 13 times the bytes)"
    assert advise(rates, setup) == [
        "The loader is the limit: decoding takes 91 % of its time.",
        "What would help: " + ways.format(raw=raw),
    ]


def test_other_parts_of_the_loader_may_be_the_limit() -> None:
    fast = {**RATES, "step": 16_000.0, "joint": 3_900.0}
    reading = {**fast, "read": 5_600.0}
    assert find_limit(reading) == "read"
    assert advise(reading, CPU)[0] == "Reading is the limit: 84 MB/s in random order."
    assert "JPEG" not in advise(reading, CPU)[1]
    raw = replace(CPU, encoding="raw", image_bytes=3 * 256**2 + 128)
    assert "a JPEG set" in advise(reading, raw)[1]
    converting = {**fast, "decode": 20_000.0}
    assert find_limit(converting) == "loader"
    assert advise(converting, raw) == [
        "The loader is the limit: flips, colour and conversion take 75 % of its time.",
        "What would help: a GPU, which does them at no cost.",
    ]
    copied = {**fast, "decode": 5_100.0, "copy": 5_200.0, "joint": 5_000.0}
    assert find_limit(copied) == "copy"  # the crops of a JPEG set that the host decodes
    assert advise(copied, GPU) == [
        "The copy to the GPU is the limit: 0.78 GB/s of uint8 crops.",
        "What would help: a smaller crop.",
    ]
    assert "a JPEG shard set, " in advise(copied, replace(GPU, encoding="raw"))[1]
    assert find_limit({**copied, "copy": 50_000.0}) == "decode"


def test_raw_crops_on_all_cores_leave_only_more_cores() -> None:
    rates = {**RATES, "step": 16_000.0, "joint": 3_800.0}
    assert advise(rates, replace(CPU, encoding="raw", image_bytes=196_736)) == [
        "The loader is the limit: copying crops takes 91 % of its time.",
        "What would help: more or faster cores.",
    ]


def test_stages_that_slow_each_other_down() -> None:
    sentence = advise({**RATES, "joint": 100.0}, CPU)[-1]
    assert sentence.startswith("Loader and network together reach 52 % of what the two allow alone: ")
    assert sentence.endswith("Try --threads 1.")
    assert advise({**RATES, "joint": 100.0}, replace(CPU, threads=1))[-1].endswith("on these cores.")


def test_turns_that_differ_are_named() -> None:
    assert noise({"step": [100.0, 120.0], "joint": [100.0, 110.0]}) == []
    assert noise({"step": [100.0, 120.0], "joint": [100.0, 210.0]}) == [
        "The turns of joint differ by a factor of 2.1: something else ran on this machine. "
        "Measure again when it is idle."
    ]


def test_durations_and_numbers() -> None:
    seconds = [0.4, 59.4, 59.6, 6720.0, 3599.9, 86_399.0, 604_800.0]
    assert [duration(value) for value in seconds] == [
        *("0 s", "59 s", "1 min 0 s", "1 h 52 min", "1 h 0 min", "1 d 0 h", "7 d 0 h")
    ]
    assert [number(value) for value in (7900.4, 25.0, 1.26)] == ["7,900", "25", "1.3"]
    assert imagenet(190) == (
        "ImageNet's 1,281,167 images at 190 images/s: 1 h 52 min an epoch, 7 d 1 h for 90, evaluation not counted."
    )


def test_the_table_names_every_stage_and_the_limit() -> None:
    turns = {stage: [RATES[stage]] if stage in RATES else [] for stage in STAGES}
    lines = BenchReport(CPU, turns).as_text(width=80).splitlines()
    assert f"native: {native.decoder()}" in lines[0]
    for stage, what in STAGES.items():
        (line,) = [line for line in lines if line.startswith(f"│ {stage}")]
        assert what in line
        assert ("no GPU" in line) == (stage == "copy")
        assert (f"{stage} <" in line) == (stage == "step")
    assert lines[-1] == imagenet(190)
    raw = BenchReport(replace(CPU, encoding="raw"), turns).as_text(width=80)
    assert "JPEG" not in raw
    assert "libnvcuvid" not in "".join(lines)
    on_gpu = BenchReport(replace(GPU, libnvcuvid="found"), turns).as_text(width=80)
    assert on_gpu.splitlines()[0].endswith("; libnvcuvid: found)")


@pytest.mark.parametrize("shards", ["jpeg", "raw", None])
def test_bench_end_to_end(
    shards: str | None, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With None it draws its own images."""
    monkeypatch.setattr(run, "SECONDS", 0.1)
    monkeypatch.setattr(run, "SAMPLES_PER_CLASS", 1)
    where = ["--shards", str(request.getfixturevalue(f"{shards}_shards"))] if shards else []
    files = [tmp_path / "bench.json", tmp_path / "bench.png"]
    options = ["--gpus", "0", "--turns", "1", "--batch", "16", "--crop", "64", "--recipe", "fast", "--threads", "1"]
    result = CliRunner().invoke(main, ["bench", *where, *options, "--json", str(files[0]), "--picture", str(files[1])])
    assert result.exit_code == 0, result.output
    body = json.loads(files[0].read_text())
    keys = {"setup", "images_per_second", "host_shares", "limit", "advice", "imagenet_seconds", "environment"}
    assert set(body) == keys
    assert body["host_shares"] == []
    assert list(body["images_per_second"]) == list(STAGES)
    for stage, rate in body["images_per_second"].items():
        if stage == "copy":
            assert rate is None
            continue
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
        assert len(rate["turns"]) == 1
    setup = body["setup"]
    assert (setup["batch"], setup["crop"], setup["threads"], setup["arch"]) == (16, 64, 1, "bn")
    assert (setup["encoding"], setup["device"]) == (shards or "jpeg", "cpu")
    assert body["limit"] in STAGES
    assert body["imagenet_seconds"]["epoch"] == pytest.approx(1_281_167 / body["images_per_second"]["joint"]["median"])
    assert body["environment"]["packages"]["torch"]
    assert body["environment"]["native"] == native.decoder()
    assert {"libjpeg", "instructions"} <= set(body["environment"])
    for sentence in body["advice"]:
        assert sentence in result.output
    with Image.open(files[1]) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_what_was_tried_is_shown() -> None:
    turns = {stage: [RATES[stage]] if stage in RATES else [] for stage in STAGES}
    report = BenchReport(GPU, turns, {1.0: 31_204.0, 0.0: 20_300.0, 0.625: 40_100.0})
    assert (
        "JPEGs decoded on the host, the others on the GPU: all 31,204 images/s, none 20,300 images/s, 62.5 % 40,100 "
        "images/s; 62.5 % is taken." in report.as_text().splitlines()
    )
    assert report.as_dict()["host_shares"][2] == {"share": 0.625, "images_per_second": 40_100.0}
    assert "JPEGs decoded on" not in BenchReport(CPU, turns).as_text()


def test_the_share_is_settled_before_it_is_measured(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but both decode on the CPU."""
    if native.decoder() == "none":
        pytest.skip("needs the compiled code and its libjpeg")
    for name, value in (("STARTING", 0), ("SETTLING", 1), ("MEASURED", 1)):
        monkeypatch.setattr(share, name, value)
    monkeypatch.setattr(decoders, "needs_dali", lambda device: True)
    monkeypatch.setattr(run, "SECONDS", 0.01)
    monkeypatch.setattr(run, "WARM_SECONDS", 0.0)
    trials: list[ShareTrials] = []
    measure = run._measure

    def measured(stage: run.Stage, device: torch.device) -> float:
        if stage.trials:
            assert stage.trials.done
            trials.append(stage.trials)
        return measure(stage, device)

    monkeypatch.setattr(run, "_measure", measured)
    config = make_config("fast", shards=str(jpeg_shards), batch=16, crop=64, threads=2, hidden=16)
    report = run.bench(config, gpus=0, turns=1)
    assert len(trials) == 3
    assert report.shares == trials[-1].rates
    assert {1.0, 0.0} <= report.shares.keys()


def test_bench_takes_the_batch_that_training_would(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainConfig] = []

    def record(config: TrainConfig, gpus: int | None, turns: int) -> BenchReport:
        seen.append(config)
        raise InputError("that is all")

    monkeypatch.setattr(run, "bench", record)
    command = ["bench", "--shards", str(jpeg_shards), "--recipe", "fast"]
    output = CliRunner().invoke(main, command).output
    assert (seen[0].batch, seen[0].lr) == (32, 0.4 * 32 / 1024)
    assert "batch 32 in place of the recipe's 1,024, because 60 training images are few" in output
    assert "2 steps an epoch and 60 in all, not 1 and 30; learning rate 0.0125 in place of 0.4\n" in output
    assert CliRunner().invoke(main, [*command, "--batch", "48"]).output == "Error: that is all\n"
    assert seen[1].batch == 48


def test_bench_refuses_its_input(tmp_path: Path, jpeg_shards: Path) -> None:
    for arguments, message in (
        (["--shards", "nowhere"], "nowhere is not a shard set: there is no such folder."),
        (["--shards", jpeg_shards, "--crop", "200"], "crop 200 is larger than the stored images (96 px)."),
        (["--picture", "nowhere/bench.png"], "--picture nowhere/bench.png must end in .png and lie in a folder"),
        (["--picture", tmp_path / "bench.gif"], f"--picture {tmp_path}/bench.gif must end in .png"),
    ):
        result = CliRunner().invoke(main, ["bench", "--gpus", "0", "--batch", "16", *map(str, arguments)])
        assert (result.exit_code, result.output.startswith(f"Error: {message}")) == (2, True), result.output
