"""The file system of a loopback device: folders of its own, the host's programs, and nothing else of the host.

It is a mount namespace with a root folder of its own, where commands run as the user 2000, as on phones. An ordinary
user has it in a user namespace. Where the kernel allows neither, the paths in commands are rewritten.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loopback.namespace import bind, enter_namespace, mount_tmpfs

SHELL_USER = 2000
SHELL_GROUPS = (1004, 1007, 1011, 1015, 1028, 3003)
OWN = ("data", "sdcard", "system", "vendor", "tmp")
OF_THE_HOST = (
    *("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "var"),
    *("dev", "proc", "sys", "run"),
)
PROPERTIES = "system/etc/props.txt"
GETPROP = """#!/bin/sh
value=
while IFS= read -r line; do [ "${line%%=*}" = "$1" ] && value="${line#*=}"; done < FILE
printf '%s\\n' "${value:-$2}"
"""


def best_mode() -> str:
    """`root`, `userns` or `rewrite`: what this user may do here."""
    mode, option = ("root", "-m") if os.geteuid() == 0 else ("userns", "-Urm")
    allowed = subprocess.run(["unshare", option, "true"], capture_output=True, check=False).returncode == 0
    return mode if allowed else "rewrite"


@dataclass
class Sandbox:
    """`exposed` are paths of the host that are seen read-only, `bound` are pairs host:device, and `disk_size`, such as
    64m, is that of /data/local/tmp."""

    root: Path
    mode: str
    properties: dict[str, str]
    exposed: list[str]
    bound: list[str]
    disk_size: str | None

    def populate(self) -> None:
        """Make the device's folders, and those programs of a phone that Linux lacks."""
        for folder in ("data/local/tmp", "sdcard", "system/bin", "system/etc", "vendor/lib64", "tmp"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for folder in ("", "data", "data/local"):
            (self.root / folder).chmod(0o755)
        for folder in ("data/local/tmp", "sdcard"):
            (self.root / folder).chmod(0o771)
            if self.mode == "root":
                shutil.chown(self.root / folder, SHELL_USER, SHELL_USER)
        (self.root / "tmp").chmod(0o1777)
        properties = self.root / PROPERTIES
        properties.write_text("".join(f"{name}={value}\n" for name, value in sorted(self.properties.items())))
        programs = self.root / "system/bin"
        getprop = programs / "getprop"
        getprop.write_text(GETPROP.replace("FILE", str(properties) if self.mode == "rewrite" else f"/{PROPERTIES}"))
        getprop.chmod(0o755)
        if not os.path.lexists(programs / "sh"):
            (programs / "sh").symlink_to("/bin/mksh" if Path("/bin/mksh").exists() else "/bin/sh")

    def enter(self) -> None:
        """Give this process the device's view of the file system, for good."""
        if self.mode == "rewrite":
            return
        enter_namespace(SHELL_USER if self.mode == "userns" else None)
        new = self.root / ".ns"  # empty on the host; the device's root in the namespace
        new.mkdir(exist_ok=True)
        mount_tmpfs(str(new), "mode=755,size=1m")
        for name in OF_THE_HOST:
            host = Path("/", name)
            if host.is_symlink():
                (new / name).symlink_to(host.readlink())
            elif host.is_dir():
                bind(str(host), str(new / name))
        for name in OWN:
            bind(str(self.root / name), str(new / name))
        if self.disk_size:
            options = f"mode=771,size={self.disk_size},uid={SHELL_USER},gid={SHELL_USER}"
            mount_tmpfs(str(new / "data/local/tmp"), options)
        for path in self.exposed:
            bind(path, f"{new}{path}", read_only=True)
        for pair in self.bound:
            source, target = pair.split(":", 1)
            bind(os.path.abspath(source), f"{new}{target}")
        os.chdir(new)
        os.chroot(new)
        os.chdir("/")
        if self.mode == "root":
            os.setgroups(SHELL_GROUPS)
            os.setgid(SHELL_USER)
            os.setuid(SHELL_USER)

    def path(self, path: str) -> str:
        """The path by which this process finds a path of the device."""
        path = os.path.normpath("/" + path.lstrip("/"))
        own = self.mode == "rewrite" and path.split("/")[1] in OWN
        return f"{self.root}{path}" if own else path

    def argv(self, command: str) -> list[str]:
        if self.mode != "rewrite":
            return ["/system/bin/sh", "-c", command]
        own = re.compile(r"(?<![\w/.])/(?=(?:data/local|sdcard|system|vendor)(?:[/\s'\"]|$))")
        return ["/bin/sh", "-c", own.sub(lambda _: f"{self.root}/", command)]

    def folder(self) -> str:
        """Where commands start."""
        return str(self.root) if self.mode == "rewrite" else "/"

    def environment(self) -> dict[str, str]:
        """Of commands: a phone's, and nothing of the host's."""
        own = f"{self.root}/system/bin" if self.mode == "rewrite" else "/system/bin:/vendor/bin"
        return {
            "PATH": f"{own}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": "/",
            "SHELL": "/system/bin/sh",
            "USER": "shell",
            "LOGNAME": "shell",
            "TMPDIR": self.path("/data/local/tmp"),
            "ANDROID_DATA": "/data",
            "ANDROID_ROOT": "/system",
            "HOSTNAME": "loopback",
            "TERM": "dumb",
        }
