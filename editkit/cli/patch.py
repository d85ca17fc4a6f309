"""Describe, check, compare, combine, apply and export patches: edits in files.

'editkit patch ACTION --help' describes an action and its arguments.
"""

from __future__ import annotations

import argparse
import importlib
from typing import NamedTuple


class _Action(NamedTuple):
    """One ``editkit patch NAME``; its module has ``configure`` and ``run``, as a command's has."""

    name: str
    module: str
    summary: str


ACTIONS: tuple[_Action, ...] = (
    _Action("show", "editkit.cli.patch_show", "show what patches are, and how far they overlap"),
    _Action("check", "editkit.cli.patch_check", "check whether patches still do what they did"),
    _Action("diff", "editkit.cli.patch_diff", "show what differs between two patches"),
    _Action("stack", "editkit.cli.patch_stack", "write one patch with the edits of several"),
    _Action("apply", "editkit.cli.patch_apply", "apply patches to a model, in a ledger"),
    _Action("revert", "editkit.cli.patch_revert", "revert patches of a ledger"),
    _Action("list", "editkit.cli.patch_list", "list the patches of a ledger"),
    _Action("export", "editkit.cli.patch_export", "write a model folder or a LoRA adapter"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions with their arguments."""
    actions = parser.add_subparsers(dest="patch_action", metavar="ACTION", required=True)
    for action in ACTIONS:
        module = importlib.import_module(action.module)
        own = actions.add_parser(
            action.name,
            help=action.summary,
            description=(module.__doc__ or "").strip(),
        )
        module.configure(own)
        own.set_defaults(run_action=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the action; the exit code."""
    return int(args.run_action(args))
