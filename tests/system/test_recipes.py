"""tools/recipes.py on a small set: a row for each candidate, and nothing trained twice."""

import json
from pathlib import Path

from click.testing import CliRunner

from tools.recipes import PLAIN, RECIPE, Trial, main, table


def made_up(folder: Path, seconds: list[float], top1s: list[float]) -> Trial:
    """A training of the plain loop, whose log has just these."""
    folder.mkdir()
    lines = [json.dumps({"seconds": s, "val_top1": top1}) for s, top1 in zip(seconds, top1s, strict=True)]
    (folder / "log.jsonl").write_text("\n".join(lines))
    return Trial(PLAIN, 0, folder, len(top1s))


def test_intervals_and_minutes(tmp_path: Path) -> None:
    """By hand: 75, 76 and 80 % have the mean 77, a deviation of sqrt(7) and, with Student's 4.303, 6.57 to either side;
    75 % is reached after 2, 4 and 3 minutes."""
    numbers: list[tuple[list[float], list[float]]] = [
        ([60, 120], [50, 75]),
        ([120, 240], [74.9, 76]),
        ([60, 180], [60, 80]),
    ]
    trials = [made_up(tmp_path / f"{i}", seconds, top1s) for i, (seconds, top1s) in enumerate(numbers)]
    (line,) = table([RECIPE, PLAIN], trials, 75.0)
    assert line.split() == ["plain", "77.00", "[70.43,", "83.57]", "75", "%", "after", "3.0", "min"]
    (line,) = table([PLAIN], trials, 78.0)
    assert "min" not in line  # two of three never were there


def test_a_candidate_beside_the_recipe_and_a_plain_loop(raw_shards: Path, tmp_path: Path) -> None:
    small = ["hidden=16", PLAIN]
    given = ["--shards", str(raw_shards), "--epochs", "1", "--seeds", "1", "--processes", "1"]

    def compared(*more: str) -> str:
        result = CliRunner().invoke(main, [str(tmp_path / "runs"), *given, *small, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    first = compared("--out", str(tmp_path / "record")).splitlines()
    rows = json.loads((tmp_path / "record" / "numbers.json").read_text())["runs"]
    assert [row["candidate"] for row in rows] == [RECIPE, *small]
    assert all(len(row["curve"]) == 1 and row["curve"][0][0] > 0 for row in rows)
    assert [line.split()[:2] for line in first[-3:]] == [
        [row["candidate"], f"{row['curve'][0][1]:.2f}"] for row in rows
    ]
    config = json.loads((tmp_path / "runs" / "hidden=16-0" / "config.json").read_text())
    assert (config["hidden"], config["recipe"], config["threads"]) == (16, "fast", 1)
    assert compared().splitlines() == first[-3:]  # nothing is trained again
