"""What all commands of both programs share: exit codes, one-line errors, `--json`, the task and the device."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoo.errors import Corrupt, Failed, MissingData, MissingExtra, brief

if TYPE_CHECKING:
    import torch

EXIT_CODES: dict[type[Exception], int] = {
    ValueError: 2,
    Corrupt: 1,
    Failed: 1,
    MissingExtra: 3,
    MissingData: 4,
    OSError: 1,  # a file that cannot be read; those that cannot be written are Failed
}
LONG_IMPORT = 2.0  # seconds
INTERRUPTED = 130  # what typer returns after Ctrl-C
LOGGERS = ("evaluators", "zoo", "rpg")


def run_cli(app: Callable[..., Any], program: str) -> None:
    """Run a typer application; end the process with the contract's exit code, on failure with one line on stderr.

    A command may return an exit code. Exceptions outside the contract are our own bugs and keep their traceback.
    """
    try:
        with shown_log(), _imports_are_said(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries; what we have to say is logged
            code = app(sys.argv[1:] or ["--help"], prog_name=program, standalone_mode=False) or 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        code, reason = _explain(error, program)
        if code is None:
            raise
        if code != INTERRUPTED:
            print(f"{program}: {plain(' '.join(reason.split()))}", file=sys.stderr)
    if code == INTERRUPTED:
        print(f"{program}: interrupted; run the same command again to continue", file=sys.stderr)
    sys.exit(code)


@contextmanager
def _imports_are_said() -> Iterator[None]:
    """Say that libraries are being loaded where that takes long: on a busy machine the first command takes a quarter of
    a minute before it has anything else to say.
    """
    main = threading.get_ident()

    def look() -> None:
        frame = sys._current_frames().get(main)
        while frame is not None:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                say("loading libraries")
                return
            frame = frame.f_back

    timer = threading.Timer(LONG_IMPORT, look)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _explain(error: BaseException, program: str) -> tuple[int | None, str]:
    """Exit code and reason of an exception; no code for one outside the contract."""
    if hasattr(error, "format_message"):  # typer's own usage errors; their class has no public name
        return 2, f"{error.format_message().rstrip('.')}; `{program} --help` shows what there is"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):  # which a library turned into an error of its own
            return INTERRUPTED, ""
        cause = cause.__cause__ or cause.__context__
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), None), str(error)


def command_line(program: str) -> tuple[str, ...]:
    """The command as it was typed, for the records of what it makes."""
    return (program, *sys.argv[1:])


def is_first_process() -> bool:
    """Whether this is the first of the processes that a launcher started together, which speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def plain(text: str, keep: str = "") -> str:
    """The text with control characters (but those to keep) shown as escapes: names and messages may be anyone's, and a
    terminal obeys some of them.
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def say(message: str) -> None:
    """A line for people, on stderr, so that stdout holds results alone."""
    if is_first_process():
        print(plain(message, keep="\n"), file=sys.stderr)


def say_next(words: Sequence[str], as_json: bool) -> None:
    """The command that comes after this one, for newcomers; programs that read JSON know."""
    if not as_json:
        say(f"next: {shlex.join(words)}")


@contextmanager
def shown_log(level: int = logging.INFO) -> Iterator[None]:
    """In the block, what our packages log from this level on is shown as `say` shows it. Nothing else is: libraries
    that are used have much to say.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    handler = _Saying()
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False  # a library may have given the root logger a handler, which would say it again
    try:
        yield
    finally:
        for logger, (old_level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = propagate


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The command's result on stdout: one JSON object with `--json`, text for people otherwise."""
    if is_first_process():
        print(json.dumps(result, allow_nan=False) if as_json else plain(text, keep="\n"))


def describe_push(found: dict[str, Any]) -> str:
    """What was published, or would be, for people."""
    if "files" in found:
        lines = [f"{size:>14,}  {name}" for name, size in found["files"].items()]
        lines.append(f"{found['bytes']:>14,}  bytes would be published in {found['repo']}")
        return "\n".join(
            [*lines, *(f"{name} is no part of the zoo and stays here" for name in found.get("skipped", ()))]
        )
    return f"{found['repo']} at {found['tag']}: {found['uploaded']} files, {found['bytes']:,} bytes uploaded"


def pick_device(name: str) -> torch.device:
    """The device of this name; `auto` is the first GPU or else the CPU. Raises ValueError for one that is not here."""
    import torch

    from zoo import cuda

    if name == "auto":
        return torch.device("cuda" if cuda.available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
            raise RuntimeError("only cpu and cuda devices are supported")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here: {brief(error)}; try --device auto") from error
    return device
