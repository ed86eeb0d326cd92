#!/usr/bin/env python3
"""Assembles the kernels' PTX for every GPU that each release of CUDA knows, and keeps what each needs.

    python tools/cuda/ptxas_table.py [--check] PTXAS...

Writes bench/cuda_registers.md; with --check fails where a kernel needs more registers than it says. Fails where a
kernel of linears or attention keeps spilled registers, arrays or its arguments in local memory.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PTX = ROOT / "cpp/backend/cuda/ptx"
TABLE = ROOT / "bench/cuda_registers.md"
GPUS = {
    53: "Jetson Nano", 62: "Jetson TX2", 72: "Jetson Xavier", 75: "Turing", 87: "Jetson Orin", 90: "Hopper",
    110: "Jetson Thor",
}  # fmt: skip
NO_MEMORY = ("attention", "inputs", "inputs_many", "matmul_dot4", "matmul_mma", "matvec_1", "matvec_8", "merge_spans")
Needs = dict[tuple[str, int], tuple[int, int]]  # kernel, GPU: registers, bytes of local memory


def images(gpu: int) -> dict[str, Path]:
    """The image of each file that a GPU gets: of the newest generation up to its own."""
    found: dict[str, tuple[int, Path]] = {}
    for path in PTX.glob("*.ptx"):
        name, generation = path.stem.rsplit("_", 1)
        if int(generation) <= gpu:
            found[name] = max(found.get(name, (0, path)), (int(generation), path))
    return {name: path for name, (_, path) in sorted(found.items())}


def assemble(ptxas: str, gpu: int, path: Path) -> dict[str, tuple[int, int]]:
    """Registers and bytes of local memory of each kernel."""
    command = [ptxas, "-v", f"-arch=sm_{gpu}", str(path), "-o", "/dev/null"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        sys.exit(f"{' '.join(command)} fails:\n{made.stderr}")
    needs, name, local = {}, "", 0
    for line in made.stderr.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found[1]
        elif found := re.search(r"(\d+) bytes stack frame", line):
            local = int(found[1])
        elif found := re.search(r"Used (\d+) registers", line):
            needs[name] = int(found[1]), local
    return needs


def known(ptxas: str) -> tuple[str, list[int]]:
    """Its release, and which of the GPUs it assembles for."""
    version = re.search(
        r"release ([\d.]+)", subprocess.run([ptxas, "--version"], capture_output=True, text=True).stdout
    )
    targets = subprocess.run([ptxas, "--help"], capture_output=True, text=True).stdout
    return version[1] if version else "?", [gpu for gpu in GPUS if f"'sm_{gpu}'" in targets]


def table(needs: Needs) -> str:
    kernels = sorted({kernel for kernel, _ in needs})
    lines = [
        "# What the CUDA kernels need",
        "",
        "Registers of a thread, the most of all releases of ptxas that know the GPU, and after a plus bytes of local "
        "memory.",
        "Written by tools/cuda/ptxas_table.py and checked by `make cuda`.",
        "",
        "| kernel | " + " | ".join(f"{name} ({gpu / 10:g})" for gpu, name in GPUS.items()) + " |",
        "| --- |" + " --- |" * len(GPUS),
    ]
    for kernel in kernels:
        cells = []
        for gpu in GPUS:
            registers, local = needs.get((kernel, gpu), (0, 0))
            cells.append("" if not registers else f"{registers}+{local}" if local else str(registers))
        lines.append(f"| {kernel} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def more_than_recorded(new: str) -> list[str]:
    def rows(text: str) -> dict[str, list[str]]:
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
        return {row[0]: row[1:] for row in cells[1:] if row[0] != "---"}

    def total(cell: str) -> int:
        return sum(int(n) for n in cell.split("+") if n)

    old = rows(TABLE.read_text("utf-8"))
    return [
        f"{kernel} on {gpu}: {now}, recorded {before}"
        for kernel, cells in rows(new).items()
        for gpu, now, before in zip(GPUS, cells, old.get(kernel, [""] * len(GPUS)))
        if total(now) > total(before)
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ptxas", nargs="+")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    needs: Needs = {}
    for ptxas in args.ptxas:
        release, gpus = known(ptxas)
        for gpu in gpus:
            for path in images(gpu).values():
                for kernel, (registers, local) in assemble(ptxas, gpu, path).items():
                    most = needs.get((kernel, gpu), (0, 0))
                    needs[kernel, gpu] = max(most[0], registers), max(most[1], local)
        print(f"CUDA {release}: all kernels for {', '.join(f'sm_{gpu}' for gpu in gpus)}")
    kept = {place: b for place, (_, b) in needs.items() if b and place[0] in NO_MEMORY}
    spills = [f"{kernel} keeps {b} bytes in local memory on sm_{gpu}" for (kernel, gpu), b in kept.items()]
    made = table(needs)
    if not args.check:
        TABLE.write_text(made, "utf-8")
    worse = more_than_recorded(made) if args.check else []
    for line in spills + worse:
        print(line)
    return 1 if spills or worse else 0


if __name__ == "__main__":
    sys.exit(main())
