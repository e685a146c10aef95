"""Evaluation of the float model against lm-eval's own Hugging Face model, on the same tokens, and the perplexities.

    pip install accelerate    # which lm-eval's Hugging Face model needs, and hexport does not
    python benchmarks/evaluation.py --text wiki.test.raw

Both are whole processes, from their imports to the metrics of lm-eval's rolling log-likelihood.
"""

import json
import tempfile
from pathlib import Path

import click
from measured import HEADER, measured, ratio


@click.command(help=__doc__)
@click.option("--model", default="artifacts/smollm2_135m", help="folder with checkpoint/ (float32) and tokenizer/")
@click.option("--text", type=click.Path(path_type=Path), required=True)
@click.option("--documents", default=8, help="of about 512 words each")
@click.option("--max-seq-len", default=1024)
@click.option("--only", type=click.Choice(("hexport", "lm-eval")), help="evaluate in this process")
@click.option("--output", type=click.Path(path_type=Path), help="with --only: where the metrics go")
def main(model: str, text: Path, documents: int, max_seq_len: int, only: str | None, output: Path | None) -> None:
    if only:
        metrics = {"hexport": of_hexport, "lm-eval": of_lm_eval}[only](Path(model), text, documents, max_seq_len)
        output.write_text(json.dumps(metrics))
        return
    print(f"{documents} documents, {max_seq_len} tokens at most in a window")
    print(HEADER)
    costs, lines = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("lm-eval", "hexport"):
            output = Path(folder, name)
            options = {"model": model, "text": text, "documents": documents, "max-seq-len": max_seq_len}
            options |= {"only": name, "output": output}
            words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
            costs[name] = measured(__file__, *words)
            print(costs[name].row(name))
            lines.append(f"{name}: word perplexity {json.loads(output.read_text())['word_perplexity']:.4f}")
    print(ratio(costs["lm-eval"], costs["hexport"]))
    print("\n".join(lines))


def of_hexport(folder: Path, text: Path, documents: int, max_seq_len: int) -> dict:
    from hexport.decoder.weights import Checkpoint
    from hexport.evaluation.fp import fp_scores
    from hexport.evaluation.lm_eval_model import EvaluationModel, evaluate
    from hexport.evaluation.tasks import load_tasks
    from hexport.progress import Progress
    from hexport.tokenizers.tokenizer import load_tokenizer

    checkpoint, progress = Checkpoint(folder / "checkpoint"), Progress()
    model = EvaluationModel(
        load_tokenizer(folder / "tokenizer"),
        max_seq_len,
        lambda sequences: fp_scores(checkpoint, max_seq_len, sequences, progress),
    )
    return evaluate(load_tasks(["text"], {"text": text}, None), model, documents)["text"]


def of_lm_eval(folder: Path, text: Path, documents: int, max_seq_len: int) -> dict:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from hexport.evaluation.tasks import load_tasks

    model = HFLM(
        pretrained=str(folder / "checkpoint"),
        tokenizer=str(folder / "tokenizer"),
        max_length=max_seq_len,
        device="cpu",
        dtype="float32",
    )
    tasks = load_tasks(["text"], {"text": text}, None)
    results = evaluate(model, tasks, limit=documents, bootstrap_iters=0, log_samples=False)["results"]["text"]
    return {key.removesuffix(",none"): value for key, value in results.items()}


if __name__ == "__main__":
    main()
