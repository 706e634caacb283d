"""The page: it needs nothing from elsewhere, escapes everything, names what it lacks, and fits a phone's window."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from alexnet_fast.cli.main import main
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.counts import wilson
from alexnet_fast.recipes import RECIPES
from alexnet_fast.report import page as report_page
from alexnet_fast.report.page import write_report
from alexnet_fast.report.record import read_run
from alexnet_fast.training import checkpoint
from tests.report.conftest import NASTY, change, evaluation, keep_evaluations

pytestmark = pytest.mark.system  # each draws a page: some seconds

VOID = {"meta", "img", "wbr", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Raises AssertionError where a tag is not closed in its place, or anything outside the page is named."""

    def __init__(self, path: Path, *, closed: bool = True) -> None:
        """`closed=False`: without the rows that are inside a closed <details>."""
        super().__init__()
        self.closed, self.is_closed = closed, False
        self.open: list[str] = []
        self.tags: list[str] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.alts: list[str] = []
        self.text = ""
        source = path.read_text(encoding="utf-8")
        self.feed(source)
        self.close()
        assert not self.open
        style = source[source.index("<style>") : source.index("</style>")]
        assert not re.search(r"url\(|@import|http", style)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "details":
            self.is_closed = "open" not in dict(attributes)
        elif tag == "h2":
            self.headings.append("")
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in ("href", "srcset", "action", "poster", "data")
            if name == "src":
                assert value
                assert value.startswith("data:image/")
        if tag == "img":
            alt = dict(attributes)["alt"]
            assert alt
            self.alts.append(alt)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "tr" and self.is_closed and not self.closed:
            self.rows.pop()
        elif tag == "details":
            self.is_closed = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings[-1] += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_of_a_run(trained_run: Path, tmp_path: Path) -> None:
    result = write_report([trained_run], tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    page = Page(tmp_path / "page.html")
    assert page.headings == [
        "Training",
        "Epochs",
        "What the first layer looks for",
        "Five best predictions",
        "Nearest training images",
        "Confusions",
        "Settings",
        "Environment",
    ]
    assert result["left_out"] == []
    assert len(page.alts) == 4 + 1 + 10 + 5 * 7 + 1
    rows = {row[0]: row[1:] for row in page.rows}
    log = [json.loads(line) for line in (trained_run / "log.jsonl").read_text().splitlines()]
    last = next(line for line in log if line.get("val_top1") is not None and line["epoch"] == 2)
    assert rows["2"][:2] == [f"{last['val_top1']:.2f}", f"{last['val_top5']:.2f}"]
    assert rows["hidden"] == ["32", "4096"]
    assert rows["momentum"] == ["0.9"]
    config = json.loads((trained_run / "config.json").read_text())
    differs = {name for name, value in config.items() if value != RECIPES["paper"].as_dict()[name]}
    assert {name for name in config if len(rows[name]) == 2} == differs
    shown = [row[0] for row in Page(tmp_path / "page.html", closed=False).rows]
    assert {name for name in config if name in shown} == differs
    environment = json.loads((trained_run / "environment.json").read_text())
    assert rows["torch"] == [environment["packages"]["torch"]]
    assert "finished: 2 epochs" in page.text
    assert "60 images for training, 18 for validation, 3 classes." in page.text
    ended = datetime.fromisoformat(log[-1]["time"]).astimezone()
    began = datetime.fromisoformat(environment["began"]).astimezone()
    assert f"Began {began:%Y-%m-%d %H:%M}, ended {ended:%Y-%m-%d %H:%M}." in page.text
    assert 0 <= (ended - began).total_seconds() < 3600
    assert "the nearest of all training images" in page.text


def test_what_eval_kept_is_shown(run: Path, tmp_path: Path) -> None:
    """The newest of each checkpoint, split, number of views and crop."""
    once = evaluation(top1=10.0)
    malformed: list[Any] = [[], 3, None, evaluation(top1="x"), evaluation(split=["val"]), {"checkpoint": "best.pt"}]
    keep_evaluations(run, once, evaluation(views=10), *malformed, evaluation(epochs=2, damaged=3))
    with (run / "evaluations.jsonl").open("a") as file:
        file.write('{"time": "2026')
    result = write_report([run], tmp_path / "page.html")
    assert result["left_out"] == [f"7 unreadable lines of {run / 'evaluations.jsonl'}"]
    page = Page(tmp_path / "page.html")
    assert page.headings[:4] == ["Training", "Epochs", "Evaluations", "What the first layer looks for"]
    rows = [row for row in page.rows if row[0].startswith("best.pt")]
    date = f"{datetime.fromisoformat(once['time']).astimezone():%Y-%m-%d %H:%M}"
    scores = ["50.00 (40.4 to 59.6)", "90.00 (82.6 to 94.5)", date]
    assert rows == [
        ["best.pt, 1 epoch", *scores, "100", "10", "84", "fp32", "val", "/set"],
        ["best.pt, 2 epochs", *scores, "100, 3 corrupt", "1", "84", "fp32", "val", "/set"],
    ]


def test_everything_is_escaped(nasty_page: Path) -> None:
    page = Page(nasty_page)
    assert not {"script", "b"} & set(page.tags)
    assert str(nasty_page.parent) in page.text
    assert ["init", NASTY, ""] in page.rows
    for label in range(3):
        assert f"Validation image: {label} {NASTY}" in page.alts
        assert f"{label} {NASTY}" in page.text


def test_results_are_those_of_the_log(trained_run: Path, tmp_path: Path) -> None:
    (result,) = write_report([trained_run], tmp_path / "page.html")["runs"]
    log = [json.loads(line) for line in (trained_run / "log.jsonl").read_text().splitlines()]
    evaluations = [line for line in log if "val_top1" in line]
    last, best = evaluations[-1], max(evaluations, key=lambda line: line["val_top1"])
    low, high = wilson(last["val_top1"], 18)
    steps = [line for line in log if "loss" in line]
    seconds = [16 / line["images_per_second"] for line in steps]
    expected = {
        "run": str(trained_run),
        "last_epoch": last["epoch"],
        "last_top1": last["val_top1"],
        "last_top5": last["val_top5"],
        "low": low,
        "high": high,
        "best_epoch": best["epoch"],
        "best_top1": best["val_top1"],
        "top5": best["val_top5"],
        "top1_error": 100 - best["val_top1"],
        "top5_error": 100 - best["val_top5"],
        "images_per_second": 16 * 8 / sum(seconds),
        "data_wait": sum(s * line["data_wait"] for s, line in zip(seconds, steps, strict=True)) / sum(seconds),
        "seconds": sum(seconds),
        "peak_gib": max(line["peak_gib"] for line in steps),
    }
    assert result == pytest.approx(expected)


def test_a_comparison(trained_run: Path, run: Path, tmp_path: Path) -> None:
    change(run / "config.json", lr=0.5, dropout=0.25)
    change(run / "environment.json", cores=999)
    log = run / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))  # one epoch
    write_report([trained_run, run], tmp_path / "both.html")
    page = Page(tmp_path / "both.html")
    assert page.headings == ["Results", "Training", "Settings that differ", "Environments that differ"]
    assert len(page.alts) == 5
    rows = {row[0]: row[1:] for row in page.rows}
    settings = [row for row in page.rows if row[0] in read_run(run).config]
    assert settings == [["lr", "0.00125", "0.5"], ["dropout", "0.5", "0.25"]]
    assert rows["cores"][1] == "999"
    top1 = json.loads(log.read_text().splitlines()[-1])["val_top1"]
    assert rows["run"][0] == f"{top1:.2f}"
    assert (rows["paper"][5], rows["run"][5]) == ("2 of 2", "1 of 2")


def test_runs_of_one_name_are_distinguished(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other" / "run")
    write_report([run, other], tmp_path / "both.html")
    page = Page(tmp_path / "both.html")
    assert {str(run), str(other)} < {row[0] for row in page.rows}
    assert "None: the runs have the same settings." in page.text


def begun(run: Path) -> None:
    for name in ("last.pt", "best.pt", "log.jsonl", "environment.json"):
        (run / name).unlink()


def of_an_earlier_version(run: Path) -> None:
    """Without what says when it ran, and on how many images."""
    environment = json.loads((run / "environment.json").read_text())
    for key in ("began", "train_images", "val_images", "classes"):
        del environment[key]
    (run / "environment.json").write_text(json.dumps(environment))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    texts = [json.dumps({key: value for key, value in line.items() if key != "time"}) for line in lines]
    (run / "log.jsonl").write_text("\n".join(texts) + "\n")


def one_epoch_under_way(run: Path) -> None:
    (run / "last.pt").unlink()
    (run / "best.pt").unlink()
    log = run / "log.jsonl"
    log.write_text(log.read_text().splitlines()[0] + '\n{"step": 2, "epo')


def without_val(run: Path) -> None:
    log = run / "log.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if "val_top1" not in line))


def other_lines(run: Path) -> None:
    with (run / "log.jsonl").open("a") as file:
        file.write('{"scales": {"conv1": 1.5}, "step": 9}\n{"step": 9, "epoch": 2, "loss": "x"}\n')
        file.write('{"epoch": 2, "val_top1": 150.0, "val_top5": 150.0, "val_images": 5000}\n')  # no percentage


def shards_gone(run: Path) -> None:
    state = checkpoint.load(run / "best.pt")
    state["config"]["shards"] = state["shards_path"] = "moved/away"
    (run / "last.pt").unlink()
    checkpoint.save(run / "best.pt", state)


def corrupt_checkpoint(run: Path) -> None:
    (run / "best.pt").write_bytes(b"")


@pytest.mark.parametrize(
    ("state", "left_out", "headings"),
    [
        (
            begun,
            ["curves", "validation accuracy", "kernels, predictions, neighbours, confusion: no checkpoint"],
            ["Settings"],
        ),
        (
            one_epoch_under_way,
            ["validation accuracy", "kernels, predictions, neighbours, confusion: no checkpoint", "1 unreadable lines"],
            ["Training", "Settings", "Environment"],
        ),
        (without_val, ["validation accuracy"], ["Training", "What the first layer looks for", "Five best predictions"]),
        (other_lines, [], ["Training", "Epochs"]),
        (of_an_earlier_version, [], ["Training", "Epochs", "What the first layer looks for"]),
        (
            shards_gone,
            ["predictions, neighbours, confusion: moved/away is not a shard set"],
            ["Training", "Epochs", "What the first layer looks for", "Settings", "Environment"],
        ),
        (corrupt_checkpoint, ["predictions, neighbours, confusion", "kernels"], ["Training", "Epochs", "Settings"]),
    ],
)
def test_whatever_state_the_run_is_in(
    run: Path, tmp_path: Path, state: Callable[[Path], None], left_out: list[str], headings: list[str]
) -> None:
    state(run)
    result = write_report([run], tmp_path / "page.html")
    assert len(result["left_out"]) == len(left_out)
    for note, start in zip(result["left_out"], left_out, strict=True):
        assert note.startswith(start)
    page = Page(tmp_path / "page.html")
    assert page.headings[: len(headings)] == headings
    for note in result["left_out"]:
        assert note in page.text


def test_of_many_classes_the_worst_pairs_are_listed(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "MATRIX_CLASSES", 2)
    write_report([trained_run], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "Confusion matrix" not in page.alts
    head = page.rows.index(["class", "predicted", "images", "of the class, %"])
    top1 = read_run(trained_run).results()["best_top1"]
    assert top1 is not None
    pairs = [row for row in page.rows[head + 1 :] if len(row) == 4]
    assert sum(int(row[2]) for row in pairs) == round(18 * (1 - top1 / 100))


def command(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_command(run: Path, tmp_path: Path) -> None:
    shards_gone(run)
    assert run.is_dir()
    code, output = command(run, "--json", tmp_path / "result.json")
    assert code == 0
    first, second = output.splitlines()
    assert first.startswith("Left out predictions, neighbours, confusion: moved/away is not a shard set")
    assert second == str(run / "report.html")
    body = json.loads((tmp_path / "result.json").read_text())
    assert set(body) == {"report", "runs", "left_out"}
    assert body["report"] == second
    assert Page(run / "report.html").alts


def test_the_command_refuses_its_input(run: Path, tmp_path: Path) -> None:
    assert command(run, run) == (2, "Error: a comparison of several runs needs --out FILE.html.\n")
    message = f"{tmp_path} is not a run folder: it has no config.json. Name a folder that train --run made."
    assert command(tmp_path) == (2, f"Error: {message}\n")
    missing = f"{tmp_path / 'typo'} is not a run folder: there is no such folder. Name a folder that train --run made."
    assert command(tmp_path / "typo") == (2, f"Error: {missing}\n")
    assert command(run, tmp_path, "--out", tmp_path / "a.html") == (2, f"Error: {message}\n")
    for out in (run / "last.pt", tmp_path / "nowhere" / "a.html"):
        code, output = command(run, "--out", out)
        assert (code, output) == (2, f"Error: --out {out} must end in .html and lie in a folder that is there.\n")
    for text in ("", "[1]", '{"epochs": 3'):
        (run / "config.json").write_text(text)
        expected = f"Error: {run}/config.json is corrupt: it holds no JSON object. Name another run.\n"
        assert command(run) == (2, expected)
    for text in ("{}", '{"epochs": 3, "batch": "64"}', '{"epochs": 0, "batch": 64}'):
        (run / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json is corrupt: its (epochs|batch) cannot be right"):
            read_run(run)
    assert not list(tmp_path.rglob("*.html"))
