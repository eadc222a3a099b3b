"""Rules are read from a file, or refused with their name, their line and what is wrong."""

import math

import pytest

from eau2.errors import InvalidOption
from eau2.monitor.asking import Asking, Found
from eau2.monitor.rules import RULES_MAX, Action, Rule, Rules, parsed_rules, read_rules

WHEN = "select node, value from metrics where name = 'keys' and value > 10"


@pytest.fixture(scope="module")
def asking():
    return Asking()


def one(**given):
    """Return the text of a file with one rule, in which `given` stands in place of what is right."""
    right = {"name": '"full"', "when": f'"{WHEN}"', "action": '"log"'} | given
    return "[[rule]]\n" + "".join(f"{key} = {value}\n" for key, value in right.items() if value)


def test_a_file_has_rules_and_how_often_they_are_looked_at(tmp_path, asking):
    (tmp_path / "rules.toml").write_text(
        f'''
        every_seconds = 2
        keep_seconds = 600

        [[rule]]
        name = "full"
        when = """
        {WHEN}
        """
        for_seconds = 30
        repeat_seconds = 3600
        action = {{ webhook = "https://alerts.example:8443/hook?key=1", timeout_seconds = 2.5 }}

        [[rule]]
        name = "empty"
        when = "select 1 as found"
        action = {{ command = ["notify", "--urgent"] }}
        '''
    )
    found = read_rules(tmp_path / "rules.toml", asking.check)
    hook = Action(webhook="https://alerts.example:8443/hook?key=1", timeout_seconds=2.5)
    assert (found.every_seconds, found.keep_seconds) == (2.0, 600.0)
    first, second = found.rules
    assert (first.name, first.when.strip(), first.action, first.for_seconds, first.repeat_seconds) == (
        *("full", WHEN, hook),
        *(30.0, 3600.0),
    )
    assert second == Rule("empty", "select 1 as found", Action(command=("notify", "--urgent")))
    assert second.repeat_seconds == math.inf


def test_a_file_without_rules_has_none(asking):
    assert parsed_rules("", "f", asking.check) == Rules(())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (one(name=""), "f:1: rule 1: name is missing"),
        (one(name="3"), "f:2: rule 1: name is a text, not 3"),
        (one(name='"a\\nb"'), "f:2: rule 'a\\nb': a name has at most 100 characters, on one line"),
        (one(when=""), "f:1: rule 'full': when is missing"),
        (one(when='"select valu from metrics"'), "f:3: rule 'full': no column 'valu'"),
        (one(when='"select 1 from trips"'), "f:3: rule 'full': no frame 'trips'"),
        (one(when='"drop table metrics"'), "f:3: rule 'full': not a query"),
        (one(when='"selec"'), "f:3: rule 'full': SQL: Expected"),
        (one(action=""), "f:1: rule 'full': an action is one of these"),
        (one(action='"mail"'), "f:4: rule 'full': an action is one of these"),
        (one(action='{ webhook = "http://a", command = ["b"] }'), "f:4: rule 'full': an action is one of these"),
        (one(action='{ webhook = "file:///etc/passwd" }'), "f:4: rule 'full': a webhook is http"),
        (one(action='{ webhook = "http://user:word@a/" }'), "f:4: rule 'full': a webhook is http"),
        (one(action='{ webhook = "http://a:99999/" }'), "f:4: rule 'full': a webhook is http"),
        (one(action="{ command = [] }"), "f:4: rule 'full': a command is a list of words, the program first"),
        (one(action='{ command = ["a", 3] }'), "f:4: rule 'full': a command is a list of words, the program first"),
        (one(action='{ command = ["a"], timeout_seconds = 61 }'), "f:4: rule 'full': timeout_seconds is 0.1 to 60 sec"),
        (one(for_seconds="-1"), "f:5: rule 'full': for_seconds is 0 to"),
        (one(for_seconds="true"), "f:5: rule 'full': for_seconds is 0 to"),
        (one(repeat_seconds="nan"), "f:5: rule 'full': repeat_seconds is 1 to"),
        (one(every="1"), "f:5: rule 'full': there is no 'every' here"),
        (one() + "\n" + one(), "f:7: rule 'full': another rule has that name"),
        ("every_seconds = 0.5\n" + one(), "f:1: every_seconds is 1 to"),
        ("\nkeep_seconds = 2", "f:2: keep_seconds is 5 to"),
        ("[rule]\nname = 3", "f:1: rules are tables, each under a [[rule]] of its own"),
        ("rule = [{ name = 3 }]", "f: rule 1: name is a text, not 3"),
        ("[[rule]\n", "f is no TOML: Expected ']]' at the end of an array declaration (at line 1"),
        ("".join(one(name=f'"{n}"') for n in range(RULES_MAX + 1)), f"f:1: {RULES_MAX + 1} rules are over the limit"),
    ],
)
def test_a_rule_that_is_wrong_is_refused_with_its_line(asking, text, said):
    with pytest.raises(InvalidOption) as refused:
        parsed_rules(text, "f", asking.check)
    assert refused.value.message.startswith(said)
    assert refused.value.hint


def test_text_in_a_row_says_which_alert_it_is_and_the_first_number_is_its_value(asking):
    assert asking.rows("select 'a' as node, true as late, null as gone, 2 as value, 3.5 as more") == [
        Found((("node", "a"), ("late", "True")), 2.0)
    ]
    assert asking.rows("select null as nothing") == [Found((), None)]
    assert asking.rows("select node from metrics") == []
