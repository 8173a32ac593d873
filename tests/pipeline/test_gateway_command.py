"""The options of the request log, and the messages of `gateway`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.request_log_options import RequestLogOptions
from serving.request_log.options import Content, LogOptions, Rotation

TARGET = ("--target", "127.0.0.1:1")


def test_without_a_prefix_there_is_no_log():
    assert RequestLogOptions().log_options() == LogOptions()


def test_options_of_a_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = RequestLogOptions(
        request_log=Path("logs/digits"),
        request_log_sampling_rate=0.5,
        request_log_content=Content.RESPONSE,
        request_log_file_mb=2,
        request_log_file_s=60.0,
        request_log_keep_days=1.0,
        request_log_keep_gb=0.5,
    )
    rotation = Rotation(2 * 2**20, 60.0, 86400.0, 2**29)
    assert options.log_options() == LogOptions(f"{tmp_path}/logs/digits", 0.5, Content.RESPONSE, rotation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TARGET, "--request-log PREFIX"),
        (("--target", "http://a:1", "--request-log", "x"), "HOST:PORT of gRPC"),
        ((*TARGET, "--request-log", "x", "--rest-target", "127.0.0.1:1"), "is not a URL"),
        ((*TARGET, "--request-log", "x", "--mirror-version", "1"), "require --mirror"),
        (
            (*TARGET, "--request-log", "x", "--mirror", "a:1", "--mirror-version", "1", "--mirror-label", "b"),
            "not both",
        ),
    ],
)
def test_options_that_do_not_fit_together(arguments, message):
    done = CliRunner().invoke(app, ["gateway", *arguments])
    assert done.exit_code == 2 and message in done.stderr.replace("\n", " ")


def test_serve_takes_the_same_options(tmp_path):
    done = CliRunner().invoke(
        app, ["serve", "--model-base-path", str(tmp_path / "x"), "--request-log-content", "pixels"]
    )
    assert done.exit_code == 2 and "request-log-content" in done.stderr
