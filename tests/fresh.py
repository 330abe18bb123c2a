"""A fresh virtual environment that sees the packages of the current one, to install a third-party plugin into."""

import json
import os
import site
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment in ``folder``."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def variables(self) -> dict[str, str]:
        """The process environment with this environment first on the path."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return {**kept, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments], cwd=cwd, env=self.variables, capture_output=True, text=True, check=False
        )

    def run_line(self, command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a shell command line, as a reader of the documentation types it."""
        return subprocess.run(
            ["/bin/sh", "-c", command], cwd=cwd, env=self.variables, capture_output=True, text=True, check=False
        )


def make(folder: Path) -> Environment:
    """Make an environment without its own pip; a .pth file makes the packages of the current environment visible."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    environment = Environment(folder)
    purelib = Path(
        environment.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    )
    # addsitedir rather than the bare path: it also processes the .pth files there, which editable installs use.
    lines = [f"import site; site.addsitedir({json.dumps(path)})" for path in site.getsitepackages()]
    (purelib / "parent.pth").write_text("\n".join(lines) + "\n")
    scripts = Path(sysconfig.get_path("scripts"))
    for name in ("slidepipe", "pytest"):
        target = environment.folder / "bin" / name
        text = (scripts / name).read_text().splitlines()
        target.write_text("\n".join([f"#!{environment.python}", *text[1:]]) + "\n")
        target.chmod(0o755)
    # The current environment's pip installs into the new one.
    pip = environment.folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip --python "{environment.python}" "$@"\n')
    pip.chmod(0o755)
    return environment


def build_wheel(project: Path, out: Path) -> Path:
    """Build a project's wheel offline, with the build backend of the current environment."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "-w",
            out,
            project,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,) = out.glob("*.whl")
    return wheel
