"""This module knows programs that hexport has built, by what lies beside them: their manifests say what they should
compute.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.evaluation.layer_comparison import LayerComparison, compare_model
from hexport.evaluation.qdq import FakeQuantisedDecoder
from hexport.file_hashes import sha256
from hexport.programs.abi import KV_METHOD
from hexport.programs.conformance import BITS
from hexport.programs.facts import ProgramFacts
from hexport.programs.layout import layouts_of
from hexport.progress import Progress
from hexport.provenance import damage, manifest_path
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.quant_attrs_checks import quant_attrs_of
from hexport.quantization.recipe import Recipe
from hexport.quantization.recipe_checks import recipe_from
from hexport.targets.modes import LOOKAHEAD_KEYS, lookahead_tokens
from hexport.targets.target import EMULATOR_SUFFIX, target_named

LOCATED_TOKENS = 64  # the most that layers are compared on, op by op
SHARED = ("inputs", "params", "logits", "code")  # keys of manifests that twins share


@dataclass(frozen=True)
class Built:
    """A built program lies in the layout of artifacts, beside its manifest.

    An entry of the manifest's inputs is a name with the file's SHA-256: `{"inputs": {"quant_attrs.json": "3f5a…"}}`.
    """

    program: Path
    manifest: dict
    recipe: Recipe

    @property
    def quant_attrs(self) -> Path:
        """Return where the quant attrs lie that the program was built from."""
        return self.program.parents[2] / "quant_attrs.json"

    @property
    def tokenizer(self) -> Path:
        """Return the folder of the model's tokenizer."""
        return self.program.parents[3] / "tokenizer"

    @property
    def twin(self) -> Path:
        """Return where the program lies that differs in its target only, which is the emulator."""
        target = self.program.parent
        return target.with_name(target.name + EMULATOR_SUFFIX) / self.program.name

    def turned(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint in the basis of the program's recipe, in which caches hold values."""
        return Checkpoint(checkpoint.path.parent, self.recipe.basis)

    def attrs(self, checkpoint: Checkpoint) -> QuantAttrs:
        """Return the quant attrs that the program was stamped with. checkpoint: `turned`.

        Raises HexportError where the quant attrs are gone, are others by now, or are of another checkpoint.
        """
        if not self.quant_attrs.is_file() or sha256(self.quant_attrs) != self.manifest["inputs"]["quant_attrs.json"]:
            raise HexportError(f"{self.quant_attrs}: not there any more as the program was built from it")
        weights = self.quant_attrs.with_name("weights.safetensors")
        return quant_attrs_of(self.quant_attrs, weights if weights.is_file() else None, checkpoint, self.recipe)

    def decoder(self, checkpoint: Checkpoint, context_len: int) -> FakeQuantisedDecoder:
        """Return a decoder that computes what the program should, but for the rounding of its ops. Raises HexportError
        as `attrs` does.
        """
        return FakeQuantisedDecoder(checkpoint, self.attrs(checkpoint), self.recipe, context_len)

    def layers_on_emulator(self, checkpoint: Checkpoint, tokens: Sequence[int], progress: Progress) -> LayerComparison:
        """Compare, op by op, what the compiler makes of these quant attrs today, on the first LOCATED_TOKENS tokens.

        Raises HexportError as `attrs` and `compare_model` do.
        """
        soc = target_named(self.manifest["params"]["target"]).soc
        return compare_model(checkpoint, self.recipe, self.attrs(checkpoint), soc, tokens[:LOCATED_TOKENS], progress)


def built_program(path: Path) -> Built | None:
    """Return what hexport built at a path; None for a program without a manifest of hexport's."""
    try:
        manifest = json.loads(manifest_path(path).read_bytes())
        if isinstance(manifest["params"], dict) and isinstance(manifest["inputs"], dict):
            recipe = recipe_from(manifest["params"]["recipe_spec"], manifest["params"]["recipe"])
            return Built(path.absolute(), manifest, recipe)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, HexportError):
        pass
    return None


def manifest_faults(built: Built, program: ProgramFacts) -> Iterator[str]:
    """Yield in a line each what the manifest says and the program has not."""
    if fault := damage(built.program):
        yield f"{fault}; copy it again, with its manifest, or run snakemake again"
    layouts, params = layouts_of(program), built.manifest["params"]
    if not layouts:
        return
    decode = layouts[KV_METHOD]
    told = {
        "ar_lengths": (params.get("ar_lengths"), {name: layout.ar_len for name, layout in layouts.items()}),
        "max_seq_len": (params.get("max_seq_len"), decode.context_len),
        "kv_bits": (built.manifest.get("kv_bits"), BITS.get(decode.cache_dtype)),
    }
    for key, (expected, found) in told.items():
        if expected is not None and expected != found:
            yield f"{key} is {found} in the program, {expected} in its manifest: it is another build; export it again"
    sizes = [params.get(key) for key in LOOKAHEAD_KEYS]
    if None not in sizes and params.get("mode") == "lookahead" and lookahead_tokens(*sizes) > decode.ar_len:
        yield (
            f"{KV_METHOD} reads {decode.ar_len} tokens a call, and (ngram, window, gcap) = {tuple(sizes)} of its "
            f"manifest take {lookahead_tokens(*sizes)}: a lookahead step has too few rows; export it again"
        )
    yield from _shard_faults(built)


def _shard_faults(built: Built) -> Iterator[str]:
    """Yield the shards that were compiled from other quant attrs than the program's."""
    mode, quant_attrs = built.manifest["params"].get("mode", ""), built.manifest["inputs"].get("quant_attrs.json")
    for name, digest in built.manifest["inputs"].items():
        shard = built.program.parent / "shards" / mode / name
        if name.endswith(".bin") and shard.is_file() and sha256(shard) == digest:
            made_of = _inputs(shard).get("quant_attrs.json")
            if made_of not in (None, quant_attrs):
                yield f"shard {name} is of another build: its quant attrs are not the program's; run snakemake again"


def _inputs(artifact: Path) -> dict:
    try:
        return json.loads(manifest_path(artifact).read_bytes())["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def built_twin(built: Built) -> tuple[Path | None, str | None]:
    """Return the emulator's build of the same inputs and settings, or None and why the build that is there is none.
    Both are None where there is no such build.
    """
    twin = built_program(built.twin)
    if twin is None or not built.twin.is_file():
        return None, None
    if any(_shared(built, key) != _shared(twin, key) for key in SHARED):
        return None, f"{built.twin}: the emulator's build is of other inputs or settings: run snakemake again"
    return built.twin, None


def _shared(built: Built, key: str) -> object:
    """Return what does not depend on the target, of a key of the manifest."""
    value = built.manifest.get(key)
    if key == "inputs":
        return {name: digest for name, digest in value.items() if not name.endswith(".bin")}
    return {name: each for name, each in value.items() if name != "target"} if key == "params" else value
