"""Accuracy, size and minutes of recipes on real models, by the workflow itself: fake-quantised against float32.

    python benchmarks/accuracy.py --evaluation-text wiki.test.raw                 all rows of SmolLM2-135M
    python benchmarks/accuracy.py --evaluation-text wiki.test.raw --gemma gemma-3-270m-q4_k_m.gguf      Gemma 3 270M too
    python benchmarks/accuracy.py --only smollm2_135m/16a8w                       one row, on lm-eval's wikitext task
    python benchmarks/accuracy.py --print                                         the table of all rows made so far

A row is a recipe of a model, calibrated on hexport's calibration set or on --calibration-text, and evaluated on three
kinds of text: the evaluation text, Python code and chats, so that a recipe shows what it learned too well. SQNR, KL and
top-1 are of all three together. Rows are lines of JSON in a file, and what is in there is not made again. Artifacts are
kept in --folder, where the weights of a row that was stopped go on.
"""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import yaml
from scale import snakemake

from hexport.build.artifacts import (
    checkpoint_file,
    qdq_file,
    quant_attrs_file,
    tokenizer_file,
    tokens_file,
    weights_file,
)
from hexport.build.program_size import estimated_bytes, known_sizes
from hexport.config.settings import built_in_models, parse_config
from hexport.provenance import manifest_path
from hexport.quantization.recipe_checks import recipe_from
from hexport.tokenizers.tokenizer import load_tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
CHATS = REPOSITORY / "demo" / "calibration.json"  # in no calibration here
EVALUATION_CHATS, CODE_CHARACTERS = 5, 5000  # about 1,500 tokens each
CONTEXT_LEN = 512
SMOLLM2, GEMMA = "smollm2_135m", "gemma3-270m"
BLOCKS = {
    "based_on": "16a4w_block32",
    "overrides": [{"layers": "epilogue", "points": "output", "weight_bits": 8, "granularity": "per_channel"}],
}
PLAIN_HEAD = {"layers": "epilogue", "points": "output", "seq_mse": 0, "gptq": False}
PLAIN_VALUES = {"points": "attention.v_proj", "seq_mse": 0, "gptq": False}  # 8 bits, as the head above
SEARCHED = {"seq_mse": 20, "gptq": True}
SMALL = {"based_on": "16a4w_block32", **SEARCHED, "r1": True, "tune_scales": 1, "embedding_bits": 8}
FITTED, FITTED_SIZE = "fitted_130MB", "130MB"  # what fit_recipe.py makes of SMALL
# Bit widths of ExecuTorch's recipe for Gemma 3 1B, whose head has 4 bits.
EXECUTORCH_GEMMA3 = {
    "based_on": "16a4w_block64",
    "kv_bits": 8,
    "masked_softmax": True,
    "overrides": [{"points": "attention.v_proj", "weight_bits": 8, "granularity": "per_channel"}],
}
RECIPES = {
    "16a8w": {"based_on": "16a8w"},
    "block32": BLOCKS,
    "block32_seq_mse": {"based_on": "block32", "seq_mse": 20, "overrides": [PLAIN_HEAD]},
    "block32_gptq": {"based_on": "block32", **SEARCHED, "overrides": [PLAIN_HEAD]},
}
OF_MODEL = {
    SMOLLM2: {
        "16a8w_r1": {"based_on": "16a8w_r1"},
        "block32_gptq_r1": {"based_on": "block32_gptq", "r1": True},
        "block32_gptq_r1_tuned": {"based_on": "block32_gptq", "r1": True, "tune_scales": 1},
        "small": SMALL,
        FITTED: {"based_on": "small"},
    },
    GEMMA: {
        "executorch": EXECUTORCH_GEMMA3,
        "executorch_seq_mse": {"based_on": "executorch", "seq_mse": 20, "overrides": [PLAIN_VALUES]},
        "executorch_gptq": {"based_on": "executorch", **SEARCHED, "overrides": [PLAIN_VALUES]},
        "executorch_gptq_widen_tuned": {"based_on": "executorch_gptq", "widen": 128, "tune_scales": 1},
        "gemma3-1b": {"based_on": "gemma3-1b"},
    },
}
ROWS = [f"{model}/{recipe}" for model, own in OF_MODEL.items() for recipe in RECIPES | own]
COLUMNS = {
    "MB": lambda row: f"{row['estimated_mb']:.0f}",
    "text": lambda row: f"{row['ratios']['text']:.3f}",
    "code": lambda row: f"{row['ratios']['code']:.3f}",
    "chat": lambda row: f"{row['ratios']['chat']:.3f}",
    "SQNR, dB": lambda row: f"{row['sqnr_db']:.1f}",
    "KL, nats": lambda row: f"{row['kl_divergence']:.4f}",
    "top-1": lambda row: f"{row['top1_agreement']:.3f}",
    "weights, min": lambda row: f"{row['weights_s'] / 60:.1f}" if row["weights_s"] is not None else "",
    "calibration, min": lambda row: f"{row['calibration_s'] / 60:.1f}",
}


@click.command(help=__doc__)
@click.option(
    "--only", type=click.Choice(ROWS), multiple=True, help="rows to make; default: all whose weights are there"
)
@click.option("--print", "only_print", is_flag=True, help="make none, print those made so far")
@click.option("--gemma", type=click.Path(exists=True, path_type=Path), help="Gemma 3 270M, a GGUF file")
@click.option("--calibration-text", type=click.Path(exists=True, path_type=Path), help="default: hexport's own set")
@click.option("--evaluation-text", type=click.Path(exists=True, path_type=Path), help="default: lm-eval's wikitext")
@click.option("--documents", default=4, show_default=True, help="of the evaluation text, about 512 words each")
@click.option("--results", type=click.Path(path_type=Path), default="accuracy.jsonl", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="artifacts/accuracy", show_default=True)
def main(
    only: tuple[str, ...],
    only_print: bool,
    gemma: Path | None,
    calibration_text: Path | None,
    evaluation_text: Path | None,
    documents: int,
    results: Path,
    folder: Path,
) -> None:
    data = {
        "calibration": str(calibration_text.resolve()) if calibration_text else None,
        "evaluation": str(evaluation_text.resolve()) if evaluation_text else None,
        "documents": documents,
    }
    checkpoints = {SMOLLM2: built_in_models()[SMOLLM2]["checkpoint"], GEMMA: gemma and str(gemma.resolve())}
    made = {row["row"] for row in rows_of(results) if row["data"] == data}
    for name in () if only_print else only or ROWS:
        model, recipe = name.split("/")
        if name not in made and checkpoints[model]:
            row = make(folder, model, recipe, checkpoints[model], data)
            with open(results, "a") as file:
                file.write(json.dumps({"row": name, "data": data, **row}) + "\n")
    print_tables(results)


def make(folder: Path, model: str, recipe: str, checkpoint: str, data: dict) -> dict:
    """Make a row: its figures. Ends the process where Snakemake fails, which has said why."""
    folder.mkdir(parents=True, exist_ok=True)
    written(folder, config_of(model, checkpoint, {}, {}), tokenizer_file("artifacts", model))
    tasks = {"text": data["evaluation"]} | write_texts(folder, model)
    document = config_of(model, checkpoint, {name: file for name, file in tasks.items() if file}, data)
    if recipe == FITTED:
        document["recipes"][FITTED] = fitted(folder, document, model)
    wanted = qdq_file("artifacts", model, recipe, CONTEXT_LEN)
    written(folder, document, wanted)
    found = json.loads((folder / wanted).read_text())
    return {
        "estimated_mb": estimated_mb(folder, document, model, recipe),
        "ratios": {name.replace("wikitext", "text"): ratio for name, ratio in found["perplexity_ratio"].items()},
        **{key: found[key] for key in ("sqnr_db", "kl_divergence", "top1_agreement", "tokens")},
        "weights_s": seconds(folder / weights_file("artifacts", model, recipe)),
        "calibration_s": seconds(folder / quant_attrs_file("artifacts", model, recipe)),
    }


def fitted(folder: Path, document: dict, model: str) -> dict:
    """Have scripts/fit_recipe.py fit a recipe, and return it."""
    for file in (checkpoint_file, tokens_file):
        written(folder, document, file("artifacts", model))
    words = [str(REPOSITORY / "scripts/fit_recipe.py"), model, "--recipe", "small", "--size", FITTED_SIZE]
    if subprocess.run([sys.executable, *words, "--config", "config.json"], cwd=folder).returncode:
        sys.exit("benchmark: no recipe was fitted; the line above says why")
    return yaml.safe_load((folder / f"artifacts/{model}/small/fit/{FITTED_SIZE}.yaml").read_text())


def config_of(model: str, checkpoint: str, texts: dict[str, str], data: dict) -> dict:
    """The content of a config.yaml for a model with all its recipes; without texts, for its tokenizer alone."""
    recipes = {name: spec for name, spec in (RECIPES | OF_MODEL[model]).items() if name != spec["based_on"]}
    text = data.get("calibration")
    names = dict.fromkeys(["text" if "text" in texts else "wikitext", *texts])
    return {
        "devices": str(REPOSITORY / "devices.yaml"),
        "recipes": recipes,
        "tasks": {name: {"text": file} for name, file in texts.items()},
        "models": {
            model: {
                "checkpoint": checkpoint,
                "recipe": list(RECIPES | OF_MODEL[model]),
                "max_seq_len": CONTEXT_LEN,
                "prompts": [],
                "calibration": {"text": text} if text else None,
                "evaluation": {"tasks": list(names), "limit": data["documents"]} if texts else None,
            }
        },
    }


def write_texts(folder: Path, model: str) -> dict[str, str]:
    """Texts that no row is calibrated on: a module of Python's library, and chats as the model's template has them."""
    tokenizer = load_tokenizer(folder / Path(tokenizer_file("artifacts", model)).parent)
    chats = [chat["messages"] for chat in json.loads(CHATS.read_text())[:EVALUATION_CHATS]]
    plain = tokenizer.chat_template is None
    texts = {
        "code": Path(textwrap.__file__).read_text()[:CODE_CHARACTERS],
        "chat": "\n".join(
            "\n\n".join(message["content"] for message in chat) if plain else tokenizer.render(chat, False)
            for chat in chats
        ),
    }
    files = {name: (folder / f"{model}-{name}.txt").resolve() for name in texts}
    for name, file in files.items():
        if not file.exists() or file.read_text() != texts[name]:
            file.write_text(texts[name])
    return {name: str(file) for name, file in files.items()}


def written(folder: Path, document: dict, path: str) -> None:
    """Have the workflow make a file. Ends the process where it fails."""
    (folder / "config.json").write_text(json.dumps(document))  # JSON is YAML
    try:
        snakemake(folder, path)
    except subprocess.CalledProcessError:
        sys.exit(f"benchmark: {path} was not made; Snakemake says why above")


def estimated_mb(folder: Path, document: dict, model: str, recipe: str) -> float:
    config = parse_config({**document, "artifacts": str(folder / "artifacts")}, "config.json")
    sizes, _ = known_sizes(config, config.models[model])
    return round(estimated_bytes(recipe_from(config.recipes[recipe], recipe), sizes, CONTEXT_LEN) / 1e6, 1)


def seconds(artifact: Path) -> float | None:
    """Of the job that made it, without imports; None where there is no such artifact."""
    if not artifact.exists():
        return None
    stages = json.loads(manifest_path(artifact).read_text())["stages"]
    return round(sum(stage["seconds"] for stage in stages.values()), 1)


def rows_of(results: Path) -> list[dict]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def print_tables(results: Path) -> None:
    """A table for each model and data."""
    tables: dict[str, list[dict]] = {}
    for row in rows_of(results):
        data = {**row["data"], "calibration": row["data"]["calibration"] or "hexport's calibration set"}
        title = f"{row['row'].split('/')[0]}, calibrated on {data['calibration']}, {row['tokens']} tokens evaluated"
        tables.setdefault(title, []).append(row)
    for title, rows in tables.items():
        print(f"\n{title}; text, code, chat: ratios of perplexities per word to float32\n")
        print("\n".join(lines(rows)))


def lines(rows: list[dict]) -> Iterator[str]:
    yield f"| recipe | {' | '.join(COLUMNS)} |"
    yield "|---" * (1 + len(COLUMNS)) + "|"
    for row in rows:
        yield f"| `{row['row'].split('/')[1]}` | {' | '.join(cell(row) for cell in COLUMNS.values())} |"


if __name__ == "__main__":
    main()
