"""Output that cannot be shown ends and spoils no run, and no name takes command of a terminal."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich import get_console
from rich.progress import Progress
from rich.text import Text

from callbacks import results
from lightning_app.core.printing import SafeConsole, SafeStream, one_line, printable, reason, safe_output
from lightning_app.core.progress import progress_bar
from lightning_app.report import print_table
from lightning_app.studies.runner import call
from tests.command_line import RunMain, refused
from tests.small_run import write_small_config

MAIN = Path(__file__).parents[2] / "main.py"
EVIL = "\x1b[2J\x1b]0;owned\x07\u202eevil\udcff"  # clears the screen, names the window, turns the writing, no UTF-8
SHOWN = r"\x1b[2J\x1b]0;owned\x07\u202eevil\udcff"


class Failing(io.StringIO):
    """Takes some writes, then fails."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        super().__init__()
        self.error, self.left = error, after

    def write(self, text: str) -> int:
        if not self.left:
            raise self.error
        self.left -= 1
        return super().write(text)


class Narrow(io.StringIO):
    """An ASCII terminal."""

    encoding = "ascii"

    def write(self, text: str) -> int:
        text.encode("ascii")
        return super().write(text)


class Terminal(io.StringIO):
    """A terminal that keeps what it is told."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


FAILURES: list[Exception] = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ValueError("I/O operation on closed file."),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Zoë, 山田 – ½", "Zoë, 山田 – ½"),
        (EVIL, SHOWN),
        ("a\nerror: b\r\tc", r"a\nerror: b\r\tc"),
        ("\x7f\x9b31m\u200b\u2066\ufeff", r"\x7f\x9b31m\u200b\u2066\ufeff"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(expected) == expected
    assert printable("a\nb", keep="\n") == "a\nb"


def test_a_message_is_one_line() -> None:
    assert one_line(ValueError("a \n  b\u2028c\r\nd\x1b ")) == r"a b c d\x1b"


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: getattr(e, "strerror", None) or "closed")
def test_a_stream_that_fails_is_noted_once(error: Exception) -> None:
    told: list[str] = []
    stream = SafeStream(Failing(error, after=1), told.append)
    assert stream.write("one") == 3
    for _ in range(3):
        assert stream.write("two\n") == 4
        stream.flush()
    assert stream.stream.getvalue() == "one"  # type: ignore[attr-defined]
    assert stream.over
    if isinstance(error, BrokenPipeError):  # `| head` has seen enough
        assert not told
    else:
        assert len(told) == 1
        assert str(getattr(error, "strerror", None) or error) in told[0]
        assert "goes on" in told[0]


def test_an_encoding_that_lacks_a_sign_shows_another() -> None:
    narrow = Narrow()
    SafeStream(narrow).write("0.5 ± 0.1 … 112×112 → Zoë\n")
    assert narrow.getvalue() == "0.5 +- 0.1 ... 112x112 -> Zo\\xeb\n"


def test_a_pipe_that_is_full_for_a_moment_is_not_given_up() -> None:
    slow = Failing(BlockingIOError(errno.EAGAIN, "try again"))
    stream = SafeStream(slow)
    stream.write("lost")
    slow.left = 1
    stream.write("shown")
    assert slow.getvalue() == "shown"


def test_every_way_to_print_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    ours = logging.getLogger("faceveil.test_printing")
    handler = logging.StreamHandler(sys.stderr)
    ours.addHandler(handler)
    try:
        with safe_output():
            print("print", EVIL)
            print("error:", EVIL, file=sys.stderr)
            sys.stdout.writelines(["lines ", EVIL, "\n"])
            sys.stderr.write(warnings.formatwarning(EVIL, UserWarning, "file.py", 1))  # as `warn` does
            ours.warning("log %s", f"{EVIL}\nerror: forged")
            ours.warning("%s", Path(EVIL))
            print_table(EVIL, [[EVIL, 1.0]], [EVIL, "value"])
            get_console().print(Text(EVIL))
            with progress_bar() as bar:
                bar.add_task(f"[/red]{EVIL}", total=1)
    finally:
        ours.removeHandler(handler)
    shown = "".join(capsys.readouterr())
    for sign in "\x1b\x07\u202e\udcff":
        assert sign not in shown
    assert shown.replace("\n", "").count(r"\x1b[2J") >= 9
    assert "\nerror: forged" not in shown


def test_a_terminal_obeys_rich_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with safe_output():
        print("\x1b[31mred\x1b[0m", EVIL)
        print(f"\r{EVIL}\rback")
        console = SafeConsole()
        console.print(Text(EVIL, style="bold"))
        with Progress(console=console, auto_refresh=False) as bar:
            bar.add_task(Text(EVIL).plain, total=2)
            print("within", EVIL)
            bar.refresh()
    shown = terminal.getvalue()
    assert "red" in shown
    assert "\x1b[31m" not in shown  # a colour of somebody else's
    assert "\x1b[1m" in shown  # bold, of rich's
    assert "\x1b[?25l" in shown  # the bar hides the cursor
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert r"\rback" in shown


def test_output_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout, sys.stderr, logging.getLogRecordFactory()
    with safe_output():
        inner = sys.stdout
        with safe_output():
            assert sys.stdout is inner
        assert sys.stdout is inner
    assert (sys.stdout, sys.stderr, logging.getLogRecordFactory()) == before


def test_a_log_message_put_together_of_parts_keeps_its_blanks(caplog: pytest.LogCaptureFixture) -> None:
    with safe_output():
        logging.getLogger("faceveil").warning(
            "round %d: %s%d owners%s", 1, "lfw/accuracy 0.7, ", 3, " of\n\x1b4"
        )
    assert caplog.messages == ["round 1: lfw/accuracy 0.7, 3 owners of \\x1b4"]


@pytest.mark.parametrize("stream", [*(Failing(error, after=2) for error in FAILURES[::2]), Narrow()])
def test_a_fit_whose_output_cannot_be_shown_keeps_everything(
    stream: io.StringIO, run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_small_config(tmp_path, epochs=1)
    monkeypatch.setattr(sys, "stdout", stream)
    run_main("fit", "--config", config)
    assert (tmp_path / "runs/small/metrics.json").is_file()
    assert (tmp_path / "runs/small/checkpoints/last.ckpt").is_file()
    if isinstance(stream, Narrow):
        assert "training accuracy" in stream.getvalue()


def test_figures_are_saved_before_they_are_shown(
    run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []

    def look(*args: Any, **kwargs: Any) -> None:
        there.append((tmp_path / "runs/small/metrics.json").is_file())

    monkeypatch.setattr(results, "print_table", look)
    run_main("fit", "--config", write_small_config(tmp_path, epochs=1))
    assert there == [True]


def test_what_cannot_be_shown_by_a_command_that_only_shows_is_a_failure(
    run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(FAILURES[0]))
    Path("runs").mkdir()
    for args in ([], ["draw-mask", "--help"], ["runs"], ["runs", "--json"]):
        with pytest.raises(SystemExit) as stop:
            run_main(*args)
        assert stop.value.code == 1
    monkeypatch.setattr(sys, "stdout", Failing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    run_main()


def test_names_do_not_command_the_terminal(
    run_main: RunMain, tmp_path: Path, drawn_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tmp_path / "faces"
    for person in ("\x1b[31mA", "B\u202e\nerror: forged"):
        (faces / person).mkdir(parents=True)
        for number in range(60):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(faces / person / f"{number}.png")
    (faces / "\x1b[31mA" / "bad\x1b[2J.png").write_bytes(b"no picture")
    config = write_small_config(tmp_path, epochs=1)
    reader = "--data.init_args.reader"
    read = [reader, "datamodules.FolderFaces", f"{reader}.root", faces, f"{reader}.size", 16]
    run_main("fit", "--config", config, *read)
    shown = capsys.readouterr()
    said = "".join(shown)
    assert r"bad\x1b[2J.png" in said.replace("\n", "").replace(" ", "")
    (faces / "\x1b[31mA" / "worse\x1b[2J.png").write_bytes(b"no picture")
    (faces / "\x1b[31mA" / "worst\x1b[2J\n.png").write_bytes(b"no picture")
    line = refused(capsys, lambda: run_main("fit", "--config", config, *read, "--overwrite"))
    assert r"\x1b[2J" in line
    said += line + refused(capsys, lambda: run_main("fit", "--config", "\x1b[2Jno.yaml"))
    said += refused(capsys, lambda: run_main("fit", "--config", config, "--\x1b[2J\u202eno", "1"))
    said += refused(capsys, lambda: run_main("\x1b[2Jno"))
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "\nerror: forged" not in said


def test_a_command_whose_log_cannot_be_written_is_run_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING, "faceveil"):
        assert call(["--help"], tmp_path / "file" / "log.txt", "group")
    assert "log.txt cannot be written" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_a_closed_pipe_and_an_ascii_terminal(tmp_path: Path) -> None:
    config = write_small_config(tmp_path, epochs=1)
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ways: dict[str, dict[str, str]] = {"full": {}, "pipe": {}, "ascii": ascii_only}
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "w") as full, open(tmp_path / "ascii.txt", "w") as text:
        out: dict[str, Any] = {"full": full, "pipe": write, "ascii": text}
        runs = {
            way: subprocess.Popen(
                [sys.executable, str(MAIN), "fit", "--config", str(config), "--name", way],
                cwd=tmp_path, stdout=out[way], stderr=subprocess.PIPE, env=os.environ | more, text=True,
            )
            for way, more in ways.items()
        }  # fmt: skip
        os.close(write)
        said = {way: run.communicate()[1] for way, run in runs.items()}
    for way, run in runs.items():
        assert run.returncode == 0, said[way]
        assert (tmp_path / f"runs/{way}/metrics.json").is_file()
        assert (tmp_path / f"runs/{way}/checkpoints/last.ckpt").is_file()
        assert "Traceback" not in said[way]
        assert said[way].count("cannot be written any more") == (way == "full")
    assert (tmp_path / "ascii.txt").read_text("ascii").count("training accuracy") == 1


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "No space left on device; make room on the disk, and start again"),
        (
            errno.EACCES,
            "Permission denied; give a place that you may read and write, or ask for the right to",
        ),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_system_says_begins_with_the_path(number: int, hint: str) -> None:
    assert reason(OSError(number, os.strerror(number), "runs/mine/a.png")) == f"runs/mine/a.png: {hint}"
    assert reason(OSError(number, os.strerror(number), b"runs/a")) == f"runs/a: {hint}"
    assert reason(OSError("ours: give another")) == "ours: give another"
    assert reason(OSError(number, os.strerror(number), 3)) == str(OSError(number, os.strerror(number), 3))


def test_a_name_that_is_too_long_is_told_in_one_short_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long") as found:
        (tmp_path / ("a" * 300)).write_text("")
    assert reason(found.value).endswith(
        "a…: File name too long; give a shorter name: most disks take 255 bytes"
    )
    assert len(reason(found.value)) < 300
