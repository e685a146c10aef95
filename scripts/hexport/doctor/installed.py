"""This module looks at what is installed and reachable: packages at their pins, QNN, phones and their SDKs, Slurm, the
Hub."""

import mmap
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from hexport.config.devices import Device, read_devices
from hexport.doctor.finding import BAD, GOOD, NOTE, Finding, judged
from hexport.doctor.two_op_program import run_two_ops
from hexport.errors import HexportError
from hexport.qnn_sdk import HOST_LIBRARIES, PACKAGE, PACKAGE_VERSION, load_qnn_libraries

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
PIN = re.compile(r"([\w.-]+)==([\w.]+)")
BUILD_ID = re.compile(rb"v(\d+)\.(\d+)\.\d+\.\d{6,}")  # libQnnHtp.so holds it as v2.49.0.260713…
SLURM_S, HUB_S = 10.0, 10.0  # seconds


def look_at_installed(devices: Path) -> Iterator[Finding]:
    """Yield findings one by one, as they are made; `devices` is the path of devices.yaml."""
    yield packages()
    yield qnn()
    yield from phones_reached(devices)
    yield slurm()
    yield hub()


def packages() -> Finding:
    """Look whether all packages that pyproject.toml pins are there, at their pins."""
    pins = dict(
        PIN.fullmatch(line).groups() for line in tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    )
    found = {name: _version(name) for name in [*pins, PACKAGE]}
    others = [
        f"{name} {found[name] or 'missing'} (pinned: {pin})"
        for name, pin in {**pins, PACKAGE: PACKAGE_VERSION}.items()
        if (found[name] or "").partition("+")[0] != pin
    ]
    return judged("packages", not others, ", ".join(others) or f"{len(found)} at their pins", "run `make setup`")


def qnn() -> Finding:
    """Look whether QNN compiles a program of two ops and runs it."""
    if util.find_spec("torch") is None or util.find_spec("executorch") is None:
        return Finding("QNN", BAD, "torch or executorch is not installed", "run `make setup`")
    try:
        return Finding("QNN", GOOD, run_two_ops())
    except HexportError as error:
        found, _, mend = str(error).partition("; ")
        return Finding("QNN", BAD, found, mend)


def phones_reached(file: Path) -> Iterator[Finding]:
    """Look at adb and each phone of devices.yaml, and at the QNN of the SDK that the phone gets its libraries from."""
    from hexport.devices.phones.inventory import problem_lines, take_inventory

    try:
        devices = [device for device in read_devices(str(file)).values() if device.kind == "adb"]
    except HexportError as error:
        yield Finding("devices", BAD, error.lines[0], f"correct {file}")
        return
    if not devices:
        mend = "docs/phones.md tells how to add one; none is needed to export"
        yield Finding("phones", NOTE, f"{file} names none", mend)
    for entry in take_inventory(devices):
        problems = [line.removeprefix(f"{entry.device.name}: ") for line in problem_lines([entry])]
        found, _, mend = (problems or [entry.state])[0].partition("; ")
        yield judged(f"phone {entry.device.name}", not problems, found, mend or "scripts/devices.py says more")
        if entry.device.runner == "qnn_llama_runner":
            yield phone_qnn(entry.device)


def phone_qnn(device: Device) -> Finding:
    """Look whether the SDK of a phone is as new as the compiler: an older QNN does not load a newer one's programs."""
    from hexport.devices.phones.facts import ANDROID
    from hexport.devices.phones.libraries import qnn_libraries

    what = f"QNN of {device.name}"
    try:
        ours = _build(load_qnn_libraries() / HOST_LIBRARIES / "libQnnHtp.so")
    except HexportError as error:
        return Finding(what, BAD, str(error), "run `make setup`")
    try:
        library = qnn_libraries(device, ANDROID)["libQnnHtp.so"]
    except HexportError as error:
        found, _, mend = str(error).partition("; ")
        return Finding(what, BAD, found, mend)
    theirs = _build(library)
    shown = ".".join(map(str, theirs)) if theirs else "an unknown version"
    wanted = ".".join(map(str, ours))
    mend = f"programs are compiled by {wanted}, which an older one does not load: get a QNN SDK {wanted} or newer"
    return judged(what, bool(theirs) and theirs >= ours, f"{shown}, {library}", mend)


def slurm() -> Finding:
    """Look whether Slurm is installed, with Snakemake's plugin for it, and answers. Only exports on a
    cluster need it."""
    if not shutil.which("sbatch"):
        return Finding("Slurm", NOTE, "no sbatch here", "nothing, unless you export on a cluster: docs/cluster.md")
    if util.find_spec("snakemake_executor_plugin_slurm") is None:
        return Finding("Slurm", BAD, "Snakemake's plugin for it is missing", "run `make setup`")
    try:
        said = subprocess.run(["sinfo", "--noheader", "--format=%P"], capture_output=True, text=True, timeout=SLURM_S)
    except (OSError, subprocess.TimeoutExpired):
        return Finding("Slurm", NOTE, "sinfo does not answer", "nothing, unless you export on a cluster")
    if said.returncode:
        why = said.stderr.partition("\n")[0][:100]
        return Finding("Slurm", NOTE, f"installed, and not set up: {why}", "nothing, unless you export on a cluster")
    return Finding("Slurm", GOOD, f"partitions: {' '.join(said.stdout.split())}")


def hub() -> Finding:
    """Look whether the Hub answers, and who its token belongs to. Only `hf://` checkpoints need it."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    token = get_token()
    mend = "nothing, unless a checkpoint is hf://…: then check the network (https_proxy, HF_ENDPOINT)"
    try:
        HfApi().model_info("HuggingFaceTB/SmolLM2-135M-Instruct", timeout=HUB_S)  # whoami takes no timeout
        if token:
            return Finding("Hub", GOOD, f"answers to the token of {HfApi().whoami(token)['name']}")
    except HfHubHTTPError as error:
        refused = error.response.status_code in (401, 403)
        mend = "set HF_TOKEN to a valid token, or unset it" if refused else mend
        return Finding("Hub", BAD if refused and token else NOTE, f"HTTP {error.response.status_code}", mend)
    except Exception as error:  # any, as each library under it has its own
        return Finding("Hub", NOTE, f"does not answer ({type(error).__name__})", mend)
    return Finding("Hub", GOOD, "answers; no token is set, which gated models (Llama, Gemma) need")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _build(library: Path) -> tuple[int, int] | None:
    """Return major and minor version of a libQnnHtp.so, of whatever platform; None where it does not say."""
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = BUILD_ID.search(content)
        return (int(found[1]), int(found[2])) if found else None
