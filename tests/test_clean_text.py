"""What terminals obey, and what makes text look like other text, is never shown as it is."""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from report_sweeps import rows_of, write_sweep
from rich.console import Console

import raysweep
from raysweep.clean_text import clean_line, clean_lines
from raysweep.errors import InputError, SweepStoppedError, together
from raysweep.learning.config import Config
from raysweep.monitor.driver_report import STATUS_FILE
from raysweep.monitor.snapshot import SweepStatus
from raysweep.monitor.terminal import Display, Snapshot, WorkerState, show_status
from raysweep.tables.locks import this_process
from raysweep.tune.reporting.notebook import CellOutput
from raysweep.tune.reporting.screen import Screen
from raysweep.user_text.values import printable

ROOT = Path(__file__).parents[1]
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2066\u200b\x7f\u2028\r"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2066\u200b\x7f\u2028\r"
"""The same with escapes."""


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_what_does_something_is_escaped_and_all_else_stays() -> None:
    assert clean_line(f"a{HOSTILE}b\n") == f"a{SHOWN}b\\n"
    assert clean_lines(f"a\n{HOSTILE}\n") == f"a\n{SHOWN}\n"
    plain = "β₁ \N{MINUS SIGN}0.1 · 日本語 … \N{EN DASH} ü é \N{COMBINING ACUTE ACCENT} 🙂 \\x1b"
    assert clean_line(plain) == plain
    assert clean_line(clean_line(HOSTILE)) == SHOWN
    assert clean_line("a\udcffb\ud800") == r"a\udcffb\ud800"
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert clean_line(char).startswith("\\"), hex(code)
        elif char.isalnum():
            assert clean_line(char) == char


def test_every_error_is_clean_and_one_line() -> None:
    for kind in (InputError, SweepStoppedError, raysweep.RaysweepError):
        error = kind(f"{HOSTILE}: a\nb")
        assert str(error) == f"{SHOWN}: a\\nb"
        assert is_clean(error._render_traceback_()[0])
    several = together([InputError(f"a{HOSTILE}\n"), InputError("b")], f"file{HOSTILE}")
    assert str(several).split("\n") == [f"file{SHOWN}: 2 mistakes", f"  a{SHOWN}\\n", "  b"]


def test_printable_text_is_clean_in_any_encoding() -> None:
    assert printable(f"a\n{HOSTILE}") == f"a\n{SHOWN}"
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert printable(f"ü{HOSTILE}", ascii_stream) == f"?{SHOWN}"


PLAIN_CALLS = {"printable", "clean_line", "os_error_line", "show_status"}
"""What returns clean text."""


def is_plain(node: ast.expr) -> bool:
    """Return whether the text of a ``print`` is clean: constant, cleaned, or one of our errors."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in PLAIN_CALLS
    if isinstance(node, ast.Name):
        return node.id == "error"
    if isinstance(node, ast.JoinedStr):
        return all(is_plain(part) for part in node.values)
    return isinstance(node, ast.FormattedValue) and is_plain(node.value)


def test_nothing_is_printed_without_being_cleaned() -> None:
    # Our own help, version and summaries; a constant.
    exempt = {"raysweep/cli.py": 3, "raysweep/tune/scheduling/tune_run.py": 1}
    for file in sorted((ROOT / "raysweep").rglob("*.py")):
        calls = [
            node
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
        raw = [ast.unparse(call) for call in calls if not all(map(is_plain, call.args))]
        assert len(raw) <= exempt.get(str(file.relative_to(ROOT)), 0), (file, raw)


# --- displays -------------------------------------------------------------------------------------

SNAPSHOT = Snapshot(
    title=f"sweep{HOSTILE}",
    n_total=10,
    counts={"finished": 3, "failed": 1},
    n_running=4,
    elapsed_s=60.0,
    metric=f"metric{HOSTILE}",
    best=0.5,
    history=[(0.0, 0.1), (30.0, 0.5)],
    workers=[WorkerState(4, f"host{HOSTILE}", f"stage{HOSTILE}", 1, 5, 0.2)],
    notes=[f"1 failed: {HOSTILE}\nforged line"],
)


def test_a_display_is_clean_and_keeps_its_own_colours() -> None:
    assert is_clean(str(SNAPSHOT)) and "forged line" in str(SNAPSHOT)
    assert is_clean(show_status(SNAPSHOT))
    assert not any(line.startswith("forged") for line in str(SNAPSHOT).split("\n"))
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=100)
    console.print(Display(SNAPSHOT))
    shown = stream.getvalue()
    assert "\x1b[32m" in shown  # green
    assert not any(part in shown for part in ("\x1b[2J", "\x1b]", "\x9b", "\u202e", "\u200b"))
    assert r"\x1b[2J" in shown


def test_the_screen_prints_clean_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(0).say(f"configuration a failed: {HOSTILE}")
    assert capsys.readouterr().err == f"configuration a failed: {SHOWN}\n"


def test_a_notebook_shows_clean_text_and_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CellOutput, "_refresh", lambda self: None)
    monkeypatch.setattr("raysweep.tune.reporting.screen.is_notebook", lambda: True)
    screen = Screen(0)
    screen.say(f"<script>alert(1)</script>{HOSTILE}")
    assert screen._cell is not None
    screen._cell.show(Display(SNAPSHOT))
    bundle = screen._cell._rendered()
    assert all(is_clean(text) for text in bundle.values())
    assert "<script>" not in bundle["text/html"] and "&lt;script&gt;" in bundle["text/html"]
    assert is_clean(SNAPSHOT._repr_html_())


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose folder, tables, manifest and driver's report hold what terminals obey."""
    config = Config(lr=0.01, seed=0)
    trial, epochs = rows_of(config, False)
    failed = {**rows_of(Config(lr=0.02, seed=0), False)[0], "status": "failed"}
    failed |= {"error": f"{HOSTILE}\nforged", "host": f"node{HOSTILE}"}
    folder = tmp_path_factory.mktemp("hostile") / "sweep\x1b[2J\u202e"
    write_sweep(folder, [(trial, epochs), (failed, [])])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["runs"][0] |= {"command": ["raysweep", HOSTILE], "driver": HOSTILE, "hosts": [HOSTILE]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "sweep.yaml").write_text('experiment: replay_vib\n"\\e[2J\\u202e": {"\\e]0;x": 1}\n')
    return folder


def run(*words: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "raysweep", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        (["status", "SWEEP"], 0, SHOWN),
        (["status", "SWEEP", HOSTILE], 2, r"\x1b[2J"),
        (["status", HOSTILE], 2, SHOWN),
        (["leaderboard", "SWEEP", "COPY", "--format", "csv"], 0, r"sweep\x1b[2J"),
        (["leaderboard", "SWEEP", f"--{HOSTILE}"], 2, r"\x1b[2J"),
        (["leaderboard", "SWEEP", "--where", f"error.contains('{HOSTILE}') and"], 2, r"\x1b[2J"),
        ([HOSTILE], 2, r"\x1b[2J"),
        (["run", f"{HOSTILE}.yaml", "--dry-run"], 2, SHOWN),
        (["spaces", HOSTILE], 2, r"\x1b[2J"),
    ],
    ids=str,
)
def test_commands_print_clean_text(
    sweep: Path, tmp_path: Path, words: list[str], code: int, shown: str
) -> None:
    copied = shutil.copytree(sweep, tmp_path / sweep.name)
    given = [{"SWEEP": str(sweep), "COPY": str(copied)}.get(word, word) for word in words]
    found, output, errors = run(*given)
    assert is_clean(output) and is_clean(errors), (output, errors)
    assert shown in output + errors
    assert (found, "Traceback" in errors) == (code, False), errors


def test_what_a_running_driver_writes_is_shown_clean(sweep: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sweep, tmp_path / "sweep"))
    (folder / ".lock").write_text(f"process 1 on {HOSTILE}")
    assert SHOWN.removesuffix(r"\r") in str(SweepStatus.at(folder).snapshot())
    (folder / ".lock").write_text(this_process())
    worker = {"n_configs": 1, "host": f"h{HOSTILE}", "stage": HOSTILE}
    report = {"driver": this_process(), "n_running": 1, "left_s": 5.0, "workers": [worker]}
    (folder / STATUS_FILE).write_text(json.dumps({**report, "dashboard": f"http://{HOSTILE}"}))
    shown = str(SweepStatus.at(folder).snapshot())
    assert is_clean(shown) and f"Ray's dashboard: http://{SHOWN}" in shown
