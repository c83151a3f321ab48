"""The documents say what is there: every verb, every key, every link, and the examples are read by the real code."""

import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runbooks_lib import config
from runbooks_lib.cli import cli
from runbooks_lib.config import form
from runbooks_lib.diagnosis.rules import RULES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERYTHING = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)


def verbs(group: click.Group = cli, before: str = "runbook") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


@pytest.mark.parametrize("verb", [verb for verb, _ in verbs()])
def test_every_verb_stands_in_the_documents(verb: str) -> None:
    assert verb in EVERYTHING


def test_the_page_of_all_commands_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs/commands.py"))["text"]()
    assert (ROOT / "docs/commands.md").read_text(encoding="utf-8") == made, "call `make docs`"


@pytest.mark.parametrize(("verb", "command"), list(verbs()), ids=[verb for verb, _ in verbs()])
def test_every_verb_and_option_has_help(verb: str, command: click.Command) -> None:
    assert command.help, f"{verb} has no help"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.name == "output", f"{verb} {parameter.opts} has no help"


def test_documented_commands_exist() -> None:
    known = {verb for verb, _ in verbs()}
    groups = {verb.rpartition(" ")[0] for verb in known}
    for line in re.findall(r"(?:^|`|\|\s)(runbook [a-z][^`\n|]*)", EVERYTHING, flags=re.M):
        words = line.split()
        longest = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in known | groups), None)
        assert longest, f"the documents name `{line}`, which is no command"


def test_every_key_of_the_inventory_is_documented_and_the_example_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs/inventory.md").read_text(encoding="utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    path = tmp_path / "runbooks.toml"
    path.write_text(example, encoding="utf-8")
    config.load(path)

    # Lines that are commented out are examples too; those that exclude each other are tried one by one.
    for line in re.findall(r"^# ([a-z_]+ = .*)$", example, flags=re.M):
        tomllib.loads(line)
    for section, model in (
        ("", form.InventoryFile),
        ("", form.HostTable),
        ("", form.PartitionTable),
        ("", form.ServiceTable),
        *form.TABLES.items(),
    ):
        for key in model.model_fields:
            assert re.search(rf"^(# )?\[?{key}\b|^# \[{key}\]|\.{key}[.\]]", example, flags=re.M), f"{section} {key}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readme_names_every_notebook() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in (ROOT / "notebooks").rglob("*.ipynb"):
        if not {".ipynb_checkpoints", "filled-in"} & set(notebook.parts):  # copies that JupyterLab and triage make
            assert notebook.relative_to(ROOT / "notebooks").as_posix() in readme


def test_every_direct_dependency_says_why_and_is_pinned() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.split(r"[>=<]", requirement)[0]
        assert re.search(rf'"{re.escape(requirement)}",\s+# \w', text), f"{name} has no reason beside it"
        assert re.search(rf"^{re.escape(name)}==", pinned, flags=re.M | re.I) or re.search(
            rf"^{re.escape(name.replace('_', '-'))}==", pinned, flags=re.M | re.I
        ), f"{name} is not pinned"


def test_every_rule_of_the_diagnosis_is_documented() -> None:
    text = (ROOT / "docs/triage.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| `{rule.name}` | {rule.asks} |" in text, rule.name


def test_every_key_of_a_channel_is_documented_and_the_example_is_valid(tmp_path: Path) -> None:
    example = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/notify.md").read_text(encoding="utf-8"), flags=re.S)[0]
    path = tmp_path / "runbooks.toml"
    path.write_text(example, encoding="utf-8")
    assert {each.kind for each in config.load(path).notify.channels.values()} == {"webhook", "mail", "apprise"}
    for model in (config.Channel, config.Alertmanager):
        for key in model.model_fields:
            assert re.search(rf"^(# )?{key} = ", example, flags=re.M), key
