"""FaceVeil's command line: `python main.py fit --config demo.yaml`."""

from __future__ import annotations

import os
import sys

from lightning_app.commands import show_commands


def main(args: list[str] | None = None) -> None:
    """Run a FaceVeil command.

    Args:
        args: the command line without the program's name; `sys.argv[1:]` by default.

    Raises:
        SystemExit: with a one-line message on stderr and a code other than 0 where the user can mend it;
            FACEVEIL_TRACEBACK=1 shows where it arose instead.
    """
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        show_commands()
        return
    from lightning_app.cli import reason, run  # torch takes seconds to import: not before it is needed

    try:
        run(args)
    except (ValueError, OSError) as error:
        if os.environ.get("FACEVEIL_TRACEBACK"):
            raise
        print(f"error: {reason(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
