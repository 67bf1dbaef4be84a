"""Options that come from the command line, the environment or a file, in this order; then there are the defaults.

An option ``--some-thing`` is ``PORTICO_SOME_THING`` in the environment and ``some-thing`` in the file. What a file has
that is no option is refused; the environment may hold names that are not ours.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable
from typing import Any, Final

import click

PREFIX: Final = "PORTICO"
PROJECT_FILE: Final = "pyproject.toml"
FILE_LESS: Final = ("config", "app_dir", "help")  # where the file is looked for, no file can say

# Kubernetes sets NAME_PORT=tcp://… for a service called NAME: it is no port, and not meant for us.
_SERVICE_LINK = re.compile(r"[a-z]+://")


class Option(click.Option):
    """An option with the heading that it stands under in the help."""

    def __init__(self, *arguments: Any, section: str = "Options", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.section = section


def option(section: str, *names: str, **keywords: Any) -> Callable[[Any], Any]:
    """`click.option`, under the heading `section`."""
    return click.option(*names, cls=Option, section=section, **keywords)


class Configured(click.Command):
    """A command whose options may come from the environment and from a file, too."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.context_settings = {
            **self.context_settings,
            "auto_envvar_prefix": PREFIX,
            "help_option_names": ["-h", "--help"],
            "max_content_width": 100,
        }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        help_option = self.get_help_option(ctx)
        if help_option is None or not given.get(str(help_option.name)):
            if _SERVICE_LINK.match(os.environ.get(f"{PREFIX}_PORT", "")):
                del os.environ[f"{PREFIX}_PORT"]
            file = given.get("config") or os.environ.get(f"{PREFIX}_CONFIG")
            folder = given.get("app_dir") or os.environ.get(f"{PREFIX}_APP_DIR") or "."
            ctx.default_map = self._from_file(file, folder)
        return super().parse_args(ctx, args)

    def _from_file(self, file: str | None, folder: str) -> dict[str, Any]:
        """The options of `file`, or of the pyproject.toml in `folder`, by parameter name."""
        path = file or os.path.join(folder, PROJECT_FILE)
        try:
            with open(path, "rb") as opened:
                table: Any = tomllib.load(opened)
        except FileNotFoundError:
            if file is None:
                return {}
            raise click.UsageError(f"--config {path}: no such file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise click.UsageError(f"{path}: {error}") from None
        where = path
        if os.path.basename(path) == PROJECT_FILE:
            where = f"[tool.portico] in {path}"
            table = table.get("tool", {}).get("portico", {})
        if not isinstance(table, dict):
            raise click.UsageError(f"{where}: expected a table")
        known = {parameter.name: parameter for parameter in self.params if parameter.name not in FILE_LESS}
        found: dict[str, Any] = {}
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in known:
                raise click.UsageError(f"{where}: {_unknown(key, list(known))}")
            if name in found:
                raise click.UsageError(f"{where}: {key!r} is there twice")
            found[name] = _checked(where, key, known[name], value, os.path.dirname(path))
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, Option) and (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(parameter.section, []).append(record)
        width = min(38, max(len(names) for records in sections.values() for names, _ in records))
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl([(names.ljust(width), text) for names, text in records], col_max=width)


def _unknown(key: str, known: list[str | None]) -> str:
    names = sorted(str(name).replace("_", "-") for name in known)
    near = difflib.get_close_matches(key.replace("_", "-"), names, 1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown key {key!r}{guess}: expected one of {', '.join(names)}"


def _checked(where: str, key: str, parameter: click.Parameter, value: Any, folder: str) -> Any:
    """`value` as the file has it, if it is of the kind; a path in it is relative to the file."""
    kinds: tuple[type, ...] = (str,)
    expected = "a string"
    if isinstance(parameter, click.Option) and parameter.is_flag:
        kinds, expected = (bool,), "true or false"
    elif isinstance(parameter.type, click.types.IntParamType):
        kinds, expected = (int,), "a whole number"
    elif isinstance(parameter.type, click.types.FloatParamType):
        kinds, expected = (int, float), "a number"
    values = value if parameter.multiple and isinstance(value, list) else [value]
    if parameter.multiple:
        expected = f"a list, of which each is {expected}"
    for each in values:
        if not isinstance(each, kinds) or (isinstance(each, bool) and bool not in kinds):
            raise click.UsageError(f"{where}: {key} = {value!r}: expected {expected}")
    if isinstance(parameter.type, click.Path):
        values = [os.path.join(folder, os.path.expanduser(each)) for each in values]
    return values if parameter.multiple else values[0]
