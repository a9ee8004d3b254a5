"""What files and folders say reaches the terminal as text: never obeyed, never taken for markup."""

import ast
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import matformer_lab
from tests.support.command import CommandResult
from tests.support.pico import write_parent

Cli = Callable[..., CommandResult]
PACKAGE = Path(matformer_lab.__file__).parent

WICKED = "\x1b[2J\x1b]0;owned\x07\x9b31m[red]x[/]\u202e\u2066\r\nok: fine\n\x00:smile:"
IN_A_NAME = WICKED.replace("\x00", "")
"""The same as no file system refuses it."""


# --- every message there is ---


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


DOORS = {"cli/output.py", "cli/interrupts.py", "common/progress.py", "sweep/bar.py"}
"""What may write to the terminal, and makes it printable."""
SCRIPTS = {"sweep/recipe_schema.py", "results/model_card.py", "notebook/editor.py"}
"""For maintainers, who print what is written in the repository; and a notebook's own output."""
PRINTERS = {
    "print",
    "echo",
    "secho",
    "write_through",
    "Console",
    "Progress",
    "showwarning",
    "pprint",
}


def test_nothing_is_printed_but_through_the_door() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in DOORS or name in SCRIPTS:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in calls(tree):
            called = ast.unparse(call.func)
            last = called.rpartition(".")[2]
            if last in PRINTERS - {"print"} or called == "print":
                found.append(f"{name}: {called}")
            if called.startswith(("sys.stdout.write", "sys.stderr.write")):
                found.append(f"{name}: {called}")
    assert found == []


def test_the_doors_make_printable_and_know_no_markup() -> None:
    """A bar's descriptions are text; every function that prints goes through `printable`."""
    for name in ("common/progress.py", "sweep/bar.py"):
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        columns = [call for call in calls(tree) if ast.unparse(call.func).endswith("TextColumn")]
        shown = [call for call in columns if "description" in ast.unparse(call)]
        assert shown
        for call in shown:
            assert {word.arg: ast.unparse(word.value) for word in call.keywords} == {
                "markup": "False"
            }
        assert "printable(" in (PACKAGE / name).read_text(encoding="utf-8")
    output = ast.parse((PACKAGE / "cli/output.py").read_text(encoding="utf-8"))
    for function in output.body:
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
            names = {ast.unparse(call.func) for call in calls(function)}
            if "_write" in names and function.name != "flush":
                assert names & {"printable", "shown", "json.dumps"}, function.name


# --- commands on files that say wicked things ---


def harmless(done: CommandResult, code: int) -> str:
    """Checks that only text was printed; the text."""
    assert done.code == code, done
    text = done.out + done.err
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert "ok: fine" not in text.split("\n")
    assert "Traceback" not in text
    return text


def set_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def set_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        entries = json.loads(data[8 : 8 + length])
        change(entries)
        header = json.dumps(entries).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])

    return break_it


def set_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {WICKED: f"{WICKED}.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    "change",
    [
        set_config(model_type=WICKED),
        set_config(layer_types=[WICKED] * 10),
        set_config(hidden_size=WICKED),
        set_header(lambda entries: entries[NORM].update(dtype=WICKED)),
        set_header(lambda entries: entries[NORM].update(shape=[WICKED])),
        set_header(lambda entries: entries.update({WICKED: 1})),
        set_header(lambda entries: entries.update({WICKED: entries.pop(NORM)})),
        set_header(lambda entries: entries[NORM].update({WICKED: 1})),
        set_index,
    ],
)
def test_a_wicked_parent(
    change: Callable[[Path], None], pico: Path, tmp_path: Path, cli: Cli
) -> None:
    shutil.copytree(pico, tmp_path / "parent")
    change(tmp_path / "parent")
    harmless(cli("plan", "parent", "--slice", "1/2"), 2)


def test_a_wicked_key_that_nobody_reads(pico: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(pico, tmp_path / "parent")
    set_config(**{WICKED: float("nan")})(tmp_path / "parent")
    harmless(cli("plan", "parent", "--slice", "1/2"), 0)


def test_a_wicked_folder(pico: Path, tmp_path: Path, cli: Cli) -> None:
    parent, child = tmp_path / IN_A_NAME.replace("/", "|"), IN_A_NAME.replace("/", "|") + "child"
    shutil.copytree(pico, parent)
    assert "\\x1b[2J" in harmless(cli("plan", parent.name, "--slice", "1/2"), 0)
    assert json.loads(cli("plan", parent.name, "--slice", "1/2", "--json").out)["parent"]
    harmless(cli("slice", parent.name, "--slice", "1/2", "--out", child), 0)
    card = (tmp_path / child / "README.md").read_text()
    assert all(line.isprintable() for line in card.split("\n")) and "\nok: fine\n" not in card
    harmless(cli("verify", child, "--parent", parent.name), 0)
    harmless(cli("slice", parent.name, "--slice", "1/2", "--out", child), 2)
    harmless(cli("plan", "no" + parent.name, "--slice", "1/2"), 2)
    (tmp_path / "cut").mkdir()
    harmless(cli("report", "cut" + parent.name), 2)


def test_bytes_that_are_no_text(pico: Path, tmp_path: Path, cli: Cli) -> None:
    name = os.fsdecode(b"caf\xe9 \xff")
    shutil.copytree(pico, tmp_path / name)
    assert "\\udcff" in harmless(cli("plan", name, "--slice", "1/2"), 0)
    harmless(cli("plan", name + "x", "--slice", "1/2"), 2)


def test_wicked_tensors_in_a_checkpoint_to_verify(pico: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("slice", pico, "--slice", "1/2", "--out", "child").code == 0
    set_header(lambda entries: entries.update({WICKED: entries.pop(NORM)}))(tmp_path / "child")
    for more in ((), ("--parent", pico), ("--against", pico)):
        text = harmless(cli("verify", "child", *more), 1)
        assert "\\x1b[2J" in text
    done = cli("verify", "child", "--json")
    harmless(done, 1)
    assert any(WICKED in problem for problem in json.loads(done.out)["problems"])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("s.yaml", json.dumps({"name": IN_A_NAME, "widths": "1/2"})),
        ("s.yaml", json.dumps({"name": "s", "widths": IN_A_NAME})),
        ("s.yaml", json.dumps({"name": "s", "widths": "1/2", IN_A_NAME: 1})),
        ("s.yaml", json.dumps({"name": "s", "widths": "1/2", "skip": IN_A_NAME})),
        ("s.yaml", json.dumps([IN_A_NAME])),
        ("s.yaml", f"a: {IN_A_NAME}"),
        ("s.csv", f'name,FFN Hidden Dims\n"{IN_A_NAME}",[1]\n'),
        ("s.csv", f'name,FFN Hidden Dims\nrow,"[{IN_A_NAME}]"\n'),
    ],
)
def test_a_wicked_slice_file(file: str, text: str, pico: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / file).write_bytes(text.encode())
    harmless(cli("plan", pico, "--slice", file), 2)


def test_a_wicked_name_of_a_slice_in_a_file(pico: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "s.yaml").write_text("{name: s, widths: 1/2}")
    harmless(cli("plan", pico, "--slice", f"s.yaml#{IN_A_NAME}"), 2)


@pytest.mark.parametrize(
    "changes",
    [
        {IN_A_NAME: 1},
        {"slices": [IN_A_NAME]},
        {"slices": [{"name": IN_A_NAME, "widths": "1/2"}]},
        {"tasks": [{"name": "tiny_boolq", IN_A_NAME: 1}]},
        {"tasks": [{"name": "tiny_boolq", "metric": IN_A_NAME}]},
        {"parent": IN_A_NAME},
        {"device": IN_A_NAME},
    ],
)
def test_a_wicked_recipe(changes: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    recipe = {"parent": "tiny", "tasks": ["tiny_boolq"], **changes}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    harmless(cli("sweep", "r.yaml", "--limit", "1", "--out", "out"), 2)


# --- a terminal ---


def on_a_terminal(*arguments: str, cwd: Path) -> tuple[int, str]:
    """A command whose stdout and stderr are a terminal; its exit code and all it sent there."""
    master, slave = pty.openpty()
    sent = bytearray()

    def read() -> None:
        try:
            while piece := os.read(master, 1 << 16):
                sent.extend(piece)
        except OSError:
            pass  # the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run(
        [sys.executable, "-m", "matformer_lab", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TERM": "xterm", "COLUMNS": "200"},
        timeout=300,
        check=False,
    )
    os.close(slave)
    reader.join()
    os.close(master)
    return done.returncode, sent.decode()


def obeyed(sent: str) -> list[str]:
    """What the terminal was told to do that is not rich's bold type, colours and cursor moves."""
    return [c for c in ("\x1b[2J", "\x1b]0;", "\x9b", "\u202e", "\u2066") if c in sent]


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    parent = write_parent(tmp_path / IN_A_NAME.replace("/", "|"))
    code, sent = on_a_terminal("slice", parent.name, "--slice", "1/2", "--out", "c", cwd=tmp_path)
    assert code == 0, sent
    assert obeyed(sent) == []
    assert "\x1b[" in sent, "there was a bar to look at"
    code, sent = on_a_terminal("plan", parent.name, "--slice", "1/2", cwd=tmp_path)
    assert (code, obeyed(sent)) == (0, [])
    assert "[red]x[|]" in sent


@pytest.mark.slow
def test_names_that_look_like_markup(tmp_path: Path) -> None:
    names = ["x[/]", "[red]", "[/red]b\\", "[link=a]:smile:", "=1+1", "$\\frac$"]
    slices = [{"name": name, "widths": f"1/{2**number}"} for number, name in enumerate(names)]
    recipe = {"parent": "tiny", "slices": slices, "tasks": ["tiny_boolq"], "limit": 2}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    code, sent = on_a_terminal("sweep", "r.yaml", "--out", "out", cwd=tmp_path)
    assert code == 0, sent
    for name in names:
        assert name in sent
    code, sent = on_a_terminal("report", "out", "--separate", *names[:2], cwd=tmp_path)
    assert code == 0, sent
    assert "only x[/]" in sent and "only [red]" in sent
    for name in names:
        (tmp_path / "s.yaml").write_text(json.dumps({"name": name, "widths": "1/2"}))
        code, sent = on_a_terminal("plan", "tiny", "--slice", "s.yaml", cwd=tmp_path)
        assert code == 0 and f"{name} of tiny" in sent
