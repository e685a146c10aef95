"""This module says which bundles of programs are made, and what each of them depends on."""

from hexport.build.artifacts import ProgramKey, bundle_file
from hexport.build.matrix import as_settings, names_of, programs_to_build
from hexport.config.settings import Config, Model, built_in_models
from hexport.targets.modes import LOOKAHEAD_KEYS, MODES

# The licences of the built-in checkpoints' weights, as their publishers name them.
APACHE = "Apache License 2.0"
LICENCES = {
    "stories110m": "MIT License (karpathy/tinyllamas)",
    "llama3_2-1b_instruct": "Llama 3.2 Community License (https://www.llama.com/llama3_2/license)",
    "llama3_2-3b_instruct": "Llama 3.2 Community License (https://www.llama.com/llama3_2/license)",
    "gemma-2b": "Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
    "gemma3-1b": "Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
    "phi_4_mini": "MIT License",
    **dict.fromkeys(("qwen2_5-0_5b", "qwen2_5-1_5b", "qwen3-0_6b", "qwen3-1_7b", "smollm2_135m", "smollm3-3b"), APACHE),
}


def bundles(config: Config) -> list[str]:
    """Return the archive of the bundle of each program that `snakemake export` builds."""
    return [bundle_file(config.artifacts, program) for program in programs_to_build(config)]


def bundle_settings(config: Config, program: ProgramKey) -> str:
    """Return the settings of `write_bundle`: names, the first prompt, sizes and the licence. Raises HexportError where
    the model does not have this context length."""
    spec = config.models[program.model]
    sizes = spec.sizes(program.context_length)
    return as_settings(
        names_of(program)
        | {
            "prompt": spec.conversations[0][0] if spec.conversations else None,
            "system_prompt": spec.system_prompt,
            "seq_len": sizes["seq_len"],
            "licence": licence(spec),
        }
        | {key: sizes[key] for key in LOOKAHEAD_KEYS if MODES[program.mode].looks_ahead}
    )


def licence(model: Model) -> str | None:
    """Return the licence of a model's weights, where they are the built-in ones; None where it is not known."""
    built_in = built_in_models().get(model.name, {})
    return LICENCES.get(model.name) if built_in.get("checkpoint") == model.checkpoint else None
