"""Edit a fact in a browser on this machine, and see what the edit did.

Type a fact, choose editors, and compare the model before and after: probabilities, texts,
neighbours, other facts of the subject, causal traces. Download the patch, or take it back. The
command prints the page's address; Ctrl-C ends it. It needs the extra 'demo'.
"""

from __future__ import annotations

import argparse
import importlib.util
import socket
import sys
import tempfile
from pathlib import Path

from editkit import PluginError
from editkit.cli.arguments import DEFAULT_MODEL, add_examples, add_flag, add_flags
from editkit.cli.signals import Terminated, terminable


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``editkit demo``."""
    add_flag(parser, "--model", default=DEFAULT_MODEL)
    add_flags(parser, "--device", "--dtype")
    add_examples(parser, "editkit demo", "editkit demo -m smollm2")
    add_flag(parser, "--port", default=0, help="port to listen on, 0 for any free port")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        PluginError: gradio is not installed.
        UsageError: The port is in use.
        ModelError: The model cannot be loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise PluginError(
            "the page needs gradio, which is not installed.",
            hint="Run: pip install 'editkit[demo]'",
        )
    from editkit_plugins.demo.server import listen

    listener = listen(args.port)  # a busy port is reported before the model is loaded
    with listener, tempfile.TemporaryDirectory(prefix="editkit-demo-") as folder:
        try:
            with terminable():
                _serve(args, listener, Path(folder))
        except Terminated:
            raise
        except KeyboardInterrupt:
            return 0
    return 0


def _serve(args: argparse.Namespace, listener: socket.socket, folder: Path) -> None:
    from editkit import load_model
    from editkit_plugins.demo.page import application
    from editkit_plugins.demo.server import serving
    from editkit_plugins.demo.studio import Studio
    from editkit_plugins.demo.worker import Worker

    sys.stderr.write(f"Loading {args.model} ...\n")
    model = load_model(args.model, dtype=args.dtype, device=args.device)
    studio, worker = Studio(model, folder), Worker()
    with serving(application(studio, worker), listener) as address:
        sys.stderr.write("Only browsers on this machine can open the page. Ctrl-C ends it.\n")
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        worker.run()
