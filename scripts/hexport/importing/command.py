"""This module reads command lines of ExecuTorch's script for language models on Qualcomm chips, in the dialect of 2025
and in today's.

The script is examples/qualcomm/oss_scripts/llama/llama.py.
"""

import argparse
import math
import os
import shlex
from typing import NoReturn

from hexport.errors import HexportError

SCRIPT, CONVERTER = "llama.py", "pytorch_tokenizers.tools.llama2c.convert"
# The script's own defaults, where hexport's differ.
DEFAULTS = {"model_mode": "hybrid", "max_seq_len": 512, "prefill_ar_len": 32, "limit": 1}


def finite_number(text: str) -> float:
    """Return the number in a text; raise ValueError for one that is not finite."""
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


TEXT, NUMBER, TEXTS, FLAG = {}, {"type": int}, {"nargs": "+"}, {"action": "store_true"}
# What hexport has a key for. Names that the dialects share stand together; the last one is the argument's.
KNOWN: dict[str, dict] = {
    **dict.fromkeys(("-b --build_folder", "-s --device", "-H --host", "-m --model --soc_model"), TEXT),
    **dict.fromkeys(("--decoder_model", "--checkpoint", "--params", "--tokenizer_model", "--tokenizer_bin"), TEXT),
    "--prompt": TEXTS,
    "--system_prompt": TEXT,
    "--temperature": {"type": finite_number},
    "--model_mode": {"choices": ("kv", "hybrid", "lookahead")},
    **dict.fromkeys(("--max_seq_len", "--max_context_len", "--prefill_ar_len", "--num_sharding"), NUMBER),
    **dict.fromkeys(("--ngram", "--window", "--gcap"), NUMBER),
    **dict.fromkeys(("--tasks", "--eval_tasks", "--calib_tasks"), TEXTS),
    **dict.fromkeys(("--limit", "--eval_limit", "--calib_limit"), NUMBER),
    **dict.fromkeys(("--num_fewshot", "--eval_num_fewshot", "--calib_num_fewshot"), NUMBER),
    **dict.fromkeys(("--eval_methods", "--calib_samples"), TEXTS),
    **dict.fromkeys(("--eval_perplexity", "--compile_only", "--enable_x86_64"), FLAG),
    **dict.fromkeys(("--pre_gen_pte", "--quant_attrs_path"), TEXT),
}
# What it has no key for, and what to do in its place.
WITHOUT: dict[str, str] = {
    "-a --artifact": "everything is written below `artifacts`, a key of config.yaml",
    "-d --dtype-override": "the float model is computed in float32",
    "-E --embedding-quantize": (
        "the table of embeddings is part of the program; embedding_bits: 8 in a recipe halves it"
    ),
    "-F --use_fp16": "programs are quantised; recipe 16a8w is the nearest to float",
    "-v --verbose": "an evaluation always has the float and the fake-quantised model beside the program",
    "--ptq": "name a recipe: docs/recipes.md",
    "--kv_updater": "the caches' layout follows from the program",
    "--use_attention_sink": "an answer ends with the context",
    **dict.fromkeys(("--audio_path", "--image_path"), "hexport is for text"),
    "--batch_size": "calibration passes all samples through one layer after the other",
    "--calib_hf_dataset": "write its chats to a file, and name that: calibration: {samples: chats.json}",
    "--calib_hf_limit": "write the chats to a file, and name that: calibration: {samples: chats.json}",
    "--quant_recipe_suggestion": "run `snakemake artifacts/<model>/<recipe>/sensitivity.yaml`",
    "--qat": "hexport does not train; gptq and tune_scales in a recipe need no labels",
    **dict.fromkeys(("--train_config", "--lr_config", "--train_tasks", "--train_limit"), "hexport does not train"),
    **dict.fromkeys(("--train_hf_dataset", "--train_hf_limit", "--train_val_ratio"), "hexport does not train"),
    "--freeze_all_params": "hexport does not train",
    "--skip_push": "what is on the phone already is not pushed again",
    "--config_file": "write its values as flags",
    "--backend": "programs are for the HTP",
    "--target": "phones run Android",
    "--direct_build_folder": "programs run through the CPU's runner",
    "--online_prepare": "graphs are compiled on this machine",
    **dict.fromkeys(("--shared_buffer", "--htp_performance_mode"), "the runner decides that"),
    "--profile_level": "result.json has the times of each run",
    "--dump_intermediate_outputs": "scripts/compare_layers.py compares layers op by op",
    **dict.fromkeys(("--skip_delegate_node_ids", "--skip_delegate_node_ops"), "all ops run on the HTP"),
    **dict.fromkeys(("--ip", "--port"), "results are files"),
    "--ci": "docs/ci.md",
    "--seed": "answers are greedy unless temperature is set",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise HexportError(f"the command: {message}; correct it, or take it from `--help` of {SCRIPT}")


def words_of(command: str) -> list[str]:
    """Return the words of a command line, with the values of environment variables that are set. Raises HexportError
    where its quotes do not match."""
    try:
        return [os.path.expandvars(word) for word in shlex.split(command.replace("\\\n", " "), comments=True)]
    except ValueError as error:
        raise HexportError(f"the command: {error}; copy it as a whole") from None


def parse_command(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags of a `llama.py` command, None or False where they are not given, and a line for each flag that
    hexport has nothing for.

    Raises HexportError for another command, and where a flag's value is missing or wrong.
    """
    place = next((i for i, word in enumerate(words) if word.rpartition("/")[2] == SCRIPT), None)
    if place is None:
        raise HexportError(f"the command: runs neither {SCRIPT} nor {CONVERTER}; give one that does, in quotes")
    parser = _Parser(allow_abbrev=False, add_help=False)
    for flag, options in KNOWN.items():
        *_, last = names = flag.split()
        parser.add_argument(*names, dest=last.lstrip("-"), **options)
    for flag in WITHOUT:
        parser.add_argument(*flag.split(), dest=flag, nargs="*")
    flags, unknown = parser.parse_known_args(words[place + 1 :])
    notes = [f"{flag}: {reason}" for flag, reason in WITHOUT.items() if getattr(flags, flag) is not None]
    notes += [
        f"{word.partition('=')[0]}: is no flag that is known; left out" for word in unknown if word.startswith("-")
    ]
    return flags, notes


def converted_tokenizer(words: list[str]) -> str | None:
    """Return the tokenizer.model that a command of `pytorch_tokenizers` makes a tokenizer.bin of; None for another
    command.

    Raises HexportError where the command names none.
    """
    if CONVERTER not in words:
        return None
    parser = _Parser(allow_abbrev=False, add_help=False)
    parser.add_argument("-t", "--tokenizer-model", required=True)
    return parser.parse_known_args(words[words.index(CONVERTER) + 1 :])[0].tokenizer_model
