"""The extension for VS Code (and every editor that reads TextMate grammars) in editors/vscode, made from the rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neuron_dialects.version import VERSION
from tools.editor.rules import KINDS, LANGUAGES, Rule

_COMMENTS = {"neuron-mlir": "//", "neuron-asm": ";"}


def extension_files() -> dict[Path, str]:
    """Every file of the extension, by its path in editors/vscode."""
    files = {Path("package.json"): _json(_package())}
    for language, (name, rules, _) in LANGUAGES.items():
        files[Path("syntaxes", f"{language}.tmLanguage.json")] = _json(grammar(language, name, rules))
        files[Path(f"{language}.configuration.json")] = _json(_configuration(_COMMENTS[language]))
    return files


def write_extension(folder: Path) -> list[Path]:
    """Bring the extension in `folder` up to date, where there is one; the files that changed."""
    changed: list[Path] = []
    for path, text in extension_files().items() if folder.is_dir() else ():
        file = folder / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def grammar(language: str, name: str, rules: tuple[Rule, ...]) -> dict[str, Any]:
    """The TextMate grammar of a language."""
    suffix = language.removeprefix("neuron-")
    patterns = [
        {"name": f"{KINDS[rule.kind][1]}.{suffix}", "match": rule.pattern} for rule in rules if KINDS[rule.kind][1]
    ]
    return {"name": name, "scopeName": f"source.{language}", "patterns": patterns}


def _package() -> dict[str, Any]:
    languages = [
        {
            "id": language, "aliases": [name], "extensions": list(endings),
            "configuration": f"./{language}.configuration.json",
        }
        for language, (name, _, endings) in LANGUAGES.items()
    ]  # fmt: skip
    grammars = [
        {"language": language, "scopeName": f"source.{language}", "path": f"./syntaxes/{language}.tmLanguage.json"}
        for language in LANGUAGES
    ]
    return {
        "name": "neuron-toolkit",
        "displayName": "NeuronCore MLIR and assembly",
        "description": "Colours for the neuron-toolkit's dialects and for its assembly",
        "version": VERSION,
        "publisher": "neuron-toolkit",
        "license": "Apache-2.0",
        "engines": {"vscode": "^1.70.0"},
        "categories": ["Programming Languages"],
        "contributes": {"languages": languages, "grammars": grammars},
    }


def _configuration(comment: str) -> dict[str, Any]:
    pairs = [["{", "}"], ["[", "]"], ["(", ")"]]
    return {
        "comments": {"lineComment": comment},
        "brackets": pairs,
        "autoClosingPairs": [{"open": left, "close": right} for left, right in [*pairs, ['"', '"']]],
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
