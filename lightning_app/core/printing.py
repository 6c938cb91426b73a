"""What is printed: no name takes command of a terminal, and no output that cannot be shown ends a run.

`safe_output` stands around the command line. Whatever is printed within it (errors, tables, bars, warnings, logs,
argparse's messages, plain `print`) is escaped here, and only here.
"""

from __future__ import annotations

import codecs
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich import get_console
from rich.console import Console, ConsoleOptions, RenderableType
from rich.file_proxy import FileProxy
from rich.segment import Segment

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CURSOR = re.compile(r"(\r|\n|\x1b\[A)+")  # what progress bars of others write by itself
_NEWS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# how a terminal that knows few signs is shown ours; what is not here is escaped
_PLAIN = str.maketrans({
    "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "÷": "/", "±": "+-", "≤": "<=", "≥": ">=", "→": "->",
    "∞": "inf", "·": "-", "⊙": "*", "‘": "'", "’": "'", "“": '"', "”": '"', "²": "2", "⁵": "5", "⁶": "6", "σ": "sigma",
    "γ": "gamma", "δ": "delta", "ρ": "rho", "┃": "|", "│": "|", "━": "-", "─": "-", "╸": "-", "╺": "-", "█": "#",
})  # fmt: skip
_ABSOLUTE = re.compile(r"(?:^|[\s='\"(])(?:/\S|[A-Za-z]:\\)")  # where a path begins at the root
_LONG_PATH = 200  # letters of a path in a message
_HINTS = {  # what to do about what the system says
    errno.EACCES: "; give a place that you may read and write, or ask for the right to",
    errno.ENAMETOOLONG: "; give a shorter name: most disks take 255 bytes",
    errno.ENOSPC: "; make room on the disk, and start again",
    errno.EROFS: "; give a place that can be written",
}
_HELP = ("-h", "--help", "--print_config")
_PRINT = ("runs",)  # commands that leave nothing but what they print


def printable(text: object, keep: str = "") -> str:
    r"""Escape what a terminal cannot show or would obey.

    That is: control characters and escape sequences, marks that turn the direction of writing, bytes of a file's name
    that are no UTF-8 (surrogates), invisible signs and line ends.

    Args:
        text: anything; its `str` is taken.
        keep: characters to leave as they are, such as line ends.

    Returns:
        The text, what is escaped as Python writes it: `\x1b`, `\u202e`, `\udcff`.
    """
    words = str(text)
    if words.isprintable():
        return words
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in words
    )


def one_line(text: object) -> str:
    """Make a message one printable line: a line end becomes a space, the rest is escaped by `printable`.

    Args:
        text: anything; its `str` is taken.
    """
    return printable(_NEWS.sub(" ", str(text).strip()))


def as_called(text: str) -> str:
    """Return a text with our commands as this process was called: `faceveil fit` where the installed program runs.

    Args:
        text: a message or a help, which says `python main.py fit`, as from a checkout.
    """
    if os.path.basename(sys.argv[0]).removesuffix(".exe") != "faceveil":
        return text
    return text.replace("python main.py", "faceveil").replace("usage: main.py", "usage: faceveil")


class SafeStream:
    """A text stream that escapes what is written to it, shows what its encoding can, and never fails.

    A sign that the encoding lacks is replaced. Where writing fails (a full disk, a closed pipe, a terminal that has
    gone), nothing more is written. What rich writes passes as it is: its content is escaped in
    `SafeConsole`. Of other programs' colours a terminal is shown none.

    Args:
        stream: where to; its other attributes are this one's as well.
        tell: is told once, in a line, where writing fails, unless the reader of a pipe has simply gone.

    Attributes:
        stream: as given.
        over: nothing more is written.
        failed: nothing more is written, and not because the reader of a pipe has gone.
    """

    def __init__(self, stream: TextIO, tell: Callable[[str], object] | None = None) -> None:
        self.stream = stream
        self.over = self.failed = False
        self._tell = tell
        self._rich = _RichFile(self)

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # not there yet, while it is copied
            raise AttributeError(name)
        return getattr(self.stream, name)

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        try:
            return self.stream.isatty()
        except ValueError:  # closed
            return False

    @property
    def rich_proxied_file(self) -> _RichFile:
        """Where rich's consoles write, as `rich.file_proxy` has it."""
        return self._rich

    def write(self, text: str) -> int:
        """Write a text, escaped.

        Args:
            text: anything.

        Returns:
            Its length, whatever has become of it.
        """
        self.put(text if self._is_for_rich() else self._escaped(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, escaped."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or note that nothing can be written any more."""
        if not self.over:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def put(self, text: str) -> None:
        """Write a text as it is, as far as the encoding and the system let.

        Args:
            text: escaped already.
        """
        if self.over:
            return
        try:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self.stream.write(_encodable(text, getattr(self.stream, "encoding", None) or "ascii"))
        except (OSError, ValueError) as error:
            self._lose(error)
        except RuntimeError as error:  # a signal's handler prints while something is being printed
            if "reentrant" not in str(error):
                raise

    def _is_for_rich(self) -> bool:
        """Return whether a live display stands between `print` and this: then what comes is rich's."""
        proxies: list[Any] = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, FileProxy)]
        return any(proxy.rich_proxied_file is self for proxy in proxies)

    def _escaped(self, text: str) -> str:
        if text.isprintable():
            return text
        start = ""
        if "\x1b" in text or "\r" in text:
            if self.isatty():
                if _CURSOR.fullmatch(text):
                    return text
                text = _COLOUR.sub("", text)
                start = "\r" if text.startswith("\r") else ""  # as a bar begins its line anew
            text = text[len(start) :].replace("\r\n", "\n")
        return start + printable(text, keep="\n\t")

    def _lose(self, error: Exception) -> None:
        if isinstance(error, BlockingIOError):  # a pipe that does not wait is full: later text may find room
            return
        self.over = True
        _let_go(self.stream)
        gone = isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN)
        self.failed = not gone
        if self._tell is not None and self.failed:
            why = getattr(error, "strerror", None) or error
            self._tell(f"note: what is printed cannot be written any more ({why}); the work goes on\n")


class _RichFile:
    """The face of a `SafeStream` that rich writes to."""

    def __init__(self, safe: SafeStream) -> None:
        self._safe = safe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._safe, name)

    def write(self, text: str) -> int:
        self._safe.put(text)
        return len(text)


class SafeConsole(Console):
    """A console of rich that escapes all content; the sequences on a terminal are its own alone."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, escaped; see `rich.console.Console.render`."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)


class _Record(logging.LogRecord):
    """A log record whose message is escaped; line ends of its own stay, those in names do not."""

    def getMessage(self) -> str:
        args = self.args
        if isinstance(args, tuple):
            # blanks at the ends stay: a message may be put together of parts
            args = tuple(
                printable(_NEWS.sub(" ", str(x))) if isinstance(x, str | os.PathLike | BaseException) else x
                for x in args
            )
        return printable(str(self.msg) % args if args else self.msg, keep="\n\t")


@contextmanager
def safe_output(lasting: bool = False) -> Iterator[None]:
    """Let nothing that is printed end what is done, or take command of the terminal.

    Standard output and error become `SafeStream`s, rich's console a `SafeConsole`, and log messages are escaped.
    Within another `safe_output` it does nothing.

    Args:
        lasting: leave all as it is at the end, for tracebacks and whatever else is printed until the process ends.
    """
    before = sys.stdout, sys.stderr
    # a FileProxy is a live display's, which writes to what was there before it
    if all(isinstance(stream, SafeStream | FileProxy) for stream in before):
        yield
        return
    records = logging.getLogRecordFactory()
    error = _wrapped(2, sys.stderr)
    output = _wrapped(1, sys.stdout, error.write)
    sys.stdout, sys.stderr = output, error
    get_console().__class__ = SafeConsole  # `rich.reconfigure` replaces all else in it
    logging.setLogRecordFactory(_Record)
    try:
        yield
    finally:
        for stream in (output, error):
            stream.flush()
        if not lasting:
            sys.stdout, sys.stderr = before
            logging.setLogRecordFactory(records)


def check_shown(args: Sequence[str]) -> None:
    """End with code 1 where a command line asked for nothing but printing and a full disk has taken none of it.

    Args:
        args: the command line, such as `["fit", "--help"]`.

    Raises:
        SystemExit: it did.
    """
    stream = sys.stdout
    names = [word.partition("=")[0] for word in args]
    if args and args[0] not in _PRINT and not any(n in _HELP or n.endswith(".help") for n in names):
        return
    stream.flush()
    if isinstance(stream, SafeStream) and stream.failed:
        sys.exit(1)


def _wrapped(number: int, stream: Any, tell: Callable[[str], object] | None = None) -> Any:
    """Wrap a standard stream; one that was closed before we began (None) writes to nowhere."""
    if isinstance(stream, SafeStream | FileProxy):
        return stream
    if stream is None and _is_open(number):
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if stream is None:
        # a file opened later would get this number, and what libraries print with it
        while (handle := os.open(os.devnull, os.O_WRONLY)) < number:
            continue
        if handle != number:
            os.dup2(handle, number)
        stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    return SafeStream(stream, tell)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _let_go(stream: TextIO) -> None:
    """Send the rest of a process's own output nowhere: what its buffer holds is flushed once more when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        if number in (1, 2):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


def _encodable(text: str, encoding: str) -> str:
    """Replace the signs that an encoding lacks."""
    try:
        codecs.lookup(encoding)
    except LookupError:
        encoding = "ascii"
    shown = "".join(c if _can(c, encoding) else c.translate(_PLAIN) for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _can(sign: str, encoding: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeError:
        return False
    return True


def reason(error: BaseException) -> str:
    """Find what went wrong: jsonargparse wraps an error of a class in one about the type it was tried as."""
    while str(error).startswith("Does not validate against any of the Union") and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno is not None and isinstance(error.filename, str | bytes):
        # the system's own: `[Errno 28] No space left on device: 'runs/mine/x'`
        path, hint = os.fsdecode(error.filename), _HINTS.get(error.errno, "")
        return f"{path if len(path) <= _LONG_PATH else path[:_LONG_PATH] + '…'}: {error.strerror}{hint}"
    return str(error)


def searched(error: BaseException, folder: str | None = None) -> str:
    """Return what went wrong, and of a relative path that is not there in which folder it was looked for.

    Args:
        error: where it, or what it was raised from, is a FileNotFoundError, its message may name a path.
        folder: where relative paths begin; by default the working directory.
    """
    words, cause = reason(error), error
    while not isinstance(cause, FileNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__
    here = os.getcwd() if folder is None else folder
    if not isinstance(cause, FileNotFoundError) or here in words or _ABSOLUTE.search(words):
        return words
    return f"{words} (looked in {here})"


def counted(count: int, noun: str) -> str:
    """Write a number with its noun, in the plural where there are more or none.

    Args:
        count: how many.
        noun: in the singular.

    Example:
        >>> counted(1, "shard"), counted(1200, "identity")
        ('1 shard', '1200 identities')
    """
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"
