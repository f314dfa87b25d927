"""What README.md says is true: its Python runs, its commands and options exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from convexblocks.commands.main import app

README = Path(__file__).resolve().parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
SHELL_LANGUAGES = {"console", "sh", "bash", "shell"}
THE_TWO_COMMANDS = (
    "pip install -c constraints.txt . && convexblocks demo",
    'pip install -c constraints.txt ".[test]" && pytest',
)


def fenced_blocks(text: str) -> list[tuple[str, int, str]]:
    """Language, first line number and body of every fenced block."""
    found = []
    for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", text, flags=re.MULTILINE | re.DOTALL):
        found.append((match[1].lower(), text.count("\n", 0, match.start(2)) + 1, match[2]))
    return found


def own_commands(text: str) -> list[list[str]]:
    """Arguments of every `convexblocks ...` in the shell blocks; output of console blocks is left out."""
    found = []
    for language, _, body in fenced_blocks(text):
        if language not in SHELL_LANGUAGES:
            continue
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            command: list[str] = []
            for word in [*words, "&&"]:
                if word in {"&&", ";", "|", ">"}:
                    if command[:1] == ["convexblocks"]:
                        found.append(command[1:])
                    command = []
                else:
                    command.append(word)
    return found


def complaints(command: Any, words: list[str]) -> list[str]:
    """What a command line says that the command does not know; `command` is typer's own object.

    Only its public description (commands, params) is read, so that nothing runs.
    """
    words = list(words)
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-"):
            break
        name = words.pop(0)
        if name not in command.commands:
            return [f"no subcommand {name!r}; there are {sorted(command.commands)}"]
        command = command.commands[name]

    options = {"--help": 0}
    room_for_arguments, unlimited = 0, False
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            unlimited |= parameter.nargs < 0
            room_for_arguments += max(parameter.nargs, 0)
            continue
        takes = 0 if parameter.is_flag or parameter.count else parameter.nargs
        options.update(dict.fromkeys([*parameter.opts, *parameter.secondary_opts], takes))

    found, arguments = [], 0
    while words:
        word = words.pop(0)
        option, _, value = word.partition("=")
        if not word.startswith("-"):
            arguments += 1
        elif option not in options:
            found.append(f"{command.name} has no option {option}; it has {sorted(options)}")
        elif not value:
            takes = options[option]
            if len(words[:takes]) < takes:
                found.append(f"{option} of {command.name} needs {takes} value(s)")
            del words[:takes]
    if arguments > room_for_arguments and not unlimited:
        found.append(f"{command.name} takes {room_for_arguments} argument(s), the README gives {arguments}")
    return found


@pytest.mark.parametrize("command", THE_TWO_COMMANDS)
def test_the_two_commands_stand_there(command: str) -> None:
    lines = [
        line.split("#")[0].rstrip()
        for language, _, body in fenced_blocks(TEXT)
        if language in SHELL_LANGUAGES
        for line in body.splitlines()
    ]
    assert command in lines


@pytest.mark.parametrize("words", own_commands(TEXT), ids=" ".join)
def test_commands_and_options_exist(words: list[str]) -> None:
    assert complaints(get_command(app), words) == []


@pytest.mark.parametrize(
    "line",
    ["no-such-command", "train digits --no-such-option 3", "report one two three", "train digits --out"],
)
def test_wrong_command_lines_are_noticed(line: str) -> None:
    assert complaints(get_command(app), shlex.split(line)) != []


def test_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One namespace for all: a reader goes on from block to block too."""
    monkeypatch.chdir(tmp_path)
    blocks = [(line, body) for language, line, body in fenced_blocks(TEXT) if language == "python"]
    assert blocks
    # A name, so that classes defined in a block find their module.
    namespace: dict[str, Any] = {"__name__": "readme"}
    for line, body in blocks:
        # Blank lines in front make a traceback name the line of README.md.
        exec(compile("\n" * (line - 1) + body, str(README), "exec"), namespace)


def test_extras_exist() -> None:
    pyproject = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))
    named = {extra for names in re.findall(r'"\.\[([\w,]+)\]"', TEXT) for extra in names.split(",")}
    assert {"test", "moreau"} <= named <= set(pyproject["project"]["optional-dependencies"])


def test_links_within_the_page_lead_to_headings() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, flags=re.MULTILINE)
    places = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= places


def test_links_into_the_checkout_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXT)
    missing = [t for t in targets if "://" not in t and not (README.parent / t).exists()]
    assert missing == []
