"""Set up and run this project with nothing but Python 3.10 or newer, pip and git.

    python3 tasks.py quickstart               run examples/quickstart.py
    python3 tasks.py service                  run examples/rag_service
    python3 tasks.py test                     run the tests
    python3 tasks.py test --every-python      run the tests on each CPython 3.10 to 3.13 found here
    python3 tasks.py bench                    run the benchmarks
    python3 tasks.py faults [--release]       run the rows of faults, print their table

Further arguments go to the example, to pytest, to the benchmarks or to the rows, and their exit code is returned. Packages are
installed into `.venv` (or `.venv-3.X`) beside this file and nowhere else; a second run installs only what changed.
"""

import hashlib
import os
import subprocess
import sys
import time

from collections.abc import Callable
from pathlib import Path


if sys.version_info < (3, 10):  # noqa: UP036 - said before the annotations below, which an older version cannot evaluate
    sys.exit(
        f"tasks.py needs Python 3.10 or newer; this is Python {sys.version.split()[0]} ({sys.executable})"
    )

ROOT = Path(__file__).resolve().parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
PYTHON = "Scripts/python.exe" if os.name == "nt" else "bin/python"

# What would lead a child out of its virtual environment: foreign modules, or another place for pip to install to.
ASTRAY = {
    "PYTHONHOME",
    "PYTHONPATH",
    "PIP_PREFIX",
    "PIP_PYTHON",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_ROOT",
    "PIP_TARGET",
}
ENVIRON = {**{name: value for name, value in os.environ.items() if name not in ASTRAY}, "PIP_USER": "0"}

# Most tests wait for servers and processes most of the time. `-n 0` has them run one after another.
SHARED = ("-n", "4", "--dist", "worksteal")


class SetupError(Exception):
    """An environment could not be made ready; the message is one line for the user."""


def quickstart(arguments: list[str]) -> int:
    """Run the example in the caller's directory, where its `mlflow.db` then lies."""
    python = environment("examples")
    return call(python, ROOT / "examples" / "quickstart.py", *arguments, cwd=Path.cwd())


def service(arguments: list[str]) -> int:
    """Run the example service in the caller's directory, where its documents and `mlflow.db` then lie."""
    return call(environment("rag"), ROOT / "examples" / "rag_service", *arguments, cwd=Path.cwd())


def test(arguments: list[str]) -> int:
    """Run pytest; with `--every-python`, once per installed version."""
    if "--every-python" in arguments:
        return test_every_python([argument for argument in arguments if argument != "--every-python"])
    return test_in(".venv", sys.executable, arguments)


def test_every_python(arguments: list[str]) -> int:
    """Run pytest on each of `VERSIONS`, then print one line for each; return 1 if one failed or none is installed."""
    codes, lines = [], []
    for version in VERSIONS:
        base = find_python(version)
        if base is None:
            lines.append(f"CPython {version}  not installed")
            continue
        say(f"CPython {version} ({base})")
        start = time.monotonic()
        codes.append(attempt(test_in, f".venv-{version}", base, arguments))
        outcome = "passed" if codes[-1] == 0 else f"failed (exit code {codes[-1]})"
        lines.append(f"CPython {version}  {outcome} in {time.monotonic() - start:.0f} s")
    print("\n".join(lines), flush=True)
    return 1 if any(codes) or not codes else 0


def test_in(name: str, base: str, arguments: list[str]) -> int:
    """Run pytest in the environment `name`, made with the interpreter `base`."""
    return call(environment("dev", name=name, base=base), "-m", "pytest", *SHARED, *arguments)


def bench(arguments: list[str]) -> int:
    """Run the `benchmarks` package."""
    return call(environment("dev", "bench"), "-m", "benchmarks", *arguments)


def faults(arguments: list[str]) -> int:
    """Run the `tests.faults` package."""
    return call(environment("dev"), "-m", "tests.faults", *arguments)


def environment(*extras: str, name: str = ".venv", base: str = sys.executable) -> Path:
    """Return the interpreter of a virtual environment that holds this project, editable, with `extras`.

    The environment is made with the interpreter `base` unless it is there and usable. pip runs only when
    `pyproject.toml` is not the one that was installed last with the same extras. Raises `SetupError`.
    """
    directory = ROOT / name
    python = directory / PYTHON
    if not usable(directory):
        make(directory, base)
    if not has_pip(python):
        provide_pip(python)
    # Among the packages, so that an interpreter upgraded in place, which no longer sees them, does not see it either.
    stamp = library(python) / f"tasks-{'-'.join(extras)}.installed"
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != digest:
        requirement = f".[{','.join(extras)}]"
        say(f"installing {requirement} into {name}; the first time this can take a minute or two")
        # The pip that comes with 3.10.0 cannot install a project without setup.py as editable.
        if pip(python, "pip>=21.3") or pip(python, "--editable", requirement):
            raise SetupError(f"pip could not install {requirement} into {name}")
        stamp.write_text(digest)
    return python


def usable(directory: Path) -> bool:
    """Tell whether the interpreter works and the environment stands where it was made: its scripts name that place."""
    place = directory / "made-at"
    moved = place.is_file() and place.read_text(encoding="utf-8") != str(directory)
    return not moved and bool(ask(directory / PYTHON, "print('works')"))


def make(directory: Path, base: str) -> None:
    """Make an empty environment, without pip so that it needs no ensurepip, in place of what lies there."""
    if call(base, "-m", "venv", "--clear", "--without-pip", directory):
        raise SetupError(f"{base} could not make the virtual environment {directory}")
    (directory / "made-at").write_text(str(directory), encoding="utf-8")


def provide_pip(python: Path) -> None:
    """Install pip into an environment: by its own ensurepip or, where the system left that out, by this Python's pip.

    `pip --python` would need no copy of pip, but the pip of Ubuntu 22.04 is older than that option.
    """
    ask(python, "import ensurepip; ensurepip.bootstrap()")
    if not has_pip(python):
        pip(sys.executable, "--target", library(python), "pip")
    if not has_pip(python):
        raise SetupError(
            "neither ensurepip nor pip works here; install one (on Debian, python3-venv or python3-pip)"
        )


def has_pip(python: Path) -> bool:
    """Tell whether the environment of this interpreter has pip."""
    return bool(ask(python, "import pip; print(pip.__version__)"))


def library(python: Path) -> Path:
    """Return the site-packages directory of this interpreter."""
    return Path(ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))


def find_python(version: str) -> str | None:
    """Return a CPython of this version: the running one, one on PATH, or one that pyenv installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    on_path = (Path(directory) / f"python{version}" for directory in os.get_exec_path())
    report = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    by_pyenv = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    for candidate in (Path(sys.executable), *on_path, *by_pyenv):
        if (
            ask(candidate, report) == f"cpython {version}"
        ):  # a pyenv shim is on PATH for versions it will not start
            return str(candidate)
    return None


def pip(python: str | Path, *arguments: str | Path) -> int:
    """Run `pip install` quietly under `python`; return its exit code."""
    return call(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments)


def call(*command: str | Path, cwd: Path = ROOT) -> int:
    """Run a command; return its exit code, for a signal 128 + its number as a shell does."""
    with subprocess.Popen(command, cwd=cwd, env=ENVIRON) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.wait()  # the terminal interrupted it too: let it clean up, where subprocess.run would kill it
            raise
    return code if code >= 0 else 128 - code


def ask(python: str | Path, code: str) -> str:
    """Return what `code` prints under `python`, nothing where it fails or there is no such interpreter."""
    try:
        answer = subprocess.run(
            [python, "-Ic", code], env=ENVIRON, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return "" if answer.returncode else answer.stdout.strip()


def attempt(command: Callable[..., int], *arguments: object) -> int:
    """Return the exit code of `command`; 1, and one line for the user, where an environment could not be made ready."""
    try:
        return command(*arguments)
    except SetupError as error:
        say(str(error))
        return 1


def say(message: str) -> None:
    """Tell the user what is going on, on stderr: stdout belongs to what is run."""
    print(f"tasks.py: {message}", file=sys.stderr, flush=True)


COMMANDS = {"quickstart": quickstart, "service": service, "test": test, "bench": bench, "faults": faults}


def main(arguments: list[str]) -> int:
    """Run the command named first with the arguments after it; return the exit code."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        return attempt(COMMANDS[arguments[0]], arguments[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
