"""The manual as a site: every link and anchor leads somewhere, and every page fits a desk and a phone."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mkdocs.exceptions import Abort

from tools import site

pytestmark = pytest.mark.filterwarnings("ignore:Error parsing type annotation:UserWarning")

PROBE = """<!DOCTYPE html><meta charset="utf-8"><pre></pre>
<script>
const measured = {}, pages = PAGES;
function next() {
  const page = pages.shift();
  if (!page) { document.querySelector('pre').textContent = JSON.stringify(measured); return; }
  const frame = document.createElement('iframe');
  frame.width = WIDTH; frame.height = 900; frame.style.border = 0; frame.sandbox = 'allow-same-origin';
  frame.onload = () => {
    const shown = frame.contentDocument, images = [...shown.images];
    measured[page] = {
      width: shown.documentElement.scrollWidth,
      missing: images.filter(i => !(i.complete && i.naturalWidth > 0)).length,
      text: shown.querySelector('article').innerText.length,
    };
    frame.remove(); next();
  };
  frame.src = page; document.body.append(frame);
}
next();
</script>"""
"""Shows page after page in a frame of that width, in CSS pixels, and measures it. The pages' scripts do not run there:
the time of a headless browser stands still while their worker for searching waits."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    site.build(out)  # raises where a link leads nowhere
    return out


def test_every_page_is_there(built: Path) -> None:
    names = {path.stem for path in (site.ROOT / "docs").glob("*.md")}
    assert {path.stem for path in (built / "docs").glob("*.html")} == names
    home = (built / "index.html").read_text(encoding="utf-8")
    assert all(f'href="docs/{name}.html"' in home for name in names), "each is in the navigation"
    assert (built / "tools/records/2026-11-28_peers-again_epyc-2core/index.html").exists()


def test_nothing_is_fetched_from_elsewhere(built: Path) -> None:
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe)[^>]* src=\"?(https?:)?//", text), page
        assert not re.search(r"<link[^>]* href=\"?(https?:)?//", text), page


def test_links_lead_to_the_pages_of_modules_and_to_code(built: Path) -> None:
    module = (built / "api" / "alexnet_fast" / "loading" / "plan.html").read_text(encoding="utf-8")
    assert 'href="../../../index.html">Manual</a>' in module
    page = (built / "docs" / "architecture.html").read_text(encoding="utf-8")
    for link in ("../api/alexnet_fast/loading/plan.html", "../alexnet_fast/native/huffman.c.txt"):
        assert f'href="{link}"' in page
        assert (built / "docs" / link).resolve().is_file()


@pytest.mark.parametrize("link", ["data.md#no-such-heading", "no-such-page.md"])
def test_a_link_that_leads_nowhere_is_an_error(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    for name in ("docs", "tools"):
        shutil.copytree(site.ROOT / name, clone / name)
    for path in site.ROOT.glob("*.md"):
        shutil.copy(path, clone)
    for name in ("LICENSE", "alexnet_fast", "tests"):
        (clone / name).symlink_to(site.ROOT / name)
    monkeypatch.setattr(site, "ROOT", clone)
    with (clone / "docs" / "faq.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[nowhere]({link})\n")
    with pytest.raises(Abort):
        site.build(tmp_path / "out")


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(built: Path, browser: Callable[..., str], width: int) -> None:
    """Nothing but what scrolls by itself is wider than the window, and every picture is shown."""
    pages = ["index.html", *sorted(path.relative_to(built).as_posix() for path in (built / "docs").glob("*.html"))]
    probe = built / f"probe-{width}.html"
    probe.write_text(PROBE.replace("WIDTH", str(width)).replace("PAGES", json.dumps(pages)), encoding="utf-8")
    printed = browser(probe, "--virtual-time-budget=20000", "--allow-file-access-from-files", "--dump-dom")
    (text,) = re.findall("<pre>(.+)</pre>", printed)
    measured = json.loads(text)
    assert list(measured) == pages
    for page, found in measured.items():
        assert found["width"] <= width, page
        assert found["missing"] == 0, page
        assert found["text"] > 500, page
