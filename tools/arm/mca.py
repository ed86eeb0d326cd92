"""llvm-mca on the innermost loops of aarch64 object files: cycles and multiply-adds of each."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

OBJDUMP, MCA = "aarch64-linux-gnu-objdump", "llvm-mca-19"

# Multiply-adds of one instruction. Where integers are multiplied, the fmla of floats applies a block's scale.
INTEGER_MACS = {"smmla": 32, "sdot": 16, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8}
FLOAT_MACS = {"fmla": 4}


@dataclass
class Loop:
    function: str  # without its namespaces
    body: list[str]  # in assembler's syntax; the last jumps back to the first

    def macs(self) -> int:
        names = [line.split()[0] for line in self.body]
        integers = sum(INTEGER_MACS.get(name, 0) for name in names)
        return integers or sum(FLOAT_MACS.get(name, 0) for name in names)

    def cycles(self, cpu: str) -> float:
        """Per iteration, over 1,000 of them, with every load a hit in L1."""
        text = re.sub(r"\b[0-9a-f]+ <.*>", "top", "top:\n" + "\n".join(self.body) + "\n")
        command = [MCA, "-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm", "-iterations=1000", "--json", "-"]
        out = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
        return float(json.loads(out)["CodeRegions"][0]["SummaryView"]["TotalCycles"]) / 1000


def innermost_loops(path: Path) -> list[Loop]:
    """Stretches from a backward branch's target to it with no other such stretch inside."""
    dump = subprocess.run(
        [OBJDUMP, "-dC", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    loops: list[Loop] = []
    for part in re.split(r"\n(?=[0-9a-f]+ <)", dump)[1:]:
        head, *lines = part.splitlines()
        code = [m.groups() for m in (re.match(r"\s+([0-9a-f]+):\s+(.*?)\s*(?://.*)?$", line) for line in lines) if m]
        index = {address: i for i, (address, _) in enumerate(code)}
        spans = []
        for end, (_, text) in enumerate(code):
            target = re.match(r"(?:b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,)\s+([0-9a-f]+) <", text)
            begin = index.get(target[1]) if target else None
            if begin is not None and begin <= end:
                spans.append((begin, end))
        for begin, end in spans:
            if not any(begin <= b and e <= end for b, e in spans if (b, e) != (begin, end)):
                loops.append(Loop(short_name(head), [text for _, text in code[begin : end + 1]]))
    return loops


def short_name(head: str) -> str:
    """`<void a::(anonymous namespace)::f<a::X, 4>(int)>:` to `f<X, 4>`."""
    name = re.sub(r"\(anonymous namespace\)::|\w+::", "", head[head.index("<") + 1 : head.rindex(">")])
    name = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)( const)?( \[clone.*\])?$", "", name)
    return name.removeprefix("void ")
