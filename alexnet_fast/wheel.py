"""Records the commit in the wheel that is built from a checkout. pyproject.toml names it; nothing imports it."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

from setuptools.command.build_py import build_py

commit = run_path(str(Path(__file__).with_name("commit.py")))  # the package cannot be imported yet


class BuildPy(build_py):  # type: ignore[misc]  # setuptools has no annotations
    """Copies the package's files, as setuptools does, and writes the commit beside them; none without git."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # then the checkout itself is asked
            return
        record = Path(self.build_lib, "alexnet_fast", commit["RECORD"])
        record.unlink(missing_ok=True)  # of an earlier build
        if found := commit["of_checkout"](Path.cwd()):
            record.write_text(f"{found}\n", encoding="ascii")
