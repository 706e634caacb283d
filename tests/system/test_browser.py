"""The page in a browser, narrow and wide."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.report.page import write_report

PROBE = """<!DOCTYPE html><meta charset="utf-8">
<iframe width="WIDTH" height="900" style="border: 0"></iframe><pre></pre>
<script>
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, images = [...page.images], all = [...page.querySelectorAll('main *')];
  document.querySelector('pre').textContent = JSON.stringify({
    window: frame.contentWindow.innerWidth,
    width: page.documentElement.scrollWidth,
    images: images.length,
    shown: images.filter(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 40).length,
    smallest: Math.min(...all.map(e => parseFloat(getComputedStyle(e).fontSize))),
  });
};
frame.srcdoc = SOURCE;
</script>"""
"""Shows the page in a frame of that width, and measures it. Widths in CSS pixels."""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("runs", [1, 3])
def test_in_a_browser(
    nasty_page: Path, trained_run: Path, run: Path, tmp_path: Path, browser: Callable[..., str], runs: int, width: int
) -> None:
    """No element but those inside a box that scrolls is wider than the window, and every picture is shown."""
    page = nasty_page
    if runs > 1:
        page = tmp_path / "compared.html"
        write_report([nasty_page.parent, trained_run, run], page)
    probe = tmp_path / "probe.html"
    source = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    probe.write_text(PROBE.replace("WIDTH", str(width)).replace("SOURCE", source), encoding="utf-8")
    (text,) = re.findall("<pre>(.*)</pre>", browser(probe, "--virtual-time-budget=5000", "--dump-dom"))
    measured = json.loads(text)
    assert measured["window"] == width
    assert measured["width"] <= width
    assert measured["shown"] == measured["images"] > (40 if runs == 1 else 4)
    assert measured["smallest"] >= 12
    shot = tmp_path / "shot.png"
    browser(page, f"--screenshot={shot}", f"--window-size={width},2000")
    picture = np.asarray(Image.open(shot).convert("L"))
    assert picture.shape == (2000, width)
    assert 0.01 < (picture < 128).mean() < 0.6
    assert all((band < 128).any() for band in np.array_split(picture, 8))  # no empty screen
