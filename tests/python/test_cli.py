"""The command line, run as a user runs it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED, needs_shared
from lora_edge import api, builtin
from lora_edge.cli.common import load_model
from lora_edge.cli.main import main, parser


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    "verb",
    [
        "generate",
        "chat",
        "embed",
        "classify",
        "info",
        "convert",
        "merge",
        "extract",
        "fit",
        "verify",
        "plan",
        "train",
        "bench",
    ],
)
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
    assert "generated 5 tokens" in err and "drafted" not in err


def test_speculation_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("generate", "-p", "turn on the kitchen light\n" * 3, "-n", "40", "--ignore-eos", "--timings")
    _, wanted, _ = run(capsys, *argv)
    status, out, err = run(capsys, *argv, "--speculative", "prompt-lookup")
    assert status == 0 and out == wanted and "drafted tokens accepted" in err
    with pytest.raises(SystemExit):
        run(capsys, *argv, "--speculative", "other")
    assert "prompt-lookup" in capsys.readouterr().err


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


def test_info_names_the_tables_left_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each table is either compiled or named as left out; info has a line for those only where there are any."""
    runtime = api.runtime_info()
    build = runtime["build"]
    assert not set(build["isas_compiled"]) & set(build["isas_left_out"])
    assert set(build["isas_runnable"]) <= set(build["isas_compiled"])
    for left_out in [], ["newer", "newest"]:
        build["isas_left_out"] = left_out
        monkeypatch.setattr(api, "runtime_info", lambda: runtime)
        status, out, _ = run(capsys, "info")
        assert status == 0
        assert ("newer, newest (the compiler is too old)" in out) == bool(left_out)


@needs_shared
def test_info_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "info", str(SHARED / "gguf" / "stories260K-f32.gguf"))
    assert status == 0 and "KiB per token in f32" in out and "runs here      yes" in out
    status, out, _ = run(capsys, "info", str(SHARED / "gguf" / "stories260K-q4_0.gguf"))
    assert status == 0 and "runs here" in out and "yes" in out and "Q4_0" in out


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


@pytest.fixture
def adapters(tmp_path: Path) -> tuple[str, str]:
    """Two adapters whose files have the same name."""
    for side in ("one", "two"):
        (tmp_path / side).mkdir()
    shutil.copy(builtin.adapters()["json"], tmp_path / "one" / "style.gguf")
    shutil.copy(builtin.adapters()["german"], tmp_path / "two" / "style.gguf")
    return str(tmp_path / "one" / "style.gguf"), str(tmp_path / "two" / "style.gguf")


def test_adapters_of_one_name(
    adapters: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relative path that equals the name of an adapter loaded before is still a path."""
    monkeypatch.chdir(Path(adapters[1]).parent)
    prompt = ["generate", "-p", "turn on the kitchen light"]
    for flags in (
        ["--lora", adapters[0], "--lora", "style.gguf"],
        ["--lora-scaled", f"{adapters[0]}:1", "--lora-scaled", "style.gguf:1"],
        ["--lora", "style.gguf", "--lora", adapters[0]],
    ):
        model, weights = load_model(parser().parse_args([*prompt, *flags]))
        paths = [os.path.realpath(model.adapters[name].path) for name in weights]
        assert sorted(paths) == sorted(adapters) and list(weights.values()) == [1, 1]
    for twice in (["--lora", "style.gguf", "--lora", adapters[1]], ["--lora", "json", "--lora-scaled", "json:0.5"]):
        status, _, err = run(capsys, *prompt, *twice)
        assert status == 1 and "is given twice" in err
    for bad in ("style.gguf", "style.gguf:", "style.gguf:x", ":1", "style.gguf:nan"):
        status, _, err = run(capsys, *prompt, "--lora-scaled", bad)
        assert status == 1 and f"--lora-scaled '{bad}' is not FILE:SCALE" in err


def test_chat_goes_on_after_a_mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["/adapter json=abc", "/adapter nobody", "/adapter json=nan", "/nonsense", "turn on the light " * 30]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, "turn on the kitchen light", ""])))
    status, out, err = run(capsys, "chat", "-c", "64")
    assert status == 0
    assert "weight of 'json' is 'abc'" in out and "no adapter 'nobody'" in out and "weight of 'json' is 'nan'" in out
    assert "unknown command" in out and "more than the context of 64" in err
    assert "kitchen light is on" in out


def test_input_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    status, _, err = run(capsys, "generate", "-f", str(tmp_path / "bad.txt"))
    assert status == 1 and f"'{tmp_path / 'bad.txt'}' is not UTF-8 text: byte 2 is 0xff" in err


def test_standard_output_that_is_closed() -> None:
    command = f'"{sys.executable}" -m lora_edge info >&-'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr


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
