"""What requests mean, and which are refused: no sockets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2 import errors
from eau2.doors.http_requests import (
    Condition,
    Refused,
    bearer_of,
    check_sender,
    condition_of,
    is_known,
    key_of,
    path_of,
    role_wanted,
    status_of,
)
from eau2.doors.tokens import Role
from eau2.errors import InvalidKey, InvalidOption, VersionConflict
from eau2.values.key import KEY_BYTES_MAX

KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=100).filter(
    lambda key: len(key.encode()) <= KEY_BYTES_MAX
)


@given(KEYS)
def test_every_key_has_a_path(key):
    path = path_of(key)
    assert path.isascii()
    assert key_of(path.removeprefix("/keys/")) == key


@pytest.mark.parametrize("escaped", ["", "%FF", "%00", "a%0Ab", "%ED%A0%80", "a" * 513])
def test_what_is_no_key_is_said(escaped):
    with pytest.raises(InvalidKey):
        key_of(escaped)


def test_conditions():
    assert condition_of(None, None) == Condition()
    assert condition_of(None, "*") == Condition(absent=True)
    assert condition_of("*", None) == Condition(present=True)
    assert condition_of('"3"', None) == Condition(present=True, version=3)
    for wrong in (('"1", "2"', None), (None, '"1"'), ("*", "*"), ("1", None), ("", None)):
        with pytest.raises(InvalidOption):
            condition_of(*wrong)
    for foreign in ('"x"', '"0"', '""', '"99999999999999999999"', '"٣"'):
        with pytest.raises(VersionConflict):
            condition_of(foreign, None)
    assert [is_known(each, 3) for each in (None, '"3"', 'W/"3"', '"1", "3"', "*", '"2"', "3", '"3')] == [
        *(False, True, True, True, True),
        *(False, False, False),
    ]


def test_every_error_has_a_status_and_only_our_own_fault_is_500():
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.Eau2Error):
            error = kind("x", found=1) if kind is VersionConflict else kind("x")
            assert 400 <= status_of(error) < 600, name
    assert status_of(errors.Corrupt("x")) == 500
    assert status_of(errors.UnknownColumn("x")) == 400


@pytest.mark.parametrize(
    ("given_host", "refused"),
    [
        ("localhost", False),
        ("LocalHost:7480", False),
        ("127.0.0.1:7480", False),
        ("127.9.9.9", False),
        ("[::1]:7480", False),
        ("store.example", False),  # where it listens
        ("evil.example", True),
        ("localhost.evil.example", True),
        ("127.0.0.1.evil.example", True),
        ("10.0.0.1", True),
        ("localhost@evil.example", True),
        ("localhost:7480:1", True),
        ("[::1", True),
        ("", True),
        (None, False),  # no browser
    ],
)
def test_a_name_that_was_made_to_mean_this_machine_is_not_ours(given_host, refused):
    headers = {} if given_host is None else {"host": given_host}
    if refused:
        with pytest.raises(Refused) as raised:
            check_sender(headers, host="store.example", has_tokens=False)
        assert raised.value.status == 421
    else:
        check_sender(headers, host="store.example", has_tokens=False)
    check_sender(headers, host="0.0.0.0", has_tokens=True)


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"origin": "http://localhost:7480"}, False),
        ({"origin": "https://localhost:7480"}, False),
        ({"origin": "http://localhost:8000"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost:7480"}, False),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
    ],
)
def test_a_page_of_another_site_is_refused(headers, refused):
    for has_tokens in (False, True):
        if refused:
            with pytest.raises(Refused, match="another site"):
                check_sender({"host": "localhost:7480", **headers}, host="127.0.0.1", has_tokens=has_tokens)
        else:
            check_sender({"host": "localhost:7480", **headers}, host="127.0.0.1", has_tokens=has_tokens)


def test_what_is_wanted_for_a_request():
    assert role_wanted("GET", "/health") == role_wanted("GET", "/") == Role.NOTHING
    assert role_wanted("HEAD", "/keys/a") == role_wanted("POST", "/sql") == Role.READ
    assert role_wanted("PUT", "/keys/a") == role_wanted("DELETE", "/keys/a") == role_wanted("BREW", "/x") == Role.WRITE
    assert [bearer_of(each) for each in ("Bearer x", "bearer  x ", "Basic x", "Bearer", "x", "")] == [
        *("x", "x"),
        *(None, None, None, None),
    ]
