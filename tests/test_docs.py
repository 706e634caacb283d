"""The documents: links lead somewhere, commands parse, options and settings are there."""

import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise, takewhile
from pathlib import Path

import click
import pytest
from click.exceptions import Exit
from click.shell_completion import BashComplete

import alexnet_fast
from alexnet_fast.cli.main import main
from alexnet_fast.cli.options import parse_settings
from alexnet_fast.config import TrainConfig
from alexnet_fast.shards.format import FORMAT
from tools import api_docs, generated_pages

ROOT = Path(__file__).resolve().parents[1]
MANUAL = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*MANUAL, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "tools" / "records" / "README.md"]
OPTIONS = {name for command in [main, *main.commands.values()] for param in command.params for name in param.opts}
OF_OTHERS = {"--help", "--shm-size", "--user", "--read-only"}
"""Of click itself, and of docker."""


def code_of(page: Path) -> Iterator[str]:
    """Lines of shell blocks, continued ones joined, and code spans."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def parsed(line: str) -> None:
    """Raises click's UsageError where a command line of ours does not parse."""
    _, *arguments = shlex.split(line, comments=True)
    arguments = [word for word in arguments if word != "..."]
    settings = [value for name, value in pairwise(arguments) if name == "--set"]
    parse_settings(tuple(value for value in settings if value != "help"))
    context = main.make_context("alexnet-fast", arguments)
    own = list(takewhile(lambda word: word.startswith("--"), arguments))  # options of ours take no value
    if len(own) < len(arguments):
        name, command, rest = main.resolve_command(context, arguments[len(own) :])
        assert command is not None
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_commands_parse(page: Path) -> None:
    for line in code_of(page):
        words = line.split()
        if words[:1] == ["alexnet-fast"] and len(words) > 1 and line != FORMAT:
            try:
                parsed(line)
            except Exit:  # --help and the like end there
                pass
            except click.UsageError as error:
                pytest.fail(f"{line}: {error.format_message()}")
        elif words and re.match("--.", words[0]):
            assert words[0] in OPTIONS | OF_OTHERS, line
        elif words and re.fullmatch(r"(\./)?tools/\S+", words[0]):
            assert (ROOT / words[0]).exists(), line


def test_the_manual_has_commands() -> None:
    """Or the test above would pass on whatever it cannot read."""
    lines = [line for page in MANUAL for line in code_of(page) if line.startswith("alexnet-fast ")]
    assert len(lines) >= 60
    with pytest.raises(click.UsageError):
        parsed("alexnet-fast train --gpu 2")
    with pytest.raises(click.UsageError):
        parsed("alexnet-fast trian --gpus 2")


def test_settings_named_in_the_manual_are_there() -> None:
    named = {name for page in MANUAL for name in re.findall(r"--set ([a-z]\w+)=", page.read_text(encoding="utf-8"))}
    assert len(named) >= 15
    assert named <= set(TrainConfig().as_dict())


@pytest.mark.parametrize(
    ("name", "page"), [("cli", generated_pages.cli_page), ("settings", generated_pages.settings_page)]
)
def test_the_generated_pages_are_those_of_the_code(name: str, page: Callable[[], str]) -> None:
    assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == page(), "stale: run tools/docs pages"


def test_the_generated_pages_have_every_option_and_setting() -> None:
    cli, settings = generated_pages.cli_page(), generated_pages.settings_page()
    assert {name for name in OPTIONS if name.startswith("--")} <= set(re.findall(r"^\| `(--[a-z0-9-]+)`", cli, re.M))
    assert set(re.findall(r"^## (\S+)$", cli, re.M)) == {"alexnet-fast", *main.commands}
    rows = dict(re.findall(r"^\| `(\w+)`(?: \\?\*)? \| (.*) \|$", settings, re.M))
    assert set(rows) == set(TrainConfig().as_dict()) - {"recipe"}
    assert rows["batch"].endswith("| whole number | paper: 128, fast: 1024, large: 8192")
    assert rows["momentum"].endswith("| number | 0.9")


def test_the_front_door_is_small() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8000


def table_rows(page: Path) -> dict[str, list[str]]:
    """The rows of a page's tables by their first cell: of each further cell the number at its start, where one is."""
    rows = [line.strip("| ").split("|") for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    numbers = {
        first.strip().replace("->", "to"): [re.match(r" *\**([\d,.]+)", cell) for cell in cells]
        for first, *cells in rows
    }
    return {first: [found[1] for found in cells if found] for first, cells in numbers.items()}


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_the_loader_s_numbers_are_those_of_the_record(page: str) -> None:
    record = table_rows(ROOT / "tools" / "records" / "2026-11-28_peers-again_epyc-2core" / "README.md")
    shown = {name.replace("raw pixels", "raw"): numbers for name, numbers in table_rows(ROOT / page).items()}
    for name in ("JPEG to uint8", "JPEG to float32", "raw to uint8"):
        assert shown[name] == record[name][:5]  # without simplejpeg, which only decodes


def test_the_numbers_of_resized_crops_are_those_of_the_record() -> None:
    record = table_rows(ROOT / "tools" / "records" / "2026-11-30_resized-crops_xeon-2core" / "README.md")
    shown = table_rows(ROOT / "docs" / "benchmarks.md")
    for name, recorded in (("256 px squares", "JPEG"), ("all of an image, 400 px", "full JPEG")):
        assert shown[name] == record[f"{recorded} to uint8, resized crops"]
    assert shown["256 px squares"][0] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_bullet_is_over_three_lines() -> None:
    """Of a desk's width, some 110 characters; links count by what is shown of them."""
    for page in MANUAL:
        for bullet in re.findall(r"^ *(?:[-*]|\d+\.) (.*)$", page.read_text(encoding="utf-8"), re.M):
            assert len(re.sub(r"\]\([^)]*\)", "", bullet)) <= 330, f"{page.name}: {bullet[:60]}"


def test_every_room_of_the_package_is_in_the_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## The rooms of the package") :]
    for path in sorted((ROOT / "alexnet_fast").iterdir()):
        if path.name not in ("__init__.py", "__main__.py", "py.typed", "__pycache__"):
            target = path / "__init__.py" if path.is_dir() else path
            assert f"](../{target.relative_to(ROOT).as_posix()})" in table, path


@pytest.mark.filterwarnings("ignore:Error parsing type annotation:UserWarning")
@pytest.mark.system  # makes all pages: some ten seconds
def test_every_module_and_its_docstring_have_a_page(tmp_path: Path) -> None:
    api_docs.write(tmp_path)
    package = Path(alexnet_fast.__file__).parent
    modules = [path.relative_to(package.parent) for path in package.rglob("*.py") if path.name != "__main__.py"]
    for module in modules:
        page = tmp_path / (module.parent if module.name == "__init__.py" else module).with_suffix(".html")
        assert page.exists(), module
    assert "done, both counted from 0" in " ".join(
        (tmp_path / "alexnet_fast" / "training" / "state.html").read_text().split()
    )


def test_the_shell_completes() -> None:
    shell = BashComplete(main, {}, "alexnet-fast", "_ALEXNET_FAST_COMPLETE")
    assert {item.value for item in shell.get_completions([], "e")} == {"eval", "export"}
    assert [item.value for item in shell.get_completions(["train"], "--par")] == ["--parallel"]
    assert [item.value for item in shell.get_completions(["train", "--recipe"], "")] == ["paper", "fast", "large"]
