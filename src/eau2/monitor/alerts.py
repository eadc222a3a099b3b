"""Alerts: rules are looked at every few seconds, and what they find is kept, told and forgotten again.

Of several servers of a store one does it. It also keeps, in the store:

eau2/metrics           a frame: the figures of the last hour or so
eau2/metrics/server    which server does it, and until when
eau2/alerts            what holds now, as JSON: what other servers show, and where the next one goes on
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from eau2.errors import Eau2Error
from eau2.frame.frame import Frame
from eau2.monitor.actions import Actions
from eau2.monitor.asking import Asking, Found
from eau2.monitor.duty import Duty
from eau2.monitor.readings import Readings, see
from eau2.monitor.rules import Action, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.monitor.readings import Seen
    from eau2.monitor.rules import Rules
    from eau2.store.store import Store

METRICS, ALERTS = "eau2/metrics", "eau2/alerts"
PENDING, FIRING = "pending", "firing"
ALERTS_MAX = 5000
_DUTY_ROUNDS, _DUTY_SECONDS_MIN = 4, 15.0  # after which another server takes over
_SHARE = 20  # a look, or a write, that took long is not done again for that many times as long
_STOP_SECONDS = 0.5
_UNSEEN = Rule("eau2 cannot see everything", "", Action())  # ours: what the look at the store could not see


@dataclass(frozen=True, slots=True)
class Alert:
    """What a rule has found, as long as it holds. Times are seconds since 1970."""

    rule: str
    labels: tuple[tuple[str, str], ...]  # names and values of what is text in the row: which node, say
    state: str  # "pending": it does not hold for `for_seconds` yet; "firing"
    since: float  # when it was found first
    value: float | None  # the first number of the row, as it is now
    error: str = ""  # why the rule could not be looked at: then that is the alert
    acted: float | None = None  # when the action was begun last
    outcome: str = ""  # what came of it: "logged", "answered 200", "exit 0", "failed: ..."


Name = tuple[str, tuple[tuple[str, str], ...]]


class Alerts:
    """Looks at `store` by `rules` until `close`, unless another server does. Thread-safe, but for `look`.

    log: as `eau2.doors.log.log`. clock: as `time.time`. runs: a test calls `look` itself. The store is not closed.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        *,
        log: Callable[..., None],
        clock: Callable[[], float] = time.time,
        runs: bool = True,
    ) -> None:
        self._store, self._rules, self._log, self._clock = store, rules, log, clock
        self._asking = Asking()
        self._readings = Readings(rules.keep_seconds)
        self._duty = Duty(store)
        self._pause = rules.every_seconds  # before the next look
        self._has_duty = False
        self._write_at = 0.0  # not before
        self._lock = threading.Lock()  # guards the two below
        self._alerts: dict[Name, Alert] = {}
        self._told = b""  # what the store has of them
        self._actions = Actions(log)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eau2-alerts", daemon=True)
        if runs:
            self._thread.start()

    def __enter__(self) -> Alerts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Alerts: {len(self._rules.rules)} rules, {len(self.now())} alerts>"

    def now(self) -> tuple[Alert, ...]:
        """Return what holds now, in the order of rules and labels."""
        with self._lock:
            return tuple(self._alerts[name] for name in sorted(self._alerts))

    def close(self) -> None:
        """End within a second; another server may take over at once. A look that a store holds up ends when that is
        closed. Idempotent."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        else:
            self._rest()
        self._actions.close()

    # -- looking ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self.look()
            except Exception as error:  # a fault of ours, or a store that was closed: the next look may do
                if not self._ended.is_set():
                    self._log("failed", by="alerts", error=repr(error))
            self._pause = max(self._rules.every_seconds, _SHARE * (time.monotonic() - began))
            self._ended.wait(self._pause)
        self._rest()

    def _rest(self) -> None:
        """Leave the duty to others."""
        if self._has_duty:
            self._has_duty = False
            with contextlib.suppress(Eau2Error):
                self._duty.end()

    def look(self) -> None:
        """Look once: take the figures, ask the rules, begin what is to be done, and keep it all in the store."""
        now = self._clock()
        if not self._is_ours(now):
            with self._lock:
                self._alerts = {(one.rule, one.labels): one for one in alerts_of(self._store)}
            return
        seen = see(self._store)
        self._readings.add(now, seen.readings)
        self._asking.have(self._readings.latest, self._readings.kept)
        self._step(self._found(seen), now)
        self._keep(now)

    def _is_ours(self, now: float) -> bool:
        had = self._has_duty
        with contextlib.suppress(Eau2Error):  # of a store that does not answer nobody can know: it stays as it was
            self._has_duty = self._duty.has(now, max(_DUTY_SECONDS_MIN, _DUTY_ROUNDS * self._pause))
        if self._has_duty and not had:
            self._take_over()
        return self._has_duty

    def _take_over(self) -> None:
        """Go on from what another server, or ours before, has kept."""
        with contextlib.suppress(Eau2Error):
            kept = self._store.get(METRICS, default=None)
            if isinstance(kept, Frame):
                self._readings.restore(kept.to_arrow())
            with self._lock:
                self._alerts = {(one.rule, one.labels): one for one in alerts_of(self._store)}

    def _found(self, seen: Seen) -> dict[Name, tuple[Rule, Found, str]]:
        """Return what each rule finds, or why it finds nothing. A rule that fails leaves its alerts as they were."""
        found: dict[Name, tuple[Rule, Found, str]] = {}
        if seen.trouble:
            found[_UNSEEN.name, ()] = _UNSEEN, Found((), None), seen.trouble
        for rule in self._rules.rules:
            try:
                rows = self._asking.rows(rule.when)
            except Eau2Error as error:
                found[rule.name, ()] = rule, Found((), None), error.message
                with self._lock:
                    before = [alert for alert in self._alerts.values() if alert.rule == rule.name and not alert.error]
                rows = [Found(alert.labels, alert.value) for alert in before]
            for row in rows:
                if len(found) < ALERTS_MAX:
                    found.setdefault((rule.name, row.labels), (rule, row, ""))
        return found

    def _step(self, found: dict[Name, tuple[Rule, Found, str]], now: float) -> None:
        """Compare with what held before: what is new begins, what has held long enough fires, what is gone is over."""
        begun: list[tuple[Rule, Alert]] = []
        rules = {rule.name: rule for rule in (*self._rules.rules, _UNSEEN)}
        with self._lock:
            over = [one for name, one in self._alerts.items() if name not in found and one.rule in rules]
            alerts: dict[Name, Alert] = {}
            for name, (rule, row, error) in found.items():
                before = self._alerts.get(name)
                alert = before or Alert(rule.name, row.labels, PENDING, now, None)
                alert = replace(alert, value=row.value, error=error)
                if now - alert.since >= rule.for_seconds:
                    alert = replace(alert, state=FIRING)
                    if alert.acted is None or now - alert.acted >= rule.repeat_seconds:
                        alert = replace(alert, acted=now)
                        begun.append((rule, alert))
                alerts[name] = alert
            self._alerts = alerts
        for rule, alert in begun:
            self._act(rule, alert, FIRING)
        for alert in over:
            if alert.acted is not None:
                self._act(rules[alert.rule], alert, "over")

    def _act(self, rule: Rule, alert: Alert, state: str) -> None:
        document: dict[str, Any] = {
            "rule": alert.rule,
            "state": state,
            "labels": dict(alert.labels),
            "value": alert.value,
            "since": alert.since,
            "problem": alert.error,
        }
        if not self._actions.begin(rule.action, document, lambda outcome: self._came_to(alert, outcome)):
            self._came_to(alert, "failed: left out, too many actions wait")

    def _came_to(self, alert: Alert, outcome: str) -> None:
        if outcome.startswith("failed"):
            self._log("failed", by="alerts", rule=alert.rule, labels=dict(alert.labels), error=outcome)
        name = alert.rule, alert.labels
        with self._lock:
            if name in self._alerts:
                self._alerts[name] = replace(self._alerts[name], outcome=outcome)

    # -- in the store -------------------------------------------------------------------------------------------------

    def _keep(self, now: float) -> None:
        """Write figures and alerts, as far as the store lets us: alerts are looked for all the same."""
        with contextlib.suppress(Eau2Error):
            told = json.dumps([asdict(alert) for alert in self.now()]).encode()
            if told != self._told:
                self._store.put(ALERTS, told)
                self._told = told
            if now >= self._write_at:
                began = self._clock()
                self._store.put(METRICS, self._readings.kept)
                self._write_at = now + _SHARE * (self._clock() - began)


def alerts_of(store: Store) -> tuple[Alert, ...]:
    """Return the alerts that hold now in `store`, as the server that looks for them has written them; () where none
    does. Raises as `Store.get`."""
    try:
        value = store.get(ALERTS, default=b"[]")
        found = json.loads(value) if isinstance(value, bytes) else []
        return tuple(Alert(**each | {"labels": tuple((name, text) for name, text in each["labels"])}) for each in found)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, Eau2Error):
            raise
        return ()  # what somebody else has put there
