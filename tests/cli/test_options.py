"""Where an option's value comes from: command line, environment, file, default. And what is refused."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tests.cli.command import portico_command, serving

import portico
from portico.cli import main
from portico.cli.parameters import EVERY, LIMITS
from portico.cli.serve import command, server_options

ROOT = pathlib.Path(portico.__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory without a file, and without the variables of whoever runs this."""
    monkeypatch.chdir(tmp_path)
    for name in ("PORTICO_HOST", "PORTICO_PORT", "PORTICO_CONFIG", "PORTICO_APP_DIR", "PORTICO_TARGET"):
        monkeypatch.delenv(name, raising=False)


def parsed(*arguments: str) -> dict[str, Any]:
    """The values that the command would be called with."""
    with command.make_context("serve", list(arguments)) as context:
        return context.params


def refused(*arguments: str) -> str:
    """What is said of wrong ones."""
    with pytest.raises(click.UsageError) as raised:
        parsed(*arguments)
    return raised.value.format_message()


def options() -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


class TestPrecedence:
    def test_command_line_then_environment_then_file_then_default(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert parsed("a:b")["port"] == 8000
        (tmp_path / "pyproject.toml").write_text("[tool.portico]\nport = 8001\n")
        assert parsed("a:b")["port"] == 8001
        monkeypatch.setenv("PORTICO_PORT", "8002")
        assert parsed("a:b")["port"] == 8002
        assert parsed("a:b", "--port", "8003")["port"] == 8003

    async def test_it_is_so_for_the_whole_command(self, folder: pathlib.Path) -> None:
        (folder / "pyproject.toml").write_text('[tool.portico]\ntarget = "shop:app"\nport = 1\nlog-level = "error"\n')
        async with serving(folder, "serve", env={"PORTICO_PORT": "0", "PORTICO_LOG_FORMAT": "text"}) as running:
            assert running.line.startswith("Portico listens on http://127.0.0.1:")
            assert running.port != 1


class TestEnvironment:
    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("HOST", "127.0.0.1 ::1", ("127.0.0.1", "::1")),
            ("UDS", "/run/a.sock", "/run/a.sock"),
            ("UDS_MODE", "660", 0o660),
            ("DRAIN_SECONDS", "2.5", 2.5),
            ("MAX_CONNECTIONS", "100", 100),
            ("ACCESS_LOG", "0", False),
            ("ACCESS_LOG", "true", True),
            ("PING", "no", False),
            ("ORIGIN", "https://a.example https://b.example", ("https://a.example", "https://b.example")),
        ],
    )
    def test_every_kind_of_option_may_be_there(
        self, monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
    ) -> None:
        monkeypatch.setenv(f"PORTICO_{name}", text)
        assert parsed("a:b")[name.lower()] == value

    def test_the_target_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORTICO_TARGET", "shop:app")
        assert parsed()["target"] == "shop:app"

    def test_a_wrong_value_is_refused_with_its_option(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORTICO_PORT", "many")
        assert "'--port': 'many' is not a valid integer" in refused("a:b")

    def test_what_kubernetes_sets_for_a_service_is_no_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A service called "portico" gives every pod a PORTICO_PORT, unless enableServiceLinks is false."""
        monkeypatch.setenv("PORTICO_PORT", "tcp://10.0.0.7:8000")
        assert parsed("a:b")["port"] == 8000


class TestFile:
    def written(self, text: str, name: str = "portico.toml") -> str:
        path = pathlib.Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return name

    def test_every_kind_of_value_may_be_there(self) -> None:
        file = self.written('host = ["::1"]\nport = 1\ndrain-seconds = 2\nreload = true\nlog_level = "debug"\n')
        values = parsed("a:b", "--config", file)
        found = [values[name] for name in ("host", "port", "drain_seconds", "reload", "log_level")]
        assert found == [("::1",), 1, 2.0, True, "debug"]

    def test_in_a_pyproject_it_is_a_table_of_its_own(self) -> None:
        file = self.written('[project]\nname = "shop"\n[tool.portico]\nport = 1\n', "sub/pyproject.toml")
        assert parsed("a:b", "--config", file)["port"] == 1
        assert parsed("a:b", "--app-dir", "sub")["port"] == 1
        assert parsed("a:b")["port"] == 8000

    def test_a_pyproject_without_it_says_nothing(self) -> None:
        self.written('[project]\nname = "shop"\n', "pyproject.toml")
        assert parsed("a:b")["port"] == 8000

    def test_a_path_in_it_is_relative_to_it(self) -> None:
        self.written("", "sub/cert.pem")
        file = self.written('tls-cert = ["cert.pem"]\nuds = "a.sock"\n', "sub/portico.toml")
        values = parsed("a:b", "--config", file)
        assert (values["tls_cert"], values["uds"]) == (("sub/cert.pem",), "sub/a.sock")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("prot = 1", "unknown key 'prot' (did you mean 'port'?): expected one of access-log, assembly"),
            ("workers-of-the-world = 1", "unknown key 'workers-of-the-world': expected one of access-log"),
            ('app-dir = "x"', "unknown key 'app-dir'"),
            ('config = "x"', "unknown key 'config'"),
            ("[limits]\nport = 1", "unknown key 'limits'"),
            ("log-level = 'info'\nlog_level = 'info'", "'log_level' is there twice"),
            ("port = true", "port = True: expected a whole number"),
            ("port = '1'", "port = '1': expected a whole number"),
            ("port = 1.5", "port = 1.5: expected a whole number"),
            ("drain-seconds = 'long'", "drain-seconds = 'long': expected a number"),
            ("reload = 1", "reload = 1: expected true or false"),
            ("uds = 1", "uds = 1: expected a string"),
            ("host = [1]", "host = [1]: expected a list, of which each is a string"),
            ("port = ", "portico.toml: Invalid value"),
        ],
    )
    def test_what_is_wrong_in_it_is_named(self, text: str, words: str) -> None:
        assert words in refused("a:b", "--config", self.written(text))

    def test_a_wrong_value_is_refused_as_on_the_command_line(self) -> None:
        assert "70000 is not in the range" in refused("a:b", "--config", self.written("port = 70000"))
        assert "'loud' is not one of" in refused("a:b", "--config", self.written("log-level = 'loud'"))

    def test_one_that_is_not_there_is_refused(self) -> None:
        assert "--config none.toml: no such file" in refused("a:b", "--config", "none.toml")

    def test_a_table_that_is_none_is_refused(self) -> None:
        file = self.written('[tool]\nportico = "shop:app"', "pyproject.toml")
        assert "[tool.portico] in pyproject.toml: expected a table" in refused("a:b", "--config", file)

    def test_help_needs_none(self) -> None:
        self.written("nonsense", "pyproject.toml")
        assert CliRunner().invoke(main, ["serve", "--help"]).exit_code == 0


class TestWhatTheyMean:
    def test_each_limit_has_an_option_with_its_default(self) -> None:
        assert sorted(LIMITS.values()) == sorted(portico.Limits.__dataclass_fields__)
        assert server_options(parsed("a:b"))["limits"] == portico.Limits()

    @pytest.mark.parametrize(("name", "field"), LIMITS.items())
    def test_each_limit_reaches_the_server(self, name: str, field: str) -> None:
        value = getattr(portico.Limits(), field) + (1 if field != "high_water_bytes" else -1)
        given = parsed("a:b", f"--{name.replace('_', '-')}", str(value))
        assert getattr(server_options(given)["limits"], field) == value

    def test_defaults_are_those_of_serve(self) -> None:
        found = server_options(parsed("a:b"))
        assert (found["keepalive"], found["deflate"]) == (portico.Keepalive(), portico.Deflate())
        assert (found["ssl"], found["origins"]) == (None, None)

    def test_pings_and_compression_may_be_left_out(self) -> None:
        found = server_options(parsed("a:b", "--no-ping", "--no-deflate"))
        assert (found["keepalive"], found["deflate"]) == (None, None)

    @pytest.mark.parametrize(
        ("arguments", "on"),
        [
            ([], True),
            (["--no-access-log"], False),
            (["--log-level", "warning"], False),
            (["--log-level", "debug"], True),
        ],
    )
    def test_the_access_log_is_on_unless_less_is_wanted(self, arguments: list[str], on: bool) -> None:
        assert bool(server_options(parsed("a:b", *arguments))["access_log"]) == on


class TestHelp:
    def test_each_option_is_there_with_its_default(self) -> None:
        text = CliRunner().invoke(main, ["serve", "--help"], terminal_width=100).output
        for option in options():
            assert option.opts[0] in text
            said = re.search(rf"^  {option.opts[0]} .*?(?=\n  --|\n\n)", text, re.DOTALL | re.MULTILINE)
            assert said is not None
            if isinstance(option.default, (bool, int, float, str)):
                assert "[default:" in " ".join(said[0].split()), option.opts[0]

    @pytest.mark.parametrize("arguments", [["--help"], ["serve", "-h"], ["demo", "--help"], ["connect", "--help"]])
    def test_it_fits_a_terminal(self, arguments: list[str]) -> None:
        done = portico_command(*arguments, COLUMNS="100")
        assert done.returncode == 0
        assert max(map(len, done.stdout.splitlines())) <= 100

    def test_the_document_has_each_option_with_its_default(self) -> None:
        text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
        for option in options():
            row = re.search(rf"^\| `{re.escape(option.opts[0])}`.*\|$", text, re.MULTILINE)
            assert row is not None, f"docs/operating.md has no row for {option.opts[0]}"
            if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
                assert f"| {option.default:,.12g} |" in row[0].replace(" s |", " |").replace(" B |", " |"), row[0]

    def test_the_list_is_whole(self) -> None:
        assert len(EVERY) == len(options())
