"""Wrong flags are refused in one line that says how to fix them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kimi_k2_serving.launch import cli
from kimi_k2_serving.launch.layout import checkout
from kimi_k2_serving.launch.refusal import Refusal


def refused(*argv: str) -> str:
    with pytest.raises(Refusal) as caught:
        cli.parse_options(argv)
    return str(caught.value)


def test_the_defaults_are_the_documented_ones() -> None:
    options = cli.parse_options([])
    assert (options.host, options.grace, options.checkpoint, options.frontend) == ("127.0.0.1", 5, None, True)
    triton = {"--http-port": 8000, "--grpc-port": 8001, "--metrics-port": 8002}
    assert options.ports == {**triton, "--frontend-port": 9000}
    assert cli.parse_options(["--no-frontend"]).ports == triton


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--http-port", "0"], "'0' is not a port"),
        (["--http-port", "65536"], "'65536' is not a port"),
        (["--grace", "-1"], "not a whole number of seconds"),
        (["--host", "example.org"], "not an IPv4 address"),
        (["--host", "::1"], "not an IPv4 address"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--http-port", "8001"], "--grpc-port 8001; --http-port is the same port"),
    ],
)
def test_a_wrong_flag_is_named(argv: list[str], says: str) -> None:
    message = refused(*argv)
    assert says in message
    assert message.startswith("serve: ")
    assert message.count("\n") == 0


def test_the_frontend_port_collides_only_if_there_is_a_frontend() -> None:
    assert "--frontend-port" in refused("--frontend-port", "8000")
    assert cli.parse_options(["--frontend-port", "8000", "--no-frontend"]).frontend_port == 8000


def test_an_address_that_other_machines_reach_needs_keys_or_insecure(tmp_path: Path) -> None:
    assert "no authentication" in refused("--host", "0.0.0.0")
    assert not cli.parse_options(["--host", "0.0.0.0", "--insecure"]).loopback
    assert not cli.parse_options(["--host", "10.0.0.1", "--api-key-file", str(tmp_path / "keys")]).loopback


def test_an_api_key_file_opens_only_the_frontend(tmp_path: Path) -> None:
    guarded = ["--host", "10.0.0.1", "--api-key-file", str(tmp_path / "keys")]
    found = cli.parse_options(guarded)
    assert {found.host_of(flag) for flag in found.ports if flag != "--frontend-port"} == {"127.0.0.1"}
    assert found.host_of("--frontend-port") == "10.0.0.1"
    assert cli.parse_options([*guarded, "--insecure"]).triton_host == "10.0.0.1"
    for own in ("127.8.0.1", "127.0.0.1"):
        assert cli.parse_options(["--host", own]).triton_host == own


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost"])
def test_a_loopback_address_needs_no_keys(host: str) -> None:
    assert cli.parse_options(["--host", host]).loopback


def test_the_script_refuses_with_exit_code_2_before_it_installs_anything() -> None:
    script = checkout().root / "scripts" / "serve"
    done = subprocess.run([script, "--checkpoint", "/no/such/directory"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "serve: --checkpoint /no/such/directory; no such directory; give the directory of a Kimi K2 checkpoint\n"
    )
    assert done.stdout == ""
