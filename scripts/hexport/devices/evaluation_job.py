"""This module holds what an evaluation of a program is made of, so that any process can do it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hexport.errors import HexportError
from hexport.progress import Progress


@dataclass(frozen=True)
class EvaluationJob:
    """A job holds the files and the settings of scripts/evaluate_device.py.

    - tokenizer: …/tokenizer.json.
    - settings: for instance `{"model": "m", "recipe": "16a4w", "recipe_spec": {…}, "target": "SM8650",
      "mode": "hybrid", "graph": "prefill", "tasks": ["wikitext"], "limit": 1, "num_fewshot": null}`.
    - texts: the files of the tasks that are local texts, by the names of these.
    - checkpoint: None for a ready program that is compared with nothing.
    - quant_attrs: None for any ready program.
    - weights: None where the recipe has none.
    """

    program: Path
    tokenizer: Path
    settings: dict
    texts: dict[str, Path]
    checkpoint: Path | None
    quant_attrs: Path | None
    weights: Path | None

    def load_tasks(self, progress: Progress) -> dict:
        """Return lm-eval's tasks by name. Raises HexportError as `evaluation.tasks.load_tasks` does."""
        from hexport.evaluation.tasks import load_tasks

        with progress.stage("tasks"):
            trusted = self.settings.get("trusted")
            return load_tasks(self.settings["tasks"], self.texts, self.settings["num_fewshot"], trusted)

    def references(self) -> Callable | None:
        """Return a function that makes the other models to compare with from a context length; None where there are
        none.
        """
        if self.checkpoint is None:
            return None
        from hexport.decoder.weights import Checkpoint
        from hexport.evaluation.device import References

        if self.quant_attrs is None:
            return functools.partial(self._beside_float, References, Checkpoint(self.checkpoint.parent))
        from hexport.quantization.quant_attrs_checks import quant_attrs_of
        from hexport.quantization.recipe_checks import recipe_from

        recipe = recipe_from(self.settings["recipe_spec"], self.settings["recipe"])
        model = Checkpoint(self.checkpoint.parent, recipe.basis)
        attrs = quant_attrs_of(self.quant_attrs, self.weights, model, recipe, self.settings["recipe"])
        return functools.partial(References, model, attrs, recipe)

    def _beside_float(self, references: Callable, model: object, context_len: int) -> object:
        """Return the float decoder to compare with. Raises HexportError where a ready program has other windows than
        fp.
        """
        if context_len != (expected := self.settings["max_seq_len"]):
            raise HexportError(
                f"{self.program}: its context has {context_len} tokens, and max_seq_len of models."
                f"{self.settings['model']} is {expected}: set {context_len}, so that fp has windows of this length"
            )
        return references(model, None, None, context_len)
