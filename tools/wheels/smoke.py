"""What every wheel has to do where it is installed: hold each kernel table, see what this CPU runs, and answer the
same with each table. Arguments: the folder that lora_edge has to come from (this environment's), and the architecture
that it is for, x86_64 or aarch64 (this machine's)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import lora_edge

TABLES = {
    "x86_64": {"ref", "avx2", "avx_vnni", "avx512_vnni"},
    "aarch64": {"ref", "neon", "neon_dotprod", "neon_i8mm"},
}
# The flags of /proc/cpuinfo that a table needs.
FLAGS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx_vnni": {"avx_vnni"},
    "avx512_vnni": {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"},
}
ANSWER = (
    "import lora_edge\n"
    "for adapter in None, 'json', 'german':\n"
    "    print(lora_edge.generate('turn on the kitchen light', adapter=adapter))\n"
)


def cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def run(*command: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, *command], env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE, text=True
    )
    return process.stdout


def main(folder: str = sys.prefix, arch: str = platform.machine()) -> None:
    here = Path(lora_edge.__file__).resolve()
    assert here.is_relative_to(Path(folder).resolve()), f"lora_edge comes from {here}"
    build = lora_edge.runtime_info()["build"]
    assert set(build["isas_compiled"]) >= TABLES[arch], f"tables are missing: {build['isas_compiled']}"
    assert not build["isas_left_out"], f"left out: {build['isas_left_out']}"
    if arch == "x86_64":
        for table, flags in FLAGS.items():
            assert (table in build["isas_runnable"]) == (flags <= cpu_flags()), f"{table}: {build['isas_runnable']}"
    answers = {isa: run("-c", ANSWER, LORA_EDGE_ISA=isa) for isa in build["isas_runnable"]}
    assert len(set(answers.values())) == 1 and all(answers["ref"].splitlines()), f"tables differ: {answers}"
    print(run("-m", "lora_edge", "info"), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
