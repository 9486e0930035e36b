"""Makes kernels/kernels.ptx out of the CUDA sources beside it, or checks the one that is committed.

    ptx.py build    write kernels.ptx for compute_80
    ptx.py check    exit 1 if it is not what the sources give or breaks a rule below, 3 if that cannot be checked here

The PTX is committed, so that a node needs only NVIDIA's driver, which compiles it for its own GPU; `check` is there so
that nobody has to trust the committed file. NVRTC and ptxas come from PyPI; no GPU is needed.

A GPU must give the same bytes as the CPU, so each float operation must be rounded once, as IEEE 754 says. The rules:

- Float instructions are only those of ALLOWED: none is fused, approximate or flushes subnormals, and there are no
  float atomics, whose order differs from run to run.
- add, sub and mul name their rounding. The PTX ISA (9.7.3, add, Notes; the same of sub and mul): "an add instruction
  with an explicit rounding modifier is treated conservatively by the code optimizer. An add instruction with no
  rounding modifier defaults to round-to-nearest-even and may be optimized aggressively by the code optimizer. In
  particular, mul/add sequences with no rounding modifiers may be optimized to use fused-multiply-add instructions on
  the target device." Division, 1/x and square root are one PTX instruction each; ptxas itself makes them of fused ones.
- ptxas makes the same machine code whether it may contract (its default) or not (--fmad=false).
- No kernel spills registers or has a stack.
"""

import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))
import wheels

KERNELS = HERE.with_name("kernels")
SOURCE, COMMITTED = KERNELS / "kernels.cu", KERNELS / "kernels.ptx"

# Old, because a driver refuses PTX that is newer than itself.
RELEASE = "12.1.105"
# What to take from which wheel of RELEASE, and that wheel's SHA-256.
WHEELS = {
    "nvrtc": (
        "nvidia-cuda-nvrtc-cu12",
        "339b385f50c309763ca65456ec75e17bbefcbbf2893f462cb8b90584cd27a1c2",
        re.compile(r"nvidia/cuda_nvrtc/lib/libnvrtc(-builtins)?\.so\.[\d.]+"),
    ),
    "ptxas": (
        "nvidia-cuda-nvcc-cu12",
        "a0712a05ffd57d9f017580ffcc808b207f7f4ef7a5ca8ac1312318b153739a18",
        re.compile(r"nvidia/cuda_nvcc/bin/ptxas"),
    ),
}

# What is committed, and for which machines ptxas compiles it and the other, as a driver would.
OURS = "compute_80"
ARCHITECTURES = {"compute_80": ("sm_80", "sm_90"), "compute_90": ("sm_90",)}
OPTIONS = ["-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-default-device", "-std=c++17"]

OPCODE = re.compile(r"(?<![\w.%$])[a-z]\w*(?:(?:\.|::)\w+)+")
FLOAT = re.compile(r"\.(b?f16(x2)?|tf32|f32(x2)?|f64|e\dm\d(x\d)?)(?!\w)")
ALLOWED = re.compile(
    r"(ld|ldu|st|mov|selp|slct|set|setp|testp|cvt|neg|abs|copysign|min|max)\..*"
    r"|(add|sub|mul)\.r[nzmp]\.f(32|64)|(div|sqrt|rcp)\.rn\.f(32|64)"
)
WHY = {
    r".*\.ftz\b.*": "it flushes subnormals to zero",
    r".*\.approx\b.*": "it is approximate",
    r"(fma|mad)\..*": "it multiplies and adds with one rounding",
    r"(add|sub|mul)\.(sat\.)?f\d.*": "it names no rounding, so that the driver may contract it",
    r"(atom|red)\..*": "the order of float atomics differs from run to run",
}


def fetched(tool):
    package, digest, wanted = WHEELS[tool]
    target = wheels.place(tool, RELEASE)
    if not target.is_dir():
        if wheels.HERE != "Linux-x86_64":
            raise OSError(f"there is no pinned wheel of {package} for {wheels.HERE}")
        wheels.fetch(tool, package, RELEASE, ["--platform", "manylinux1_x86_64"], digest, wanted, 0o755)
    return target


def compile_once(nvrtc, architecture):
    """The PTX and the log. The sources are handed over in memory, so that no path and no other header can matter."""

    def strings(values):
        return (ctypes.c_char_p * len(values))(*values)

    def call(name, *arguments):
        if status := getattr(nvrtc, name)(*arguments):
            sys.exit(f"ptx: {name} failed with status {status}")

    def text(what):
        call(f"nvrtcGet{what}Size", program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        call(f"nvrtcGet{what}", program, buffer)
        return buffer.value

    headers = sorted(path for path in KERNELS.iterdir() if path.suffix in (".cuh", ".h"))
    contents, names = [path.read_bytes() for path in headers], [path.name.encode() for path in headers]
    program, length = ctypes.c_void_p(), ctypes.c_size_t()
    source = (SOURCE.read_bytes(), SOURCE.name.encode(), len(headers), strings(contents), strings(names))
    call("nvrtcCreateProgram", ctypes.byref(program), *source)
    options = strings([option.encode() for option in [f"--gpu-architecture={architecture}", *OPTIONS]])
    failed = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = text("ProgramLog").decode(errors="replace").strip()
    if failed:
        sys.exit(f"{log}\nptx: the kernels do not compile for {architecture} (status {failed})")
    ptx = text("PTX")
    call("nvrtcDestroyProgram", ctypes.byref(program))
    return ptx, log


def compiled(nvrtc, architecture):
    ptx, log = compile_once(nvrtc, architecture)
    if log:
        print(f"{architecture}: {log}", file=sys.stderr)
    if compile_once(nvrtc, architecture)[0] != ptx:
        sys.exit(f"ptx: two compilations for {architecture} gave different PTX")
    return ptx


def broken(ptx):
    """What breaks the rules in the text of the PTX, inline assembly included."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), ptx.decode(), flags=re.DOTALL)
    function = "?"
    for number, line in enumerate(text.splitlines(), 1):
        if entry := re.search(r"\.(?:entry|func)\s+(?:\(.*?\)\s*)?([\w$]+)", line):
            function = entry[1]
        for opcode in OPCODE.findall(line):
            exact = ALLOWED.fullmatch(opcode) and not re.search(r"\.(ftz|approx)\b", opcode)
            if FLOAT.search(opcode) and not exact:
                why = next((why for shape, why in WHY.items() if re.fullmatch(shape, opcode)), "no rule allows it")
                yield f"{function}: {opcode} in line {number} of the PTX: {why}"


def assembled(ptxas, ptx, machine, problems):
    """Registers and static shared memory of each kernel."""
    codes = []
    with tempfile.TemporaryDirectory() as work:
        source, target = pathlib.Path(work, "kernels.ptx"), pathlib.Path(work, "kernels.cubin")
        source.write_bytes(ptx)
        for contract in ("false", "true"):
            command = [ptxas, "-v", f"-arch={machine}", f"-fmad={contract}", "-o", target, source]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                problems.append(f"ptxas refuses it for {machine}:\n{(done.stdout + done.stderr).strip()}")
                return {}
            codes.append(target.read_bytes())
    if codes[0] != codes[1]:
        problems.append(f"the code for {machine} differs with --fmad=false: ptxas contracts something")
    used = {}
    for part in (done.stdout + done.stderr).split("Compiling entry function ")[1:]:
        kernel = part.split("'")[1]
        for sizes in re.findall(r"\d+ bytes stack frame, \d+ bytes spill stores, \d+ bytes spill loads", part):
            if re.search("[1-9]", sizes):
                problems.append(f"{kernel} on {machine}: {sizes}")
        shared = re.search(r"(\d+) bytes smem", part)
        used[kernel] = re.search(r"Used (\d+) registers", part)[1] + " + " + (shared[1] if shared else "0")
    return used


def check(nvrtc, ptxas):
    table, failed = {}, 0
    for architecture, machines in ARCHITECTURES.items():
        ptx = compiled(nvrtc, architecture)
        problems = list(broken(ptx))
        if architecture == OURS and not COMMITTED.is_file():
            problems.append("kernels.ptx is missing: run `ptx.py build`")
        elif architecture == OURS and COMMITTED.read_bytes() != ptx:
            problems.append("the committed kernels.ptx is not what the sources give: run `ptx.py build`")
        for machine in machines:
            used = table[f"{architecture} on {machine}"] = assembled(ptxas, ptx, machine, problems)
        failed += len(problems)
        print("".join(f"ptx: {architecture}: {problem}\n" for problem in problems), end="", file=sys.stderr)
        print(f"{architecture}: {len(used)} kernels, {len(ptx)} bytes of PTX, {len(problems)} problems", flush=True)
    print(f"\n{'registers + bytes of static shared memory':44}" + "".join(f"{column:>22}" for column in table))
    for kernel in sorted(set().union(*table.values())):
        print(f"{kernel:44}" + "".join(f"{used.get(kernel, '-'):>22}" for used in table.values()))
    sys.exit(1 if failed else 0)


def main():
    action = " ".join(sys.argv[1:])
    if action not in ("build", "check"):
        sys.exit(__doc__)
    try:
        nvrtc = ctypes.CDLL(str(fetched("nvrtc") / "libnvrtc.so.12"))
        ptxas = fetched("ptxas") / "ptxas" if action == "check" else None
    except OSError as error:
        print(f"ptx: could not {action} kernels.ptx here: {error}", file=sys.stderr)
        sys.exit(3)
    if action == "check":
        check(nvrtc, ptxas)
    ptx = compiled(nvrtc, OURS)
    COMMITTED.write_bytes(ptx)
    print(f"{COMMITTED}: {len(ptx)} bytes for {OURS}; now run `ptx.py check`")


main()
