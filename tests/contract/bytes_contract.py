"""What every store promises of keys, bytes and versions. Inherited by `StoreContract`; needs its fixtures."""

from __future__ import annotations

import time

import pytest
from tests.until import until

from eau2.errors import (
    Eau2Error,
    InvalidKey,
    InvalidOption,
    InvalidValue,
    KeyExists,
    KeyMissing,
    StoreClosed,
    ValueTooLarge,
    VersionConflict,
    WaitTimeout,
    WrongKind,
)

LIMIT = 64 << 20
NO_KEYS = {
    "number": 1,
    "none": None,
    "bytes": b"bytes",
    "tuple": ("a", 1),
    "empty": "",
    "513 bytes": "a" * 513,
    "514 bytes in 257 characters": "é" * 257,
    "line feed": "a\nb",
    "NUL": "a\x00b",
    "delete": "a\x7f",
    "C1 control": "a\x85",
    "lone surrogate": "\ud800",
}
KEYS = {
    "one character": "a",
    "512 bytes": "a" * 512,
    "512 bytes in 256 characters": "é" * 256,
    "slashes": "trips/2026/11",
    "a slash": "/",
    "dots": "..",
    "quotes": "a'b\"c;--",
    "a blank": " ",
    "wildcards": "per cent %_*?[a]",
    "last code point": "\U0010ffff",
    "astral": "日本語 \U0001f600",
}
EDGES = [
    "a",
    "a/",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "\U0010fffe",
    "\U0010ffff",
    "\U0010ffff\U0010ffff",
    "a\U0010ffff",
]


def single_key_verbs(store):
    return [
        lambda key: store.put(key, b"x"),
        lambda key: store.create(key, b"x"),
        lambda key: store.update(key, b"x"),
        store.get,
        store.frame,
        store.version,
        lambda key: store.wait(key, timeout_seconds=0),
        store.delete,
        store.exists,
        lambda key: store.put_many({key: b"x"}),
        lambda key: store.get_many([key]),
        lambda key: store.delete_many([key]),
        lambda key: store.put_file(key, __file__),
        lambda key: store.get_file(key, "never-written"),
    ]


class BytesContract:
    # -- put, get, versions -------------------------------------------------------------------------------------------

    def test_a_put_is_got(self, store):
        assert store.put("a", b"one") == 1
        assert store.get("a") == b"one"
        assert type(store.get("a")) is bytes

    def test_the_first_version_is_1_and_every_write_of_the_key_adds_one_or_more(self, store):
        versions = [
            store.put("a", b"1"),
            store.update("a", b"2"),
            store.put("a", b"2"),
            *store.put_many({"a": b"3"}).values(),
        ]
        assert versions[0] == 1
        assert versions == sorted(set(versions))
        assert store.version("a") == versions[-1]

    def test_versions_of_a_key_grow_across_its_deletion(self, store):
        last = store.put("a", b"1")
        for _ in range(3):
            assert store.delete("a") is True
            created = store.create("a", b"2")
            assert created > last
            last = created
        assert store.delete_many(["a"]) == 1
        assert store.put("a", b"3") > last

    def test_versions_of_one_key_are_its_own(self, store):
        for _ in range(5):
            store.put("a", b"")
        assert store.put("b", b"") == 1

    def test_bytes_come_back_as_they_were(self, store):
        for value in (b"", b"\x00", b"x" * 4095, b"x" * 4096, bytes(range(256)) * 1000):
            store.put("a", value)
            assert store.get("a") == value

    def test_whatever_is_like_bytes_is_copied(self, store):
        for kind in (bytes, bytearray, memoryview):
            source = bytearray(b"one")
            store.put("a", kind(source))
            source[:] = b"two"
            assert store.get("a") == b"one"

    def test_a_strided_memoryview_gives_its_own_bytes(self, store):
        store.put("a", memoryview(b"abcdef")[::2])
        assert store.get("a") == b"ace"

    def test_a_memoryview_of_wide_items_gives_its_bytes(self, store):
        store.put("a", memoryview(b"abcdefgh").cast("I"))
        assert store.get("a") == b"abcdefgh"

    @pytest.mark.slow
    def test_a_value_of_the_limit_is_kept_and_one_byte_more_is_refused_with_a_hint(self, store):
        value = bytes(LIMIT)
        store.put("a", value)
        for refused in (
            value + b"x",
            bytearray(LIMIT + 1),
            memoryview(bytes(LIMIT + 1)),
            memoryview(bytes(LIMIT + 4)).cast("I"),
        ):
            with pytest.raises(ValueTooLarge, match=r"67,108,86\d.*67,108,864.*put_file.*frame"):
                store.put("a", refused)
        assert store.get("a") == value
        assert store.version("a") == 1

    def test_what_is_neither_bytes_nor_table_is_refused_and_changes_nothing(self, store, subtests):
        store.put("a", b"kept")
        for value in ("text", 1, 1.5, None, object(), True, [1, 2], [], ["a"], {"a"}, b"x".hex):
            with subtests.test(value=repr(value)):
                with pytest.raises(InvalidValue):
                    store.put("a", value)
                with pytest.raises(InvalidValue):
                    store.create("b", value)
                assert (store.get("a"), store.version("a")) == (b"kept", 1)
                assert store.keys() == ["a"]

    def test_text_is_refused_with_what_to_do(self, store):
        with pytest.raises(InvalidValue, match=r"encode\(\)"):
            store.put("a", "text")

    # -- absence ------------------------------------------------------------------------------------------------------

    def test_what_is_absent_is_a_key_error_that_names_keys_near(self, store):
        store.put_many({"trips/2026": b"", "unlike": b""})
        for verb in (store.get, store.frame, store.version, lambda key: store.get_many(["unlike", key])):
            with pytest.raises(KeyError) as caught:
                verb("trips/2025")
            assert isinstance(caught.value, KeyMissing)
            assert "'trips/2025'" in str(caught.value)
            assert "did you mean 'trips/2026'?" in str(caught.value)

    def test_absence_in_an_empty_store_suggests_nothing(self, store):
        with pytest.raises(KeyMissing, match=r"^no value under 'a'$"):
            store.get("a")

    def test_a_message_about_absence_can_be_read_after_close(self, store):
        store.put("ab", b"")
        with pytest.raises(KeyMissing) as caught:
            store.get("aa")
        store.close()
        assert "'aa'" in str(caught.value)

    def test_a_default_stands_for_what_is_absent(self, store):
        store.put("there", b"value")
        for default in (None, b"else", 7, KeyMissing):
            assert store.get("a", default=default) is default
            assert store.get("there", default=default) == b"value"
            assert store.get_many(["a", "there"], default=default) == {"a": default, "there": b"value"}

    def test_exists_follows_put_and_delete(self, store):
        assert store.exists("a") is False
        store.put("a", b"")
        assert store.exists("a") is True
        store.delete("a")
        assert store.exists("a") is False

    def test_delete_says_whether_there_was_anything(self, store):
        assert store.delete("a") is False
        store.put("a", b"")
        assert store.delete("a") is True
        assert store.delete("a") is False
        with pytest.raises(KeyMissing):
            store.get("a")

    # -- conditions ---------------------------------------------------------------------------------------------------

    def test_create_refuses_where_something_is(self, store):
        assert store.create("a", b"1") == 1
        with pytest.raises(KeyExists, match=r"'a'.*version 1"):
            store.create("a", b"2")
        assert (store.get("a"), store.version("a")) == (b"1", 1)

    def test_update_refuses_where_nothing_is(self, store):
        for options in ({}, {"if_version": 1}):
            with pytest.raises(KeyMissing):
                store.update("a", b"1", **options)
        assert store.keys() == []
        store.put("a", b"1")
        store.delete("a")
        with pytest.raises(KeyMissing):
            store.update("a", b"1", if_version=1)
        assert store.keys() == []

    def test_update_changes_only_the_version_named(self, store):
        first = store.put("a", b"1")
        second = store.update("a", b"2", if_version=first)
        for stale in (first, second + 1, 10**6):
            with pytest.raises(VersionConflict, match=f"{second}.*{stale}") as caught:
                store.update("a", b"3", if_version=stale)
            assert caught.value.found == second
            assert (store.get("a"), store.version("a")) == (b"2", second)

    def test_delete_removes_only_the_version_named(self, store):
        with pytest.raises(KeyMissing):
            store.delete("a", if_version=1)
        first = store.put("a", b"1")
        second = store.put("a", b"2")
        with pytest.raises(VersionConflict) as caught:
            store.delete("a", if_version=first)
        assert caught.value.found == second
        assert store.get("a") == b"2"
        assert store.delete("a", if_version=second) is True
        assert not store.exists("a")

    def test_an_if_version_that_is_no_version_is_refused(self, store, subtests):
        store.put("a", b"1")
        for version in (0, -1, -2, True, 1.0, "1"):
            with subtests.test(version=repr(version)):
                with pytest.raises(InvalidOption):
                    store.update("a", b"2", if_version=version)
                with pytest.raises(InvalidOption):
                    store.delete("a", if_version=version)
                assert (store.get("a"), store.version("a")) == (b"1", 1)

    # -- names and their order ----------------------------------------------------------------------------------------

    def test_what_is_no_key_is_refused_by_every_verb(self, store, subtests):
        for what, key in NO_KEYS.items():
            with subtests.test(what):
                for verb in single_key_verbs(store):
                    with pytest.raises(InvalidKey) as caught:
                        verb(key)
                    assert isinstance(caught.value, (TypeError, ValueError))
                assert store.keys() == []

    def test_any_text_is_a_key(self, store, subtests):
        store.put("other", b"")
        for what, key in KEYS.items():
            with subtests.test(what):
                assert store.put(key, b"value") == 1
                assert store.get(key) == b"value"
                assert store.keys(key) == [key]
                assert store.delete(key)
                assert store.keys() == ["other"]

    def test_keys_that_look_alike_are_different(self, store):
        alike = ["\u00e9", "e\u0301", "e", "E", "e ", " e", "\uff45"]
        store.put_many({key: key.encode() for key in alike})
        assert {key: store.get(key) for key in alike} == {key: key.encode() for key in alike}
        assert store.keys() == sorted(alike)

    def test_keys_are_sorted_by_code_point(self, store):
        names = ["z", "a", "\uffff", "\U00010000", "\ue000", "\ud7ff", "aa", "a/b", "a b", "é", "A", "\U0010ffff", "ab"]
        for name in names:
            store.put(name, b"")
        assert store.keys() == sorted(names)  # Python orders by code point; UTF-16 would put U+10000 before U+E000

    def test_a_prefix_selects_exactly_what_starts_with_it(self, store, subtests):
        around = ["\ud7fe", "\ue000", "\ue000a", "\ue001", "b", "a0", "`", "é"]
        for edge in EDGES:
            with subtests.test(edge=ascii(edge)):
                store.delete_many(store.keys())
                more = {edge + end for end in ("", "a", "\U0010ffff", "\U0010ffffz", edge)}
                names = sorted({*more, edge[:-1] + "q", *around})
                store.put_many(dict.fromkeys(names, b""))
                assert store.keys(edge) == [name for name in names if name.startswith(edge)]
                assert store.keys("") == names

    def test_a_prefix_may_be_what_is_no_key(self, store):
        store.put("a", b"")
        assert store.keys("x" * 2000) == []
        for prefix in (None, 1, b"a"):
            with pytest.raises(InvalidKey):
                store.keys(prefix)

    def test_keys_are_those_of_now(self, store):
        store.put_many({"a": b"", "b": b"", "c": b""})
        store.delete("b")
        assert store.keys() == ["a", "c"]
        store.put("b", b"")
        assert store.keys() == ["a", "b", "c"]

    # -- many ---------------------------------------------------------------------------------------------------------

    def test_put_many_gives_each_key_its_version(self, store):
        before = store.put("a", b"")
        versions = store.put_many({"b": b"1", "a": b"2"})
        assert list(versions) == ["b", "a"]
        assert versions["b"] == 1
        assert versions["a"] > before
        assert store.get_many(["a", "b"]) == {"a": b"2", "b": b"1"}

    def test_a_bad_value_among_many_puts_none(self, store):
        store.put("a", b"old")
        for bad in ("text", 3, {"x": [1], "y": [1, 2]}):
            with pytest.raises(InvalidValue):
                store.put_many({"a": b"new", "f": {"x": [1]}, "bad": bad, "z": b"new"})
            assert store.keys() == ["a"]
            assert (store.get("a"), store.version("a")) == (b"old", 1)
            assert store.check().faults == ()

    def test_a_bad_key_among_many_does_nothing(self, store):
        store.put("a", b"old")
        with pytest.raises(InvalidKey):
            store.put_many({"a": b"new", "": b"new"})
        with pytest.raises(InvalidKey):
            store.delete_many(["a", ""])
        assert store.get("a") == b"old"

    def test_get_many_keeps_the_order_and_takes_any_iterable(self, store):
        store.put_many({name: name.encode() for name in "abc"})
        assert list(store.get_many(iter("cab"))) == ["c", "a", "b"]
        assert store.get_many([]) == {}
        assert store.get_many(["a", "a"]) == {"a": b"a"}

    def test_get_many_names_the_first_that_is_absent(self, store):
        store.put("a", b"")
        with pytest.raises(KeyMissing, match="'b'"):
            store.get_many(["a", "b", "c"])

    def test_get_many_and_delete_many_take_thousands_of_keys(self, store):
        values = {f"k{number:05}": str(number).encode() for number in range(5000)}
        store.put_many(values)
        assert store.keys() == list(values)
        assert store.get_many(list(values)) == values
        assert store.delete_many(values) == 5000
        assert store.keys() == []

    def test_delete_many_says_how_many_there_were(self, store):
        store.put_many({"a": b"", "b": b""})
        assert store.delete_many(["a", "x", "b", "y"]) == 2
        assert store.delete_many([]) == 0
        assert store.put_many({}) == {}

    def test_text_in_place_of_a_list_of_keys_is_refused(self, store):
        store.put("a", b"")
        for text in ("abc", b"bytes"):
            for verb in (store.get_many, store.delete_many):
                with pytest.raises(InvalidKey, match="list of keys"):
                    verb(text)
            assert store.exists("a")

    # -- waiting and closing ------------------------------------------------------------------------------------------

    def test_waiting_for_what_is_there_returns_at_once(self, store):
        store.put("a", b"1")
        assert store.wait("a", timeout_seconds=0) == b"1"

    def test_waiting_ends_with_the_time(self, store):
        start = time.monotonic()
        with pytest.raises(WaitTimeout, match=r"'a' within 0\.2 seconds") as caught:
            store.wait("a", timeout_seconds=0.2)
        assert 0.2 <= time.monotonic() - start < 30  # and not the 60 that are waited by default
        assert isinstance(caught.value, TimeoutError)

    def test_a_wait_has_a_time(self, store):
        for seconds in (-1, float("nan")):
            with pytest.raises(InvalidOption):
                store.wait("a", timeout_seconds=seconds)

    def test_a_closed_store_refuses_every_verb_and_closes_again(self, store):
        store.put("a", b"1")
        store.close()
        store.close()
        for verb in [*single_key_verbs(store), store.keys, lambda _: store.check(), lambda _: store.statistics()]:
            with pytest.raises(StoreClosed):
                verb("a")
        assert isinstance(repr(store), str)

    def test_what_was_put_is_there_when_opened_again(self, opener, store):
        store.put("a", b"1")
        version = store.put("a", b"2")
        store.put("gone", b"")
        store.delete("gone")
        store.close()
        with opener() as again:
            assert again.keys() == ["a"]
            assert (again.get("a"), again.version("a")) == (b"2", version)
            assert again.create("gone", b"") > 1

    def test_two_handles_see_each_other_at_once(self, opener, store):
        with opener() as other:
            for number in range(50):
                version = store.put("a", b"%d" % number)
                assert other.get("a") == b"%d" % number
                assert other.version("a") == version
                other.put("b", b"%d" % number)
                assert store.get_many(["a", "b"]) == {"a": b"%d" % number, "b": b"%d" % number}
                other.delete("b")
                assert not store.exists("b")
                assert store.keys() == ["a"]

    def test_the_repr_counts_keys_and_frames(self, store):
        store.put_many({"a": b"", "f": {"x": [1]}})
        assert "2 keys" in repr(store)
        assert "1 of them" in repr(store)

    def test_statistics_count_keys_frames_and_work(self, store):
        store.put_many({"a": b"", "f": {"x": [1]}})
        store.get("a")
        counts = store.statistics()
        assert (counts.keys, counts.frames, counts.chunks) == (2, 1, 1)
        assert counts.writes >= 2
        assert counts.gets >= 1

    def test_no_other_machine_joins_a_store_that_is_on_this_one_alone(self, store):
        with pytest.raises(InvalidOption, match="no other machine can join"):
            store.way_in()

    def test_members_are_live_and_the_epochs_say_how_that_came(self, store):
        until(lambda: all(one.state == "live" for one in store.members()))
        members = store.members()
        assert all(one.source and 0 < one.since <= time.time() for one in members)
        epochs = store.epochs()
        assert set(epochs[-1].members) == {one.name for one in members}
        assert [one.epoch for one in epochs] == sorted({one.epoch for one in epochs})
        assert all(one.why for one in epochs)
        store.close()
        for verb in (store.members, store.epochs):
            with pytest.raises(StoreClosed):
                verb()

    def test_every_error_is_one_sentence_that_names_the_key(self, store):
        store.put("there", b"")
        for verb in (
            lambda: store.get("the missing one"),
            lambda: store.create("there", b""),
            lambda: store.update("there", b"", if_version=9),
            lambda: store.frame("there"),
            lambda: store.put("there", "text"),
            lambda: store.wait("the missing one", timeout_seconds=0),
        ):
            with pytest.raises(Eau2Error) as caught:
                verb()
            assert "\n" not in str(caught.value)
            if not isinstance(caught.value, InvalidValue):
                assert "'there'" in str(caught.value) or "'the missing one'" in str(caught.value)

    def test_bytes_are_no_frame(self, store):
        store.put("a", b"12")
        with pytest.raises(WrongKind, match=r"'a' holds 2 bytes"):
            store.frame("a")
