"""The compiled core (cpp/bindings). Bad input is ValueError, a failing system call OSError."""

from collections.abc import Callable, Mapping, Sequence as Seq
from typing import Any

import numpy as np
from numpy.typing import NDArray

class GgufFile:
    def __init__(self, path: str) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> int: ...
    def metadata(self) -> dict[str, Any]: ...
    def tensors(self) -> dict[str, tuple[tuple[int, ...], str, int]]: ...
    def tensor(self, name: str) -> NDArray[Any]: ...
    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]: ...

class Adapter:
    def __init__(
        self,
        model: Model,
        name: str,
        entries: Mapping[str, tuple[NDArray[Any], NDArray[Any], float, NDArray[Any] | None, NDArray[Any] | None]],
        wholes: Mapping[str, tuple[NDArray[Any], NDArray[Any] | None]] = ...,
    ) -> None: ...
    @staticmethod
    def from_gguf(model: Model, name: str, file: GgufFile, factor: float) -> Adapter: ...
    @property
    def name(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...
    def ranks(self) -> dict[str, int]: ...

def gguf_lora(
    file: GgufFile, arch: str
) -> tuple[list[tuple[str, str, str, float, str | None, str | None]], list[tuple[str, str, str | None]], list[int]]:
    """An adapter file's (base tensor, names of lora_a and lora_b, scale, names of the magnitude and of lora_b's bias),
    its whole weights (base tensor, names of the weight and of its bias), and its invocation tokens."""

class Sequence:
    def __init__(self, model: Model, adapters: Seq[tuple[Adapter, float]]) -> None: ...
    def __len__(self) -> int: ...
    @property
    def ready(self) -> bool: ...
    def set_adapters(self, adapters: Seq[tuple[Adapter, float]]) -> None: ...
    def set_starts(self, starts: Seq[int]) -> None: ...
    def truncate(self, n: int) -> None: ...
    def fork(self) -> Sequence: ...
    def logits(self) -> NDArray[np.float32]: ...

class Model:
    def __init__(
        self, path: str, n_ctx: int, threads: int, kv_type: str, cpus: Seq[int] = ..., cuda: int = ...
    ) -> None: ...
    @property
    def file(self) -> GgufFile: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def block(self) -> dict[str, Any]:
        """The choices of its layers, as cpp/runtime/config.h names them; layers: (window, rope) of each; ropes:
        (frequencies [n_rot / 2], magnitude) of each."""

    @property
    def n_ctx(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def kv_type(self) -> str: ...
    @property
    def kv_bytes(self) -> int: ...
    @property
    def buffer_bytes(self) -> int: ...
    def observe(self, callback: Callable[[list[str], NDArray[np.float32]], None] | None) -> None:
        """callback(names of linears, their common input [m, k]) before each is made, from now on; None ends it."""

    def linear_shapes(self) -> dict[str, tuple[int, int]]: ...
    def encode(self, texts: Seq[tuple[Sequence, Seq[int], Seq[int]]]) -> NDArray[np.float32]:
        """texts: (new sequence, tokens, kind of each) -> last hidden states [Σ tokens, n_embd] of an encoder."""

    def forward(
        self, batch: Seq[tuple[Sequence, Seq[int], int]], all_logits: bool = False
    ) -> NDArray[np.float32] | None: ...
    def linear(
        self, names: Seq[str], x: NDArray[np.float32], rows: tuple[int, int] | None = ...
    ) -> list[NDArray[np.float32]]:
        """W·x [m, n] of each linear (by tensor name) for an input x [m, k] that they share, bit for bit as a pass makes
        it, without bias and adapters. rows: only rows [n0, n1) of each weight, so y is [m, n1 - n0]."""

    def input_gradient(
        self, names: Seq[str], dys: Seq[NDArray[np.float32]], rows: tuple[int, int] | None = ...
    ) -> NDArray[np.float32]:
        """Σ dYᵢ·Wᵢ [m, k] of linears that share their input, from the gradients dYᵢ [m, n] of their outputs; straight
        from the weights as they are in the file. rows: as in `linear`."""

    def rows(self, name: str, ids: Seq[int] | NDArray[Any]) -> NDArray[np.float32]:
        """Rows of a matrix of the file as float32 [len(ids), k], such as tokens' embeddings."""

class Sampler:
    def __init__(
        self,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repeat_penalty: float,
        seed: int,
    ) -> None: ...
    def accept(self, token: int) -> None: ...
    def sample(self, sequence: Sequence, length: int) -> tuple[int, float]: ...
    def sample_row(self, logits: NDArray[np.float32]) -> int: ...

def log_probabilities(logits: NDArray[np.float32], ids: Seq[int]) -> NDArray[np.float32]: ...
def probe_read_bandwidth(threads: int, seconds: float) -> float:
    """Bytes per second that memory gives to `threads` readers; the fastest pass within `seconds`."""

def probe_int8_peak(threads: int, seconds: float) -> float:
    """Multiply-adds per second of the kernel table's byte dot products, on registers alone."""

def probe_matmul_q8(m: int, n: int, k: int, threads: int, seconds: float) -> float:
    """Multiply-adds per second of the kernel table's Q8_0 product, [n, k] by m rows already quantised."""

def cuda_driver() -> tuple[int, str]:
    """Version (12060: CUDA 12.6), 0 where there is none, and then why."""

def cuda_devices() -> list[dict[str, Any]]:
    """index, name, capability, n_bytes, processors, integrated of each GPU."""

def cuda_self_test(index: int) -> str:
    """What is wrong with a GPU; empty: nothing. Tested once."""

def cuda_copy_bandwidth(index: int, seconds: float) -> float:
    """Bytes per second that copies within the GPU's memory read and write, both counted."""

def cuda_int8_peak(index: int, seconds: float) -> float:
    """Multiply-adds per second of the kernels' byte products, on registers alone."""

def build_info() -> dict[str, Any]: ...
