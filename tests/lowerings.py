"""Programs made in this process, stage by stage, which share templates."""

import json
import tempfile
from pathlib import Path

from tiny_model import CONTEXT, EMULATOR


class Lowerings:
    """Programs of this process. Templates hold no weights, so those of a shape, recipe and context serve all.

    Like the rules, it hands them on as files.
    """

    def __init__(self, special):
        self.special, self.made = special, {}

    def templates(self, config, recipe, target, ar_len, context_len):
        from hexport.lowering.template_file import read_templates, write_templates
        from hexport.lowering.templates import lower_templates
        from hexport.progress import Progress

        key = config, recipe, target.htp_arch, ar_len, context_len
        if key not in self.made:
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                made = lower_templates(config, recipe, target, ar_len, context_len, Progress())
                write_templates(Path(file.name), made)
                self.made[key] = read_templates(Path(file.name))
        return self.made[key]

    def graph_arguments(self, checkpoint, attrs, recipe, ar_len: int = 1) -> tuple:
        """What a `DecoderGraph` for the emulator is made from."""
        from hexport.targets.target import target_named

        return checkpoint, self.templates(checkpoint.config, recipe, target_named(EMULATOR), ar_len, CONTEXT), attrs

    def program(self, *model, **options) -> bytes:
        """The .pte for the emulator."""
        with tempfile.TemporaryDirectory() as folder:
            self.lowered(Path(folder) / "program.pte", *model, **options)
            return (Path(folder) / "program.pte").read_bytes()

    def lowered(
        self,
        output: Path,
        checkpoint,
        attrs,
        recipe,
        n_shards: int = 1,
        prefill: int | None = None,
        decode: int = 1,
        context_len: int = CONTEXT,
        target: str = EMULATOR,
    ):
        """Write a program of graphs with these AR lengths, as the rules do stage by stage."""
        from hexport.lowering.lower import assemble_program, compile_shard
        from hexport.lowering.plan import Plan
        from hexport.progress import Progress
        from hexport.targets.target import target_named

        lengths = {"kv_forward": decode} | ({"prefill_forward": prefill} if prefill else {})
        plan = Plan(checkpoint.config, recipe, target_named(target), lengths, context_len, n_shards)
        templates = {
            ar_len: self.templates(plan.config, recipe, plan.target, ar_len, context_len) for ar_len in lengths.values()
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            binaries = [Path(folder) / f"{number}.bin" for number in range(n_shards)]
            for number, binary in enumerate(binaries):
                compile_shard(plan, number, checkpoint, attrs, templates, binary, Progress())
            return assemble_program(plan, attrs, templates, binaries, self.special, output, Progress())

    def write(self, path: Path, *model, **options) -> None:
        """Write the program, and what its manifest says of its content."""
        lowered = self.lowered(path, *model, **options)
        facts = {"content_sha256": lowered.content_sha256, "graphs": lowered.graphs}
        path.with_name(path.name + ".manifest.json").write_text(json.dumps(facts))
