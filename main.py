"""FaceVeil's command line: `python main.py fit --config demo.yaml`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_app.commands import run
from lightning_app.core.printing import as_called, check_shown, one_line, safe_output, searched
from lightning_app.distributed.parent import end_with_caller


def main(args: list[str] | None = None) -> None:
    """Run a FaceVeil command.

    Args:
        args: the command line without the program's name; `sys.argv[1:]` by default.

    Raises:
        SystemExit: with a one-line message on stderr and a code other than 0 where the user can mend it;
            FACEVEIL_TRACEBACK=1 shows where it arose instead.
    """
    end_with_caller()
    given = sys.argv[1:] if args is None else args
    with safe_output(lasting=args is None):
        try:
            _main(given)
        finally:
            check_shown(given)


def _main(args: list[str]) -> None:
    try:
        with _ending_well():
            run(args)
    except (ValueError, OSError) as error:
        if os.environ.get("FACEVEIL_TRACEBACK"):
            raise
        print(f"error: {as_called(one_line(searched(error)))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@contextmanager
def _ending_well() -> Iterator[None]:
    """Make a SIGTERM leave by every `finally`, as Ctrl-C does; `fit` stands in its own handlers while it trains."""

    def leave(number: int, frame: object) -> None:
        print("stopped by SIGTERM", file=sys.stderr)
        sys.exit(128 + number)

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) == leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
