"""Fetches OpenVINO's libraries for this user: out of the wheel of release.txt, those that the host loads.

A machine for which there is no wheel, or without a network, is told so and goes on: everything but the OpenVINO
backend works there.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))
import wheels

# The C interface, the runtime, its threads, the CPU device and the two formats that are read.
WANTED = re.compile(
    r"openvino/libs/(lib)?(openvino|openvino_c|openvino_intel_cpu_plugin|openvino_ir_frontend|openvino_onnx_frontend"
    r"|hwloc|tbb|tbbmalloc|tbbbind_2_5)(\.[\d.]+)?\.(so|dylib)(\.[\d.]+)?"
)
# One Python version for all, because the libraries are the same in each wheel and the digests are not.
PYTHON = ["--implementation", "cp", "--python-version", "3.12", "--abi", "cp312"]


def main():
    release, *platforms = HERE.with_name("release.txt").read_text().splitlines()
    if wheels.place("openvino", release).is_dir():
        return
    wheel = next((line.split()[1:] for line in platforms if line.split()[0] == wheels.HERE), None)
    try:
        if wheel is None:
            raise OSError(f"PyPI has no wheel of it for {wheels.HERE}")
        tag, digest = wheel
        wheels.fetch("openvino", "openvino", release, ["--platform", tag, *PYTHON], digest, WANTED)
    except OSError as error:
        print(
            f"OpenVINO {release} is missing: {error}. Everything but the OpenVINO backend works; `make setup` tries "
            "again, and OPENVINO_INSTALL_DIR may name an installation.",
            file=sys.stderr,
        )


main()
