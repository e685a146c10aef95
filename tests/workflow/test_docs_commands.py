"""Every command of README and docs is tried: what stands in a bash block, and what is named in a text.

Commands of Snakemake are dry runs in a copy of the workflow, with the config that stands before them on the page, so
each target has to be there. Those of scripts are parsed by the script itself; models that they name have to be in that
config, and artifacts are targets of the dry run. What a test elsewhere runs is named here, and so is what no test can.
"""

import importlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from workflow_tree import REPOSITORY, Tree, copy_workflow, write_checkpoint

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"(\S*\.venv/bin/|make |snakemake |python scripts/|scripts/\w+\.py )")
TARGETS = {"all", "tokenizers", "quantize", "export", "bundle", "run", "evaluate", "report"}
# Models, recipes and devices that pages without a config of their own speak of.
COMMON = """\
socs: [SM8650, SM8750]
models:
  my_model:
    checkpoint: checkpoints/a
    recipe: [16a8w, small]
    modes: [kv, hybrid]
    calibration: {text: corpus.txt}
    prompts: [Hello]
recipes:
  small: {based_on: 16a4w_block32, seq_mse: 50}
"""
DEVICES = """\
devices:
  emulator: {kind: emulator, soc: SM8650}
  s24: {kind: adb, serial: a, soc: SM8650, build_path: build-android, qnn_sdk: sdk}
  s24b: {kind: adb, serial: b, soc: SM8650, build_path: build-android, qnn_sdk: sdk}
"""
FILES = {"corpus.txt": "Once upon a time.\n", "news.txt": "News.\n", "other.yaml": COMMON}
FILES |= dict.fromkeys(["wiki.test.raw", "gemma-3-270m-q4_k_m.gguf"], "only to be there\n")
# Command -> where else it is run.
ELSEWHERE = {
    "adb devices": "tests/devices/test_adb.py",
    "make -C hexport setup": "tests/workflow/test_ci.py",
}
# ExecuTorch's and the phone's: phones.md says that no test runs them.
NOT_RUN = (
    "git clone --recursive https://github.com/pytorch/executorch && cd executorch",
    "git checkout cff6f4dd32 && git submodule update --init --recursive",
    "export ANDROID_NDK_ROOT=~/android-ndk-r26c QNN_SDK_ROOT=~/qnn-sdk",
    "backends/qualcomm/scripts/build.sh --skip_x86_64 --release",
    "cd /data/local/tmp/mine && LD_LIBRARY_PATH=. ADSP_LIBRARY_PATH=. ./qnn_llama_runner",
)


@dataclass(frozen=True)
class Command:
    """A line of a bash block, and the config that stands before it on its page, if any does."""

    page: str
    text: str
    config: str | None

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text.replace("…", ""), comments=True)

    @property
    def tool(self) -> str:
        return self.words[0].rpartition("/")[2]

    @property
    def arguments(self) -> list[str]:
        """Of a script, what stands behind its name."""
        return self.words[2:] if self.tool == "python" else self.words[1:]

    @property
    def targets(self) -> list[str]:
        """What a dry run is asked for: targets, and artifacts that something else than Snakemake reads, of a folder the
        config in it."""
        words = self.words[1 : self.options_from]
        if self.tool == "snakemake":
            return [word for word in words if word != "-n"]
        read = [word for word in self.words if word.startswith("artifacts/")]
        return [word if Path(word).suffix else f"{word}/config.json" for word in read]

    @property
    def options(self) -> tuple[str, ...]:
        found = self.words[self.options_from :] if self.tool == "snakemake" else []
        return tuple(re.sub("<.*?>", "x", word) for word in found)

    @property
    def options_from(self) -> int:
        return next((i for i, word in enumerate(self.words) if word.startswith("--")), len(self.words))


def commands() -> Iterator[Command]:
    for page in PAGES:
        config = None
        for _, language, content in BLOCK.findall(page.read_text()):
            if language == "yaml" and content.startswith("# config.yaml"):
                config = content
            elif language == "bash":
                for line in content.replace("\\\n", " ").splitlines():
                    yield Command(page.name, " ".join(line.split("  #")[0].split()), config)


COMMANDS = list(commands())


def of(tool: str) -> list[Command]:
    return [command for command in COMMANDS if command.tool == tool]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Tree:
    """The workflow with the repository's own config, and in the place of checkpoints a tiny one."""
    path = tmp_path_factory.mktemp("docs")
    copy_workflow(path)
    shutil.copytree(REPOSITORY / "demo", path / "demo")
    write_checkpoint(path / "checkpoints/a")
    for name, content in FILES.items():
        (path / name).write_text(content)
    (path / "devices.yaml").write_text(DEVICES)
    for command in (*of("mkdir"), *of("cp")):
        run_for_real(path, command)
    return Tree(path)


def with_config(tree: Tree, config: str | None) -> dict:
    """Give the tree a config: the page's, or the demo's with the models that pages speak of."""
    if config is None:
        common, own = yaml.safe_load(COMMON), yaml.safe_load((REPOSITORY / "config.yaml").read_text())
        document = own | common | {"models": own["models"] | common["models"]}
    else:
        document = yaml.safe_load(re.sub(r"(checkpoint: )/data/my-model", r"\1checkpoints/a", config))
    (tree.path / "config.yaml").write_text(yaml.safe_dump(document))
    return document


def test_every_command_is_known():
    """One that is not needs a way to be tried, here. Those of hexport stand in bash blocks and nowhere else."""
    assert len(COMMANDS) > 40
    known = {"snakemake", "make", "cp", "mkdir", "alias", "python"}
    others = {command.text for command in COMMANDS if command.tool not in known} - set(ELSEWHERE)
    assert [text for text in others if not text.startswith(NOT_RUN)] == []
    for page in PAGES:
        rest = "\n".join(
            block for _, language, block in BLOCK.findall(page.read_text()) if language not in ("bash", "yaml")
        )
        indented = re.findall(r"^ {4}(.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
        lines = [line.strip() for line in (*rest.splitlines(), *indented)]
        assert [line for line in lines if OURS.match(line)] == [], page.name
    assert "No test runs these" in (REPOSITORY / "docs/phones.md").read_text()


def test_the_tests_that_run_commands_are_there():
    for text, file in ELSEWHERE.items():
        assert (REPOSITORY / file).is_file(), text


def dry_runs() -> Iterator:
    """The commands that one dry run tries, those with the same config and options."""
    for config, options in {(command.config, command.options): None for command in COMMANDS if command.targets}:
        asked = [command for command in COMMANDS if (command.config, command.options) == (config, options)]
        pages = dict.fromkeys(command.page for command in asked if command.targets)
        yield pytest.param(asked, id=" ".join((*pages, *options)))


@pytest.mark.parametrize("asked", list(dry_runs()))
def test_targets_are_there(tree, asked):
    with_config(tree, asked[0].config)
    targets = dict.fromkeys(target for command in asked for target in command.targets)
    tree.snakemake(*targets, "-n", "--quiet", "all", *asked[0].options)


def run_for_real(path: Path, command: Command) -> None:
    """Commands of the shell, on stand-ins for the artifacts that they read."""
    for word in command.words:
        file = path / word
        if word.startswith("artifacts/") and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path / "checkpoints/a" / file.name, file)
    subprocess.run(command.words, cwd=path, check=True)


@pytest.mark.parametrize("command", of("python"), ids=lambda command: command.text)
def test_scripts_take_these_options(tree, command, tmp_path, monkeypatch):
    script = Path(command.words[1])
    assert (REPOSITORY / script).is_file()
    monkeypatch.syspath_prepend(str((REPOSITORY / script).parent))
    monkeypatch.chdir(tree.path)
    models = with_config(tree, command.config)["models"]
    main = command_of(script)
    context = main.make_context(script.name, list(command.arguments))
    for parameter in main.params:
        value = context.params[parameter.name]
        if parameter.human_readable_name == "MODEL":
            assert value in models
        if {"--config", "--devices"}.intersection(parameter.opts):
            assert Path(value).is_file()
    if script.name == "show_recipe.py":
        done = CliRunner().invoke(main, command.arguments)
        assert done.exit_code == 0, done.output
    if script.name == "import_command.py":
        files = ["--config", str(tmp_path / "config.yaml"), "--devices", str(tmp_path / "devices.yaml")]
        done = CliRunner().invoke(main, [*command.arguments, *files])
        assert done.exit_code == 0, done.output
        assert "qwen3-0_6b" in (tmp_path / "config.yaml").read_text()


def command_of(script: Path) -> click.Command:
    spec = importlib.util.spec_from_file_location(f"command_{script.stem}", REPOSITORY / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def make_targets() -> set[str]:
    """All that a page tells to make, in blocks and in texts."""
    in_texts = {name for page in PAGES for name in re.findall(r"`make ([\w-]+)[^`]*`", page.read_text())}
    return in_texts | {command.words[1] for command in of("make") if command.text not in ELSEWHERE}


def test_make_knows_its_targets():
    assert {"demo", "setup", "test", "doctor", "docs", "benchmark-scale"} <= make_targets()
    words = ["make", "--dry-run", "--assume-new=pyproject.toml", *sorted(make_targets())]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_texts_name_is_there():
    """In passing, without a bash block: targets, scripts and their options."""
    wrong = []
    for page in PAGES:
        for span in re.findall(r"`([^`]+)`", BLOCK.sub("", page.read_text())):
            words = " ".join(span.split()).removeprefix(".venv/bin/").removeprefix("python ").split()
            if words[0] == "snakemake":
                targets = words[1 : next((i for i, word in enumerate(words) if i and word.startswith("-")), len(words))]
                wrong += [span for word in targets if word not in TARGETS and not word.startswith(("artifacts/", "…"))]
            elif re.fullmatch(r"(scripts|benchmarks)/\w+\.py", words[0]):
                file = REPOSITORY / words[0]
                text = file.read_text() if file.is_file() else ""
                wrong += [span for word in words if word.startswith("--") and f'"{word}"' not in text]
                wrong += [] if text else [span]
    assert wrong == []


def test_the_runners_flags_are_those_that_hexport_gives_it():
    from hexport.devices.runners.command import runner_command

    (command,) = (command for command in COMMANDS if "./qnn_llama_runner" in command.text)
    flags = {word for word in command.words if word.startswith("--")}
    assert flags - {"--prompt"} <= set(runner_command("p", "m", "hybrid", 1, {}))


def test_adb_comes_with_hexport():
    (command,) = of("alias")
    (program,) = re.findall(r"python -c '(.*?)'", command.text)
    import adbutils  # noqa: F401 - the program imports it

    found: list[str] = []
    exec(program, {"print": found.append})
    assert Path(found[0]).name.startswith("adb")
