"""Coverage-guided fuzzing of search spaces: each ends as a sweep or in one line.

    python -m tests.fuzz_yaml SECONDS

Needs atheris (`pip install atheris`). Inputs begin with the search spaces that are shipped and the
catalogue of tests/settings/bad_input; the corpus grows in the folder that FUZZ_CORPUS names (else a
temporary one). A finding is written into the current folder as crash-*, timeout-* or oom-*.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["raysweep.settings", "yaml"]):
    from raysweep.errors import InputError
    from raysweep.learning.config import Config
    from raysweep.settings.names import TOP_KEYS
    from raysweep.settings.sweep import sweep_from
    from raysweep.settings.yaml_text import dump_yaml
    from tests.bad_input_cases import accepted_cases, refused_cases  # imports yaml: after atheris

ROOT = Path(__file__).parents[1]
MAX_CONFIGS = 50  # expanding is not what is looked at
SEPARATOR = b"\n#--override--\n"
WORDS = ["grid_search", "any_of", "exclude", "<<", "&a", "*a", "!!int", "!!str", "---", "...", ": "]
WORDS += ["\\n  ", "- ", "[", "]", "{", "}", "1e-4", "010", ".nan", ".inf", "null", "0x10", "? "]
WORDS += [
    "password",
    "true",
    "max_gb",
    "cpu",
    "gpu",
    "auto",
    "#--override--\\n",
    "space.lr=",
    "|\\n",
]


def check(data: bytes) -> None:
    """Load a file and its overrides; what is neither a sweep nor one line is a finding."""
    content, *rest = data.split(SEPARATOR)
    overrides = [part.decode("utf-8", "surrogateescape") for part in rest[:4]]
    try:
        sweep = sweep_from("fuzz.yaml", content, overrides, max_configs=MAX_CONFIGS)
    except InputError as error:
        message = str(error)
        assert message.isprintable() and "expected " in message, message
        assert len(message) < 2000, message
        return
    assert 1 <= len(sweep.configs) + sweep.n_duplicates <= MAX_CONFIGS
    # What the results folder keeps must be the same sweep.
    again = sweep_from("fuzz.yaml", dump_yaml(sweep.resolved).encode(), max_configs=MAX_CONFIGS)
    assert [config.id for config in again.configs] == [config.id for config in sweep.configs]
    assert again.resolved == sweep.resolved


def write_seeds(folder: Path) -> None:
    """Put the shipped search spaces and the catalogue into the corpus."""
    seeds = {file.stem: file.read_bytes() for file in (ROOT / "search_spaces").glob("*.yaml")}
    for case in [*refused_cases().values(), *accepted_cases().values()]:
        arguments = [word.encode("utf-8", "surrogateescape") for word in case.arguments]
        seeds[f"{case.table}-{case.name}"] = SEPARATOR.join([case.content, *arguments])
    for name, content in seeds.items():
        if len(content) <= 4096:
            (folder / f"seed-{name}").write_bytes(content)


def write_words(file: Path) -> None:
    """Write libFuzzer's dictionary: every key and the signs of YAML."""
    words = dict.fromkeys([*WORDS, *TOP_KEYS, *Config.model_fields])
    lines = ['"' + word.replace("\\n", "\\x0A").replace('"', '\\"') + '"' for word in words]
    file.write_text("\n".join(lines) + "\n")


def main() -> None:
    seconds = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(os.environ.get("FUZZ_CORPUS", temporary)) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        write_seeds(corpus)
        words = corpus.parent / "words.dict"
        write_words(words)
        options = [f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10"]
        options += ["-max_len=4096", f"-dict={words}", "-print_final_stats=1", *sys.argv[2:]]
        atheris.Setup([sys.argv[0], *options, str(corpus)], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
