"""Gossip: whatever is lost, late, twice or in another order, all come to know what each said last."""

import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eau2.metrics.gossip import FORGET_SECONDS, NODES_MAX, PARTNERS, Digest, Gossip, News, Said, exchange
from eau2.metrics.report import Metric

NAMES = [f"node-{number}" for number in range(12)]


def figures(value, *, name="load"):
    return [Metric(name, value, "", "One.", "gauge"), Metric("gets", 2 * value, "keys", "Two.", "counter")]


def known(gossip, now):
    return {report.node: (report.metrics[0].value, report.age_seconds) for report in gossip.reports(now)}


def a_round(gossips, now, chance, *, members=None, loses=0.0):
    for gossip in gossips.values():
        gossip.forget(now)
    for name in chance.sample(list(gossips), len(gossips)):
        for other in gossips[name].partners(members or list(gossips)):
            if other not in gossips:
                continue  # it is dead
            asking, asked = gossips[name], gossips[other]
            if chance.random() >= loses:
                answer = asked.asked(asking.question(now), now)
                if chance.random() >= loses:
                    asking.hear(answer.news, now)
                    if chance.random() >= loses:
                        asked.hear(asking.lacking(answer.wanted, now), now)


@settings(max_examples=40)
@given(st.integers(), st.integers(2, 12), st.floats(0, 0.5))
def test_all_come_to_know_what_each_said_last_whatever_is_lost(seed, count, loses):
    chance = random.Random(seed)
    gossips = {name: Gossip(name, chance=chance) for name in NAMES[:count]}
    for said in range(3):
        for number, gossip in enumerate(gossips.values()):
            gossip.say(figures(10 * said + number), 0.0)
        a_round(gossips, 0.0, chance, loses=loses)
    for now in range(60):
        a_round(gossips, float(now), chance, loses=loses)
    for gossip in gossips.values():
        assert known(gossip, 60.0) == {name: (20.0 + number, 60.0) for number, name in enumerate(gossips)}


@given(st.integers(), st.integers(1, 40))
def test_news_in_any_order_and_any_number_of_times_come_to_the_same(seed, many):
    chance = random.Random(seed)
    speaker, heard = Gossip("a"), []
    for number in range(many):
        speaker.say(figures(number, name=chance.choice(["load", "other"])), float(number))
        heard.append(speaker.news(Digest({}, frozenset()), float(number)))
    listener, latest = Gossip("b"), 0.0
    for news in [*chance.choices(heard, k=2 * many), heard[-1], *chance.sample(heard, many)]:
        listener.hear(news, 100.0)
        (report,) = listener.reports(100.0)
        assert report.metrics[0].value >= latest
        latest = report.metrics[0].value
    assert latest == many - 1


@given(st.integers(), st.integers(2, 8), st.lists(st.floats(0, 20), min_size=1, max_size=8))
def test_an_age_is_that_of_the_figures_whoever_tells_them_and_whatever_their_clocks_say(seed, count, pauses):
    chance = random.Random(seed)
    offsets = {name: chance.uniform(0, 1e6) for name in NAMES[:count]}
    gossips = {name: Gossip(name, chance=chance) for name in offsets}
    gossips["node-0"].say(figures(1), offsets["node-0"])
    now, teller = 0.0, "node-0"
    for pause, other in zip(pauses, chance.choices(NAMES[:count], k=len(pauses)), strict=True):
        now += pause
        answer = gossips[teller].answer(gossips[other].digest(), now + offsets[teller])
        gossips[other].hear(answer.news, now + offsets[other])
        age = known(gossips[other], now + offsets[other])["node-0"][1]
        assert age == pytest.approx(now, abs=1e-6)
        teller = other


@settings(max_examples=30)
@given(st.integers(), st.integers(3, 10), st.integers(1, 3))
def test_who_has_left_is_forgotten_by_all_and_does_not_come_back(seed, count, gone):
    chance = random.Random(seed)
    gossips = {name: Gossip(name, chance=chance) for name in NAMES[:count]}
    members, now = list(gossips), 0.0
    for _ in range(8):
        for gossip in gossips.values():
            gossip.say(figures(1), now)
        a_round(gossips, now, chance)
        now += 1.0
    left = {name: gossips.pop(name) for name in members[-min(gone, count - 1) :]}
    said = now
    while now < said + FORGET_SECONDS + 20:
        now += 7.0
        for gossip in gossips.values():
            gossip.say(figures(2), now)
        a_round(gossips, now, chance, members=members)
        for gossip in gossips.values():
            for name, (_, age) in known(gossip, now).items():
                assert age < FORGET_SECONDS or name not in left
    for gossip in gossips.values():
        assert known(gossip, now).keys() == gossips.keys()
    for gossip in gossips.values():  # nor by way of one who was cut off all the time
        for cut_off in left.values():
            answer = gossip.answer(cut_off.digest(), now)
            gossip.hear(cut_off.lacking(answer.wanted, now), now)
            assert known(gossip, now).keys() == gossips.keys()


def test_who_is_started_again_is_believed_though_its_clock_went_back():
    old, other = Gossip("a", started=1_000), Gossip("b")
    for value in range(5):
        old.say(figures(value), 0.0)
    exchange(other, old, 0.0)
    again = Gossip("a", started=10)
    again.say(figures(77), 50.0)
    exchange(again, other, 50.0)
    assert known(other, 50.0)["a"] == (4.0, 50.0)
    again.say(figures(78), 51.0)
    exchange(again, other, 51.0)
    assert known(other, 51.0)["a"] == (78.0, 0.0)


def test_what_figures_mean_travels_once():
    speaker, listener = Gossip("a"), Gossip("b")
    speaker.say(figures(1), 0.0)
    first = speaker.answer(listener.digest(), 0.0).news
    listener.hear(first, 0.0)
    speaker.say(figures(2), 1.0)
    second = speaker.answer(listener.digest(), 1.0).news
    assert (len(first.meanings), len(second.meanings)) == (1, 0)
    listener.hear(second, 1.0)
    assert known(listener, 1.0) == {"a": (2.0, 0.0)}
    speaker.say(figures(3, name="other"), 2.0)
    exchange(listener, speaker, 2.0)
    assert listener.reports(2.0)[0].metrics[0].name == "other"
    listener.forget(2.0)
    assert len(listener.digest().meanings) == 1  # what nobody says any more is not kept


def test_what_both_have_does_not_travel():
    one, other = Gossip("a"), Gossip("b")
    one.say(figures(1), 0.0)
    other.say(figures(2), 0.0)
    exchange(one, other, 0.0)
    answer = other.answer(one.digest(), 1.0)
    assert answer.news == News((), {})
    assert not one.wants(answer)
    assert len(pickle.dumps(answer)) < 400


def test_news_without_their_meaning_wait_until_it_is_known():
    speaker, listener = Gossip("a"), Gossip("b")
    speaker.say(figures(1), 0.0)
    news = speaker.answer(listener.digest(), 0.0).news
    listener.hear(News(news.reports, {}), 0.0)
    assert listener.reports(0.0) == ()
    exchange(listener, speaker, 0.0)
    assert known(listener, 0.0) == {"a": (1.0, 0.0)}


def test_the_number_of_nodes_that_are_known_is_bounded():
    listener, meaning = Gossip("a"), (("load", "", "One.", "gauge"),)
    listener.say(figures(0), 0.0)
    many = tuple(Said(f"node-{number}", 1, 0.0, "m", bytes(8)) for number in range(NODES_MAX + 50))
    listener.hear(News(many, {"m": meaning}), 0.0)
    assert len(listener.reports(0.0)) == NODES_MAX
    listener.say(figures(1), 1.0)
    assert known(listener, 1.0)["a"] == (1.0, 0.0)


def test_where_there_are_many_nodes_each_says_something_less_often():
    few, many = Gossip("a"), Gossip("a")
    for gossip, count in ((few, 10), (many, 1000)):
        news = tuple(Said(f"node-{number}", 1, 0.0, "m", bytes(8)) for number in range(count))
        gossip.hear(News(news, {"m": (("load", "", "One.", "gauge"),)}), 0.0)
        assert gossip.is_due(0.0)
        gossip.say(figures(0), 0.0)
    assert few.is_due(1.0)
    assert not few.is_due(0.5)
    assert not many.is_due(4.9)
    assert many.is_due(15.1)


@given(st.integers(), st.integers(0, 12))
def test_partners_are_others_each_once_and_of_one_seed_the_same(seed, count):
    gossip = Gossip("node-3", chance=random.Random(seed))
    chosen = gossip.partners(NAMES[:count])
    assert len(set(chosen)) == len(chosen) == min(PARTNERS, len(set(NAMES[:count]) - {"node-3"}))
    assert "node-3" not in chosen
    assert chosen == Gossip("node-3", chance=random.Random(seed)).partners(NAMES[:count])


@pytest.mark.parametrize(("count", "asked_by", "asks"), [(4, 0, 2), (4, 1, 1), (4, 2, 0), (4, 3, 0), (12, 3, 1)])
def test_who_was_asked_since_the_last_round_asks_so_many_fewer_and_others(count, asked_by, asks):
    gossip = Gossip("node-0")
    askers = NAMES[1 : 1 + asked_by]
    for name in askers:
        gossip.asked(Gossip(name).question(0.0), 0.0)
    chosen = gossip.partners(NAMES[:count])
    assert len(chosen) == asks
    assert not {"node-0", *askers} & set(chosen)
    assert len(gossip.partners(NAMES[:count])) == PARTNERS  # nobody has asked it since


def test_of_few_nodes_who_asks_brings_all_that_is_new_and_need_not_be_asked_for_it():
    few, other = {name: Gossip(name) for name in NAMES[:4]}, Gossip("node-9")
    for value, gossip in enumerate(few.values()):
        gossip.say(figures(value), 0.0)
        exchange(few["node-0"], gossip, 0.0)
        exchange(other, gossip, 0.0)
    for value, gossip in enumerate(few.values()):
        gossip.say(figures(10 + value), 1.0)
        exchange(few["node-0"], gossip, 1.0)
    answer = other.asked(few["node-0"].question(1.5), 1.5)
    assert not few["node-0"].wants(answer)
    assert known(other, 1.5) == {name: (10.0 + value, 0.5) for value, name in enumerate(few)}
    assert few["node-0"].question(60.0).brought == ()  # by then all have it


def test_of_many_nodes_who_asks_brings_only_what_it_says_itself():
    gossip = Gossip("node-0")
    gossip.say(figures(1), 0.0)
    for name in NAMES[1:]:
        gossip.say(figures(1), 0.0, node=name)
    assert [said.node for said in gossip.question(0.0).brought] == ["node-0"]


def test_reports_come_in_natural_order_of_names():
    gossip = Gossip("")
    for name in ("node-10", "node-2", "node-1"):
        gossip.say(figures(1), 0.0, node=name)
    assert [report.node for report in gossip.reports(0.0)] == ["node-1", "node-2", "node-10"]
