"""put, get, delete, keys and wait."""

import json
import threading
import time

import pytest


def test_a_value_from_an_argument_comes_back_byte_for_byte(eau2):
    put = eau2("put", "config", "threshold=3 é")
    assert (put.code, put.text) == (0, "config: 14 B, version 1\n")
    assert eau2("get", "config").out == "threshold=3 é".encode()


def test_a_value_from_standard_input_may_be_any_bytes(eau2):
    data = bytes(range(256)) * 10
    assert eau2("put", "raw", stdin=data).code == 0
    assert eau2("get", "raw").out == data


def test_an_empty_argument_is_a_value_and_not_standard_input(eau2):
    assert eau2("put", "nothing", "", stdin=b"other").code == 0
    assert eau2("get", "nothing").out == b""


def test_a_key_may_begin_with_a_dash_after_two_dashes(eau2):
    assert eau2("put", "--", "--json", "x").code == 0
    assert eau2("get", "--", "--json").out == b"x"


def test_a_file_comes_back_to_a_pipe_and_to_a_path(eau2, tmp_path):
    (tmp_path / "book").write_bytes(b"\x00\xffbook")
    document = eau2("put", "book", "--file", "book", "--json").json
    assert document == {"key": "book", "kind": "file", "version": 1, "bytes": 6}
    assert eau2("get", "book").out == b"\x00\xffbook"
    document = eau2("get", "book", "--output", "copy", "--json").json
    assert document == {"key": "book", "kind": "file", "version": 1, "bytes": 6, "path": "copy"}
    assert (tmp_path / "copy").read_bytes() == b"\x00\xffbook"
    assert eau2("get", "book", "--json").json == {"key": "book", "kind": "file", "version": 1, "bytes": 6, "path": None}


def test_bytes_too_go_to_a_path(eau2, tmp_path):
    eau2("put", "a", "hello")
    assert eau2("get", "a", "-o", "copy").text == "copy: 5 B\n"
    assert (tmp_path / "copy").read_bytes() == b"hello"


def test_get_as_json_has_text_or_base64(eau2):
    eau2("put", "a", "hé")
    eau2("put", "b", stdin=b"\xff\x00")
    common = {"kind": "bytes", "version": 1}
    assert eau2("get", "a", "--json").json == {"key": "a", **common, "bytes": 3, "text": "hé", "base64": None}
    assert eau2("get", "b", "--json").json == {"key": "b", **common, "bytes": 2, "text": None, "base64": "/wA="}


def test_new_and_if_version_guard_a_put(eau2):
    assert eau2("put", "lock", "me", "--new").code == 0
    assert eau2("put", "lock", "you", "--new").code == 1
    assert eau2("put", "lock", "still me", "--if-version", "1", "--json").json["version"] == 2
    assert eau2("get", "lock").out == b"still me"
    refused = eau2("put", "lock", "you", "--if-version", "1")
    assert refused.code == 1
    assert "version 2, not 1" in refused.error
    assert eau2("put", "absent", "you", "--if-version", "1").code == 1


def test_delete_says_what_was_there_and_exits_1_when_something_was_not(eau2):
    for key in "abc":
        eau2("put", key, key)
    assert eau2("delete", "a", "--json").json == {"deleted": ["a"], "absent": []}
    ran = eau2("delete", "b", "nope", "b", "--json")
    assert (ran.code, ran.json) == (1, {"deleted": ["b"], "absent": ["nope"]})
    assert eau2("keys").text == "c\n"


def test_delete_of_an_invalid_key_deletes_nothing(eau2):
    eau2("put", "a", "1")
    assert eau2("delete", "a", "").code == 2
    assert eau2("keys").text == "a\n"


def test_keys_are_sorted_and_none_is_no_error(eau2, trips):
    eau2("put", "tri/x", "1")
    assert eau2("keys").text == "tri/x\ntrips\n"
    assert eau2("keys", "tri/", "--json").json == ["tri/x"]
    assert (eau2("keys", "zzz").code, eau2("keys", "zzz").text, eau2("keys", "zzz", "--json").json) == (0, "", [])


def test_long_keys_have_kind_version_rows_and_size(eau2, trips, tmp_path):
    (tmp_path / "f").write_bytes(bytes(1500))
    eau2("put", "bytes", "12345")
    eau2("put", "file", "--file", "f")
    table = eau2("keys", "--long").text.splitlines()
    assert table[0].split() == ["key", "kind", "version", "rows", "size"]
    assert table[1].split() == ["bytes", "bytes", "1", "5", "B"]
    assert table[2].split() == ["file", "file", "1", "1.50", "kB"]
    assert table[3].split()[:4] == ["trips", "frame", "1", "100"]
    rows = eau2("keys", "--long", "--json").json
    assert rows[:2] == [
        {"key": "bytes", "kind": "bytes", "version": 1, "rows": None, "bytes": 5},
        {"key": "file", "kind": "file", "version": 1, "rows": None, "bytes": 1500},
    ]
    assert rows[2].keys() == rows[0].keys()


def test_the_store_is_an_option_before_or_after_or_the_environment(eau2, tmp_path, monkeypatch):
    eau2("--store", "one", "put", "a", "1")
    eau2("put", "--store", "two", "a", "2")
    monkeypatch.setenv("EAU2_STORE", "three")
    eau2("put", "a", "3")
    monkeypatch.delenv("EAU2_STORE")
    eau2("put", "a", "0")
    found = [eau2("get", "a", "--store", name).out for name in ("one", "two", "three", "eau2-data")]
    assert found == [b"1", b"2", b"3", b"0"]


def test_json_may_come_before_the_command(eau2):
    eau2("put", "a", "1")
    assert eau2("--json", "keys").json == ["a"]


def test_wait_returns_what_another_puts_even_when_there_was_no_store_yet(eau2, tmp_path):
    import eau2 as library

    def put_later():
        time.sleep(0.3)
        with library.open(tmp_path / "eau2-data") as store:
            time.sleep(0.2)
            store.put("result", b"done")

    thread = threading.Thread(target=put_later)
    thread.start()
    ran = eau2("wait", "result", "--timeout", "60")
    thread.join()
    assert (ran.code, ran.out) == (0, b"done")


@pytest.mark.parametrize("made", [False, True], ids=["no store", "a store"])
def test_wait_gives_up_in_time(eau2, made):
    if made:
        eau2("put", "other", "1")
    begun = time.monotonic()
    ran = eau2("wait", "result", "--timeout", "0.2", "--json")
    assert time.monotonic() - begun < 30  # and not the 60 that are waited by default
    assert (ran.code, json.loads(ran.error)["error"]) == (1, "WaitTimeout")
