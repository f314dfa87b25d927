"""The command line as a process: version, list, interrupts, closed pipes, terminals, the demo."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from convexblocks.commands.main import app
from convexblocks.formulations import ACTIVATIONS, LOSSES
from convexblocks.solvers import CONIC_ENGINES, ENGINES, load

COMMAND = [sys.executable, "-m", "convexblocks.commands.main"]


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(words: list[str], folder: Path, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        # A shell that starts the tests in the background makes them ignore Ctrl-C, and children inherit that.
        [*COMMAND, *words], cwd=folder, env=environment, text=True, preexec_fn=_hear_interrupts,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def finish(words: list[str], folder: Path, **options: Any) -> tuple[int, str, str]:
    with start(words, folder, **options) as process:
        output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def test_version_and_help() -> None:
    version = CliRunner().invoke(app, ["--version"])
    assert version.exit_code == 0
    assert version.stdout.startswith("convexblocks ")
    usage = CliRunner().invoke(app, ["--help"])
    assert all(name in usage.stdout for name in ("demo", "list", "show", "train", "compare", "report"))


def test_list_names_everything() -> None:
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 0
    names = (*ENGINES, *CONIC_ENGINES, *ACTIVATIONS, *LOSSES)
    for name in ("fenchel", "targets", "fenchel.activation", *names, "digits", "fashion_mnist", ".npz"):
        assert name in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    found = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert list(found) == ["formulations", "blocks", "engines", "activations", "losses", "data sets"]
    listed = [(row["name"], row["takes"]) for row in found["engines"]]
    assert listed == [*((name, "blocks") for name in ENGINES), *((name, "programs") for name in CONIC_ENGINES)]


def test_list_says_how_to_install_what_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(CONIC_ENGINES["osqp"], prepare=lambda program: "the package x (pip install 'convexblocks[x]')")
    monkeypatch.setitem(CONIC_ENGINES, "osqp", absent)
    text = CliRunner().invoke(app, ["list"]).stdout
    assert "[x]" in text
    assert max(map(len, text.splitlines())) <= 80
    rows = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)["engines"]
    commands = {row["name"]: row["install"] for row in rows if row["takes"] == "programs"}
    assert commands["osqp"] == "pip install 'convexblocks[x]'"
    assert commands["clarabel"] == ""


def test_help_and_models_need_neither_torch_nor_scikit_learn(tmp_path: Path) -> None:
    program = (
        # cvxpy imports moreau where it is installed, and moreau imports torch.
        "import sys\nsys.modules['moreau'] = None\n"
        "from typer.testing import CliRunner\nfrom convexblocks.commands.main import app\n"
        "assert CliRunner().invoke(app, ['show', 'fenchel.activation']).exit_code == 0\n"
        "print([name for name in ('torch', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_errors_go_to_stderr_without_a_traceback(tmp_path: Path) -> None:
    code, output, errors = finish(["train", "magic", "--out", "run"], tmp_path)
    assert (code, output) == (2, "")
    assert errors.startswith("Error: unknown data set 'magic'")
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_pipe_sees_results_and_no_progress_bar(tmp_path: Path) -> None:
    words = ["train", "iris", "--hidden", "4", "--sweeps", "2", "--no-baselines"]
    code, output, errors = finish(words, tmp_path)
    assert (code, errors) == (0, "")
    assert "\x1b" not in output
    assert "test accuracy" in output


def test_terminal_sees_a_progress_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = ["train", "iris", "--hidden", "4", "--sweeps", "2", "--no-baselines"]
    with start(words, tmp_path, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # Linux says so when the other end is closed
                    break
        process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert "2/2" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    with start(["show", "fenchel.activation", "--json"], tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode != 2
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_interrupt_leaves_a_run_that_loads(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", "digits", "--sweeps", "100000", "--tolerance", "0", "--out", "run"]
    with start(words, tmp_path) as process:
        deadline = time.monotonic() + 120
        while not (run / "weights" / "0002.safetensors").exists():
            assert time.monotonic() < deadline, "no second sweep in two minutes"
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted after sweep" in output
    assert "network.safetensors" in output
    loaded = load(run)
    assert loaded.history.last["sweep"] >= 2
    assert loaded.history.stop_reason.startswith("interrupted")
    assert loaded.predict(np.zeros((1, 64))).shape == (1,)
    assert finish(["report", "run"], tmp_path)[0] == 0


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    began = time.monotonic()
    code, output, errors = finish(["demo"], tmp_path)
    # The first use of matplotlib on a machine may say on stderr that it builds its font cache.
    assert code == 0, errors
    assert "Traceback" not in errors
    assert time.monotonic() - began < 120
    for words in ("minimize", "why convex", "agrees", "lifted value (estimate)", "Adam", "logistic regression"):
        assert words in output
    assert "NO" not in output.split("3. Audit")[1].split("4. ")[0]
    run = tmp_path / "runs" / "demo"
    for name in ("network.safetensors", "history.jsonl", "run.json", "report.html"):
        assert (run / name).is_file()
    loaded = load(run)
    assert loaded.settings["widths"] == [64, 64, 10]
    assert loaded.history.last["test_accuracy"] > 0.95
    assert all(audit["agrees"] for audit in loaded.history.audits)


def test_demo_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    code, _, errors = finish(["demo", "--out", "."], tmp_path)
    assert code == 2
    assert "not empty" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
