"""The manual's examples of the loader in one's own code: each is a program that runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


def run(example: str, shards: Path, program: Path) -> list[str]:
    """What the example prints on a small set, and then the modules of the trainer that it has imported: none."""
    smaller = {"shards/imagenet": str(shards), "crop=224": "crop=64", "batch=256": "batch=20", "range(90)": "range(12)"}
    for text, other in smaller.items():
        example = example.replace(text, other)
    modules = "[name for name in sys.modules if name.startswith('alexnet_fast.training')]"
    program.write_text(f"{example}\nimport sys\nprint({modules})\n")
    done = subprocess.run([sys.executable, "-W", "error", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, modules = done.stdout.splitlines()
    assert modules == "[]", "the loader must not need the trainer"
    return lines


@pytest.mark.parametrize("page", ["README.md", "docs/loader.md"])
def test_the_loops_of_one_s_own_train(page: str, jpeg_shards: Path, tmp_path: Path) -> None:
    loops = [example for example in examples(page) if "backward()" in example]
    for loop in loops:
        losses = [float(line.split()[-1]) for line in run(loop, jpeg_shards, tmp_path / "own_loop.py")]
        assert len(losses) == 12
        assert losses[-1] < 0.7 * losses[0]
    assert loops


def test_the_other_examples_run(jpeg_shards: Path, tmp_path: Path) -> None:
    others = [example for example in examples("docs/loader.md") if "backward()" not in example]
    for example in others:
        assert run(example, jpeg_shards, tmp_path / "example.py") == []
    assert len(others) >= 3


def test_a_loop_left_early_says_nothing_at_the_end(jpeg_shards: Path) -> None:
    """Python then ends the loader when half of the modules are gone."""
    program = (
        "from alexnet_fast import Loader, ShardSet\n"
        f"batches = iter(Loader.training(ShardSet({str(jpeg_shards)!r}).split('train'), batch=8, crop=64))\n"
        "next(batches)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
