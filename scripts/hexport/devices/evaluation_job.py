"""What an evaluation of a program is made of, so that any process can do it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hexport.progress import Progress


@dataclass(frozen=True)
class EvaluationJob:
    """Files and settings of scripts/evaluate_device.py.

    tokenizer: …/tokenizer.json. texts: the files of tasks that are local texts, by the names of these. checkpoint,
    quant_attrs: None for a ready program. weights: None where the recipe has none.
    """

    program: Path
    tokenizer: Path
    settings: dict
    texts: dict[str, Path]
    checkpoint: Path | None
    quant_attrs: Path | None
    weights: Path | None

    def load_tasks(self, progress: Progress) -> dict:
        from hexport.evaluation.tasks import load_tasks

        with progress.stage("tasks"):
            trusted = self.settings.get("trusted")
            return load_tasks(self.settings["tasks"], self.texts, self.settings["num_fewshot"], trusted)

    def references(self) -> Callable | None:
        """What makes the other models to compare with, from a context length; None for a ready program."""
        if self.checkpoint is None:
            return None
        from hexport.decoder.weights import Checkpoint
        from hexport.evaluation.device import References
        from hexport.quantization.quant_attrs_checks import quant_attrs_of
        from hexport.quantization.recipe import recipe_from

        recipe = recipe_from(self.settings["recipe_spec"], self.settings["recipe"])
        model = Checkpoint(self.checkpoint.parent, recipe.r1, recipe.row_scales)
        attrs = quant_attrs_of(self.quant_attrs, self.weights, model, recipe, self.settings["recipe"])
        return functools.partial(References, model, attrs, recipe)
