"""Private API is called only in supported releases; others log one line."""

import importlib.metadata

import pytest

from trainer_module import private_api
from trainer_module.private_api import PrivateApi

API = PrivateApi("components.example.fast", {"numpy": "2.4", "keras": "3.15"}, "the public path")
DECLARED = [api for api in vars(private_api).values() if isinstance(api, PrivateApi)]


@pytest.fixture
def install(monkeypatch):
    def replace(**versions):
        monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)

    return replace


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("versions", [{"numpy": "2.4.0", "keras": "3.15.1"}, {"numpy": "2.4", "keras": "3.15.2.post1"}])
def test_with_supported_releases_it_is_used(install, caplog, versions):
    install(**versions)
    assert private_api.prepare(API, lambda: "prepared") == "prepared"
    assert lines(caplog) == []


@pytest.mark.parametrize("version", ["3.16.0", "3.1.5", "4.15.0", "3.150.0"])
def test_an_unsupported_release_is_logged_in_one_line_and_not_called(install, caplog, version):
    install(numpy="2.4.1", keras=version)
    assert private_api.prepare(API, lambda: pytest.fail("called")) is None
    assert lines(caplog) == [
        f"components.example.fast is not used, the public path runs instead: keras {version} (supported: 3.15)."
    ]


def import_missing_name():
    from json import no_such_name  # noqa: F401


def read_missing_attribute():
    return importlib.metadata.no_such_name


def call_with_unknown_argument():
    return len(length=1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (import_missing_name, "ImportError: cannot import name 'no_such_name'"),
        (read_missing_attribute, "AttributeError: module 'importlib.metadata' has no attribute 'no_such_name'"),
        (call_with_unknown_argument, "TypeError: len() takes no keyword arguments"),
    ],
)
def test_a_name_that_is_missing_or_takes_other_arguments_is_logged_in_one_line(install, caplog, function, reason):
    install(numpy="2.4.0", keras="3.15.0")
    assert private_api.prepare(API, function) is None
    (line,) = lines(caplog)
    assert line.startswith(f"components.example.fast is not used, the public path runs instead: {reason}")


def test_other_errors_are_raised(install):
    install(numpy="2.4.0", keras="3.15.0")
    with pytest.raises(ZeroDivisionError):
        private_api.prepare(API, lambda: 1 / 0)


@pytest.mark.parametrize("api", DECLARED, ids=lambda api: api.module)
def test_the_installed_releases_are_supported(api, caplog):
    assert private_api.prepare(api, lambda: True), lines(caplog)
