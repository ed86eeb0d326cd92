"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lora_edge import builtin
from lora_edge.cli.main import main, parser


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("verb", ["generate", "chat", "info", "convert"])
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: lora-edge " + verb)
    assert max(map(len, text.splitlines())) <= 120


def test_generate_equals_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    import lora_edge

    prompt = "turn on the kitchen light"
    for flags, adapter in (([], None), (["--lora", "json"], "json")):
        status, out, _ = run(capsys, "generate", "-p", prompt, *flags)
        assert status == 0
        assert out == lora_edge.generate(prompt, adapter=adapter) + "\n"


def test_compare_shows_base_and_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "generate", "-p", "lock the front door", "--compare", "-n", "48")
    assert status == 0
    labels = [line.split("|")[0].strip() for line in out.splitlines()]
    assert labels[:2] == ["prompt", "base"]
    assert "json" in labels
    texts = {line.split("|", 1)[1] for line in out.splitlines()}
    assert len(texts) == len(out.splitlines())


def test_ids_and_timings(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "generate", "-p", "hello", "-n", "5", "--ignore-eos", "--ids", "--timings")
    assert status == 0
    assert len([int(i) for i in out.split()]) == 5
    assert "generated 5 tokens" in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["generate", "-m", "absent.gguf", "-p", "x"], ["absent.gguf", "No such file"]),
        (["generate", "-p", "x", "--lora", "absent"], ["absent", "json"]),
        (["generate", "-p", "word " * 2000], ["context of", "n_ctx"]),
        (["generate", "-p", "x", "-n", "100000"], ["max_tokens 100000", "context of"]),
        (["generate", "-p", "x", "--top-p", "2"], ["top_p is 2"]),
        (["generate", "-p", "x", "--lora-scaled", "json:much"], ["json:much", "FILE:SCALE"]),
        (["info", "absent.gguf"], ["absent.gguf"]),
        (["convert", "absent", "-o", "x.gguf"], ["absent", "folder"]),
    ],
)
def test_mistakes_read_well(argv: list[str], says: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *argv)
    assert status == 1
    assert out == ""
    assert err.startswith("lora-edge: error: ")
    assert len(err.splitlines()) == 1
    for part in says:
        assert part in err


def test_info_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "kernels" in out
    status, out, _ = run(capsys, "info", str(builtin.base()))
    assert status == 0
    assert "Q8_0" in out
    assert "context" in out
    status, out, _ = run(capsys, "info", str(builtin.adapters()["json"]))
    assert status == 0
    assert "lora adapter" in out
    assert "rank" in out


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", ["--help", "info"])
def test_output_into_a_closed_pipe(argv: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lora_edge", *argv.split()]
    if argv == "info":
        command.append(str(builtin.base()))
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_import_is_light() -> None:
    code = (
        "import sys; before = set(sys.modules); import lora_edge; lora_edge.runtime_info(); "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tokenizers", "jinja2", "gguf", "torch", "tqdm", "transformers"} & set(loaded)


def test_the_package_is_typed() -> None:
    import lora_edge

    assert (Path(lora_edge.__file__).parent / "py.typed").exists()
