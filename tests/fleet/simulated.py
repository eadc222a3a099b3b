"""A cluster of any size in which a run goes down the tree, while nodes die, return, and messages come twice.

Time goes in steps: a message takes one, and that a node is dead is noticed after some. What a node keeps on its disk is
`begun`; all else goes when it dies.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter

from eau2.fleet.tree import FAN_OUT, Relay

NOTICED_STEPS = 3
CALLER = "caller"


class Place:
    """The caller, or a node: whom it asks for whom."""

    def __init__(self, name):
        self.name = name
        self.alive = True
        self.life = 0  # how often it was started
        self.asked_by = []  # [who asks, in which life; its relay; whether it has said that this is all]
        self.begun = 0  # on disk


class Simulation:
    def __init__(self, count, *, seed=0, fan_out=FAN_OUT, deaths=0.0, returns=0.0, repeats=0.0):
        self.chance = random.Random(seed)
        self.fan_out, self.repeats = fan_out, repeats
        self.names = [f"node-{number:04}" for number in range(count)]
        self.places = {name: Place(name) for name in [CALLER, *self.names]}
        self.runs = Counter()  # how often each node has run it
        self.sent = Counter()  # messages by who sends them, up and down
        self.asked = Counter()  # others that each has asked
        self.heard = {}  # by the caller: what came of each node
        self.begun_at = {}
        self.now = 0
        self._events, self._order = [], itertools.count()
        for name in self.names:
            if self.chance.random() < deaths:
                dies = self.chance.randrange(1, 12)
                self._at(dies, self._die, name)
                if self.chance.random() < returns:
                    self._at(dies + self.chance.randrange(1, 12), self._return, name)
        self.root = Relay(self.names, fan_out)

    def run(self):
        self._ask(CALLER, 0, self.root, self.root.begin())
        while self._events:
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        return self

    def _at(self, step, action, *arguments):
        heapq.heappush(self._events, (step, next(self._order), action, arguments))

    def _send(self, sender, action, *arguments):
        self.sent[sender] += 1
        times = 2 if self.chance.random() < self.repeats else 1
        for _ in range(times):
            self._at(self.now + self.chance.randint(1, times), action, *arguments)

    # -- down -------------------------------------------------------------------------------------------------------

    def _ask(self, name, life, relay, branches):
        for branch in branches:
            self.asked[name] += 1
            self._send(name, self._asked, (name, life, relay), branch)

    def _asked(self, asker, branch):
        place = self.places[branch.name]
        if not place.alive:
            self._at(self.now + NOTICED_STEPS, self._lost, asker, branch.name)
            return
        if any(mine[0][2] is asker[2] for mine in place.asked_by):
            return  # it came twice: a job has an id
        if not place.begun:
            place.begun = 1
            self.runs[branch.name] += 1
            self.begun_at[branch.name] = self.now
        relay = Relay(branch.below, self.fan_out)
        mine = [asker, relay, False]
        place.asked_by.append(mine)
        self._at(self.now + 1, self._ended, branch.name, place.life, mine)
        self._ask(branch.name, place.life, relay, relay.begin())

    # -- up ---------------------------------------------------------------------------------------------------------

    def _ended(self, name, life, mine):
        place = self.places[name]
        if place.alive and place.life == life:
            self._say(place, mine, name, "ended")
            self._look(place, mine)

    def _say(self, place, mine, about, what):
        self._send(place.name, self._told, mine[0], place.name, about, what)

    def _told(self, asker, child, about, what):
        """`child` says to who has asked it: that `about` has ended, or (None) that this is all."""
        name, life, relay = asker
        place = self.places[name]
        if not place.alive or place.life != life:
            return
        if about is None:
            self._go_on(asker, relay.lost(child))
        elif relay.heard(about):
            self._up(asker, about, what)

    def _up(self, asker, about, what):
        name, _, relay = asker
        if name == CALLER:
            assert about not in self.heard
            self.heard[about] = what
            return
        mine = self._mine(name, relay)
        self._say(self.places[name], mine, about, what)
        self._look(self.places[name], mine)

    def _mine(self, name, relay):
        return next(mine for mine in self.places[name].asked_by if mine[1] is relay)

    def _look(self, place, mine):
        _, relay, is_over = mine
        if relay.is_done and not is_over:
            mine[2] = True
            self._at(self.now + 1, self._finish, place, place.life, mine)

    def _finish(self, place, life, mine):
        if place.alive and place.life == life:
            self._send(place.name, self._told, mine[0], place.name, None, "")

    # -- what breaks ------------------------------------------------------------------------------------------------

    def _die(self, name):
        place = self.places[name]
        place.alive = False
        for (asker, life, relay), _, _ in place.asked_by:
            self._at(self.now + NOTICED_STEPS, self._lost, (asker, life, relay), name)
        place.asked_by = []

    def _return(self, name):
        self.places[name].alive = True
        self.places[name].life += 1

    def _lost(self, asker, name):
        place_name, life, relay = asker
        place = self.places[place_name]
        if not place.alive or place.life != life or not relay.is_asked(name):
            return
        if relay.heard(name):
            self._up(asker, name, "lost")
        self._go_on(asker, relay.lost(name))

    def _go_on(self, asker, branches):
        name, life, relay = asker
        self._ask(name, life, relay, branches)
        if name != CALLER:
            self._look(self.places[name], self._mine(name, relay))
