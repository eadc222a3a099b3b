"""wordcount, linus and sor, over files and over what is stored."""

import pytest

import eau2 as library

TEXT = "the cat\tand the\ndog The\n"
COUNTS = {"words": 6, "distinct": 5, "top": [["the", 2], ["The", 1]]}


def test_words_of_a_file_are_counted_without_a_store(eau2, tmp_path):
    (tmp_path / "text").write_text(TEXT)
    assert eau2("wordcount", "text", "--top", "2", "--json").json == COUNTS
    text = eau2("wordcount", "text", "--top", "1").text
    assert "Different words: 5\n" in text
    assert text.splitlines()[-1].split() == ["2", "33.33%", "the"]
    assert not (tmp_path / "eau2-data").exists()


def test_words_of_bytes_a_file_and_a_frame_that_are_stored_are_counted_alike(eau2, tmp_path):
    (tmp_path / "text").write_text(TEXT)
    eau2("put", "bytes", stdin=TEXT.encode())
    eau2("put", "file", "--file", "text")
    with library.open(tmp_path / "eau2-data") as store:
        store.put("frame", {"word": TEXT.split()})
    for key in ("bytes", "file", "frame"):
        assert eau2("wordcount", key, "--top", "2", "--json").json == COUNTS


def test_a_text_without_words_has_none(eau2, tmp_path):
    (tmp_path / "blank").write_text(" \n\t\n")
    assert eau2("wordcount", "blank", "--json").json == {"words": 0, "distinct": 0, "top": []}
    assert eau2("wordcount", "blank").code == 0


@pytest.fixture
def network(tmp_path):
    """Linus (0) has project 0 with user 1, who has project 1 with user 2; one commit is of an unknown user."""
    (tmp_path / "users.sor").write_text("".join(f"<{i}><u{i}>\n" for i in range(4)))
    (tmp_path / "projects.sor").write_text("".join(f"<{i}><p{i}>\n" for i in range(3)))
    (tmp_path / "commits.sor").write_text("<0><0><3>\n<0><1><3>\n<1><1><3>\n<1><2><3>\n<2><99><0>\n")
    return ["users.sor", "projects.sor", "commits.sor"]


def degree(*counts):
    return dict(zip(["degree", "new_projects", "projects", "new_users", "users"], counts, strict=True))


LINUS = {
    "users": 4,
    "projects": 3,
    "commits": 5,
    "ignored_commits": 1,
    "degrees": [degree(1, 1, 1, 2, 2), degree(2, 1, 2, 1, 3), degree(3, 0, 2, 0, 3)],
}


def test_degrees_of_separation_over_files_and_over_frames(eau2, network, tmp_path):
    options = ["--user", "0", "--degrees", "3"]
    assert eau2("linus", *network, *options, "--json").json == LINUS
    assert not (tmp_path / "eau2-data").exists()
    for name in network:
        eau2("load", name.removesuffix(".sor"), name)
    assert eau2("linus", "users", "projects.sor", "commits", *options, "--json").json == LINUS
    text = eau2("linus", *network, *options).text
    assert "1 commit with an unknown id left out" in text
    assert [line.split() for line in text.splitlines()[-3:]] == [
        ["1", "1", "1", "2", "2"],
        ["2", "1", "2", "1", "3"],
        ["3", "0", "2", "0", "3"],
    ]


def test_a_user_that_is_not_there_is_said(eau2, network):
    assert "4967" in eau2("linus", *network).text


SOR = '<0><a><1.5>\n<1><"b c">\n<12><d><0.25>\n'


@pytest.mark.parametrize(
    ("options", "printed", "document"),
    [
        (["--print-col-type", "0"], "INT", {"type": "INT"}),
        (["-print_col_type", "2"], "FLOAT", {"type": "FLOAT"}),
        (["--print-col-idx", "1", "1"], '"b c"', {"value": "b c"}),
        (["-print_col_idx", "2", "0"], "1.5", {"value": 1.5}),
        (["--print-col-idx", "2", "1"], "", {"value": None}),
        (["--is-missing-idx", "2", "1"], "1", {"missing": True}),
        (["-is_missing_idx", "0", "0"], "0", {"missing": False}),
        (["-from", "1", "-print_col_idx", "0", "0"], "1", {"value": 1}),
        (["--from", "13", "--len", "100", "--print-col-idx", "0", "0"], "12", {"value": 12}),
    ],
)
def test_the_original_sor_command_line_is_served(eau2, tmp_path, options, printed, document):
    (tmp_path / "a.sor").write_text(SOR)
    assert eau2("sor", "a.sor", *options).text == printed + "\n"
    assert eau2("sor", "-f", "a.sor", *options).text == printed + "\n"
    assert eau2("sor", "a.sor", *options, "--json").json == document


def test_a_bool_is_0_or_1_and_long_text_is_not_cut(eau2, tmp_path):
    (tmp_path / "a.sor").write_text(f"<1><{'x' * 300}>\n")
    assert eau2("sor", "a.sor", "--print-col-idx", "0", "0").text == "1\n"
    assert eau2("sor", "a.sor", "--print-col-idx", "1", "0").text == f'"{"x" * 300}"\n'


def test_only_sor_has_the_spellings_of_the_original_tool(eau2):
    assert eau2("put", "a", "-print_col_type").code == 2
    assert eau2("put", "a", "--", "-print_col_type").code == 0
    assert eau2("get", "a").out == b"-print_col_type"
