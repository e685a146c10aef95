"""This module writes a bundle: a program with all that an app team needs to run it, as a folder and as an archive of
it."""

import json
import os
import shlex
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hexport.bundles.readme import readme
from hexport.bundles.runner_model import runner_model
from hexport.bundles.runner_tokenizer import runner_tokenizer
from hexport.devices.emulator import mode_methods
from hexport.devices.runners.command import PROMPT, runner_command
from hexport.devices.runners.remote import graph_sizes
from hexport.file_hashes import sha256
from hexport.programs.abi import KV_METHOD
from hexport.programs.facts import ProgramFacts
from hexport.programs.layout import layout_of
from hexport.programs.runners import runner_fit
from hexport.provenance import manifest_path
from hexport.runtime.prefill import check_prompt
from hexport.targets.modes import LOOKAHEAD_KEYS, MODES
from hexport.tokenizers.tokenizer import Tokenizer, load_tokenizer

DEFAULT_PROMPT = "Once upon a time"
FACTS = "bundle.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle is what its folder is made of: a program with its facts, a tokenizer (…/tokenizer.json), and the
    settings of scripts/write_bundle.py."""

    program: Path
    facts: ProgramFacts
    tokenizer: Path
    settings: dict


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write the files of a bundle to a new folder. Raises HexportError where the prompt does not fit the program."""
    folder.mkdir(parents=True)
    program, settings = bundle.program, bundle.settings
    _take(program, folder / program.name)
    shutil.copyfile(manifest_path(program), manifest_path(folder / program.name))
    text = runner_tokenizer(bundle.tokenizer.read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    shutil.copyfile(bundle.tokenizer.with_name("tokenizer_config.json"), folder / "tokenizer_config.json")
    tokenizer = load_tokenizer(bundle.tokenizer.parent)
    if tokenizer.chat_template is not None:
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
    graph, prompt = graph_sizes(bundle.facts, mode_methods(settings["mode"])[0]), settings["prompt"] or DEFAULT_PROMPT
    ids, seq_len = tokenizer.prompt_ids(prompt, settings["system_prompt"]), min(settings["seq_len"], graph.context_len)
    check_prompt(graph, ids, seq_len, "prompts", "the first prompt")
    (folder / PROMPT).write_bytes(np.array(ids, "<u8").tobytes())
    n_masks = layout_of(bundle.facts.methods[KV_METHOD]).n_masks
    command = shlex.join(command_for(program.name, tokenizer, n_masks, seq_len, settings))
    facts = _facts(bundle, graph.context_len, prompt, command, sorted(tokenizer.stop_ids))
    (folder / "README.md").write_text(readme(facts, tokenizer.chat_template is not None), encoding="utf-8")
    facts["files"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def command_for(program: str, tokenizer: Tokenizer, n_masks: int, seq_len: int, settings: dict) -> list[str]:
    """Return the words of the runner's command for a program in the folder that it runs in."""
    mode = settings["mode"]
    lookahead = {key: str(settings[key]) for key in LOOKAHEAD_KEYS if MODES[mode].looks_ahead}
    return runner_command(program, runner_model(tokenizer, n_masks), mode, seq_len, lookahead)


def write_archive(folder: Path, name: str, output: Path) -> None:
    """Write the files of a folder as a tar, in which they lie in the folder `name`. Equal files give equal bytes.

    It is not compressed: weights hardly become smaller by that, and take minutes.
    """
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(folder.iterdir()):
            member = tarfile.TarInfo(f"{name}/{file.name}")
            member.size, member.mode = file.stat().st_size, 0o644
            with open(file, "rb") as content:
                archive.addfile(member, content)


def _take(file: Path, into: Path) -> None:
    """Give the bytes of a file a second name, or copy them where the file system has no links."""
    try:
        os.link(file, into)
    except OSError:
        shutil.copyfile(file, into)


def _facts(bundle: Bundle, context_len: int, prompt: str, command: str, stop_ids: list[int]) -> dict:
    """Return the content of bundle.json, but for the files."""
    program, settings = bundle.facts, bundle.settings
    fit, manifest = runner_fit(program, settings["mode"]), json.loads(manifest_path(bundle.program).read_bytes())
    versions = manifest["versions"]
    return {
        **{key: settings[key] for key in ("model", "recipe", "target", "mode", "licence")},
        "context_len": context_len,
        "htp_arch": manifest["htp_arch"],
        "program": bundle.program.name,
        "content_sha256": manifest["content_sha256"],
        "runner": {"since": fit.since, "limit": fit.limit, "command": command},
        "versions": {name: versions[name] for name in ("hexport", "executorch", "qnn")},
        "prompt": prompt,
        "system_prompt": settings["system_prompt"],
        "stop_ids": stop_ids,
    }
