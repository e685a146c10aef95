"""This module tells where every artifact lies; the patterns of the rules spell the same paths. `artifacts` is the
folder that the config's key of this name gives."""

from typing import NamedTuple

from hexport.targets.modes import MODES


class Place(NamedTuple):
    """A place is a program and what it runs on. `context_length` counts tokens, and `device` is a name in devices.yaml,
    or `phones` for whichever phone of the SoC is free.

    `Place("stories110m", "16a8w", 128, "SM8650-emulator", "emulator", "hybrid")` is the hybrid program of stories110m
    for the emulator of SM8650, run on the device `emulator`. Its results are below artifacts, in the folder
    `stories110m/16a8w/ctx128/SM8650-emulator/emulator/hybrid`.
    """

    model: str
    recipe: str
    context_length: int
    target: str
    device: str
    mode: str

    @property
    def folders(self) -> tuple[str, ...]:
        """Return the folders of the place's results, one in the other, below that of artifacts."""
        return self.model, self.recipe, f"ctx{self.context_length}", self.target, self.device, self.mode


class ProgramKey(NamedTuple):
    """A program key names a program to build. `context_length` counts tokens.

    `ProgramKey("stories110m", "16a8w", 128, "SM8650", "hybrid")` is the program in
    `stories110m/16a8w/ctx128/SM8650/hybrid_llama_qnn.pte` below artifacts.
    """

    model: str
    recipe: str
    context_length: int
    target: str
    mode: str

    @property
    def folder(self) -> str:
        """Return the folder, below that of artifacts, of all programs with this model, recipe and context length."""
        return f"{self.model}/{self.recipe}/ctx{self.context_length}"


def download_file(artifacts: str, name: str) -> str:
    """Return the file that a URI is downloaded to; `name` is its `download_name`."""
    return f"{artifacts}/downloads/{name}"


def checkpoint_file(artifacts: str, model: str) -> str:
    return f"{artifacts}/{model}/checkpoint/model.safetensors"


def checkpoint_config_file(artifacts: str, model: str) -> str:
    return f"{artifacts}/{model}/checkpoint/config.json"


def tokenizer_file(artifacts: str, model: str, form: str = "tokenizer.json") -> str:
    """Return a file of the model's tokenizer; `form` is its name, such as tokenizer.model."""
    return f"{artifacts}/{model}/tokenizer/{form}"


def tokens_file(artifacts: str, model: str) -> str:
    """Return the file of the token ids that a model is calibrated on."""
    return f"{artifacts}/{model}/calibration/tokens.json"


def states_folder(artifacts: str, model: str) -> str:
    """Return the folder of the hidden states that evaluations of a model share; it is no artifact."""
    return f"{artifacts}/{model}/evaluation/states"


def quant_attrs_file(artifacts: str, model: str, recipe: str) -> str:
    return f"{artifacts}/{model}/{recipe}/quant_attrs.json"


def weights_file(artifacts: str, model: str, recipe: str) -> str:
    """Return the file of the weights that are coded by calibration data."""
    return f"{artifacts}/{model}/{recipe}/weights.safetensors"


def template_file(artifacts: str, program: ProgramKey, arch: str, ar_len: int) -> str:
    """Return the file of a program's templates of one AR length. `arch` is the HTP architecture of the program's
    target, such as V75."""
    return f"{artifacts}/{program.folder}/templates/{arch}/ar{ar_len}.json"


def shard_file(artifacts: str, program: ProgramKey, shard: int, n_shards: int) -> str:
    """Return the file of a program's context binary. `shard` counts from 1."""
    return f"{artifacts}/{program.folder}/{program.target}/shards/{program.mode}/{shard}-of-{n_shards}.bin"


def program_file(artifacts: str, program: ProgramKey) -> str:
    """Return the file of a program that is built here."""
    return f"{artifacts}/{program.folder}/{program.target}/{MODES[program.mode].program_name}"


def bundle_file(artifacts: str, program: ProgramKey) -> str:
    """Return the archive of a program's bundle; the bundle's folder lies beside it."""
    name = f"{program.model}-{program.recipe}-ctx{program.context_length}-{program.target}-{program.mode}"
    return f"{artifacts}/{program.folder}/{program.target}/bundles/{name}.tar"


def fp_file(artifacts: str, model: str, context_len: int) -> str:
    """Return the file of what the float model reaches on the evaluation tasks."""
    return f"{artifacts}/{model}/evaluation/ctx{context_len}/fp.json"


def qdq_file(artifacts: str, model: str, recipe: str, context_len: int) -> str:
    """Return the file of what the fake-quantised model reaches on the evaluation tasks."""
    return f"{artifacts}/{model}/{recipe}/evaluation/ctx{context_len}/qdq.json"


def gates_file(artifacts: str, model: str, recipe: str, context_len: int) -> str:
    """Return the file that says that the fake-quantised model passes its gates."""
    return f"{artifacts}/{model}/{recipe}/evaluation/ctx{context_len}/gates.json"


def evaluation_file(artifacts: str, place: Place) -> str:
    """Return the file of what a program reaches on the evaluation tasks in a place."""
    return f"{artifacts}/{'/'.join(place.folders)}/evaluation.json"


def ready_gates_file(artifacts: str, place: Place) -> str:
    """Return the file that says that a ready program passes its gates in a place."""
    return f"{artifacts}/{'/'.join(place.folders)}/gates.json"


def result_file(artifacts: str, place: Place) -> str:
    """Return the file of a program's answers in a place, and how fast they were."""
    return f"{artifacts}/{'/'.join(place.folders)}/result.json"


def summary_file(artifacts: str) -> str:
    return f"{artifacts}/report/summary.csv"


def report_file(artifacts: str) -> str:
    return f"{artifacts}/report/index.html"
