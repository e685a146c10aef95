"""This module packs the code that runs on a device with Python into one file. The same code gives the same bytes."""

import zipfile
from pathlib import Path

from hexport.code_digest import SCRIPTS, import_closure
from hexport.devices.runners import phone_side

MODULE = phone_side.__name__
FIXED = 1980, 1, 1, 0, 0, 0  # a zip's earliest date


def write_code(path: Path) -> None:
    """Write a zip of `phone_side` and of all that it imports of this package. Python imports from it where PYTHONPATH
    names it.
    """
    modules = import_closure(Path(phone_side.__file__).resolve())
    packages = {folder / "__init__.py" for module in modules for folder in module.parents if SCRIPTS in folder.parents}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for module in sorted(modules | packages):
            entry = zipfile.ZipInfo(module.relative_to(SCRIPTS).as_posix(), FIXED)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, module.read_bytes())
