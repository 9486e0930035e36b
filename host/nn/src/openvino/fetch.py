"""Fetches OpenVINO's libraries for this user: the wheel of release.txt from PyPI, its digest checked, and out of
it the libraries that the host loads. None of the wheel's Python code runs.

They go to <data>/openvino/<release>, where <data> is OSTRAKON_HOME/data or the XDG data directory: where the host
looks. What is there already is left alone. A machine for which there is no wheel, or without a network, is told
so and goes on: everything but the OpenVINO backend works there.
"""

import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

# The C interface, the runtime, its threads, the CPU device and the two formats that are read.
WANTED = re.compile(
    r"openvino/libs/(lib)?(openvino|openvino_c|openvino_intel_cpu_plugin|openvino_ir_frontend|openvino_onnx_frontend"
    r"|hwloc|tbb|tbbmalloc|tbbbind_2_5)(\.[\d.]+)?\.(so|dylib)(\.[\d.]+)?"
)


def data_home():
    root = os.environ.get("OSTRAKON_HOME")
    if root:
        return pathlib.Path(root) / "data"
    xdg = os.environ.get("XDG_DATA_HOME", "")
    base = pathlib.Path(xdg) if os.path.isabs(xdg) else pathlib.Path.home() / ".local" / "share"
    return base / "ostrakon"


def fetch(release, tag, digest, work):
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", work]
    # One Python version for all, because the libraries are the same in each wheel and the digests are not.
    command += ["--platform", tag, "--implementation", "cp", "--python-version", "3.12", "--abi", "cp312"]
    done = subprocess.run([*command, f"openvino=={release}"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise OSError(f"pip could not download it: {lines[-1] if lines else done.returncode}")
    wheels = list(pathlib.Path(work).glob("*.whl"))
    if len(wheels) != 1:
        raise OSError("pip downloaded no wheel")
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != digest:
        sys.exit(f"openvino: the wheel {wheels[0].name} has SHA-256 {found}, not {digest}: it was altered; stopping")
    return wheels[0]


def unpack(wheel, target):
    """Write the libraries beside `target` and move them there in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = pathlib.Path(tempfile.mkdtemp(prefix=".fetching-", dir=target.parent))
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if WANTED.fullmatch(name):
                    with archive.open(name) as source, open(beside / pathlib.PurePosixPath(name).name, "wb") as out:
                        shutil.copyfileobj(source, out)
        beside.chmod(0o755)
        # Another `make setup` may have been faster.
        if not target.is_dir():
            beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def main():
    release, *platforms = pathlib.Path(__file__).with_name("release.txt").read_text().splitlines()
    target = data_home() / "openvino" / release
    if target.is_dir():
        return
    here = f"{platform.system()}-{platform.machine()}"
    wheel = next((line.split()[1:] for line in platforms if line.split()[0] == here), None)
    try:
        if wheel is None:
            raise OSError(f"PyPI has no wheel of it for {here}")
        with tempfile.TemporaryDirectory() as work:
            print(f"fetching OpenVINO {release}", flush=True)
            unpack(fetch(release, *wheel, work), target)
    except OSError as error:
        print(
            f"OpenVINO {release} is missing: {error}. Everything but the OpenVINO backend works; `make setup` tries "
            "again, and OPENVINO_INSTALL_DIR may name an installation.",
            file=sys.stderr,
        )


main()
