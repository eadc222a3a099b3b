"""The text format, by the rules that its description states: read here as strictly as they are written."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from eau2.metrics.prometheus import exposition
from eau2.metrics.report import Metric, Report

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
HELP = re.compile(rf"# HELP ({NAME}) ((?:[^\\\n]|\\\\|\\n)*)")
TYPE = re.compile(rf"# TYPE ({NAME}) (counter|gauge|histogram|summary|untyped)")
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} (NaN|[+-]Inf|[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def read(text):
    """Return what each family is: its type, its sentence, and the values by labels. Asserts the format's rules."""
    assert text == "" or text.endswith("\n")
    families, current = {}, None
    for line in text.split("\n")[:-1]:
        if found := HELP.fullmatch(line):
            current = found[1]
            assert current not in families, "the lines of one figure are one group, with one HELP"
            families[current] = {"help": unescaped(found[2]), "type": None, "values": {}}
        elif found := TYPE.fullmatch(line):
            assert found[1] == current
            assert families[current]["type"] is None, "one TYPE"
            assert not families[current]["values"], "before the first sample"
            families[current]["type"] = found[2]
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            assert found[1] == current
            label = unescaped(found[2].partition('="')[2][:-1])
            assert label not in families[current]["values"], "labels are unique in a figure"
            families[current]["values"][label] = float(found[3].replace("Inf", "inf"))
    return families


def unescaped(text):
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "\\": "\\", '"': '"'}[found[1]], text)


names = st.from_regex(r"[a-z][a-z0-9]{0,3}(_[a-z0-9]{1,3}){0,2}", fullmatch=True)
metrics = st.builds(
    Metric,
    names,
    st.floats(),
    st.sampled_from(["", "bytes"]),
    st.text(max_size=20),
    st.sampled_from(["gauge", "counter"]),
)
reports = st.lists(
    st.builds(Report, st.text(max_size=8), st.floats(0, 1e6), st.lists(metrics, max_size=5).map(tuple)), max_size=5
)


@settings(max_examples=40)
@given(reports)
def test_whatever_is_said_is_in_the_format_and_each_value_is_told_once(said):
    families = read(exposition(said))
    for report in said:
        assert report.node in families["eau2_report_age_seconds"]["values"]
    for name, family in families.items():
        assert family["type"] in ("counter", "gauge", "untyped")
        assert name.startswith("eau2_")
        assert family["values"]
        if family["type"] == "counter":
            assert name.endswith("_total")
    for report in said:
        for metric in report.metrics:
            total = "_total" if metric.kind == "counter" and not metric.name.endswith("_total") else ""
            assert report.node in families[f"eau2_{metric.name}{total}"]["values"]


def test_names_kinds_sentences_and_labels_are_as_prometheus_has_them():
    gets, age = Metric("gets", 12.0, "keys", 'Keys "looked" up.\\', "counter"), 1.5
    odd = Metric("disk_bytes", 0.25, "bytes", "Two\nlines.", "gauge")
    assert exposition([Report('no"de\\1\n', age, (gets, odd))]) == (
        "# HELP eau2_report_age_seconds Seconds since the node said what its other figures are.\n"
        "# TYPE eau2_report_age_seconds gauge\n"
        'eau2_report_age_seconds{node="no\\"de\\\\1\\n"} 1.5\n'
        '# HELP eau2_gets_total Keys "looked" up.\\\\ [keys]\n'
        "# TYPE eau2_gets_total counter\n"
        'eau2_gets_total{node="no\\"de\\\\1\\n"} 12\n'
        "# HELP eau2_disk_bytes Two\\nlines.\n"
        "# TYPE eau2_disk_bytes gauge\n"
        'eau2_disk_bytes{node="no\\"de\\\\1\\n"} 0.25\n'
    )


def test_one_figure_of_several_nodes_is_one_group_and_of_two_kinds_untyped():
    one = Report("a", 0.0, (Metric("x_total", 1.0, "", "X.", "counter"), Metric("y", 2.0, "", "Y.", "gauge")))
    two = Report("b", 0.0, (Metric("y", 3.0, "", "Y.", "gauge"), Metric("x_total", 4.0, "", "X.", "gauge")))
    families = read(exposition([one, two]))
    assert families["eau2_y"] == {"help": "Y.", "type": "gauge", "values": {"a": 2.0, "b": 3.0}}
    assert families["eau2_x_total"] == {"help": "X.", "type": "untyped", "values": {"a": 1.0, "b": 4.0}}


def test_large_whole_numbers_keep_all_their_digits():
    family = read(exposition([Report("a", 0.0, (Metric("bytes", float(2**52 + 1), "", "", "gauge"),))]))["eau2_bytes"]
    assert family["values"]["a"] == 2**52 + 1


def test_nothing_said_is_nothing():
    assert exposition([]) == ""
