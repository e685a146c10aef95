"""Where every artifact lies, as the patterns of the rules have it too."""

from typing import NamedTuple

from hexport.targets.modes import MODES


class Place(NamedTuple):
    """Where a program runs."""

    model: str
    recipe: str
    context_length: int
    target: str
    device: str
    mode: str

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of its results, one in the other, below that of artifacts."""
        return self.model, self.recipe, context_folder(self.context_length), self.target, self.device, self.mode


class ProgramKey(NamedTuple):
    """A program to build."""

    model: str
    recipe: str
    context_length: int
    target: str
    mode: str

    @property
    def folder(self) -> str:
        """Below that of artifacts: of all programs with its recipe and context length."""
        return f"{self.model}/{self.recipe}/{context_folder(self.context_length)}"


def context_folder(context_len: int) -> str:
    return f"ctx{context_len}"


def download_file(artifacts: str, name: str) -> str:
    """`name` is the `download_name` of a URI."""
    return f"{artifacts}/downloads/{name}"


def checkpoint_file(artifacts: str, model: str) -> str:
    return f"{artifacts}/{model}/checkpoint/model.safetensors"


def checkpoint_config_file(artifacts: str, model: str) -> str:
    return f"{artifacts}/{model}/checkpoint/config.json"


def tokenizer_file(artifacts: str, model: str, form: str = "tokenizer.json") -> str:
    return f"{artifacts}/{model}/tokenizer/{form}"


def tokens_file(artifacts: str, model: str) -> str:
    return f"{artifacts}/{model}/calibration/tokens.json"


def quant_attrs_file(artifacts: str, model: str, recipe: str) -> str:
    return f"{artifacts}/{model}/{recipe}/quant_attrs.json"


def weights_file(artifacts: str, model: str, recipe: str) -> str:
    return f"{artifacts}/{model}/{recipe}/weights.safetensors"


def template_file(artifacts: str, program: ProgramKey, arch: str, ar_len: int) -> str:
    """`arch` is the HTP architecture of the program's target, such as V75."""
    return f"{artifacts}/{program.folder}/templates/{arch}/ar{ar_len}.json"


def shard_file(artifacts: str, program: ProgramKey, shard: int, n_shards: int) -> str:
    """`shard` counts from 1."""
    return f"{artifacts}/{program.folder}/{program.target}/shards/{program.mode}/{shard}-of-{n_shards}.bin"


def program_file(artifacts: str, program: ProgramKey) -> str:
    return f"{artifacts}/{program.folder}/{program.target}/{MODES[program.mode].program_name}"


def bundle_file(artifacts: str, program: ProgramKey) -> str:
    """The archive; its folder lies beside it."""
    name = f"{program.model}-{program.recipe}-{context_folder(program.context_length)}-{program.target}-{program.mode}"
    return f"{artifacts}/{program.folder}/{program.target}/bundles/{name}.tar"


def fp_file(artifacts: str, model: str, context_len: int) -> str:
    return f"{artifacts}/{model}/evaluation/{context_folder(context_len)}/fp.json"


def qdq_file(artifacts: str, model: str, recipe: str, context_len: int) -> str:
    return f"{artifacts}/{model}/{recipe}/evaluation/{context_folder(context_len)}/qdq.json"


def gates_file(artifacts: str, model: str, recipe: str, context_len: int) -> str:
    return f"{artifacts}/{model}/{recipe}/evaluation/{context_folder(context_len)}/gates.json"


def evaluation_file(artifacts: str, place: Place) -> str:
    return f"{artifacts}/{'/'.join(place.folders)}/evaluation.json"


def ready_gates_file(artifacts: str, place: Place) -> str:
    return f"{artifacts}/{'/'.join(place.folders)}/gates.json"


def result_file(artifacts: str, place: Place) -> str:
    return f"{artifacts}/{'/'.join(place.folders)}/result.json"


def summary_file(artifacts: str) -> str:
    return f"{artifacts}/report/summary.csv"


def report_file(artifacts: str) -> str:
    return f"{artifacts}/report/index.html"
