"""Who was refused is known, also after a kill, and however often: without taking room from anything else."""

from eau2.fleet.refusals import REFUSALS_MAX, Refusal, Refusals


def a_refusal(number, text="date"):
    return Refusal(f"{number:013d}-0a", float(number), "ann", "desk", "command", text, "not allowed")


def test_it_is_noted_once_and_found_again(tmp_path):
    refusals = Refusals(tmp_path)
    for number in (1, 2, 2, 3):
        refusals.note(a_refusal(number))
    with open(tmp_path / "refused.ndjson", "ab") as file:
        file.write(b'{"id": "cut sho')
    for found in (refusals, Refusals(tmp_path)):
        assert found.newest(2) == [a_refusal(3), a_refusal(2)]
    again = Refusals(tmp_path)
    again.note(a_refusal(4))
    again.note(a_refusal(5))
    assert Refusals(tmp_path).newest(1) == [a_refusal(5)]


def test_a_flood_keeps_the_newest_in_little_room(tmp_path):
    refusals = Refusals(tmp_path)
    for number in range(4 * REFUSALS_MAX):
        refusals.note(a_refusal(number, text="\udc80" * 100_000 if number % 100 == 0 else "x"))
    for found in (refusals, Refusals(tmp_path)):
        kept = found.newest(10 * REFUSALS_MAX)
        assert (len(kept), kept[0].time, kept[-1].time) == (REFUSALS_MAX, 4 * REFUSALS_MAX - 1, 3 * REFUSALS_MAX)
    assert (tmp_path / "refused.ndjson").stat().st_size < 400_000
