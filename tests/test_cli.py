"""The command ``raysweep`` and the search spaces that it finds, lists and copies."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import raysweep
from raysweep import shipped
from raysweep.cli import COMMANDS, SCRIPTS
from raysweep.errors import InputError
from raysweep.settings.sweep import load_sweep

ROOT = Path(__file__).parents[1]
ANALYSIS = ROOT / "raysweep" / "analysis"
HEAVY = ("torch", "ray", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy", "numpy")


def raysweep_command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raysweep", *words],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["spaces"], ["spaces", "vib"]])
def test_what_needs_no_tables_loads_nothing_that_takes_seconds(
    words: list[str], tmp_path: Path
) -> None:
    code = (
        "import sys\nfrom raysweep import cli\nsys.argv = ['raysweep', *sys.argv[1:]]\n"
        "try: cli.main()\nexcept SystemExit as error: assert not error.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_command_in_one_line(tmp_path: Path) -> None:
    done = raysweep_command("--help", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    for name, summary in COMMANDS.items():
        assert [line for line in lines if re.fullmatch(rf"  {name} +{re.escape(summary)}", line)]
        assert len(name) + len(summary) < 110
    nothing = raysweep_command(cwd=tmp_path)
    assert nothing.returncode == 2 and nothing.stdout == done.stdout


def test_version_is_the_package_s_and_the_citation_s(tmp_path: Path) -> None:
    assert (
        raysweep_command("--version", cwd=tmp_path).stdout == f"raysweep {raysweep.__version__}\n"
    )
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == raysweep.__version__
    assert citation["authors"] == [{"name": "the raysweep authors"}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reprot"], "'reprot' (did you mean report?)"),
        (["vib.yaml", "--dry-run"], "(did you mean raysweep run vib.yaml --dry-run?)"),
        (["vib"], "(did you mean raysweep run vib?)"),
        (["qqq"], f"'qqq'; known: {', '.join(COMMANDS)}"),
        (["spaces", "vip"], "'vip' (did you mean vib?); `raysweep spaces` lists them"),
        (
            ["run", "vibb"],
            "found neither (did you mean vib?); `raysweep spaces` lists the shipped ones",
        ),
        (["leaderboard", "nowhere"], "`raysweep run FILE` creates one"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], said: str, tmp_path: Path) -> None:
    done = raysweep_command(*words, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert said in done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_is_a_command_under_its_own_first_sentence(name: str) -> None:
    file = ANALYSIS / name / "__main__.py" if name == "report" else ANALYSIS / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    assert docstring is not None and docstring.splitlines()[0] == SCRIPTS[name]
    for call in re.findall(r"^    raysweep (\w+) ", docstring, re.MULTILINE):
        assert call == name


def test_every_script_has_a_command() -> None:
    ending = 'if __name__ == "__main__":\n    run('
    scripts = {file for file in ANALYSIS.rglob("*.py") if ending in file.read_text()}
    names = {file.parent.name if file.stem == "__main__" else file.stem for file in scripts}
    assert names == set(SCRIPTS)


@pytest.mark.slow  # imports all that a sub-command needs
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "spaces"])
def test_help_of_a_command_shows_its_name(name: str, tmp_path: Path) -> None:
    done = raysweep_command(name, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(f"Usage: python -m raysweep {name} ")


def test_spaces_lists_each_in_one_line_without_an_end_in_midst(tmp_path: Path) -> None:
    lines = raysweep_command("spaces", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == shipped.shipped_names()
    files = (ROOT / "search_spaces").glob("*.yaml")
    assert shipped.shipped_names() == sorted(file.stem for file in files)
    for line in lines:
        assert len(line) <= 120 and line.endswith((".", "?")), line


def test_a_copied_space_is_the_shipped_one_with_the_schema_that_it_names(tmp_path: Path) -> None:
    done = raysweep_command("spaces", "vib", cwd=tmp_path)
    assert done.stdout == "written to vib.yaml\nwritten to schema.json\n"
    assert (tmp_path / "vib.yaml").read_bytes() == shipped.shipped_file("vib").read_bytes()
    assert json.loads((tmp_path / "schema.json").read_text())["$schema"]
    assert (
        load_sweep(tmp_path / "vib.yaml").configs
        == load_sweep(ROOT / "search_spaces/vib.yaml").configs
    )


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    for name in ("vib.yaml", "schema.json"):
        (tmp_path / name).write_text("mine")
    done = raysweep_command("spaces", "vib", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "which is unchanged; choose another name: raysweep spaces vib FILE" in done.stderr
    assert raysweep_command("spaces", "vib", "mine.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "deeper").mkdir()
    assert shipped.copy_space("vib", tmp_path / "deeper")[0] == tmp_path / "deeper" / "vib.yaml"
    assert {(tmp_path / name).read_text() for name in ("vib.yaml", "schema.json")} == {"mine"}
    missing = raysweep_command("spaces", "vib", "no/where.yaml", cwd=tmp_path)
    assert missing.returncode == 2 and missing.stderr == (
        "error: no/where.yaml: No such file or directory\n"
    )


def test_a_bare_name_is_a_file_here_before_it_is_a_shipped_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vib").mkdir()  # such as the results of an earlier run
    assert shipped.find_space(Path("vib")) == shipped.shipped_file("vib")
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "raysweep spaces vib" in said
    assert shipped.find_space(Path("vib"), is_quiet=True).is_file()
    (tmp_path / "vib.yaml").touch()
    assert shipped.find_space(Path("vib")) == Path("vib.yaml")
    (tmp_path / "mir").touch()
    assert shipped.find_space(Path("mir")) == Path("mir")
    for path in ("joint.yaml", "spaces/joint", "./joint.yml", "/joint"):
        assert shipped.find_space(Path(path)) == Path(path)
    (tmp_path / "mygrid.yaml").touch()
    with pytest.raises(InputError, match=r"did you mean mygrid\?"):
        shipped.find_space(Path("mygird"))
    assert not capsys.readouterr().err


@pytest.mark.slow  # imports Ray, twice
def test_run_takes_a_shipped_space_by_its_name(tmp_path: Path) -> None:
    for module in ("raysweep", "raysweep.tune"):
        words = ["run", "vib"] if module == "raysweep" else ["vib"]
        done = subprocess.run(
            [sys.executable, "-m", module, *words, "space.nope=1"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        note, error = done.stderr.splitlines()
        assert note.startswith("vib: using the search space shipped with raysweep")
        assert error.startswith("error: vib.yaml: ") and "nope" in error


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["spaces"]])
def test_a_pipe_that_is_closed_is_no_error(words: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "raysweep", *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["run", "status", "report", "leaderboard"])
def test_a_name_that_is_too_long_is_said_in_a_line(command: str, tmp_path: Path) -> None:
    done = raysweep_command(command, "x" * 300, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "File name too long" in done.stderr
