"""What a job says is heard once and whole, in whatever order the calls for it arrive."""

import pickle

import pytest

from eau2.remote.work import Work


class Silent:
    """Work that says only what the test has it say."""

    capacity = 1

    def take(self, thing): ...

    def end(self): ...


@pytest.fixture
def job():
    """A job: `job.hear(number)` is a call for what it says, `job.say` has it say something."""

    class Job:
        def begin(self, order, say):
            self.say = say
            return Silent()

        def hear(self, number):
            return work.hear_job("job", number, 30.0, 1000)

    job = Job()
    work = Work("node-0", {"test": job.begin})
    work.begin_job("job", "test", pickle.dumps(None))
    yield job
    work.close()


def heard(call):
    said, error = call.result(0)
    assert error is None
    return [pickle.loads(part) for part, _ in said]


def test_a_call_that_comes_again_has_the_same_answer(job):
    job.say("a")
    assert heard(job.hear(1)) == ["a"]
    assert heard(job.hear(1)) == ["a"]
    waiting = job.hear(2)
    again = job.hear(2)
    assert (heard(waiting), heard(again)) == ([], [])
    job.say("b")
    assert heard(job.hear(3)) == ["b"]


@pytest.fixture
def told(job):
    """A job that has answered three calls."""
    for number in (1, 2, 3):
        job.say(number)
        assert heard(job.hear(number)) == [number]
    return job


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_copy_of_a_call_that_comes_late_takes_nothing(told, late):
    told.hear(late)
    told.say("next")
    assert heard(told.hear(4)) == ["next"]


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_copy_of_a_call_that_comes_late_ends_no_other(told, late):
    waiting = told.hear(4)
    assert told.hear(late).done()
    told.say("next")
    assert heard(waiting) == ["next"]
