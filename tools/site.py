"""Builds the manual as a site: README.md, docs/, the records they link to, and a page a module.

python -m tools.site           writes the generated pages of docs/, then build/site (tools/docs does this)
python -m tools.site pages     only writes the generated pages

The pages are copied to a temporary folder in which links lead to the same places as in the repository, then built by
mkdocs. A link or anchor that leads nowhere is an error.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from mkdocs.commands.build import build as mkdocs_build
from mkdocs.config import load_config

from tools import api_docs, generated_pages

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?:(?<=\]\()|(?<=<img src=\"))(?!\w+:)([^)\s#\"]+)")
FIRST = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in (ROOT / "docs").iterdir())]


def build(out: Path) -> None:
    """Writes the site into the folder `out`. Raises mkdocs' Abort where a link or anchor leads nowhere."""
    with TemporaryDirectory() as name:
        stage = Path(name)
        _write_modules(stage)
        _copy_pages(stage)
        config = load_config(str(ROOT / "tools" / "mkdocs.yml"), docs_dir=name, site_dir=str(out), strict=True)
        config.plugins.on_startup(command="build", dirty=False)
        mkdocs_build(config)


def _write_modules(stage: Path) -> None:
    """Writes the pages of modules into api/, each with a link back to the manual."""
    api_docs.write(stage / "api")
    for page in (stage / "api").rglob("*.html"):
        home = os.path.relpath(stage / "index.html", page.parent)
        text = page.read_text(encoding="utf-8")
        link = f'<div><a class="pdoc-button module-list-button" href="{home}">Manual</a><br>'
        page.write_text(re.sub(r"(?<=tabindex=\"-1\">)\s*<div>", link, text, count=1), encoding="utf-8")


def _copy_pages(stage: Path) -> None:
    """Copies the pages, and whatever they link to, and so on."""
    todo = list(FIRST)
    while todo:
        name = todo.pop()
        source, target = ROOT / name, stage / _place(name)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".md":
            shutil.copyfile(source, target)
            continue
        text = source.read_text(encoding="utf-8")
        linked = {_linked(name, link) for link in LINK.findall(text)}
        todo += [file for file in linked if (ROOT / file).is_file() and not _place(file).startswith("api/")]
        target.write_text(LINK.sub(partial(_moved, name), text), encoding="utf-8")


def _linked(page: str, link: str) -> str:
    """Returns the file that a page's link leads to, as a path in the repository; of a folder its README.md."""
    path = PurePosixPath(os.path.normpath(PurePosixPath(page).parent / link))
    return str(path / "README.md" if (ROOT / path).is_dir() else path)


def _place(name: str) -> str:
    """Returns the place of a file of the repository in the site's sources: a module's is its page, and other code is
    text, which browsers show."""
    path = PurePosixPath(name)
    if path.parts[0] == "alexnet_fast" and path.suffix == ".py":
        module = path.parent if path.name == "__init__.py" else path.with_suffix("")
        return f"api/{module}.html"
    return name if path.suffix in (".md", ".png", ".css") else f"{name}.txt"


def _moved(page: str, link: re.Match[str]) -> str:
    """Returns the link as it is from the page's place in the site's sources."""
    return os.path.relpath(_place(_linked(page, link[1])), PurePosixPath(page).parent)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # mkdocs logs what is wrong, then ends with 1
    generated_pages.write()
    if sys.argv[1:] != ["pages"]:
        build(ROOT / "build" / "site")
