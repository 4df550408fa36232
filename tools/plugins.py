"""`--load-pass-plugin FILE.py` of every command line, and the plug-ins that are installed as packages.

They are loaded before the arguments are parsed: what a plug-in adds (passes, dialects, targets) takes part in parsing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

OPTION = "--load-pass-plugin"


def add_plugin_argument(parser: Any) -> None:
    """Let an argparse parser or group take the option, which `load_plugins` has acted on by then."""
    parser.add_argument(
        OPTION,
        action="append",
        default=[],
        metavar="FILE.py",
        help="a file with a PLUGIN of passes, dialects, operators, instructions or targets; runs as code; repeatable",
    )


def load_plugins(arguments: Sequence[str]) -> None:
    """Load the installed plug-ins, then those that a command line names. Raises as `neuron_toolkit.load_plugin`."""
    from neuron_toolkit.plugin import load_installed_plugins, load_plugin

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(OPTION, action="append", default=[])
    try:
        named: list[str] = parser.parse_known_args(list(arguments))[0].load_pass_plugin
    except argparse.ArgumentError:
        # The option without its value: the tool's own parser says so.
        named = []
    load_installed_plugins()
    for file in named:
        load_plugin(file)
