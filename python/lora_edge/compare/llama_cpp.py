"""llama.cpp on a GGUF file, in a process of its own: what it can't read it ends its process for.

The child reads a JSON line per job from standard input, {"open": ...}, {"text": ...} or {"ids": ...}, and answers with
the length of an .npy array (8 bytes, little-endian) and the array.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import lora_edge

WINDOW = 256  # tokens of a job at most


class LlamaCpp:
    """Token ids and logits of a base with at most one GGUF adapter; keys and values are float32."""

    def __init__(self, path: str | os.PathLike[str], lora: str | os.PathLike[str] | None, scale: float) -> None:
        """ValueError: llama-cpp-python is not installed, or llama.cpp can't load the files."""
        if find_spec("llama_cpp") is None:
            raise ValueError("[verify] llama.cpp is not installed here: pip install llama-cpp-python")
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        package = str(Path(lora_edge.__file__).resolve().parents[1])
        paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": paths, "GGML_NO_BACKTRACE": "1"},
        )
        self._ask({"open": os.fspath(path), "lora": os.fspath(lora) if lora else None, "scale": scale})

    def ids(self, text: str) -> list[int]:
        return [int(i) for i in self._ask({"text": text})]

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """[len(ids), n_vocab]; at most WINDOW ids."""
        return np.asarray(self._ask({"ids": ids}), np.float32)

    def close(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._said):
            assert pipe is not None
            pipe.close()

    def _ask(self, job: dict[str, Any]) -> NDArray[Any]:
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(job).encode() + b"\n")
            self._child.stdin.flush()
            head = self._child.stdout.read(8)
        except BrokenPipeError:
            head = b""
        if len(head) < 8:
            raise ValueError(f"[verify] llama.cpp ended on {next(iter(job))!r}: {self._last_words()}")
        answer: NDArray[Any] = np.load(io.BytesIO(self._child.stdout.read(int.from_bytes(head, "little"))))
        return answer

    def _last_words(self) -> str:
        status = self._child.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return f"{how}, {' '.join(lines[-2:] if status < 0 else lines[-1:])[:300] or 'without a word'}"


def _serve() -> None:
    """The child."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write among the answers
    llm: Any = None
    for line in sys.stdin:
        job = json.loads(line)
        if "open" in job:
            import llama_cpp

            llm = llama_cpp.Llama(
                job["open"], n_ctx=WINDOW, n_batch=WINDOW, n_ubatch=WINDOW, logits_all=True, verbose=False,
                type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
                lora_path=job["lora"], lora_scale=job["scale"],
            )  # fmt: skip
            if job["lora"] and not llm._lora_adapter:  # a null pointer, which llama-cpp-python takes for an adapter
                sys.exit("llama.cpp refuses the adapter")
            answer = np.zeros(0, np.int64)
        elif "text" in job:
            answer = np.array(llm.tokenize(job["text"].encode(), add_bos=True, special=True), np.int64)
        else:
            llm.reset()
            llm.eval(job["ids"])
            answer = np.array(llm.scores[: len(job["ids"])], np.float32)
        data = io.BytesIO()
        np.save(data, answer)
        answers.write(len(data.getvalue()).to_bytes(8, "little") + data.getvalue())
        answers.flush()


if __name__ == "__main__":
    _serve()
