"""Executed instructions of the ARM kernels per multiply-add, against a bound, and llvm-mca's cycles of their loops.

count.py BUILD          counts with the programs of a cross build and writes bench/arm_instructions.md
count.py BUILD --check  counts, and fails where a kernel needs over 2 % more than that file says

Emulated time means nothing, but emulation executes exactly the instructions a CPU would: the counts are the same every
time, for one compiler. Needs qemu-aarch64 (count.c is a plugin for it), a C compiler and, to write, llvm-mca-19.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from mca import innermost_loops

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "bench" / "arm_instructions.md"
COMPILER = "aarch64-linux-gnu-g++"
TOLERANCE = 0.02

# Kernel table: the CPU that is emulated to get it, and what its loops are modelled as.
EMULATED = {"neon": "cortex-a72", "neon_dotprod": "cortex-a76", "neon_i8mm": "max,sve=off"}
MODELLED = {
    "neon": ["cortex-a57", "cortex-a53"],  # LLVM's Cortex-A72 is its A57
    "neon_dotprod": ["neoverse-n1", "cortex-a55"],  # an N1's core is a Cortex-A76's
    "neon_i8mm": ["neoverse-n2", "cortex-a510"],
}

_DOTPROD_QUANTS = {  # of both tables: the one with int8 matrix products takes these from the one below it
    "matmul_q4_0_m1": "(8 products + 7 scales + 8 unpacking + 6 loads) / 128",
    "matmul_q4_0": "(32 products + 28 scales + 17 loads) / 512",
    "matmul_q4_k_m1": "(8 products + 9 scales + 6 unpacking + 6 loads) / 128",
    "matmul_q4_k": "(32 products + 32 scales + 18 loads) / 512",
    "matmul_q6_k_m1": "(8 products + 13 scales + 18 unpacking + 8 loads) / 128",
    "matmul_q6_k": "(32 products + 40 scales + 19 loads) / 512",
}

# What no kernel can do without: products, applying the scales of blocks (or widening halves), and loading each operand
# once per tile, two registers to an instruction. Not in it: zeroing and folding sums, arranging operands, loops, calls.
# Smaller blocks than Q8_0's also have to be unpacked. An exponential is 15 instructions, 5 copies of addends that a
# multiply-add overwrites, and an upper limit that softmax doesn't need.
BOUNDS = {
    "neon": {
        "matmul_q8_0_m1": "(48 products + 8 scales + 18 loads) / 256",
        "matmul_q8_0_m2": "(48 products + 7 scales + 12 loads) / 256",
        "matmul_q8_0_m3": "(72 products + 10 scales + 14 loads) / 384",
        "matmul_q8_0": "(96 products + 13 scales + 16 loads) / 512",
        "matmul_q4_0_m1": "(20 products + 7 scales + 8 unpacking + 6 loads) / 128",
        "matmul_q4_0": "(60 products + 21 scales + 11 loads) / 384",
        "matmul_q4_k_m1": "(20 products + 9 scales + 6 unpacking + 6 loads) / 128",
        "matmul_q4_k": "(60 products + 24 scales + 12 loads) / 384",
        "matmul_q6_k_m1": "(24 products + 13 scales + 18 unpacking + 8 loads) / 128",
        "matmul_q6_k": "(72 products + 39 scales + 13 loads) / 384",
        "matmul_f16_m1": "(16 products + 16 widenings + 6 loads) / 64",
        "matmul_f16_m8": "(24 products + 8 widenings + 8 loads) / 96",
        "lowrank_f16_m1": "(8 products + 8 widenings + 3 loads) / 32",
        "lowrank_f16_m8": "(16 products + 4 widenings + 3 loads) / 64",
        "page_f16": "(12 products + 4 widenings + 3 loads) / 48",
        "page_f32": "(16 products + 4 loads) / 64",
        "softmax_page": "(20 exponential + 4 largest, scale and sum + 1 state + 3 loads and stores) / 4",
        "softmax_page_part": "(180 exponential + 36 largest, scale and sum + 16 state + 34 loads and stores) / 33",
        "add": "(4 additions + 6 loads and stores) / 16",
        "rms_norm": "(4 squares + 8 products + 8 loads and stores) / 16",
        "swiglu": "(42 exponential + 8 sign, sum, quotient and product + 3 loads and stores) / 8",
        "sum_exp": "(42 exponential + 4 difference and sum + 1 load) / 8",
        "quantize_q8": "(15 largest + 16 rounding + 6 narrowing + 4 sum + 10 loads and stores) / 32",
    },
    "neon_dotprod": {
        "matmul_q8_0_m1": "(16 products + 8 scales + 18 loads) / 256",
        "matmul_q8_0_m2": "(16 products + 7 scales + 12 loads) / 256",
        "matmul_q8_0_m3": "(24 products + 10 scales + 14 loads) / 384",
        "matmul_q8_0_m4": "(32 products + 13 scales + 16 loads) / 512",
        "matmul_q8_0_m8": "(64 products + 25 scales + 18 loads) / 1024",
        "matmul_q8_0": "(64 products + 24 scales + 15 loads) / 1024",
        **_DOTPROD_QUANTS,
    },
    "neon_i8mm": {
        "matmul_q8_0_m1": "(16 products + 8 scales + 18 loads) / 256",
        "matmul_q8_0_m2": "(8 products + 7 scales + 11 loads) / 256",
        "matmul_q8_0_m3": "(16 products + 13 scales + 14 loads) / 384",
        "matmul_q8_0_m4": "(16 products + 13 scales + 14 loads) / 512",
        "matmul_q8_0_m8": "(32 products + 25 scales + 18 loads) / 1024",
        "matmul_q8_0": "(32 products + 24 scales + 15 loads) / 1024",
        **_DOTPROD_QUANTS,
    },
}


HEAD = """\
# Executed instructions of the ARM kernels

Written by `make arm-counts` (tools/arm/count.py); `make arm-counts-check` fails where a count is over 2 % above. Counts
are those of a whole call per multiply-add: m tokens, 64 outputs and depth 2,048 for blocks, 8 outputs for f16 (A·x), 64
outputs and rank 16 for the low-rank update (B·u); `page`: the scores or values of 64 positions, head size 64. `_more`:
256 further tokens, without the packing of weights. The bound is what products, block scales and loads of each operand
once per tile take. Per element: softmax of a page (`_part`: of 33 positions, 3 queries) and work on rows of 2,048.

Compiler: {compiler}

| table | kernel | instructions | bound | ratio |
|---|---|---|---|---|
{rows}

## Inner loops as llvm-mca 19 models them

Instructions / multiply-adds of one iteration; cycles of one (per multiply-add; instructions per cycle), loads in L1.
Out of order first, then in order. LLVM's Cortex-A72 is its A57; a Neoverse N1's core is a Cortex-A76's.

| table | loop | instructions | out of order | in order |
|---|---|---|---|---|
"""


def bound_of(table: str, kernel: str) -> str:
    """The formula for a kernel, or for all larger numbers of its tokens."""
    bounds = BOUNDS[table]
    return bounds.get(kernel) or bounds[kernel.rsplit("_m", 1)[0]]


def value_of(formula: str) -> float:
    """`(2 products + 1 load) / 3` is 1."""
    numbers = [int(n) for n in re.findall(r"(?<![\w_])\d+", formula)]
    return sum(numbers[:-1]) / numbers[-1]


def compiler() -> str:
    return subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def counts(build: Path, table: str, plugin: Path) -> dict[str, float]:
    """Instructions per multiply-add, or per element, of each kernel."""
    program = str(build / "count_kernels")
    command = ["qemu-aarch64", "-cpu", EMULATED[table], "-plugin", str(plugin), "-d", "plugin", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    first, *lines = run.stdout.splitlines()
    if first != f"table {table}":
        raise SystemExit(f"count.py: as {EMULATED[table]} the build chose {first!r}, not {table}")
    units = {name: float(n) for name, n in (line.split() for line in lines)}
    executed = dict(zip(units, map(int, run.stderr.split()), strict=True))
    result = {name: executed[name] / units[name] for name in units}
    # Twice the tokens over the same weights: what packing the weights costs falls out.
    more = "matmul_q8_0_m256", "matmul_q8_0_m512"
    result[f"{more[0]}_more"] = (executed[more[1]] - executed[more[0]]) / (units[more[1]] - units[more[0]])
    del result[more[1]]
    return {name: n for name, n in result.items() if table == "neon" or name.startswith("matmul_q")}


def count_all(build: Path) -> dict[tuple[str, str], float]:
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "count.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", HERE / "count.c", "-o", plugin], check=True)
        return {(t, name): n for t in EMULATED for name, n in counts(build, t, plugin).items()}


def loop_rows(build: Path) -> list[str]:
    rows = []
    for table, cpus in MODELLED.items():
        for path in sorted(build.glob(f"CMakeFiles/kernels_{table}.dir/**/*.o")):
            best: dict[str, tuple[float, str]] = {}  # of a tile's loops the one that is not the remainder
            for loop in innermost_loops(path):
                macs = loop.macs()
                twin = re.search(r"<\(DType\)[02]|unpacked_tile<.*(Q4_1|Q5|Iq4Nl|Q2_K|Q3_K)", loop.function)
                if "tile<" not in loop.function or macs < 32 or twin:
                    continue  # f32 and bf16 are f16's twins; of smaller blocks three types stand for all
                cycles = [(cpu, loop.cycles(cpu)) for cpu in cpus]
                cells = [f"{cpu} {c:.0f} ({c / macs:.4f}; {len(loop.body) / c:.2f})" for cpu, c in cycles]
                name = loop.function.replace("(DType)1", "f16")
                row = f"| {table} | `{name}` | {len(loop.body)} / {macs} | {' | '.join(cells)} |"
                best[loop.function] = max(best.get(loop.function, (0.0, "")), (float(macs), row))
            rows += [row for _, row in best.values()]
    return rows


def document(counted: dict[tuple[str, str], float], loops: list[str]) -> str:
    rows = []
    for (table, kernel), n in counted.items():
        formula = bound_of(table, kernel.removesuffix("_more"))
        rows.append(
            f"| {table} | {kernel} | {n:.4f} | {formula} = {value_of(formula):.4f} | {n / value_of(formula):.2f} |"
        )
    head = HEAD.format(compiler=compiler(), rows="\n".join(rows))
    return head + "\n".join([*loops, ""])


def check(counted: dict[tuple[str, str], float]) -> list[str]:
    """What needs more instructions than recorded, or is not recorded."""
    text = TABLE.read_text(encoding="utf-8")
    recorded = {
        (m[1], m[2]): float(m[3]) for m in re.finditer(r"^\| (\w+) \| (\w+) \| ([\d.]+) \|", text, re.MULTILINE)
    }
    faults = [f"{t} {k} is recorded but was not counted" for t, k in recorded.keys() - counted.keys()]
    for (table, kernel), n in counted.items():
        before = recorded.get((table, kernel), math.nan)
        if not n <= before * (1 + TOLERANCE):
            faults.append(f"{table} {kernel}: {n:.4f} instructions, recorded {before:.4f}")
    if faults and compiler() not in text:
        faults.append(f"the compiler is another one: {compiler()}")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path, help="folder of a CMake build for aarch64 with LORA_EDGE_TESTS")
    parser.add_argument("--check", action="store_true", help="compare with the recorded table")
    args = parser.parse_args()
    counted = count_all(args.build)
    if args.check:
        faults = check(counted)
        if faults:
            sys.exit("\n".join([*faults, f"make arm-counts records what is meant in {TABLE.name}"]))
        print(f"{len(counted)} counts are no more than recorded")
    else:
        TABLE.write_text(document(counted, loop_rows(args.build)), encoding="utf-8")
        print(TABLE.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
