"""VISDOM_HOST and so on: good values are taken, bad ones never stop a run that can do without a server."""

import pytest
from helpers import write_idx_folder

from mlp_workload import dashboard
from mlp_workload.errors import UserError
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.visdom.server import VisdomServer

NAMES = ("HOST", "PORT", "BASE_URL", "USERNAME", "PASSWORD")
KUBERNETES = {"PORT": "tcp://10.96.12.7:9000"}


@pytest.fixture
def environment(monkeypatch):
    def set_to(values):
        for name in NAMES:
            monkeypatch.delenv(f"VISDOM_{name}", raising=False)
        for name, value in values.items():
            monkeypatch.setenv(f"VISDOM_{name}", value)

    set_to({})
    return set_to


@pytest.mark.parametrize(
    ("variables", "flags", "expected"),
    [
        ({}, {}, ("localhost", 8097, "/", None, None)),
        ({"HOST": "there", "PORT": "0080", "BASE_URL": "/a/"}, {}, ("there", 80, "/a", None, None)),
        (dict.fromkeys(NAMES, ""), {}, ("localhost", 8097, "/", None, None)),
        ({"USERNAME": "ada", "PASSWORD": "日本"}, {}, ("localhost", 8097, "/", "ada", "日本")),
        ({"USERNAME": "ada"}, {"password": "x"}, ("localhost", 8097, "/", "ada", "x")),
        (KUBERNETES, {}, ("10.96.12.7", 9000, "/", None, None)),
        ({"PORT": "tcp://[fd00::7]:9000"}, {}, ("fd00::7", 9000, "/", None, None)),
        (KUBERNETES, {"port": 5}, ("localhost", 5, "/", None, None)),
        (KUBERNETES, {"host": "there"}, ("there", 8097, "/", None, None)),
        (KUBERNETES | {"HOST": "there"}, {}, ("there", 8097, "/", None, None)),
    ],
)
def test_values_that_are_taken(variables, flags, expected, environment):
    environment(variables)
    server = OutputOptions(visdom="required", **{f"visdom_{name}": value for name, value in flags.items()}).server
    assert (server.host, server.port, server.base_url, server.username, server.password) == expected
    assert server.ignored == ()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"HOST": "http://there"}, "VISDOM_HOST must be a name or an address, got 'http://there'"),
        ({"HOST": "\x1b[2J"}, r"VISDOM_HOST must be a name or an address, got '\x1b[2J'"),
        ({"PORT": "http"}, "VISDOM_PORT must be from 1 to 65535, got 'http'"),
        ({"PORT": "0"}, "VISDOM_PORT must be from 1 to 65535, got '0'"),
        ({"PORT": "65536"}, "VISDOM_PORT must be from 1 to 65535, got '65536'"),
        ({"PORT": "-1"}, "VISDOM_PORT must be from 1 to 65535, got '-1'"),
        ({"PORT": "9" * 5000}, "VISDOM_PORT must be from 1 to 65535, got '999"),
        ({"PORT": "tcp://10.96.12.7:99999"}, "VISDOM_PORT must be from 1 to 65535, got '99999'"),
        ({"PORT": "udp://10.96.12.7:8097"}, "VISDOM_PORT must be from 1 to 65535, got 'udp"),
        ({"BASE_URL": "curves"}, "VISDOM_BASE_URL must be a path of ASCII characters that starts with a slash, got '"),
        ({"BASE_URL": "/a b"}, "VISDOM_BASE_URL must be a path of ASCII characters that starts with a slash, got '"),
        ({"USERNAME": "\udcff", "PASSWORD": "x"}, "VISDOM_USERNAME must be text, got "),
        ({"USERNAME": "ada", "PASSWORD": "\udcff"}, "VISDOM_PASSWORD must be text"),
        ({"USERNAME": "ada"}, "VISDOM_USERNAME needs VISDOM_PASSWORD"),
    ],
)
def test_bad_values_are_ignored_with_a_line(variables, reason, environment):
    environment(variables)
    server = OutputOptions(visdom="auto").server
    assert server.ignored[0].startswith(reason)
    assert (server.port, server.base_url, server.username) == (8097, "/", None)
    with pytest.raises(UserError) as error:
        OutputOptions(visdom="required")
    assert str(error.value).startswith(reason)


def test_a_run_trains_whatever_the_environment_says(run, digits, tmp_path):
    variables = {"VISDOM_PORT": "http", "VISDOM_HOST": "a/b", "VISDOM_BASE_URL": "x"}
    flags = ["--dataset", write_idx_folder(tmp_path, digits), "--epochs", "1", "--batch-size", "20", "--hidden", "16",
             "--run-dir", "run"]  # fmt: skip
    process = run("reference_torch.train", *flags, env=variables)
    assert process.returncode == 0
    lines = [line for line in process.stderr.splitlines() if "VISDOM_" in line]
    assert len(lines) == 3
    assert all(line.startswith("warning: VISDOM_") and line.endswith("; it is ignored") for line in lines)


@pytest.mark.parametrize("port", ["tcp://10.96.12.7:8097", "http"])
def test_the_dashboard_begins_whatever_the_port(port, environment, tmp_path, monkeypatch, capsys):
    environment({"PORT": port})
    begun = []
    monkeypatch.setattr(dashboard, "serve", lambda server, *_: begun.append(server.address))
    dashboard.run(dashboard.Dashboard(env_path=tmp_path))
    assert begun == ["http://localhost:8097"]
    warning = "warning: VISDOM_PORT must be from 1 to 65535, got 'http'; it is ignored\n"
    assert capsys.readouterr().err == (warning if port == "http" else "")


def test_the_dashboard_never_begins_without_the_login_that_was_asked_for(environment, tmp_path):
    environment({"USERNAME": "ada"})
    with pytest.raises(UserError, match="VISDOM_USERNAME needs VISDOM_PASSWORD"):
        dashboard.run(dashboard.Dashboard(env_path=tmp_path))


def test_a_password_is_in_no_message():
    secret = "byron\udcff"
    with pytest.raises(UserError) as error:
        VisdomServer.from_flags(OutputOptions(visdom="off", visdom_username="ada", visdom_password=secret), "visdom_")
    assert "byron" not in str(error.value)
    assert "byron" not in repr(VisdomServer(password=secret))
