"""Torch checkpoints read without torch: the values, and that nothing of a hostile one runs."""

from __future__ import annotations

import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import name_of, number, state_dict_pickle, tensor_pickle, text, write_torch
from hf_folders import Tensors, peft_tensors, tiny_base, write_peft
from lora_edge.adapter_file import read_adapter
from lora_edge.quant import f32_to_bf16
from lora_edge.torch_file import TorchFile
from mutations import damage_bytes
from tiny_models import fresh_rng

BASE = tiny_base()


def some_tensors() -> Tensors:
    rng = fresh_rng()
    x = rng.standard_normal((3, 5)).astype(np.float32)
    return {"a.weight": x, "b": x.astype(np.float16)[0], "c": f32_to_bf16(x), "d": np.arange(4), "e": x[:1]}


def test_values(tmp_path: Path) -> None:
    tensors = some_tensors()
    file = TorchFile(write_torch(tmp_path / "a.bin", tensors))
    assert list(file) == list(tensors)
    for name, x in tensors.items():
        assert file.info[name].shape == x.shape
        assert np.array_equal(file.array(name), x) and file.array(name).dtype == x.dtype
    assert file.info["c"].dtype == "BF16"


def test_a_peft_folder_with_a_checkpoint(tmp_path: Path) -> None:
    tensors = peft_tensors(BASE, fresh_rng(), {"blk.0.attn_q.weight": 4, "token_embd.weight": 4})
    one, other = write_peft(tmp_path / "one", tensors), write_peft(tmp_path / "other", tensors)
    (other / "adapter_model.safetensors").unlink()
    write_torch(other / "adapter_model.bin", tensors)
    wanted, made = (read_adapter(folder, "llama", BASE) for folder in (one, other))
    assert wanted.entries.keys() == made.entries.keys()
    for tensor, entry in wanted.entries.items():
        assert np.array_equal(entry.a, made.entries[tensor].a) and np.array_equal(entry.b, made.entries[tensor].b)


X = np.ones((2, 3), np.float32)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


HOSTILE: dict[str, tuple[bytes, str | None]] = {
    "a call of os.system": (b"\x80\x02cposix\nsystem\n" + text("true") + b"\x85R.", "calls 'posix.system'"),
    "a call of eval": (b"\x80\x02cbuiltins\neval\n" + text("1") + b"\x85R.", "calls 'builtins.eval'"),
    "a call through getattr": (b"\x80\x02" + name_of("builtins", "getattr") + text("a") + b"\x85R.", "getattr"),
    "an instance (INST)": (b"\x80\x02(iposix\nsystem\n.", "instruction b'i'"),
    "an object (OBJ)": (b"\x80\x02(cposix\nsystem\no.", "instruction b'o'"),
    "an object (NEWOBJ)": (b"\x80\x02cposix\nsystem\n)\x81.", r"instruction b'\\x81'"),
    "a global from the stack": (b"\x80\x04" + text("posix") + text("system") + b"\x93.", r"instruction b'\\x93'"),
    "an extension": (b"\x80\x02\x82\x01.", r"instruction b'\\x82'"),
    "a state": (b"\x80\x02" + name_of("posix", "system") + b"}b.", "sets the state"),
    "a function": (b"\x80\x02}" + text("a") + name_of("posix", "system") + b"s.", "not a tensor but a _Global"),
    "a list": (b"\x80\x02].", "not a dict"),
    "names that are numbers": (b"\x80\x02}" + number(1) + tensor_pickle(X, "0") + b"s.", "not a dict"),
    "a dict in a tuple that explodes": (b"\x80\x02}" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Ns.", "keys"),
    "no storage": (b"\x80\x02" + text("x") + b"Q.", "no storage"),
    "a storage of others": (state_dict_pickle({"a": X}).replace(b"ctorch\n", b"ctorcx\n"), "as a storage"),
    "a storage of another kind": (state_dict_pickle({"a": X}, storage="UntypedStorage"), "UntypedStorage"),
    "a shape beyond its values": (state_dict_pickle({"a": X}, shape=(3, 3), strides=(3, 1)), "reaches beyond"),
    "an offset beyond its values": (state_dict_pickle({"a": X}, offset=4), "reaches beyond"),
    "a huge shape": (state_dict_pickle({"a": X}, shape=(1 << 50, 3), strides=(3, 1)), "reaches beyond"),
    "a negative shape": (state_dict_pickle({"a": X}, shape=(-2, 3)), "not contiguous"),
    "strides that overlap": (state_dict_pickle({"a": X}, strides=(0, 1)), "not contiguous"),
    "a transposed tensor": (state_dict_pickle({"a": X}, strides=(1, 2)), "not contiguous"),
    "a size that lies": (state_dict_pickle({"a": X}, size=7), "not 7 elements"),
    "no end": (state_dict_pickle({"a": X})[:-1], "cut off"),
    "nothing": (b"", "data.pkl"),
    "an empty stack": (b"\x80\x02.", "damaged pickle"),
    "no mark": (b"\x80\x02}u.", "damaged pickle"),
    "an unknown memo": (b"\x80\x02j\xff\xff\xff\xff.", "damaged pickle"),
    "a text of 4 GB": (b"\x80\x02X\xff\xff\xff\xffabc.", "cut off"),
    "a memo at 4e9": (b"\x80\x02}r\xff\xff\xff\xff.", None),
    "a dict without end": (b"\x80\x02" + b"}" * (1 << 20) + b"}.", "instructions"),
    "no arguments": (b"\x80\x02" + name_of("torch._utils", "_rebuild_tensor_v2") + b")R.", "no storage"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(tmp_path: Path, case: str) -> None:
    raw, message = HOSTILE[case]
    path = write_torch(tmp_path / "a.bin", {"a": X}, raw)
    tracemalloc.start()
    if message is None:
        assert list(TorchFile(path)) == []
    else:
        with pytest.raises(ValueError, match=message) as caught:
            TorchFile(path)
        assert str(caught.value).startswith(f"[torch] {path}: ")
    assert tracemalloc.get_traced_memory()[1] < 256 << 20
    tracemalloc.stop()


def test_code_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for protocol in range(6):
        raw = pickle.dumps({"a": Evil(marker)}, protocol=protocol)
        pickle.loads(raw)
        assert marker.exists()  # the payload works, where it is run
        marker.unlink()
        with pytest.raises(ValueError, match=r"only tensors are read|unknown protocol|instruction"):
            TorchFile(write_torch(tmp_path / "a.bin", {"a": X}, raw))
        folder = write_peft(tmp_path / str(protocol), {"a": X})
        (folder / "adapter_model.safetensors").unlink()
        write_torch(folder / "adapter_model.bin", {"a": X}, raw)
        with pytest.raises(ValueError, match=r"only tensors are read|unknown protocol|instruction"):
            read_adapter(folder, "llama", BASE)
        assert not marker.exists()


def test_hostile_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"torch 1\.6 or later"):
        TorchFile(path)
    with pytest.raises(ValueError, match="compressed"):
        TorchFile(write_torch(path, {"a": X}, compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", state_dict_pickle({"a": X}))
    with pytest.raises(ValueError, match="missing"):
        TorchFile(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../data.pkl", b"")
        archive.writestr("b/data.pkl", b"")
    with pytest.raises(ValueError, match=r"data\.pkl"):
        TorchFile(path)


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [(6, 99, "never writes.*version 9.9"), (8, 0x20, "never writes.*patched data"), (8, 1, "damaged or encrypted")],
)
def test_features_of_zip_that_torch_has_no_use_for(tmp_path: Path, at: int, value: int, says: str) -> None:
    """at: the place in an entry of the zip's directory, 6 the version needed, 8 flags."""
    path = write_torch(tmp_path / "a.bin", {"a": X})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\1\2") + at] = value
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=says) as caught:
        TorchFile(path)
    assert str(caught.value).startswith(f"[torch] {path}: ")


def test_damaged_checkpoints(tmp_path: Path) -> None:
    rng = fresh_rng()
    path = write_torch(tmp_path / "a.bin", some_tensors())
    original = path.read_bytes()
    read = 0
    for _ in range(400):
        path.write_bytes(damage_bytes(rng, original, original))
        try:
            file = TorchFile(path)
            for name in file:
                assert file.array(name).shape == file.info[name].shape
            read += 1
        except (ValueError, OSError) as error:
            assert 0 < len(str(error)) < 500 and "\n" not in str(error)
    assert 0 < read < 400
