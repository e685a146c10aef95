"""This module holds what an evaluation of a program is made of, so that any process can do it."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hexport.errors import HexportError
from hexport.made_once import locked
from hexport.progress import Progress
from hexport.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hexport.evaluation.device import References


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
    - states: the folder where the model's hidden states are kept.
    """

    program: Path
    tokenizer: Path
    settings: dict
    texts: dict[str, Path]
    checkpoint: Path | None
    quant_attrs: Path | None
    weights: Path | None
    states: Path

    def load_tasks(self, progress: Progress) -> dict:
        """Return lm-eval's tasks by name. Raises HexportError as `evaluation.tasks.load_tasks` does."""
        from hexport.evaluation.tasks import load_tasks

        with progress.stage("tasks"):
            trusted = self.settings.get("trusted")
            return load_tasks(self.settings["tasks"], self.texts, self.settings["num_fewshot"], trusted)

    def references(
        self, context_len: int, tasks: dict, tokenizer: Tokenizer, progress: Progress
    ) -> "References | None":
        """Return the models to compare a program of this context length with, whose layers have read all that the tasks
        ask for; None where there are none.

        Of jobs that want the same at the same time, one computes. Raises HexportError where a ready program has other
        windows than fp.
        """
        if self.checkpoint is None:
            return None
        from hexport.evaluation.device import asked_of

        references = self._references(context_len)
        asked = asked_of(tasks, self.settings["limit"], tokenizer, context_len)
        with progress.stage("references"), locked(self.states / ".lock", progress):
            references.prepare(asked, progress)
        return references

    def _references(self, context_len: int) -> "References":
        from hexport.decoder.float_decoder import FloatDecoder
        from hexport.decoder.weights import Checkpoint
        from hexport.evaluation.device import References
        from hexport.evaluation.states import float_states, quantised_states

        canonical = Checkpoint(self.checkpoint.parent)
        decoders, kept = [FloatDecoder(canonical, context_len)], [float_states(self.states, canonical, context_len)]
        if self.quant_attrs is None:
            if context_len != (expected := self.settings["max_seq_len"]):
                raise HexportError(
                    f"{self.program}: its context has {context_len} tokens, and max_seq_len of models."
                    f"{self.settings['model']} is {expected}: set {context_len}, so that fp has windows of this length"
                )
        else:
            from hexport.evaluation.qdq import FakeQuantisedDecoder

            model, attrs, recipe = self._quantised
            decoders.append(FakeQuantisedDecoder(model, attrs, recipe, context_len))
            kept.append(quantised_states(self.states, model, (self.quant_attrs, self.weights), recipe, context_len))
        return References(canonical.config, decoders, kept)

    @functools.cached_property
    def _quantised(self) -> tuple:
        from hexport.decoder.weights import Checkpoint
        from hexport.quantization.quant_attrs_checks import quant_attrs_of
        from hexport.quantization.recipe_checks import recipe_from

        recipe = recipe_from(self.settings["recipe_spec"], self.settings["recipe"])
        model = Checkpoint(self.checkpoint.parent, recipe.basis)
        return model, quant_attrs_of(self.quant_attrs, self.weights, model, recipe, self.settings["recipe"]), recipe
