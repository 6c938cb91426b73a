"""`python main.py compare`: every method to desensitize, utility against privacy, in one table, picture and page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from jsonargparse import Namespace

from lightning_app.cli.fit_config import make_part
from lightning_app.commands.parser import CommandParser, add_switches, add_trust, command_parser
from lightning_app.core.printing import reason
from lightning_app.evaluation import Judge
from lightning_app.models.known import trusting
from lightning_app.studies.compare import AttackerRun, Linking, Method, compare
from lightning_app.studies.compare.judges import GivenJudge


def build_parser() -> CommandParser:
    """Return the parser of `compare`; its help comes from the docstring of the study."""
    parser = command_parser(compare)
    switches = add_switches(parser, compare, "--show-faces")
    add_trust(parser)
    parser.add_function_arguments(compare, skip=switches | {"command"})
    return parser


def run(args: list[str]) -> None:
    """Run `compare` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "compare.yaml"]`.

    Raises:
        ValueError, OSError: see `lightning_app.studies.compare.compare`.
    """
    parser = build_parser()
    parsed = parser.parse_args(args)
    with trusting(parsed.pop("trust")):
        # apart from the rest: of what cannot be made, jsonargparse would say that it is no `str` either
        judges = {kind: _made(kind, parsed.pop(kind)) for kind in ("judges", "recognisers")}
        values = parser.instantiate(parsed).as_dict() | judges
        values.pop("config", None)
        values["methods"] = {
            k: m if isinstance(m, Method) else Method(**m) for k, m in values["methods"].items()
        }
        if isinstance(values["restorer"], dict):
            values["restorer"] = AttackerRun(**values["restorer"])
        values["attackers"] = {
            k: a if isinstance(a, AttackerRun) else AttackerRun(**a)
            for k, a in (values["attackers"] or {}).items()
        }
        if isinstance(values["linker"], dict):
            values["linker"] = Linking(**values["linker"])
        values["linkers"] = {
            k: one if isinstance(one, Linking) else Linking(**one)
            for k, one in (values["linkers"] or {}).items()
        }
        compare(**values, command=f"python main.py compare {shlex.join(args)}")


def _made(kind: str, given: Mapping[str, str | Namespace] | None) -> dict[str, GivenJudge]:
    """Make the judges that are given by `class_path`; what stands for one stays."""
    return {
        label: one if isinstance(one, str) else _judge(f"{kind}.{label}", one.as_dict())
        for label, one in (given or {}).items()
    }


def _judge(where: str, part: object) -> Judge:
    try:
        made: Judge = make_part("judge", Judge, part)
        return made
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {reason(error)}") from error
