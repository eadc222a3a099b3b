"""Five rules are broken on purpose, one at a time: the runs under faults notice each. A check that finds nothing wrong
with a cluster that breaks its rules would find nothing wrong with one that keeps them."""

from __future__ import annotations

import pytest
from tests.cluster.faults import Faults, run
from tests.cluster.workload import Workload

from eau2.cluster.delivery import Delivery
from eau2.cluster.member import Member
from eau2.cluster.order import Order
from eau2.cluster.repair import Repair
from eau2.values.key import MARK

SEEDS_MAX = 400  # from the one given, which is shortly before the first that notices: the others take minutes


def acknowledge_before_the_replicas_have_it(patch):
    async def replicate(self, flight, done):
        """Leave it to repair."""

    patch.setattr(Delivery, "replicate", replicate)


def accept_an_old_epoch(patch):
    admit = Member.admit
    patch.setattr(Member, "same_epoch", lambda self, epoch: None)
    patch.setattr(Member, "admit", lambda self, epoch, **options: admit(self, self.view.epoch, **options))


def serve_without_a_lease(patch):
    """To be noticed this needs a member that only clients reach, for longer than its lease, and one who asks no other:
    so that is what goes wrong here, more often than in other runs."""

    def alone(self):
        name = self._member()
        links = [(name, other) for other in [*self._members, "coordinator"] if other != name]
        links += [(other, one) for one, other in links]
        self._tell(f"only clients reach {name}")
        self.world.cuts.update(links)
        self._later(self.chance.uniform(4.0, 7.0), self._heal, links)

    patch.setattr(Faults, "cut_coordinator", alone)
    patch.setattr(Faults, "cut_off", alone)
    act = Workload.act

    async def reading_one_key(self, client, count, pause_seconds):
        if client.name != "client-2":
            await act(self, client, count, pause_seconds)
            return
        for _ in range(count):
            await client._runtime.sleep(pause_seconds)
            await self.read(client, self.keys[:1])

    patch.setattr(Workload, "act", reading_one_key)
    admit = Member.admit

    def without(self, epoch, **options):
        self._lease_until = float("inf")
        admit(self, epoch, **options)

    patch.setattr(Member, "admit", without)


def publish_the_manifest_before_the_chunks(patch):
    async def have_done(self, flight, done):
        self._flight = flight
        self._note(flight.changes)
        await self.delivery.replicate(flight, done)
        self._member.node.store(list(flight.changes.records.values()))
        await self.delivery.publish(flight)
        await self._landed(flight)

    patch.setattr(Order, "_have_done", have_done)


def drop_a_copy_on_repair(patch):
    repair = Repair._repair

    async def dropping(self, view):
        whole = await repair(self, view)
        member = self._member
        for key, _, _ in await member.listing(view.epoch, member.name, "", 1000):
            others = [name for name in view.homes(key) if name != member.name]
            if others and not key.startswith(MARK):
                await member.at(others[0]).release(view.epoch, [key])
                break
        return whole

    patch.setattr(Repair, "_repair", dropping)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("broken", "first"),
    [
        (acknowledge_before_the_replicas_have_it, 0),
        (accept_an_old_epoch, 0),
        (serve_without_a_lease, 70),
        (publish_the_manifest_before_the_chunks, 200),
        (drop_a_copy_on_repair, 0),
    ],
    ids=lambda given: given.__name__ if callable(given) else "",
)
def test_a_broken_rule_is_noticed(monkeypatch, broken, first):
    broken(monkeypatch)
    for seed in range(first, first + SEEDS_MAX):
        verdict = run(seed)
        if verdict.wrong:
            print(f"noticed by seed {seed}: {verdict.wrong.splitlines()[0]:.300}")
            return
    pytest.fail(f"nothing was wrong in {SEEDS_MAX} runs")
