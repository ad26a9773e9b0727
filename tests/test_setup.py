"""``bin/setup`` with a Python that only writes down what it was asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INDEX = "https://index.invalid/simple"

PYTHON = """#!/usr/bin/env bash
echo "python $*" >> "$CALLS"
case "$*" in
    -c*) exec python3 "$@" ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip config list") printf '%s\\n' "$PIP_SAYS" ;;
    "-m pip install"*" uv") [ -z "${NO_UV:-}" ] || exit 1; cp "$UV" "$(dirname "$0")/uv" ;;
    "-m pip install"*) exit "${PIP_CODE:-0}" ;;
esac
"""
UV = """#!/usr/bin/env bash
echo "uv $*" >> "$CALLS"
env | grep -E '^(UV_|SSL_CERT_FILE)' | sort >> "$CALLS"
exit "${UV_CODE:-0}"
"""


class Setup:
    """A checkout with nothing in it but what the script reads."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self._calls = folder / "calls"
        (self.root / "bin").mkdir(parents=True)
        shutil.copy(ROOT / "bin" / "setup", self.root / "bin")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        for name, text in (("python", PYTHON), ("uv", UV)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")}
        self._environment = kept | {
            "CALLS": str(self._calls),
            "PYTHON": str(folder / "python"),
            "UV": str(folder / "uv"),
        }

    def __call__(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self._calls.write_text("")
        return subprocess.run(
            [str(self.root / "bin" / "setup"), *words],
            env=self._environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def installs(self) -> list[str]:
        """What installed the checkout in the last call, and with which extras."""
        lines = [line.split() for line in self._calls.read_text().splitlines()]
        return [f"{words[0]} {words[-1]}" for words in lines if "--editable" in words]

    @property
    def handed_on(self) -> dict[str, str]:
        """What uv's environment had in the last call."""
        lines = self._calls.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line.startswith(("UV_", "SSL_")))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_what_tests_need_is_enough_to_run_and_not_the_other_way_round(setup: Setup) -> None:
    assert setup("run").returncode == 0
    assert setup.installs == ["uv .[optuna]"]
    assert setup("run").returncode == 0 and setup.installs == []
    assert setup().returncode == 0 and setup.installs == ["uv .[dev]"]
    for words in ([], ["run"], ["dev"]):
        assert setup(*words).returncode == 0 and setup.installs == []


def test_other_requirements_are_installed_anew(setup: Setup) -> None:
    setup()
    (setup.root / "constraints.txt").write_text("six==1.17.0\n")
    setup("run")
    assert setup.installs == ["uv .[optuna]"]
    # The versions in the environment are those of now, whatever was remembered before.
    shutil.copy(ROOT / "constraints.txt", setup.root)
    setup()
    assert setup.installs == ["uv .[dev]"]


@pytest.mark.parametrize("environment", [{"NO_UV": "1"}, {"UV_CODE": "2"}])
def test_pip_takes_over_where_uv_is_missing_or_fails_and_says_so(
    setup: Setup, environment: dict[str, str]
) -> None:
    done = setup(**environment)
    assert done.returncode == 0
    assert setup.installs[-1] == "python .[dev]"
    assert sum("using pip" in line for line in done.stderr.splitlines()) == 1
    assert setup(**environment).returncode == 0 and setup.installs == []


def test_nothing_is_remembered_of_an_install_that_failed(setup: Setup) -> None:
    assert setup(UV_CODE="2", PIP_CODE="1").returncode != 0
    setup()
    assert setup.installs == ["uv .[dev]"]


def test_uv_takes_packages_from_where_pip_does(setup: Setup) -> None:
    said = [
        ":env:.default-timeout='180'",
        f"global.index-url='{INDEX}'",
        "global.extra-index-url='file:///a file:///b'",
        "global.cert='/certs.pem'",
        "install.find-links='/wheels\\n/more'",
    ]
    setup(PIP_SAYS="\n".join(said))
    assert setup.handed_on == {
        "SSL_CERT_FILE": "/certs.pem",
        "UV_DEFAULT_INDEX": INDEX,
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_HTTP_TIMEOUT": "180",
        "UV_INDEX": "file:///a file:///b",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_uv_s_own_environment_and_pip_s_come_first(setup: Setup) -> None:
    said = f":env:.index-url='{INDEX}'\nglobal.index-url='https://other.invalid'"
    setup(PIP_SAYS=said)
    assert setup.handed_on == {"UV_DEFAULT_INDEX": INDEX}
    (setup.root / "constraints.txt").write_text("six==1.17.0\n")
    setup(PIP_SAYS=said, UV_DEFAULT_INDEX="https://third.invalid")
    assert setup.handed_on == {"UV_DEFAULT_INDEX": "https://third.invalid"}


def test_a_word_that_it_does_not_know_is_refused(setup: Setup) -> None:
    done = setup("rnu")
    assert done.returncode == 2 and "expected 'run'" in done.stderr and "'rnu'" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not setup.installs


def test_commands_install_what_they_need() -> None:
    calls = {
        name: [line for line in (ROOT / name).read_text().splitlines() if "bin/setup" in line]
        for name in ("bin/sweep", "bin/test", "bin/chaos", ".ci/run")
    }
    assert calls == {
        "bin/sweep": ['"$root/bin/setup" run'],
        "bin/test": ["bin/setup"],
        "bin/chaos": ["bin/setup"],
        ".ci/run": ["bin/setup"],
    }
