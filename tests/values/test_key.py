import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.errors import Eau2Error, InvalidKey
from eau2.values.key import KEY_BYTES_MAX, check_key, prefix_end

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize(
    "name", ["a", "a/b c", "é" * 256, "x" * KEY_BYTES_MAX, "日本語", "\u00a0", "a.b", '"', "😀", "\u200b"]
)
def test_any_text_without_control_characters_is_a_key(name):
    assert check_key(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 513, "é" * 257, "a\nb", "\x00", "a\x7f", "\u0085", "\ud800", b"a", 1, None, 1.5, ["a"]]
)
def test_what_is_no_key_is_refused_by_a_typed_error(name):
    with pytest.raises(InvalidKey) as caught:
        check_key(name)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, Eau2Error)


@given(st.text(max_size=600))
def test_a_key_is_valid_exactly_by_the_rule(name):
    try:
        valid = 1 <= len(name.encode()) <= 512 and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name)
    except UnicodeEncodeError:
        valid = False
    try:
        check_key(name)
    except InvalidKey:
        assert not valid
    else:
        assert valid


@given(texts, st.lists(texts, max_size=10))
def test_the_end_of_a_prefix_bounds_exactly_the_texts_that_start_with_it(prefix, others):
    end = prefix_end(prefix)
    for text in [*others, *(prefix + other for other in others)]:
        assert text.startswith(prefix) == (text >= prefix and (end is None or text < end))


def test_prefixes_of_the_last_characters_and_before_surrogates_have_the_right_end():
    assert prefix_end("\U0010ffff") is None
    assert prefix_end("a\U0010ffff") == "b"
    assert prefix_end("\ud7ff") == "\ue000"
    assert prefix_end("") is None
