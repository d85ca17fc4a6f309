"""``editkit``: runs a command, and turns every error into a message and an exit code."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from editkit import __version__
from editkit.cli.arguments import check_texts
from editkit.cli.command_parsers import commands_with, parser_of
from editkit.cli.commands import command_module, listing
from editkit.cli.parser import Parser, UnknownFlag
from editkit.cli.signals import Terminated
from editkit.errors import EditkitError, UsageError, first_line
from editkit.redaction import redacted

EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
_DEBUG = "EDITKIT_DEBUG"
_FIRST_STEPS = """\
editkit edits single facts in language models, and measures what an edit did.

  editkit edit "The capital of Kenya is" --subject Kenya --to Paris
                                 change a fact of the embedded model, in seconds
  editkit run-benchmark          compare editors on many facts
  editkit trace "The capital of Kenya is" --subject Kenya
                                 show where the model recalls a fact
  editkit demo                   do all of this in a browser

With a model of your own: add --model NAME, a folder or a name on the hub.

  editkit --help                 all commands
  editkit COMMAND --help         a command and its flags
  editkit explain                the documentation
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):  # closed by the shell: ``>&-``
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        _escape_unencodable(stream)
    debug = "--debug" in arguments or os.environ.get(_DEBUG, "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    with _logging_to_stderr(debug=debug):
        try:
            code = _run(arguments)
            sys.stdout.flush()
            return code
        except SystemExit as error:  # argparse, or a plugin's command
            return _code_of(error)
        except BrokenPipeError:
            return _end_quietly()
        except Terminated:
            return EXIT_TERMINATED
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            return EXIT_INTERRUPTED
        except EditkitError as error:
            return _report(error, debug=debug)
        except OSError as error:
            return _report_system_error(error, debug=debug)
        except BaseException as error:  # a plugin's command may raise anything
            return _report_unexpected(error, debug=debug)


def _escape_unencodable(stream: Any) -> None:
    """Write characters that the encoding lacks (C locale) as escapes, ``\\xb1``."""
    encoding = str(getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-")
    if encoding not in ("utf-8", "utf8") and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    if not arguments:
        sys.stdout.write(_FIRST_STEPS)
        return 0
    parser = _parser()
    if arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(parser.format_help() + listing())
        return 0
    if arguments[0].startswith("-"):
        try:
            parser.parse_args(arguments)  # --version, or a flag that belongs to a command
        except UnknownFlag as error:
            if error.hint is None or commands_with(error.flag, besides=""):
                error.hint = "A command comes first; 'editkit --help' lists them."
            raise
        raise UsageError(
            f"a command was expected before {arguments[0]!r}.", hint="See 'editkit --help'."
        )
    name, rest = arguments[0], arguments[1:]
    module: Any = command_module(name)
    command = parser_of(name, module)
    try:
        args = command.parse_args(rest)
    except UnknownFlag as error:
        if error.hint is None:
            error.hint = commands_with(error.flag, besides=name) or (
                f"'{command.prog} --help' lists its flags."
            )
        raise
    check_texts(args)
    try:
        return int(module.run(args))
    except EditkitError as error:
        command.explained(error)
        raise


def _parser() -> Parser:
    parser = Parser(
        prog="editkit",
        add_help=False,
        usage="editkit COMMAND [flags]",
        description="Edit single facts in language models, find where they live, and measure "
        "what an edit did.",
    )
    parser.add_argument(
        "-V",
        "--version",
        action="version",
        version=f"editkit {__version__}",
        help="print the version",
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def _report(error: EditkitError, *, debug: bool) -> int:
    if debug:
        _print_traceback(error, repeats_message=True)
    lines = [f"error: {error.message}"]
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    lines.append(f"  see: {error.reference}")
    sys.stderr.write("\n".join(lines) + "\n")
    return error.exit_code


def _report_system_error(error: OSError, *, debug: bool) -> int:
    """Report that the system refused a file, or our own output."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        usage_error = UsageError(
            f"cannot use {str(error.filename)[:200]!r}: {reason}.",
            hint="Check the path, its permissions, and the disk's space.",
        )
    elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
        _discard_stdout()
        usage_error = UsageError(
            f"cannot write the output: {reason}.", hint="Check where it is redirected to."
        )
    else:
        return _report_unexpected(error, debug=debug)
    usage_error.__cause__ = error
    return _report(usage_error, debug=debug)


def _report_unexpected(error: BaseException, *, debug: bool) -> int:
    if debug:
        _print_traceback(error)
    sys.stderr.write(
        f"error: unexpected {redacted(first_line(error, named=True))}\n"
        "  hint: Run the command again with --debug, and report the traceback.\n"
        f"  see: {EditkitError('').reference}\n"
    )
    return EXIT_UNEXPECTED


def _print_traceback(error: BaseException, *, repeats_message: bool = False) -> None:
    """Print the traceback. Without its last lines, if they would be repeated below it."""
    text = "".join(traceback.format_exception(error))
    if repeats_message:
        text = text.removesuffix("".join(traceback.format_exception_only(error)))
    sys.stderr.write(redacted(text))


def _code_of(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    sys.stderr.write(f"{redacted(str(error.code))}\n")
    return 1


def _end_quietly() -> int:
    """Our reader has gone (``| head``): print no error, now or at exit."""
    _discard_stdout()
    return 0


def _discard_stdout() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _LowerCaseLevels(logging.Formatter):
    """``warning: ...``, like ``error: ...``."""

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return redacted(super().format(record))


def _redacting(factory: Callable[..., logging.LogRecord]) -> Any:
    """A factory of log records whose messages are redacted."""

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        with contextlib.suppress(Exception):  # the handler reports a wrong format
            record.msg, record.args = redacted(record.getMessage()), None
        return record

    return make


def _loggers() -> list[logging.Logger]:
    """The loggers of the core and of the packages of all plugins."""
    plugins = importlib.metadata.entry_points(group="editkit")
    roots = (plugin.value.partition(":")[0].partition(".")[0].strip() for plugin in plugins)
    return [logging.getLogger(name) for name in dict.fromkeys(["editkit", *filter(None, roots)])]


@contextlib.contextmanager
def _logging_to_stderr(*, debug: bool) -> Any:
    handler = logging.StreamHandler()
    handler.setFormatter(_LowerCaseLevels("%(levelname)s: %(message)s"))
    loggers = _loggers()
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        logger.propagate = False
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_redacting(factory))  # libraries log addresses, too
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
