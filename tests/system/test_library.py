"""The README's example of a training loop of one's own."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_s_own_loop_trains(jpeg_shards: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    (example,) = [block for block in blocks if "Loader.training" in block]
    program = tmp_path / "own_loop.py"
    program.write_text(
        example.replace("shards/imagenet", str(jpeg_shards))
        .replace("crop=224", "crop=64")
        .replace("batch=256", "batch=20")
        .replace("range(90)", "range(12)")
        + "\nimport sys\nprint([name for name in sys.modules if name.startswith('alexnet_fast.training')])\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, modules = done.stdout.splitlines()
    assert modules == "[]", "the loader must not need the trainer"
    losses = [float(line.split()[-1]) for line in lines]
    assert len(losses) == 12
    assert losses[-1] < 0.7 * losses[0]


def test_a_loop_left_early_says_nothing_at_the_end(jpeg_shards: Path) -> None:
    """Python then ends the loader when half of the modules are gone."""
    program = (
        "from alexnet_fast import Loader, ShardSet\n"
        f"batches = iter(Loader.training(ShardSet({str(jpeg_shards)!r}).split('train'), batch=8, crop=64))\n"
        "next(batches)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
